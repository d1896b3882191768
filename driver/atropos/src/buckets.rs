//! A priority queue of flows: buckets of equal width, found by first-set-bit.
//!
//! Two tiers. The fine one has 64³ buckets under three levels of bitmaps, so the first non-empty
//! bucket is three bit scans away; keys beyond its horizon wait in a coarse tier whose buckets are
//! 4 096 times as wide, and move to the fine one, once, when the window reaches them. Order within
//! a bucket is first in, first out; the scheduler's bound accounts for a bucket's width.
//!
//! Members are linked through their own cache lines, so the queue allocates nothing after it was
//! made and inserts and removes in constant time.
//!
//! # Invariant
//!
//! Every key of the fine tier lies in the window `[low, low + 64³)` of bucket numbers, so a place
//! in the circular table is found again from the key's low bits alone.

/// No member.
pub(crate) const NONE: u32 = u32::MAX;

const LOG_FINE: u32 = 18;
const FINE: usize = 1 << LOG_FINE;
const LOG_COARSE: u32 = 12;
const COARSE: usize = 1 << LOG_COARSE;
/// Fine buckets in a coarse one, as a power of two.
const LOG_RATIO: u32 = 12;
/// Fine buckets kept open behind the present, for flows that are late.
const BACK: i64 = 1 << 14;

/// How a queue reaches the links inside a member.
pub(crate) trait Member {
    fn next(&self) -> u32;
    fn prev(&self) -> u32;
    fn set_next(&mut self, next: u32);
    fn set_prev(&mut self, prev: u32);
    /// Where the member stands in its queue: below 64³ + 64².
    fn place(&self) -> u32;
    fn set_place(&mut self, place: u32);
    /// The key it was inserted under: recomputed when it moves from the coarse to the fine tier.
    fn key_ns(&self) -> i64;
}

#[derive(Debug)]
pub(crate) struct Buckets {
    /// First member + 1 of every bucket, fine ones first; 0 if empty, so that untouched pages of
    /// a fresh table cost no memory.
    heads: Vec<u32>,
    fine: Bits,
    coarse: Bits,
    /// Lowest bucket number that can be in the fine tier.
    low: i64,
    shift: u32,
    len: usize,
    /// The member last found by searching a coarse bucket, while the coarse tier has not changed.
    earliest: u32,
    /// The member that [`Self::first`] found, while it is still the first, and its bucket.
    front: u32,
    front_bucket: i64,
}

impl Buckets {
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            heads: vec![0; FINE + COARSE],
            fine: Bits::new(FINE),
            coarse: Bits::new(COARSE),
            low: 0,
            shift,
            len: 0,
            earliest: NONE,
            front: NONE,
            front_bucket: i64::MAX,
        }
    }

    pub(crate) fn insert<M: Member>(&mut self, members: &mut [M], index: u32, key_ns: i64) {
        let place = self.place_for(key_ns);
        self.link(members, index, place);
        self.len += 1;
        // First in, first out: a member of the front's own bucket comes after it.
        let bucket = (key_ns >> self.shift).max(self.low);
        if self.front != NONE && bucket < self.front_bucket {
            (self.front, self.front_bucket) = (index, bucket);
        }
    }

    fn place_for(&mut self, key_ns: i64) -> usize {
        let bucket = (key_ns >> self.shift).max(self.low);
        if bucket - self.low < FINE as i64 {
            return (bucket & (FINE as i64 - 1)) as usize;
        }
        // Beyond the coarse horizon a key shares the last bucket; it is looked at again there.
        let first = self.low >> LOG_RATIO;
        let bucket = (bucket >> LOG_RATIO).min(first + COARSE as i64 - 1);
        FINE + (bucket & (COARSE as i64 - 1)) as usize
    }

    /// Appends a member to a bucket. The first member's `prev` is the last one.
    fn link<M: Member>(&mut self, members: &mut [M], index: u32, place: usize) {
        if place >= FINE {
            self.earliest = NONE;
        }
        let head = self.heads[place].wrapping_sub(1);
        let last = if head == NONE { index } else { members[head as usize].prev() };
        let member = &mut members[index as usize];
        member.set_place(place as u32);
        member.set_next(NONE);
        member.set_prev(last);
        if head == NONE {
            self.heads[place] = index + 1;
            self.mark(place, true);
        } else {
            members[last as usize].set_next(index);
            members[head as usize].set_prev(index);
        }
    }

    pub(crate) fn remove<M: Member>(&mut self, members: &mut [M], index: u32) {
        if self.front == index {
            self.front = NONE;
        }
        self.unlink(members, index);
        self.len -= 1;
    }

    fn unlink<M: Member>(&mut self, members: &mut [M], index: u32) {
        let member = &members[index as usize];
        let (next, prev, place) = (member.next(), member.prev(), member.place() as usize);
        if place >= FINE {
            self.earliest = NONE;
        }
        let head = self.heads[place] - 1;
        if index == head {
            self.heads[place] = next.wrapping_add(1);
            if next == NONE {
                self.mark(place, false);
            } else {
                members[next as usize].set_prev(prev);
            }
        } else {
            members[prev as usize].set_next(next);
            let after = if next == NONE { head } else { next };
            members[after as usize].set_prev(prev);
        }
    }

    fn mark(&mut self, place: usize, occupied: bool) {
        let (bits, bit) =
            if place < FINE { (&mut self.fine, place) } else { (&mut self.coarse, place - FINE) };
        if occupied {
            bits.set(bit);
        } else {
            bits.clear(bit);
        }
    }

    /// The member with the smallest key, to within a bucket; `now_ns` moves the window.
    pub(crate) fn first<M: Member>(&mut self, members: &mut [M], now_ns: i64) -> Option<u32> {
        if self.front != NONE {
            return Some(self.front);
        }
        if self.len == 0 {
            self.low = self.low.max((now_ns >> self.shift) - BACK);
            return None;
        }
        self.advance(members, now_ns);
        let from = (self.low & (FINE as i64 - 1)) as usize;
        let Some(place) = self.fine.first_from(from) else { return self.earliest_coarse(members) };
        self.front = self.heads[place] - 1;
        self.front_bucket = self.low + ((place as i64 - from as i64) & (FINE as i64 - 1));
        Some(self.front)
    }

    /// Moves the window up to the present, or to the earliest member if that is late, and lets in
    /// the coarse buckets that it reaches.
    fn advance<M: Member>(&mut self, members: &mut [M], now_ns: i64) {
        let mut low = (now_ns >> self.shift) - BACK;
        if low <= self.low {
            return;
        }
        if let Some(first) = self.first_bucket() {
            low = low.min(first);
        }
        self.low = self.low.max(low);
        self.let_in(members);
    }

    /// Number of the first non-empty fine bucket.
    fn first_bucket(&self) -> Option<i64> {
        let from = (self.low & (FINE as i64 - 1)) as usize;
        let place = self.fine.first_from(from)?;
        Some(self.low + ((place as i64 - from as i64) & (FINE as i64 - 1)))
    }

    /// Moves coarse buckets that lie wholly inside the window to the fine tier.
    fn let_in<M: Member>(&mut self, members: &mut [M]) {
        while let Some(bucket) = self.first_coarse() {
            if (bucket + 1) << LOG_RATIO > self.low + FINE as i64 {
                return;
            }
            self.spill(members, bucket);
        }
    }

    fn first_coarse(&self) -> Option<i64> {
        let first = self.low >> LOG_RATIO;
        let from = (first & (COARSE as i64 - 1)) as usize;
        let place = self.coarse.first_from(from)?;
        Some(first + ((place as i64 - from as i64) & (COARSE as i64 - 1)))
    }

    fn spill<M: Member>(&mut self, members: &mut [M], bucket: i64) {
        let place = FINE + (bucket & (COARSE as i64 - 1)) as usize;
        let mut index = self.heads[place].wrapping_sub(1);
        self.heads[place] = 0;
        self.coarse.clear(place - FINE);
        self.earliest = NONE;
        while index != NONE {
            let next = members[index as usize].next();
            let place = self.place_for(members[index as usize].key_ns());
            self.link(members, index, place);
            index = next;
        }
    }

    /// The fine tier is empty: the smallest key of the first coarse bucket. The window must not
    /// move there, for an earlier member may still come; so the bucket is searched, once.
    fn earliest_coarse<M: Member>(&mut self, members: &[M]) -> Option<u32> {
        if self.earliest != NONE {
            return Some(self.earliest);
        }
        let bucket = self.first_coarse()?;
        let place = FINE + (bucket & (COARSE as i64 - 1)) as usize;
        let mut index = self.heads[place].wrapping_sub(1);
        let mut earliest = index;
        while index != NONE {
            let member = &members[index as usize];
            if member.key_ns() < members[earliest as usize].key_ns() {
                earliest = index;
            }
            index = member.next();
        }
        self.earliest = earliest;
        Some(earliest)
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

/// Bits with summaries: three levels of 64 for the fine tier, two for the coarse one.
#[derive(Debug)]
struct Bits {
    leaf: Vec<u64>,
    middle: Vec<u64>,
    top: u64,
}

impl Bits {
    fn new(bits: usize) -> Self {
        let leaf = bits.div_ceil(64);
        Self { leaf: vec![0; leaf], middle: vec![0; leaf.div_ceil(64)], top: 0 }
    }

    fn set(&mut self, bit: usize) {
        self.leaf[bit >> 6] |= 1 << (bit & 63);
        self.middle[bit >> 12] |= 1 << (bit >> 6 & 63);
        self.top |= 1 << (bit >> 12);
    }

    fn clear(&mut self, bit: usize) {
        self.leaf[bit >> 6] &= !(1 << (bit & 63));
        if self.leaf[bit >> 6] == 0 {
            self.middle[bit >> 12] &= !(1 << (bit >> 6 & 63));
            if self.middle[bit >> 12] == 0 {
                self.top &= !(1 << (bit >> 12));
            }
        }
    }

    /// The first set bit at or after `from`, wrapping around.
    fn first_from(&self, from: usize) -> Option<usize> {
        self.at_or_after(from).or_else(|| self.at_or_after(0))
    }

    fn at_or_after(&self, from: usize) -> Option<usize> {
        let leaf = self.leaf[from >> 6] & (u64::MAX << (from & 63));
        if leaf != 0 {
            return Some((from & !63) | leaf.trailing_zeros() as usize);
        }
        let block = from >> 12;
        let middle = self.middle[block] & above(from >> 6 & 63);
        if middle != 0 {
            let word = block << 6 | middle.trailing_zeros() as usize;
            return Some(word << 6 | self.leaf[word].trailing_zeros() as usize);
        }
        let top = self.top & above(block);
        if top != 0 {
            let block = top.trailing_zeros() as usize;
            let word = block << 6 | self.middle[block].trailing_zeros() as usize;
            return Some(word << 6 | self.leaf[word].trailing_zeros() as usize);
        }
        None
    }
}

/// The bits above `bit`.
const fn above(bit: usize) -> u64 {
    if bit >= 63 { 0 } else { u64::MAX << (bit + 1) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Node {
        next: u32,
        prev: u32,
        place: u32,
        key: i64,
        /// Number of looks at the key.
        looks: Cell<u32>,
    }

    impl Member for Node {
        fn next(&self) -> u32 {
            self.next
        }
        fn prev(&self) -> u32 {
            self.prev
        }
        fn set_next(&mut self, next: u32) {
            self.next = next;
        }
        fn set_prev(&mut self, prev: u32) {
            self.prev = prev;
        }
        fn place(&self) -> u32 {
            self.place
        }
        fn set_place(&mut self, place: u32) {
            self.place = place;
        }
        fn key_ns(&self) -> i64 {
            self.looks.set(self.looks.get() + 1);
            self.key
        }
    }

    /// Periods from a hundredth of the fine horizon to three, for longer than the coarse one.
    #[test]
    fn a_member_is_looked_at_a_few_times_until_it_is_served_however_many_there_are() {
        const MEMBERS: u32 = 512;
        let (mut queue, mut nodes) = (Buckets::new(7), vec![Node::default(); MEMBERS as usize]);
        let horizon = 1_i64 << (7 + LOG_FINE);
        let period =
            |index: u32| horizon / 100 + horizon * 3 * i64::from(index) / i64::from(MEMBERS);
        for index in 0..MEMBERS {
            nodes[index as usize].key = period(index);
            queue.insert(&mut nodes, index, period(index));
        }
        let (mut now, mut served) = (0, 0);
        while now < 200 * horizon {
            let index = queue.first(&mut nodes, now).unwrap();
            queue.remove(&mut nodes, index);
            let node = &mut nodes[index as usize];
            assert!(node.key >= now - (1 << 7), "served out of turn");
            now = now.max(node.key);
            node.key += period(index);
            let key = node.key;
            queue.insert(&mut nodes, index, key);
            served += 1;
        }
        let looks: u32 = nodes.iter().map(|node| node.looks.get()).sum();
        assert!(looks < 2 * served, "{looks} looks for {served}");
    }

    #[test]
    fn keys_beyond_every_horizon_come_last() {
        let (mut queue, horizon) = (Buckets::new(7), 1_i64 << (7 + LOG_FINE));
        let now = 5 * horizon / 2;
        let mut nodes = vec![Node::default(); 8];
        assert_eq!(queue.first(&mut nodes, now), None);
        let reach = [700, 100, 639, 10_000, 641, 5, 640, 638];
        for (index, tenths) in reach.into_iter().enumerate() {
            nodes[index].key = now + horizon / 10 * tenths;
            let key = nodes[index].key;
            queue.insert(&mut nodes, index as u32, key);
        }
        let order = std::iter::from_fn(|| {
            let first = queue.first(&mut nodes, now)?;
            queue.remove(&mut nodes, first);
            Some(reach[first as usize])
        });
        assert_eq!(order.collect::<Vec<_>>(), [5, 100, 638, 639, 640, 641, 700, 10_000]);
    }

    #[test]
    fn the_late_keep_their_order_however_late_they_are() {
        let mut queue = Buckets::new(7);
        let mut nodes = vec![Node::default(); 8];
        let buckets = [60_000, 0, 200_000, 5, 100, 20_000, 400_000, 7];
        for (index, bucket) in buckets.into_iter().enumerate() {
            nodes[index].key = bucket << 7;
            queue.insert(&mut nodes, index as u32, bucket << 7);
        }
        let mut order = Vec::new();
        for round in 1..=8 {
            let first = queue.first(&mut nodes, (round * 300_000) << 7).unwrap();
            queue.remove(&mut nodes, first);
            order.push(buckets[first as usize]);
        }
        assert_eq!(order, [0, 5, 7, 100, 20_000, 60_000, 200_000, 400_000]);
    }

    #[test]
    fn bits_are_found_in_a_circle() {
        let mut bits = Bits::new(FINE);
        assert_eq!(bits.first_from(0), None);
        let set = [0, 1, 63, 64, 4_095, 4_096, 70_000, 131_071, FINE - 64, FINE - 1];
        for bit in set {
            bits.set(bit);
        }
        for from in set.into_iter().flat_map(|bit| [bit.saturating_sub(1), bit, bit + 1]) {
            let from = from % FINE;
            let after = set.into_iter().find(|&bit| bit >= from);
            assert_eq!(bits.first_from(from), Some(after.unwrap_or(0)), "{from}");
        }
        for bit in set {
            assert_eq!(bits.first_from(0), Some(bit));
            bits.clear(bit);
        }
        assert_eq!(bits.first_from(0), None);
        assert_eq!((bits.top, bits.middle.iter().max()), (0, Some(&0)));
    }

    proptest! {
        /// Keys from just behind the present to beyond the fine horizon, at any bucket width; the
        /// oracle is a sorted set.
        #[test]
        fn the_first_member_has_the_smallest_key_to_within_a_bucket(
            shift in 7u32..14,
            steps in proptest::collection::vec((0u32..64, 0i64..3, any::<u32>(), any::<bool>()), 1..400),
        ) {
            let mut queue = Buckets::new(shift);
            let mut nodes = vec![Node::default(); 64];
            let mut oracle: BTreeSet<(i64, u32)> = BTreeSet::new();
            let horizon = 1i64 << (shift + LOG_FINE);
            let mut now = 0i64;
            for (index, reach, fraction, step) in steps {
                if step {
                    now += i64::from(fraction) % (horizon / 50);
                }
                let member = oracle.iter().find(|(_, i)| *i == index).copied();
                if let Some(entry) = member {
                    queue.remove(&mut nodes, index);
                    oracle.remove(&entry);
                } else {
                    let span = [horizon / 64, horizon / 2, horizon * 30][reach as usize];
                    let key = now - (1 << (shift + 8)).min(now) + (i64::from(fraction) << 24) % span;
                    nodes[index as usize].key = key;
                    queue.insert(&mut nodes, index, key);
                    oracle.insert((key, index));
                }
                prop_assert_eq!(queue.len(), oracle.len());
                let first = queue.first(&mut nodes, now);
                prop_assert_eq!(first.is_some(), !oracle.is_empty());
                if let (Some(first), Some(&(smallest, _))) = (first, oracle.first()) {
                    let key = nodes[first as usize].key;
                    prop_assert!(key - smallest < 1 << shift, "key {} before {} at {}", key, smallest, now);
                    // Serve the overdue, as the scheduler does.
                    if key < now - (1 << (shift + 10)) {
                        queue.remove(&mut nodes, first);
                        oracle.remove(&(key, first));
                    }
                }
            }
        }
    }
}
