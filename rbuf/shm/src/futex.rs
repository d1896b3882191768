//! Futexes on counts in shared pages.

use std::sync::atomic::{AtomicU32, AtomicU64};

use rbuf_channel::Park;
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::monotonic_ns;

/// Sleeps and wakes across processes, until a deadline.
///
/// Works on pages mapped read-only, so a domain can sleep on a count it cannot write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Futex {
    deadline_ns: Option<u64>,
}

impl Futex {
    /// Waits for ever.
    pub const fn patient() -> Self {
        Self { deadline_ns: None }
    }

    /// Waits until the monotonic clock shows `deadline_ns`.
    pub const fn until(deadline_ns: u64) -> Self {
        Self { deadline_ns: Some(deadline_ns) }
    }
}

impl Futex {
    /// Wakes every thread that sleeps on `word`: for threads of one's own.
    pub fn wake_all(word: &AtomicU64) {
        let _ = futex::wake(low_half(word), futex::Flags::empty(), i32::MAX as u32);
    }
}

/// The half of a count that the kernel compares.
fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let word: *const AtomicU64 = word;
    // SAFETY: the low half of a little-endian word (lib.rs refuses other targets) is at its
    // address, aligned and as long-lived. It is only passed to the kernel by address; this process
    // accesses the word as a whole, so no two atomic sizes are mixed.
    unsafe { &*word.cast::<AtomicU32>() }
}

impl Park for Futex {
    fn sleep(&self, word: &AtomicU64, seen: u64) -> bool {
        let timeout = match self.deadline_ns {
            None => None,
            Some(deadline) => {
                let left = deadline.saturating_sub(monotonic_ns());
                if left == 0 {
                    return false;
                }
                Some(Timespec {
                    tv_sec: (left / 1_000_000_000) as _,
                    tv_nsec: (left % 1_000_000_000) as _,
                })
            }
        };
        // Shared between processes, so never FUTEX_PRIVATE.
        let slept =
            futex::wait(low_half(word), futex::Flags::empty(), seen as u32, timeout.as_ref());
        slept != Err(Errno::TIMEDOUT)
    }

    fn wake(&self, word: &AtomicU64) {
        // One only: how many sleep is up to the other domain, and each would cost us. Fails only for addresses
        // that are not mapped, which a reference is not.
        let _ = futex::wake(low_half(word), futex::Flags::empty(), 1);
    }

    fn relax(&self) {
        std::hint::spin_loop();
    }

    fn expired(&self) -> bool {
        self.deadline_ns.is_some_and(|deadline| monotonic_ns() >= deadline)
    }
}
