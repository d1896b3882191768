//! A connection and the threads that use it: who runs it, who waits for what, who is woken.
//!
//! Whoever holds the lock runs the connection: a thread in a call, or the service thread. Nobody
//! sleeps with the lock.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuf_channel::{Park, Wait};
use rbuf_shm::{Futex, monotonic_ns};
use stack_tcp::{Connection, Segment};

use super::buffers::Payload;
use super::exchange::State;
use super::layers::{Layers, device};
use super::readiness::Condition;
use super::service::{Outcome, Served, Service};
use crate::flow::{Flow, Shared};
use crate::options::Options;

/// For ever.
pub(super) const NEVER: u64 = u64::MAX;

/// How long a sleeper waits before it asks whether the flow manager has news.
const NEWS_NS: u64 = 500_000_000;

/// How soon to look again whether the driver has sent something, if that is all there is to wait for.
const STARVED_NS: u64 = 500_000;

/// A connection, shared by its handles, the service thread and its listener.
pub(super) struct Socket {
    state: Mutex<State>,
    shared: Arc<Shared>,
    service: Arc<Service>,
    slot: u32,
    wait: Wait,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) nonblocking: AtomicBool,
    pub(super) read_timeout_ns: AtomicU64,
    pub(super) write_timeout_ns: AtomicU64,
    /// SO_LINGER: what closing waits for, in nanoseconds; [`NEVER`] for "finish in the background".
    pub(super) linger_ns: AtomicU64,
    /// Whether the service thread will look at it within a tick.
    listed: AtomicBool,
    readable: Condition,
    writable: Condition,
    urgent: Condition,
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).field("remote", &self.remote).finish()
    }
}

/// Threads that sleep in a socket.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    count: u32,
    /// When one of them at least wakes by itself.
    until_ns: u64,
    /// What they saw when they went to sleep.
    seen: Sight,
}

/// What a thread may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sight {
    readable: bool,
    writable: bool,
    delivered: bool,
    open: bool,
}

impl Socket {
    /// Joins a connection with its flow.
    pub(super) fn new(
        options: &Options,
        flow: Flow,
        stack: Layers,
        connection: Connection,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::clone(&flow.shared);
        let service = shared.service()?;
        let fib = *flow.fib();
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let remote = fib.endpoints.remote.map_or(local, SocketAddr::from);
        let socket = Arc::new(Self {
            slot: shared.slot(),
            state: Mutex::new(State::new(options, flow, stack, connection)),
            shared,
            service,
            wait: options.wait,
            local,
            remote,
            nonblocking: AtomicBool::new(false),
            read_timeout_ns: AtomicU64::new(NEVER),
            write_timeout_ns: AtomicU64::new(NEVER),
            linger_ns: AtomicU64::new(NEVER),
            listed: AtomicBool::new(false),
            readable: Condition::default(),
            writable: Condition::default(),
            urgent: Condition::default(),
        });
        let served: Arc<dyn Served> = socket.clone();
        socket.service.add(&served);
        Ok(socket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the connection, sends what follows from it, and leaves the rest to the
    /// service thread.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.lock();
        let now_ns = monotonic_ns();
        state.take_in(&self.shared, now_ns);
        let result = act(&mut state, now_ns);
        state.send_out(&self.shared, now_ns);
        self.leave(state);
        result
    }

    /// Gives the lock up; sleeping threads look again if something has changed that they may wait for,
    /// or if something is due before they would.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        self.signal(&mut state);
        let sleepers = state.sleepers.count > 0 && state.has_news_for_sleepers();
        drop(state);
        if sleepers {
            Futex::patient().wake(&self.shared.rx_words[0]);
        }
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.service.list(self.slot);
        }
    }

    /// Shows what the socket is ready for to whoever watches it. Such an application is not in a call
    /// when something arrives, so the driver is to say at once that it has.
    fn signal(&self, state: &mut State) {
        let all = [&self.readable, &self.writable, &self.urgent];
        if !all.into_iter().any(Condition::is_watched) {
            return;
        }
        state.arm(&self.shared);
        self.urgent.set(state.stream.connection.urgent_bytes().is_some());
        self.readable.set(state.is_readable());
        self.writable.set(state.is_writable());
    }

    /// A descriptor that is readable while a read would not wait.
    pub(super) fn readable(&self) -> io::Result<BorrowedFd<'_>> {
        self.readable.descriptor()?;
        self.with(|_, _| ());
        self.readable.descriptor()
    }

    /// A descriptor that is readable while something urgent is to be read, or to come.
    pub(super) fn urgent(&self) -> io::Result<BorrowedFd<'_>> {
        self.urgent.descriptor()?;
        self.with(|_, _| ());
        self.urgent.descriptor()
    }

    /// A descriptor that is readable while a write would not wait.
    pub(super) fn writable(&self) -> io::Result<BorrowedFd<'_>> {
        self.writable.descriptor()?;
        self.with(|_, _| ());
        self.writable.descriptor()
    }

    /// Looks until there is what `look` looks for, and sleeps between looks, until `deadline_ns`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` or `TimedOut`, or what `look` says.
    pub(super) fn wait_for<T>(
        &self,
        deadline_ns: u64,
        nonblocking: bool,
        mut look: impl FnMut(&mut State, u64) -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        let mut spins = match self.wait {
            Wait::Spin => u64::MAX,
            Wait::Block => 0,
            Wait::Adaptive { spins } => u64::from(spins),
        };
        loop {
            let mut state = self.lock();
            let now_ns = monotonic_ns();
            state.take_in(&self.shared, now_ns);
            let found = look(&mut state, now_ns);
            state.send_out(&self.shared, now_ns);
            match found {
                Err(error) => {
                    self.leave(state);
                    return Err(error);
                }
                Ok(Some(found)) => {
                    self.leave(state);
                    return Ok(found);
                }
                Ok(None) => {}
            }
            if nonblocking || now_ns >= deadline_ns {
                self.leave(state);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if spins > 0 {
                spins -= 1;
                drop(state);
                std::hint::spin_loop();
                continue;
            }
            let seen = device(&mut state.stack).rx().await_published(1);
            let Ok(Some(seen)) = seen else { continue };
            state.sleepers.count += 1;
            let due_ns = state.stream.connection.next_deadline().unwrap_or(NEVER);
            let starved = state.starved || state.is_over();
            let starved_ns = if starved { now_ns + STARVED_NS } else { NEVER };
            let until = deadline_ns.min(due_ns).min(starved_ns).min(now_ns + NEWS_NS);
            state.note_sleep(until);
            drop(state);
            if !Futex::until(until).sleep(&self.shared.rx_words[0], seen) {
                self.shared.host().hear_notices();
            }
            let mut state = self.lock();
            state.sleepers.count -= 1;
            if state.sleepers.count == 0 {
                device(&mut state.stack).rx().awake();
            }
        }
    }

    pub(super) fn deadline(timeout_ns: &AtomicU64) -> u64 {
        match timeout_ns.load(Ordering::Relaxed) {
            NEVER => NEVER,
            timeout => monotonic_ns().saturating_add(timeout),
        }
    }

    /// Waits until the connection is open.
    pub(super) fn wait_open(&self, deadline_ns: u64) -> io::Result<()> {
        let opened =
            self.wait_for(deadline_ns, false, |state, _| Ok(state.opened()?.then_some(())));
        opened.map_err(timed_out)
    }

    pub(super) fn read(&self, out: &mut [&mut [u8]], peek: bool) -> io::Result<usize> {
        if out.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, now_ns| state.read(now_ns, out, peek))
    }

    pub(super) fn write(&self, parts: &[&[u8]], follows: bool) -> io::Result<usize> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| state.write(parts, follows))
    }

    /// As [`Self::write`], of what is urgent.
    pub(super) fn write_urgent(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| {
            let taken = state.write(&[bytes], false)?;
            if taken.is_some() {
                state.stream.connection.mark_urgent();
            }
            Ok(taken)
        })
    }

    /// As [`Self::write`], from a file; 0 at its end.
    pub(super) fn send_from(&self, file: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, _| state.send_from(file, bytes))
    }

    /// As [`Self::read`], to a file; 0 at the stream's end.
    pub(super) fn receive_to(&self, file: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.wait_for(deadline_ns, nonblocking, |state, now_ns| {
            state.receive_to(now_ns, file, bytes)
        })
    }

    /// The application has let go.
    pub(super) fn close(self: &Arc<Self>) {
        let linger_ns = self.linger_ns.load(Ordering::Relaxed);
        self.end();
        if self.with(|state, _| state.is_done()) {
            return;
        }
        if linger_ns != NEVER {
            let deadline_ns = monotonic_ns().saturating_add(linger_ns);
            let ended = self
                .wait_for(deadline_ns, false, |state, _| Ok(state.is_delivered().then_some(())));
            if ended.is_err() {
                self.with(|state, now_ns| state.stream.connection.abort(now_ns));
            }
        }
        self.service.adopt(self.clone());
    }

    /// Sends the last word: that nothing follows, or, if closing is to wait for nothing, a reset.
    fn end(&self) {
        let at_once = self.linger_ns.load(Ordering::Relaxed) == 0;
        self.with(|state, now_ns| match at_once {
            true => state.stream.connection.abort(now_ns),
            false => state.stream.connection.close(now_ns),
        });
    }

    /// Closes the writing half and waits until the peer has everything.
    pub(super) fn finish(&self, deadline_ns: u64) -> io::Result<()> {
        self.with(|state, now_ns| state.stream.connection.shut_down(now_ns));
        let delivered = self.wait_for(deadline_ns, false, |state, _| {
            if state.is_delivered() {
                return state.check().map(Some);
            }
            Ok(None)
        });
        delivered.map_err(timed_out)
    }

    /// A segment that arrived at the listener after the connection had been made.
    pub(super) fn hand_over(&self, segment: &Segment, payload: &[u8]) {
        let mut state = self.lock();
        state.stream.on_segment(monotonic_ns(), segment, Payload::Bytes(payload));
    }

    /// Sends what follows from that.
    pub(super) fn answer(&self) {
        self.with(|_, _| ());
    }
}

impl Served for Socket {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn serve(&self) -> Outcome {
        self.listed.store(false, Ordering::Release);
        let mut state = self.lock();
        if state.sleepers.count > 0 {
            return Outcome::Until(None);
        }
        let now_ns = monotonic_ns();
        state.take_in(&self.shared, now_ns);
        state.send_out(&self.shared, now_ns);
        state.arm(&self.shared);
        self.signal(&mut state);
        if state.is_done() {
            return Outcome::Finished;
        }
        let deadline_ns = state.stream.connection.next_deadline();
        Outcome::Until(if state.starved || state.is_over() {
            Some(deadline_ns.unwrap_or(NEVER).min(now_ns + STARVED_NS))
        } else {
            deadline_ns
        })
    }

    fn event_read(&self) {
        self.lock().armed = false;
    }

    fn leave(&self) {
        self.end();
    }

    fn is_delivered(&self) -> bool {
        self.lock().is_delivered()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.service.remove(self.slot);
    }
}

impl State {
    fn sight(&self) -> Sight {
        Sight {
            readable: self.is_readable(),
            writable: self.is_writable(),
            delivered: self.is_delivered(),
            open: self.stream.connection.state().is_synchronised(),
        }
    }

    /// A thread is about to sleep.
    fn note_sleep(&mut self, until_ns: u64) {
        let earlier = if self.sleepers.count > 1 { self.sleepers.until_ns } else { NEVER };
        self.sleepers.until_ns = until_ns.min(earlier);
        self.sleepers.seen = self.sight();
    }

    /// Whether threads that sleep see something else than when they went to sleep, or would be late.
    fn has_news_for_sleepers(&mut self) -> bool {
        let due_ns = self.stream.connection.next_deadline().unwrap_or(NEVER);
        let late = due_ns < self.sleepers.until_ns || self.starved;
        let sight = self.sight();
        std::mem::replace(&mut self.sleepers.seen, sight) != sight || late
    }
}

/// Waiting ended because of a time limit.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
