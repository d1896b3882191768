//! Doorbells: what wakes a whole domain that sleeps in `poll`.
//!
//! A pair of sockets. Not an `eventfd`: whether a write to one blocks is a flag of the open file, which
//! the other side shares and could clear, and then a full counter would stop whoever rings. A
//! socket is told with every call not to block, whatever its flags say.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
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

impl Doorbell {
    /// A doorbell that has not been rung, and the end to ring it by.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn new() -> io::Result<(Self, Ringer)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: ours }, Ringer { socket: theirs }))
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
    /// Wakes the domain. Never blocks; a bell that was rung and not answered stays rung. If the other
    /// side sent something that is no socket, nobody is woken.
    pub fn ring(&self) {
        let _ = send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Ringer {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Ringer::from(std::fs::File::open("/dev/null").map(OwnedFd::from).unwrap()).ring();
        drop(bell);
        ringer.ring();
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
