//! Processor time of the loop's thread, without asking the kernel in every round.
//!
//! While a thread runs, its time passes as everybody's does. So between two readings that are close
//! together nothing is asked; after a gap, in which the thread may have been kept from its processor, or
//! slept, the kernel is.
//!
//! Cost: a subtraction; a system call after a gap and once in a while. Error: what the thread was kept
//! from its processor in pieces shorter than [`GAP_NS`], since the kernel was last asked.

use rbuf_shm::{monotonic_ns, thread_cpu_ns};

/// Longest time between readings in which the thread is taken to have run: a small part of what a thread
/// is given when processors are shared.
const GAP_NS: u64 = 20_000;

/// How long the kernel is not asked.
const TRUST_NS: u64 = 1_000_000;

/// Reads the processor time of one thread.
#[derive(Debug)]
pub(crate) struct ThreadClock {
    /// What was answered last, and at what time.
    used_ns: u64,
    read_at_ns: u64,
    asked_at_ns: u64,
}

impl ThreadClock {
    /// The clock of this thread.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self { used_ns: thread_cpu_ns(), read_at_ns: now_ns, asked_at_ns: now_ns }
    }

    /// Nanoseconds of processor time that the thread has used by now.
    pub(crate) fn used_ns(&mut self) -> u64 {
        self.read(monotonic_ns())
    }

    /// Nanoseconds of processor time that the thread has used at `now_ns`; never less than before.
    pub(crate) fn read(&mut self, now_ns: u64) -> u64 {
        self.read_with(now_ns, thread_cpu_ns)
    }

    fn read_with(&mut self, now_ns: u64, ask: impl FnOnce() -> u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.read_at_ns);
        if passed_ns > GAP_NS || now_ns.saturating_sub(self.asked_at_ns) > TRUST_NS {
            self.asked_at_ns = now_ns;
            self.used_ns = self.used_ns.max(ask());
        } else {
            self.used_ns += passed_ns;
        }
        self.read_at_ns = self.read_at_ns.max(now_ns);
        self.used_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_after_a_gap_and_once_in_a_while_only() {
        let mut clock = ThreadClock { used_ns: 100, read_at_ns: 0, asked_at_ns: 0 };
        let never = || panic!("asked");
        assert_eq!(clock.read_with(15_000, never), 15_100);
        assert_eq!(clock.read_with(30_000, never), 30_100);
        // It slept.
        assert_eq!(clock.read_with(500_000, || 40_000), 40_000);
        assert_eq!(clock.read_with(510_000, never), 50_000);
        // It ran less than was thought.
        assert_eq!(clock.read_with(600_000, || 45_000), 50_000);
        let mut now_ns = 600_000;
        let mut asked = 0;
        while now_ns < 2_600_000 {
            now_ns += 10_000;
            clock.read_with(now_ns, || {
                asked += 1;
                0
            });
        }
        assert_eq!(asked, 1);
    }
}
