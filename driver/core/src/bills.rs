//! Bills: counters in words that tools can read while the driver writes them.
//!
//! The driver is the only writer, so a count is a load and a store, not a locked addition.

use std::sync::atomic::Ordering;

use base_flow::{BILL_WORDS, Bill, DropReason, bill_word};
use rbuf_channel::Words;

/// Words of the counter area of a driver with up to `flows_max` flows; the last bill is the link's.
pub const fn bill_words(flows_max: u32) -> usize {
    (flows_max as usize + 1) * BILL_WORDS
}

/// What processor time was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Sending, and hearing the domain.
    Tx,
    /// Receiving.
    Rx,
    /// What receiving causes besides: waking who waits, or cutting what is too much.
    Wake,
}

/// A piece of work: for whom, and how heavy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) flow: u32,
    /// Index of the domain that pays.
    pub(crate) domain: u32,
    weight: u32,
    pub(crate) frames: u32,
    pub(crate) side: Side,
}

/// Who pays for what is nobody's.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Bills<W> {
    words: W,
    flows_max: u32,
    /// Processor time of the loop until which everything is billed or loose.
    read_at: u64,
    /// Work since the last [`Bills::settle_round`], and its weight.
    work: Vec<Work>,
    weight: u64,
    /// Where the present stretch of work begins: it is all for one domain, and not yet billed.
    stretch: usize,
    stretch_weight: u64,
    /// Time of the round that was spent on no single domain.
    loose_ns: u64,
    /// Work of the last round that had any, and its weight.
    settled: Vec<Work>,
    settled_weight: u64,
    /// Whether nothing was billed since as what came of that work.
    has_caused: bool,
}

/// Work items between two settlements: more than a loop's budgets.
const WORK_MAX: usize = 1024;

/// Most that a frame can take of its flow's budget: what is beyond that is the machine's doing. It is
/// billed, but not held against the flow.
pub(crate) const FRAME_NS_MAX: u64 = 20_000;

/// Weight of handling a frame, in units of copying a byte: what was measured for the null link.
const FRAME_WEIGHT: u32 = 1000;

impl<W: Words> Bills<W> {
    pub(crate) fn new(words: W, flows_max: u32) -> Option<Self> {
        (words.len() >= bill_words(flows_max)).then(|| Self {
            words,
            flows_max,
            read_at: 0,
            work: Vec::with_capacity(WORK_MAX),
            weight: 0,
            stretch: 0,
            stretch_weight: 0,
            loose_ns: 0,
            settled: Vec::with_capacity(WORK_MAX),
            settled_weight: 0,
            has_caused: false,
        })
    }

    /// The number under which the link itself is billed.
    pub(crate) const fn link(&self) -> u32 {
        self.flows_max
    }

    pub(crate) fn add(&self, flow: u32, word: usize, amount: u64) {
        let word = &self.words[flow as usize * BILL_WORDS + word];
        word.store(word.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, flow: u32, word: usize, value: u64) {
        self.words[flow as usize * BILL_WORDS + word].store(value, Ordering::Relaxed);
    }

    pub(crate) fn set_link(&self, word: usize, value: u64) {
        self.set(self.link(), word, value);
    }

    pub(crate) fn count_drop(&self, flow: u32, reason: DropReason, frames: u64) {
        self.add(flow, bill_word::DROPS + reason as usize, frames);
    }

    pub(crate) fn read(&self, flow: u32) -> Bill {
        let base = flow as usize * BILL_WORDS;
        Bill::from_words(|word| self.words[base + word].load(Ordering::Relaxed))
    }

    pub(crate) fn clear(&self, flow: u32) {
        let base = flow as usize * BILL_WORDS;
        for word in &self.words[base..base + BILL_WORDS] {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a frame of which `copied` bytes were copied was handled for `flow`, or something as
    /// heavy was done for it.
    pub(crate) fn note(&mut self, flow: u32, domain: u32, side: Side, copied: usize) {
        let weight = FRAME_WEIGHT + copied as u32;
        let has_room = self.work.len() < WORK_MAX;
        match self.work[self.stretch..].last_mut() {
            Some(last) if (last.flow, last.side) == (flow, side) => {
                last.weight += weight;
                last.frames += 1;
            }
            _ if has_room => {
                self.work.push(Work { flow, domain, weight, frames: 1, side });
            }
            _ => return,
        }
        self.weight += u64::from(weight);
        self.stretch_weight += u64::from(weight);
    }

    /// Whether there is work that was not billed.
    pub(crate) const fn is_in_stretch(&self) -> bool {
        self.work.len() > self.stretch
    }

    fn elapsed(&mut self, used_ns: u64) -> u64 {
        let elapsed = used_ns.saturating_sub(self.read_at);
        self.read_at += elapsed;
        elapsed
    }

    /// What was used until `used_ns` was for no single domain: the round shares it.
    pub(crate) fn loosen(&mut self, used_ns: u64) {
        self.loose_ns += self.elapsed(used_ns);
    }

    /// A stretch of work ends: what was used until `used_ns` is shared by weight among those for whom
    /// work was noted in it. `paid` hears of each part.
    pub(crate) fn settle(&mut self, used_ns: u64, paid: impl FnMut(Work, u64)) {
        if !self.is_in_stretch() {
            return self.loosen(used_ns);
        }
        let elapsed = self.elapsed(used_ns);
        let weight = std::mem::take(&mut self.stretch_weight);
        let first = std::mem::replace(&mut self.stretch, self.work.len());
        self.share(&self.work[first..], weight, elapsed, paid);
    }

    /// Shares what was used until `used_ns` and for no single domain among those for whom work was
    /// noted since the last such settlement; `false`, and nothing is billed, if there was none.
    pub(crate) fn settle_round(&mut self, used_ns: u64, paid: impl FnMut(Work, u64)) -> bool {
        self.loosen(used_ns);
        if self.work.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.work, &mut self.settled);
        self.settled_weight = std::mem::take(&mut self.weight);
        self.work.clear();
        (self.stretch, self.stretch_weight) = (0, 0);
        self.has_caused = true;
        let loose = std::mem::take(&mut self.loose_ns);
        self.share(&self.settled, self.settled_weight, loose, paid);
        true
    }

    /// Bills what was used until `used_ns` without any work: once, what the loop does before it finds that
    /// there is nothing more, to those for whom it worked last; after that it is the link's.
    pub(crate) fn settle_idle(&mut self, used_ns: u64, paid: impl FnMut(Work, u64)) {
        self.loosen(used_ns);
        let loose = std::mem::take(&mut self.loose_ns);
        if std::mem::take(&mut self.has_caused) {
            self.share(&self.settled, self.settled_weight, loose, paid);
        } else {
            self.add(self.link(), bill_word::RX_CPU_NS, loose);
        }
    }

    /// The place of `flow` has no user any more: the next one is not billed for this one's work.
    pub(crate) fn forget(&mut self, flow: u32) {
        let link = self.link();
        for work in self.work.iter_mut().chain(&mut self.settled) {
            if work.flow == flow {
                work.flow = link;
            }
        }
    }

    /// Nor does the next user of the place of `domain` pay for it.
    pub(crate) fn forget_domain(&mut self, domain: u32) {
        for work in self.work.iter_mut().chain(&mut self.settled) {
            if work.domain == domain {
                work.domain = NO_DOMAIN;
            }
        }
    }

    fn share(&self, all: &[Work], weight: u64, elapsed: u64, mut paid: impl FnMut(Work, u64)) {
        if elapsed == 0 {
            return;
        }
        let mut left = elapsed;
        for &work in all {
            let share = u128::from(elapsed) * u128::from(work.weight) / u128::from(weight);
            let share = share as u64;
            left -= share;
            let word = match work.side {
                Side::Tx => bill_word::TX_CPU_NS,
                Side::Rx | Side::Wake => bill_word::RX_CPU_NS,
            };
            self.add(work.flow, word, share);
            paid(work, share);
        }
        self.add(self.link(), bill_word::RX_CPU_NS, left);
    }
}

#[cfg(test)]
mod tests {
    use rbuf_channel::HeapWords;

    use super::*;

    #[test]
    fn of_more_work_than_there_is_room_for_the_rest_is_shared_by_what_is_noted() {
        let flows = WORK_MAX as u32 + 10;
        let mut bills = Bills::new(HeapWords::new(bill_words(flows)), flows).unwrap();
        let room = bills.work.capacity();
        for flow in 0..flows {
            bills.note(flow, flow, Side::Tx, 0);
        }
        assert_eq!((bills.work.len(), bills.work.capacity()), (WORK_MAX, room));
        let mut paid = 0;
        bills.settle(5_000_000, |_, ns| paid += ns);
        let sum: u64 = (0..=flows)
            .map(|flow| bills.read(flow))
            .map(|bill| bill.tx_cpu_ns + bill.rx_cpu_ns)
            .sum();
        assert_eq!((sum, paid + bills.read(flows).rx_cpu_ns), (5_000_000, 5_000_000));
    }

    #[test]
    fn a_stretch_is_shared_by_what_was_copied() {
        let mut bills = Bills::new(HeapWords::new(bill_words(3)), 3).unwrap();
        for (flow, side, copied) in [
            (0, Side::Rx, 1000),
            (0, Side::Rx, 0),
            (0, Side::Tx, 0),
            (1, Side::Wake, 500),
            (2, Side::Rx, 1500),
        ] {
            bills.note(flow, 7, side, copied);
        }
        assert!(bills.is_in_stretch());
        let mut all = Vec::new();
        bills.settle(8_000, |work, ns| all.push((work.flow, work.side, work.frames, ns)));
        assert!(!bills.is_in_stretch());
        let shares = [
            (0, Side::Rx, 2, 3_000),
            (0, Side::Tx, 1, 1_000),
            (1, Side::Wake, 1, 1_500),
            (2, Side::Rx, 1, 2_500),
        ];
        assert_eq!(all, shares);
        bills.forget_domain(7);
        assert!(bills.settle_round(8_100, |work, _| assert_eq!(work.domain, NO_DOMAIN)));
    }
}
