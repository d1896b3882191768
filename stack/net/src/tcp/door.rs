//! Where SYNs to one address arrive: a wildcard flow, and connections on their way in.
//!
//! A handshake that completes is given a flow of its own: by the thread that accepts, or, while none does, by
//! the service thread, which asks the flow manager and does not wait: that may have to ask the network, and
//! other connections' timers run on that thread. What the peer sends meanwhile arrives here and is kept for it.
//!
//! A listener at several addresses has a door at each. Threads accept at the *main* one only; the service
//! thread looks after the others, and brings their connections there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::Refusal;
use base_wire::Mac;
use rbuf_channel::{Data, Event, Pair};
use rbuf_shm::monotonic_ns;
use stack_layer::{Arrived, Peer, Received};
use stack_tcp::{Config, Connection, Ecn, FastOpening, ListenCounts, Listener, Segment};

use super::crowd::{Crowd, Place};
use super::exchange::{STARVED_NS, TTL};
use super::layers::{HEADERS, Layers, config, device, layers, open};
use super::readiness::Condition;
use super::seat::{NEVER, Seat, Work};
use super::secret;
use super::service::{Outcome, Served};
use super::socket::Socket;
use super::stream::TcpStream;
use crate::error::Ending;
use crate::flow::{Changes, Flow, Prepared, Reopened, Shared};
use crate::{Error, Options};

pub(super) struct Door {
    seat: Seat<Entrance>,
    options: Options,
    pub(super) local: SocketAddr,
    /// Where connections are accepted, if not here.
    main: Option<Arc<Door>>,
    this: Weak<Door>,
    knocks: Mutex<Vec<Knock>>,
    /// When a thread that accepts went away with a connection; it may be back soon.
    left_ns: AtomicU64,
    /// Whether it is of no use any more, and has said so where connections are accepted.
    gone: AtomicBool,
}

/// A SYN that opens a connection anew which its application still held, in TIME-WAIT (RFC 6191).
pub(super) struct Knock {
    pub(super) syn: Segment,
    pub(super) remote: SocketAddr,
    pub(super) station: Mac,
    /// Where the new connection's numbers begin.
    pub(super) number: u32,
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
    /// Who comes to all doors of the listener.
    crowd: Arc<Crowd>,
    /// Those that have no flow of their own yet, and for which none was asked.
    complete: VecDeque<Box<Complete>>,
    /// Those that have one.
    waiting: VecDeque<(TcpStream, Place)>,
    /// Where segments go that come here although their connection is complete.
    forward: HashMap<SocketAddr, Forward>,
    ttl: u8,
    /// Whether there is more to send than the driver has room for.
    starved: bool,
    /// The application has let go: who comes now is reset.
    closed: bool,
    failed: Option<Ending>,
    /// Whether that was told by [`Door::take_error`].
    told: bool,
    /// Doors beside this one whose connections are accepted here, and that are of use.
    others: usize,
    /// Nobody is asked for a flow before, and nobody let in: there was none to be had.
    pause_ns: u64,
}

/// A connection without a flow of its own.
struct Complete {
    connection: Connection,
    remote: SocketAddr,
    station: Mac,
    place: Place,
    /// How often it could not be given a flow.
    refused: u8,
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

/// How soon a thread that has accepted is expected to accept again. Until then it is left to open flows, which
/// takes no other thread's help.
const BACK_NS: u64 = 1_000_000;

/// How often a flow is asked for in vain before the connection is reset, and the pause between: five seconds in
/// all.
const REFUSED_MAX: u8 = 50;
const PAUSE_NS: u64 = 100_000_000;

/// Receive buffers, unless told otherwise: the SYN, the ACK and the request of everybody who calls come here, as many
/// at once as call while no thread of the process has the processor.
const BUFFERS: u32 = 512;

/// How soon to look again whether there is room for a flow, while others are being closed.
const ROOM_NS: u64 = 1_000_000;

impl Door {
    /// A door at `local`; with `main`, connections are accepted there.
    pub(super) fn open(
        options: &Options,
        local: SocketAddr,
        crowd: &Arc<Crowd>,
        main: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Error> {
        let ends = Endpoints { transport: Transport::Tcp, local: Sap::from(local), remote: None };
        // The listener's own packets need no contract and no room for payload.
        let own = options.clone().contract(Contract::BEST_EFFORT).send_bytes(4096);
        let own = own.or_receive_buffers(BUFFERS);
        let (flow, stack) = open(&own, ends, NEVER)?;
        let shared = Arc::clone(&flow.shared);
        let local = SocketAddr::new(local.ip(), flow.fib().endpoints.local.port);
        let config = config(options, &flow);
        let backlog = options.backlog as usize;
        let mut listener = Listener::new(local, config.clone(), secret().clone(), backlog);
        let pending_max = options.fast_open as usize;
        let opening = FastOpening { pending_max, needs_cookie: true };
        listener.set_fast_open(Some(opening).filter(|_| pending_max > 0), None);
        let defer_ns = u64::try_from(options.defer_accept.as_nanos()).unwrap_or(NEVER);
        listener.set_defer_ns(defer_ns);
        let entrance = Entrance {
            stack,
            listener,
            config,
            flow,
            backlog,
            crowd: Arc::clone(crowd),
            complete: VecDeque::new(),
            waiting: VecDeque::new(),
            forward: HashMap::new(),
            ttl: TTL,
            starved: false,
            closed: false,
            failed: None,
            told: false,
            others: 0,
            pause_ns: 0,
        };
        let service = shared.service().map_err(Error::Thread)?;
        let seat = Seat::new(entrance, shared, service, options.wait);
        let (options, main) = (options.clone(), main.cloned());
        let door = Arc::new_cyclic(|this| {
            let (this, knocks) = (Weak::clone(this), Mutex::default());
            let (gone, left_ns) = (AtomicBool::new(false), AtomicU64::new(0));
            Self { seat, options, local, main, this, knocks, gone, left_ns }
        });
        if let Some(main) = &door.main {
            main.seat.with(|entrance, _| entrance.others += 1);
        }
        let served: Arc<dyn Served> = door.clone();
        door.seat.register(&served);
        door.seat.with(|_, _| ());
        Ok(door)
    }

    pub(super) fn flow_id(&self) -> FlowId {
        self.seat.shared.id()
    }

    pub(super) fn counts(&self) -> ListenCounts {
        self.seat.peek(|entrance| *entrance.listener.counts())
    }

    pub(super) fn set_ttl(&self, ttl: u8) {
        self.seat.with(|entrance, _| {
            entrance.ttl = ttl;
            entrance.stack.lower().set_ttl(ttl);
        });
    }

    pub(super) fn ttl(&self) -> u8 {
        self.seat.peek(|entrance| entrance.ttl)
    }

    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.seat.with(|entrance, _| {
            let ending = entrance.failed.clone().filter(|_| !entrance.told)?;
            entrance.told = true;
            Some(ending.into())
        })
    }

    pub(super) fn acceptable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.seat.descriptor(|acceptable| acceptable)
    }

    /// The application has let go of the listener: nobody will accept.
    pub(super) fn close(&self) {
        self.seat.leave_for_good(std::ptr::from_ref(self).cast());
        let (complete, waiting) = self.seat.with(|entrance, _| {
            entrance.closed = true;
            (std::mem::take(&mut entrance.complete), std::mem::take(&mut entrance.waiting))
        });
        complete.into_iter().for_each(|complete| self.turn_away(complete));
        waiting.into_iter().for_each(|(stream, _)| reset(stream));
    }

    pub(super) fn accept(&self, nonblocking: bool) -> io::Result<TcpStream> {
        let accepted = self.take(nonblocking)?;
        // Who watches comes back when there is something to see.
        if !nonblocking && !self.seat.is_watched() {
            self.left_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
        Ok(accepted)
    }

    /// Whoever accepts gives one connection a flow himself, and has flows asked for for those behind it meanwhile:
    /// otherwise each would wait for the answers of all before.
    fn take(&self, nonblocking: bool) -> io::Result<TcpStream> {
        let host = self.seat.shared.host();
        loop {
            if host.is_opening() {
                host.hear_notices();
            }
            let found = self.seat.wait_for(NEVER, nonblocking, |entrance, now_ns| {
                if let Some((stream, _)) = entrance.waiting.pop_front() {
                    return Ok(Some(Ok(stream)));
                }
                if let Some(ending) = entrance.ending() {
                    return Err(ending.clone().into());
                }
                // Giving it a flow may take a while, which is for the service thread then.
                let complete = match now_ns < entrance.pause_ns {
                    false if !nonblocking => entrance.complete.pop_front(),
                    _ => None,
                };
                let others = complete.is_some().then(|| std::mem::take(&mut entrance.complete));
                Ok(complete.zip(others).map(Err))
            })?;
            match found {
                Ok(stream) => return Ok(stream),
                Err((complete, others)) => {
                    self.give_flows_later(others);
                    if let Some((stream, _)) = self.give_flow(complete) {
                        return Ok(stream);
                    }
                }
            }
        }
    }

    /// What the flow of a connection to `remote` is between.
    fn ends(&self, remote: SocketAddr) -> Endpoints {
        let local = self.seat.peek(|entrance| {
            let fib = entrance.flow.fib();
            Sap::new(fib.source, fib.endpoints.local.port)
        });
        Endpoints { transport: Transport::Tcp, local, remote: Some(remote.into()) }
    }

    /// Gives a connection a flow of its own. That asks the flow manager, which may have to ask the
    /// network: not under the lock.
    fn give_flow(&self, complete: Box<Complete>) -> Option<(TcpStream, Place)> {
        match open(&self.options, self.ends(complete.remote), NEVER) {
            Ok((flow, stack)) => self.join(complete, flow, stack),
            Err(error) => {
                self.refuse(complete, &error);
                None
            }
        }
    }

    /// As [`Self::give_flow`], but whoever reads the flow manager's answer brings the connection in. Gives it
    /// back if there is no room now, and will be.
    fn give_flow_later(&self, complete: Box<Complete>) -> Result<(), Box<Complete>> {
        let Some(door) = self.this.upgrade() else { return Ok(()) };
        let (host, ends) = (self.seat.shared.host(), self.ends(complete.remote));
        match Prepared::now(host, &self.options, ends, HEADERS) {
            Ok(Some(prepared)) => {
                prepared.open_later(move |opened| door.opened(complete, opened));
            }
            Ok(None) => return Err(complete),
            Err(error) => door.opened(complete, Err(error)),
        }
        Ok(())
    }

    /// As [`Self::give_flow_later`], for several. Those for which there is no room now wait.
    fn give_flows_later(&self, mut several: VecDeque<Box<Complete>>) {
        while let Some(complete) = several.pop_front() {
            if let Err(complete) = self.give_flow_later(complete) {
                several.push_front(complete);
                return self.seat.aside(|entrance, _| {
                    // Others may have come meanwhile, and are later.
                    several.append(&mut entrance.complete);
                    entrance.complete = several;
                });
            }
        }
    }

    /// What was asked for by [`Self::give_flow_later`] is here, or is not to be had.
    fn opened(self: Arc<Self>, complete: Box<Complete>, opened: Result<Flow, Error>) {
        let formed = opened.and_then(|mut flow| layers(&mut flow).map(|stack| (flow, stack)));
        match formed {
            Ok((flow, stack)) => {
                if let Some((stream, place)) = self.join(complete, flow, stack) {
                    self.bring_in(stream, place);
                }
            }
            // On a link that this process has not joined yet, which waits.
            Err(Error::Refused(Refusal::OtherLink { .. } | Refusal::NotJoined { .. })) => {
                // Here too, should there be no thread for it.
                let complete = Arc::new(Mutex::new(Some(complete)));
                let (door, theirs) = (Arc::clone(&self), Arc::clone(&complete));
                let joins = move || {
                    if let Some(complete) =
                        theirs.lock().unwrap_or_else(PoisonError::into_inner).take()
                        && let Some((stream, place)) = door.give_flow(complete)
                    {
                        door.bring_in(stream, place);
                    }
                };
                let started = std::thread::Builder::new().name("plumb-join".into()).spawn(joins);
                if let Err(error) = started
                    && let Some(complete) =
                        complete.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    self.refuse(complete, &Error::Thread(error));
                }
            }
            Err(error) => self.refuse(complete, &error),
        }
    }

    /// Joins a connection with its flow. What came here meanwhile goes to it first.
    fn join(
        &self,
        complete: Box<Complete>,
        flow: Flow,
        stack: Layers,
    ) -> Option<(TcpStream, Place)> {
        let service = match flow.shared.service() {
            Ok(service) => service,
            Err(error) => {
                drop((stack, flow));
                self.refuse(complete, &Error::Thread(error));
                return None;
            }
        };
        let Complete { connection, remote, place, .. } = *complete;
        let socket = Socket::new(&self.options, flow, stack, service, connection);
        self.seat.with(|entrance, _| {
            let ttl = entrance.ttl;
            socket.seat.aside(|exchange, _| {
                exchange.set_ttl(ttl);
                exchange.door = Weak::clone(&self.this);
            });
            entrance.forward_to(remote, &socket);
        });
        socket.seat.with(|_, _| ());
        Some((TcpStream::of(socket), place))
    }

    /// A connection is to be accepted.
    fn bring_in(&self, stream: TcpStream, place: Place) {
        let main = self.main.as_deref().unwrap_or(self);
        let late = main.seat.with(|entrance, _| {
            if entrance.closed {
                return Some(stream);
            }
            entrance.waiting.push_back((stream, place));
            None
        });
        late.into_iter().for_each(reset);
    }

    /// A connection cannot be given a flow. If one may be had later it waits, and who comes meanwhile is not
    /// answered, as where a queue is full; or else it is reset. The reason is kept.
    fn refuse(&self, mut complete: Box<Complete>, error: &Error) {
        complete.refused += 1;
        let may_pass = matches!(
            error,
            Error::TimedOut
                | Error::Memory(_)
                | Error::Thread(_)
                | Error::Refused(Refusal::Quota(_))
        );
        let again = may_pass && complete.refused < REFUSED_MAX;
        let left = self.seat.with(|entrance, now_ns| {
            entrance.pause_ns = now_ns + if may_pass { PAUSE_NS } else { 0 };
            if again && !entrance.closed {
                // Before those that were not asked for yet, and behind others that were refused as well.
                let before = entrance.complete.iter().take_while(|other| other.refused > 0).count();
                entrance.complete.insert(before, complete);
                return None;
            }
            entrance.crowd.turn_away(error);
            Some(complete)
        });
        left.into_iter().for_each(|complete| self.turn_away(complete));
    }

    /// Resets a connection that cannot be had.
    fn turn_away(&self, complete: Box<Complete>) {
        let Complete { mut connection, remote: address, station: mac, .. } = *complete;
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

    /// A SYN arrived where it could not be answered; taken in by the service thread, for whoever says so holds
    /// another lock.
    pub(super) fn knock(&self, knock: Knock) {
        self.knocks().push(knock);
        self.seat.list();
    }

    fn knocks(&self) -> MutexGuard<'_, Vec<Knock>> {
        self.knocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_knocks(&self) {
        let knocks = std::mem::take(&mut *self.knocks());
        if knocks.is_empty() {
            return;
        }
        self.seat.with(|entrance, now_ns| {
            knocks.into_iter().for_each(|knock| entrance.reopen(now_ns, knock));
        });
    }

    /// A door that is of no use any more is one less of those at which connections are accepted.
    fn pass_failure_on(&self) {
        let Some(main) = &self.main else { return };
        let failed = || self.seat.peek(|entrance| entrance.failed.is_some());
        if !self.gone.load(Ordering::Relaxed)
            && failed()
            && !self.gone.swap(true, Ordering::Relaxed)
        {
            main.seat.with(|entrance, _| entrance.others -= 1);
        }
    }
}

/// Lets go of a connection that nobody accepts.
fn reset(stream: TcpStream) {
    stream.set_linger(Some(Duration::ZERO));
}

impl Served for Door {
    fn slot(&self) -> u32 {
        self.seat.slot()
    }

    fn serve(&self) -> Outcome {
        self.answer_knocks();
        let outcome = self.seat.serve();
        self.pass_failure_on();
        let Outcome::Until(due_ns) = outcome else { return outcome };
        let by =
            |at_ns: u64| Outcome::Until(Some(due_ns.map_or(at_ns, |due_ns| due_ns.min(at_ns))));
        // Who sleeps here takes what is complete, and so does who comes back.
        while !self.seat.is_attended() {
            let back_ns = self.left_ns.load(Ordering::Relaxed).saturating_add(BACK_NS);
            if monotonic_ns() < back_ns {
                return if self.seat.peek(|entrance| entrance.complete.is_empty()) {
                    outcome
                } else {
                    by(back_ns)
                };
            }
            let (pause_ns, now_ns) = (self.seat.peek(|entrance| entrance.pause_ns), monotonic_ns());
            if now_ns < pause_ns {
                return by(pause_ns);
            }
            // Aside: who sits down lists the seat again, for ever.
            let first = self.seat.aside(|entrance, _| entrance.complete.pop_front());
            let Some(complete) = first else { break };
            if let Err(complete) = self.give_flow_later(complete) {
                self.seat.aside(|entrance, _| entrance.complete.push_front(complete));
                // Who came meanwhile has not seen it.
                self.seat.shared.call();
                return by(monotonic_ns() + ROOM_NS);
            }
        }
        outcome
    }

    fn event_read(&self, event: Event) {
        self.seat.event_read(event);
    }
}

impl Work for Entrance {
    /// Whether somebody can be accepted, or never will.
    type Sight = bool;
    type Conditions = Condition;

    fn layers(&mut self) -> Option<&mut Layers> {
        Some(&mut self.stack)
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
        self.starved = false;
        // What there is no room for stays with the listener until the driver has sent some: who called would
        // wait for it as for something that was lost.
        loop {
            if device(&mut self.stack).send_buffers().1 == 0 {
                self.starved = true;
                break;
            }
            let Some((address, mac, segment)) = self.listener.poll_transmit(now_ns) else { break };
            // What cannot be sent at all is asked for again.
            let _ = self.stack.send(&segment, Peer::At { address, mac }, NO_PAYLOAD, 0);
        }
        shared.kick(device(&mut self.stack));
    }

    fn sight(&self) -> bool {
        !self.waiting.is_empty() || !self.complete.is_empty() || self.ending().is_some()
    }

    fn due_ns(&self, now_ns: u64) -> u64 {
        let listener_ns = self.listener.next_deadline().unwrap_or(NEVER);
        if self.starved {
            return now_ns + STARVED_NS;
        }
        let asks_again = !self.complete.is_empty() && now_ns < self.pause_ns;
        if asks_again { listener_ns.min(self.pause_ns) } else { listener_ns }
    }

    fn is_done(&self) -> bool {
        false
    }

    fn is_watched(acceptable: &Condition) -> bool {
        acceptable.is_watched()
    }

    fn show(&self, acceptable: &Condition) {
        acceptable.set(!self.waiting.is_empty() || self.ending().is_some());
    }
}

impl Entrance {
    /// The way of what is sent has changed, or a SYN has come another way.
    fn heed(&mut self, now_ns: u64, changes: Changes) {
        if changes.is_orphaned {
            // Nobody gives connections their flows.
            self.fail(&Error::FlowManagerGone);
        }
        if let Some(fib) = changes.fib {
            self.stack.reorganise(&fib);
            self.config.mtu = fib.mtu;
            self.listener.set_config(self.config.clone());
        }
        for Reopened { remote, station, header, above } in changes.reopened {
            if let Ok((_, syn, _)) = Segment::parse(&header, header.len(), Ecn::from_tos(0)) {
                self.reopen(now_ns, Knock { syn, remote, station, number: above });
            }
        }
    }

    fn reopen(&mut self, now_ns: u64, knock: Knock) {
        let Knock { syn, remote, station, number } = knock;
        let full = self.is_full(now_ns);
        self.forward.remove(&remote);
        self.listener.reopen(now_ns, (remote, station), &syn, full, number);
    }

    /// Why nobody comes here any more, nor at the doors for which connections are accepted here.
    fn ending(&self) -> Option<&Ending> {
        self.failed.as_ref().filter(|_| self.others == 0)
    }

    fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.into());
    }

    /// Whether the application has as many connections to accept as it wants, or another one would have no flow.
    fn is_full(&self, now_ns: u64) -> bool {
        self.crowd.waiting() >= self.backlog
            || now_ns < self.pause_ns
            || self.flow.shared.slots_left() <= self.complete.len()
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
            let full = self.is_full(now_ns);
            let complete = self.listener.on_segment(now_ns, (from, station), &segment, full);
            if let Some(connection) = complete {
                self.make_room_to_forward();
                self.forward.insert(from, Forward::Opening(vec![(segment, bytes())]));
                let place = self.crowd.admit();
                let complete = Complete { connection, remote: from, station, place, refused: 0 };
                self.complete.push_back(Box::new(complete));
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
