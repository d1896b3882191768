//! UDP sockets.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId};
use base_wire::Mac;
use rbuf_channel::Wait;
use rbuf_shm::{ShmData, ShmWords, monotonic_ns};
use stack_layer::{Ether, Incoming, Layer, Outgoing, Peer};

use crate::flow::{Flow, FlowDevice, Shared};
use crate::options::first;
use crate::{Error, Options};

type Stack = stack_layer::Udp<Ether<FlowDevice>>;

/// How long a sleeper waits before it asks whether the flow manager has news.
const NEWS_NS: u64 = 500_000_000;

/// How long the way to a host is believed before it is asked for again.
const HOP_NS: u64 = 30_000_000_000;

/// A UDP socket with its own stack, its own buffers and its own contract.
///
/// The methods are those of `std::net::UdpSocket`, and it can be used from several threads.
/// Dropping it closes the flow.
#[derive(Debug)]
pub struct Udp {
    state: Mutex<State>,
    shared: Arc<Shared>,
    wait: Wait,
    nonblocking: AtomicBool,
    read_timeout_ns: AtomicU64,
    write_timeout_ns: AtomicU64,
}

#[derive(Debug)]
struct State {
    // Dropped before the flow is closed.
    stack: Stack,
    flow: Flow,
    hops: HashMap<std::net::IpAddr, (Mac, u64)>,
    /// Threads that sleep, by [`Side`].
    sleepers: [u32; 2],
    damaged: u64,
    rejected: u64,
}

/// For ever.
const NEVER: u64 = u64::MAX;

impl Udp {
    /// Options for a socket: contract, buffers, waiting.
    pub fn options() -> Options {
        Options::new()
    }

    /// A best-effort socket that receives from anyone at `local`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn bind(local: impl ToSocketAddrs) -> Result<Self, Error> {
        Options::new().bind(local)
    }

    pub(crate) fn open(options: &Options, endpoints: Endpoints) -> Result<Self, Error> {
        let mut flow = options.open(endpoints)?;
        let stack = build(&mut flow)?;
        Ok(Self {
            shared: Arc::clone(&flow.shared),
            state: Mutex::new(State {
                stack,
                flow,
                hops: HashMap::new(),
                sleepers: [0; 2],
                damaged: 0,
                rejected: 0,
            }),
            wait: options.wait,
            nonblocking: AtomicBool::new(false),
            read_timeout_ns: AtomicU64::new(NEVER),
            write_timeout_ns: AtomicU64::new(NEVER),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flow's name, as `plumb flows` shows it.
    pub fn flow_id(&self) -> FlowId {
        self.state().flow.id()
    }

    /// How packets are formatted.
    pub fn fib(&self) -> Fib {
        *self.state().flow.fib()
    }

    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        self.state().flow.fib().endpoints.local.into()
    }

    /// The other end, if the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let remote = self.state().flow.fib().endpoints.remote;
        remote.map(SocketAddr::from).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The contract as admitted.
    pub fn contract(&self) -> Contract {
        self.shared.host().hear_notices();
        self.shared.contract()
    }

    /// Asks for another contract; it holds from the next period on.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the present contract stays then.
    pub fn adjust(&self, contract: Contract) -> Result<Contract, Error> {
        self.shared.adjust(contract)
    }

    /// Connects the socket to `remote`, or to another one: from now on packets go there and come
    /// only from there.
    ///
    /// # Errors
    ///
    /// What the flow manager says; the socket is of no use then.
    pub fn connect(&self, remote: impl ToSocketAddrs) -> Result<(), Error> {
        let remote = first(remote)?;
        let state = &mut *self.state();
        let endpoints = Endpoints { remote: Some(remote.into()), ..state.flow.fib().endpoints };
        let fib = *state.flow.attach(endpoints)?;
        state.stack.reconnect(&fib)?;
        Ok(())
    }

    /// Never wait: operations that would have to fail with `WouldBlock`.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// Waits for packets no longer than this; `None` for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.read_timeout_ns.store(nanos(timeout), Ordering::Relaxed);
    }

    /// Waits for buffers no longer than this; `None` for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout_ns.store(nanos(timeout), Ordering::Relaxed);
    }

    /// Largest payload of a datagram.
    pub fn payload_bytes_max(&self) -> usize {
        self.state().stack.payload_bytes_max()
    }

    /// Received packets that were damaged or not for us, and sent ones that the driver refused.
    pub fn errors(&self) -> (u64, u64) {
        let state = self.state();
        (state.damaged + state.stack.damaged(), state.rejected)
    }

    /// Sends a datagram to whom the socket is connected.
    ///
    /// # Errors
    ///
    /// `NotConnected` if it is not; `InvalidInput` if the datagram is too long for what the link carries
    /// now; `WouldBlock` if there is no buffer and waiting is not wanted; `NotConnected` if the flow was
    /// lost. A datagram that is sent before this socket has heard of a smaller link is dropped by the
    /// driver, and counted by [`Self::errors`].
    pub fn send(&self, payload: &[u8]) -> io::Result<usize> {
        self.send_with(payload, Peer::Connected)
    }

    /// Sends a datagram to `destination`.
    ///
    /// # Errors
    ///
    /// As [`Self::send`]; also if no way leads to there.
    pub fn send_to(&self, payload: &[u8], destination: impl ToSocketAddrs) -> io::Result<usize> {
        let address = first(destination)?;
        let peer = self.peer(address)?;
        self.send_with(payload, peer)
    }

    /// The station through which `address` is reached.
    fn peer(&self, address: SocketAddr) -> Result<Peer, Error> {
        let now = monotonic_ns();
        {
            let state = self.state();
            if let Some(remote) = state.flow.fib().endpoints.remote {
                let same = SocketAddr::from(remote) == address;
                return if same {
                    Ok(Peer::Connected)
                } else {
                    Err(stack_layer::SendError::OtherDestination.into())
                };
            }
            if let Some(&(mac, until)) = state.hops.get(&address.ip())
                && now < until
            {
                return Ok(Peer::At { address, mac });
            }
        }
        let (mac, _) = self.shared.host().resolve(address.ip())?;
        let mut state = self.state();
        if state.hops.len() >= 1024 {
            state.hops.clear();
        }
        state.hops.insert(address.ip(), (mac, now + HOP_NS));
        Ok(Peer::At { address, mac })
    }

    fn send_with(&self, payload: &[u8], peer: Peer) -> io::Result<usize> {
        let mut buffer = self.buffer_for(peer)?;
        if payload.len() > buffer.room() {
            // The link may carry more by now.
            self.shared.host().hear_notices();
            self.state().hear(&self.shared)?;
        }
        let max = buffer.room();
        if !buffer.write(payload) {
            return Err(
                Error::from(stack_layer::SendError::TooLong { bytes: payload.len(), max }).into()
            );
        }
        buffer.send()?;
        Ok(payload.len())
    }

    /// A buffer in which to write a datagram where it will be sent from, for a connected socket.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn buffer(&self) -> io::Result<SendBuffer<'_>> {
        Ok(self.buffer_for(Peer::Connected)?)
    }

    fn buffer_for(&self, peer: Peer) -> Result<SendBuffer<'_>, Error> {
        let mut packet = self.wait_for(Side::Send, |state| Ok(state.stack.packet()?))?;
        packet.set_destination(peer);
        Ok(SendBuffer { socket: self, packet: Some(packet) })
    }

    /// Receives a datagram; what does not fit into `out` is lost.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none comes in time; `NotConnected` if the flow was lost.
    pub fn recv_from(&self, out: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let mut datagram = self.datagram()?;
            match datagram.read(out) {
                Some(bytes) => return Ok((bytes, datagram.from())),
                // Damaged: as if it had never come.
                None => self.state().damaged += 1,
            }
        }
    }

    /// Receives a datagram from whom the socket is connected to.
    ///
    /// # Errors
    ///
    /// As [`Self::recv_from`].
    pub fn recv(&self, out: &mut [u8]) -> io::Result<usize> {
        self.recv_from(out).map(|(bytes, _)| bytes)
    }

    /// Receives a datagram where the driver put it; its buffer is given back when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::recv_from`].
    pub fn datagram(&self) -> io::Result<Datagram<'_>> {
        Ok(self.next_datagram()?)
    }

    fn next_datagram(&self) -> Result<Datagram<'_>, Error> {
        let packet = self.wait_for(Side::Receive, |state| Ok(state.stack.receive()?))?;
        Ok(Datagram { socket: self, packet: Some(packet) })
    }

    /// Looks until there is what `look` looks for, then sleeps between looks.
    fn wait_for<T>(
        &self,
        side: Side,
        look: impl Fn(&mut State) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let (timeout_ns, words) = match side {
            Side::Send => (&self.write_timeout_ns, &self.shared.tx_words),
            Side::Receive => (&self.read_timeout_ns, &self.shared.rx_words),
        };
        let deadline = self.deadline(timeout_ns);
        let mut looks = Looks::new(self.wait);
        loop {
            let mut state = self.state();
            let call = self.shared.calls();
            state.hear(&self.shared)?;
            if let Some(found) = look(&mut state)? {
                return Ok(found);
            }
            // What was looked through may be what the driver waits for.
            state.kick(&self.shared);
            if self.nonblocking.load(Ordering::Relaxed) {
                return Err(Error::WouldBlock);
            }
            if looks.again() {
                if looks.is_time_to_hear() && !self.hear_spinning(deadline) {
                    return Err(Error::WouldBlock);
                }
                continue;
            }
            let Some(seen) = state.fall_asleep(side)? else { continue };
            drop(state);
            let slept = self.sleep(words, seen, call, deadline);
            self.state().wake_up(side);
            if !slept {
                return Err(Error::WouldBlock);
            }
        }
    }

    /// Sleeps on the driver's count of published words, unless called; `false` if `deadline` has passed.
    fn sleep(&self, words: &ShmWords, seen: u64, call: u32, deadline: u64) -> bool {
        let until = deadline.min(monotonic_ns().saturating_add(NEWS_NS));
        let woken = self.shared.sleep(words, seen, call, until);
        if !woken {
            self.shared.host().hear_notices();
        }
        woken || monotonic_ns() < deadline
    }

    /// What a sleeper does when it wakes, for one that never sleeps; `false` if `deadline` has
    /// passed.
    fn hear_spinning(&self, deadline: u64) -> bool {
        self.shared.host().hear_notices();
        monotonic_ns() < deadline
    }

    fn deadline(&self, timeout_ns: &AtomicU64) -> u64 {
        match timeout_ns.load(Ordering::Relaxed) {
            NEVER => NEVER,
            timeout => monotonic_ns().saturating_add(timeout),
        }
    }

    /// Closes the socket and returns what its flow used altogether.
    ///
    /// # Errors
    ///
    /// [`Error::FlowManagerGone`].
    pub fn close(self) -> Result<Bill, Error> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).flow.close()
    }
}

fn nanos(timeout: Option<Duration>) -> u64 {
    timeout.map_or(NEVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - 1))
}

fn build(flow: &mut Flow) -> Result<Stack, Error> {
    let fib = *flow.fib();
    let device =
        flow.take_device().ok_or_else(|| Error::Protocol("the flow has a stack already".into()))?;
    stack_layer::Udp::new(Ether::new(device, &fib), &fib)
        .ok_or_else(|| Error::Address("only IPv4 has a UDP layer yet".into()))
}

/// The layers of a UDP stack, from above.
trait UdpStack {
    fn device(&mut self) -> &mut FlowDevice;
    fn reconnect(&mut self, fib: &Fib) -> Result<(), Error>;
}

impl UdpStack for Stack {
    fn device(&mut self) -> &mut FlowDevice {
        self.lower().lower().lower()
    }

    fn reconnect(&mut self, fib: &Fib) -> Result<(), Error> {
        if self.set_endpoints(fib) {
            Ok(())
        } else {
            Err(Error::Address("only IPv4 has a UDP layer yet".into()))
        }
    }
}

/// What a thread waits for: buffers to send, or datagrams.
#[derive(Debug, Clone, Copy)]
enum Side {
    Send,
    Receive,
}

impl State {
    /// Hears of what the flow manager has changed.
    fn hear(&mut self, shared: &Shared) -> Result<(), Error> {
        let rejected = self.stack.device().rejected();
        if rejected != self.rejected {
            // Refused packets may mean that the way has changed: ask now, not later.
            self.rejected = rejected;
            shared.host().hear_notices();
        }
        if let Some(fib) = shared.news()?.and_then(|changes| changes.fib) {
            self.stack.reorganise(&fib);
        }
        Ok(())
    }

    fn kick(&mut self, shared: &Shared) {
        shared.kick(self.stack.device());
    }

    /// Announces to the driver that a thread is about to sleep; the count it has seen, or `None` if
    /// there is something by now.
    fn fall_asleep(&mut self, side: Side) -> Result<Option<u64>, Error> {
        let device = self.stack.device();
        let seen = match side {
            // Until half of the buffers are back, not until one is: fewer wake-ups.
            Side::Send => {
                let (total, _) = device.send_buffers();
                device.tx().await_published((total as u64).max(2))?
            }
            Side::Receive => device.rx().await_published(1)?,
        };
        self.sleepers[side as usize] += u32::from(seen.is_some());
        Ok(seen)
    }

    /// A thread has slept; the last one says so to the driver.
    fn wake_up(&mut self, side: Side) {
        self.sleepers[side as usize] -= 1;
        if self.sleepers[side as usize] == 0 {
            let device = self.stack.device();
            match side {
                Side::Send => device.tx().awake(),
                Side::Receive => device.rx().awake(),
            }
        }
    }
}

/// So many looks a socket that never sleeps makes between a system call and the next.
const LOOKS_DEAF: u32 = 1 << 14;

/// Counts looks: those left before sleeping or, if it never sleeps, those made.
struct Looks {
    left: u32,
    endless: bool,
}

impl Looks {
    const fn new(wait: Wait) -> Self {
        match wait {
            Wait::Spin => Self { left: 0, endless: true },
            Wait::Block => Self { left: 0, endless: false },
            Wait::Adaptive { spins } => Self { left: spins, endless: false },
        }
    }

    fn again(&mut self) -> bool {
        std::hint::spin_loop();
        if self.endless {
            self.left = self.left.wrapping_add(1);
            return true;
        }
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }

    /// Whether an endless look is to see what time it is and what the flow manager says.
    const fn is_time_to_hear(&self) -> bool {
        self.endless && self.left.is_multiple_of(LOOKS_DEAF)
    }
}

/// A datagram under construction, in the memory it will be sent from.
#[derive(Debug)]
pub struct SendBuffer<'a> {
    socket: &'a Udp,
    packet: Option<Outgoing<ShmData>>,
}

impl SendBuffer<'_> {
    /// Payload bytes that still fit.
    pub fn room(&self) -> usize {
        let written = self.packet.as_ref().map_or(0, Outgoing::len);
        self.socket.payload_bytes_max().saturating_sub(written)
    }

    /// Appends payload; `false`, and nothing appended, if it does not fit.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        bytes.len() <= self.room() && self.packet.as_mut().is_some_and(|packet| packet.write(bytes))
    }

    /// Sends the datagram.
    ///
    /// # Errors
    ///
    /// As [`Udp::send`].
    pub fn send(mut self) -> io::Result<()> {
        let Some(packet) = self.packet.take() else { return Ok(()) };
        let mut state = self.socket.state();
        state.stack.send(packet).map_err(Error::from)?;
        state.kick(&self.socket.shared);
        Ok(())
    }
}

impl Drop for SendBuffer<'_> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let _ = self.socket.state().stack.discard(packet);
        }
    }
}

impl io::Write for SendBuffer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(self.room())];
        if Self::write(self, bytes) { Ok(bytes.len()) } else { Ok(0) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A received datagram, where the driver put it.
#[derive(Debug)]
pub struct Datagram<'a> {
    socket: &'a Udp,
    packet: Option<Incoming<ShmData>>,
}

impl Datagram<'_> {
    /// Payload bytes.
    pub fn len(&self) -> usize {
        self.packet.as_ref().map_or(0, Incoming::len)
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who sent it.
    pub fn from(&self) -> SocketAddr {
        let from = self.packet.as_ref().and_then(Incoming::from);
        from.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Copies the payload to the front of `out`, as much as fits, and returns how much that was.
    /// `None` if the datagram is damaged.
    pub fn read(&mut self, out: &mut [u8]) -> Option<usize> {
        self.packet.as_ref()?.read(out)
    }
}

impl Drop for Datagram<'_> {
    fn drop(&mut self) {
        if let Some(packet) = self.packet.take() {
            let mut state = self.socket.state();
            // A fault shows at the next operation.
            let _ = state.stack.give_back(packet);
        }
    }
}
