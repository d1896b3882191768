//! Event FIFOs: which of a domain's flows have work.
//!
//! A driver with 100 000 flows must not look at idle ones. So a side that finds a channel empty
//! *arms* it ([`End::arm`](crate::End::arm)), and the peer's next advance posts the flow's slot
//! here. An arming is answered by one event, and reading that event is what permits the next arming:
//! [`FifoReader::read`] yields an [`Event`], and an end arms again only once it has
//! [heard](crate::End::heard) it. So a flow has one event outstanding, and a second one at most while
//! its place changes hands. With two places per flow the FIFO cannot overflow, and it needs no count
//! of what was read.

use crate::Fault;
use crate::control::Words;
use crate::sync::{Ordering, fence};

/// Words before the slots: one cache line. Word 0 counts events posted, word 1 says that the
/// writer's domain is asleep on its doorbell.
pub const FIFO_HEADER_WORDS: usize = 8;

const POSTED: usize = 0;
const ASLEEP: usize = 1;

/// Words of the FIFO of a domain with up to `flows_max` flows.
pub const fn fifo_words(flows_max: u32) -> usize {
    FIFO_HEADER_WORDS + slots(flows_max)
}

const fn slots(flows_max: u32) -> usize {
    (flows_max as usize * 2).next_power_of_two()
}

/// The side that posts events.
#[derive(Debug)]
pub struct FifoWriter<W> {
    mine: W,
    posted: u64,
}

impl<W: Words> FifoWriter<W> {
    /// Over zeroed words; `None` unless they are [`fifo_words`] of some number of flows.
    pub fn new(mine: W) -> Option<Self> {
        let slots = mine.len().checked_sub(FIFO_HEADER_WORDS)?;
        slots.is_power_of_two().then_some(Self { mine, posted: 0 })
    }

    /// Posts that `slot` has work.
    pub fn post(&mut self, slot: u32) {
        let slots = self.mine.len() - FIFO_HEADER_WORDS;
        let place = FIFO_HEADER_WORDS + (self.posted as usize & (slots - 1));
        self.mine[place].store(u64::from(slot), Ordering::Relaxed);
        self.posted += 1;
        // ORDERING: pairs with the Acquire fence in `FifoReader::read`.
        self.mine[POSTED].store(self.posted, Ordering::Release);
    }

    /// Says whether this writer's own domain sleeps on its doorbell, and orders that before what
    /// the domain looks at next.
    pub fn set_asleep(&self, asleep: bool) {
        self.mine[ASLEEP].store(asleep.into(), Ordering::Relaxed);
        // ORDERING: pairs with the fence in `FifoReader::peer_asleep` on the other side.
        fence(Ordering::SeqCst);
    }
}

/// An event that was read: the permission to arm the channel of the flow in its slot once more.
///
/// Only [`FifoReader::read`] makes one. Give it to the end that was armed, by
/// [`End::heard`](crate::End::heard); one for a flow that was closed meanwhile is late, and is dropped.
#[derive(Debug)]
#[must_use = "the end that was armed is deaf until it has heard of this"]
pub struct Event {
    slot: u32,
}

impl Event {
    /// Which of the domain's flows has work.
    pub const fn slot(&self) -> u32 {
        self.slot
    }
}

/// The side that reads events.
#[derive(Debug)]
pub struct FifoReader<W> {
    theirs: W,
    flows_max: u32,
    posted: u64,
    taken: u64,
}

impl<W: Words> FifoReader<W> {
    /// Over the words the peer writes; `None` unless they are [`fifo_words`] of `flows_max`.
    pub fn new(theirs: W, flows_max: u32) -> Option<Self> {
        (theirs.len() == fifo_words(flows_max)).then_some(Self {
            theirs,
            flows_max,
            posted: 0,
            taken: 0,
        })
    }

    /// The next event, or `None`.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the peer's count or slot is impossible.
    pub fn read(&mut self) -> Result<Option<Event>, Fault> {
        let ring = (self.theirs.len() - FIFO_HEADER_WORDS) as u64;
        if self.taken == self.posted {
            let announced = self.theirs[POSTED].load(Ordering::Relaxed);
            // ORDERING: pairs with the Release store in `FifoWriter::post`.
            fence(Ordering::Acquire);
            if announced < self.posted || announced - self.taken > ring {
                return Err(Fault::EventsAhead { announced, seen: self.taken, ring });
            }
            self.posted = announced;
            if self.taken == self.posted {
                return Ok(None);
            }
        }
        let place = FIFO_HEADER_WORDS + (self.taken & (ring - 1)) as usize;
        let slot = self.theirs[place].load(Ordering::Relaxed);
        self.taken += 1;
        match u32::try_from(slot) {
            Ok(slot) if slot < self.flows_max => Ok(Some(Event { slot })),
            _ => Err(Fault::EventSlot { slot, slots: self.flows_max.into() }),
        }
    }

    /// Whether events wait to be read, by the peer's word for it.
    pub fn has_news(&self) -> bool {
        self.taken != self.theirs[POSTED].load(Ordering::Relaxed)
    }

    /// Whether the peer's domain said that it sleeps on its doorbell. Call after posting to it.
    pub fn peer_asleep(&self) -> bool {
        // ORDERING: pairs with the fence in `FifoWriter::set_asleep` on the other side: either
        // this side sees the sleeper, or the sleeper's last look saw what was posted.
        fence(Ordering::SeqCst);
        self.theirs[ASLEEP].load(Ordering::Relaxed) != 0
    }
}
