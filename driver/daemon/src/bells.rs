//! The bells that domains ring to wake the driver.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base_rpc::{DomainId, InstallError};
use rbuf_shm::DriverBell;
use rustix::event::epoll;
use rustix::io::Errno;

/// What the driver waits for, and the bells among it, kept open as long as they are watched.
pub(crate) struct Bells {
    epoll: OwnedFd,
    bells: HashMap<DomainId, DriverBell>,
}

impl Bells {
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, bells: HashMap::new() })
    }

    /// Every ring is an edge. The bell is not read: what it counts is the business of who rings.
    pub(crate) fn watch(&mut self, domain: DomainId, bell: DriverBell) -> Result<(), InstallError> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(domain.0.into());
        epoll::add(&self.epoll, &bell, data, flags).map_err(|error| InstallError::Memory {
            what: "the place of a doorbell".into(),
            problem: error.to_string(),
        })?;
        self.bells.insert(domain, bell);
        Ok(())
    }

    pub(crate) fn forget(&mut self, domain: DomainId) {
        if let Some(bell) = self.bells.remove(&domain) {
            // Closing it would not do: the domain may still have it.
            let _ = epoll::delete(&self.epoll, &bell);
        }
    }
}

impl AsFd for Bells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
