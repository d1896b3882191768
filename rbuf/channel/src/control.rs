//! Control areas: where the words of a block stand.

use core::ops::Deref;

use crate::sync::AtomicU64;

/// Words before the ring of a block: one cache line.
pub const BLOCK_HEADER_WORDS: usize = 8;
/// Smallest ring: one iorec of one pair in each half.
pub const RING_WORDS_MIN: u32 = 4;
/// Largest ring.
pub const RING_WORDS_MAX: u32 = 1 << 16;

pub(crate) const PUBLISHED: usize = 0;
pub(crate) const TAKEN: usize = 1;
pub(crate) const AWAITS_PUBLISHED: usize = 2;
pub(crate) const AWAITS_TAKEN: usize = 3;
pub(crate) const ARMED: usize = 4;

/// Words of a block with a ring of `ring_words`.
pub const fn block_words(ring_words: u32) -> usize {
    BLOCK_HEADER_WORDS + ring_words as usize
}

/// Shared words: a part of a mapped arena, or of the heap in tests and simulation.
pub trait Words: Deref<Target = [AtomicU64]> {}

impl<T: Deref<Target = [AtomicU64]>> Words for T {}

/// Bytes of a flow's block in a control arena: its transmit channel's block, then its receive
/// channel's, each on cache lines of its own.
pub const fn flow_block_bytes(tx_words: u32, rx_words: u32) -> u64 {
    rx_block_offset(tx_words) + (block_words(rx_words) as u64 * 8).next_multiple_of(64)
}

/// Byte offset of the receive channel's block in a flow's block.
pub const fn rx_block_offset(tx_words: u32) -> u64 {
    (block_words(tx_words) as u64 * 8).next_multiple_of(64)
}
