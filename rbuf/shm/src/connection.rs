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
    sockopt::{Timeout, set_socket_passcred, set_socket_timeout, socket_peercred},
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
    is_wary: bool,
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
    /// The next message has descriptors beside it, which nobody may send on this connection. It is left where it is.
    #[error("a message came with descriptors, which belong to none")]
    Descriptors,
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
        Ok(socket.into())
    }

    /// Two ends of a new connection, for tests and for children.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((a.into(), b.into()))
    }

    /// The same connection, on which the other side is not to send descriptors although it can: what happens when
    /// one is closed is up to who chose it, and a descriptor that is received has to be closed. A message with some
    /// beside it stays in the queue, and nothing behind it is received.
    #[must_use]
    pub fn wary(self) -> Self {
        Self { is_wary: true, ..self }
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
        if self.is_wary && self.is_next_with_descriptors(flags)? {
            return Err(ReceiveError::Descriptors);
        }
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_ARRIVE_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(room)], &mut beside, flags)
        })?;
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

    /// Whether the next message has descriptors beside it. They are not taken: the message in the queue has them still,
    /// so nothing is closed by looking.
    fn is_next_with_descriptors(&self, flags: RecvFlags) -> Result<bool, Errno> {
        // Room for nothing: what there is none for, the kernel says.
        let mut beside = RecvAncillaryBuffer::default();
        let flags = flags | RecvFlags::PEEK;
        let next = retry_on_intr(|| recvmsg(&self.socket, &mut [], &mut beside, flags))?;
        Ok(next.flags.contains(ReturnFlags::CTRUNC))
    }

    /// Ends the connection as [`Self::end`], and takes out what has arrived up to the first message with descriptors
    /// beside it. `true` if there is none: then closing the connection discards nothing of a stranger's choice.
    ///
    /// # Errors
    ///
    /// Only if the kernel refuses: nothing is known then.
    pub fn end_and_empty(&self) -> io::Result<bool> {
        self.end();
        // An empty message is no end of the queue. Only messages have senders.
        set_socket_passcred(&self.socket, true)?;
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let next = match recvmsg(&self.socket, &mut [], &mut beside, flags) {
                Ok(next) => next,
                // Said once, in front of what is there.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let (mut is_message, mut has_descriptors) =
                (false, next.flags.contains(ReturnFlags::CTRUNC));
            for message in beside.drain() {
                match message {
                    RecvAncillaryMessage::ScmCredentials(_) => is_message = true,
                    _ => has_descriptors = true,
                }
            }
            if has_descriptors || !is_message {
                return Ok(!has_descriptors);
            }
            let mut nothing = RecvAncillaryBuffer::default();
            retry_on_intr(|| recvmsg(&self.socket, &mut [], &mut nothing, RecvFlags::DONTWAIT))?;
        }
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
        Self { socket, is_wary: false }
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.socket
    }
}

impl From<Errno> for ReceiveError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::WouldBlock,
            Errno::CONNRESET => Self::Closed,
            errno => Self::Os(errno.into()),
        }
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

    /// The end of a pipe that a test reads, and whether nobody has the other end any more.
    fn is_closed(reader: &OwnedFd) -> bool {
        rustix::io::ioctl_fionbio(reader, true).unwrap();
        rustix::io::read(reader, &mut [0; 1]) == Ok(0)
    }

    #[test]
    fn who_is_wary_leaves_descriptors_where_they_are_and_takes_what_came_before() {
        let (ours, theirs) = Connection::pair().unwrap();
        let ours = ours.wary();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert!(matches!(ours.try_receive(100), Err(ReceiveError::WouldBlock)));
        theirs.send(b"words", &[]).unwrap();
        theirs.send(b"", &[writer.as_fd(); DESCRIPTORS_MAX]).unwrap();
        theirs.send(b"more", &[]).unwrap();
        drop((writer, theirs));
        assert_eq!(ours.receive(100).unwrap().bytes, b"words");
        for _ in 0..3 {
            assert!(matches!(ours.receive(100), Err(ReceiveError::Descriptors)));
        }
        assert!(!is_closed(&reader), "looking has closed it");
        drop(ours);
        assert!(is_closed(&reader));
    }

    #[test]
    fn what_is_ended_is_empty_unless_a_message_has_descriptors_whatever_stands_before_it() {
        for (before, poisoned, after) in
            [(0, false, 0), (3, false, 0), (0, true, 0), (0, true, 2), (3, true, 3)]
        {
            for words in [&b"words"[..], b""] {
                let (ours, theirs) = Connection::pair().unwrap();
                let (reader, writer) = rustix::pipe::pipe().unwrap();
                (0..before).for_each(|_| theirs.send(words, &[]).unwrap());
                if poisoned {
                    theirs.send(words, &[writer.as_fd()]).unwrap();
                }
                (0..after).for_each(|_| theirs.send(words, &[]).unwrap());
                // So that the other end's death is an error, in front of all.
                ours.send(b"unread", &[]).unwrap();
                drop((writer, theirs));
                assert_eq!(ours.end_and_empty().unwrap(), !poisoned, "{before} {after} {words:?}");
                assert_eq!(is_closed(&reader), !poisoned);
            }
        }
        let (ours, theirs) = Connection::pair().unwrap();
        assert!(ours.end_and_empty().unwrap(), "of one that is alive");
        assert!(theirs.send(b"late", &[]).is_err());
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
