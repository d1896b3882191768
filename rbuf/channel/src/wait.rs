//! Waiting for the peer: spin, block, or spin first.

use crate::control::Words;
use crate::sync::AtomicU64;
use crate::{End, Fault, IoRec, Notice};

/// How to wait when there is nothing to take or no room to put.
///
/// A wake-up costs tens of microseconds on a virtual machine and a processor that spins answers in
/// a fraction of one, so the choice is the application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Look again and again: lowest latency, a whole processor.
    Spin,
    /// Sleep at once: lowest cost.
    Block,
    /// Look this many times, then sleep.
    Adaptive {
        /// Looks before sleeping; one takes a few nanoseconds.
        spins: u32,
    },
}

impl Default for Wait {
    fn default() -> Self {
        Self::Adaptive { spins: 200 }
    }
}

/// How this domain sleeps and wakes others; a futex, or loom's threads under test.
pub trait Park {
    /// Sleeps until somebody wakes `word`, unless the low half of `word` already differs from that
    /// of `seen`. `false` if the deadline has passed. May return early.
    fn sleep(&self, word: &AtomicU64, seen: u64) -> bool;

    /// Wakes one thread that sleeps on `word`: of several, it is for that one to wake the others.
    fn wake(&self, word: &AtomicU64);

    /// Lets another thread run, between two looks.
    fn relax(&self);

    /// Whether the deadline has passed; asked between batches of looks.
    fn expired(&self) -> bool;
}

impl<W: Words> End<W> {
    /// Takes the next iorec, waiting for it; `None` when the deadline of `park` passed.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if what the peer wrote cannot be.
    pub fn take_wait(&mut self, wait: Wait, park: &impl Park) -> Result<Option<IoRec>, Fault> {
        let mut spins = wait.spins();
        loop {
            if let Some(rec) = self.take()? {
                return Ok(Some(rec));
            }
            if !spins.again(park) {
                return Ok(None);
            }
            if spins.exhausted
                && let Some(seen) = self.await_published(1)?
            {
                let woken = park.sleep(self.peer_published_word(), seen);
                self.awake();
                if !woken {
                    return self.take();
                }
            }
        }
    }

    /// Puts an iorec, waiting for room; `false` when the deadline of `park` passed.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count is impossible.
    pub fn put_wait(&mut self, rec: &IoRec, wait: Wait, park: &impl Park) -> Result<bool, Fault> {
        let mut spins = wait.spins();
        loop {
            if self.put(rec)? {
                return Ok(true);
            }
            if !spins.again(park) {
                return Ok(false);
            }
            if spins.exhausted
                && let Some(seen) = self.await_taken(rec.words())?
            {
                let woken = park.sleep(self.peer_taken_word(), seen);
                self.awake();
                if !woken {
                    return self.put(rec);
                }
            }
        }
    }

    /// Wakes the peer's threads as `notice` says; its event FIFO is the caller's affair.
    pub fn wake(&self, notice: Notice, park: &impl Park) {
        if notice.wake_published {
            park.wake(self.published_word());
        }
        if notice.wake_taken {
            park.wake(self.taken_word());
        }
    }
}

/// Counts looks.
struct Spins {
    left: u32,
    endless: bool,
    exhausted: bool,
}

impl Wait {
    const fn spins(self) -> Spins {
        let (left, endless) = match self {
            Self::Spin => (0, true),
            Self::Block => (0, false),
            Self::Adaptive { spins } => (spins, false),
        };
        Spins { left, endless, exhausted: !endless && left == 0 }
    }
}

impl Spins {
    /// Prepares the next look; `false` if the deadline has passed.
    fn again(&mut self, park: &impl Park) -> bool {
        if self.exhausted {
            return true;
        }
        park.relax();
        if self.endless {
            self.left = self.left.wrapping_add(1);
            return !self.left.is_multiple_of(64) || !park.expired();
        }
        self.left -= 1;
        self.exhausted = self.left == 0;
        true
    }
}
