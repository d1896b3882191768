//! One driver for an interface: two would each schedule the whole line, and both would answer.
//!
//! The claim is a name in the network namespace, given back by the kernel when the process dies. Anybody can
//! take a name, so only a driver of root or of our own user is believed to be one: who else sits on it keeps
//! nobody out.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Those who were refused and never looked at wait here.
const BACKLOG: i32 = 4096;

/// Looks, a millisecond apart, after which who has the name should listen.
const LISTENS_AFTER: u32 = 200;

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
        let ours = rustix::process::geteuid().as_raw();
        match holder(&name, &open().map_err(os)?) {
            Some((pid, uid)) if uid == 0 || uid == ours => Err(ClaimError::Driven { pid }),
            // A stranger, or something that is no driver.
            _ => Ok(Self { _name: None }),
        }
    }
}

/// Process and user that have the name.
fn holder(name: &SocketAddrUnix, asking: &OwnedFd) -> Option<(i32, u32)> {
    for _ in 0..LISTENS_AFTER {
        match connect(asking, name) {
            Ok(()) => {
                let holder = socket_peercred(asking).ok()?;
                return Some((holder.pid.as_raw_nonzero().get(), holder.uid.as_raw()));
            }
            // It has taken the name and does not listen yet.
            Err(Errno::CONNREFUSED) => std::thread::sleep(Duration::from_millis(1)),
            // Anybody can fill its queue.
            Err(Errno::AGAIN) => return holder_by_proc(name),
            Err(_) => return None,
        }
    }
    None
}

/// As [`holder`], of what this process may look at in `/proc`: of all processes if it is root's.
fn holder_by_proc(name: &SocketAddrUnix) -> Option<(i32, u32)> {
    let path = format!(" @{}", String::from_utf8_lossy(name.abstract_name()?));
    let sockets = std::fs::read_to_string("/proc/net/unix").ok()?;
    // Connections that wait have the name too, and no number.
    let named = sockets.lines().filter(|line| line.ends_with(&path));
    let numbers = named.filter_map(|line| line.split_whitespace().nth(6));
    let links: Vec<_> = numbers.map(|number| format!("socket:[{number}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbered.find_map(|pid: i32| {
        let mut files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let holds = files.any(|file| {
            let link = std::fs::read_link(file.path()).unwrap_or_default();
            links.iter().any(|socket| link.as_os_str() == socket.as_str())
        });
        let uid = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        holds.then_some((pid, uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No interface has it.
    const INDEX: u32 = u32::MAX - 7;

    fn refused(index: u32) {
        let Err(ClaimError::Driven { pid }) = Claim::take(index) else { panic!("twice") };
        assert_eq!(pid as u32, std::process::id());
    }

    #[test]
    fn an_interface_is_claimed_once_and_again_when_the_first_is_gone() {
        let first = Claim::take(INDEX).unwrap();
        for _ in 0..300 {
            refused(INDEX);
        }
        assert!(Claim::take(INDEX - 1).is_ok(), "another one");
        drop(first);
        assert!(Claim::take(INDEX).is_ok());
    }

    #[test]
    fn who_fills_the_queue_of_a_claim_does_not_make_it_void() {
        let index = INDEX - 2;
        let name = format!("plumb/driver/{index}");
        let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let open = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
        };
        // A driver's, with less room.
        let held = open();
        bind(&held, &name).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| refused(index));
            listen(&held, 0).unwrap();
            second.join().unwrap();
        });
        let waiting = open();
        assert!(matches!(connect(&waiting, &name), Ok(()) | Err(Errno::AGAIN)));
        assert_eq!(connect(open(), &name), Err(Errno::AGAIN), "the queue is full");
        refused(index);
    }
}
