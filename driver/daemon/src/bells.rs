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
    /// Those that are not heard for a while.
    muted: Vec<DomainId>,
}

/// Every ring is an edge.
const HEARD: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

impl Bells {
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, bells: HashMap::new(), muted: Vec::new() })
    }

    /// The bell is not read: what it counts is the business of who rings.
    pub(crate) fn watch(&mut self, domain: DomainId, bell: DriverBell) -> Result<(), InstallError> {
        let data = epoll::EventData::new_u64(domain.0.into());
        epoll::add(&self.epoll, &bell, data, HEARD).map_err(|error| InstallError::Memory {
            what: "the place of a doorbell".into(),
            problem: error.to_string(),
        })?;
        self.bells.insert(domain, bell);
        Ok(())
    }

    /// Stops hearing the bell of `domain`, which rings more than it can pay for.
    pub(crate) fn mute(&mut self, domain: DomainId) {
        if self.set(domain, epoll::EventFlags::empty()) {
            self.muted.push(domain);
        }
    }

    /// Hears those again that are `open`. A bell that was rung meanwhile rings now.
    pub(crate) fn unmute(&mut self, mut open: impl FnMut(DomainId) -> bool) {
        let mut at = 0;
        while let Some(&domain) = self.muted.get(at) {
            if open(domain) {
                self.muted.swap_remove(at);
                self.set(domain, HEARD);
            } else {
                at += 1;
            }
        }
    }

    fn set(&self, domain: DomainId, flags: epoll::EventFlags) -> bool {
        let data = epoll::EventData::new_u64(domain.0.into());
        self.bells
            .get(&domain)
            .is_some_and(|bell| epoll::modify(&self.epoll, bell, data, flags).is_ok())
    }

    pub(crate) fn forget(&mut self, domain: DomainId) {
        self.muted.retain(|&muted| muted != domain);
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
