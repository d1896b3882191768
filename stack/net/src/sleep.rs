//! Sleeping for two reasons at once: the driver has advanced a count, or a thread of this process calls.
//!
//! The driver's count stands in a page that this process cannot write, so a thread of its own cannot change
//! it to wake somebody: a wake-up that comes between a thread's last look and its sleep would be lost. So a
//! sleeper waits for two words, the driver's and one of ours, and the kernel compares both.
//!
//! Kernels before 5.16 can wait for one word only. There a lost call costs up to [`BLIND_NS`].

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rbuf_channel::Park;
use rbuf_shm::{Futex, monotonic_ns};
use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::Timespec;

/// Longest sleep on a kernel where a call can be missed.
const BLIND_NS: u64 = 2_000_000;

/// Whether this kernel can wait for one word only.
static BLIND: AtomicBool = AtomicBool::new(false);

/// Words that a thread sleeps on at most.
const WORDS_MAX: usize = 64;

/// What the kernel is to compare: the low half of a little-endian count, or the whole of ours.
fn word(pointer: *mut u32, value: u32) -> Wait {
    let mut word = Wait::new();
    word.val = value.into();
    word.uaddr = WaitPtr::new(pointer.cast());
    // Not private to this process, as the driver's is not; for ours, so that both are woken alike.
    word.flags = WaitFlags::SIZE_U32;
    word
}

/// Sleeps until `count` is not `seen`, `calls` is not `call`, or the monotonic clock shows `until_ns`; `false`
/// if it does.
pub(crate) fn until(
    count: &AtomicU64,
    seen: u64,
    calls: &AtomicU32,
    call: u32,
    until_ns: u64,
) -> bool {
    until_any(&[(count, seen)], &[(calls, call)], until_ns)
}

/// As [`until`], for any of several counts and callers; the kernel looks at 128 in all.
pub(crate) fn until_any(
    counts: &[(&AtomicU64, u64)],
    callers: &[(&AtomicU32, u32)],
    until_ns: u64,
) -> bool {
    if !BLIND.load(Ordering::Relaxed) {
        let counts = counts.iter().map(|(count, seen)| word(count.as_ptr().cast(), *seen as u32));
        let callers = callers.iter().map(|(calls, call)| word(calls.as_ptr(), *call));
        let mut words = [Wait::new(); WORDS_MAX];
        let mut used = 0;
        for (place, word) in words.iter_mut().zip(counts.chain(callers)) {
            *place = word;
            used += 1;
        }
        let words = &words[..used];
        let until = Timespec {
            tv_sec: (until_ns / 1_000_000_000) as _,
            tv_nsec: (until_ns % 1_000_000_000) as _,
        };
        match futex::waitv(words, WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
            Err(Errno::NOSYS | Errno::PERM) => BLIND.store(true, Ordering::Relaxed),
            slept => return slept != Err(Errno::TIMEDOUT),
        }
    }
    if callers.iter().any(|(calls, call)| calls.load(Ordering::Acquire) != *call) {
        return true;
    }
    let soon_ns = monotonic_ns() + BLIND_NS;
    let Some((count, seen)) = counts.first() else { return false };
    Futex::until(until_ns.min(soon_ns)).sleep(count, *seen) || until_ns > soon_ns
}

/// Wakes who sleeps for `calls`, or on a kernel that cannot wait for it for one of `counts`.
pub(crate) fn wake(calls: &AtomicU32, counts: [&AtomicU64; 2]) {
    let _ = futex::wake(calls, futex::Flags::empty(), i32::MAX as u32);
    if BLIND.load(Ordering::Relaxed) {
        counts.into_iter().for_each(|count| Futex::patient().wake(count));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Sleeps at most so long: what fails to wake shows as this.
    const LONG_NS: u64 = 20_000_000_000;

    #[test]
    fn a_call_between_looking_and_sleeping_is_not_lost() {
        let (count, calls) = (AtomicU64::new(7), AtomicU32::new(0));
        let call = calls.fetch_add(1, Ordering::AcqRel);
        wake(&calls, [&count, &count]);
        let begun_ns = monotonic_ns();
        assert!(until(&count, 7, &calls, call, begun_ns + LONG_NS));
        assert!(monotonic_ns() - begun_ns < LONG_NS / 2);
    }

    #[test]
    fn either_word_wakes_and_the_clock_ends_it() {
        let (count, calls) = (AtomicU64::new(1 << 32 | 7), AtomicU32::new(3));
        thread::scope(|scope| {
            let sleeper = || until(&count, 1 << 32 | 7, &calls, 3, monotonic_ns() + LONG_NS);
            let (one, two) = (scope.spawn(sleeper), scope.spawn(sleeper));
            calls.fetch_add(1, Ordering::AcqRel);
            wake(&calls, [&count, &count]);
            assert!(one.join().unwrap() && two.join().unwrap());
            let third =
                scope.spawn(|| until(&count, 1 << 32 | 7, &calls, 4, monotonic_ns() + LONG_NS));
            count.fetch_add(1, Ordering::AcqRel);
            Futex::patient().wake(&count);
            assert!(third.join().unwrap());
        });
        assert!(!until(&count, 1 << 32 | 8, &calls, 4, monotonic_ns() + 1_000_000));
    }
}
