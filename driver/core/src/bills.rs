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

/// Which direction processor time is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Tx,
    Rx,
}

/// Work done since the last [`Bills::settle`]: whose, and how heavy.
#[derive(Debug, Clone, Copy)]
struct Work {
    flow: u32,
    weight: u32,
    side: Side,
}

#[derive(Debug)]
pub(crate) struct Bills<W> {
    words: W,
    flows_max: u32,
    work: Vec<Work>,
    weight: u64,
    /// Work that was billed last, and its weight.
    settled: Vec<Work>,
    settled_weight: u64,
    /// Whether nothing was billed since as what came of that work.
    has_caused: bool,
}

/// Work items between two settlements: more than a loop's budgets.
const WORK_MAX: usize = 1024;

/// Most that a frame can take of its flow's budget: what is beyond that is the machine's doing. It is
/// billed, but not held against the flow.
const FRAME_NS_MAX: u64 = 20_000;

/// Weight of handling a frame, in units of copying a byte: what was measured for the null link.
const FRAME_WEIGHT: u32 = 1000;

impl<W: Words> Bills<W> {
    pub(crate) fn new(words: W, flows_max: u32) -> Option<Self> {
        (words.len() >= bill_words(flows_max)).then(|| Self {
            words,
            flows_max,
            work: Vec::with_capacity(WORK_MAX),
            weight: 0,
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

    /// Notes that a frame of which `copied` bytes were copied was handled for `flow`.
    pub(crate) fn note(&mut self, flow: u32, side: Side, copied: usize) {
        if self.work.len() < WORK_MAX {
            let weight = FRAME_WEIGHT + copied as u32;
            self.work.push(Work { flow, weight, side });
            self.weight += u64::from(weight);
        }
    }

    /// Shares `elapsed_ns` among those for whom work was noted, by weight; `false`, and nothing is
    /// billed, if there was none. `paid` hears what each flow paid for receiving.
    pub(crate) fn settle(&mut self, elapsed_ns: u64, paid: impl FnMut(u32, u64)) -> bool {
        if self.work.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.work, &mut self.settled);
        self.settled_weight = std::mem::take(&mut self.weight);
        self.work.clear();
        self.has_caused = true;
        self.share(elapsed_ns, paid);
        true
    }

    /// Bills `elapsed_ns` in which no work was noted: once, what the loop does before it finds that
    /// there is nothing more, to those for whom it worked last; after that it is the link's.
    pub(crate) fn settle_idle(&mut self, elapsed_ns: u64) {
        if std::mem::take(&mut self.has_caused) {
            // Their budgets have paid for the frames.
            self.share(elapsed_ns, |_, _| ());
        } else {
            self.add(self.link(), bill_word::RX_CPU_NS, elapsed_ns);
        }
    }

    /// Bills `elapsed_ns` to the link: what the loop did for the flow manager.
    pub(crate) fn settle_control(&self, elapsed_ns: u64) {
        self.add(self.link(), bill_word::RX_CPU_NS, elapsed_ns);
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

    fn share(&self, elapsed_ns: u64, mut paid: impl FnMut(u32, u64)) {
        let mut left = elapsed_ns;
        for &Work { flow, weight, side } in &self.settled {
            let share =
                u128::from(elapsed_ns) * u128::from(weight) / u128::from(self.settled_weight);
            let share = share as u64;
            left -= share;
            match side {
                Side::Tx => self.add(flow, bill_word::TX_CPU_NS, share),
                Side::Rx => {
                    self.add(flow, bill_word::RX_CPU_NS, share);
                    paid(flow, share.min(FRAME_NS_MAX));
                }
            }
        }
        self.add(self.link(), bill_word::RX_CPU_NS, left);
    }
}
