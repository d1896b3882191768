//! Sleeping for two reasons at once: the driver has advanced a count, or a thread of this process calls.
//!
//! The driver's count stands in a page that this process cannot write, so a thread of its own cannot change
//! it to wake somebody: a wake-up that comes between a thread's last look and its sleep would be lost. So a
//! sleeper waits for two words, the driver's and one of ours, and the kernel compares both.
//!
//! The driver wakes one thread, however many sleep: what it costs to wake a domain must not be for the domain
//! to say. So who is woken by the driver calls the others, for they may wait for the same.
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

/// Threads that sleep for the counts of one flow.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    /// Counts calls. Who will sleep reads it before it looks whether it has to, so that no call is lost
    /// between looking and sleeping.
    calls: AtomicU32,
    /// How many sleep or are about to, for either count.
    asleep: [AtomicU32; 2],
}

impl Sleepers {
    /// Calls so far: see [`Cause`].
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Acquire)
    }

    /// Wakes whoever sleeps or is about to; on a kernel where that is not enough, by `counts`.
    pub(crate) fn call(&self, counts: &[&AtomicU64]) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let _ = futex::wake(&self.calls, futex::Flags::empty(), i32::MAX as u32);
        if BLIND.load(Ordering::Relaxed) {
            counts.iter().for_each(|count| Futex::wake_all(count));
        }
    }
}

/// What ends a thread's sleep: `count`, which is that of `side`, is not `seen`, or the calls of those who sleep
/// for it are not `call`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause<'a> {
    pub sleepers: &'a Sleepers,
    pub side: usize,
    pub count: &'a AtomicU64,
    pub seen: u64,
    pub call: u32,
}

impl Cause<'_> {
    fn fall_asleep(&self) {
        self.sleepers.asleep[self.side].fetch_add(1, Ordering::SeqCst);
    }

    /// Passes it on to the others if the driver has advanced the count.
    fn wake_up(&self) {
        let others = self.sleepers.asleep[self.side].fetch_sub(1, Ordering::SeqCst) > 1;
        // If the calls have changed, somebody else has passed it on, to this thread too. Who sleeps by then and is
        // not counted has yet to compare the count with what he saw.
        let advanced = self.count.load(Ordering::Acquire) != self.seen;
        if others && advanced && self.sleepers.calls() == self.call {
            self.sleepers.call(&[self.count]);
        }
    }
}

/// Sleeps until one of `causes` ends it, or the monotonic clock shows `until_ns`; `false` if it does. The kernel
/// looks at half as many causes as words.
pub(crate) fn until(causes: &[Cause<'_>], until_ns: u64) -> bool {
    causes.iter().for_each(Cause::fall_asleep);
    let woken = wait(causes, until_ns);
    causes.iter().for_each(Cause::wake_up);
    woken
}

fn wait(causes: &[Cause<'_>], until_ns: u64) -> bool {
    if !BLIND.load(Ordering::Relaxed) {
        let mut words = [Wait::new(); WORDS_MAX];
        let mut used = 0;
        for (pair, cause) in words.chunks_exact_mut(2).zip(causes) {
            pair[0] = word(cause.count.as_ptr().cast(), cause.seen as u32);
            pair[1] = word(cause.sleepers.calls.as_ptr(), cause.call);
            used += 2;
        }
        let until = Timespec {
            tv_sec: (until_ns / 1_000_000_000) as _,
            tv_nsec: (until_ns % 1_000_000_000) as _,
        };
        let words = &words[..used];
        match futex::waitv(words, WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
            Err(Errno::NOSYS | Errno::PERM) => BLIND.store(true, Ordering::Relaxed),
            slept => return slept != Err(Errno::TIMEDOUT),
        }
    }
    if causes.iter().any(|cause| cause.sleepers.calls() != cause.call) {
        return true;
    }
    let soon_ns = monotonic_ns() + BLIND_NS;
    let Some(first) = causes.first() else { return false };
    Futex::until(until_ns.min(soon_ns)).sleep(first.count, first.seen) || until_ns > soon_ns
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Sleeps at most so long: what fails to wake shows as this.
    const LONG_NS: u64 = 20_000_000_000;

    fn sleep(sleepers: &Sleepers, count: &AtomicU64, seen: u64, call: u32, until_ns: u64) -> bool {
        until(&[Cause { sleepers, side: 0, count, seen, call }], until_ns)
    }

    #[test]
    fn a_call_between_looking_and_sleeping_is_not_lost() {
        let (count, sleepers) = (AtomicU64::new(7), Sleepers::default());
        let call = sleepers.calls();
        sleepers.call(&[&count]);
        let begun_ns = monotonic_ns();
        assert!(sleep(&sleepers, &count, 7, call, begun_ns + LONG_NS));
        assert!(monotonic_ns() - begun_ns < LONG_NS / 2);
    }

    #[test]
    fn either_word_wakes_and_the_clock_ends_it() {
        let (count, sleepers) = (AtomicU64::new(1 << 32 | 7), Sleepers::default());
        thread::scope(|scope| {
            let sleeper =
                |call| sleep(&sleepers, &count, 1 << 32 | 7, call, monotonic_ns() + LONG_NS);
            let (one, two) = (scope.spawn(move || sleeper(0)), scope.spawn(move || sleeper(0)));
            sleepers.call(&[&count]);
            assert!(one.join().unwrap() && two.join().unwrap());
            let third = scope.spawn(move || sleeper(1));
            count.fetch_add(1, Ordering::AcqRel);
            Futex::patient().wake(&count);
            assert!(third.join().unwrap());
        });
        let call = sleepers.calls();
        assert!(!sleep(&sleepers, &count, 1 << 32 | 8, call, monotonic_ns() + 1_000_000));
    }

    #[test]
    fn the_driver_wakes_one_and_every_other_hears_of_it() {
        const THREADS: usize = 16;
        const ROUNDS: u64 = 200;
        let (count, sleepers) = (AtomicU64::new(0), Sleepers::default());
        let round = Barrier::new(THREADS + 1);
        let missed = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for seen in 0..ROUNDS {
                        loop {
                            let call = sleepers.calls();
                            if count.load(Ordering::Acquire) != seen {
                                break;
                            }
                            let until_ns = monotonic_ns() + LONG_NS / 10;
                            let woken = sleep(&sleepers, &count, seen, call, until_ns);
                            missed.fetch_add(u32::from(!woken), Ordering::Relaxed);
                        }
                        round.wait();
                    }
                });
            }
            for seen in 0..ROUNDS {
                // Most are asleep by then; who is not must not be missed either.
                while seen % 2 == 0 && sleepers.asleep[0].load(Ordering::SeqCst) < THREADS as u32 {
                    thread::yield_now();
                }
                count.fetch_add(1, Ordering::AcqRel);
                Futex::patient().wake(&count);
                round.wait();
            }
        });
        assert_eq!(missed.into_inner(), 0, "who was woken passed it on");
    }
}
