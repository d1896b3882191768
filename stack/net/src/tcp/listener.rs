//! A TCP listener: a wildcard flow on which SYNs arrive, on its owner's time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use base_wire::Mac;
use rbuf_channel::{Data, Pair};
use stack_layer::{Arrived, Peer, Received};
use stack_tcp::{Config, Connection, Ecn, ListenCounts, Listener, Segment};

use super::layers::{Layers, config, device, open};
use super::readiness::Condition;
use super::seat::{NEVER, Seat, Work};
use super::secret;
use super::service::{Outcome, Served};
use super::socket::Socket;
use super::stream::TcpStream;
use crate::flow::{Changes, Flow, Reopened, Shared};
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
    seat: Seat<Entrance>,
    options: Options,
    local: SocketAddr,
    nonblocking: AtomicBool,
}

impl core::fmt::Debug for Door {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Door").field("local", &self.local).finish_non_exhaustive()
    }
}

/// A listener, its flow, and connections on their way in.
struct Entrance {
    // Dropped before the flow is closed.
    stack: Layers,
    listener: Listener<Mac>,
    /// What connections are told that begin now.
    config: Config,
    flow: Flow,
    backlog: usize,
    /// Connections whose handshake is complete, and which have no flow of their own yet.
    complete: VecDeque<Box<Complete>>,
    /// Those that have one, and that nobody has accepted.
    waiting: VecDeque<TcpStream>,
    /// Where segments go that come here although their connection is complete.
    forward: HashMap<SocketAddr, Forward>,
    failed: Option<String>,
}

/// A connection without a flow of its own.
struct Complete {
    connection: Connection,
    remote: SocketAddr,
    station: Mac,
}

/// A connection whose segments may still arrive at the listener.
enum Forward {
    /// It is being given a flow; these are waiting for it.
    Opening(Vec<(Segment, Vec<u8>)>),
    To(Weak<Socket>),
}

const NO_PAYLOAD: [Pair; 2] = [Pair { offset: 0, len: 0 }; 2];

/// Connections whose segments are looked for at the listener.
const FORWARD_MAX: usize = 4096;

/// Segments that wait for a connection to be given a flow; the peer sends again what was too many.
const OPENING_SEGMENTS_MAX: usize = 64;

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
        let own = options.clone().contract(Contract::BEST_EFFORT).send_bytes(4096);
        let (flow, stack) = open(&own, ends)?;
        let shared = Arc::clone(&flow.shared);
        let local = SocketAddr::new(local.ip(), flow.fib().endpoints.local.port);
        let config = config(options, &flow);
        let backlog = options.backlog as usize;
        let entrance = Entrance {
            stack,
            listener: Listener::new(local, config.clone(), secret().clone(), backlog),
            config,
            flow,
            backlog,
            complete: VecDeque::new(),
            waiting: VecDeque::new(),
            forward: HashMap::new(),
            failed: None,
        };
        let door = Arc::new(Door {
            seat: Seat::new(entrance, shared, options.wait)?,
            options: options.clone(),
            local,
            nonblocking: AtomicBool::new(false),
        });
        let served: Arc<dyn Served> = door.clone();
        door.seat.register(&served);
        door.seat.with(|_, _| ());
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
        self.door.seat.peek(|entrance| entrance.flow.id())
    }

    /// What happened to SYNs.
    pub fn counts(&self) -> ListenCounts {
        self.door.seat.peek(|entrance| *entrance.listener.counts())
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
        self.door.seat.descriptor(|acceptable| acceptable)
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
        self.door.seat.leave_for_good();
        let (complete, waiting) = self.door.seat.with(|entrance, _| {
            (std::mem::take(&mut entrance.complete), std::mem::take(&mut entrance.waiting))
        });
        for connection in complete {
            self.door.turn_away(connection);
        }
        for stream in waiting {
            stream.set_linger(Some(Duration::ZERO));
        }
    }
}

impl Door {
    fn accept(&self) -> io::Result<TcpStream> {
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        loop {
            let found = self.seat.wait_for(NEVER, nonblocking, |entrance, _| {
                if let Some(stream) = entrance.waiting.pop_front() {
                    return Ok(Some(Ok(stream)));
                }
                if let Some(reason) = &entrance.failed {
                    return Err(Error::Lost(reason.clone()).into());
                }
                // Giving it a flow may take a while, which is for the service thread then.
                let complete = if nonblocking { None } else { entrance.complete.pop_front() };
                Ok(complete.map(Err))
            })?;
            match found {
                Ok(stream) => return Ok(stream),
                Err(complete) => {
                    if let Some(stream) = self.give_flow(complete) {
                        return Ok(stream);
                    }
                }
            }
        }
    }

    /// Gives a connection a flow of its own. That asks the flow manager, which may have to ask the
    /// network: not under the lock.
    fn give_flow(&self, complete: Box<Complete>) -> Option<TcpStream> {
        let remote = complete.remote;
        let local = self.seat.peek(|entrance| {
            let fib = entrance.flow.fib();
            Sap::new(fib.source, fib.endpoints.local.port)
        });
        let ends = Endpoints { transport: Transport::Tcp, local, remote: Some(remote.into()) };
        let Ok((flow, stack)) = open(&self.options, ends) else {
            self.turn_away(complete);
            return None;
        };
        let opened = Socket::new(&self.options, flow, stack, complete.connection);
        let Ok(socket) = opened else {
            self.seat.with(|entrance, _| entrance.forward.remove(&remote));
            return None;
        };
        self.seat.with(|entrance, _| entrance.forward_to(remote, &socket));
        socket.seat.with(|_, _| ());
        Some(TcpStream::of(socket))
    }

    /// Resets a connection that cannot be had.
    fn turn_away(&self, complete: Box<Complete>) {
        let Complete { mut connection, remote: address, station: mac } = *complete;
        self.seat.with(|entrance, now_ns| {
            entrance.forward.remove(&address);
            connection.abort(now_ns);
            while let Some(last) = connection.poll_transmit(now_ns) {
                let peer = Peer::At { address, mac };
                // If there is no room, what the peer sends next is answered so.
                let _ = entrance.stack.send(&last.segment, peer, NO_PAYLOAD, 0);
            }
        });
    }
}

impl Served for Door {
    fn slot(&self) -> u32 {
        self.seat.slot()
    }

    fn serve(&self) -> Outcome {
        let outcome = self.seat.serve();
        // Nobody accepts at present. (Aside: who sits down lists the seat again, for ever.)
        while let Some(complete) = self.seat.aside(|entrance, _| entrance.complete.pop_front()) {
            if let Some(stream) = self.give_flow(complete) {
                self.seat.with(|entrance, _| entrance.waiting.push_back(stream));
            }
        }
        outcome
    }

    fn event_read(&self) {
        self.seat.event_read();
    }
}

impl Work for Entrance {
    /// Whether somebody can be accepted, or never will.
    type Sight = bool;
    type Conditions = Condition;

    fn layers(&mut self) -> &mut Layers {
        &mut self.stack
    }

    fn take_in(&mut self, shared: &Shared, now_ns: u64) {
        match shared.news() {
            Ok(changes) => {
                if let Some(changes) = changes {
                    self.heed(now_ns, changes);
                }
            }
            Err(error) => return self.fail(&error),
        }
        let mut forwarded = Vec::new();
        loop {
            match self.stack.receive() {
                Ok(Some(Arrived::Segment(received))) => {
                    forwarded.extend(self.arrive(shared, now_ns, received));
                }
                Ok(Some(Arrived::RouterError { to, sequence, error })) => {
                    self.listener.on_router_error(now_ns, to, sequence, error);
                }
                Ok(None) => break,
                Err(fault) => {
                    self.fail(&fault.into());
                    break;
                }
            }
        }
        // Their answers come when all have been taken in (MUST-59).
        for socket in forwarded {
            socket.seat.with(|_, _| ());
        }
    }

    fn send_out(&mut self, shared: &Shared, now_ns: u64) {
        let _ = device(&mut self.stack).reap();
        while let Some((address, mac, segment)) = self.listener.poll_transmit(now_ns) {
            // What cannot be sent now is asked for again.
            let _ = self.stack.send(&segment, Peer::At { address, mac }, NO_PAYLOAD, 0);
        }
        shared.kick(device(&mut self.stack));
    }

    fn sight(&self) -> bool {
        !self.waiting.is_empty() || !self.complete.is_empty() || self.failed.is_some()
    }

    fn due_ns(&self, _now_ns: u64) -> u64 {
        self.listener.next_deadline().unwrap_or(NEVER)
    }

    fn is_done(&self) -> bool {
        false
    }

    fn is_watched(acceptable: &Condition) -> bool {
        acceptable.is_watched()
    }

    fn show(&self, acceptable: &Condition) {
        acceptable.set(!self.waiting.is_empty() || self.failed.is_some());
    }
}

impl Entrance {
    /// The way of what is sent has changed, or a SYN has come another way.
    fn heed(&mut self, now_ns: u64, changes: Changes) {
        if let Some(fib) = changes.fib {
            self.stack.reorganise(&fib);
            self.config.mtu = fib.mtu;
            self.listener.set_config(self.config.clone());
        }
        for Reopened { remote, station, header, above } in changes.reopened {
            let full = self.is_full();
            if let Ok((_, syn, _)) = Segment::parse(&header, header.len(), Ecn::from_tos(0)) {
                self.listener.reopen(now_ns, (remote, station), &syn, full, above);
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.to_string());
    }

    /// Whether the application has as many connections to accept as it wants.
    fn is_full(&self) -> bool {
        self.waiting.len() + self.complete.len() >= self.backlog
    }

    /// Takes a segment in, and returns the connection it was passed on to, if it was.
    fn arrive(&mut self, shared: &Shared, now_ns: u64, received: Received) -> Option<Arc<Socket>> {
        let Received { segment, from, station, buffer, payload } = received;
        let bytes = || {
            let mut bytes = vec![0; payload.len as usize];
            shared.areas.1.read(payload.offset, &mut bytes);
            bytes
        };
        let mut to = None;
        match self.forward.get_mut(&from) {
            Some(Forward::Opening(segments)) if segments.len() < OPENING_SEGMENTS_MAX => {
                segments.push((segment, bytes()));
            }
            Some(Forward::To(socket)) => to = socket.upgrade(),
            _ => {}
        }
        let opening = matches!(self.forward.get(&from), Some(Forward::Opening(_)));
        if let Some(socket) = &to {
            socket.hand_over(&segment, &bytes());
        } else if !opening {
            let full = self.is_full();
            let complete = self.listener.on_segment(now_ns, (from, station), &segment, full);
            if let Some(connection) = complete {
                self.make_room_to_forward();
                self.forward.insert(from, Forward::Opening(vec![(segment, bytes())]));
                self.complete.push_back(Box::new(Complete { connection, remote: from, station }));
            }
        }
        if let Err(fault) = self.stack.release(buffer) {
            self.fail(&fault.into());
        }
        to
    }

    /// From now on segments of `remote` go to `socket`; those that waited for it first.
    fn forward_to(&mut self, remote: SocketAddr, socket: &Arc<Socket>) {
        let to = Forward::To(Arc::downgrade(socket));
        if let Some(Forward::Opening(segments)) = self.forward.insert(remote, to) {
            for (segment, bytes) in segments {
                socket.hand_over(&segment, &bytes);
            }
        }
    }

    fn make_room_to_forward(&mut self) {
        if self.forward.len() >= FORWARD_MAX {
            self.forward.retain(|_, forward| match forward {
                Forward::Opening(_) => true,
                Forward::To(socket) => socket.strong_count() > 0,
            });
        }
    }
}
