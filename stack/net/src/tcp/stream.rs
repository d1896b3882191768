//! A TCP connection as `std::net` has it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use rbuf_shm::monotonic_ns;
use stack_tcp::{Connection, Counts, Info, Keepalive, Record};

use super::layers::{config, open};
use super::lent::{Received, Room};
use super::seat::NEVER;
use super::socket::{Socket, nanos};
use super::{fast_cache, secret};
use crate::error::io_error;
use crate::{Error, Options};

/// A TCP connection with its own stack, its own buffers and its own contract.
///
/// The methods are those of `std::net::TcpStream`, and it can be used from several threads. Dropping the last
/// handle closes the connection: what was written is still delivered, by the service thread of this
/// process, unless [`Self::set_linger`] says otherwise. So it is when the process ends, which waits for that
/// as long as the peer takes something at least every ten seconds, and otherwise says on standard error how
/// much was lost; [`Self::finish`] tells whether it was.
#[derive(Debug)]
pub struct TcpStream {
    handle: Arc<Handle>,
}

/// The application's hold on a socket; the service thread has another.
#[derive(Debug)]
struct Handle {
    socket: Arc<Socket>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl TcpStream {
    /// Options for a stream: contract, buffers, waiting.
    pub fn options() -> Options {
        Options::new()
    }

    /// A best-effort connection to `remote`, the first of its addresses that answers.
    ///
    /// # Errors
    ///
    /// What the flow manager says, or the peer: `ConnectionRefused`, `TimedOut`.
    pub fn connect(remote: impl ToSocketAddrs) -> io::Result<Self> {
        Options::new().connect_tcp(remote)
    }

    /// As [`Self::connect`], and gives up after `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub fn connect_timeout(remote: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::open(&Options::new(), *remote, Some(timeout))
    }

    pub(crate) fn open(
        options: &Options,
        remote: SocketAddr,
        timeout: Option<Duration>,
    ) -> io::Result<Self> {
        let deadline_ns = match timeout {
            Some(_) => monotonic_ns().saturating_add(nanos(timeout)?),
            None => NEVER,
        };
        let stream = Self::begin(options, remote, deadline_ns)?;
        stream.socket().wait_open(deadline_ns)?;
        Ok(stream)
    }

    /// As [`Self::open`], with `first` on the SYN as far as that can carry it, and then the rest of it.
    pub(crate) fn open_with(
        options: &Options,
        remote: SocketAddr,
        first: &[u8],
    ) -> io::Result<Self> {
        let (mut stream, taken) = Self::begin_with(options, remote, NEVER, Some(first))?;
        stream.socket().wait_open(NEVER)?;
        stream.write_all(&first[taken..])?;
        Ok(stream)
    }

    /// A connection that is yet to open: see [`Self::opened`]. Its flow is opened, until `deadline_ns`.
    pub(crate) fn begin(
        options: &Options,
        remote: SocketAddr,
        deadline_ns: u64,
    ) -> io::Result<Self> {
        Self::begin_with(options, remote, deadline_ns, None).map(|(stream, _)| stream)
    }

    /// As [`Self::begin`]; and how much of `first` the SYN carries.
    fn begin_with(
        options: &Options,
        remote: SocketAddr,
        deadline_ns: u64,
        first: Option<&[u8]>,
    ) -> io::Result<(Self, usize)> {
        let any = if remote.is_ipv4() { Sap::any_v4(0) } else { Sap::any_v6(0) };
        let local = options.local.map_or(any, Sap::from);
        let transport = Transport::Tcp;
        let ends = Endpoints { transport, local, remote: Some(remote.into()) };
        let (flow, stack) = open(options, ends, deadline_ns)?;
        let fib = *flow.fib();
        let local = SocketAddr::new(fib.source, fib.endpoints.local.port);
        let now_ns = monotonic_ns();
        let identity = secret().identity(now_ns, local, remote);
        let mut connection = Connection::connect(now_ns, config(options, &flow), identity);
        let mut on_syn: &[u8] = &[];
        if let Some(first) = first
            && let Some((opening, mss)) = fast_cache().opening(now_ns, remote.ip(), false)
        {
            connection.open_fast(opening, mss);
            let room = usize::try_from(connection.fast_room()).unwrap_or(usize::MAX);
            on_syn = &first[..first.len().min(room)];
            if on_syn.len() < first.len() {
                connection.expect_more();
            }
        }
        let service = flow.shared.service()?;
        let stream = Self::of(Socket::new(options, flow, stack, service, connection));
        // The SYN leaves.
        let taken = stream
            .socket()
            .seat
            .with(|exchange, _| exchange.socket.put_on_syn(on_syn))
            .map_err(io_error)?;
        Ok((stream, taken))
    }

    /// Whether it is open.
    ///
    /// # Errors
    ///
    /// Why it will not be.
    #[cfg(feature = "tokio")]
    pub(crate) fn opened(&self) -> io::Result<bool> {
        match self.socket().seat.with(|exchange, _| exchange.socket.opened()) {
            Ok(()) => Ok(true),
            Err(stack_socket::Error::WouldBlock) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    pub(super) fn of(socket: Arc<Socket>) -> Self {
        Self { handle: Arc::new(Handle { socket }) }
    }

    fn socket(&self) -> &Arc<Socket> {
        &self.handle.socket
    }

    /// The other end.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket().remote)
    }

    /// Our end.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket().local)
    }

    /// The flow's name, as `plumb flows` shows it.
    pub fn flow_id(&self) -> FlowId {
        self.socket().seat.shared.id()
    }

    /// The contract as admitted.
    pub fn contract(&self) -> Contract {
        let seat = &self.socket().seat;
        seat.shared.host().hear_notices();
        // What follows from it, too.
        seat.with(|_, _| ());
        seat.shared.contract()
    }

    /// Asks for another contract; it holds as soon as what was sent is paid for.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays then.
    pub fn adjust(&self, contract: Contract) -> Result<Contract, Error> {
        let seat = &self.socket().seat;
        let contract = seat.shared.adjust(contract)?;
        seat.with(|_, _| ());
        Ok(contract)
    }

    /// Another handle on the same connection.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { handle: Arc::clone(&self.handle) })
    }

    /// Closes one direction or both. Reading ends at once; what was written is still delivered.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket()
            .seat
            .with(|exchange, now_ns| exchange.socket.shut_down(now_ns, how))
            .map_err(io_error)
    }

    /// Closes the writing half and waits until the peer has everything, for `timeout` at the longest:
    /// what a process does before it ends, for its stack ends with it.
    ///
    /// # Errors
    ///
    /// `TimedOut`, or why the connection ended before.
    pub fn finish(&self, timeout: Duration) -> io::Result<()> {
        self.socket().finish(monotonic_ns().saturating_add(nanos(Some(timeout))?))
    }

    /// Sends up to `bytes` of what `file` gives, without copying them in this process: the kernel puts
    /// them where they are sent from. 0 at the end of the file. Where that waits, as a pipe does, other
    /// threads read meanwhile, and wait to write.
    ///
    /// # Errors
    ///
    /// As [`Write::write`], and what the file says.
    pub fn send_from(&self, file: impl AsFd, bytes: usize) -> io::Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        let mut room = Room::lend(self.socket(), bytes)?;
        room.fill_from(file.as_fd())?;
        room.send()
    }

    /// Receives up to `bytes` into `file`, without copying them in this process: the kernel takes them from
    /// the buffers in which they arrived. 0 at the end of the stream. Where that waits, other threads write
    /// meanwhile, and wait to read.
    ///
    /// # Errors
    ///
    /// As [`Read::read`], and what the file says.
    pub fn receive_to(&self, file: impl AsFd, bytes: usize) -> io::Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        let mut received = Received::lend(self.socket(), bytes as u64)?;
        if received.is_empty() { Ok(0) } else { received.drain_to(file.as_fd()) }
    }

    /// Room in which to write what is sent from there: the bytes are copied nowhere in this process. Waits
    /// until there is some. Dropped without [`Room::send`], what was written is forgotten. While it is lent,
    /// other writers wait: this thread must not write in another way.
    ///
    /// ```no_run
    /// use std::sync::atomic::Ordering::Relaxed;
    ///
    /// /// Sends a stream back with every bit turned over, from buffer to buffer.
    /// fn invert(stream: &plumb_net::TcpStream) -> std::io::Result<()> {
    ///     loop {
    ///         let mut received = stream.received()?;
    ///         if received.is_empty() {
    ///             return Ok(());
    ///         }
    ///         let mut room = stream.room()?;
    ///         let mut count = 0;
    ///         let from = received.cells().flatten();
    ///         for (to, from) in room.cells().into_iter().flatten().zip(from) {
    ///             to.store(!from.load(Relaxed), Relaxed);
    ///             count += 1;
    ///         }
    ///         room.advance(count);
    ///         room.send()?;
    ///         received.consume(count);
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Write::write`].
    pub fn room(&self) -> io::Result<Room<'_>> {
        Room::lend(self.socket(), usize::MAX)
    }

    /// What has arrived, where it lies; nothing at the end of the stream. Waits until there is something. What
    /// was not [consumed](Received::consume) when it is dropped is read again. While it is lent, other
    /// readers wait: this thread must not read in another way.
    ///
    /// # Errors
    ///
    /// As [`Read::read`].
    pub fn received(&self) -> io::Result<Received<'_>> {
        Received::lend(self.socket(), u64::MAX)
    }

    /// Writes what the peer should know of before it has read all that was sent before (RFC 9293 §3.8.5;
    /// RFC 6093 advises against it).
    ///
    /// # Errors
    ///
    /// As [`Write::write`].
    pub fn write_urgent(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket().write_urgent(bytes)
    }

    /// How far the stream is urgent, in bytes from the next one that will be read; a read does not pass
    /// the end of them. More than has arrived, if the peer has announced it.
    pub fn urgent_bytes(&self) -> Option<u64> {
        self.socket().seat.with(|exchange, _| exchange.socket.connection().urgent_bytes())
    }

    /// A descriptor for `poll` and `epoll` that is *readable* while [`Self::urgent_bytes`] is something:
    /// nobody has to ask (RFC 9293 MUST-32).
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn urgent_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket().seat.descriptor(|conditions| &conditions.urgent)
    }

    /// How many routers a packet may pass.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for 0 and for more than 255.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = valid_ttl(ttl)?;
        self.socket().seat.with(|exchange, _| exchange.socket.set_ttl(ttl));
        Ok(())
    }

    /// What [`Self::set_ttl`] was told.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.socket().seat.peek(|exchange| exchange.socket.ttl()).into())
    }

    /// The service class of what is sent: a code point of 0 to 63 (RFC 2474).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for more.
    pub fn set_service_class(&self, class: u8) -> io::Result<()> {
        if class > 63 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.socket().seat.with(|exchange, _| exchange.socket.set_service(class));
        Ok(())
    }

    /// What routers say of the peer, if anything: it may pass, and ends nothing.
    pub fn soft_error(&self) -> Option<io::Error> {
        let soft = self.socket().seat.with(|exchange, _| exchange.socket.connection().soft_error());
        soft.map(|error| io_error(error.into()))
    }

    /// Reads without forgetting.
    ///
    /// # Errors
    ///
    /// As [`Read::read`].
    pub fn peek(&self, out: &mut [u8]) -> io::Result<usize> {
        self.socket().peek(out)
    }

    /// Reads no longer than this; `None` for ever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket().read_timeout_ns.store(nanos(timeout)?, Ordering::Relaxed);
        Ok(())
    }

    /// What [`Self::set_read_timeout`] was told.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(duration(&self.socket().read_timeout_ns))
    }

    /// What [`Self::set_write_timeout`] was told.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(duration(&self.socket().write_timeout_ns))
    }

    /// What [`Self::set_linger`] was told.
    pub fn linger(&self) -> Option<Duration> {
        duration(&self.socket().linger_ns)
    }

    /// What [`Self::set_nodelay`] was told.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.socket().seat.peek(|exchange| exchange.socket.connection().no_delay()))
    }

    /// Writes no longer than this; `None` for ever.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket().write_timeout_ns.store(nanos(timeout)?, Ordering::Relaxed);
        Ok(())
    }

    /// Never wait: operations that would have to fail with `WouldBlock`.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket().nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Sends small segments at once, instead of waiting for answers to earlier ones (Nagle).
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.socket().seat.with(|exchange, _| exchange.socket.connection_mut().set_no_delay(on));
        Ok(())
    }

    /// Holds segments back that are not full, until this is off again.
    pub fn set_cork(&self, on: bool) {
        self.socket().seat.with(|exchange, _| exchange.socket.connection_mut().set_cork(on));
    }

    /// What dropping the last handle does with what was written and not delivered: `None` delivers it
    /// in the background, zero resets the connection, and anything else waits so long and then
    /// resets.
    pub fn set_linger(&self, linger: Option<Duration>) {
        let linger_ns = match linger {
            None => NEVER,
            Some(linger) => u64::try_from(linger.as_nanos()).unwrap_or(NEVER - 1),
        };
        self.socket().linger_ns.store(linger_ns, Ordering::Relaxed);
    }

    /// How long the connection, once closed here, waits for the peer to close, too; a minute unless this is
    /// called.
    pub fn set_fin_wait(&self, wait: Duration) {
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(NEVER - 1);
        self.socket()
            .seat
            .with(|exchange, _| exchange.socket.connection_mut().set_fin_wait_ns(wait_ns));
    }

    /// Announces no wider window than this from now on, however large the receive buffer is.
    pub fn set_window_clamp(&self, bytes: u32) {
        let clamp = bytes.into();
        self.socket()
            .seat
            .with(|exchange, _| exchange.socket.connection_mut().set_window_clamp(clamp));
    }

    /// Probes the connection when it is idle.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) {
        self.socket()
            .seat
            .with(|exchange, _| exchange.socket.connection_mut().set_keepalive(keepalive));
    }

    /// Ends the connection when data is not acknowledged for so long.
    pub fn set_user_timeout(&self, timeout: Duration) {
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(NEVER);
        self.socket()
            .seat
            .with(|exchange, _| exchange.socket.connection_mut().set_user_timeout_ns(timeout_ns));
    }

    /// A descriptor for `poll` and `epoll` that is readable while a read would not wait: there is data, the
    /// end, or an error. Wait for nothing else on it, and do not read from it.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn readable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket().seat.descriptor(|conditions| &conditions.readable)
    }

    /// A descriptor that is *readable* while a write would not wait: there is room, or an error.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn writable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket().seat.descriptor(|conditions| &conditions.writable)
    }

    /// The error that ended the connection, once.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.socket().seat.with(|exchange, _| exchange.socket.check()).err().map(io_error))
    }

    /// What the connection believes: windows, round-trip time, losses.
    pub fn info(&self) -> Info {
        self.socket().seat.with(|exchange, _| exchange.socket.connection().info())
    }

    /// What happened on it so far.
    pub fn counts(&self) -> Counts {
        self.socket().seat.with(|exchange, _| *exchange.socket.connection().counts())
    }

    /// What it did last, oldest first.
    pub fn trace(&self) -> Vec<Record> {
        self.socket()
            .seat
            .with(|exchange, _| exchange.socket.connection().trace().records().collect())
    }
}

pub(super) fn valid_ttl(ttl: u32) -> io::Result<u8> {
    u8::try_from(ttl).ok().filter(|ttl| *ttl > 0).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A time limit; none for [`NEVER`].
fn duration(limit_ns: &AtomicU64) -> Option<Duration> {
    let limit_ns = limit_ns.load(Ordering::Relaxed);
    (limit_ns != NEVER).then(|| Duration::from_nanos(limit_ns))
}

impl Read for &TcpStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.socket().read(&mut [IoSliceMut::new(out)])
    }

    fn read_vectored(&mut self, out: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.socket().read(out)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket().write(&[IoSlice::new(bytes)], false)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket().write(parts, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (&*self).read(out)
    }

    fn read_vectored(&mut self, out: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(out)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
