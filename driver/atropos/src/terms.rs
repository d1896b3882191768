//! Until when contracts bind that have been ended or changed.
//!
//! A flow that has sent has used its share of the line until its fluid tag, whatever becomes of it. Until
//! then nobody else can have that share, and the flow's own next contract does not begin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Times are of the scheduler's clock.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    until: Vec<i64>,
    queued: Vec<bool>,
    /// When to look at which place again; of equals, the one that was first.
    ends: BinaryHeap<Reverse<(i64, u64, u32)>>,
    count: u64,
}

impl Terms {
    /// Has room for as many flows, so that nothing is allocated later.
    pub(crate) fn resize(&mut self, flows: usize) {
        self.until.resize(flows, i64::MIN);
        self.queued.resize(flows, false);
        self.ends.reserve(flows - self.ends.len());
    }

    /// What the flow at `index` has had so far binds until `end`, as far as that is after `now`.
    pub(crate) fn bind(&mut self, index: u32, end: i64, now: i64) {
        let place = index as usize;
        if end <= now {
            return;
        }
        self.until[place] = self.until[place].max(end);
        if !self.queued[place] {
            self.queued[place] = true;
            self.queue(index);
        }
    }

    fn queue(&mut self, index: u32) {
        self.count += 1;
        self.ends.push(Reverse((self.until[index as usize], self.count, index)));
    }

    /// Until when the earlier contracts of the place bind; long ago if none does.
    pub(crate) fn until(&self, index: u32) -> i64 {
        if self.binds(index) { self.until[index as usize] } else { i64::MIN / 2 }
    }

    /// Whether an earlier contract binds and [`Self::settled`] has not said otherwise.
    pub(crate) fn binds(&self, index: u32) -> bool {
        self.queued.get(index as usize).is_some_and(|&queued| queued)
    }

    /// When to ask [`Self::settled`].
    pub(crate) fn next(&self) -> Option<i64> {
        self.ends.peek().map(|&Reverse((at, ..))| at)
    }

    /// A place whose earlier contracts bind no longer.
    pub(crate) fn settled(&mut self, now: i64) -> Option<u32> {
        while let Some(&Reverse((at, _, index))) = self.ends.peek()
            && at <= now
        {
            self.ends.pop();
            if self.until[index as usize] > now {
                self.queue(index);
                continue;
            }
            self.queued[index as usize] = false;
            return Some(index);
        }
        None
    }
}
