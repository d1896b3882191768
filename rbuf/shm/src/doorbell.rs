//! Doorbells: what wakes a whole domain that sleeps in `poll`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An `eventfd` that is readable when the domain has been rung.
#[derive(Debug)]
pub struct Doorbell {
    event: OwnedFd,
}

impl Doorbell {
    /// A doorbell that has not been rung.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    /// The doorbell of another domain.
    ///
    /// # Errors
    ///
    /// If it cannot be made non-blocking. That it is an eventfd is not checked: a peer that sent
    /// something else is not woken, or wakes itself.
    pub fn from_descriptor(event: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&event)?;
        rustix::fs::fcntl_setfl(&event, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { event })
    }

    /// Wakes the domain. Never blocks; a bell that was rung and not answered stays rung.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Stops ringing. Never blocks.
    pub fn answer(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
