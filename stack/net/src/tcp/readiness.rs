//! Descriptors that say in `poll` and `epoll` what a socket is ready for.
//!
//! A descriptor is readable exactly while its condition holds, so both level- and edge-triggered
//! waiting work. It costs a system call when the condition changes, and nothing before somebody has
//! asked for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A condition that somebody may wait for.
#[derive(Debug, Default)]
pub(super) struct Condition {
    descriptor: OnceLock<OwnedFd>,
    holds: AtomicBool,
}

impl Condition {
    /// The descriptor, made on first use; [`Self::set`] follows, under the socket's lock.
    pub(super) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        if self.descriptor.get().is_none() {
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Another thread may have been faster; its descriptor is as good.
            let _ = self.descriptor.set(made);
        }
        let descriptor = self.descriptor.get().ok_or(io::ErrorKind::Other)?;
        Ok(descriptor.as_fd())
    }

    /// Whether anybody has asked.
    pub(super) fn is_watched(&self) -> bool {
        self.descriptor.get().is_some()
    }

    /// Shows whether the condition holds; to be called under the socket's lock.
    pub(super) fn set(&self, holds: bool) {
        let Some(descriptor) = self.descriptor.get() else { return };
        if self.holds.swap(holds, Ordering::Relaxed) == holds {
            return;
        }
        // The counter is 0 or 1, so neither can fail or block.
        if holds {
            let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(descriptor, &mut [0; 8][..]);
        }
    }
}
