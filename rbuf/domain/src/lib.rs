//! A domain's side of the arenas it shares with a driver.
//!
//! An application shares four arenas with a driver, once, and then lays out each flow's channels in
//! them itself: it is its own memory. So a flow costs no mapping, no descriptor and no system call.
//!
//! 1. The driver makes the arenas and both doorbells, and passes them ([`Passed`]) through the flow manager.
//! 2. [`Domain::new`] maps them. [`Domain::lay_out`] and [`Domain::ends`] make channels.
//!
//! Used by the stack of applications, and by the flow manager for its own flow.

#![forbid(unsafe_code)]

mod passed;
mod regions;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use base_rpc::{FlowLayout, Region};
use rbuf_channel::{
    End, Event, Fault, FifoReader, FifoWriter, block_words, fifo_words, flow_block_bytes,
    rx_block_offset,
};
use rbuf_shm::{Access, Arena, ArenaError, Doorbell, DriverBell, ShmData, ShmWords};

pub use crate::passed::Passed;
use crate::regions::Regions;

/// Bytes of a control arena, at most.
pub const CONTROL_BYTES_MAX: u64 = 1 << 28;
/// Bytes of a data arena, at most.
pub const DATA_BYTES_MAX: u64 = 1 << 32;

/// Why shared memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// An arena could not be mapped.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A doorbell cannot be waited for.
    #[error("doorbell: {0}")]
    Doorbell(#[from] io::Error),
    /// The driver did not pass what a domain needs.
    #[error("the driver did not pass arenas and doorbells: it is of another release")]
    Passed,
    /// A control arena is too small for the event FIFO.
    #[error("the control arenas are too small for {0} flows")]
    Control(u32),
    /// All of the domain's flows are open.
    #[error("all {0} flows are open: join with a larger number")]
    Slots(u32),
    /// The arenas are full.
    #[error("no room for the flow's buffers: the arenas are full")]
    Full,
    /// A layout does not fit the arenas: it is not one of this domain's.
    #[error("layout does not fit the arenas")]
    Layout,
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
    flows_max: u32,
    control_out: Arena,
    control_in: Arena,
    tx_data: Arena,
    rx_data: Arena,
    bell: Doorbell,
    driver_bell: DriverBell,
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
    /// A domain for up to `flows_max` flows at a time, with the `descriptors` that the driver passed for
    /// that many ([`Passed`]).
    ///
    /// # Errors
    ///
    /// [`DomainError::Passed`], or [`DomainError::Arena`] if an arena cannot be mapped.
    pub fn new(flows_max: u32, descriptors: Vec<OwnedFd>) -> Result<Self, DomainError> {
        let passed = Passed::from_descriptors(descriptors).ok_or(DomainError::Passed)?;
        let control_out = Arena::open(passed.control_out, Access::Write, CONTROL_BYTES_MAX)?;
        let control_in = Arena::open(passed.control_in, Access::Read, CONTROL_BYTES_MAX)?;
        let tx_data = Arena::open(passed.tx_data, Access::Write, DATA_BYTES_MAX)?;
        let rx_data = Arena::open(passed.rx_data, Access::Read, DATA_BYTES_MAX)?;
        // The driver has no flow in memory that can still get holes.
        control_out.close()?;
        tx_data.close()?;
        let words = fifo_words(flows_max);
        let fifos = || {
            let posts = control_out.words(0, words).and_then(FifoWriter::new)?;
            let events = FifoReader::new(control_in.words(0, words)?, flows_max)?;
            Some((posts, events))
        };
        let (posts, events) = fifos().ok_or(DomainError::Control(flows_max))?;
        let control_bytes = control_out.bytes().min(control_in.bytes());
        let plan = Plan {
            slots: (0..flows_max).rev().collect(),
            control: Regions::new(fifo_bytes(flows_max), control_bytes),
            tx_data: Regions::new(0, tx_data.bytes()),
            rx_data: Regions::new(0, rx_data.bytes()),
        };
        Ok(Self {
            flows_max,
            control_out,
            control_in,
            tx_data,
            rx_data,
            bell: passed.bell.into(),
            driver_bell: passed.driver_bell.into(),
            posts: Mutex::new(posts),
            events: Mutex::new(events),
            plan: Mutex::new(plan),
        })
    }

    /// Finds room for a flow of this shape. The layout stays taken until [`Self::give_back`].
    ///
    /// # Errors
    ///
    /// [`DomainError::Slots`] or [`DomainError::Full`].
    pub fn lay_out(&self, shape: &Shape) -> Result<FlowLayout, DomainError> {
        let mut plan = lock(&self.plan);
        let slot = *plan.slots.last().ok_or(DomainError::Slots(self.flows_max))?;
        let [control, tx, rx] = plan.take(&Wanted::of(shape)).ok_or(DomainError::Full)?;
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

    /// Makes the ends of a flow's channels.
    ///
    /// # Errors
    ///
    /// [`DomainError::Layout`] if the arenas do not hold it.
    pub fn ends(&self, layout: &FlowLayout) -> Result<Ends, DomainError> {
        let end = |offset: u64, words: u32, area: u32| {
            let mine = self.control_out.words(offset, block_words(words))?;
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
                tx_data: self.tx_data.data(tx_data.offset, tx_data.bytes)?,
                rx_data: self.rx_data.data(rx_data.offset, rx_data.bytes)?,
            })
        };
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

    /// How many more flows it can have.
    pub fn slots_left(&self) -> usize {
        lock(&self.plan).slots.len()
    }

    /// Whether most of what the arenas can hold is not in use.
    pub fn is_roomy(&self) -> bool {
        let [control, tx_data, rx_data] = self.in_use();
        control < self.control_out.bytes() / 4
            && tx_data < self.tx_data.bytes() / 4
            && rx_data < self.rx_data.bytes() / 4
    }

    /// Tells the driver that the flow in `slot` has work, and wakes it if it sleeps.
    pub fn post(&self, slot: u32) {
        lock(&self.posts).post(slot);
        if lock(&self.events).peer_asleep() {
            self.driver_bell.ring();
        }
    }

    /// The next event that the driver posted: for the end of the flow in its slot to
    /// [hear](End::heard).
    ///
    /// # Errors
    ///
    /// A [`Fault`] if what the driver wrote cannot be.
    pub fn next_event(&self) -> Result<Option<Event>, Fault> {
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
        &self.bell
    }

    /// The first `count` words that this domain writes: its event FIFO, and then the blocks of its
    /// flows. `None` if there are not so many.
    pub fn control_out(&self, count: usize) -> Option<ShmWords> {
        self.control_out.words(0, count)
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
