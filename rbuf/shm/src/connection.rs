//! Same-machine connections that carry messages and descriptors (paper §4.1).

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, sendmsg, shutdown, socket_with, socketpair,
    sockopt::{Timeout, set_socket_timeout, socket_peercred},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::PeerProcess;

/// Most descriptors that are sent beside one message.
pub const DESCRIPTORS_MAX: usize = 6;

/// Most that can arrive (`SCM_MAX_FD`): what there is no room for, the kernel closes while we wait.
const DESCRIPTORS_ARRIVE_MAX: usize = 253;

/// How long a listener that does not accept is waited for when so many wait already that there is no room for one more.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Lets this process hold as many descriptors as its hard limit permits: a message whose descriptors
/// do not fit is lost, and its sender with it. No effect if that is refused. Returns how many it may hold.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process that connected.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A connection of messages (`SOCK_SEQPACKET`).
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub bytes: Vec<u8>,
    /// What came beside it.
    pub descriptors: Vec<OwnedFd>,
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Nothing is there yet.
    #[error("no message yet")]
    WouldBlock,
    /// The peer has closed the connection.
    #[error("connection closed by the peer")]
    Closed,
    /// The message, or what came beside it, did not fit and was cut.
    #[error("message or its descriptors exceed the limits")]
    Cut,
    /// The kernel refused.
    #[error("recvmsg: {0}")]
    Os(io::Error),
}

thread_local! {
    /// Where a thread's messages arrive before their length is known. Most are a hundredth as long as they
    /// may be: clearing so much for each cost a driver that sets up flows a quarter of its time.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Connection {
    /// Connects to a listener at `path`, which may accept later. Waits for ten seconds at most, if its queue is full.
    ///
    /// # Errors
    ///
    /// No such file, nobody listening, or no right to write it; `TimedOut` if the listener stands still.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::connect_within(path, CONNECT_LIMIT)
    }

    /// As [`Self::connect`], but waits for `limit` at most.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub fn connect_within(path: &Path, limit: Duration) -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let address = SocketAddrUnix::new(path)?;
        let until = Instant::now() + limit;
        loop {
            // Zero would be for ever.
            let left =
                until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            set_socket_timeout(&socket, Timeout::Send, Some(left))?;
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let reason = "so many wait there to be accepted that there is no room for one more: does the process stand still?";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        set_socket_timeout(&socket, Timeout::Send, None)?;
        Ok(Self { socket })
    }

    /// Two ends of a new connection, for tests and for children.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Sends a message with descriptors beside it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the peer does not read and this side is non-blocking; `BrokenPipe` if the
    /// peer is gone.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, descriptors, SendFlags::NOSIGNAL)
    }

    /// As [`Self::send`], but does not wait.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_with(bytes, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut beside, flags))?;
        Ok(())
    }

    /// Receives a message of up to `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`]; after anything but `WouldBlock` the connection is of no use.
    pub fn receive(&self, bytes_max: usize) -> Result<Received, ReceiveError> {
        self.receive_with(bytes_max, RecvFlags::empty())
    }

    /// As [`Self::receive`], but does not wait.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn try_receive(&self, bytes_max: usize) -> Result<Received, ReceiveError> {
        self.receive_with(bytes_max, RecvFlags::DONTWAIT)
    }

    fn receive_with(&self, bytes_max: usize, flags: RecvFlags) -> Result<Received, ReceiveError> {
        ROOM.with_borrow_mut(|room| {
            if room.len() < bytes_max {
                room.resize(bytes_max, 0);
            }
            self.receive_to(&mut room[..bytes_max], flags)
        })
    }

    fn receive_to(&self, room: &mut [u8], flags: RecvFlags) -> Result<Received, ReceiveError> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_ARRIVE_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let result = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(room)], &mut beside, flags) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let received = match result {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Err(ReceiveError::WouldBlock),
            Err(rustix::io::Errno::CONNRESET) => return Err(ReceiveError::Closed),
            Err(errno) => return Err(ReceiveError::Os(errno.into())),
        };
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ReceiveError::Cut);
        }
        if received.bytes == 0 {
            return Err(ReceiveError::Closed);
        }
        Ok(Received { bytes: room[..received.bytes].to_vec(), descriptors })
    }

    /// Who connected.
    ///
    /// # Errors
    ///
    /// Only if the kernel does not tell.
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials = socket_peercred(&self.socket)?;
        Ok(Peer {
            pid: credentials.pid.as_raw_nonzero().get(),
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
        })
    }

    /// The process that connected, to hear when it is dead.
    ///
    /// # Errors
    ///
    /// It is dead, or out of descriptors.
    pub fn process(&self) -> io::Result<Option<PeerProcess>> {
        PeerProcess::of(&self.socket)
    }

    /// Nothing can be sent any more, in either direction; what has arrived can still be received, and then
    /// the connection is closed. Whoever else holds the other end notices.
    pub fn end(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Makes [`Self::send`] fail rather than wait when the peer does not read.
    ///
    /// # Errors
    ///
    /// Only if the kernel refuses.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.socket)?;
        Ok(rustix::fs::fcntl_setfl(&self.socket, flags | rustix::fs::OFlags::NONBLOCK)?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Connection {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_boundaries_and_their_descriptors() {
        let (a, b) = Connection::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(b"one", &[file.as_fd()]).unwrap();
        a.send(b"two", &[]).unwrap();
        let one = b.receive(100).unwrap();
        assert_eq!((&one.bytes[..], one.descriptors.len()), (&b"one"[..], 1));
        let two = b.receive(100).unwrap();
        assert_eq!((&two.bytes[..], two.descriptors.len()), (&b"two"[..], 0));
        assert!(matches!(b.try_receive(100), Err(ReceiveError::WouldBlock)));
        drop(a);
        assert!(matches!(b.receive(100), Err(ReceiveError::Closed)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_its_descriptors_are_closed() {
        let (a, b) = Connection::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.send(&[0; 200], &[writer.as_fd(); DESCRIPTORS_MAX]).unwrap();
        assert!(matches!(b.receive(100), Err(ReceiveError::Cut)));
        drop(writer);
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "nobody can write any more");
    }

    #[test]
    fn after_the_end_what_had_arrived_is_received_and_nothing_else() {
        let (ours, theirs) = Connection::pair().unwrap();
        theirs.send(b"last words", &[]).unwrap();
        ours.end();
        assert!(theirs.send(b"more", &[]).is_err());
        assert_eq!(ours.receive(100).unwrap().bytes, b"last words");
        assert!(matches!(ours.receive(100), Err(ReceiveError::Closed)));
    }

    #[test]
    fn the_kernel_names_the_peer() {
        let (a, _b) = Connection::pair().unwrap();
        assert_eq!(a.peer().unwrap().pid, std::process::id() as i32);
    }
}
