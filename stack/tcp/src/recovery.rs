//! What was lost: detection (RFC 8985), repair at a measured pace (RFC 6937), and second thoughts
//! (RFC 5682, RFC 3522, RFC 3708).
//!
//! With selective acknowledgments, time decides: a segment is lost if one that was sent enough later has
//! arrived (RACK). Without them, three duplicates do (RFC 6582). If the answer to the last segments
//! is lost, a probe gets one (TLP). Only if all of this fails the time-out does.

use crate::congestion::{Acked, Window};
use crate::connection::{Connection, TICK_NS};
use crate::send_map::{Entry, Fate};
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
    high: Position,
    rate: Reduction,
    undo: Option<Undo>,
    /// Looking whether the time-out was spurious (RFC 5682).
    pub(crate) frto: bool,
    /// That wants new data sent before old.
    pub(crate) new_first: bool,
    /// Duplicates of a peer that reports nothing selectively.
    duplicates: u32,
    rack: Rack,
    pub(crate) tail: Option<TailProbe>,
    /// End of the highest byte sent again.
    again_end: Position,
    /// Bytes that are lost for a known reason, which is not congestion.
    pub(crate) forgiven: u64,
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
struct Undo {
    window: Window,
    /// Segments sent again that the peer has not reported as duplicates.
    again: u32,
    /// What our clock showed when the first one was sent again.
    clock: Option<u32>,
    /// Where the episode began.
    from: Position,
}

/// A segment sent for its acknowledgment's sake (RFC 8985 §7).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailProbe {
    pub(crate) end: Position,
    /// Whether it was old data.
    pub(crate) again: bool,
}

/// RFC 8985 §5.2.
#[derive(Debug, Clone, Copy)]
struct Rack {
    sent_ns: u64,
    end: Position,
    rtt_ns: u64,
    /// Highest byte that arrived.
    highest: Position,
    reordering: bool,
    multiplier: u64,
    persist: u8,
    duplicate_round: Option<Position>,
}

/// What an acknowledgment brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Bytes cumulatively acknowledged.
    acked: u64,
    /// Bytes acknowledged in either way for the first time.
    delivered: u64,
    /// Bytes selectively acknowledged for the first time.
    sacked: u64,
    /// Something that was sent only once, before the phase began.
    original: bool,
    /// Cumulatively acknowledged: something sent more than once.
    ambiguous: bool,
    oldest_ns: Option<u64>,
    newest_ns: Option<u64>,
    sacked_ns: Option<u64>,
    /// The peer got something twice.
    duplicate: bool,
    /// RFC 5681 §2: an acknowledgment that acknowledges nothing new and says nothing else.
    pure_duplicate: bool,
}

/// Worst delay of an acknowledgment to expect (RFC 8985 §7.2).
const ACK_DELAY_MAX_NS: u64 = 200_000_000;

/// Duplicates that mean a loss (RFC 5681 §3.2).
const DUPLICATES: u32 = 3;

impl Recovery {
    pub(crate) const fn new(start: Position) -> Self {
        Self {
            phase: Phase::Open,
            high: start,
            rate: Reduction { flight: 0, delivered: 0, sent: 0 },
            undo: None,
            frto: false,
            new_first: false,
            duplicates: 0,
            rack: Rack {
                sent_ns: 0,
                end: start,
                rtt_ns: 0,
                highest: start,
                reordering: false,
                multiplier: 1,
                persist: 16,
                duplicate_round: None,
            },
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

impl Rack {
    /// Something arrived that was sent at `sent_ns` (RFC 8985 §6.2, steps 1 to 3).
    fn arrived(&mut self, now_ns: u64, entry: &Entry, min_rtt_ns: u64, echo_is_older: bool) {
        if entry.end > self.highest {
            self.highest = entry.end;
        } else if entry.end < self.highest && entry.is_first() {
            self.reordering = true;
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
    /// Bytes thought to be in the network.
    pub(crate) fn pipe(&self) -> u64 {
        // Every duplicate says that something has left the network (RFC 6582 §3.2, step 3).
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
        let silent = news.acked == 0 && news.sacked == 0 && !news.duplicate;
        if silent && !news.pure_duplicate && !probing {
            return;
        }
        self.measure(now_ns, segment, &news);
        let new_round = self.map.start() >= self.usage.round_end && news.acked > 0;
        if new_round {
            self.usage.round_end = self.map.end();
        }
        self.end_tail_probe(now_ns, &news, segment, same);
        self.count_duplicates(&news);
        let lost_before = self.map.lost();
        self.detect(now_ns, &news);
        let lost = self.map.lost() > lost_before;
        if lost {
            let bytes = (self.map.lost() - lost_before) as u32;
            self.trace.record(now_ns, Event::Lost, bytes, self.window.bytes as u32);
        }
        self.change_phase(now_ns, segment, &news, before);
        match self.recovery.phase {
            Phase::Open | Phase::Loss if news.acked > 0 => {
                let rtt_ns = news.newest_ns.filter(|_| !news.ambiguous);
                let acked = Acked {
                    now_ns,
                    bytes: news.delivered,
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
            self.timers.restart(now_ns);
            if self.path.arrived(now_ns, self.map.start()) {
                self.mtu_changed(now_ns);
            }
        }
        self.recovery.forgiven = self.recovery.forgiven.min(self.map.lost());
        self.arm_retransmission(now_ns);
    }

    /// Updates the send map.
    fn take_in(&mut self, now_ns: u64, segment: &Segment, ack: Position) -> News {
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
        let (high, min_rtt_ns) = (self.recovery.high, self.rtt.min_ns().unwrap_or(0));
        let echo = segment.options.timestamps.filter(|_| self.clock.on).map(|clocks| clocks.echo);
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
                if entry.is_first() {
                    news.sacked_ns = news.sacked_ns.max(Some(entry.sent_ns));
                }
                rack.arrived(now_ns, entry, min_rtt_ns, older(entry));
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
            rack.arrived(now_ns, entry, min_rtt_ns, older(entry));
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

    /// Takes a round-trip time (RFC 6298 §3, RFC 7323 §4).
    fn measure(&mut self, now_ns: u64, segment: &Segment, news: &News) {
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
    fn count_duplicates(&mut self, news: &News) {
        if self.send.sack {
            return;
        }
        let recovery = &mut self.recovery;
        if news.acked > 0 {
            let segments = (news.acked / self.window.segment.max(1)) as u32;
            recovery.duplicates = recovery.duplicates.saturating_sub(segments.max(1) - 1);
            if recovery.phase == Phase::Open {
                recovery.duplicates = 0;
            }
        } else if news.pure_duplicate {
            let flight = (self.map.in_flight() / self.window.segment.max(1)) as u32;
            recovery.duplicates = (recovery.duplicates + 1).min(flight);
        }
    }

    /// Finds losses.
    fn detect(&mut self, now_ns: u64, news: &News) {
        if self.send.sack {
            self.detect_by_time(now_ns);
            return;
        }
        let recovery = &self.recovery;
        let enough = recovery.duplicates >= DUPLICATES
            && recovery.phase == Phase::Open
            && self.map.start() >= recovery.high;
        // RFC 6582 §3.2, step 3: a partial acknowledgment shows the next loss.
        let partial = matches!(recovery.phase, Phase::Recovery)
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
    fn reordering_window_ns(&self) -> u64 {
        let rack = &self.recovery.rack;
        let repairing = matches!(self.recovery.phase, Phase::Recovery | Phase::Loss);
        if !rack.reordering && (repairing || self.map.sacked_segments() >= DUPLICATES) {
            return 0;
        }
        let quarter = self.rtt.min_ns().unwrap_or(0) / 4;
        (quarter * rack.multiplier).min(self.rtt.smoothed_ns().unwrap_or(u64::MAX))
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
                if self.recovery.frto && self.forward_retransmit(news, advanced) {
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
    fn forgive_path_probe(&mut self, now_ns: u64) {
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
        self.recovery.frto = false;
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

    /// RFC 5682 §3.1, the version with selective acknowledgments; whether the time-out was spurious.
    fn forward_retransmit(&mut self, news: &News, advanced: bool) -> bool {
        self.recovery.new_first = false;
        if news.original {
            return true;
        }
        let una = self.map.start();
        if self.map.end() > self.recovery.high {
            // Step 3a: a duplicate after new data means that the old was lost.
            if news.sacked > 0 || news.pure_duplicate {
                self.recovery.frto = false;
            }
        } else if advanced && una < self.recovery.high {
            // Step 2b: new data, if there is any, brings the answer.
            if self.unsent() > 0 && una + self.send.window > self.map.end() {
                self.recovery.new_first = true;
                self.recovery.high = self.map.end();
            } else {
                self.recovery.frto = false;
            }
        }
        false
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
            self.recovery.frto = false;
            self.recovery.new_first = false;
            self.recovery.duplicates = 0;
            let (una, window) = (self.map.start().wire(), self.window.bytes as u32);
            self.trace.record(now_ns, Event::Undone, una, window);
        }
    }

    fn begin(&mut self, now_ns: u64, phase: Phase) {
        let flight = self.map.end() - self.map.start();
        let fresh = self.recovery.phase == Phase::Open;
        if fresh {
            let window = self.window;
            self.window.threshold = match phase {
                Phase::Loss => self.control.timed_out(&window, flight),
                _ => self.control.congested(&window, flight),
            };
            let from = self.map.start();
            self.recovery.undo = Some(Undo { window, again: 0, clock: None, from });
            self.recovery.rate = Reduction { flight: flight.max(1), delivered: 0, sent: 0 };
        }
        self.recovery.phase = phase;
        self.recovery.high = self.map.end();
        self.recovery.tail = None;
        let (high, threshold) = (self.recovery.high.wire(), self.window.threshold as u32);
        self.trace.record(now_ns, Event::RecoveryBegan, high, threshold);
    }

    fn end_phase(&mut self, now_ns: u64) {
        if self.recovery.phase != Phase::Loss {
            self.window.bytes = self.window.threshold.max(self.window.segment);
        }
        let rack = &mut self.recovery.rack;
        rack.persist = rack.persist.saturating_sub(1);
        if rack.persist == 0 {
            rack.multiplier = 1;
        }
        self.recovery.phase = Phase::Open;
        self.recovery.frto = false;
        self.recovery.new_first = false;
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

    /// The peer saw a congestion mark (RFC 3168 §6.1.2): once a round trip, as for a loss.
    pub(crate) fn marked(&mut self, now_ns: u64) {
        if self.recovery.phase != Phase::Open || self.map.start() < self.recovery.high {
            return;
        }
        let (una, window) = (self.map.start().wire(), self.window.bytes as u32);
        self.trace.record(now_ns, Event::Marked, una, window);
        self.begin(now_ns, Phase::Reduced);
        // A mark is not a mistake.
        self.recovery.undo = None;
        self.ecn.reduced = true;
    }

    /// The time-out expired (RFC 6298 §5.4 to 5.6, RFC 5681 §3.1, RFC 8985 §6.3).
    pub(crate) fn time_out(&mut self, now_ns: u64) {
        let timeout_us = self.rtt.timeout_ns(&self.rto_bounds()) / 1000;
        let una = self.map.start();
        self.trace.record(now_ns, Event::TimedOut, una.wire(), timeout_us as u32);
        self.counts.timeouts += 1;
        self.rtt.back_off();
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
        self.recovery.new_first = false;
        self.recovery.frto = !probing && phase != Phase::Recovery;
        self.window.bytes = self.pipe() + self.window.segment;
        self.timers.reorder_ns = None;
    }

    /// Whether the last segments should be probed for (RFC 8985 §7.2).
    pub(crate) fn wants_tail_probe(&self) -> bool {
        self.send.sack
            && self.recovery.phase == Phase::Open
            && self.map.sacked() == 0
            && self.map.lost() == 0
            && !self.map.is_empty()
            && self.recovery.tail.is_none()
            && self.state.is_synchronised()
    }

    /// When (§7.2): two round trips, and the peer's delay if there is one segment only.
    pub(crate) fn tail_probe_after_ns(&self) -> u64 {
        let Some(smoothed_ns) = self.rtt.smoothed_ns() else { return 1_000_000_000 };
        let single = self.map.in_flight() <= self.window.segment;
        2 * smoothed_ns + if single { ACK_DELAY_MAX_NS } else { 2_000_000 }
    }

    /// RFC 8985 §7.4: what became of the probe.
    fn end_tail_probe(&mut self, now_ns: u64, news: &News, segment: &Segment, same: bool) {
        let Some(tail) = self.recovery.tail else { return };
        let una = self.map.start();
        if una < tail.end {
            return;
        }
        let reports = !segment.options.sack.as_slice().is_empty();
        let unanswered = tail.again && !news.duplicate;
        if unanswered && una == tail.end && !(same && news.acked == 0 && !reports) {
            // A report of the duplicate may still come, if there was one.
            return;
        }
        if unanswered && una > tail.end && self.recovery.phase == Phase::Open {
            // The probe repaired a loss, and a loss is congestion.
            self.begin(now_ns, Phase::Reduced);
            self.end_phase(now_ns);
            self.recovery.undo = None;
        }
        self.recovery.tail = None;
    }

    /// Whether the congestion window is what limits the sender.
    fn is_limited(&self) -> bool {
        self.usage.limited
            || (self.window.is_slow_start() && self.window.bytes < 2 * self.usage.flight_max)
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
