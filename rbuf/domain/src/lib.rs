//! A domain's side of the arenas it shares with a driver.
//!
//! An application shares four arenas with a driver, once, and then lays out each flow's channels in
//! them itself: it is its own memory. So a flow costs no mapping, no descriptor and no system call.
//!
//! 1. [`Offer::new`] makes what the domain contributes: control-out and data arenas, a doorbell.
//! 2. The offer's descriptors go to the driver (through the flow manager); the driver's come back.
//! 3. [`Domain::new`] joins the two. [`Domain::lay_out`] and [`Domain::ends`] make channels.
//!
//! Used by the stack of applications, and by the flow manager for its own flow.

#![forbid(unsafe_code)]

mod regions;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use base_rpc::{FlowLayout, Region};
use rbuf_channel::{
    End, Fault, FifoReader, FifoWriter, Mode, block_words, fifo_words, flow_block_bytes,
    rx_block_offset,
};
use rbuf_shm::{Access, Arena, ArenaError, Doorbell, Ringer, ShmData, ShmWords};

use crate::regions::Regions;

/// Most bytes a control arena can grow to.
pub const CONTROL_BYTES_MAX: u64 = 1 << 28;
/// Most bytes a data arena can grow to.
pub const DATA_BYTES_MAX: u64 = 1 << 32;

/// Arenas grow by at least this much.
const GROWTH_BYTES: u64 = 1 << 18;

/// Why shared memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// An arena could not be made or mapped.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A doorbell could not be made.
    #[error("doorbell: {0}")]
    Doorbell(#[from] io::Error),
    /// The driver's control arena is too small for the event FIFO.
    #[error("the driver's control arena is too small")]
    ControlIn,
    /// All of the domain's flows are open.
    #[error("all {0} flows are open: join with a larger number")]
    Slots(u32),
    /// The arenas cannot grow further.
    #[error("no room for the flow's buffers: arenas are at their limit")]
    Full,
    /// A layout does not fit the arenas: it is not one of this domain's.
    #[error("layout does not fit the arenas")]
    Layout,
}

/// What a domain contributes: its arenas and its bell.
#[derive(Debug)]
pub struct Offer {
    control_out: Arena,
    tx_data: Arena,
    rx_data: Arena,
    bell: Doorbell,
    /// The end of the bell that goes to the driver.
    ringer: Ringer,
    flows_max: u32,
}

impl Offer {
    /// Arenas for up to `flows_max` flows at a time.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new(flows_max: u32) -> Result<Self, DomainError> {
        let flows_max = flows_max.max(1);
        let (bell, ringer) = Doorbell::new()?;
        let fifo = fifo_bytes(flows_max);
        Ok(Self {
            control_out: Arena::create("plumb-control-out", fifo, CONTROL_BYTES_MAX, Access::Read)?,
            tx_data: data_arena("plumb-tx-data", Mode::TransmitMaster)?,
            rx_data: data_arena("plumb-rx-data", Mode::ReceiveMaster)?,
            bell,
            ringer,
            flows_max,
        })
    }

    /// How many flows it is for.
    pub const fn flows_max(&self) -> u32 {
        self.flows_max
    }

    /// What to send to the driver, in the order the protocol wants.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 4] {
        [self.control_out.file(), self.tx_data.file(), self.rx_data.file(), self.ringer.as_fd()]
    }
}

/// A data arena of channels in which this domain is master: the other side may write it only where
/// this side is the receiver.
fn data_arena(name: &str, mode: Mode) -> Result<Arena, ArenaError> {
    let others = match mode {
        Mode::TransmitMaster => Access::Read,
        Mode::ReceiveMaster => Access::Write,
    };
    Arena::create(name, GROWTH_BYTES, DATA_BYTES_MAX, others)
}

/// The shape of a flow's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Words in each control area of the transmit channel; a power of two.
    pub tx_words: u32,
    /// Words in each control area of the receive channel; a power of two.
    pub rx_words: u32,
    /// Bytes of the transmit data area.
    pub tx_bytes: u32,
    /// Bytes of the receive data area.
    pub rx_bytes: u32,
}

/// A flow's channels as the application holds them.
#[derive(Debug)]
pub struct Ends {
    /// The transmit channel: puts full buffers, takes empty ones.
    pub tx: End<ShmWords>,
    /// The receive channel: puts empty buffers, takes full ones.
    pub rx: End<ShmWords>,
    /// The transmit data area.
    pub tx_data: ShmData,
    /// The receive data area.
    pub rx_data: ShmData,
}

/// Arenas shared with a driver.
#[derive(Debug)]
pub struct Domain {
    offer: Offer,
    control_in: Arena,
    driver_bell: Ringer,
    posts: Mutex<FifoWriter<ShmWords>>,
    events: Mutex<FifoReader<ShmWords>>,
    plan: Mutex<Plan>,
}

/// What is in use.
#[derive(Debug)]
struct Plan {
    /// Slots that are free, the lowest last.
    slots: Vec<u32>,
    control: Regions,
    tx_data: Regions,
    rx_data: Regions,
}

/// Bytes of each arena that a flow needs.
struct Wanted {
    control: u64,
    tx_data: u64,
    rx_data: u64,
}

impl Wanted {
    fn of(shape: &Shape) -> Self {
        Self {
            control: flow_block_bytes(shape.tx_words, shape.rx_words),
            tx_data: shape.tx_bytes.into(),
            rx_data: shape.rx_bytes.into(),
        }
    }
}

impl Plan {
    /// Takes a region of each arena, or none.
    fn take(&mut self, wanted: &Wanted) -> Option<[u64; 3]> {
        let control = self.control.take(wanted.control)?;
        let Some(tx) = self.tx_data.take(wanted.tx_data) else {
            self.control.give(control, wanted.control);
            return None;
        };
        let Some(rx) = self.rx_data.take(wanted.rx_data) else {
            self.control.give(control, wanted.control);
            self.tx_data.give(tx, wanted.tx_data);
            return None;
        };
        Some([control, tx, rx])
    }

    fn give(&mut self, wanted: &Wanted, [control, tx, rx]: [u64; 3]) {
        self.control.give(control, wanted.control);
        self.tx_data.give(tx, wanted.tx_data);
        self.rx_data.give(rx, wanted.rx_data);
    }
}

fn fifo_bytes(flows_max: u32) -> u64 {
    (fifo_words(flows_max) as u64 * 8).next_multiple_of(64)
}

impl Domain {
    /// Joins the offer with what the driver sent: its control arena and its bell.
    ///
    /// # Errors
    ///
    /// [`DomainError::Arena`] if the driver's arena cannot be mapped.
    pub fn new(
        offer: Offer,
        control_in: OwnedFd,
        driver_bell: OwnedFd,
    ) -> Result<Self, DomainError> {
        let control_in = Arena::open(control_in, Access::Read, CONTROL_BYTES_MAX)?;
        let words = fifo_words(offer.flows_max);
        let posts = offer
            .control_out
            .words(0, words)
            .and_then(FifoWriter::new)
            .ok_or(DomainError::ControlIn)?;
        let events = control_in
            .words(0, words)
            .and_then(|words| FifoReader::new(words, offer.flows_max))
            .ok_or(DomainError::ControlIn)?;
        let plan = Plan {
            slots: (0..offer.flows_max).rev().collect(),
            control: Regions::new(fifo_bytes(offer.flows_max), CONTROL_BYTES_MAX),
            tx_data: Regions::new(0, DATA_BYTES_MAX),
            rx_data: Regions::new(0, DATA_BYTES_MAX),
        };
        Ok(Self {
            driver_bell: Ringer::from(driver_bell),
            posts: Mutex::new(posts),
            events: Mutex::new(events),
            plan: Mutex::new(plan),
            control_in,
            offer,
        })
    }

    /// Finds room for a flow of this shape. The layout stays taken until [`Self::give_back`].
    ///
    /// # Errors
    ///
    /// [`DomainError::Slots`] or [`DomainError::Full`].
    pub fn lay_out(&self, shape: &Shape) -> Result<FlowLayout, DomainError> {
        let mut plan = lock(&self.plan);
        let slot = *plan.slots.last().ok_or(DomainError::Slots(self.offer.flows_max))?;
        let wanted = Wanted::of(shape);
        let offsets = plan.take(&wanted).ok_or(DomainError::Full)?;
        if let Err(error) = self.grow(&plan) {
            plan.give(&wanted, offsets);
            return Err(error);
        }
        let [control, tx, rx] = offsets;
        plan.slots.pop();
        Ok(FlowLayout {
            slot,
            control_offset: control,
            tx_words: shape.tx_words,
            rx_words: shape.rx_words,
            tx_data: Region { offset: tx, bytes: shape.tx_bytes },
            rx_data: Region { offset: rx, bytes: shape.rx_bytes },
        })
    }

    /// Makes the ends of a flow's channels. The driver must have been told of the layout, or the
    /// flow manager promised to: its control arena has grown to hold it by then.
    ///
    /// # Errors
    ///
    /// [`DomainError::Layout`] if the driver's arena does not hold it.
    pub fn ends(&self, layout: &FlowLayout) -> Result<Ends, DomainError> {
        let end = |offset: u64, words: u32, area: u32| {
            let mine = self.offer.control_out.words(offset, block_words(words))?;
            let theirs = self.control_in.words(offset, block_words(words))?;
            let end = End::new(mine, theirs, area)?;
            end.clear();
            Some(end)
        };
        let rx_offset = layout.control_offset + rx_block_offset(layout.tx_words);
        let (tx_data, rx_data) = (layout.tx_data, layout.rx_data);
        let make = || {
            Some(Ends {
                tx: end(layout.control_offset, layout.tx_words, tx_data.bytes)?,
                rx: end(rx_offset, layout.rx_words, rx_data.bytes)?,
                tx_data: self.offer.tx_data.data(tx_data.offset, tx_data.bytes)?,
                rx_data: self.offer.rx_data.data(rx_data.offset, rx_data.bytes)?,
            })
        };
        if let Some(ends) = make() {
            return Ok(ends);
        }
        self.control_in.refresh()?;
        make().ok_or(DomainError::Layout)
    }

    /// The layout of a closed flow can be used again.
    pub fn give_back(&self, layout: &FlowLayout) {
        let mut plan = lock(&self.plan);
        plan.slots.push(layout.slot);
        let wanted = Wanted {
            control: flow_block_bytes(layout.tx_words, layout.rx_words),
            tx_data: layout.tx_data.bytes.into(),
            rx_data: layout.rx_data.bytes.into(),
        };
        plan.give(&wanted, [layout.control_offset, layout.tx_data.offset, layout.rx_data.offset]);
    }

    /// Whether most of what the arenas can hold is not in use.
    pub fn is_roomy(&self) -> bool {
        let [control, tx_data, rx_data] = self.in_use();
        control < CONTROL_BYTES_MAX / 4 && tx_data.max(rx_data) < DATA_BYTES_MAX / 4
    }

    /// Makes the arenas large enough for what is planned.
    fn grow(&self, plan: &Plan) -> Result<(), DomainError> {
        let grow = |arena: &Arena, regions: &Regions| {
            let bytes = regions.end().next_multiple_of(GROWTH_BYTES).min(arena.reserved());
            arena.grow(bytes.max(regions.end()))
        };
        grow(&self.offer.control_out, &plan.control)?;
        grow(&self.offer.tx_data, &plan.tx_data)?;
        grow(&self.offer.rx_data, &plan.rx_data)?;
        Ok(())
    }

    /// Tells the driver that the flow in `slot` has work, and wakes it if it sleeps.
    pub fn post(&self, slot: u32) {
        lock(&self.posts).post(slot);
        if lock(&self.events).peer_asleep() {
            self.driver_bell.ring();
        }
    }

    /// The next flow for which the driver posted an event.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if what the driver wrote cannot be.
    pub fn next_event(&self) -> Result<Option<u32>, Fault> {
        lock(&self.events).read()
    }

    /// Whether events wait to be read.
    pub fn has_events(&self) -> bool {
        lock(&self.events).has_news()
    }

    /// Says whether this domain sleeps on its doorbell; look for events once more after saying so.
    pub fn set_asleep(&self, asleep: bool) {
        lock(&self.posts).set_asleep(asleep);
    }

    /// This domain's doorbell: readable when the driver has rung it.
    pub const fn bell(&self) -> &Doorbell {
        &self.offer.bell
    }

    /// The first `count` words that this domain writes: its event FIFO, and then the blocks of its
    /// flows. `None` if there are not so many.
    pub fn control_out(&self, count: usize) -> Option<ShmWords> {
        self.offer.control_out.words(0, count)
    }

    /// Bytes of shared memory in use by flows: control, transmit data, receive data.
    pub fn in_use(&self) -> [u64; 3] {
        let plan = lock(&self.plan);
        [plan.control.used(), plan.tx_data.used(), plan.rx_data.used()]
    }
}

/// Locks, ignoring that another thread panicked while it held the lock: every critical section here
/// leaves valid state at each step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
