//! A connection as its handles share it: options, time limits, and what closing waits for.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rbuf_channel::{Event, Pair};
use rbuf_shm::monotonic_ns;
use stack_socket::{Error, Place};
use stack_tcp::{Connection, Segment};

use super::exchange::Exchange;
use super::layers::Layers;
use super::seat::{NEVER, Seat, Work as _};
use super::service::{Outcome, Served, Service, Undelivered};
use crate::flow::Flow;
use crate::options::Options;

/// A connection, shared by its handles, the service thread and its listener.
pub(super) struct Socket {
    pub(super) seat: Seat<Exchange>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) nonblocking: AtomicBool,
    pub(super) read_timeout_ns: AtomicU64,
    pub(super) write_timeout_ns: AtomicU64,
    /// SO_LINGER: what closing waits for, in nanoseconds; [`NEVER`] for "finish in the background".
    pub(super) linger_ns: AtomicU64,
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Socket").field("local", &self.local).field("remote", &self.remote).finish()
    }
}

impl Socket {
    /// Joins a connection with its flow.
    pub(super) fn new(
        options: &Options,
        flow: Flow,
        stack: Layers,
        service: Arc<Service>,
        connection: Connection,
    ) -> Arc<Self> {
        let fib = *flow.fib();
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let shared = Arc::clone(&flow.shared);
        let exchange = Exchange::new(options, flow, stack, connection);
        let socket = Arc::new(Self {
            seat: Seat::new(exchange, shared, service, options.wait),
            local,
            remote: fib.endpoints.remote.map_or(local, SocketAddr::from),
            nonblocking: AtomicBool::new(false),
            read_timeout_ns: AtomicU64::new(NEVER),
            write_timeout_ns: AtomicU64::new(NEVER),
            linger_ns: AtomicU64::new(NEVER),
        });
        let served: Arc<dyn Served> = socket.clone();
        socket.seat.register(&served);
        socket
    }

    pub(super) fn deadline(timeout_ns: &AtomicU64) -> u64 {
        match timeout_ns.load(Ordering::Relaxed) {
            NEVER => NEVER,
            timeout => monotonic_ns().saturating_add(timeout),
        }
    }

    /// Waits until the connection is open.
    pub(super) fn wait_open(&self, deadline_ns: u64) -> io::Result<()> {
        let opened = self.seat.wait_for(deadline_ns, false, |exchange, _| exchange.socket.opened());
        opened.map_err(timed_out)
    }

    pub(super) fn read(&self, out: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if out.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat.wait_for(deadline_ns, nonblocking, |exchange, now_ns| {
            exchange.socket.read(now_ns, out)
        })
    }

    pub(super) fn write(&self, parts: &[IoSlice<'_>], follows: bool) -> io::Result<usize> {
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat
            .wait_for(deadline_ns, nonblocking, |exchange, _| exchange.socket.write(parts, follows))
    }

    /// As [`Self::write`], of what is urgent.
    pub(super) fn write_urgent(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat.wait_for(deadline_ns, nonblocking, |exchange, _| {
            let taken = exchange.socket.write(&[IoSlice::new(bytes)], false)?;
            exchange.socket.connection_mut().mark_urgent();
            Ok(taken)
        })
    }

    /// As [`Self::read`], and what was read can be read again.
    pub(super) fn peek(&self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat.wait_for(deadline_ns, nonblocking, |exchange, _| exchange.socket.peek(out))
    }

    /// Waits as [`Self::write`] does until there is room, and lends up to `bytes` of it.
    pub(super) fn lend_room(&self, bytes: usize) -> io::Result<[Pair; 2]> {
        let deadline_ns = Self::deadline(&self.write_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat.wait_for(deadline_ns, nonblocking, |exchange, _| exchange.socket.lend_room(bytes))
    }

    /// Waits as [`Self::read`] does until there is something, and lends up to `bytes` of it.
    pub(super) fn lend_received(&self, bytes: u64) -> io::Result<Place> {
        let deadline_ns = Self::deadline(&self.read_timeout_ns);
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        self.seat
            .wait_for(deadline_ns, nonblocking, |exchange, _| exchange.socket.lend_received(bytes))
    }

    /// The application has let go.
    pub(super) fn close(self: &Arc<Self>) {
        let linger_ns = self.linger_ns.load(Ordering::Relaxed);
        self.end();
        if self.seat.with(|exchange, _| exchange.is_done()) {
            return;
        }
        if linger_ns != NEVER {
            let deadline_ns = monotonic_ns().saturating_add(linger_ns);
            let ended = self.seat.wait_for(deadline_ns, false, |exchange, _| {
                if exchange.socket.is_delivered() { Ok(()) } else { Err(Error::WouldBlock) }
            });
            if ended.is_err() {
                self.seat.with(|exchange, now_ns| exchange.socket.close(now_ns, true));
            }
        }
        self.seat.adopt(self.clone());
    }

    /// Sends the last word: that nothing follows, or, if closing is to wait for nothing, a reset.
    fn end(&self) {
        let at_once = self.linger_ns.load(Ordering::Relaxed) == 0;
        self.seat.with(|exchange, now_ns| exchange.socket.close(now_ns, at_once));
    }

    /// Closes the writing half and waits until the peer has everything.
    pub(super) fn finish(&self, deadline_ns: u64) -> io::Result<()> {
        self.seat.with(|exchange, now_ns| exchange.socket.connection_mut().shut_down(now_ns));
        let delivered = self.seat.wait_for(deadline_ns, false, |exchange, _| {
            if exchange.socket.is_delivered() {
                return exchange.socket.check();
            }
            Err(Error::WouldBlock)
        });
        delivered.map_err(timed_out)
    }

    /// A segment that arrived at the listener after the connection had been made, and so before what has
    /// arrived here; [`Seat::with`] sends what follows from it.
    pub(super) fn hand_over(&self, segment: &Segment, payload: &[u8]) {
        self.seat.aside(|exchange, now_ns| {
            exchange.socket.take_copied(now_ns, segment, payload);
        });
    }
}

impl Served for Socket {
    fn slot(&self) -> u32 {
        self.seat.slot()
    }

    fn serve(&self) -> Outcome {
        self.seat.serve()
    }

    fn event_read(&self, event: Event) {
        self.seat.event_read(event);
    }

    fn leave(&self) {
        self.end();
    }

    fn undelivered(&self) -> Option<Undelivered> {
        self.seat.peek(|exchange| {
            let bytes = exchange.socket.connection().unacknowledged();
            (!exchange.socket.is_delivered()).then_some(Undelivered { to: self.remote, bytes })
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.seat.leave_for_good(std::ptr::from_ref(self).cast());
    }
}

/// Waiting ended because of a time limit.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// A limit in nanoseconds, as `std::net` takes it.
pub(super) fn nanos(timeout: Option<Duration>) -> io::Result<u64> {
    match timeout {
        Some(Duration::ZERO) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timeout of zero; use set_nonblocking",
        )),
        Some(timeout) => Ok(u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - 1)),
        None => Ok(NEVER),
    }
}
