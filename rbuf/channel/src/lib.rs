//! The Rbuf channel: all that one domain ever shares with another (paper §2.2).
//!
//! A channel is simplex. Its bytes lie in a *data area*; what travels are [`IoRec`]s that name
//! ranges of it, through two *control areas*, one written by each side:
//!
//! ```text
//!   master ── full (transmit) or empty (receive) iorecs ──▶ slave
//!   master ◀── the same buffers, emptied or filled ──────── slave
//! ```
//!
//! The master chooses the addresses: it is the originator of the data in transmit master mode, the
//! receiver in receive master mode (§2.2.3). Both ends are the same type, [`End`]; which one is
//! master is a matter of who puts first, and of [`Mode`], which says who writes the data area.
//!
//! # Layout
//!
//! Each side writes one block of `u64` words and reads the other's; pages of a block are mapped
//! read-only on the other side.
//!
//! | Word | Written by the block's side |
//! |---|---|
//! | 0 | `published`: words of iorecs put so far |
//! | 1 | `taken`: words taken so far from the other side's ring |
//! | 2 | `awaits published`: sleeps until the other side's `published` is at least this; 0 if awake |
//! | 3 | `awaits taken`: likewise for the other side's `taken` |
//! | 4 | `armed`: raised to be told of the next advance through the event FIFO |
//! | 5–7 | reserved, zero |
//! | 8… | the ring: a power of two of words |
//!
//! Counts are 64 bits and never wrap, so a count that runs backwards is a lie and not an overflow;
//! a futex waits on their low half.
//!
//! # Invariants
//!
//! 1. What the peer wrote is read once, compared with private state and bounded, in release builds
//!    too; a lie is a [`Fault`] and closes this channel only.
//! 2. One advance publishes a whole iorec; a reader never sees part of one.
//! 3. No wake-up is lost: a side that announces sleep and then finds nothing new will be woken by
//!    the next advance (the loom tests check every interleaving).
//!
//! # Elsewhere
//!
//! Memory, futexes and doorbells: `rbuf-shm`. This crate is safe code over slices of atomics.

#![forbid(unsafe_code)]

mod control;
mod data;
mod end;
mod fault;
mod fifo;
mod heap;
mod iorec;
mod pool;
mod sync;
mod wait;

pub use control::{
    BLOCK_HEADER_WORDS, RING_WORDS_MAX, RING_WORDS_MIN, Words, block_words, flow_block_bytes,
    rx_block_offset,
};
pub use data::{Data, Hold, Mode};
pub use end::{End, Notice};
pub use fault::Fault;
pub use fifo::{Event, FIFO_HEADER_WORDS, FifoReader, FifoWriter, fifo_words};
pub use heap::{HeapData, HeapWords};
pub use iorec::{IoRec, PAIRS_MAX, Pair, flag};
pub use pool::{Buffer, Pool};
pub use sync::{AtomicU8, AtomicU64};
pub use wait::{Park, Wait};
