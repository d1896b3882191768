//! The host that scripts are played against, its clock, and calls that wait.
//!
//! packetdrill makes calls that wait from a thread of their own, while another one lets time pass. Time
//! passes only in [`World::pass`] and [`World::next_packet`], which let every waiting call look again
//! before they go on, so a run is always the same.
//!
//! packetdrill, and Python for it, close descriptors that they think are the kernel's. So each socket's
//! number is that of a real descriptor, of `/dev/null`.

use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use tools_packet::{Errno, Fd, Host, LOCAL, Readiness, Sent, Settings, SocketOption};

use crate::device;
use crate::epoll::Epoll;
use crate::notices::Notice;
use crate::socket::{self, Choice};
use crate::watched::Watched;

/// What the clock shows at the beginning, in microseconds.
const EPOCH_US: i64 = 1_000_000_000_000;

/// Nine words about memory.
const SO_MEMINFO: i32 = 55;

/// Facts about the congestion control.
const TCP_CC_INFO: i32 = 26;

/// The host, and who waits for it.
pub(crate) struct World {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    host: Host,
    /// Descriptors by the numbers that packetdrill knows.
    known: HashMap<c_int, (Fd, File)>,
    nonblocking: HashSet<Fd>,
    watched: HashMap<Fd, Watched>,
    epolls: HashMap<c_int, (Epoll, File)>,
    /// Calls that wait, and those of them that have looked since the last change.
    waiting: usize,
    looked: usize,
    change: u64,
    /// Threads whose call has ended after it had waited, and that have still to note it.
    ended: Vec<PathBuf>,
}

/// The one host of this process.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World {
        inner: Mutex::new(Inner {
            host: Host::new(LOCAL, Settings::default()),
            known: HashMap::new(),
            nonblocking: HashSet::new(),
            watched: HashMap::new(),
            epolls: HashMap::new(),
            waiting: 0,
            looked: 0,
            change: 0,
            ended: Vec::new(),
        }),
        changed: Condvar::new(),
    })
}

/// A setting of this network namespace.
fn setting(name: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{name}")).ok()?;
    Some(value.trim().to_owned())
}

/// The settings of this network namespace.
fn settings() -> Settings {
    let whole_segments = device::takes_whole_segments();
    let mut settings = Settings { whole_segments, ..Settings::default() };
    settings.config.super_segment_bytes = 65_000;
    let names = [
        "timestamps",
        "sack",
        "window_scaling",
        "ecn",
        "syn_linear_timeouts",
        "fastopen",
        "fastopen_key",
        "mtu_probing",
        "slow_start_after_idle",
        "min_tso_segs",
        "fin_timeout",
        "keepalive_time",
        "keepalive_intvl",
        "keepalive_probes",
        "rmem",
        "wmem",
        "congestion_control",
    ];
    for name in names {
        if let Some(value) = setting(name) {
            settings.set(&format!("net.ipv4.tcp_{name}"), &value);
        }
    }
    settings
}

/// Waits until a thread of this process sleeps, but not for ever: what packetdrill notes of a call takes no
/// virtual time, and is not to be late.
fn await_rest(thread: &Path) {
    const TRIES_MAX: usize = 100_000;
    let stat = Path::new("/proc").join(thread).join("stat");
    let sleeps = || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| !rest.starts_with('R'))
    };
    for _ in 0..TRIES_MAX {
        if sleeps() {
            return;
        }
        std::thread::yield_now();
    }
}

fn null() -> Result<File, i32> {
    File::open("/dev/null").map_err(|error| error.raw_os_error().unwrap_or(0))
}

impl Inner {
    fn own(&self, fd: c_int) -> Result<Fd, i32> {
        self.known.get(&fd).map(|(own, _)| *own).ok_or(libc::EBADF)
    }

    /// The number by which packetdrill is to know a descriptor.
    fn name(&mut self, own: Fd) -> Result<c_int, i32> {
        let file = null()?;
        let fd = file.as_raw_fd();
        self.known.insert(fd, (own, file));
        Ok(fd)
    }

    fn now_us(&self) -> i64 {
        EPOCH_US + (self.host.now_ns() / 1_000) as i64
    }

    fn watched(&mut self, fd: Fd) -> &mut Watched {
        self.watched.entry(fd).or_default()
    }

    /// Looks at what has happened to every socket.
    fn observe(&mut self) {
        let now_us = self.now_us();
        for (fd, watched) in &mut self.watched {
            watched.observe(&mut self.host, *fd, now_us);
        }
    }

    /// What `poll` says of a descriptor.
    fn events(&mut self, fd: Fd) -> Result<i16, Errno> {
        match self.watched.get(&fd) {
            Some(watched) => watched.events(&mut self.host, fd),
            None => Watched::default().events(&mut self.host, fd),
        }
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every waiting call look at what has changed.
    fn settle<'a>(&self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        inner.observe();
        inner.change += 1;
        inner.looked = 0;
        self.changed.notify_all();
        while inner.looked < inner.waiting {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner
    }

    /// Calls until the call does not have to wait; once, if it may not.
    fn call<T>(
        &self,
        waits: impl Fn(&Inner) -> bool,
        mut attempt: impl FnMut(&mut Inner) -> Result<T, Errno>,
    ) -> Result<T, i32> {
        let mut inner = self.lock();
        let mut counted = false;
        loop {
            let result = attempt(&mut inner);
            inner.observe();
            let again = matches!(result, Err(Errno::Again | Errno::InProgress));
            if !again || !waits(&inner) {
                if counted {
                    inner.waiting -= 1;
                    inner.ended.extend(fs::read_link("/proc/thread-self"));
                    self.changed.notify_all();
                }
                return result.map_err(Errno::number);
            }
            if counted {
                inner.looked += 1;
                self.changed.notify_all();
            } else {
                inner.waiting += 1;
                inner.looked += 1;
                counted = true;
            }
            let seen = inner.change;
            while inner.change == seen {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn now<T>(
        &self,
        fd: c_int,
        act: impl FnOnce(&mut Host, Fd) -> Result<T, Errno>,
    ) -> Result<T, i32> {
        let mut inner = self.lock();
        let own = inner.own(fd)?;
        let result = act(&mut inner.host, own).map_err(Errno::number);
        inner.observe();
        result
    }

    fn own(&self, fd: c_int) -> Result<Fd, i32> {
        self.lock().own(fd)
    }

    pub(crate) fn has(&self, fd: c_int) -> bool {
        self.lock().known.contains_key(&fd)
    }

    pub(crate) fn socket(&self, kind: i32) -> Result<c_int, i32> {
        let mut inner = self.lock();
        inner.host.settings = settings();
        let own = inner.host.socket();
        inner.nonblocking.remove(&own);
        let mut watched = Watched::default();
        watched.room.unsent_default = setting("notsent_lowat").and_then(|value| value.parse().ok());
        inner.watched.insert(own, watched);
        if kind & libc::SOCK_NONBLOCK != 0 {
            inner.nonblocking.insert(own);
        }
        inner.name(own)
    }

    pub(crate) fn bind(&self, fd: c_int, address: Option<(Ipv4Addr, u16)>) -> Result<i32, i32> {
        let (ip, port) = address.ok_or(libc::EAFNOSUPPORT)?;
        self.now(fd, |host, fd| {
            if !ip.is_unspecified() {
                host.set_address(ip);
            }
            host.bind(fd, port).map(|()| 0)
        })
    }

    pub(crate) fn listen(&self, fd: c_int, backlog: i32) -> Result<i32, i32> {
        self.now(fd, |host, fd| host.listen(fd, usize::try_from(backlog).unwrap_or(0)).map(|()| 0))
    }

    pub(crate) fn accept(&self, fd: c_int) -> Result<(c_int, (Ipv4Addr, u16)), i32> {
        let fd = self.own(fd)?;
        let waits = |inner: &Inner| !inner.nonblocking.contains(&fd);
        let (own, from) = self.call(waits, |inner| inner.host.accept(fd))?;
        let mut inner = self.lock();
        inner.nonblocking.remove(&own);
        let inherited = inner.watched.get(&fd).map(Watched::inherited).unwrap_or_default();
        inner.watched.insert(own, inherited);
        inner.observe();
        Ok((inner.name(own)?, from))
    }

    pub(crate) fn connect(&self, fd: c_int, to: Option<(Ipv4Addr, u16)>) -> Result<i32, i32> {
        let (fd, to) = (self.own(fd)?, to.ok_or(libc::EAFNOSUPPORT)?);
        let mut begun = false;
        let waits = |inner: &Inner| !inner.nonblocking.contains(&fd);
        self.call(waits, |inner| {
            if begun {
                return inner.host.connected(fd).map(|()| 0);
            }
            begun = true;
            inner.host.connect(fd, to).map(|()| 0)
        })
    }

    /// What is decided about data on SYNs is looked up again.
    fn refresh(&self, own: Fd) {
        // A socket that is gone has nothing to hear.
        let _ = self.lock().host.set_fast_settings(own, settings().fast_open);
    }

    /// `sendto` with `MSG_FASTOPEN`.
    pub(crate) fn connect_with(
        &self,
        fd: c_int,
        to: Option<(Ipv4Addr, u16)>,
        bytes: &[u8],
        flags: i32,
    ) -> Result<usize, i32> {
        // The kernel calls no address that is none an address of another family here.
        let (own, to) = (self.own(fd)?, to.ok_or(libc::EOPNOTSUPP)?);
        self.refresh(own);
        let dont_wait = flags & libc::MSG_DONTWAIT != 0;
        let waits = |inner: &Inner| !inner.nonblocking.contains(&own) && !dont_wait;
        let mut begun = None;
        let taken = self.call(waits, |inner| {
            if let Some(taken) = begun {
                return inner.host.connected(own).map(|()| taken);
            }
            let result = inner.host.connect_with(own, to, bytes, waits(inner));
            begun = Some(result.unwrap_or(0));
            if let Ok(taken @ 1..) = result {
                let progress = inner.host.progress(own)?;
                let lends = flags & libc::MSG_ZEROCOPY != 0;
                inner.watched(own).notices.wrote(progress.written.max(taken as u64), lends);
            }
            if waits(inner) { result.and(Err(Errno::InProgress)) } else { result }
        })?;
        let rest = &bytes[taken..];
        if dont_wait || rest.is_empty() || self.lock().nonblocking.contains(&own) {
            return Ok(taken);
        }
        self.write(fd, rest, flags & !libc::MSG_FASTOPEN).map(|more| taken + more)
    }

    pub(crate) fn read(&self, fd: c_int, out: &mut [u8], flags: i32) -> Result<usize, i32> {
        let fd = self.own(fd)?;
        let dont_wait = flags & libc::MSG_DONTWAIT != 0;
        let waits = |inner: &Inner| !inner.nonblocking.contains(&fd) && !dont_wait;
        self.call(waits, |inner| inner.host.read(fd, out, flags & libc::MSG_PEEK != 0))
    }

    pub(crate) fn write(&self, fd: c_int, bytes: &[u8], flags: i32) -> Result<usize, i32> {
        let own = self.own(fd)?;
        let waits_for = self.lock().host.waits_for(own);
        if waits_for.is_some() {
            return self.connect_with(fd, waits_for, bytes, flags);
        }
        let fd = own;
        let dont_wait = flags & libc::MSG_DONTWAIT != 0;
        let waits = |inner: &Inner| !inner.nonblocking.contains(&fd) && !dont_wait;
        let mut done = 0;
        self.call(waits, |inner| {
            let blocking = waits(inner);
            let urgent = flags & libc::MSG_OOB != 0;
            if blocking && done > 0 && inner.watched(fd).waits() {
                return Err(Errno::Again);
            }
            loop {
                let room = inner.watched(fd).room;
                let room = room.left(&mut inner.host, fd);
                let piece = &bytes[done..];
                let piece = &piece[..piece.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
                let last = done + piece.len() == bytes.len();
                let more = flags & libc::MSG_MORE != 0 || !last;
                let ends = flags & libc::MSG_EOR != 0 && last;
                let result = match piece.is_empty() && done < bytes.len() {
                    true => Err(Errno::Again),
                    false if urgent => inner.host.write_urgent(fd, piece),
                    false if ends => inner.host.write_record(fd, piece),
                    false => inner.host.write(fd, piece, more),
                };
                done += match result {
                    Err(Errno::Again) => 0,
                    result => result?,
                };
                if done == bytes.len() {
                    break;
                }
                if matches!(result, Err(Errno::Again)) {
                    inner.watched(fd).wait();
                    // A call that waits is over when all is written.
                    if done == 0 || blocking {
                        return Err(Errno::Again);
                    }
                    break;
                }
            }
            if done > 0 {
                let progress = inner.host.progress(fd)?;
                let lends = flags & libc::MSG_ZEROCOPY != 0;
                inner.watched(fd).notices.wrote(progress.written, lends);
            }
            Ok(done)
        })
    }

    pub(crate) fn fcntl(&self, fd: c_int, command: i32, argument: i64) -> Result<i32, i32> {
        let mut inner = self.lock();
        let fd = inner.own(fd)?;
        let nonblocking = inner.nonblocking.contains(&fd);
        match command {
            libc::F_GETFL if nonblocking => Ok(libc::O_RDWR | libc::O_NONBLOCK),
            libc::F_GETFL => Ok(libc::O_RDWR),
            libc::F_SETFL => {
                if argument & i64::from(libc::O_NONBLOCK) != 0 {
                    inner.nonblocking.insert(fd);
                } else {
                    inner.nonblocking.remove(&fd);
                }
                Ok(0)
            }
            _ => Err(libc::EINVAL),
        }
    }

    pub(crate) fn ioctl(&self, fd: c_int, request: u64) -> Result<i32, i32> {
        const SIOCOUTQ: u64 = 0x5411;
        const SIOCINQ: u64 = 0x541b;
        const SIOCATMARK: u64 = 0x8905;
        self.now(fd, |host, fd| match request {
            SIOCINQ => host.queued(fd).map(|(readable, _)| readable as i32),
            SIOCOUTQ => host.queued(fd).map(|(_, written)| written as i32),
            SIOCATMARK => host.urgent_bytes(fd).map(|urgent| i32::from(urgent == Some(1))),
            _ => Err(Errno::Invalid),
        })
    }

    pub(crate) fn close(&self, fd: c_int) -> Result<i32, i32> {
        if self.lock().epolls.remove(&fd).is_some() {
            return Ok(0);
        }
        let closed = self.now(fd, |host, fd| host.close(fd).map(|()| 0));
        let mut inner = self.lock();
        if let Some((own, _)) = inner.known.remove(&fd) {
            inner.watched.remove(&own);
        }
        closed
    }

    pub(crate) fn shut_down(&self, fd: c_int, how: i32) -> Result<i32, i32> {
        let (reading, writing) = match how {
            libc::SHUT_RD => (true, false),
            libc::SHUT_WR => (false, true),
            libc::SHUT_RDWR => (true, true),
            _ => return Err(libc::EINVAL),
        };
        self.now(fd, |host, fd| host.shut_down(fd, reading, writing).map(|()| 0))
    }

    pub(crate) fn set_option(
        &self,
        fd: c_int,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<i32, i32> {
        let choice = socket::choice(level, name, value)?;
        self.refresh(self.own(fd)?);
        let mut inner = self.lock();
        let own = inner.own(fd)?;
        if matches!(choice, Choice::Host(SocketOption::FastOpenConnect(_)))
            && !settings().fast_open.client
        {
            return Err(libc::EOPNOTSUPP);
        }
        match choice {
            Choice::None => {}
            Choice::Host(option) => inner.host.set(own, option).map_err(Errno::number)?,
            Choice::ZeroCopy(on) => inner.watched(own).notices.zerocopy = on,
            Choice::Stamping(flags) => {
                let progress = inner.host.progress(own).unwrap_or_default();
                inner.watched(own).notices.stamp(flags, progress);
            }
            Choice::SendBytes(bytes) => inner.watched(own).room.bytes = Some(bytes),
            Choice::UnsentMax(bytes) => inner.watched(own).room.unsent = Some(bytes),
            Choice::TellsRest(on) => inner.watched(own).tells_rest = on,
        }
        inner.observe();
        Ok(0)
    }

    /// The oldest entry of a socket's error queue.
    pub(crate) fn notice(&self, fd: c_int) -> Result<Notice, i32> {
        let mut inner = self.lock();
        let own = inner.own(fd)?;
        inner.watched(own).notices.take().ok_or(libc::EAGAIN)
    }

    /// What is left to be read, for those who want to know; 1 if it is the end of the stream.
    pub(crate) fn rest(&self, fd: c_int) -> Option<i32> {
        let mut inner = self.lock();
        let own = inner.own(fd).ok()?;
        if !inner.watched(own).tells_rest {
            return None;
        }
        let (readable, _) = inner.host.queued(own).ok()?;
        let ends = inner.host.readiness(own).is_ok_and(|ready| ready.has(Readiness::RDHUP));
        Some(i32::try_from(readable).unwrap_or(i32::MAX).max(i32::from(ends)))
    }

    pub(crate) fn epoll_create(&self) -> Result<c_int, i32> {
        let file = null()?;
        let fd = file.as_raw_fd();
        self.lock().epolls.insert(fd, (Epoll::default(), file));
        Ok(fd)
    }

    pub(crate) fn epoll_control(
        &self,
        epoll: c_int,
        operation: i32,
        fd: c_int,
        (events, data): (u32, u64),
    ) -> Result<i32, i32> {
        let mut inner = self.lock();
        let own = inner.own(fd)?;
        let (epoll, _) = inner.epolls.get_mut(&epoll).ok_or(libc::EBADF)?;
        epoll.control(operation, own, events, data).map(|()| 0)
    }

    /// What `epoll_wait` says, up to `max` pairs of events and data.
    pub(crate) fn epoll_wait(
        &self,
        epoll: c_int,
        max: usize,
        timeout_ms: i32,
    ) -> Result<Vec<(u32, u64)>, i32> {
        let end_ns = self.end_ns(timeout_ms);
        let waits = |inner: &Inner| inner.host.now_ns() < end_ns;
        let result = self.call(waits, |inner| {
            let (mut waiting, file) = inner.epolls.remove(&epoll).ok_or(Errno::BadDescriptor)?;
            let ready = waiting.ready(max, |fd| {
                let happened = inner.watched(fd).happened;
                (inner.events(fd).unwrap_or(0) as u32, happened)
            });
            inner.epolls.insert(epoll, (waiting, file));
            if ready.is_empty() { Err(Errno::Again) } else { Ok(ready) }
        });
        if result == Err(libc::EAGAIN) { Ok(Vec::new()) } else { result }
    }

    /// When a call that waits for so long, or for ever, gives up.
    fn end_ns(&self, timeout_ms: i32) -> u64 {
        u64::try_from(timeout_ms)
            .map_or(u64::MAX, |timeout| self.lock().host.now_ns() + timeout * 1_000_000)
    }

    pub(crate) fn get_option(&self, fd: c_int, level: i32, name: i32) -> Result<Vec<u8>, i32> {
        let mut inner = self.lock();
        let fd = inner.own(fd)?;
        let host = &mut inner.host;
        let info = host.information(fd).map_err(Errno::number)?;
        let number = match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_INFO) => return Ok(socket::tcp_info(&info)),
            // There is nothing to tell.
            (libc::IPPROTO_TCP, TCP_CC_INFO) => return Ok(Vec::new()),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => info.snd_mss as i32,
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                let wmem = setting("wmem").unwrap_or_default();
                let default = wmem.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok());
                inner.watched(fd).room.bytes.or(default).unwrap_or(0) as i32
            }
            (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) => {
                inner.watched(fd).room.unsent.unwrap_or(0) as i32
            }
            // No memory is the kernel's.
            (libc::SOL_SOCKET, SO_MEMINFO) => return Ok(vec![0; 36]),
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                host.take_error(fd).map_err(Errno::number)?.map_or(0, Errno::number)
            }
            _ => return Err(libc::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    pub(crate) fn poll(&self, fds: &mut [libc::pollfd], timeout_ms: i32) -> Result<i32, i32> {
        let end_ns = self.end_ns(timeout_ms);
        let waits = |inner: &Inner| inner.host.now_ns() < end_ns;
        let result = self.call(waits, |inner| {
            let mut ready = 0;
            for entry in fds.iter_mut() {
                let asked = entry.events | libc::POLLERR | libc::POLLHUP;
                let events = inner.own(entry.fd).map(|fd| inner.events(fd));
                entry.revents = match events {
                    Ok(Ok(events)) => events & asked,
                    _ => libc::POLLNVAL,
                };
                ready += i32::from(entry.revents != 0);
            }
            if ready == 0 { Err(Errno::Again) } else { Ok(ready) }
        });
        if result == Err(libc::EAGAIN) { Ok(0) } else { result }
    }

    /// A packet arrives.
    pub(crate) fn arrive(&self, packet: &[u8]) {
        let mut inner = self.lock();
        inner.host.arrive(packet);
        drop(self.settle(inner));
    }

    /// The next packet that leaves, and when; time goes on to that. `None` if none ever will.
    pub(crate) fn next_packet(&self) -> Option<(Vec<u8>, i64)> {
        let mut inner = self.lock();
        loop {
            if let Some(Sent { at_ns, packet }) = inner.host.take_sent() {
                return Some((packet, EPOCH_US + (at_ns / 1_000) as i64));
            }
            let next_ns = inner.host.next_deadline()?;
            inner.host.step(next_ns);
            inner = self.settle(inner);
        }
    }

    /// Time passes. packetdrill holds no lock meanwhile that a call which has ended would need.
    pub(crate) fn pass(&self, micros: u64) {
        let ended = std::mem::take(&mut self.lock().ended);
        ended.iter().for_each(|thread| await_rest(thread));
        let mut inner = self.lock();
        let end_ns = inner.host.now_ns() + micros * 1_000;
        while inner.host.step(end_ns) {
            inner = self.settle(inner);
        }
        drop(self.settle(inner));
    }

    /// What the clock shows; looking at it takes a moment.
    pub(crate) fn clock(&self) -> i64 {
        let mut inner = self.lock();
        let next_ns = inner.host.now_ns() + 1_000;
        inner.host.step(next_ns);
        inner.now_us()
    }
}
