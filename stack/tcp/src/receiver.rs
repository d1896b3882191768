//! The receiving half: which bytes are accepted, what window is announced, when to acknowledge.
//!
//! # Invariants
//!
//! 1. `read ≤ next ≤ edge`: the edge of the announced window never moves back (RFC 9293 SHLD-14).
//! 2. Every byte of the stream is accepted once ([`Held`]).
//! 3. The edge alone decides what is accepted: what a window invited is kept, whatever became of the
//!    buffer meanwhile. So it is announced with care: at most two units of the window's scale beyond
//!    what the buffer was meant for ([`Receiver::window`]).

use std::ops::Range;

use crate::Position;
use crate::held::Held;
use crate::options::SackBlocks;

/// Bytes of an arrived segment to keep, and where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Place of the first in the stream that the peer sends, from 0 on.
    pub offset: u64,
    /// How many bytes of the payload to skip.
    pub skip: u32,
    /// How many to keep.
    pub bytes: u32,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    /// The peer's SYN.
    initial: Position,
    /// The next byte expected.
    next: Position,
    /// The next byte that the application will read.
    read: Position,
    /// End of the widest window that was announced; up to here everything is kept.
    edge: Position,
    /// End of the window that was announced last, which may stand up to a unit of its scale lower.
    told: Position,
    /// The largest window that was ever announced.
    announced_max: u64,
    /// Shift of the windows we announce.
    pub(crate) shift: u8,
    /// Bytes that can be received and not read.
    capacity: u64,
    /// No wider window is announced, whatever the capacity.
    clamp: u64,
    /// The peer's FIN.
    fin: Option<Position>,
    held: Held,
    /// What arrived twice, to be reported (RFC 2883).
    duplicate: Option<Range<Position>>,
    /// Where urgent data ends.
    pub(crate) urgent: Option<Position>,
    pub(crate) acks: Acks,
    tuning: Tuning,
}

/// What is owed to the peer in acknowledgments.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// One is to go out at the next opportunity.
    pub(crate) now: bool,
    /// One is to go out by then.
    pub(crate) deadline: Option<u64>,
    /// What the last one acknowledged.
    pub(crate) sent: Position,
    /// So many segments are still acknowledged at once: a sender that has just begun waits for it.
    quick: u8,
    /// Largest segment the peer seems to send.
    pub(crate) segment_bytes: u32,
    /// The MSS we told it: what is longer was merged on its way here.
    segment_bytes_max: u32,
    /// When data came last.
    pub(crate) last_data_ns: u64,
    /// Duplicates owed to a peer that counts them because it knows no selective ones.
    pub(crate) repeats: u8,
}

/// Grows the buffer with what the application reads in a round trip.
#[derive(Debug)]
struct Tuning {
    max: u64,
    wanted: u64,
    since_ns: u64,
    read_then: Position,
    /// A round trip as the receiver sees it.
    rtt_ns: Option<u64>,
    /// A window's worth of data measures it, if nothing else does.
    window_since_ns: u64,
    window_end: Position,
}

/// What became of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Placed {
    pub(crate) keep: Option<Keep>,
    /// Whether the next byte expected is another one now.
    pub(crate) advanced: bool,
}

impl Receiver {
    /// Segments acknowledged at once at the start.
    const QUICK: u8 = 16;

    pub(crate) fn new(capacity: u32, max: u32, shift: u8, now_ns: u64) -> Self {
        let capacity = u64::from(capacity);
        let nowhere = Position::default();
        Self {
            initial: nowhere,
            next: nowhere,
            read: nowhere,
            edge: nowhere,
            told: nowhere,
            announced_max: 0,
            shift,
            capacity,
            clamp: u64::MAX,
            fin: None,
            held: Held::default(),
            duplicate: None,
            urgent: None,
            acks: Acks::default(),
            tuning: Tuning {
                max: u64::from(max).max(capacity),
                wanted: capacity,
                since_ns: now_ns,
                read_then: nowhere,
                rtt_ns: None,
                window_since_ns: now_ns,
                window_end: nowhere,
            },
        }
    }

    /// The window that our SYN tells before the peer's number is known.
    pub(crate) fn offer(&mut self) -> u16 {
        let window = self.capacity.min(self.clamp).min(0xffff);
        self.announced_max = self.announced_max.max(window);
        window as u16
    }

    /// Takes over the number of the peer's SYN.
    pub(crate) fn synchronise(&mut self, number: u32, mss: u16) {
        self.initial = Position::initial(number);
        self.next = self.initial + 1;
        self.read = self.next;
        self.edge = self.next + self.announced_max;
        self.told = self.edge;
        self.acks.sent = self.next;
        self.acks.quick = Self::QUICK;
        self.acks.segment_bytes = u32::from(mss.min(536));
        self.acks.segment_bytes_max = u32::from(mss);
        self.tuning.read_then = self.next;
        self.tuning.window_end = self.next;
    }

    /// Bytes of the stream that arrived in order.
    pub(crate) fn received(&self) -> u64 {
        self.read - (self.initial + 1).min(self.read) + self.readable()
    }

    pub(crate) const fn next(&self) -> Position {
        self.next
    }

    pub(crate) const fn edge(&self) -> Position {
        self.edge
    }

    /// Bytes that can be read.
    pub(crate) fn readable(&self) -> u64 {
        let end = if self.is_finished() { self.next.before(1) } else { self.next };
        end - self.read
    }

    /// Whether all of the stream has arrived.
    pub(crate) fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    pub(crate) fn has_gaps(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn held_stretches(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn offset(&self, at: Position) -> u64 {
        at - (self.initial + 1)
    }

    /// Whether a segment touches the window (RFC 9293 §3.10.7.4, first). One that begins left of it but
    /// reaches into it does; so does an empty one at either edge.
    pub(crate) fn accepts(&self, start: Position, bytes: u64) -> bool {
        if bytes == 0 {
            // Acknowledgments that data overtook on the way are still good (Linux does the same).
            return start >= self.acks.sent.min(self.next) && start <= self.edge.max(self.next);
        }
        // With a closed window, what begins at it is looked at, though no byte is kept (MUST-66).
        start + bytes > self.next && (start < self.edge || start == self.next)
    }

    /// Where what is accepted ends: at the edge of what was announced, or at the end of the stream.
    fn limit(&self) -> Position {
        let edge = self.edge.max(self.next);
        self.fin.map_or(edge, |fin| edge.min(fin))
    }

    /// Keeps what is new of a payload that begins at `start`; `fin` follows it.
    pub(crate) fn place(&mut self, start: Position, bytes: u64, fin: bool) -> Placed {
        let end = start + bytes;
        let limit = self.limit();
        let range = start.max(self.next)..end.min(limit);
        self.note_duplicate(start, end);
        let mut placed = Placed::default();
        if range.start < range.end {
            placed = self.keep(start, range);
        }
        if fin && self.fin.is_none() && (self.next..=limit).contains(&end) {
            // A FIN in the midst of what was received already is a lie.
            self.fin = self.held.end().is_none_or(|held| held <= end).then_some(end);
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            placed.advanced = true;
        }
        placed
    }

    /// Keeps the next part that is new of a payload of which [`Self::place`] has kept one.
    pub(crate) fn place_more(&mut self, start: Position, bytes: u64) -> Placed {
        let range = start.max(self.next)..(start + bytes).min(self.limit());
        let mut placed = Placed::default();
        if range.start < range.end {
            placed = self.keep(start, range);
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            placed.advanced = true;
        }
        placed
    }

    fn keep(&mut self, start: Position, range: Range<Position>) -> Placed {
        let Some(part) = self.held.missing(range.clone()) else {
            self.held.touch(range.start);
            return Placed::default();
        };
        let advanced = part.start == self.next;
        if advanced {
            self.next = self.held.continue_from(part.end);
        } else if !self.held.insert(part.clone()) {
            return Placed::default();
        }
        let keep = Keep {
            offset: self.offset(part.start),
            skip: (part.start - start) as u32,
            bytes: (part.end - part.start) as u32,
        };
        Placed { keep: Some(keep), advanced }
    }

    /// Remembers the first part of a segment that was here before (RFC 2883 §4).
    pub(crate) fn note_duplicate(&mut self, start: Position, end: Position) {
        let below = start..end.min(self.next);
        if below.start < below.end {
            self.duplicate = Some(below);
        } else if let Some(part) = self.held.overlap(&(start..end)) {
            self.duplicate = Some(part);
        }
    }

    /// The application has read `bytes`; whether the window opens so much that the peer should hear
    /// of it (RFC 9293 §3.8.6.2.2, MUST-39).
    pub(crate) fn consume(&mut self, now_ns: u64, bytes: u64) -> bool {
        self.read += bytes.min(self.readable());
        self.tune(now_ns);
        self.opens()
    }

    /// Whether an announcement now would open the window by enough: a peer that has more than half of it
    /// left is told with the next acknowledgment anyway.
    pub(crate) fn opens(&self) -> bool {
        let left = self.told - self.next;
        let news = self.window(self.shift).saturating_sub(left);
        if left < u64::from(self.acks.segment_bytes) {
            return news >= self.least();
        }
        left <= self.announced_max / 2 && news >= left.max(self.least())
    }

    /// No smaller increase of the window is announced: a segment, or half of the buffer.
    fn least(&self) -> u64 {
        u64::from(self.acks.segment_bytes).min(self.store() / 2).max(1)
    }

    /// What windows are made of: the buffer, or what can be told of it if the scale is too coarse for its
    /// size. (A peer to whom no window can be told would never send.)
    fn store(&self) -> u64 {
        self.capacity.min(self.clamp).max(2 << self.shift)
    }

    /// No wider window is announced from now on. What was announced stays.
    pub(crate) const fn set_clamp(&mut self, bytes: u64) {
        self.clamp = bytes;
    }

    /// The window that would be announced now with this `shift`.
    ///
    /// It opens by whole units, as far as there is room. What was announced is not taken back: where it is
    /// no whole unit any more, the window is rounded up to one (RFC 7323 §2.4 leaves the choice), but not by
    /// more than two units beyond the room in all; or a peer that sends less than a unit at a time
    /// would move the edge for ever, and all that is to be kept. From there on less is told than is kept.
    fn window(&self, shift: u8) -> u64 {
        let unit = 1u64 << shift;
        let max = 0xffff << shift;
        let end = self.read + self.store();
        let open = ((end - self.next) / unit * unit).min(max);
        let old = self.edge - self.next;
        if open >= old + self.least() {
            return open;
        }
        let up = old.next_multiple_of(unit);
        let bearable = if self.next + up <= end + 2 * unit { up } else { old / unit * unit };
        bearable.min(max)
    }

    /// Changes how many bytes can be received and not read. A window once announced stays.
    pub(crate) const fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    pub(crate) const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How large the buffer should be by now.
    pub(crate) const fn wanted(&self) -> u64 {
        self.tuning.wanted
    }

    /// The window to announce, as it stands in a header; `scaled` unless that is a SYN's.
    pub(crate) fn announce(&mut self, scaled: bool) -> u16 {
        let shift = if scaled { self.shift } else { 0 };
        self.tell(self.window(shift), shift)
    }

    /// The window to announce before the handshake is complete: what our SYN told, in whole units. Until then
    /// the peer may be nobody.
    pub(crate) fn announce_early(&mut self) -> u16 {
        let told_max = 0xffff_u64.next_multiple_of(1 << self.shift);
        self.tell(self.window(self.shift).min(told_max), self.shift)
    }

    fn tell(&mut self, window: u64, shift: u8) -> u16 {
        self.told = self.next + window;
        self.edge = self.edge.max(self.told);
        self.announced_max = self.announced_max.max(window);
        (window >> shift) as u16
    }

    /// Blocks for an acknowledgment: first what arrived twice, then what is held (RFC 2018, 2883).
    pub(crate) fn report(&mut self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some(duplicate) = self.duplicate.take() {
            blocks.push(duplicate.start.wire(), duplicate.end.wire());
        }
        self.held.report(&mut blocks);
        blocks
    }

    pub(crate) const fn owes_report(&self) -> bool {
        self.duplicate.is_some()
    }

    /// Data arrived in order or not: decides when to acknowledge it (MUST-58, SHLD-18, RFC 5681 §4.2).
    pub(crate) fn note_data(&mut self, now_ns: u64, bytes: u32, delay_ns: u64, placed: Placed) {
        let acks = &mut self.acks;
        if now_ns.saturating_sub(acks.last_data_ns) > 1_000_000_000 {
            // The sender may have restarted with a small window.
            acks.quick = acks.quick.max(2);
        }
        acks.last_data_ns = now_ns;
        acks.segment_bytes = acks.segment_bytes.max(bytes.min(acks.segment_bytes_max));
        let unacknowledged = self.next - acks.sent;
        let immediate = !placed.advanced
            || !self.held.is_empty()
            || acks.quick > 0
            || unacknowledged > u64::from(acks.segment_bytes);
        acks.quick = acks.quick.saturating_sub(1);
        if immediate {
            acks.now = true;
        } else if acks.deadline.is_none() {
            acks.deadline = Some(now_ns + delay_ns);
        }
    }

    /// An acknowledgment of everything leaves.
    pub(crate) const fn acknowledged(&mut self) {
        self.acks.now = false;
        self.acks.deadline = None;
        self.acks.repeats = 0;
        self.acks.sent = self.next;
    }

    /// Data leaves: if it answers data that just came, acknowledgments can wait for the next answer.
    pub(crate) const fn answered(&mut self, now_ns: u64, delay_ns: u64) {
        if now_ns.saturating_sub(self.acks.last_data_ns) < delay_ns {
            self.acks.quick = 0;
        }
    }

    /// Data leaves: if it carries the acknowledgment of the peer's SYN, others can wait for data, too.
    pub(crate) fn answered_syn(&mut self) {
        if self.received() == 0 && (self.acks.now || self.acks.deadline.is_some()) {
            self.acks.quick = 0;
        }
    }

    /// A round trip as the peer's echoes show it.
    pub(crate) fn note_rtt(&mut self, rtt_ns: u64) {
        let tuning = &mut self.tuning;
        tuning.rtt_ns = Some(tuning.rtt_ns.map_or(rtt_ns, |old| (7 * old + rtt_ns) / 8));
    }

    /// A window's worth of data takes a round trip at least.
    pub(crate) fn note_window(&mut self, now_ns: u64) {
        if self.next >= self.tuning.window_end {
            if self.tuning.rtt_ns.is_none() && self.tuning.window_end > self.initial + 1 {
                self.tuning.rtt_ns =
                    Some(now_ns.saturating_sub(self.tuning.window_since_ns).max(1));
            }
            self.tuning.window_since_ns = now_ns;
            self.tuning.window_end = self.edge;
        }
    }

    /// If the application read in a round trip more than half of what the buffer holds, the buffer is
    /// what limits the sender: twice of what was read, and room for the growth meanwhile.
    fn tune(&mut self, now_ns: u64) {
        let Some(rtt_ns) = self.tuning.rtt_ns else { return };
        let tuning = &mut self.tuning;
        if now_ns.saturating_sub(tuning.since_ns) < rtt_ns {
            return;
        }
        let read = self.read - tuning.read_then;
        let segment = u64::from(self.acks.segment_bytes);
        let wanted = (2 * read + 16 * segment).min(tuning.max);
        tuning.wanted = tuning.wanted.max(wanted);
        tuning.since_ns = now_ns;
        tuning.read_then = self.read;
    }
}

#[cfg(test)]
mod tests;
