//! How much goes at a time: as the windows, whole segments, records and whoever waits for more allow.

use crate::Position;
use crate::connection::Connection;
use crate::recovery::Doubt;

/// What may be sent of new data.
pub(crate) struct Offer {
    pub(crate) bytes: u64,
    /// Whether a FIN ends it.
    pub(crate) fin: bool,
}

impl Connection {
    /// Bytes that the congestion window still allows; at least a segment if nothing is under way.
    pub(crate) fn window_room(&self) -> u64 {
        // A SYN that is under way is none of the window's business (RFC 6928 §2).
        let syn = u64::from(!self.state.is_synchronised());
        let pipe = self.pipe().saturating_sub(syn);
        let room = self.window.bytes.saturating_sub(pipe);
        if pipe == 0 { room.max(self.window.segment) } else { room }
    }

    /// Payload of a segment that also carries the reports now owed.
    pub(crate) fn segment_bytes_now(&self) -> u64 {
        let blocks = if !self.send.sack {
            0
        } else {
            let room = if self.clock.on { 3 } else { 4 };
            (self.receive.held_stretches() + usize::from(self.receive.owes_report())).min(room)
        };
        let reports = if blocks > 0 { 4 + 8 * blocks as u64 } else { 0 };
        // RFC 9293 §3.8.6.2.1: no more than half of the largest window, or a peer with a small buffer
        // would be asked to take more than it ever offers.
        let half = match self.send.window_max {
            0..=536 => self.send.window_max.max(1),
            max => max / 2,
        };
        self.window.segment.saturating_sub(reports).min(half).max(1)
    }

    /// Most bytes of a super-segment: whole segments.
    fn unit_bytes(&self, segment: u64) -> u64 {
        whole_segments(u64::from(self.config.super_segment_bytes), segment)
    }

    /// Most bytes of a super-segment, as Linux has it. No more than half of the window: two are
    /// under way then, and the acknowledgment of one fetches the next. No more than the path takes in a
    /// millisecond: on slow ones, what shares the way with it need not wait for a whole window.
    pub(crate) fn burst_bytes(&self, segment: u64) -> u64 {
        let unit = self.unit_bytes(segment);
        if unit == segment {
            return unit;
        }
        let (window, least) = (self.window.bytes, u64::from(self.config.burst_segments_min));
        let smoothed_ns = self.rtt.smoothed_ns().unwrap_or(1).max(1);
        // Slow start doubles the window in a round trip.
        let rate = window.saturating_mul(2 * 1_000_000) / smoothed_ns;
        whole_segments(unit.min(window / 2).min(rate.max(least * segment)), segment)
    }

    /// Remembers new data that is no multiple of a segment (Nagle).
    pub(crate) fn note_small(&mut self, end: Position, bytes: u64, segment: u64) {
        if !bytes.is_multiple_of(segment) || bytes == 0 {
            self.send.small = end;
        }
    }

    /// How much new data may go, and whether it is worth a segment.
    pub(crate) fn offer(&mut self, now_ns: u64, start: Position, segment: u64) -> Option<Offer> {
        let unsent = self.send.written - start.max(self.send.initial + 1);
        let fin_due = self.send.fin && start <= self.send.written;
        if unsent == 0 && !fin_due {
            return None;
        }
        let edge = self.map.start().max(self.send.initial + 1) + self.send.window;
        let open = edge - start;
        if open < segment.min(unsent + u64::from(fin_due)) && self.map.is_empty() {
            self.arm_persist(now_ns);
        }
        let room = self.window_room();
        let mut limit = open.min(room).min(self.burst_bytes(segment));
        if self.recovery.frto == Doubt::Tested {
            // RFC 5682 §2.1, step 2b: two segments bring the answer.
            let sent = start - self.recovery.high.min(start);
            limit = limit.min((2 * segment).saturating_sub(sent));
        }
        let part = self.unsent_record();
        let mut bytes = part.min(limit);
        if bytes < part || !self.may_send_small(start + bytes, segment, bytes) {
            bytes -= bytes % segment;
        }
        let fin = fin_due && bytes == unsent && open > bytes;
        if bytes == 0 && !(fin && unsent == 0) {
            if unsent > 0 && open >= segment.min(unsent) && room < segment.min(unsent) {
                self.note_usage(true);
            }
            if unsent > 0 && self.map.is_empty() {
                // Held back for the application's sake, but not for ever.
                self.arm_persist(now_ns);
            }
            return None;
        }
        // FIN alone has no weight.
        Some(Offer { bytes, fin })
    }

    /// Bytes not sent yet, up to the end of a record.
    pub(crate) fn unsent_record(&self) -> u64 {
        let start = self.map.end();
        self.send.records.next_after(start).map_or(self.unsent(), |end| end - start)
    }

    /// Whether what ends at `end` may go although its last segment is not full (RFC 9293 §3.7.4 and
    /// §3.8.6.2.1): nothing follows anyway, the application wants it so, or no other small segment
    /// is under way.
    ///
    /// MUST-60: what this holds back leaves when the persist timer expires, whoever asked for it.
    fn may_send_small(&self, end: Position, segment: u64, bytes: u64) -> bool {
        if bytes.is_multiple_of(segment) {
            return true;
        }
        let last = self.send.fin && end == self.send.written;
        let urgent = self.send.urgent.is_some_and(|urgent| urgent > self.map.end());
        let small_under_way = self.send.small > self.map.start();
        let held = self.send.cork || self.send.more;
        let flushed = end <= self.send.flush;
        let ends = end < self.send.written && self.send.records.is_end(end);
        last || urgent || flushed || ends || (!held && (self.send.no_delay || !small_under_way))
    }

    /// A connection that was idle does not know the path any more (RFC 5681 §4.1): the window halves
    /// for every time-out that passed, down to the initial one (RFC 2861).
    pub(crate) fn restart_after_idle(&mut self, now_ns: u64) {
        let may_send = self.unsent() > 0 && self.send.window > 0;
        if !self.map.is_empty() || !may_send || !self.config.restart_after_idle {
            return;
        }
        let idle_ns = now_ns.saturating_sub(self.usage.last_sent_ns);
        let timeout_ns = self.rtt.timeout_ns(&self.rto_bounds()).max(1);
        if idle_ns < timeout_ns || self.rtt.smoothed_ns().is_none() {
            return;
        }
        let halvings = (idle_ns / timeout_ns).min(60) as u32;
        let initial = crate::congestion::Window::initial(self.window.segment).bytes;
        let used = self.window.bytes;
        self.window.threshold = self.window.threshold.max(used / 4 * 3);
        self.window.bytes = (used >> halvings).max(initial.min(used));
        self.usage.last_sent_ns = now_ns;
        self.usage.flight_max = 0;
    }

    /// Remembers how much of the congestion window is in use.
    pub(crate) fn note_usage(&mut self, limited: bool) {
        let flight = self.map.in_flight();
        let usage = &mut self.usage;
        if self.map.start() >= usage.until
            || limited
            || (!usage.limited && flight > usage.flight_max)
        {
            usage.limited = limited;
            usage.flight_max = flight;
            usage.until = self.map.end();
        }
    }
}

/// `bytes` rounded down to whole segments, but one at least.
pub(crate) const fn whole_segments(bytes: u64, segment: u64) -> u64 {
    let whole = bytes - bytes % segment;
    if whole == 0 { segment } else { whole }
}

#[cfg(test)]
mod tests {
    use base_wire::tcp_flag;

    use crate::{Config, Connection, Identity, Transmit};

    const MILLISECOND_NS: u64 = 1_000_000;

    /// What leaves at once of a large write on a path of such a round-trip time.
    fn bursts(rtt_ns: u64) -> Vec<Transmit> {
        let config = Config { super_segment_bytes: 65_000, ..Config::default() };
        let identity = |number| Identity { initial_sequence: number, timestamp_offset: 0 };
        let mut ours = Connection::connect(1, config.clone(), identity(1));
        let syn = ours.poll_transmit(1).unwrap().segment;
        let mut peer = Connection::accept(1, config, identity(2), &syn).unwrap();
        ours.on_segment(1 + rtt_ns, &peer.poll_transmit(1).unwrap().segment);
        ours.write(1 << 20, false).unwrap();
        std::iter::from_fn(|| ours.poll_transmit(1 + rtt_ns)).collect()
    }

    #[test]
    fn no_burst_is_more_than_half_of_the_window() {
        let sizes: Vec<u32> =
            bursts(MILLISECOND_NS / 10).iter().map(|burst| burst.segment.payload_bytes).collect();
        assert_eq!(sizes, [5 * 1448; 2]);
    }

    #[test]
    fn a_slow_path_gets_two_segments_at_a_time() {
        let bursts = bursts(100 * MILLISECOND_NS);
        assert!(bursts.iter().all(|burst| burst.segment.payload_bytes == 2 * 1448));
        assert_eq!(bursts.len(), 5);
    }

    #[test]
    fn a_burst_is_what_the_path_takes_in_a_millisecond_while_its_window_doubles() {
        // Twice ten segments in five milliseconds.
        let bursts = bursts(5 * MILLISECOND_NS);
        let sizes: Vec<u32> = bursts.iter().map(|burst| burst.segment.payload_bytes).collect();
        assert_eq!(sizes, [4 * 1448, 4 * 1448, 2 * 1448]);
    }

    #[test]
    fn a_burst_is_pushed_and_a_segment_in_the_midst_of_a_stream_is_not() {
        let bursts = bursts(100 * MILLISECOND_NS);
        let pushed: Vec<bool> =
            bursts[0].frames().map(|frame| frame.segment.has(tcp_flag::PSH)).collect();
        assert!(bursts[0].segment.has(tcp_flag::PSH));
        assert_eq!(pushed, [false, true]);
    }
}
