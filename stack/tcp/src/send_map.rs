//! What was sent and is not acknowledged: one entry for each stretch of bytes with the same history.
//!
//! The map is the base of all loss recovery (RFC 8985 §5.1 and RFC 2018 §5 need the same facts): when
//! a byte was sent last, how often, and what became of it.
//!
//! # Invariants
//!
//! 1. Entries lie end to end from the first unacknowledged byte to the last one sent.
//! 2. `in_flight + sacked + lost` is the length of the whole.
//! 3. There are never more than [`SendMap::ENTRIES_MAX`] entries (CVE-2019-11477, 11478 and 11479 came
//!    from the lack of such a bound). When there are, a block that would split one is ignored, new data
//!    waits for an acknowledgment ([`SendMap::has_room`]), and an entry sent again in part counts as
//!    sent again whole: too much is thought to be in flight, never too little, and what did not leave is
//!    found lost once more.
//!
//! # Cost
//!
//! A cumulative acknowledgment takes entries from the front. A block is found by bisection; an entry it
//! covers in part is split, which moves at most the entries behind it.

use std::collections::VecDeque;
use std::ops::Range;

use crate::Position;

/// What became of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Sent, and nothing heard.
    InFlight,
    /// Selectively acknowledged.
    Sacked,
    /// Taken for lost, and not sent again.
    Lost,
}

/// Bytes with the same history; they begin where the entry before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) end: Position,
    /// When they were sent last.
    pub(crate) sent_ns: u64,
    /// The number of that transmission.
    pub(crate) number: u64,
    /// In so many segments.
    pub(crate) segments: u16,
    /// How often they were sent.
    pub(crate) times: u8,
    /// Whether they were taken for lost since they were sent first.
    pub(crate) missed: bool,
    pub(crate) fate: Fate,
}

impl Entry {
    /// Whether an acknowledgment is certain to be of the only transmission (Karn, RFC 6298 §3).
    pub(crate) const fn is_first(&self) -> bool {
        self.times == 1
    }
}

#[derive(Debug)]
pub(crate) struct SendMap {
    start: Position,
    entries: VecDeque<Entry>,
    in_flight: u64,
    sacked: u64,
    lost: u64,
    /// Segments among what is selectively acknowledged.
    sacked_segments: u32,
    /// Nothing below is lost.
    lost_from: Position,
    /// What ends here and what is sent after it are not joined.
    seal: Position,
}

impl SendMap {
    pub(crate) const ENTRIES_MAX: usize = 4096;

    /// Most bytes of an entry: those of one super-segment.
    const ENTRY_BYTES_MAX: u64 = 1 << 16;

    pub(crate) const fn new(start: Position) -> Self {
        Self {
            start,
            entries: VecDeque::new(),
            in_flight: 0,
            sacked: 0,
            lost: 0,
            sacked_segments: 0,
            lost_from: start,
            seal: start,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first byte not acknowledged.
    pub(crate) const fn start(&self) -> Position {
        self.start
    }

    /// The byte after the last one sent.
    pub(crate) fn end(&self) -> Position {
        self.entries.back().map_or(self.start, |entry| entry.end)
    }

    pub(crate) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes in flight that were sent more than once, and of those what had been taken for lost; goes
    /// through the map.
    pub(crate) fn in_flight_again(&self) -> (u64, u64) {
        let (mut start, mut again, mut missed) = (self.start, 0, 0);
        for entry in &self.entries {
            let bytes = entry.end - std::mem::replace(&mut start, entry.end);
            if entry.fate == Fate::InFlight && !entry.is_first() {
                again += bytes;
                missed += if entry.missed { bytes } else { 0 };
            }
        }
        (again, missed)
    }

    pub(crate) const fn sacked(&self) -> u64 {
        self.sacked
    }

    pub(crate) const fn sacked_segments(&self) -> u32 {
        self.sacked_segments
    }

    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The oldest entry.
    pub(crate) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// The newest entry and where it starts.
    pub(crate) fn back(&self) -> Option<(Position, &Entry)> {
        let last = self.entries.len().checked_sub(1)?;
        Some((self.start_of(last), &self.entries[last]))
    }

    fn start_of(&self, index: usize) -> Position {
        index.checked_sub(1).map_or(self.start, |before| self.entries[before].end)
    }

    /// Index of the entry that holds `at`.
    fn find(&self, at: Position) -> usize {
        self.entries.partition_point(|entry| entry.end <= at)
    }

    /// What is sent next is not joined with what was sent last.
    pub(crate) fn seal(&mut self) {
        self.seal = self.end();
    }

    /// Whether [`Self::push`] may be called: there is a place, or the newest entry can grow.
    pub(crate) fn has_room(&self) -> bool {
        let grows = |last: &Entry| last.is_first() && last.fate == Fate::InFlight;
        self.entries.len() < Self::ENTRIES_MAX || self.entries.back().is_some_and(grows)
    }

    /// Records that everything from the end on up to `end` was sent for the first time.
    pub(crate) fn push(&mut self, end: Position, sent_ns: u64, number: u64, segments: u16) {
        let bytes = end - self.end();
        if bytes == 0 {
            return;
        }
        self.in_flight += bytes;
        let full = self.entries.len() >= Self::ENTRIES_MAX;
        let start = self.back().map(|(start, _)| start);
        if let (Some(last), Some(start)) = (self.entries.back_mut(), start) {
            let same = last.sent_ns == sent_ns
                && end - start <= Self::ENTRY_BYTES_MAX
                && last.end != self.seal;
            if last.is_first() && last.fate == Fate::InFlight && (same || full) {
                last.end = end;
                last.sent_ns = sent_ns;
                last.number = number;
                last.segments = last.segments.saturating_add(segments);
                return;
            }
        }
        let fate = Fate::InFlight;
        let missed = false;
        self.entries.push_back(Entry { end, sent_ns, number, segments, times: 1, missed, fate });
    }

    /// Takes everything below `to` out; `each` sees what was not selectively acknowledged before:
    /// bytes and entry.
    pub(crate) fn acknowledge(&mut self, to: Position, mut each: impl FnMut(u64, &Entry)) {
        let to = to.min(self.end());
        while let Some(first) = self.entries.front().copied() {
            if to <= self.start {
                break;
            }
            let end = first.end.min(to);
            let part = if first.end > to { self.cut_front(to) } else { self.entries.pop_front() };
            let bytes = end - self.start;
            self.start = end;
            let Some(part) = part else { break };
            self.discount(bytes, &part);
            if part.fate != Fate::Sacked {
                each(bytes, &part);
            }
        }
        self.lost_from = self.lost_from.max(self.start);
    }

    /// The part of the first entry below `to`, which is within it; the entry keeps the rest.
    fn cut_front(&mut self, to: Position) -> Option<Entry> {
        let start = self.start;
        let first = self.entries.front_mut()?;
        let segments = share(first.segments, to - start, first.end - start);
        let part = Entry { end: to, segments, ..*first };
        let rest = (first.segments - segments).max(1);
        if first.fate == Fate::Sacked {
            self.sacked_segments += u32::from(segments + rest - first.segments);
        }
        first.segments = rest;
        Some(part)
    }

    fn discount(&mut self, bytes: u64, entry: &Entry) {
        match entry.fate {
            Fate::InFlight => self.in_flight -= bytes,
            Fate::Lost => self.lost -= bytes,
            Fate::Sacked => {
                self.sacked -= bytes;
                self.sacked_segments =
                    self.sacked_segments.saturating_sub(u32::from(entry.segments));
            }
        }
    }

    fn set_fate(&mut self, index: usize, fate: Fate) {
        let bytes = self.entries[index].end - self.start_of(index);
        let entry = self.entries[index];
        self.discount(bytes, &entry);
        self.entries[index].fate = fate;
        match fate {
            Fate::InFlight => self.in_flight += bytes,
            Fate::Lost => {
                self.lost += bytes;
                self.entries[index].missed = true;
            }
            Fate::Sacked => {
                self.sacked += bytes;
                self.sacked_segments += u32::from(entry.segments);
            }
        }
    }

    /// Splits the entry at `index` at `at`, if that is inside and there is a place; the first part stays
    /// at `index`.
    fn split(&mut self, index: usize, at: Position) {
        let (start, entry) = (self.start_of(index), self.entries[index]);
        if at <= start || at >= entry.end || self.entries.len() >= Self::ENTRIES_MAX {
            return;
        }
        let segments = share(entry.segments, at - start, entry.end - start);
        let rest = (entry.segments - segments).max(1);
        if entry.fate == Fate::Sacked {
            self.sacked_segments += u32::from(segments + rest - entry.segments);
        }
        self.entries[index] = Entry { end: at, segments, ..entry };
        self.entries.insert(index + 1, Entry { segments: rest, ..entry });
    }

    /// Marks a block as selectively acknowledged; `each` sees what was not before: its start and the
    /// entry.
    pub(crate) fn sack(&mut self, block: Range<Position>, mut each: impl FnMut(Position, &Entry)) {
        let (from, to) = (block.start.max(self.start), block.end.min(self.end()));
        if from >= to {
            return;
        }
        let mut index = self.find(from);
        while index < self.entries.len() && self.start_of(index) < to {
            let (start, entry) = (self.start_of(index), self.entries[index]);
            let whole = start >= from && entry.end <= to;
            if entry.fate == Fate::Sacked {
                index += 1;
                continue;
            }
            if !whole {
                if self.entries.len() + 2 > Self::ENTRIES_MAX {
                    index += 1;
                    continue;
                }
                if start < from {
                    self.split(index, from);
                    index += 1;
                }
                self.split(index, to);
            }
            self.set_fate(index, Fate::Sacked);
            each(self.start_of(index), &self.entries[index]);
            index = self.join_sacked(index) + 1;
        }
    }

    /// Joins the selectively acknowledged entry at `index` with neighbours that are so too, and
    /// returns where it is then: their history is of no use any more.
    fn join_sacked(&mut self, mut index: usize) -> usize {
        if index > 0 && self.entries[index - 1].fate == Fate::Sacked {
            self.join(index - 1);
            index -= 1;
        }
        if self.entries.get(index + 1).is_some_and(|next| next.fate == Fate::Sacked) {
            self.join(index);
        }
        index
    }

    fn join(&mut self, index: usize) {
        let (first, second) = (self.entries[index], self.entries[index + 1]);
        // More would not fit the count; the sum over the map would then be wrong.
        if let Some(segments) = first.segments.checked_add(second.segments) {
            self.entries[index] = Entry { end: second.end, segments, ..first };
            self.entries.remove(index + 1);
        }
    }

    /// Goes through what is in flight, from the oldest byte on, and marks as lost what `is_lost` says;
    /// `None` from it ends the search. Returns the bytes marked.
    pub(crate) fn mark_lost(
        &mut self,
        mut is_lost: impl FnMut(Position, &Entry) -> Option<bool>,
    ) -> u64 {
        let before = self.lost;
        let mut start = self.start;
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            if entry.fate == Fate::InFlight {
                match is_lost(start, &entry) {
                    Some(true) => {
                        self.set_fate(index, Fate::Lost);
                        self.lost_from = self.lost_from.min(start);
                    }
                    Some(false) => {}
                    None => break,
                }
            }
            start = entry.end;
        }
        self.lost - before
    }

    /// Marks the first `bytes` of the map as lost, if they are in flight; the whole first entry if there
    /// is no place to split it.
    pub(crate) fn mark_front_lost(&mut self, bytes: u64) {
        if self.entries.front().is_some_and(|first| first.fate == Fate::InFlight) {
            self.split(0, self.start + bytes);
            self.set_fate(0, Fate::Lost);
            self.lost_from = self.start;
        }
    }

    /// Takes everything that was taken for lost for in flight again.
    pub(crate) fn unmark_lost(&mut self) {
        for index in 0..self.entries.len() {
            if self.entries[index].fate == Fate::Lost {
                self.set_fate(index, Fate::InFlight);
            }
            self.entries[index].missed = false;
        }
        self.lost_from = self.end();
    }

    /// Forgets all selective acknowledgments: the peer went back on them.
    pub(crate) fn unmark_sacked(&mut self) {
        for index in 0..self.entries.len() {
            if self.entries[index].fate == Fate::Sacked {
                self.set_fate(index, Fate::InFlight);
            }
        }
    }

    /// The first lost stretch.
    pub(crate) fn first_lost(&mut self) -> Option<(Range<Position>, Entry)> {
        if self.lost == 0 {
            return None;
        }
        let mut index = self.find(self.lost_from.max(self.start));
        while let Some(entry) = self.entries.get(index) {
            if entry.fate == Fate::Lost {
                let start = self.start_of(index);
                self.lost_from = start;
                return Some((start..entry.end, *entry));
            }
            index += 1;
        }
        None
    }

    /// Records that `part`, which is within one entry, was sent again; the whole entry if there is no
    /// place to split it.
    pub(crate) fn sent_again(
        &mut self,
        part: Range<Position>,
        sent_ns: u64,
        number: u64,
        segments: u16,
    ) {
        let mut index = self.find(part.start);
        if index >= self.entries.len() {
            return;
        }
        self.split(index, part.end);
        self.split(index, part.start);
        if self.entries[index].end <= part.start {
            index += 1;
        }
        self.set_fate(index, Fate::InFlight);
        let whole = self.start_of(index) == part.start && self.entries[index].end == part.end;
        let entry = &mut self.entries[index];
        entry.sent_ns = sent_ns;
        entry.number = number;
        entry.segments = if whole { segments } else { entry.segments };
        entry.times = entry.times.saturating_add(1);
    }
}

/// The share of `segments` that `part` of `whole` bytes has, at least 1.
fn share(segments: u16, part: u64, whole: u64) -> u16 {
    let share = u64::from(segments) * part / whole.max(1);
    (share as u16).clamp(1, segments.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(byte: u64) -> Position {
        Position::initial(7) + byte
    }

    #[test]
    fn blocks_that_would_make_too_many_entries_are_ignored() {
        let mut map = SendMap::new(at(0));
        let end = 40_000;
        map.push(at(end), 1, 1, 28);
        for byte in (0..end).step_by(4) {
            map.sack(at(byte + 1)..at(byte + 2), |_, _| {});
        }
        assert!(map.entries.len() <= SendMap::ENTRIES_MAX, "{}", map.entries.len());
        let kept = map.sacked();
        assert!(kept > 1000);
        map.sack(at(0)..at(end), |_, _| {});
        assert_eq!(
            (map.sacked(), map.in_flight(), map.entries.len()),
            (end, 0, 1),
            "whole entries always do"
        );
    }

    #[test]
    fn what_is_sent_again_keeps_its_neighbours_history() {
        let mut map = SendMap::new(at(0));
        map.push(at(3000), 10, 1, 3);
        map.push(at(6000), 20, 2, 3);
        assert_eq!(map.mark_lost(|_, entry| Some(entry.sent_ns == 10)), 3000);
        assert_eq!(map.first_lost().unwrap().0, at(0)..at(3000));
        map.sent_again(at(0)..at(1000), 30, 3, 1);
        assert_eq!((map.in_flight(), map.lost()), (4000, 2000));
        assert_eq!(map.first_lost().unwrap().0, at(1000)..at(3000));
        let mut seen = Vec::new();
        map.acknowledge(at(1500), |bytes, entry| seen.push((bytes, entry.sent_ns, entry.times)));
        assert_eq!(seen, [(1000, 30, 2), (500, 10, 1)]);
    }

    #[test]
    fn a_full_map_takes_new_data_again_when_something_is_acknowledged() {
        let mut map = full(0);
        map.sack(map.end().before(ENTRY)..map.end(), |_, _| {});
        assert!(!map.has_room(), "what is reported cannot grow");
        map.acknowledge(at(ENTRY), |_, _| {});
        assert!(map.has_room());
    }

    #[test]
    fn what_cannot_be_split_is_sent_again_from_its_front_until_all_of_it_arrived() {
        let mut map = full(0);
        let mut sent = 0;
        while map.start() < at(ENTRY) {
            map.mark_front_lost(10);
            let (range, _) = map.first_lost().unwrap();
            assert_eq!(range.start, map.start());
            map.sent_again(range.start..range.start + 10, 9999, 9999, 1);
            assert_eq!((map.entries.len(), map.lost()), (SendMap::ENTRIES_MAX, 0));
            map.acknowledge(map.start() + 10, |_, entry| assert_eq!(entry.sent_ns, 9999));
            sent += 10;
        }
        assert_eq!(sent, ENTRY);
    }

    /// Bytes of an entry of a full map.
    const ENTRY: u64 = 40;

    /// A map with all but so many entries.
    fn full(less: usize) -> SendMap {
        let mut map = SendMap::new(at(0));
        for number in 1..=(SendMap::ENTRIES_MAX - less) as u64 {
            map.push(map.end() + ENTRY, number, number, 1);
        }
        assert_eq!(map.entries.len(), SendMap::ENTRIES_MAX - less);
        map
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Acknowledge(u64),
        Sack(u64, u64),
        Lose(u64),
        Again(u64),
        Unmark,
        Renege,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u64..5000).prop_map(Step::Push),
            (0u64..4000).prop_map(Step::Acknowledge),
            (0u64..20_000, 1u64..3000).prop_map(|(from, bytes)| Step::Sack(from, bytes)),
            (0u64..20).prop_map(Step::Lose),
            (1u64..2000).prop_map(Step::Again),
            Just(Step::Unmark),
            Just(Step::Renege),
        ]
    }

    /// Byte by byte: (fate, when sent last, how often).
    type Oracle = VecDeque<(Fate, u64, u8)>;

    fn count(oracle: &Oracle, fate: Fate) -> u64 {
        oracle.iter().filter(|byte| byte.0 == fate).count() as u64
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_a_list_of_bytes(steps in proptest::collection::vec(step(), 1..60)) {
            let mut map = SendMap::new(at(0));
            let mut oracle = Oracle::new();
            let mut una = 0;
            for (now, step) in steps.into_iter().enumerate() {
                let now = now as u64;
                match step {
                    Step::Push(bytes) => {
                        map.push(map.end() + bytes, now, now, 1 + (bytes / 1000) as u16);
                        oracle.extend((0..bytes).map(|_| (Fate::InFlight, now, 1)));
                    }
                    Step::Acknowledge(bytes) => {
                        let bytes = bytes.min(oracle.len() as u64);
                        let mut fresh = 0;
                        map.acknowledge(at(una + bytes), |bytes, _| fresh += bytes);
                        una += bytes;
                        let taken: Vec<_> = oracle.drain(..bytes as usize).collect();
                        let expected = taken.iter().filter(|byte| byte.0 != Fate::Sacked).count();
                        prop_assert_eq!(fresh, expected as u64);
                    }
                    Step::Sack(from, bytes) => {
                        map.sack(at(una + from)..at(una + from + bytes), |_, _| {});
                        oracle.iter_mut().skip(from as usize).take(bytes as usize)
                            .for_each(|byte| byte.0 = Fate::Sacked);
                    }
                    Step::Lose(age) => {
                        map.mark_lost(|_, entry| Some(entry.sent_ns + age < now));
                        oracle.iter_mut()
                            .filter(|byte| byte.0 == Fate::InFlight && byte.1 + age < now)
                            .for_each(|byte| byte.0 = Fate::Lost);
                    }
                    Step::Again(bytes) => {
                        if let Some((range, _)) = map.first_lost() {
                            let end = (range.start + bytes).min(range.end);
                            map.sent_again(range.start..end, now, now, 1);
                            let from = (range.start - at(una)) as usize;
                            prop_assert_eq!(oracle.iter().position(|byte| byte.0 == Fate::Lost), Some(from));
                            oracle.iter_mut().skip(from).take((end - range.start) as usize)
                                .for_each(|byte| *byte = (Fate::InFlight, now, byte.2 + 1));
                        } else {
                            prop_assert_eq!(count(&oracle, Fate::Lost), 0);
                        }
                    }
                    Step::Unmark => {
                        map.unmark_lost();
                        oracle.iter_mut().filter(|byte| byte.0 == Fate::Lost)
                            .for_each(|byte| byte.0 = Fate::InFlight);
                    }
                    Step::Renege => {
                        map.unmark_sacked();
                        oracle.iter_mut().filter(|byte| byte.0 == Fate::Sacked)
                            .for_each(|byte| byte.0 = Fate::InFlight);
                        // Joined entries forgot when they were sent: give them one history here too.
                        map.mark_lost(|_, _| Some(true));
                        oracle.iter_mut().for_each(|byte| byte.0 = Fate::Lost);
                        while let Some((range, _)) = map.first_lost() {
                            map.sent_again(range, now, now, 1);
                        }
                        oracle.iter_mut().for_each(|byte| *byte = (Fate::InFlight, now, byte.2));
                    }
                }
                prop_assert_eq!(map.end() - map.start(), oracle.len() as u64);
                prop_assert_eq!(map.in_flight(), count(&oracle, Fate::InFlight));
                prop_assert_eq!(map.sacked(), count(&oracle, Fate::Sacked));
                prop_assert_eq!(map.lost(), count(&oracle, Fate::Lost));
                let segments: u32 = map.entries.iter().filter(|entry| entry.fate == Fate::Sacked)
                    .map(|entry| u32::from(entry.segments)).sum();
                prop_assert_eq!(map.sacked_segments(), segments);
            }
        }

        #[test]
        fn a_map_is_never_more_than_full(
            steps in proptest::collection::vec(step(), 1..60),
            less in 0usize..8,
            whole in any::<bool>(),
        ) {
            let mut map = full(less);
            let mut reported = vec![false; (map.end() - map.start()) as usize];
            for (now, step) in (10_000..).zip(steps) {
                match step {
                    Step::Push(bytes) if map.has_room() => {
                        map.push(map.end() + bytes, now, now, 1);
                        reported.resize(reported.len() + bytes as usize, false);
                    }
                    Step::Push(_) | Step::Unmark => map.unmark_lost(),
                    // Small ones, or there would soon be room.
                    Step::Acknowledge(bytes) => {
                        let bytes = (bytes / 100).min(map.end() - map.start());
                        map.acknowledge(map.start() + bytes, |_, _| {});
                        reported.drain(..bytes as usize);
                    }
                    Step::Sack(from, bytes) => {
                        let bytes = bytes / 100;
                        map.sack(map.start() + from..map.start() + from + bytes, |_, _| {});
                        reported.iter_mut().skip(from as usize).take(bytes as usize)
                            .for_each(|byte| *byte = true);
                    }
                    Step::Lose(age) if whole => {
                        map.mark_lost(|_, entry| Some(entry.sent_ns % 20 > age));
                    }
                    Step::Lose(bytes) => map.mark_front_lost(bytes),
                    Step::Again(bytes) => {
                        if let Some((range, _)) = map.first_lost() {
                            let end = (range.start + bytes / 50 + 1).min(range.end);
                            map.sent_again(range.start..end, now, now, 1);
                        } else if let Some((start, entry)) = map.back() {
                            // As a tail probe does.
                            let part = entry.end.before(1).max(start)..entry.end;
                            map.sent_again(part, now, now, 1);
                        }
                    }
                    Step::Renege => map.unmark_sacked(),
                }
                prop_assert!(map.entries.len() <= SendMap::ENTRIES_MAX);
                prop_assert_eq!(map.end() - map.start(), reported.len() as u64);
                let (mut start, mut sums) = (map.start(), [0; 3]);
                for entry in &map.entries {
                    prop_assert!(start < entry.end);
                    let range = (start - map.start()) as usize..(entry.end - map.start()) as usize;
                    sums[entry.fate as usize] += entry.end - start;
                    prop_assert!(entry.fate != Fate::Sacked || reported[range].iter().all(|byte| *byte));
                    start = entry.end;
                }
                prop_assert_eq!(sums, [map.in_flight(), map.sacked(), map.lost()]);
            }
            map.mark_lost(|_, _| Some(true));
            while let Some((range, _)) = map.first_lost() {
                let (lost, part) = (map.lost(), range.start..range.start + 1);
                map.sent_again(part, 1 << 40, 1 << 40, 1);
                prop_assert!(map.lost() < lost);
            }
        }
    }
}
