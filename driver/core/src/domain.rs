//! What the driver keeps of a domain.

use base_rpc::DomainId;
use rbuf_channel::{FifoReader, FifoWriter, fifo_words};

use crate::arenas::Arenas;
use crate::flow::NO_FLOW;

pub(crate) struct Domain<A: Arenas> {
    pub(crate) id: DomainId,
    pub(crate) arenas: A,
    /// Events the domain posts.
    pub(crate) events: FifoReader<A::Words>,
    /// Events posted to the domain.
    pub(crate) posts: FifoWriter<A::Words>,
    /// Flow of each of the domain's slots.
    pub(crate) slots: Vec<u32>,
    /// Whether something was posted since the domain was last looked at.
    pub(crate) posted: bool,
    /// Whether its event FIFO was found to lie: it is not read any more.
    pub(crate) faulted: bool,
    /// Flows in [`Self::slots`].
    pub(crate) flows: u32,
    /// Whether it is gone when its last flow is.
    pub(crate) leaving: bool,
}

impl<A: Arenas> Domain<A> {
    /// `None` if the control arenas are too small for `flows_max` flows.
    pub(crate) fn new(id: DomainId, arenas: A, flows_max: u32) -> Option<Self> {
        let words = fifo_words(flows_max);
        let events = FifoReader::new(arenas.control_out(0, words)?, flows_max)?;
        let posts = FifoWriter::new(arenas.control_in(0, words)?)?;
        let slots = vec![NO_FLOW; flows_max as usize];
        Some(Self {
            id,
            arenas,
            events,
            posts,
            slots,
            posted: false,
            faulted: false,
            flows: 0,
            leaving: false,
        })
    }

    /// Whether what it posts is read.
    pub(crate) const fn is_heard(&self) -> bool {
        !self.faulted && !self.leaving
    }

    pub(crate) fn flow(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot as usize).copied().filter(|&flow| flow != NO_FLOW)
    }
}
