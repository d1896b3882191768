//! What was received out of order: stretches of the stream that wait for what is before them.
//!
//! Bytes lie in the receiver's buffers; here stands only which ones. A byte is accepted once: what is
//! already held is not accepted again, whatever a later segment claims it to be.
//!
//! # Cost
//!
//! At most [`Held::MAX`] stretches; finding one is a bisection, inserting one moves those behind it.

use std::ops::Range;

use crate::Position;
use crate::options::{SACK_BLOCKS_MAX, SackBlocks};

#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Disjoint, in order, with gaps between them.
    stretches: Vec<Range<Position>>,
    /// A byte of each of the stretches that changed last, latest first.
    recent: [Option<Position>; RECENT],
}

/// More than a header can report, for some of them become one.
const RECENT: usize = 2 * SACK_BLOCKS_MAX;

impl Held {
    pub(crate) const MAX: usize = 1024;

    pub(crate) fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.stretches.len()
    }

    /// The byte after the last one held.
    pub(crate) fn end(&self) -> Option<Position> {
        self.stretches.last().map(|last| last.end)
    }

    fn find(&self, at: Position) -> usize {
        self.stretches.partition_point(|stretch| stretch.end <= at)
    }

    /// The stretch that holds `at`.
    fn holding(&self, at: Position) -> Option<&Range<Position>> {
        self.stretches.get(self.find(at)).filter(|stretch| stretch.start <= at)
    }

    /// The first part of `range` that is not held; `None` if all of it is.
    pub(crate) fn missing(&self, range: Range<Position>) -> Option<Range<Position>> {
        let index = self.find(range.start);
        let (mut start, mut next) = (range.start, self.stretches.get(index));
        if let Some(stretch) = next.filter(|stretch| stretch.start <= start) {
            start = stretch.end;
            next = self.stretches.get(index + 1);
        }
        let end = next.map_or(range.end, |next| range.end.min(next.start));
        (start < end).then_some(start..end)
    }

    /// The first part of `range` that is held.
    pub(crate) fn overlap(&self, range: &Range<Position>) -> Option<Range<Position>> {
        let stretch = self.stretches.get(self.find(range.start))?;
        let (start, end) = (stretch.start.max(range.start), stretch.end.min(range.end));
        (start < end).then_some(start..end)
    }

    /// Adds what is not held; `false` if there are too many stretches already.
    pub(crate) fn insert(&mut self, range: Range<Position>) -> bool {
        let mut index = self.stretches.partition_point(|stretch| stretch.end < range.start);
        let at = range.start;
        if self.stretches.get(index).is_some_and(|stretch| stretch.start <= range.end) {
            let stretch = &mut self.stretches[index];
            stretch.start = stretch.start.min(range.start);
            stretch.end = stretch.end.max(range.end);
            let end = stretch.end;
            if self.stretches.get(index + 1).is_some_and(|next| next.start <= end) {
                self.stretches[index].end = self.stretches[index + 1].end.max(end);
                self.stretches.remove(index + 1);
            }
        } else {
            if self.stretches.len() >= Self::MAX {
                return false;
            }
            index = index.min(self.stretches.len());
            self.stretches.insert(index, range);
        }
        self.touch(at);
        true
    }

    /// Remembers that the stretch around `at` changed last.
    pub(crate) fn touch(&mut self, at: Position) {
        let Some(now) = self.holding(at).cloned() else { return };
        let old = self.recent;
        let others = old.into_iter().flatten().filter(|at| !now.contains(at));
        self.recent = [None; RECENT];
        for (place, at) in self.recent.iter_mut().zip(std::iter::once(at).chain(others)) {
            *place = Some(at);
        }
    }

    /// Takes out what continues at `next`, and returns where that ends.
    pub(crate) fn continue_from(&mut self, next: Position) -> Position {
        match self.stretches.first() {
            Some(first) if first.start <= next => self.stretches.remove(0).end.max(next),
            _ => next,
        }
    }

    /// Appends the stretches to report, the latest first (RFC 2018 §4). One that stands there already, as a
    /// duplicate, is repeated: so the peer can tell that it is one (RFC 2883 §4).
    pub(crate) fn report(&self, blocks: &mut SackBlocks) {
        let before = blocks.as_slice().len();
        let latest = self.recent.iter().flatten().filter_map(|at| self.holding(*at));
        for stretch in latest {
            let block = (stretch.start.wire(), stretch.end.wire());
            if !blocks.as_slice()[before..].contains(&block) && !blocks.push(block.0, block.1) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(byte: u64) -> Position {
        Position::initial(u32::MAX - 50) + byte
    }

    #[test]
    fn reports_begin_with_the_latest_and_repeat_the_ones_before() {
        let mut held = Held::default();
        for start in [10, 30, 50, 70, 90] {
            held.insert(at(start)..at(start + 5));
        }
        held.insert(at(35)..at(40));
        let mut blocks = SackBlocks::default();
        held.report(&mut blocks);
        let expected = [(30, 40), (90, 95), (70, 75), (50, 55)];
        assert_eq!(blocks.as_slice(), expected.map(|(a, b)| (at(a).wire(), at(b).wire())));
    }

    #[test]
    fn one_stretch_too_many_is_refused_and_the_others_can_still_grow() {
        let mut held = Held::default();
        for start in 0..Held::MAX as u64 {
            assert!(held.insert(at(4 * start)..at(4 * start + 2)));
        }
        assert!(!held.insert(at(90_000)..at(90_001)));
        assert!(held.insert(at(2)..at(4)));
        assert!(held.insert(at(90_000)..at(90_001)));
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_a_set_of_bytes_holds(
            segments in proptest::collection::vec((0u64..200, 1u64..40), 1..60)
        ) {
            let (mut held, mut oracle) = (Held::default(), BTreeSet::new());
            let mut next = 0;
            for (start, bytes) in segments {
                let range = start.max(next)..(start + bytes).max(next);
                if let Some(part) = held.missing(at(range.start)..at(range.end)) {
                    let part = part.start - at(0)..part.end - at(0);
                    prop_assert!(part.clone().all(|byte| !oracle.contains(&byte)));
                    prop_assert!((range.start..part.start).all(|byte| oracle.contains(&byte)));
                    held.insert(at(part.start)..at(part.end));
                    oracle.extend(part);
                } else {
                    prop_assert!(range.clone().all(|byte| oracle.contains(&byte)));
                }
                if oracle.remove(&next) {
                    while oracle.remove(&(next + 1)) {
                        next += 1;
                    }
                    next += 1;
                    prop_assert_eq!(held.continue_from(at(next)), at(next));
                    prop_assert!(held.stretches.iter().all(|stretch| stretch.start > at(next)));
                }
                let listed: u64 = held.stretches.iter().map(|s| s.end - s.start).sum();
                prop_assert_eq!(listed, oracle.len() as u64);
                prop_assert!(held.stretches.windows(2).all(|two| two[0].end < two[1].start));
            }
        }
    }
}
