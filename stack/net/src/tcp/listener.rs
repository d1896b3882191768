//! A TCP listener: a wildcard flow on which SYNs arrive, on its owner's time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use base_flow::{Endpoints, FlowId, Sap, Transport};
use base_wire::Mac;
use rbuf_channel::{Data, Pair, Park};
use rbuf_shm::{Futex, monotonic_ns};
use stack_layer::{Arrived, Peer, Received};
use stack_tcp::{Connection, ListenCounts, Listener};

use super::layers::{Layers, config, device, open};
use super::readiness::Condition;
use super::secret;
use super::service::{Outcome, Served, Service};
use super::socket::{NEVER, Socket};
use super::stream::TcpStream;
use crate::flow::{Flow, Shared};
use crate::{Error, Options};

/// Listens for TCP connections. The methods are those of `std::net::TcpListener`.
///
/// SYNs are taken by the thread that accepts, or by the service thread of this process while none
/// does, and never by anybody else: who floods this service with them hurts nobody but it.
/// Dropping the listener resets connections that were not accepted.
#[derive(Debug)]
pub struct TcpListener {
    door: Arc<Door>,
}

/// Connections of a listener, one after the other.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

struct Door {
    state: Mutex<State>,
    shared: Arc<Shared>,
    service: Arc<Service>,
    slot: u32,
    options: Options,
    local: SocketAddr,
    nonblocking: AtomicBool,
    listed: AtomicBool,
    acceptable: Condition,
}

impl core::fmt::Debug for Door {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Door").field("local", &self.local).finish_non_exhaustive()
    }
}

struct State {
    // Dropped before the flow is closed.
    stack: Layers,
    listener: Listener<Mac>,
    flow: Flow,
    /// Connections that nobody has accepted yet.
    waiting: VecDeque<TcpStream>,
    /// Accepted ones, whose first segments may still come here.
    handed: HashMap<SocketAddr, Weak<Socket>>,
    /// Connections that could not be given a flow.
    refused: u64,
    failed: Option<String>,
    sleepers: u32,
    armed: bool,
}

const NO_PAYLOAD: [Pair; 2] = [Pair { offset: 0, len: 0 }; 2];

/// Connections whose first segments are looked for at the listener.
const HANDED_MAX: usize = 4096;

impl TcpListener {
    /// A listener at `local`, whose connections have no contract.
    ///
    /// # Errors
    ///
    /// What the flow manager says: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`.
    pub fn bind(local: impl ToSocketAddrs) -> io::Result<Self> {
        Options::new().listen(local)
    }

    pub(crate) fn open(options: &Options, local: SocketAddr) -> io::Result<Self> {
        let ends = Endpoints { transport: Transport::Tcp, local: Sap::from(local), remote: None };
        // The listener's own packets need no contract and no room for payload.
        let own = options.clone().contract(base_flow::Contract::BEST_EFFORT).send_bytes(4096);
        let (flow, stack) = open(&own, ends)?;
        let shared = Arc::clone(&flow.shared);
        let service = shared.service()?;
        let local = SocketAddr::new(local.ip(), flow.fib().endpoints.local.port);
        let config = config(options, &flow);
        let backlog = options.backlog as usize;
        let listener = Listener::new(local, config, secret().clone(), backlog);
        let door = Arc::new(Door {
            slot: shared.slot(),
            state: Mutex::new(State {
                stack,
                listener,
                flow,
                waiting: VecDeque::new(),
                handed: HashMap::new(),
                refused: 0,
                failed: None,
                sleepers: 0,
                armed: false,
            }),
            shared,
            service,
            options: options.clone(),
            local,
            nonblocking: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            acceptable: Condition::default(),
        });
        let served: Arc<dyn Served> = door.clone();
        door.service.add(&served);
        let state = door.lock();
        door.leave(state);
        Ok(Self { door })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.door.local)
    }

    /// The name of the flow on which SYNs arrive.
    pub fn flow_id(&self) -> FlowId {
        self.door.lock().flow.id()
    }

    /// What happened to SYNs.
    pub fn counts(&self) -> ListenCounts {
        *self.door.lock().listener.counts()
    }

    /// Never wait: [`Self::accept`] fails with `WouldBlock` if nobody waits.
    ///
    /// # Errors
    ///
    /// Never; `std` says it may.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.door.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// A descriptor for `poll` and `epoll` that is readable while [`Self::accept`] would not wait.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn acceptable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.door.acceptable.descriptor()?;
        let state = self.door.lock();
        self.door.leave(state);
        self.door.acceptable.descriptor()
    }

    /// The next connection, and who it is with.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or `NotConnected` if the flow was lost.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let stream = self.door.accept()?;
        let remote = stream.peer_addr()?;
        Ok((stream, remote))
    }

    /// Accepts for ever.
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.door.service.remove(self.door.slot);
        let waiting = std::mem::take(&mut self.door.lock().waiting);
        for stream in waiting {
            stream.set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, mut state: MutexGuard<'_, State>) {
        self.signal(&mut state);
        drop(state);
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.service.list(self.slot);
        }
    }

    /// Shows whether somebody waits to be accepted, to whoever watches that.
    fn signal(&self, state: &mut State) {
        if self.acceptable.is_watched() {
            state.arm(self);
            self.acceptable.set(!state.waiting.is_empty() || state.failed.is_some());
        }
    }

    fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let mut state = self.lock();
            let now_ns = monotonic_ns();
            state.work(self, now_ns);
            if let Some(stream) = state.waiting.pop_front() {
                self.leave(state);
                return Ok(stream);
            }
            if let Some(reason) = &state.failed {
                return Err(Error::Lost(reason.clone()).into());
            }
            if self.nonblocking.load(Ordering::Relaxed) {
                self.leave(state);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let seen = device(&mut state.stack).rx().await_published(1);
            let Ok(Some(seen)) = seen else { continue };
            state.sleepers += 1;
            let until_ns = state.listener.next_deadline().unwrap_or(NEVER).min(now_ns + NEWS_NS);
            drop(state);
            if !Futex::until(until_ns).sleep(&self.shared.rx_words[0], seen) {
                self.shared.host().hear_notices();
            }
            let mut state = self.lock();
            state.sleepers -= 1;
            if state.sleepers == 0 {
                device(&mut state.stack).rx().awake();
            }
        }
    }
}

/// How long a sleeper waits before it asks whether the flow manager has news.
const NEWS_NS: u64 = 500_000_000;

impl Served for Door {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn serve(&self) -> Outcome {
        self.listed.store(false, Ordering::Release);
        let mut state = self.lock();
        if state.sleepers > 0 {
            return Outcome::Until(None);
        }
        let now_ns = monotonic_ns();
        state.work(self, now_ns);
        state.arm(self);
        self.signal(&mut state);
        Outcome::Until(state.listener.next_deadline())
    }

    fn event_read(&self) {
        self.lock().armed = false;
    }
}

impl State {
    /// Asks the driver for an event when something arrives; what came before that is taken in.
    fn arm(&mut self, door: &Door) {
        if self.armed {
            return;
        }
        self.armed = true;
        if device(&mut self.stack).rx().arm() != Ok(false) {
            self.work(door, monotonic_ns());
        }
    }

    /// Takes in what has arrived, and sends what follows from it.
    fn work(&mut self, door: &Door, now_ns: u64) {
        match door.shared.news() {
            Ok(Some(fib)) => self.stack.reorganise(&fib),
            Ok(None) => {}
            Err(error) => {
                self.failed.get_or_insert_with(|| error.to_string());
                return;
            }
        }
        let mut handed_over = Vec::new();
        loop {
            match self.stack.receive() {
                Ok(Some(Arrived::Segment(received))) => {
                    handed_over.extend(self.arrive(door, now_ns, received));
                }
                Ok(Some(Arrived::RouterError { to, sequence, error })) => {
                    self.listener.on_router_error(now_ns, to, sequence, error);
                }
                Ok(None) => break,
                Err(fault) => {
                    self.failed.get_or_insert_with(|| fault.to_string());
                    return;
                }
            }
        }
        for socket in handed_over {
            socket.answer();
        }
        let _ = device(&mut self.stack).reap();
        while let Some((address, mac, segment)) = self.listener.poll_transmit(now_ns) {
            // What cannot be sent now is asked for again.
            let _ = self.stack.send(&segment, Peer::At { address, mac }, NO_PAYLOAD, 0);
        }
        door.shared.kick(device(&mut self.stack));
    }

    /// Takes a segment in, and returns the accepted connection that it is for, which is to answer
    /// when all have been taken in (MUST-59).
    fn arrive(&mut self, door: &Door, now_ns: u64, received: Received) -> Option<Arc<Socket>> {
        let Received { segment, from, station, buffer, payload } = received;
        let full = self.waiting.len() >= door.options.backlog as usize;
        // Segments that were on their way here when their connection was given its own flow.
        let known = self.handed.get(&from).and_then(Weak::upgrade);
        let connection = match &known {
            Some(_) => None,
            None => self.listener.on_segment(now_ns, (from, station), &segment, full),
        };
        let fresh = connection.and_then(|connection| self.open(door, from, connection));
        let socket = known.or(fresh);
        if let Some(socket) = &socket {
            let mut bytes = vec![0; payload.len as usize];
            door.shared.areas.1.read(payload.offset, &mut bytes);
            socket.hand_over(&segment, &bytes);
        }
        if let Err(fault) = self.stack.release(buffer) {
            self.failed.get_or_insert_with(|| fault.to_string());
        }
        socket
    }

    /// Gives a connection a flow of its own.
    fn open(
        &mut self,
        door: &Door,
        remote: SocketAddr,
        connection: Connection,
    ) -> Option<Arc<Socket>> {
        let fib = self.flow.fib();
        let local = Sap::new(fib.source, fib.endpoints.local.port);
        let ends = Endpoints { transport: Transport::Tcp, local, remote: Some(remote.into()) };
        let opened = open(&door.options, ends)
            .map_err(io::Error::from)
            .and_then(|(flow, stack)| Socket::new(&door.options, flow, stack, connection));
        let Ok(socket) = opened else {
            self.refused += 1;
            return None;
        };
        if self.handed.len() >= HANDED_MAX {
            self.handed.retain(|_, socket| socket.strong_count() > 0);
        }
        self.handed.insert(remote, Arc::downgrade(&socket));
        self.waiting.push_back(TcpStream::of(Arc::clone(&socket)));
        Some(socket)
    }
}
