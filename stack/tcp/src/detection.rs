//! What arrived, and what therefore was lost (RFC 8985, RFC 6582).
//!
//! With selective acknowledgments, time decides: a segment is lost if one that was sent enough later has
//! arrived (RACK). Without them, three duplicates do.

use crate::Position;
use crate::Segment;
use crate::connection::{Connection, TICK_NS};
use crate::recovery::Phase;
use crate::send_map::Entry;

/// RFC 8985 §5.2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rack {
    pub(crate) sent_ns: u64,
    pub(crate) end: Position,
    pub(crate) rtt_ns: u64,
    /// Highest byte that arrived.
    pub(crate) highest: Position,
    pub(crate) reordering: bool,
    /// The most that something was overtaken by, in bytes.
    pub(crate) distance: u64,
    pub(crate) multiplier: u64,
    pub(crate) persist: u8,
    pub(crate) duplicate_round: Option<Position>,
}

/// What an acknowledgment brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Bytes cumulatively acknowledged.
    pub(crate) acked: u64,
    /// Bytes acknowledged in either way for the first time.
    pub(crate) delivered: u64,
    /// Bytes selectively acknowledged for the first time.
    pub(crate) sacked: u64,
    /// Something that was sent only once, before the phase began.
    pub(crate) original: bool,
    /// Something that was sent after the phase began arrived out of order.
    pub(crate) beyond: bool,
    /// Cumulatively acknowledged: something sent more than once.
    pub(crate) ambiguous: bool,
    pub(crate) oldest_ns: Option<u64>,
    pub(crate) newest_ns: Option<u64>,
    pub(crate) sacked_ns: Option<u64>,
    /// The peer got something twice.
    pub(crate) duplicate: bool,
    /// RFC 5681 §2: an acknowledgment that acknowledges nothing new and says nothing else.
    pub(crate) pure_duplicate: bool,
}

/// Duplicates that mean a loss (RFC 5681 §3.2).
const DUPLICATES: u32 = 3;

impl Rack {
    pub(crate) const fn new(start: Position) -> Self {
        Self {
            sent_ns: 0,
            end: start,
            rtt_ns: 0,
            highest: start,
            reordering: false,
            distance: 0,
            multiplier: 1,
            persist: 16,
            duplicate_round: None,
        }
    }

    /// Something arrived that was sent at `sent_ns` (RFC 8985 §6.2, steps 1 to 3); `before` is the highest
    /// byte that earlier acknowledgments told of. What one tells of together may have arrived in order.
    fn arrived(
        &mut self,
        now_ns: u64,
        start: Position,
        entry: &Entry,
        before: Position,
        min_rtt_ns: u64,
        echo_is_older: bool,
    ) {
        self.highest = self.highest.max(entry.end);
        if entry.end < before && entry.is_first() {
            self.reordering = true;
            self.distance = self.distance.max(before - start);
        }
        let rtt_ns = now_ns.saturating_sub(entry.sent_ns);
        if !entry.is_first() && (rtt_ns < min_rtt_ns || echo_is_older) {
            // More likely an answer to the first transmission.
            return;
        }
        self.rtt_ns = rtt_ns;
        if (entry.sent_ns, entry.end) > (self.sent_ns, self.end) {
            (self.sent_ns, self.end) = (entry.sent_ns, entry.end);
        }
    }
}

impl Connection {
    /// Updates the send map.
    pub(crate) fn take_in(&mut self, now_ns: u64, segment: &Segment, ack: Position) -> News {
        let mut news = News::default();
        let una = self.map.start();
        let sack = self.send.sack;
        let mut blocks = segment.options.sack.as_slice().iter().filter(|_| sack).peekable();
        if let Some(first) = blocks.peek() {
            let range = una.nearest(first.0)..una.nearest(first.1);
            if self.is_duplicate_report(segment, ack, &range) {
                blocks.next();
                news.duplicate = true;
                self.note_duplicate(&range);
            }
        }
        let mut rack = self.recovery.rack;
        let highest = rack.highest;
        let (high, min_rtt_ns) = (self.recovery.high, self.rtt.min_ns().unwrap_or(0));
        let echo = segment.options.timestamps.filter(|_| self.clock.on).map(|clocks| clocks.echo);
        let initial = self.send.initial;
        let (offset, again) = (self.clock.offset, |entry: &Entry| !entry.is_first());
        let older = |entry: &Entry| {
            let sent = ((entry.sent_ns / TICK_NS) as u32).wrapping_add(offset);
            again(entry) && echo.is_some_and(|echo| (echo.wrapping_sub(sent) as i32) < 0)
        };
        for block in blocks {
            let range = una.nearest(block.0)..una.nearest(block.1);
            if range.start >= range.end || range.end > self.map.end() || range.end <= ack {
                self.counts.impossible_sacks += u64::from(range.end > self.map.end());
                continue;
            }
            let mut before = range.start.max(una);
            self.map.sack(range, |start, entry| {
                let bytes = entry.end - start.max(before);
                before = entry.end;
                news.sacked += bytes;
                news.delivered += bytes;
                news.original |= entry.is_first() && entry.end <= high;
                news.beyond |= entry.end > high;
                if entry.is_first() {
                    news.sacked_ns = news.sacked_ns.max(Some(entry.sent_ns));
                }
                rack.arrived(now_ns, start, entry, highest, min_rtt_ns, older(entry));
            });
        }
        self.map.acknowledge(ack, |bytes, entry| {
            news.delivered += bytes;
            news.original |= entry.is_first() && entry.end <= high;
            if entry.is_first() {
                news.oldest_ns =
                    Some(news.oldest_ns.map_or(entry.sent_ns, |at| at.min(entry.sent_ns)));
                news.newest_ns = news.newest_ns.max(Some(entry.sent_ns));
            } else {
                news.ambiguous = true;
            }
            let start = entry.end.before(bytes);
            if start == initial && news.sacked > 0 {
                // What the peer took to answer our SYN is not the round trip of data that was sent after it.
                return;
            }
            rack.arrived(now_ns, start, entry, highest, min_rtt_ns, older(entry));
        });
        news.acked = self.map.start() - una;
        self.recovery.rack = rack;
        news
    }

    /// Whether the first block tells of something that arrived twice (RFC 2883 §4): it lies below the
    /// acknowledgment, or within the second block.
    fn is_duplicate_report(
        &self,
        segment: &Segment,
        ack: Position,
        range: &core::ops::Range<Position>,
    ) -> bool {
        let within = |outer: &(u32, u32)| {
            ack.nearest(outer.0) <= range.start && range.end <= ack.nearest(outer.1)
        };
        range.start < range.end
            && (range.end <= ack || segment.options.sack.as_slice().get(1).is_some_and(within))
            // Older than anything that could have been under way: not believed.
            && range.end > self.send.initial
            && ack - range.start <= self.send.window_max.max(1 << 16)
    }

    fn note_duplicate(&mut self, range: &core::ops::Range<Position>) {
        let segment = self.window.segment.max(1);
        if let Some(undo) = &mut self.recovery.undo
            && range.end > undo.from
        {
            let segments = (range.end - range.start).div_ceil(segment) as u32;
            undo.again = undo.again.saturating_sub(segments);
        }
        // RFC 8985 §6.2, step 4: what came twice was sent again too early; wait longer.
        let rack = &mut self.recovery.rack;
        if rack.duplicate_round.is_none_or(|round| self.map.start() >= round) {
            rack.duplicate_round = Some(self.map.end());
            rack.multiplier = (rack.multiplier + 1).min(64);
            rack.persist = 16;
        }
    }

    /// Takes a round-trip time (RFC 6298 §3, RFC 7323 §4); what was sent twice gives none, unless an echo
    /// says which was answered (RFC 9293 MUST-18).
    pub(crate) fn measure(&mut self, now_ns: u64, segment: &Segment, news: &News) {
        let since = |sent_ns: u64| now_ns.saturating_sub(sent_ns);
        let flight = (self.map.end() - self.map.start()) + news.acked;
        // Every second segment is acknowledged.
        let samples = flight.div_ceil(2 * self.window.segment.max(1));
        let echo = segment.options.timestamps.filter(|_| self.clock.on && news.acked > 0);
        if let (Some(oldest), Some(newest), false) =
            (news.oldest_ns, news.newest_ns, news.ambiguous)
        {
            self.rtt.sample(now_ns, since(oldest), samples);
            self.rtt.fastest(now_ns, since(newest));
        } else if let Some(sent_ns) = news.sacked_ns.filter(|_| !news.ambiguous) {
            self.rtt.sample(now_ns, since(sent_ns), samples);
        } else if news.duplicate && news.acked > 0 {
            // The echo names the first transmission, whose acknowledgment was lost; this one was
            // caused by a later one. It gives no time, but shows that the path is not slow.
            self.rtt.calm();
        } else if let Some(clocks) = echo {
            // Karn's problem is solved by the echo: it names the transmission.
            let ticks = self.clock.value(now_ns).wrapping_sub(clocks.echo);
            let rtt_ns = u64::from(ticks) * TICK_NS;
            if clocks.echo != 0 && rtt_ns < self.config.rto_max_ns {
                self.rtt.sample(now_ns, rtt_ns.max(TICK_NS), samples);
            }
        }
    }

    /// Duplicates count only if the peer cannot say more (RFC 6582).
    ///
    /// Each says that a segment was delivered (RFC 6937 §3); what is acknowledged later does not say it
    /// again.
    pub(crate) fn count_duplicates(&mut self, news: &mut News) {
        // After a time-out they are answers to what was sent before it (RFC 5681 §3.1).
        let late = self.recovery.phase() == Phase::Loss && self.map.end() <= self.recovery.high;
        if self.send.sack || late {
            return;
        }
        let recovery = &mut self.recovery;
        if news.acked > 0 {
            let segments = (news.acked / self.window.segment.max(1)) as u32;
            let known = recovery.duplicates.min(segments.max(1) - 1);
            recovery.duplicates -= known;
            news.delivered = news.delivered.saturating_sub(u64::from(known) * self.window.segment);
            if recovery.phase() == Phase::Open {
                recovery.duplicates = 0;
            }
        } else if news.pure_duplicate {
            let flight = (self.map.in_flight() / self.window.segment.max(1)) as u32;
            recovery.duplicates = (recovery.duplicates + 1).min(flight);
        }
    }

    /// Finds losses.
    pub(crate) fn detect(&mut self, now_ns: u64, news: &News) {
        if self.send.sack {
            self.detect_by_time(now_ns);
            return;
        }
        let recovery = &self.recovery;
        let enough = recovery.duplicates >= DUPLICATES
            && recovery.phase() == Phase::Open
            && self.map.start() >= recovery.high;
        // RFC 6582 §3.2, step 3: a partial acknowledgment shows the next loss.
        let partial = matches!(recovery.phase(), Phase::Recovery)
            && news.acked > 0
            && self.map.start() < recovery.high;
        if enough || partial {
            self.map.mark_front_lost(self.window.segment);
        }
    }

    /// RFC 8985 §6.2, step 5. Sets the time at which more will be known, if it depends on time.
    pub(crate) fn detect_by_time(&mut self, now_ns: u64) {
        let rack = self.recovery.rack;
        self.timers.reorder_ns = None;
        if rack.sent_ns == 0 && rack.rtt_ns == 0 {
            return;
        }
        let settle_ns = rack.rtt_ns + self.reordering_window_ns();
        let again_end = self.recovery.again_end;
        let mut wait_ns = None;
        self.map.mark_lost(|_, entry| {
            if (rack.sent_ns, rack.end) <= (entry.sent_ns, entry.end) {
                // Entries that were sent once were sent in order.
                let rest_is_newer = entry.is_first() && entry.end > again_end;
                return (!rest_is_newer).then_some(false);
            }
            let due_ns = entry.sent_ns + settle_ns;
            if due_ns <= now_ns {
                return Some(true);
            }
            wait_ns = wait_ns.max(Some(due_ns));
            Some(false)
        });
        self.timers.reorder_ns = wait_ns;
        self.forgive_path_probe(now_ns);
    }

    /// How much later than in order something may arrive (RFC 8985 §6.2, step 4).
    pub(crate) fn reordering_window_ns(&self) -> u64 {
        let rack = &self.recovery.rack;
        let repairing = matches!(self.recovery.phase(), Phase::Recovery | Phase::Loss);
        if !rack.reordering && (repairing || self.map.sacked_segments() >= DUPLICATES) {
            return 0;
        }
        let quarter = self.rtt.min_ns().unwrap_or(0) / 4;
        (quarter * rack.multiplier).min(self.rtt.smoothed_ns().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Connection, Identity};

    #[test]
    fn a_report_of_a_duplicate_makes_the_reordering_window_wider() {
        let identity = |number| Identity { initial_sequence: number, timestamp_offset: 0 };
        let mut ours = Connection::connect(1, Config::default(), identity(1));
        let syn = ours.poll_transmit(1).unwrap().segment;
        let mut peer = Connection::accept(1, Config::default(), identity(2), &syn).unwrap();
        ours.on_segment(2, &peer.poll_transmit(2).unwrap().segment);
        peer.on_segment(3, &ours.poll_transmit(3).unwrap().segment);
        ours.write(1000, false).unwrap();
        let data = ours.poll_transmit(4).unwrap().segment;
        peer.on_segment(5, &data);
        peer.poll_transmit(5).unwrap();
        let before = ours.recovery.rack.multiplier;
        // It arrives again, and the second acknowledgment says so.
        peer.on_segment(6, &data);
        let report = peer.poll_transmit(6).unwrap().segment;
        assert_eq!(report.options.sack.as_slice().len(), 1);
        ours.on_segment(7, &report);
        assert_eq!(ours.recovery.rack.multiplier, before + 1);
    }
}
