//! What the driver keeps of a domain.

use base_rpc::DomainId;
use rbuf_channel::{Fault, FifoReader, FifoWriter, fifo_words};

use crate::account::Account;
use crate::arenas::Arenas;
use crate::flow::NO_FLOW;

pub(crate) struct Domain<A: Arenas> {
    pub(crate) id: DomainId,
    pub(crate) arenas: A,
    /// Events the domain posts.
    pub(crate) events: FifoReader<A::Words>,
    /// Events posted to the domain.
    pub(crate) posts: FifoWriter<A::Words>,
    /// The domain's slots.
    pub(crate) slots: Vec<Slot>,
    /// What it may take of the driver's time.
    pub(crate) account: Account,
    /// The flow that is billed for what no single flow of the domain has caused.
    pub(crate) bearer: u32,
    /// Whether its arenas are known to be [closed](Arenas::are_closed).
    pub(crate) closed: bool,
    /// Whether something was posted since the domain was last looked at.
    pub(crate) posted: bool,
    /// Whether its event FIFO was found to lie: it is not read any more.
    pub(crate) faulted: bool,
    /// Flows in [`Self::slots`].
    pub(crate) flows: u32,
    /// Whether it is gone when its last flow is.
    pub(crate) leaving: bool,
}

/// A place for a flow in a domain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) flow: u32,
    /// Events of the slot's former flows that may still come.
    late: u8,
}

impl Slot {
    const EMPTY: Self = Self { flow: NO_FLOW, late: 0 };

    /// Most that an honest domain has outstanding: what was armed, what the block's zeroing made it
    /// post, and the same of the flow before.
    const LATE_MAX: u8 = 4;
}

impl<A: Arenas> Domain<A> {
    /// `None`, and no account is opened, if the control arenas are too small for `flows_max` flows.
    pub(crate) fn new(
        id: DomainId,
        arenas: A,
        flows_max: u32,
        account: impl FnOnce() -> Account,
    ) -> Option<Self> {
        let words = fifo_words(flows_max);
        let events = FifoReader::new(arenas.control_out(0, words)?, flows_max)?;
        let posts = FifoWriter::new(arenas.control_in(0, words)?)?;
        let slots = vec![Slot::EMPTY; flows_max as usize];
        Some(Self {
            id,
            arenas,
            events,
            posts,
            slots,
            account: account(),
            bearer: NO_FLOW,
            closed: false,
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

    /// The flows of the domain.
    pub(crate) fn open_flows(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().map(|slot| slot.flow).filter(|&flow| flow != NO_FLOW)
    }

    pub(crate) fn flow(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot as usize).map(|slot| slot.flow).filter(|&flow| flow != NO_FLOW)
    }

    /// Gives `slot`, which is free, to `flow`.
    pub(crate) fn enter(&mut self, slot: u32, flow: u32) {
        self.slots[slot as usize].flow = flow;
        self.flows += 1;
        if self.bearer == NO_FLOW {
            self.bearer = flow;
        }
    }

    /// Takes `slot` from its flow, for which an event was still due or not.
    pub(crate) fn leave(&mut self, slot: u32, event_due: bool) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        // One more: zeroing the flow's block looks like an arming to who still holds its end.
        place.late = (place.late + u8::from(event_due) + 1).min(Slot::LATE_MAX);
        let flow = std::mem::replace(&mut place.flow, NO_FLOW);
        self.flows -= 1;
        if self.bearer == flow {
            let another = self.open_flows().next();
            self.bearer = another.unwrap_or(NO_FLOW);
        }
    }

    /// An event came for `slot` that its present flow has not asked for: late, if a former one had.
    ///
    /// # Errors
    ///
    /// The domain posts what nobody has asked for.
    pub(crate) fn late_event(&mut self, slot: u32) -> Result<(), Fault> {
        match self.slots.get_mut(slot as usize) {
            Some(place) if place.late > 0 => {
                place.late -= 1;
                Ok(())
            }
            _ => Err(Fault::EventUnarmed { slot }),
        }
    }
}
