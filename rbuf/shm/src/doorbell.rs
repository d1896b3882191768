//! Doorbells: what wakes a whole domain that sleeps in `poll`.
//!
//! Between driver and application the driver makes both, for what happens when an object is used or closed
//! is up to whoever chose it, and the driver must not wait for anybody.
//!
//! - The application's [`Doorbell`] is a pair of sockets. Not an `eventfd`: whether a write to one blocks is
//!   a flag of the open file, which the other side shares and could clear, and then a full counter would stop
//!   whoever rings. A socket is told with every call not to block, whatever its flags say. The end that rings is
//!   shut for reading: nothing, descriptors included, can be queued to it and be left to whoever closes it.
//! - The driver's [`DriverBell`] is an `eventfd` that it watches for edges and never reads: each ring is an
//!   edge, and who fills the counter loses his own rings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair,
};

/// The domain's end of a doorbell: readable when it was rung.
#[derive(Debug)]
pub struct Doorbell {
    socket: OwnedFd,
}

/// The end that others ring.
#[derive(Debug)]
pub struct Ringer {
    socket: OwnedFd,
}

/// The driver's bell: watched for edges, never read.
#[derive(Debug)]
pub struct DriverBell {
    counter: OwnedFd,
}

impl Doorbell {
    /// A doorbell that has not been rung, and the end to ring it by.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn new() -> io::Result<(Self, Ringer)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        shutdown(&theirs, Shutdown::Read)?;
        Ok((Self { socket: ours }, Ringer { socket: theirs }))
    }

    /// Whether nobody can ring it any more: whoever could is gone.
    pub fn is_abandoned(&self) -> bool {
        let mut watched = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut watched, Some(&now)).is_ok() && watched[0].revents().contains(PollFlags::HUP)
    }

    /// Stops ringing. Never blocks.
    pub fn answer(&self) {
        let mut rings = [0u8; 4096];
        // Looked at a few times only, so that whoever rings all the time does not keep us here.
        for _ in 0..4 {
            match recv(&self.socket, &mut rings[..], RecvFlags::DONTWAIT) {
                Ok((_, bytes)) if bytes == rings.len() => {}
                _ => return,
            }
        }
    }
}

impl Ringer {
    /// Wakes the domain. Never blocks; a bell that was rung and not answered stays rung.
    pub fn ring(&self) {
        let _ = send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl DriverBell {
    /// A bell that has not been rung.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { counter })
    }

    /// Wakes the driver.
    pub fn ring(&self) {
        // Fails when it was rung 2^64 times.
        let _ = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for DriverBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

/// The end that the driver sent.
impl From<OwnedFd> for Doorbell {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

/// The bell that the driver sent.
impl From<OwnedFd> for DriverBell {
    fn from(counter: OwnedFd) -> Self {
        Self { counter }
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(bell: Doorbell) -> Self {
        bell.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_abandoned_when_nobody_can_ring_it_and_not_before() {
        let (bell, ringer) = Doorbell::new().unwrap();
        assert!(!bell.is_abandoned());
        ringer.ring();
        assert!(!bell.is_abandoned());
        drop(ringer);
        assert!(bell.is_abandoned());
        bell.answer();
        assert!(bell.is_abandoned());
    }

    #[test]
    fn a_bell_nobody_answers_never_stops_who_rings() {
        let (bell, ringer) = Doorbell::new().unwrap();
        // What a hostile owner would do: make the shared file blocking, and never answer.
        let flags = rustix::fs::fcntl_getfl(&bell.socket).unwrap();
        rustix::fs::fcntl_setfl(&bell.socket, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
        for _ in 0..100_000 {
            ringer.ring();
        }
        bell.answer();
        drop(bell);
        ringer.ring();
    }

    #[test]
    fn nothing_can_be_queued_to_who_rings() {
        let (bell, ringer) = Doorbell::new().unwrap();
        let refused = send(&bell.socket, b"x", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        assert_eq!(refused, Err(rustix::io::Errno::PIPE));
        ringer.ring();
        let mut byte = [0];
        assert_eq!(recv(&bell.socket, &mut byte[..], RecvFlags::DONTWAIT).unwrap().1, 1);
    }

    #[test]
    fn every_ring_of_the_drivers_bell_is_an_edge_also_when_nobody_reads() {
        use rustix::event::{Timespec, epoll};
        let bell = DriverBell::new().unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(0), flags).unwrap();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let edges = || {
            let mut events = Vec::with_capacity(4);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap()
        };
        assert_eq!(edges(), 0);
        for _ in 0..3 {
            bell.ring();
            assert_eq!((edges(), edges()), (1, 0));
        }
        // Who fills the counter is not stopped, nor is anybody else.
        rustix::io::write(&bell.counter, &(u64::MAX - 4).to_ne_bytes()).unwrap();
        assert_eq!(edges(), 1);
        bell.ring();
        assert_eq!(edges(), 0);
    }

    #[test]
    fn a_rung_bell_is_readable_until_it_is_answered() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let (bell, ringer) = Doorbell::new().unwrap();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let rung = || poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&now)).unwrap() == 1;
        assert!(!rung());
        ringer.ring();
        ringer.ring();
        assert!(rung());
        bell.answer();
        assert!(!rung());
    }
}
