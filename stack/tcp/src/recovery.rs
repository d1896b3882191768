//! What is done about losses: repair at a measured pace (RFC 6937), time-outs, and second thoughts
//! (RFC 5682, RFC 3522, RFC 3708).
//!
//! What was lost is found elsewhere: by what arrived (`detection`), or by a probe that makes the peer
//! say it (`tail`). Only if both fail the time-out does.

use base_wire::tcp_flag;

use crate::congestion::{Acked, Window};
use crate::connection::{Connection, State};
use crate::detection::{News, Rack};
use crate::send_map::Fate;
use crate::tail::TailProbe;
use crate::trace::Event;
use crate::{Position, Segment};

/// Whether losses are being repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// The peer saw a congestion mark; the window shrinks.
    Reduced,
    /// Losses are repaired.
    Recovery,
    /// The time-out expired.
    Loss,
}

#[derive(Debug)]
pub(crate) struct Recovery {
    phase: Phase,
    /// End of what had been sent when the phase began; the phase ends there (`RecoveryPoint`).
    pub(crate) high: Position,
    rate: Reduction,
    pub(crate) undo: Option<Undo>,
    /// Looking whether the time-out was spurious (RFC 5682).
    pub(crate) frto: Doubt,
    /// Duplicates of a peer that reports nothing selectively.
    pub(crate) duplicates: u32,
    pub(crate) rack: Rack,
    pub(crate) tail: Option<TailProbe>,
    /// End of the highest byte sent again.
    pub(crate) again_end: Position,
    /// Bytes that are lost for a known reason, which is not congestion.
    pub(crate) forgiven: u64,
}

/// How far it is known whether a time-out was spurious (RFC 5682).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It was right, or nobody asks.
    None,
    /// Nothing was heard since.
    Asked,
    /// Something was acknowledged, and new data is to bring the answer.
    Tested,
}

/// Proportional rate reduction (RFC 6937 §3).
#[derive(Debug, Default)]
struct Reduction {
    flight: u64,
    delivered: u64,
    sent: u64,
}

/// What it takes to undo a reduction.
#[derive(Debug)]
pub(crate) struct Undo {
    window: Window,
    /// Segments sent again that the peer has not reported as duplicates.
    pub(crate) again: u32,
    /// What our clock showed when the first one was sent again.
    clock: Option<u32>,
    /// Where the episode began.
    pub(crate) from: Position,
}

impl Recovery {
    pub(crate) const fn new(start: Position) -> Self {
        Self {
            phase: Phase::Open,
            high: start,
            rate: Reduction { flight: 0, delivered: 0, sent: 0 },
            undo: None,
            frto: Doubt::None,
            duplicates: 0,
            rack: Rack::new(start),
            tail: None,
            again_end: start,
            forgiven: 0,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Records bytes that left, new or old.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.rate.sent += bytes;
    }

    /// Records old bytes that left again, in `segments`.
    pub(crate) fn sent_again(&mut self, end: Position, segments: u16, clock: u32) {
        self.again_end = self.again_end.max(end);
        if let Some(undo) = &mut self.undo {
            undo.again += u32::from(segments);
            undo.clock.get_or_insert(clock);
        }
    }
}

impl Connection {
    /// Bytes thought to be in the network.
    pub(crate) fn pipe(&self) -> u64 {
        // Every duplicate says that something has left the network, and new data may take its place
        // (RFC 3042 before a recovery, RFC 6582 §3.2, step 3, in one).
        let left = u64::from(self.recovery.duplicates) * self.window.segment;
        self.map.in_flight().saturating_sub(left)
    }

    /// Processes an acceptable acknowledgment: `ack` is between the oldest and the newest byte sent.
    pub(crate) fn acknowledge(
        &mut self,
        now_ns: u64,
        segment: &Segment,
        ack: Position,
        same: bool,
    ) {
        let before = self.map.start();
        let mut news = self.take_in(now_ns, segment, ack);
        news.pure_duplicate = same && news.acked == 0 && !self.map.is_empty();
        let probing = self.recovery.tail.is_some() && same;
        // On a SYN it is an answer, and no mark.
        let marked = self.ecn.on && segment.has(tcp_flag::ECE) && !segment.has(tcp_flag::SYN);
        let silent = news.acked == 0 && news.sacked == 0 && !news.duplicate;
        if silent && !news.pure_duplicate && !probing {
            if marked {
                self.marked(now_ns);
            }
            return;
        }
        self.measure(now_ns, segment, &news);
        let new_round = self.map.start() >= self.usage.round_end && news.acked > 0;
        if new_round {
            self.usage.round_end = self.map.end();
        }
        self.end_tail_probe(now_ns, &news, segment, same);
        self.count_duplicates(&mut news);
        let lost_before = self.map.lost();
        self.detect(now_ns, &news);
        let lost = self.map.lost() > lost_before;
        if lost {
            let bytes = (self.map.lost() - lost_before) as u32;
            self.trace.record(now_ns, Event::Lost, bytes, self.window.bytes as u32);
        }
        let mut reduced = matches!(self.recovery.phase, Phase::Recovery | Phase::Reduced);
        self.change_phase(now_ns, segment, &news, before);
        if marked {
            reduced |= self.marked(now_ns);
        }
        match self.recovery.phase {
            Phase::Open | Phase::Loss if news.acked > 0 => {
                let rtt_ns = news.newest_ns.filter(|_| !news.ambiguous);
                let acked = Acked {
                    now_ns,
                    // What ends a reduction leaves the window at the threshold (RFC 6582 §3.2, step 3).
                    bytes: if reduced { 0 } else { news.delivered },
                    rtt_ns: rtt_ns.map(|sent_ns| now_ns.saturating_sub(sent_ns)),
                    smoothed_rtt_ns: self.rtt.smoothed_ns().unwrap_or(0),
                    new_round,
                    limited: self.is_limited(),
                };
                self.control.acked(&mut self.window, &acked);
            }
            Phase::Recovery | Phase::Reduced => self.reduce(&news, lost),
            Phase::Open | Phase::Loss => {}
        }
        if news.acked > 0 {
            self.send.more = false;
            self.send.records.forget(self.map.start());
            self.timers.restart(now_ns);
            self.path.confirm();
            if self.path.arrived(now_ns, self.map.start()) {
                self.mtu_changed(now_ns);
            }
        }
        self.recovery.forgiven = self.recovery.forgiven.min(self.map.lost());
        self.arm_retransmission(now_ns);
    }

    fn change_phase(&mut self, now_ns: u64, segment: &Segment, news: &News, before: Position) {
        let una = self.map.start();
        let advanced = una > before;
        if matches!(self.recovery.phase, Phase::Recovery | Phase::Loss)
            && self.was_spurious(segment, news, advanced)
        {
            self.undo(now_ns);
        }
        match self.recovery.phase {
            Phase::Loss => {
                if self.forward_retransmit(news, advanced) {
                    self.undo(now_ns);
                } else if una >= self.recovery.high {
                    self.end_phase(now_ns);
                }
            }
            Phase::Recovery | Phase::Reduced if una >= self.recovery.high && advanced => {
                self.end_phase(now_ns);
            }
            _ => {}
        }
        self.begin_if_congested(now_ns);
    }

    /// Losses, other than those of known reason, are congestion; whether they begin a recovery.
    fn begin_if_congested(&mut self, now_ns: u64) -> bool {
        let lost = self.map.lost() > self.recovery.forgiven;
        let begins = lost && matches!(self.recovery.phase, Phase::Open | Phase::Reduced);
        if begins {
            self.begin(now_ns, Phase::Recovery);
            self.counts.recoveries += 1;
        }
        begins
    }

    /// Time alone showed that something is lost.
    pub(crate) fn reordering_due(&mut self, now_ns: u64) {
        let before = self.map.lost();
        self.detect_by_time(now_ns);
        if self.map.lost() > before && self.begin_if_congested(now_ns) {
            self.reduce(&News::default(), true);
        }
    }

    /// The probe for a larger packet was lost: not congestion, but an answer (RFC 4821 §7.4).
    pub(crate) fn forgive_path_probe(&mut self, now_ns: u64) {
        let Some(probe) = self.path.probe().cloned() else { return };
        if self.map.first_lost().is_some_and(|(lost, _)| lost.start == probe.start) {
            self.recovery.forgiven += probe.end - probe.start;
            self.path.lost(now_ns);
        }
    }

    /// Packets may be smaller or larger from now on. What was sent in larger ones is lost, and not for
    /// congestion (RFC 8201 §5.3, RFC 1191 §6.3).
    pub(crate) fn mtu_changed(&mut self, now_ns: u64) {
        let before = self.window.segment;
        self.set_segment_bytes();
        let (segment, start) = (self.window.segment, self.map.start());
        self.trace.record(now_ns, Event::Mtu, u32::from(self.path.mtu()), before as u32);
        if segment >= before || !self.state.is_synchronised() {
            return;
        }
        let mut at = start;
        let lost = self.map.mark_lost(|_, entry| {
            let bytes = (entry.end - at) / u64::from(entry.segments.max(1));
            at = entry.end;
            Some(bytes > segment)
        });
        self.recovery.forgiven += lost;
        self.recovery.frto = Doubt::None;
        self.arm_retransmission(now_ns);
    }

    /// Whether all that was sent again had arrived the first time: the echo is older than the
    /// retransmission (RFC 3522), or every one was reported as a duplicate (RFC 3708).
    fn was_spurious(&self, segment: &Segment, news: &News, advanced: bool) -> bool {
        let Some(undo) = &self.recovery.undo else { return false };
        let Some(clock) = undo.clock else { return false };
        let echo = segment.options.timestamps.filter(|_| self.clock.on && advanced);
        let older = echo
            .is_some_and(|clocks| clocks.echo != 0 && (clocks.echo.wrapping_sub(clock) as i32) < 0);
        older || (news.duplicate && undo.again == 0)
    }

    /// RFC 5682 §2.1, and §3.1 for peers that report what arrived out of order; whether the time-out was
    /// spurious.
    fn forward_retransmit(&mut self, news: &News, advanced: bool) -> bool {
        let (una, high) = (self.map.start(), self.recovery.high);
        match self.recovery.frto {
            Doubt::None => false,
            // Step 2: the first answer proves nothing, but a duplicate says that something is missing,
            // and so does everything at once.
            Doubt::Asked => {
                if !advanced {
                    if !self.send.sack && news.pure_duplicate {
                        self.recovery.frto = Doubt::None;
                    }
                } else if una < high && self.unsent() > 0 && una + self.send.window > self.map.end()
                {
                    self.recovery.frto = Doubt::Tested;
                } else {
                    self.recovery.frto = Doubt::None;
                }
                false
            }
            // Step 3: old data that was not sent again arrived, or only what is new.
            Doubt::Tested => {
                let spurious = news.original && !news.beyond;
                if !spurious && (news.pure_duplicate || news.sacked > 0) {
                    self.recovery.frto = Doubt::None;
                }
                spurious
            }
        }
    }

    fn undo(&mut self, now_ns: u64) {
        if let Some(undo) = self.recovery.undo.take() {
            self.map.unmark_lost();
            self.window.bytes = self.window.bytes.max(undo.window.bytes);
            self.window.threshold = self.window.threshold.max(undo.window.threshold);
            self.control.undo();
            self.rtt.calm();
            self.counts.undone += 1;
            self.recovery.phase = Phase::Open;
            self.recovery.frto = Doubt::None;
            self.recovery.duplicates = 0;
            let (una, window) = (self.map.start().wire(), self.window.bytes as u32);
            self.trace.record(now_ns, Event::Undone, una, window);
        }
    }

    pub(crate) fn begin(&mut self, now_ns: u64, phase: Phase) {
        let flight = self.map.end() - self.map.start();
        let fresh = self.recovery.phase == Phase::Open;
        if !fresh && phase == Phase::Loss {
            self.window.threshold = self.control.timed_out_again(&self.window, flight);
        }
        if fresh {
            let window = self.window;
            // What tells of the loss may have acknowledged much of it, and a mark may have come with the
            // acknowledgment of all: what was under way before counts.
            let flight = flight.max(self.usage.flight_max);
            self.window.threshold = match phase {
                Phase::Loss => self.control.timed_out(&window, flight),
                _ => self.control.congested(&window, flight),
            };
            let from = self.map.start();
            self.recovery.undo = Some(Undo { window, again: 0, clock: None, from });
            self.recovery.rate = Reduction { flight: flight.max(1), delivered: 0, sent: 0 };
        }
        // RFC 3168 §6.1.2: said after every reduction.
        self.ecn.reduced = self.ecn.on;
        self.recovery.phase = phase;
        self.recovery.high = self.map.end();
        self.recovery.tail = None;
        let (high, threshold) = (self.recovery.high.wire(), self.window.threshold as u32);
        self.trace.record(now_ns, Event::RecoveryBegan, high, threshold);
    }

    pub(crate) fn end_phase(&mut self, now_ns: u64) {
        if self.recovery.phase != Phase::Loss {
            self.window.bytes = self.window.threshold.max(self.window.segment);
        }
        let rack = &mut self.recovery.rack;
        rack.persist = rack.persist.saturating_sub(1);
        if rack.persist == 0 {
            rack.multiplier = 1;
        }
        self.recovery.phase = Phase::Open;
        self.recovery.frto = Doubt::None;
        self.recovery.duplicates = 0;
        if self.map.lost() == 0 && self.map.is_empty() {
            self.recovery.undo = None;
        }
        let (una, window) = (self.map.start().wire(), self.window.bytes as u32);
        self.trace.record(now_ns, Event::RecoveryEnded, una, window);
    }

    /// The window during recovery (RFC 6937 §3): as many bytes leave as arrive, times the reduction.
    fn reduce(&mut self, news: &News, lost: bool) {
        let (segment, threshold) = (self.window.segment, self.window.threshold);
        let mut delivered = news.delivered;
        if !self.send.sack && news.pure_duplicate {
            delivered += segment;
        }
        let pipe = self.pipe();
        let rate = &mut self.recovery.rate;
        rate.delivered += delivered;
        let send = if pipe > threshold {
            let share = u128::from(rate.delivered) * u128::from(threshold);
            let share = u64::try_from(share.div_ceil(u128::from(rate.flight))).unwrap_or(u64::MAX);
            share.saturating_sub(rate.sent)
        } else {
            let mut limit = rate.delivered.saturating_sub(rate.sent).max(delivered);
            if news.acked > 0 && !lost {
                limit += segment;
            }
            (threshold - pipe).min(limit)
        };
        // The first retransmission leaves at once.
        let least =
            if rate.sent == 0 && self.recovery.phase == Phase::Recovery { segment } else { 0 };
        self.window.bytes = pipe + send.max(least);
    }

    /// The peer saw a congestion mark (RFC 3168 §6.1.2): once a round trip, as for a loss. Whether it is
    /// news.
    fn marked(&mut self, now_ns: u64) -> bool {
        if self.recovery.phase != Phase::Open || self.map.start() <= self.recovery.high {
            return false;
        }
        let (una, window) = (self.map.start().wire(), self.window.bytes as u32);
        self.trace.record(now_ns, Event::Marked, una, window);
        self.begin(now_ns, Phase::Reduced);
        // A mark is not a mistake.
        self.recovery.undo = None;
        if self.map.is_empty() {
            // Nothing is under way whose acknowledgments could pace the reduction.
            self.end_phase(now_ns);
        }
        true
    }

    /// The time-out expired (RFC 6298 §5.4 to 5.6, RFC 5681 §3.1, RFC 8985 §6.3).
    pub(crate) fn time_out(&mut self, now_ns: u64) {
        let timeout_us = self.rtt.timeout_ns(&self.rto_bounds()) / 1000;
        let una = self.map.start();
        self.trace.record(now_ns, Event::TimedOut, una.wire(), timeout_us as u32);
        self.counts.timeouts += 1;
        // Who counts repetitions means those that are ever farther apart.
        let linear = match self.config.syn_repetitions {
            None => u64::from(self.config.syn_linear_timeouts),
            Some(_) => 0,
        };
        if self.state != State::SynSent || self.counts.timeouts > linear {
            self.rtt.back_off();
        }
        if self.map.front().is_some_and(|front| front.fate == Fate::Sacked) {
            // The peer had it, and has it no longer (RFC 2018 §8).
            self.map.unmark_sacked();
        }
        let phase = self.recovery.phase;
        let probing = self.path.probe().is_some();
        self.path.lost(now_ns);
        if self.recovery.phase != Phase::Loss {
            // A reduction that was begun counts; the one for the time-out replaces it.
            if una >= self.recovery.high {
                self.recovery.phase = Phase::Open;
            }
            self.begin(now_ns, Phase::Loss);
        } else {
            self.recovery.high = self.map.end();
        }
        let settle_ns = self.recovery.rack.rtt_ns + self.reordering_window_ns();
        let sack = self.send.sack;
        self.map.mark_lost(|start, entry| {
            Some(start == una || !sack || entry.sent_ns + settle_ns <= now_ns)
        });
        self.recovery.duplicates = 0;
        self.recovery.tail = None;
        // Asked once (RFC 5682 §2.1, step 1): a second time-out says that the first one was right.
        let doubtful = !probing && !matches!(phase, Phase::Recovery | Phase::Loss);
        self.recovery.frto = if doubtful { Doubt::Asked } else { Doubt::None };
        self.window.bytes = self.pipe() + self.window.segment;
        self.timers.reorder_ns = None;
    }

    /// Whether the congestion window is what limits the sender.
    fn is_limited(&self) -> bool {
        self.usage.limited
            || (self.window.is_slow_start() && self.window.bytes < 2 * self.usage.flight_max)
    }
}
