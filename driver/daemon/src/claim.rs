//! One driver for an interface: two would each schedule the whole line, and both would answer.
//!
//! The claim is a name in the network namespace, given back by the kernel when the process dies. Anybody can
//! take a name, so only a driver of root or of our own user is believed to be one: who else sits on it keeps
//! nobody out.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Those who were refused and never looked at wait here.
const BACKLOG: i32 = 4096;

/// The right to drive an interface, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _name: Option<OwnedFd>,
}

/// The interface cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody drives it already.
    #[error("process {pid} drives it already, and an interface has one driver: end that one first")]
    Driven {
        /// Whose process that is.
        pid: i32,
    },
    /// The kernel refused.
    #[error("cannot claim it: {0}")]
    Os(#[from] std::io::Error),
}

impl Claim {
    /// Claims the interface with this index, in the network namespace of this process.
    ///
    /// # Errors
    ///
    /// Who drives it already.
    pub fn take(index: u32) -> Result<Self, ClaimError> {
        let os = |errno: Errno| ClaimError::Os(errno.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let name = format!("plumb/driver/{index}");
        let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(os)?;
        let socket = open().map_err(os)?;
        match bind(&socket, &name) {
            Ok(()) => {
                listen(&socket, BACKLOG).map_err(os)?;
                return Ok(Self { _name: Some(socket) });
            }
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Err(os(errno)),
        }
        let asking = open().map_err(os)?;
        let holder = connect(&asking, &name).and_then(|()| socket_peercred(&asking));
        let ours = rustix::process::geteuid();
        match holder {
            Ok(holder) if holder.uid.is_root() || holder.uid == ours => {
                Err(ClaimError::Driven { pid: holder.pid.as_raw_nonzero().get() })
            }
            // A stranger, or something that is no driver.
            _ => Ok(Self { _name: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No interface has it.
    const INDEX: u32 = u32::MAX - 7;

    #[test]
    fn an_interface_is_claimed_once_and_again_when_the_first_is_gone() {
        let first = Claim::take(INDEX).unwrap();
        for _ in 0..300 {
            let Err(ClaimError::Driven { pid }) = Claim::take(INDEX) else { panic!("twice") };
            assert_eq!(pid as u32, std::process::id());
        }
        assert!(Claim::take(INDEX - 1).is_ok(), "another one");
        drop(first);
        assert!(Claim::take(INDEX).is_ok());
    }
}
