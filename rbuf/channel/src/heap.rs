//! Channels in ordinary memory: for tests, and for the simulator's domains in one process.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::FromZeros;

use crate::AtomicU8;
use crate::data::{Data, Hold};
use crate::sync::AtomicU64;

/// Words on the heap; clones share them.
#[derive(Debug, Clone)]
pub struct HeapWords {
    words: Arc<Vec<AtomicU64>>,
    start: usize,
    end: usize,
}

impl HeapWords {
    /// `count` words, all zero.
    pub fn new(count: usize) -> Self {
        let words = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { words: Arc::new(words), start: 0, end: count }
    }

    /// The `count` words from `start` on, or `None` if there are not so many.
    pub fn part(&self, start: usize, count: usize) -> Option<Self> {
        let (start, end) =
            (self.start.checked_add(start)?, self.start.checked_add(start)?.checked_add(count)?);
        (end <= self.end).then(|| Self { words: Arc::clone(&self.words), start, end })
    }
}

impl Deref for HeapWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.words[self.start..self.end]
    }
}

/// A data area on the heap; clones share it.
#[derive(Debug, Clone)]
pub struct HeapData {
    cells: Arc<Box<[AtomicU8]>>,
    start: u32,
    bytes: u32,
}

impl HeapData {
    /// `bytes` zero bytes; those that nobody writes take no memory.
    pub fn new(bytes: u32) -> Self {
        // Only a length that no address space holds can be refused.
        let cells = <[AtomicU8]>::new_box_zeroed_with_elems(bytes as usize).unwrap_or_default();
        Self { cells: Arc::new(cells), start: 0, bytes }
    }

    /// The `bytes` from `start` on, or `None` if they are not all inside.
    pub fn part(&self, start: u32, bytes: u32) -> Option<Self> {
        let end = start.checked_add(bytes)?;
        (end <= self.bytes).then(|| Self {
            cells: Arc::clone(&self.cells),
            start: self.start + start,
            bytes,
        })
    }
}

impl Data for HeapData {
    fn bytes(&self) -> u32 {
        self.bytes
    }

    fn cells(&self, offset: u32, len: u32) -> &[AtomicU8] {
        if u64::from(offset) + u64::from(len) > u64::from(self.bytes) {
            return &[];
        }
        let start = (self.start + offset) as usize;
        &self.cells[start..start + len as usize]
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> bool {
        let Ok(len) = u32::try_from(out.len()) else { return false };
        let cells = self.cells(offset, len);
        for (byte, cell) in out.iter_mut().zip(cells) {
            *byte = cell.load(Ordering::Relaxed);
        }
        cells.len() == out.len()
    }

    fn write(&self, offset: u32, bytes: &[u8]) -> bool {
        let Ok(len) = u32::try_from(bytes.len()) else { return false };
        let cells = self.cells(offset, len);
        for (cell, byte) in cells.iter().zip(bytes) {
            cell.store(*byte, Ordering::Relaxed);
        }
        cells.len() == bytes.len()
    }

    fn hold(&self) -> Hold {
        Arc::new(Arc::clone(&self.cells))
    }

    fn memory(&self) -> usize {
        self.cells.as_ptr().addr()
    }
}
