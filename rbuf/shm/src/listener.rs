//! A place in the file system where others connect.
//!
//! What stands there already belongs to somebody: only a socket of our own user that nobody listens at is
//! taken away, and at the end only the very socket that was put there. A socket appears under its name when it
//! can be connected to and has its final mode, so whoever finds one that refuses connections has found a dead
//! one, and of two processes that start at once one is told that the place is taken.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, hard_link, remove_file, symlink_metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, chmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use crate::connection::Connection;
use crate::process::refuse_descriptors;

/// Names tried for what is put beside the path for a moment, and times a place is found taken by the dead.
const ATTEMPTS: u32 = 16;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Whether those who connect may send descriptors beside their messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// They may not: the kernel refuses them to who sends them, if it can (Linux 6.16). Otherwise connections are
    /// [wary](Connection::wary).
    Refused,
    /// They may: those who connect are trusted.
    Taken,
}

/// Accepts connections at a path; the path is removed when the listener is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Which file is ours: device and number. The number is not given to another while the socket is open.
    file: (u64, u64),
    is_wary: bool,
}

impl Listener {
    /// Listens at `path`, with permission `mode` for others to connect. A socket of our own that nobody
    /// listens at is replaced; anything else that stands there is left alone.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if somebody listens there, `AlreadyExists` if something else stands there,
    /// `PermissionDenied` if it is another user's; otherwise what the kernel says about the path.
    pub fn bind(path: &Path, mode: u32, descriptors: Descriptors) -> io::Result<Self> {
        // What clients will ask for.
        SocketAddrUnix::new(path)?;
        let socket = seqpacket()?;
        let made = Beside::make(path, |name| Ok(bind(&socket, &SocketAddrUnix::new(name)?)?))?;
        chmod(&made.0, Mode::from_raw_mode(mode))?;
        // Connections inherit it, and who connects can send at once: so it is said before.
        let is_wary = descriptors == Descriptors::Refused && !refuse_descriptors(&socket)?;
        listen(&socket, BACKLOG)?;
        let file = number(&symlink_metadata(&made.0)?);
        for _ in 0..ATTEMPTS {
            match hard_link(&made.0, path) {
                Ok(()) => {
                    let path = path.to_path_buf();
                    return Ok(Self { socket, path, file, is_wary });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::clear(path)?,
                Err(error) => return Err(error),
            }
        }
        Err(in_use())
    }

    /// Removes the socket at `path` if it is our own and nobody listens at it: what a process left that could
    /// not do so itself.
    ///
    /// # Errors
    ///
    /// As [`Self::bind`]; nothing is there any more if it succeeds.
    pub fn clear(path: &Path) -> io::Result<()> {
        let absent = |result: io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        // Whoever takes away a dead socket has seen under this lock that it is dead: between its look and its
        // deed nobody else can have taken that one away and put a live one there.
        let _lock = Lock::take(path)?;
        absent(is_dead(path).and_then(|()| remove_file(path)))
    }

    /// Whether descriptors can be sent that were to be refused, because the kernel cannot. They are not received, but
    /// they are closed by whoever closes a connection last, or this listener with connections that nobody accepted.
    pub const fn is_wary(&self) -> bool {
        self.is_wary
    }

    /// The next connection, non-blocking; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                let connection = Connection::from(socket);
                Ok(Some(if self.is_wary { connection.wary() } else { connection }))
            }
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if symlink_metadata(&self.path).is_ok_and(|found| number(&found) == self.file) {
            let _ = remove_file(&self.path);
        }
    }
}

/// A file beside a path, for a moment: removed when dropped.
struct Beside(PathBuf);

impl Beside {
    /// Makes one by `make`, which fails with `AddrInUse` if the name is taken.
    fn make(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<Self> {
        let mut result = Err(in_use());
        for attempt in 0..ATTEMPTS {
            // Short: the address of a socket has room for 108 bytes, and the path is known to fit.
            let name = path.with_file_name(format!(".{:x}.{attempt}", std::process::id()));
            result = make(&name).map(|()| Self(name));
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::AddrInUse) {
                break;
            }
        }
        result
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

/// The right to take away what stands at a path, among processes of this user. Its file is removed before it is released.
struct Lock {
    _beside: Beside,
    _held: File,
}

impl Lock {
    fn take(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".plumb-lock");
        let name = path.with_file_name(name);
        let in_the_way = || {
            let reason = format!("{} is no lock of ours: what is it?", name.display());
            io::Error::new(ErrorKind::AlreadyExists, reason)
        };
        for _ in 0..ATTEMPTS {
            // Not a pipe, whose other end would be waited for.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .mode(0o600)
                .custom_flags(flags.bits() as i32)
                .open(&name)
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => error,
                    _ => io::Error::new(error.kind(), format!("lock {}: {error}", name.display())),
                })?;
            let found = file.metadata()?;
            if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
                return Err(in_the_way());
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN) => return Err(in_use()),
                Err(errno) => return Err(errno.into()),
            }
            // Who had it before has removed the file: then this one locks nobody out.
            let named = symlink_metadata(&name);
            if named.is_ok_and(|named| file.metadata().is_ok_and(|f| number(&f) == number(&named)))
            {
                return Ok(Self { _beside: Beside(name), _held: file });
            }
        }
        Err(in_use())
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn number(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn in_use() -> io::Error {
    io::Error::new(ErrorKind::AddrInUse, "somebody listens there already")
}

/// Whether a socket of our own stands at `path`, and nobody listens at it.
fn is_dead(path: &Path) -> io::Result<()> {
    let other = |what: &str| {
        io::Error::new(ErrorKind::AlreadyExists, format!("{what} stands there, and is left alone"))
    };
    let found = symlink_metadata(path)?;
    if found.is_symlink() {
        return Err(other("a symbolic link"));
    }
    if !found.file_type().is_socket() {
        return Err(other("a file that is no socket"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        let whose = format!("a socket of user {} stands there, and is left alone", found.uid());
        return Err(io::Error::new(ErrorKind::PermissionDenied, whose));
    }
    match connect(seqpacket()?, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(()),
        // With so many waiting to be accepted that there is no room for one more.
        Ok(()) | Err(Errno::AGAIN) => Err(in_use()),
        Err(Errno::PROTOTYPE) => Err(other("another program's socket")),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use crate::connection::ReceiveError;
    use crate::process::{SO_PASSRIGHTS, descriptors_can_be_refused};

    /// A folder of this test's own, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rbuf-shm-{test}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn names(&self) -> Vec<String> {
            let names = std::fs::read_dir(&self.0).unwrap().flatten();
            names.map(|entry| entry.file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Does it on this kernel, or on one that cannot refuse descriptors.
    fn on_a_kernel(is_older: bool, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                if is_older {
                    be_on_an_older_kernel();
                }
                test();
            });
            thread.join().unwrap();
        });
    }

    /// This thread's system calls find no `SO_PASSRIGHTS` any more.
    fn be_on_an_older_kernel() {
        let is = |at, value: libc::c_int| {
            SeccompCondition::new(at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64)
        };
        let option = vec![is(1, libc::SOL_SOCKET).unwrap(), is(2, SO_PASSRIGHTS).unwrap()];
        let rules = [(libc::SYS_setsockopt, vec![SeccompRule::new(option).unwrap()])];
        let unknown = SeccompAction::Errno(libc::ENOPROTOOPT as u32);
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules.into(), SeccompAction::Allow, unknown, arch).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
    }

    fn listen_at(path: &Path) -> io::Result<Listener> {
        Listener::bind(path, 0o600, Descriptors::Refused)
    }

    fn refusal(path: &Path) -> io::Error {
        listen_at(path).unwrap_err()
    }

    #[test]
    fn what_is_no_socket_of_ours_is_left_alone() {
        let folder = Folder::new("left-alone");
        let path = folder.at("s");

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(refusal(&path).kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        assert_eq!(refusal(&path).kind(), ErrorKind::AlreadyExists);
        assert!(path.is_dir());
        std::fs::remove_dir(&path).unwrap();

        // Even if it leads to a dead socket of ours, or nowhere.
        for target in ["dead", "nowhere"] {
            drop(UnixListener::bind(folder.at("dead")));
            std::os::unix::fs::symlink(folder.at(target), &path).unwrap();
            let error = refusal(&path);
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert!(error.to_string().contains("symbolic link"), "{error}");
            assert!(symlink_metadata(&path).unwrap().is_symlink());
            remove_file(&path).unwrap();
            remove_file(folder.at("dead")).unwrap();
        }

        let stream = UnixListener::bind(&path).unwrap();
        assert_eq!(refusal(&path).kind(), ErrorKind::AlreadyExists, "listens for streams");
        assert!(path.exists());
        drop(stream);
        remove_file(&path).unwrap();

        let datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(refusal(&path).kind(), ErrorKind::AlreadyExists, "receives datagrams");
        assert!(path.exists());
        drop(datagrams);
        remove_file(&path).unwrap();

        // Nor is a lock taken that is none, nor waited for who would read it.
        drop(UnixListener::bind(&path).unwrap());
        let lock = folder.at(".s.plumb-lock");
        let reader = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, reader, 0).unwrap();
        assert!(refusal(&path).to_string().contains("plumb-lock"));
        assert!(lock.exists() && path.exists());
        remove_file(&lock).unwrap();
        remove_file(&path).unwrap();

        let live = listen_at(&path).unwrap();
        assert_eq!(refusal(&path).kind(), ErrorKind::AddrInUse);
        let waiting: Vec<_> = (0..BACKLOG * 2)
            .map_while(|_| connect(seqpacket().unwrap(), &SocketAddrUnix::new(&path).unwrap()).ok())
            .collect();
        assert!(waiting.len() as i32 <= BACKLOG + 1, "the queue is full");
        assert_eq!(refusal(&path).kind(), ErrorKind::AddrInUse, "with a full queue");
        drop(waiting);
        let limit = std::time::Duration::from_millis(20);
        let error = Connection::connect_within(&path, limit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "as those who gave up still wait");
        live.accept().unwrap();
        Connection::connect_within(&path, limit).unwrap();
        drop(live);
        assert_eq!(folder.names(), [""; 0], "nothing is left beside it either");
    }

    #[test]
    fn strangers_cannot_send_descriptors_and_the_trusted_can() {
        for is_older in [false, true] {
            on_a_kernel(is_older, || {
                let folder = Folder::new(if is_older { "older" } else { "descriptors" });
                let path = folder.at("s");
                let file = File::open("/dev/null").unwrap();
                for asked in [Descriptors::Refused, Descriptors::Taken] {
                    let listener = Listener::bind(&path, 0o600, asked).unwrap();
                    let refused = asked == Descriptors::Refused;
                    let by_kernel = refused && descriptors_can_be_refused();
                    assert!(!(by_kernel && is_older));
                    assert_eq!(listener.is_wary(), refused && !by_kernel);
                    let theirs = Connection::connect(&path).unwrap();
                    theirs.send(b"words", &[]).unwrap();
                    let early = theirs.send(b"before it is accepted", &[file.as_fd()]);
                    let ours = listener.accept().unwrap().unwrap();
                    let late = theirs.send(b"and after", &[file.as_fd()]);
                    assert_eq!((early.is_ok(), late.is_ok()), (!by_kernel, !by_kernel));
                    assert_eq!(ours.receive(100).unwrap().bytes, b"words");
                    match ours.try_receive(100) {
                        Ok(received) => {
                            assert_eq!((received.descriptors.len(), refused), (1, false))
                        }
                        Err(ReceiveError::WouldBlock) => assert!(by_kernel),
                        Err(error) => assert!(listener.is_wary(), "{error}"),
                    }
                }
            });
        }
    }

    #[test]
    fn a_path_that_a_client_can_name_can_be_listened_at() {
        let folder = Folder::new("long");
        let room = 108 - folder.0.as_os_str().len() - 1;
        let path = folder.at(&"s".repeat(room));
        let listener = listen_at(&path).unwrap();
        Connection::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        let error = refusal(&folder.at(&"s".repeat(room + 1)));
        assert_eq!(error.kind(), ErrorKind::InvalidFilename, "{error}");
    }

    #[test]
    fn a_dead_socket_of_ours_is_replaced() {
        let folder = Folder::new("replaced");
        let path = folder.at("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind(&path, 0o640, Descriptors::Refused).unwrap();
        assert_eq!(symlink_metadata(&path).unwrap().mode() & 0o777, 0o640);
        let client = Connection::connect(&path).unwrap();
        client.send(b"hello", &[]).unwrap();
        let server = listener.accept().unwrap().unwrap();
        assert_eq!(server.receive(10).unwrap().bytes, b"hello");
        assert_eq!(folder.names(), ["s"]);
    }

    #[test]
    fn a_listener_removes_its_own_socket_and_no_other() {
        let folder = Folder::new("own");
        let path = folder.at("s");
        let first = listen_at(&path).unwrap();
        remove_file(&path).unwrap();
        let second = listen_at(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the second one's");
        drop(second);
        assert!(!path.exists());
        drop(listen_at(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::clear(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn of_many_that_start_at_once_over_a_dead_socket_one_listens() {
        let folder = Folder::new("at-once");
        let path = folder.at("s");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let listeners: Vec<_> = std::thread::scope(|scope| {
                let run = || {
                    start.wait();
                    listen_at(&path)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let live: Vec<&Listener> = listeners.iter().flatten().collect();
            let [live] = live[..] else { panic!("{listeners:?}") };
            let _client = Connection::connect(&path).unwrap();
            assert!(live.accept().unwrap().is_some(), "and the path leads to it");
            drop(listeners);
            assert_eq!(folder.names(), [""; 0]);
        }
    }
}
