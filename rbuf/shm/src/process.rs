//! What the kernel tells and promises about who is at the other end of a connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{PidfdFlags, pidfd_open};

/// Options of sockets that are younger than the C library's headers (`asm-generic/socket.h`).
const SO_PEERPIDFD: libc::c_int = 77;
pub(crate) const SO_PASSRIGHTS: libc::c_int = 83;

/// A process that connected: readable when it is dead.
///
/// The end of its connection does not tell: it may have given its end to somebody else.
#[derive(Debug)]
pub struct PeerProcess {
    pidfd: OwnedFd,
}

impl PeerProcess {
    /// `None` if the process is in another PID namespace, and the kernel is too old to tell nevertheless.
    pub(crate) fn of(socket: &OwnedFd) -> io::Result<Option<Self>> {
        match peer_pidfd(socket) {
            Ok(pidfd) => return Ok(Some(Self { pidfd })),
            // Before Linux 6.5.
            Err(Errno::NOPROTOOPT) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Another process may have its number by now, but then it is dead and was seen to be.
        let peer = socket_peercred(socket)?.pid;
        if peer.as_raw_pid() <= 0 {
            return Ok(None);
        }
        match pidfd_open(peer, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { pidfd })),
            // Before Linux 5.3.
            Err(Errno::NOSYS) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for PeerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn peer_pidfd(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut descriptor: libc::c_int = -1;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to an integer of that size, and their number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether this kernel refuses descriptors to whoever sends them, where asked to.
pub fn descriptors_can_be_refused() -> bool {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    socket.is_ok_and(|socket| refuse_descriptors(&socket).unwrap_or(false))
}

/// Has the kernel refuse descriptors to whoever sends them to `socket`, or to what it accepts; `false` if it
/// cannot.
pub(crate) fn refuse_descriptors(socket: &OwnedFd) -> io::Result<bool> {
    let off: libc::c_int = 0;
    // SAFETY: the kernel reads an integer of the size that is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            // Before Linux 6.16.
            error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
            error => Err(error),
        },
    }
}
