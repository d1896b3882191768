//! Shared memory for Rbuf channels on Linux.
//!
//! | What | Paper | Here |
//! |---|---|---|
//! | a region shared by two domains | "single address space, shared rights" (§2.2.1) | [`Arena`]: a sealed `memfd` |
//! | an event channel | §2.2.2 | [`Futex`] on a count, [`Doorbell`] and [`DriverBell`] for a whole domain |
//! | same-machine RPC with memory | §4.1 | [`Connection`]: `SOCK_SEQPACKET` and `SCM_RIGHTS` |
//!
//! # Invariants
//!
//! 1. An arena is mapped only if it cannot shrink (`F_SEAL_SHRINK`): or whoever else has it could kill us with
//!    `SIGBUS`. Only bytes that exist are ever handed out.
//! 2. Memory another domain can write is seen only as atomics, or copied. No `&[u8]` into it exists.
//!
//! This crate holds `unsafe`; everything it exports is safe to use.

#![cfg(target_endian = "little")]

mod arena;
mod confine;
mod connection;
mod copy;
mod doorbell;
mod futex;
mod listener;
mod process;
mod transfer;

pub use arena::{Access, Arena, ArenaError, ShmData, ShmWords, held_bytes};
pub use confine::{Calls, ConfineError, Landlock, become_user, confine};
pub use connection::{
    Connection, DESCRIPTORS_MAX, Peer, ReceiveError, Received, raise_descriptor_limit,
};
pub use doorbell::{Doorbell, DriverBell, Ringer};
pub use futex::Futex;
pub use listener::{Descriptors, Listener};
pub use process::{PeerProcess, descriptors_can_be_refused};
pub use transfer::RANGES_MAX;

/// Nanoseconds of the monotonic clock, the only clock of the system.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Calls `last_words` when the process ends in order: when `main` returns, or by [`std::process::exit`];
/// other threads still run then. `false` if there is no room for more such functions.
pub fn at_exit(last_words: extern "C" fn()) -> bool {
    // SAFETY: a function of this program is there as long as the program is, and may be called from any
    // thread.
    unsafe { libc::atexit(last_words) == 0 }
}

/// Nanoseconds of processor time the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (used.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(used.tv_nsec as u64)
}
