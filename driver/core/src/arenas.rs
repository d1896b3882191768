//! What the driver shares with a domain: four arenas and a bell.

use std::cell::Cell;
use std::rc::Rc;

use rbuf_channel::{AtomicU64, Data, HeapData, HeapWords, Words};

/// The memory a domain shares with the driver, whatever its number of flows.
pub trait Arenas {
    /// Words of a control arena.
    type Words: Words;
    /// A data area.
    type Data: Data;

    /// Words that the domain writes, from a byte offset on; `None` if they are not all there.
    fn control_out(&self, offset: u64, words: usize) -> Option<Self::Words>;

    /// Words that the driver writes; the arena grows to hold them, within its limit.
    fn control_in(&self, offset: u64, words: usize) -> Option<Self::Words>;

    /// A data area that the domain writes and the driver reads.
    fn tx_data(&self, offset: u64, bytes: u32) -> Option<Self::Data>;

    /// A data area that the driver writes and the domain reads.
    fn rx_data(&self, offset: u64, bytes: u32) -> Option<Self::Data>;

    /// Whether what the domain writes can have no holes any more, for which whoever touches it would have to wait.
    fn are_closed(&self) -> bool {
        true
    }

    /// Wakes threads of the domain that sleep on `word`.
    fn wake(&self, word: &AtomicU64);

    /// Wakes the domain, which sleeps on its doorbell.
    fn ring(&self);
}

/// Arenas in ordinary memory, for tests and for the simulator; clones share them.
#[derive(Debug, Clone)]
pub struct HeapArenas {
    control_out: HeapWords,
    control_in: HeapWords,
    tx_data: HeapData,
    rx_data: HeapData,
    rings: Rc<Cell<u64>>,
}

impl HeapArenas {
    /// Arenas of these sizes, all zero.
    pub fn new(control_bytes: u64, tx_bytes: u32, rx_bytes: u32) -> Self {
        let words = (control_bytes / 8) as usize;
        Self {
            control_out: HeapWords::new(words),
            control_in: HeapWords::new(words),
            tx_data: HeapData::new(tx_bytes),
            rx_data: HeapData::new(rx_bytes),
            rings: Rc::default(),
        }
    }

    /// How often the domain was rung or woken.
    pub fn rings(&self) -> u64 {
        self.rings.get()
    }
}

fn part(words: &HeapWords, offset: u64, count: usize) -> Option<HeapWords> {
    if !offset.is_multiple_of(64) {
        return None;
    }
    words.part(usize::try_from(offset / 8).ok()?, count)
}

impl Arenas for HeapArenas {
    type Words = HeapWords;
    type Data = HeapData;

    fn control_out(&self, offset: u64, words: usize) -> Option<HeapWords> {
        part(&self.control_out, offset, words)
    }

    fn control_in(&self, offset: u64, words: usize) -> Option<HeapWords> {
        part(&self.control_in, offset, words)
    }

    fn tx_data(&self, offset: u64, bytes: u32) -> Option<HeapData> {
        self.tx_data.part(u32::try_from(offset).ok()?, bytes)
    }

    fn rx_data(&self, offset: u64, bytes: u32) -> Option<HeapData> {
        self.rx_data.part(u32::try_from(offset).ok()?, bytes)
    }

    fn wake(&self, _word: &AtomicU64) {
        self.rings.set(self.rings.get() + 1);
    }

    fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
    }
}
