//! What an arriving segment means: RFC 9293 §3.10.7, in its order, hardened by RFC 5961 and RFC 7323.
//!
//! Sequence number, RST, SYN, ACK, URG, payload, FIN. Each step may end the processing; what ends it
//! early is counted, and recorded in the trace.

use base_wire::tcp_flag;

use crate::congestion::Window;
use crate::connection::{Connection, Error, State, TICK_NS};
use crate::receiver::{Keep, Placed};
use crate::recovery::Phase;
use crate::segment::Ecn;
use crate::trace::{Event, Refused};
use crate::transmit::reset_for;
use crate::{Position, Segment};

/// What to do with a segment's payload, and with the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// Payload to keep until it is read; the rest is of no use, but for what
    /// [`Connection::more_of`] finds.
    pub keep: Option<Keep>,
    /// The segment opens a new connection between the same ends (RFC 6191), and this one, in TIME-WAIT,
    /// is in its way: give the segment to the listener, whose connection must begin at this number
    /// (MUST-13), and forget this one, if somebody listens.
    pub reopens: Option<u32>,
}

/// A new connection between the same ends begins so far above the old one: beyond anything that may
/// still be under way of it.
const REOPENED_ABOVE: u64 = 65_537;

/// A timestamp is believed for so long (RFC 7323 §5.5): 24 days.
const CLOCK_VALID_NS: u64 = 24 * 86_400 * 1_000_000_000;

impl Connection {
    /// A segment arrived at `now_ns`; its checksum is right, and its ports are those of the
    /// connection. Afterwards, when a batch is done, comes [`Self::poll_transmit`].
    pub fn on_segment(&mut self, now_ns: u64, segment: &Segment) -> Arrival {
        self.counts.segments_in += 1;
        let (sequence, ack) = (segment.sequence, segment.acknowledgment);
        self.trace.segment(now_ns, Event::Received, segment.flags, sequence, ack);
        match self.state {
            State::Closed => {
                self.refuse(now_ns, segment, Refused::Closed);
                self.reset_stranger(now_ns, segment);
                Arrival::default()
            }
            State::SynSent => {
                self.arrive_syn_sent(now_ns, segment);
                self.take_rest_of_syn(now_ns, segment)
            }
            _ if self.fast.fresh => self.take_fast_syn(now_ns, segment),
            _ => self.arrive_synchronised(now_ns, segment),
        }
    }

    fn refuse(&mut self, now_ns: u64, segment: &Segment, why: Refused) {
        self.trace.record(now_ns, Event::Refused, segment.sequence, why as u32);
    }

    /// §3.10.7.1: who does not know that this has ended hears it, as often as it may.
    fn reset_stranger(&mut self, now_ns: u64, segment: &Segment) {
        if let Some(reset) = reset_for(segment)
            && self.timers.may_challenge(now_ns, self.config.challenges_per_second)
        {
            let ack = reset.has(tcp_flag::ACK).then_some(reset.acknowledgment);
            self.pending.answer(reset.sequence, ack);
        }
    }

    /// §3.10.7.3.
    fn arrive_syn_sent(&mut self, now_ns: u64, segment: &Segment) {
        let ack =
            segment.has(tcp_flag::ACK).then(|| self.send.initial.nearest(segment.acknowledgment));
        // First: an ACK must be of our SYN; and of one that we sent in this life.
        let wrong = ack.is_some_and(|ack| ack <= self.send.initial || ack > self.map.end());
        if wrong || (ack.is_some() && self.echoes_nonsense(now_ns, segment)) {
            self.refuse(now_ns, segment, Refused::Acknowledgment);
            if !segment.has(tcp_flag::RST) {
                let sequence = self.send.initial.nearest(segment.acknowledgment);
                self.pending.reset(sequence, None);
            }
            return;
        }
        // Second: RST.
        if segment.has(tcp_flag::RST) {
            if ack.is_some() {
                self.fail(now_ns, Error::Refused);
            }
            return;
        }
        // Fourth: SYN.
        if !segment.has(tcp_flag::SYN) {
            return;
        }
        self.timers.heard_ns = now_ns;
        self.agree(now_ns, segment);
        match ack {
            Some(ack) => {
                self.established(now_ns, segment, ack);
                if self.fast.more {
                    self.receive.acks.deadline = Some(now_ns + self.ack_delay_ns());
                } else {
                    self.receive.acks.now = true;
                }
            }
            None => {
                // Both open at the same time (MUST-10).
                self.enter(now_ns, State::SynReceived);
                self.receive.acks.now = true;
            }
        }
    }

    /// Text and FIN of a SYN-ACK (§3.10.7.3, fourth).
    fn take_rest_of_syn(&mut self, now_ns: u64, segment: &Segment) -> Arrival {
        if self.state != State::Established {
            return Arrival::default();
        }
        let mut rest = *segment;
        rest.flags &= !tcp_flag::SYN;
        rest.sequence = segment.sequence.wrapping_add(1);
        let start = self.receive.next().nearest(rest.sequence);
        Arrival { keep: self.take_payload(now_ns, &rest, start), reopens: None }
    }

    /// Whether a SYN-ACK echoes what our clock never showed (RFC 7323 §3.2: it echoes our SYN).
    fn echoes_nonsense(&self, now_ns: u64, segment: &Segment) -> bool {
        let Some(clocks) = segment.options.timestamps.filter(|_| self.clock.on) else {
            return false;
        };
        let ahead = clocks.echo.wrapping_sub(self.clock.value(now_ns)) as i32;
        let age_ns = now_ns.saturating_sub(self.timers.stalled_ns.unwrap_or(now_ns));
        clocks.echo != 0 && (ahead > 0 || u64::from(ahead.unsigned_abs()) > age_ns / TICK_NS + 1)
    }

    /// Our SYN is acknowledged.
    fn established(&mut self, now_ns: u64, segment: &Segment, ack: Position) {
        let again = self.map.front().is_some_and(|syn| !syn.is_first());
        let tries = self.counts.timeouts;
        self.acknowledge(now_ns, segment, ack, false);
        if again {
            // What was learned of the path from a SYN that was not answered is nothing (as Linux sees it).
            self.window = Window::initial(self.window.segment);
            if self.recovery.phase() == Phase::Loss {
                self.end_phase(now_ns);
            }
            self.recovery.undo = None;
            // RFC 5681 §3.1: a lost SYN is a sign of congestion; RFC 6928 §2: one may have been slow.
            if tries > 1 {
                self.window.bytes = self.window.segment;
            }
            if self.rtt.smoothed_ns().is_none() {
                // RFC 6298 §5.7.
                self.config.rto_initial_ns = self.config.rto_initial_ns.max(3_000_000_000);
            }
            self.rtt.calm();
        }
        self.soft_error = None;
        self.usage.last_sent_ns = now_ns;
        self.enter(now_ns, if self.send.fin { State::FinWait1 } else { State::Established });
        self.end_fast_open(now_ns, segment, tries > 0);
    }

    /// §3.10.7.4.
    fn arrive_synchronised(&mut self, now_ns: u64, segment: &Segment) -> Arrival {
        let mut segment = *segment;
        if self.completes_simultaneous_open(&segment) {
            // It repeats what was acknowledged, perhaps in vain: the peer waits for an answer, and is told so
            // (RFC 2883).
            let syn = self.receive.next().before(1);
            self.receive.note_duplicate(syn, syn + 1);
            self.receive.acks.now = true;
            segment.flags &= !tcp_flag::SYN;
            segment.sequence = segment.sequence.wrapping_add(1);
        }
        let start = self.receive.next().nearest(segment.sequence);
        if self.state == State::TimeWait && self.reopens(&segment, start) {
            let above = self.map.end() + REOPENED_ABOVE;
            return Arrival { keep: None, reopens: Some(above.wire()) };
        }
        if !self.passes(now_ns, &segment, start) {
            return Arrival::default();
        }
        self.timers.heard_ns = now_ns;
        if !self.take_acknowledgment(now_ns, &segment, start) {
            return Arrival::default();
        }
        if self.state == State::TimeWait
            && segment.sequence_bytes() == 0
            && start != self.receive.next()
        {
            // The peer is not where both have ended; it had better know (RFC 9293 §3.10.7.4).
            self.challenge(now_ns);
        }
        self.note_congestion(&segment);
        self.note_urgent(&segment, start);
        Arrival { keep: self.take_payload(now_ns, &segment, start), reopens: None }
    }

    /// A SYN-ACK in SYN-RECEIVED answers our SYN and repeats the peer's (RFC 9293 §3.5, figure 7).
    fn completes_simultaneous_open(&self, segment: &Segment) -> bool {
        self.state == State::SynReceived
            && segment.has(tcp_flag::SYN | tcp_flag::ACK)
            && segment.payload_bytes == 0
            && segment.sequence.wrapping_add(1) == self.receive.next().wire()
            && segment.acknowledgment == self.map.end().wire()
    }

    /// Whether a SYN may open the connection anew (RFC 6191 §2, RFC 9293 MUST-13 and SHLD-4): it is
    /// newer than all of this one, by its timestamp, or by its number where the clocks say nothing.
    fn reopens(&self, segment: &Segment, start: Position) -> bool {
        let higher = start > self.receive.next();
        let newer = match segment.options.timestamps.filter(|_| self.config.timestamps) {
            Some(clocks) if self.clock.on => {
                let ahead = clocks.value.wrapping_sub(self.clock.recent).cast_signed();
                ahead > 0 || ahead == 0 && higher
            }
            // Its clock will tell its segments from the old ones.
            Some(_) => true,
            None => higher,
        };
        segment.opens() && newer
    }

    /// Sequence number, timestamp, RST, SYN; whether the segment is to be processed further.
    fn passes(&mut self, now_ns: u64, segment: &Segment, start: Position) -> bool {
        let is_reset = segment.has(tcp_flag::RST);
        // RFC 7323 §5.3, R1.
        if !is_reset && self.is_old(now_ns, segment) {
            self.counts.old_timestamps += 1;
            self.refuse(now_ns, segment, Refused::OldTimestamp);
            self.answer_unacceptable(now_ns, segment, start);
            return false;
        }
        // First: sequence number.
        if !self.receive.accepts(start, segment.sequence_bytes()) {
            if start + 1 == self.receive.next() {
                // The peer asks whether we live, and so lives itself (MUST-26).
                self.timers.heard_ns = now_ns;
            }
            self.counts.outside_window += 1;
            self.refuse(now_ns, segment, Refused::Outside);
            if !is_reset {
                self.answer_unacceptable(now_ns, segment, start);
            }
            return false;
        }
        // Second: RST. The edge itself is outside.
        if is_reset && start >= self.receive.edge() && start > self.receive.next() {
            self.counts.outside_window += 1;
            self.refuse(now_ns, segment, Refused::Outside);
            return false;
        }
        if is_reset {
            self.take_reset(now_ns, segment, start);
            return false;
        }
        // Fourth: SYN (RFC 5961 §4.2).
        let is_nobodys = self.passive && !self.fast.early;
        if segment.has(tcp_flag::SYN) && self.state == State::SynReceived && is_nobodys {
            // Back to LISTEN: the peer has begun anew.
            self.enter(now_ns, State::Closed);
            self.timers.stop();
            return false;
        }
        if segment.has(tcp_flag::SYN) {
            self.refuse(now_ns, segment, Refused::Syn);
            self.challenge(now_ns);
            return false;
        }
        if !segment.has(tcp_flag::ACK) {
            self.refuse(now_ns, segment, Refused::NoAcknowledgment);
            return false;
        }
        true
    }

    /// Whether a timestamp shows a segment to be from before (PAWS, RFC 7323 §5).
    fn is_old(&self, now_ns: u64, segment: &Segment) -> bool {
        let Some(clocks) = segment.options.timestamps.filter(|_| self.clock.on) else {
            // RFC 7323 §3.2 would drop it; peers are known that forget the option.
            return false;
        };
        (clocks.value.wrapping_sub(self.clock.recent) as i32) < 0
            && now_ns.saturating_sub(self.clock.recent_ns) < CLOCK_VALID_NS
    }

    /// An unacceptable segment is answered by an acknowledgment, which tells the peer where we are
    /// (RFC 9293 §3.10.7.4). What has no payload is answered rarely, or two ends that disagree
    /// would answer each other for ever.
    fn answer_unacceptable(&mut self, now_ns: u64, segment: &Segment, start: Position) {
        if self.state == State::TimeWait && segment.has(tcp_flag::FIN) {
            self.wait(now_ns);
        }
        if self.state == State::SynReceived && segment.has(tcp_flag::SYN) {
            // The peer has not seen our SYN.
            self.receive.acks.now = true;
            if self.passive && segment.flags & (tcp_flag::ECE | tcp_flag::CWR) == 0 {
                // And takes back what it offered (RFC 3168 §6.1.1.1).
                (self.ecn.on, self.ecn.hears) = (false, false);
            }
        } else if segment.sequence_bytes() > 0 && !segment.has(tcp_flag::SYN) {
            self.counts.duplicate_bytes += u64::from(segment.payload_bytes);
            self.receive.note_duplicate(start, start + u64::from(segment.payload_bytes));
            self.receive.acks.now = true;
        } else {
            self.challenge(now_ns);
        }
    }

    /// RFC 5961 §3.2: a reset counts if it hits the next byte, and is questioned if it hits the window.
    fn take_reset(&mut self, now_ns: u64, segment: &Segment, start: Position) {
        if start != self.receive.next() {
            self.refuse(now_ns, segment, Refused::InexactReset);
            self.challenge(now_ns);
            return;
        }
        match self.state {
            // RFC 1337: TIME-WAIT is not ended by what may be an old duplicate.
            State::TimeWait => {}
            // Back to LISTEN: nobody was told of the connection.
            State::SynReceived if self.passive && !self.fast.early => {
                self.enter(now_ns, State::Closed);
                self.timers.stop();
            }
            State::SynReceived if !self.passive => self.fail(now_ns, Error::Refused),
            // MUST-12. Also where all that was written has arrived: the peer took none of our FIN.
            _ => self.fail(now_ns, Error::Reset),
        }
    }

    /// Asks the peer whether it meant what came (RFC 5961 §7: not too often).
    fn challenge(&mut self, now_ns: u64) {
        if self.timers.may_challenge(now_ns, self.config.challenges_per_second) {
            self.counts.challenges += 1;
            if self.state == State::SynReceived {
                self.pending.question = true;
            } else {
                self.receive.acks.now = true;
            }
        } else {
            self.counts.challenges_suppressed += 1;
        }
    }

    /// Fifth: ACK. Whether processing goes on.
    fn take_acknowledgment(&mut self, now_ns: u64, segment: &Segment, start: Position) -> bool {
        let una = self.map.start();
        let ack = una.nearest(segment.acknowledgment);
        if self.state == State::SynReceived {
            if ack <= self.send.initial || ack > self.map.end() {
                self.refuse(now_ns, segment, Refused::Acknowledgment);
                self.pending.reset(ack, None);
                return false;
            }
            self.note_clock(now_ns, segment, start);
            self.established(now_ns, segment, ack);
        }
        // RFC 5961 §5.2: neither what was not sent, nor older than the largest window.
        if ack > self.map.end() || una - ack > self.send.window_max {
            self.refuse(now_ns, segment, Refused::Acknowledgment);
            self.challenge(now_ns);
            return false;
        }
        self.note_clock(now_ns, segment, start);
        let window = u64::from(segment.window) << self.send.shift;
        let same = ack == una && segment.sequence_bytes() == 0 && window == self.send.window;
        self.take_window(now_ns, segment, start, ack, window);
        self.timers.probes = 0;
        if self.send.window == 0 && self.timers.stalled_ns.is_some() {
            // MUST-37: as long as the peer answers, a closed window is no reason to end.
            self.timers.stalled_ns = Some(now_ns);
        }
        // One that was overtaken by others still reports what they may not (RFC 2018 §4 has room for three).
        if ack >= una || !segment.options.sack.as_slice().is_empty() {
            self.acknowledge(now_ns, segment, ack, same);
        }
        self.fin_acknowledged(now_ns);
        true
    }

    /// RFC 7323 §4.3: the clock of the segment that the last acknowledgment was about.
    fn note_clock(&mut self, now_ns: u64, segment: &Segment, start: Position) {
        let Some(clocks) = segment.options.timestamps.filter(|_| self.clock.on) else { return };
        let newer = (clocks.value.wrapping_sub(self.clock.recent) as i32) >= 0;
        let stale = now_ns.saturating_sub(self.clock.recent_ns) >= CLOCK_VALID_NS;
        if (newer || stale) && start <= self.receive.acks.sent {
            self.clock.recent = clocks.value;
            self.clock.recent_ns = now_ns;
        }
        if segment.payload_bytes > 0 && clocks.echo != 0 {
            let ticks = self.clock.value(now_ns).wrapping_sub(clocks.echo);
            if ticks < 1 << 20 {
                self.receive.note_rtt((u64::from(ticks) * TICK_NS).max(TICK_NS / 8));
            }
        }
    }

    /// RFC 9293 §3.10.7.4: the window is the one of the newest segment; and what a segment of the same
    /// age offers more, which Linux found necessary against peers that only open it.
    ///
    /// MUST-1: a window is a number without a sign; it is 16 bits wide and shifted into 64.
    fn take_window(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        start: Position,
        ack: Position,
        window: u64,
    ) {
        let (sequence, acknowledged) = self.send.window_from;
        let newer = start > sequence
            || (start == sequence && ack >= acknowledged)
            || ack > self.map.start();
        if ack < self.map.start() || !newer {
            return;
        }
        if window != self.send.window {
            self.trace.record(now_ns, Event::PeerWindow, window as u32, u32::from(segment.window));
        }
        self.set_peer_window(window, (start, ack));
    }

    /// States after our FIN was acknowledged.
    fn fin_acknowledged(&mut self, now_ns: u64) {
        if !self.is_fin_acknowledged() {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.enter(now_ns, State::FinWait2);
                self.wait_for_fin(now_ns);
            }
            State::Closing => self.enter_time_wait(now_ns),
            State::LastAck => {
                self.enter(now_ns, State::Closed);
                self.timers.stop();
            }
            _ => {}
        }
    }

    /// Nobody reads any more: the peer has so long to close.
    pub(crate) fn wait_for_fin(&mut self, now_ns: u64) {
        if self.unread && self.state == State::FinWait2 {
            self.timers.wait_ns = Some(now_ns.saturating_add(self.config.fin_wait_2_ns));
        }
    }

    fn enter_time_wait(&mut self, now_ns: u64) {
        self.enter(now_ns, State::TimeWait);
        self.timers.stop();
        self.wait(now_ns);
    }

    /// MUST-13.
    fn wait(&mut self, now_ns: u64) {
        self.timers.wait_ns = Some(now_ns.saturating_add(2 * self.config.msl_ns));
    }

    /// RFC 3168 §6.1.3: marks are echoed until the peer says it has heard.
    fn note_congestion(&mut self, segment: &Segment) {
        if !self.ecn.hears {
            return;
        }
        if segment.has(tcp_flag::CWR) {
            self.ecn.echo = false;
        }
        if segment.ecn == Ecn::Congested && segment.payload_bytes > 0 {
            self.receive.acks.now |= !self.ecn.echo;
            self.ecn.echo = true;
        }
    }

    /// Sixth: URG (MUST-30, MUST-31, MUST-62: the pointer names the byte after the urgent ones).
    ///
    /// MUST-32: whoever owns the application tells it when [`Connection::urgent_bytes`] changes.
    fn note_urgent(&mut self, segment: &Segment, start: Position) {
        if segment.has(tcp_flag::URG) && !self.receive.is_finished() {
            let end = start + u64::from(segment.urgent);
            if end > self.receive.next() {
                self.receive.urgent = self.receive.urgent.max(Some(end));
            }
        }
    }

    /// Seventh and eighth: payload and FIN.
    pub(crate) fn take_payload(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        start: Position,
    ) -> Option<Keep> {
        let bytes = u64::from(segment.payload_bytes);
        let fin = segment.has(tcp_flag::FIN);
        if !self.takes_payload() {
            // After a FIN there is nothing more; but its repetition is acknowledged.
            if bytes > 0 || fin {
                self.receive.acks.now = true;
                if self.state == State::TimeWait && fin {
                    self.wait(now_ns);
                }
            }
            return None;
        }
        if bytes == 0 && !fin {
            return None;
        }
        if self.unread && bytes > 0 && start + bytes > self.receive.next() {
            // Nobody will read it, and the peer had better know (RFC 2525 §2.17, SHLD-3).
            // The number is the one that it expects next, or it would only ask whether we mean it
            // (RFC 5961 §3.2): if our FIN was lost, it knows nothing of that.
            self.fail(now_ns, Error::Reset);
            self.pending.reset(self.map.start(), None);
            return None;
        }
        let placed = self.receive.place(start, bytes, fin);
        self.acknowledge_later(now_ns, segment, placed);
        if self.receive.is_finished() {
            self.fin_received(now_ns);
        }
        placed.keep
    }

    const fn takes_payload(&self) -> bool {
        match self.state {
            State::Established | State::FinWait1 | State::FinWait2 => true,
            State::SynReceived => self.fast.early,
            _ => false,
        }
    }

    /// Another part of a segment's payload to keep, if it fills several gaps; to be asked until there is
    /// none, before the next segment.
    pub fn more_of(&mut self, now_ns: u64, segment: &Segment) -> Option<Keep> {
        let open = self.takes_payload();
        let first = segment.sequence.wrapping_add(u32::from(segment.has(tcp_flag::SYN)));
        let start = self.receive.next().nearest(first);
        if !open || start + u64::from(segment.payload_bytes) <= self.receive.next() {
            return None;
        }
        let placed = self.receive.place_more(start, u64::from(segment.payload_bytes));
        if placed.advanced {
            self.receive.acks.now = true;
        }
        if self.receive.is_finished() {
            self.fin_received(now_ns);
        }
        placed.keep
    }

    fn acknowledge_later(&mut self, now_ns: u64, segment: &Segment, placed: Placed) {
        let kept = placed.keep.map_or(0, |keep| keep.bytes);
        self.counts.duplicate_bytes += u64::from(segment.payload_bytes.saturating_sub(kept));
        if !placed.advanced {
            self.receive.acks.repeats = self.receive.acks.repeats.saturating_add(1).min(64);
        }
        let delay_ns = self.ack_delay_ns();
        self.receive.note_window(now_ns);
        self.receive.note_data(now_ns, segment.payload_bytes, delay_ns, placed);
    }

    /// Not longer than a part of the round trip: a sender on a fast path should not wait for a clock
    /// that was made for slow ones.
    fn ack_delay_ns(&self) -> u64 {
        let part_ns = self.rtt.smoothed_ns().map_or(u64::MAX, |rtt_ns| rtt_ns / 4);
        self.config.ack_delay_ns.min(part_ns.max(1_000_000)).min(499_000_000)
    }

    /// The peer has closed (§3.10.7.4, eighth).
    fn fin_received(&mut self, now_ns: u64) {
        self.receive.acks.now = true;
        match self.state {
            State::Established => self.enter(now_ns, State::CloseWait),
            State::FinWait1 if self.is_fin_acknowledged() => self.enter_time_wait(now_ns),
            State::FinWait1 => self.enter(now_ns, State::Closing),
            State::FinWait2 => self.enter_time_wait(now_ns),
            _ => {}
        }
    }
}
