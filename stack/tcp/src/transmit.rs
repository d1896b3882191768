//! What is sent next: old before new, within what the peer, the path and the application allow.

use base_wire::tcp_flag;

use crate::amount::whole_segments;
use crate::connection::{Connection, State, TICK_NS};
use crate::options::{Options, Timestamps};
use crate::recovery::{Doubt, Phase};
use crate::segment::Ecn;
use crate::tail::TailProbe;
use crate::timers::Cause;
use crate::trace::Event;
use crate::{Position, Segment};

/// A segment to send, or several that differ only in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The header of the first, and the payload of all.
    pub segment: Segment,
    /// Place of the payload in the stream that the application wrote.
    pub offset: u64,
    /// Payload of each segment; if [`Segment::payload_bytes`] is more, see [`Self::frames`].
    pub segment_bytes: u32,
    /// Its number: 1 for the first that this connection sent.
    pub number: u64,
}

impl Transmit {
    /// The segments one by one, as a link needs them that cannot cut: the payload in parts, FIN and PSH
    /// on the last, CWR on the first (RFC 3168 §6.1.2).
    pub fn frames(&self) -> impl Iterator<Item = Self> + use<> {
        let whole = *self;
        let (total, step) = (whole.segment.payload_bytes, whole.segment_bytes.max(1));
        let count = total.div_ceil(step).max(1);
        (0..count).map(move |index| {
            let at = index * step;
            let mut part = whole;
            part.segment.sequence = whole.segment.sequence.wrapping_add(at);
            part.segment.payload_bytes = (total - at).min(step);
            part.offset = whole.offset + u64::from(at);
            if index > 0 {
                part.segment.flags &= !tcp_flag::CWR;
                part.segment.urgent = whole.segment.urgent.saturating_sub(at as u16);
                if part.segment.urgent == 0 {
                    part.segment.flags &= !tcp_flag::URG;
                }
            }
            if index + 1 < count {
                part.segment.flags &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            part
        })
    }
}

/// What is to be sent that is no data.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The first SYN.
    pub(crate) open: bool,
    reset: Option<(u32, Option<u32>)>,
    /// An acknowledgment without our SYN, before that is acknowledged (RFC 5961 §3.2).
    pub(crate) question: bool,
    pub(crate) tail_probe: bool,
    pub(crate) window_probe: bool,
    pub(crate) alive_probe: bool,
}

impl Pending {
    /// A RST at `sequence`, which acknowledges `ack` if the segment it answers did not.
    pub(crate) fn reset(&mut self, sequence: Position, ack: Option<Position>) {
        self.answer(sequence.wire(), ack.map(Position::wire));
    }

    /// A RST with these numbers.
    pub(crate) const fn answer(&mut self, sequence: u32, ack: Option<u32>) {
        self.reset = Some((sequence, ack));
    }

    pub(crate) const fn quiet(&mut self) {
        self.open = false;
        self.question = false;
        self.tail_probe = false;
        self.window_probe = false;
        self.alive_probe = false;
    }
}

/// The RST that answers a segment for which there is no connection (RFC 9293 §3.10.7.1); `None` for a
/// RST, which nothing answers.
pub fn reset_for(segment: &Segment) -> Option<Segment> {
    if segment.has(tcp_flag::RST) {
        return None;
    }
    let mut reset = Segment { flags: tcp_flag::RST, ..Segment::default() };
    if segment.has(tcp_flag::ACK) {
        reset.sequence = segment.acknowledgment;
    } else {
        reset.flags |= tcp_flag::ACK;
        reset.acknowledgment = segment.sequence.wrapping_add(segment.sequence_bytes() as u32);
    }
    Some(reset)
}

impl Connection {
    /// The next thing to send at `now_ns`, if there is one; to be called until there is none, after
    /// each batch of segments, each call of the application and each deadline.
    ///
    /// A batch of segments that arrived is answered by one acknowledgment, if this is called after
    /// the batch and not after each (MUST-58, MUST-59).
    pub fn poll_transmit(&mut self, now_ns: u64) -> Option<Transmit> {
        if self.state != State::Closed {
            self.expire(now_ns);
        }
        if let Some((sequence, ack)) = self.pending.reset.take() {
            return Some(self.reset(now_ns, sequence, ack));
        }
        match self.state {
            State::Closed => return None,
            State::SynReceived if std::mem::take(&mut self.pending.question) => {
                return Some(self.empty(now_ns, self.map.end()));
            }
            State::SynReceived if self.fast.early => {
                let answer = self.poll_open(now_ns);
                let may = answer.is_none() && self.timers.pace_ns <= now_ns;
                return answer.or_else(|| if may { self.new_data(now_ns) } else { None });
            }
            State::SynSent | State::SynReceived => return self.poll_open(now_ns),
            _ => {}
        }
        let next = self.poll_data(now_ns).or_else(|| self.poll_control(now_ns));
        if next.is_none() {
            self.note_waiting(now_ns);
        }
        next
    }

    /// SYN, SYN-ACK, and their retransmissions: lost ones are found, repeated and given up as data is
    /// (MUST-22).
    fn poll_open(&mut self, now_ns: u64) -> Option<Transmit> {
        let start = self.send.initial;
        let mut end = start + 1;
        if std::mem::take(&mut self.pending.open) {
            if self.map.is_empty() && self.map.start() == start {
                let number = self.send.transmissions + 1;
                self.map.push(end, now_ns, number, 1);
                if self.state == State::SynSent
                    && let Some(data_end) = self.data_on_syn()
                {
                    // An entry of its own: it may be acknowledged, or lost, without the SYN.
                    self.map.seal();
                    self.map.push(data_end, now_ns, number, 1);
                    end = data_end;
                }
            }
        } else if self.map.first_lost().is_some_and(|(lost, _)| lost.start == start) {
            self.note_again(now_ns, start..start + 1, 1);
            self.counts.retransmissions += 1;
            // RFC 3168 §6.1.1.1, RFC 7413 §4.1.3.1: perhaps somebody on the way does not like it.
            self.ecn.offered = false;
            self.fast.option = None;
        } else {
            return std::mem::take(&mut self.receive.acks.now).then(|| self.syn(now_ns, end));
        }
        self.timers.start(now_ns);
        self.arm_retransmission(now_ns);
        Some(self.syn(now_ns, end))
    }

    /// MUST-14, MUST-65: it tells our MSS, and nothing else does. With the data before `end`.
    fn syn(&mut self, now_ns: u64, end: Position) -> Transmit {
        let answers = self.state == State::SynReceived;
        let mut flags = tcp_flag::SYN;
        if answers {
            flags |= tcp_flag::ACK;
            flags |= if self.ecn.on { tcp_flag::ECE } else { 0 };
        } else if self.ecn.offered {
            flags |= tcp_flag::ECE | tcp_flag::CWR;
        }
        let shift = if answers { self.agreed_shift() } else { self.offered_shift() };
        let options = Options {
            mss: Some(self.announced_mss()),
            window_shift: shift,
            sack_permitted: self.send.sack,
            timestamps: self.clock.on.then(|| Timestamps {
                value: self.clock.value(now_ns),
                echo: if answers { self.clock.recent } else { 0 },
            }),
            // A SYN of ours that answers one that crossed it asks for nothing.
            fast_open: self.fast.option.filter(|_| self.passive == answers),
            ..Options::default()
        };
        let (window, acknowledgment) = if answers {
            let window = self.receive.announce(false);
            self.receive.acknowledged();
            (window, self.receive.next().wire())
        } else {
            (self.receive.offer(), 0)
        };
        let segment = Segment {
            sequence: self.send.initial.wire(),
            acknowledgment,
            flags,
            window,
            options,
            payload_bytes: (end - (self.send.initial + 1)) as u32,
            ..Segment::default()
        };
        let mut sent = self.leave(now_ns, segment, self.send.initial + 1);
        sent.segment_bytes = sent.segment_bytes.max(segment.payload_bytes);
        sent
    }

    fn offered_shift(&self) -> Option<u8> {
        self.config.window_scaling.then_some(self.receive.shift)
    }

    /// The answer carries a shift only if the peer's SYN did (RFC 7323 §2.2).
    fn agreed_shift(&self) -> Option<u8> {
        self.offered_shift().filter(|_| self.send.scaling)
    }

    fn poll_data(&mut self, now_ns: u64) -> Option<Transmit> {
        if std::mem::take(&mut self.pending.tail_probe)
            && let Some(probe) = self.tail_probe(now_ns)
        {
            return Some(probe);
        }
        if self.timers.pace_ns > now_ns {
            return None;
        }
        // Past: no deadline any more.
        self.timers.pace_ns = 0;
        if self.recovery.frto == Doubt::Tested {
            // Old data would be mistaken for its own answer.
            let fresh = self.new_data(now_ns);
            if fresh.is_some() || self.map.end() > self.recovery.high {
                return fresh;
            }
            // What is new waits for something else: no answer will come that way.
            self.recovery.frto = Doubt::None;
        }
        self.old_data(now_ns).or_else(|| self.new_data(now_ns))
    }

    /// Whether something that was sent has not left this host.
    pub(crate) fn pending_departure(&self) -> bool {
        self.map.front().is_some_and(|front| front.number > self.send.departed)
    }

    pub(crate) fn front_is_full(&self) -> bool {
        self.map.front().is_some_and(|front| front.end - self.map.start() >= self.window.segment)
    }

    /// What was lost is sent again, oldest first.
    fn old_data(&mut self, now_ns: u64) -> Option<Transmit> {
        let (range, entry) = self.map.first_lost()?;
        if entry.number > self.send.departed {
            return None;
        }
        let segment = self.segment_bytes_now();
        let room = self.window_room();
        if room < segment.min(range.end - range.start) {
            self.note_usage(true);
            return None;
        }
        // What the window no longer covers is not sent again (MUST-34).
        let at_front = range.start == self.map.start();
        let edge = self.map.start() + self.send.window.max(segment);
        if range.start >= edge && !at_front {
            return None;
        }
        let end = range
            .end
            .min(edge)
            .min(range.start + whole_segments(room, segment))
            .min(range.start + self.burst_bytes(segment));
        let bytes = end - range.start;
        let segments = bytes.div_ceil(segment).max(1) as u16;
        self.note_again(now_ns, range.start..end, segments);
        if at_front {
            self.timers.start(now_ns);
        }
        self.counts.retransmissions += 1;
        self.recovery.forgiven = self.recovery.forgiven.saturating_sub(bytes);
        let sent = self.payload(now_ns, range.start, end, segments, false);
        self.arm_retransmission(now_ns);
        Some(sent)
    }

    fn note_again(&mut self, now_ns: u64, range: core::ops::Range<Position>, segments: u16) {
        let (number, bytes) = (self.send.transmissions + 1, range.end - range.start);
        let (sequence, end) = (range.start.wire(), range.end);
        self.map.sent_again(range, now_ns, number, segments);
        self.recovery.sent_again(end, segments, self.clock.value(now_ns));
        self.recovery.sent(bytes);
        self.counts.retransmitted_bytes += bytes;
        self.trace.record(now_ns, Event::SentAgain, sequence, bytes as u32);
    }

    fn new_data(&mut self, now_ns: u64) -> Option<Transmit> {
        let start = self.map.end();
        let segment = self.segment_bytes_now();
        self.restart_after_idle(now_ns);
        if !self.map.has_room() {
            return None;
        }
        if let Some(probe) = self.mtu_probe(now_ns, start) {
            return Some(probe);
        }
        let offer = self.offer(now_ns, start, segment)?;
        let end = start + offer.bytes + u64::from(offer.fin);
        let segments = offer.bytes.div_ceil(segment).max(1) as u16;
        self.note_small(end, offer.bytes, segment);
        let fresh = self.map.is_empty();
        let sent = self.send_new(now_ns, start, end, segments);
        if fresh {
            self.timers.restart(now_ns);
        }
        Some(sent)
    }

    fn send_new(&mut self, now_ns: u64, start: Position, end: Position, segments: u16) -> Transmit {
        if self.send.records.is_end(start) {
            self.map.seal();
        }
        self.map.push(end, now_ns, self.send.transmissions + 1, segments);
        self.recovery.sent(end - start);
        if matches!(self.timers.retransmission, Some((Cause::Persist, _))) {
            self.timers.end_persist();
        }
        self.timers.start(now_ns);
        self.usage.last_sent_ns = now_ns;
        self.receive.answered(now_ns, self.config.ack_delay_ns);
        if self.fast_end().is_some() {
            self.receive.answered_syn();
        }
        self.note_usage(false);
        let sent = self.payload(now_ns, start, end, segments, true);
        self.arm_retransmission(now_ns);
        sent
    }

    /// A larger packet than is known to arrive (RFC 4821 §7.5), if there is data for it and for what is
    /// needed to notice its loss.
    fn mtu_probe(&mut self, now_ns: u64, start: Position) -> Option<Transmit> {
        let plain = self.recovery.phase() == Phase::Open && self.send.records.is_empty();
        if !plain || self.map.sacked() > 0 || !self.send.sack {
            return None;
        }
        let mtu = self.path.next_probe(now_ns)?;
        let more = u64::from(mtu.saturating_sub(self.path.mtu()));
        let bytes = self.window.segment + more;
        let needed = bytes + 5 * self.window.segment;
        let open = (self.map.start() + self.send.window) - start;
        let options = if self.clock.on { 12 } else { 0 };
        // A report would not fit beside it.
        let plain = !self.receive.has_gaps() && !self.receive.owes_report();
        let fits = u64::from(self.send.mss) >= bytes + options && self.unsent() >= needed;
        if !plain
            || !fits
            || open < needed
            || self.window_room() < bytes
            || self.window.bytes < needed
        {
            return None;
        }
        let end = start + bytes;
        self.path.probing(start..end, mtu);
        let mut sent = self.send_new(now_ns, start, end, 1);
        sent.segment_bytes = bytes as u32;
        Some(sent)
    }

    /// RFC 8985 §7.3: new data if there is some, or the last segment again.
    fn tail_probe(&mut self, now_ns: u64) -> Option<Transmit> {
        if self.map.is_empty() {
            return None;
        }
        self.counts.probes += 1;
        let (start, segment) = (self.map.end(), self.segment_bytes_now());
        let open = (self.map.start() + self.send.window) - start;
        let bytes = self.unsent_record().min(segment);
        let probe = if bytes > 0 && open >= bytes && self.map.has_room() {
            let fin = self.send.fin && bytes == self.unsent() && open > bytes;
            let end = start + bytes + u64::from(fin);
            self.recovery.tail = Some(TailProbe { end, again: false });
            self.note_small(end, bytes, segment);
            self.send_new(now_ns, start, end, 1)
        } else {
            let (last, entry) = self.map.back()?;
            let end = entry.end;
            if entry.number > self.send.departed {
                // It has not even left this host: probed for later, if it must be.
                self.timers.restart_timeout(now_ns);
                self.arm_retransmission(now_ns);
                return None;
            }
            // The last of the segments that it was sent in.
            let whole = (end - last).saturating_sub(1) / segment * segment;
            let from = last + whole;
            self.recovery.tail = Some(TailProbe { end, again: true });
            self.note_again(now_ns, from..end, 1);
            self.payload(now_ns, from, end, 1, false)
        };
        self.trace.record(
            now_ns,
            Event::Probed,
            probe.segment.sequence,
            probe.segment.payload_bytes,
        );
        // The time-out runs from the probe on.
        self.timers.restart_timeout(now_ns);
        self.arm_retransmission(now_ns);
        Some(probe)
    }

    /// Probes and acknowledgments.
    fn poll_control(&mut self, now_ns: u64) -> Option<Transmit> {
        if std::mem::take(&mut self.pending.window_probe) {
            return self.window_probe(now_ns);
        }
        if std::mem::take(&mut self.pending.alive_probe) {
            // MUST-26 and RFC 9293 §3.8.4: a number the peer has acknowledged makes it answer.
            return Some(self.empty(now_ns, self.map.end().before(1)));
        }
        if self.receive.acks.repeats > 1 && !self.send.sack {
            let repeats = self.receive.acks.repeats - 1;
            let ack = self.empty(now_ns, self.map.end());
            (self.receive.acks.repeats, self.receive.acks.now) = (repeats, true);
            return Some(ack);
        }
        let due = self.receive.acks.now;
        due.then(|| self.empty(now_ns, self.map.end()))
    }

    fn window_probe(&mut self, now_ns: u64) -> Option<Transmit> {
        self.arm_persist(now_ns);
        if !self.map.is_empty() {
            return None;
        }
        self.timers.stall(now_ns);
        let start = self.map.end();
        let segment = self.segment_bytes_now();
        let bytes = self.unsent_record().min(self.send.window).min(segment);
        if bytes > 0 {
            // The window is open, only not by a segment (MUST-38's override), or more was to follow.
            let fin = self.send.fin && bytes == self.unsent() && self.send.window > bytes;
            let end = start + bytes + u64::from(fin);
            self.note_small(end, bytes, segment);
            let mut sent = self.send_new(now_ns, start, end, 1);
            if self.unsent() == 0 {
                // Nothing has come yet.
                sent.segment.flags |= tcp_flag::PSH;
            }
            return Some(sent);
        }
        Some(self.empty(now_ns, start.before(1)))
    }

    /// A segment without payload.
    fn empty(&mut self, now_ns: u64, sequence: Position) -> Transmit {
        let segment = self.compose(now_ns, sequence, tcp_flag::ACK);
        self.leave(now_ns, segment, self.send.written)
    }

    /// What lies between `start` and `end`, FIN included, in so many segments; with PSH where the application
    /// wrote its last (MUST-61).
    fn payload(
        &mut self,
        now_ns: u64,
        start: Position,
        end: Position,
        segments: u16,
        new: bool,
    ) -> Transmit {
        let data_end = end.min(self.send.written);
        let mut flags = tcp_flag::ACK;
        if end > self.send.written {
            flags |= tcp_flag::FIN;
        }
        let pushed = start < self.send.push && self.send.push <= data_end;
        // Who merges segments on the way to the peer need not wait for what else may come (as Linux does).
        // What a SYN carried ended a write, as far as anybody knew.
        let was_on_syn = start < data_end && self.fast_end() == Some(data_end);
        if pushed || segments > 1 || was_on_syn || self.send.records.is_end(data_end) {
            flags |= tcp_flag::PSH;
        }
        if new && std::mem::take(&mut self.ecn.reduced) {
            flags |= tcp_flag::CWR;
        }
        let segment_bytes = self.segment_bytes_now() as u32;
        let mut segment = self.compose(now_ns, start, flags);
        segment.payload_bytes = (data_end - start) as u32;
        if self.ecn.on && new && segment.payload_bytes > 0 {
            // RFC 3168 §6.1.5: nothing that is sent again is marked as capable.
            segment.ecn = Ecn::Capable;
        }
        if let Some(urgent) = self.send.urgent.filter(|urgent| *urgent > start) {
            segment.flags |= tcp_flag::URG;
            segment.urgent = (urgent - start).min(0xffff) as u16;
        }
        self.pace(now_ns, u64::from(segment.payload_bytes));
        let mut sent = self.leave(now_ns, segment, start);
        sent.segment_bytes = segment_bytes;
        sent
    }

    /// A header with everything that every segment of a synchronised connection has; it acknowledges
    /// all that has arrived.
    fn compose(&mut self, now_ns: u64, sequence: Position, mut flags: u8) -> Segment {
        let mut options = Options::default();
        if self.clock.on {
            // RFC 7323 §3.2: in every segment, once agreed on.
            options.timestamps =
                Some(Timestamps { value: self.clock.value(now_ns), echo: self.clock.recent });
        }
        if self.send.sack && (self.receive.has_gaps() || self.receive.owes_report()) {
            options.sack = self.receive.report();
        }
        if self.ecn.hears && self.ecn.echo {
            flags |= tcp_flag::ECE;
        }
        let window = match self.state {
            State::SynReceived => self.receive.announce_early(),
            _ => self.receive.announce(true),
        };
        self.receive.acknowledged();
        Segment {
            sequence: sequence.wire(),
            acknowledgment: self.receive.next().wire(),
            flags,
            window,
            options,
            ..Segment::default()
        }
    }

    fn reset(&mut self, now_ns: u64, sequence: u32, ack: Option<u32>) -> Transmit {
        // RFC 7323 §3.2: in a RST too, if the peer can know our clock.
        let clocks = self.clock.on && self.send.window_max > 0;
        let timestamps = clocks.then(|| Timestamps {
            value: self.clock.value(now_ns),
            echo: if ack.is_some() { self.clock.recent } else { 0 },
        });
        let segment = Segment {
            options: Options { timestamps, ..Options::default() },
            sequence,
            acknowledgment: ack.unwrap_or(0),
            flags: tcp_flag::RST | if ack.is_some() { tcp_flag::ACK } else { 0 },
            ..Segment::default()
        };
        self.leave(now_ns, segment, self.send.written)
    }

    fn leave(&mut self, now_ns: u64, segment: Segment, start: Position) -> Transmit {
        self.send.transmissions += 1;
        self.counts.segments_out += 1;
        let (sequence, bytes) = (segment.sequence, segment.payload_bytes);
        self.trace.segment(now_ns, Event::Sent, segment.flags, sequence, bytes);
        Transmit {
            segment,
            offset: start - (self.send.initial + 1),
            segment_bytes: self.window.segment as u32,
            number: self.send.transmissions,
        }
    }

    /// Sets when the next payload may leave, if there is a rate to keep.
    fn pace(&mut self, now_ns: u64, bytes: u64) {
        let rates = [self.config.pacing_bytes_per_second, self.control.pacing_bytes_per_second()];
        let Some(rate) = rates.into_iter().flatten().min() else { return };
        let span = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let span = u64::try_from(span).unwrap_or(u64::MAX / 4);
        // A late call is not made up for, but for a tick.
        self.timers.pace_ns = self.timers.pace_ns.max(now_ns.saturating_sub(TICK_NS)) + span;
    }
}
