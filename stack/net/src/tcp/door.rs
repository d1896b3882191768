//! Where SYNs to one address arrive: a wildcard flow, and connections on their way in.
//!
//! A handshake that completes is given a flow of its own: by the thread that accepts, or, while none does, by
//! the service thread, which asks the flow manager and does not wait: that may have to ask the network, and
//! other connections' timers run on that thread. What the peer sends meanwhile arrives here and is kept for it.
//!
//! A listener at several addresses has a door at each. Threads accept at the *main* one only; the service
//! thread looks after the others, and brings their connections there.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::Refusal;
use rbuf_channel::Event;
use rbuf_shm::{ShmData, ShmWords, monotonic_ns};
use stack_socket::{AcceptQueue, AcceptSlot, Complete, FlowEnd, Readiness, ReopenRequest};
use stack_tcp::{Ecn, FastOpening, ListenCounts, Listener, Segment};

use super::layers::{HEADERS, Layers, config, layers, open};
use super::readiness::Condition;
use super::seat::{NEVER, Seat, Work};
use super::secret;
use super::service::{Outcome, Served};
use super::socket::Socket;
use super::stream::TcpStream;
use crate::flow::{Changes, Flow, FlowDevice, Prepared, Reopened, Shared};
use crate::{Error, Options};

pub(super) struct Door {
    seat: Seat<Entrance>,
    options: Options,
    pub(super) local: SocketAddr,
    /// Where connections are accepted, if not here.
    main: Option<Arc<Door>>,
    this: Weak<Door>,
    knocks: Mutex<Vec<ReopenRequest>>,
    /// When a thread that accepts went away with a connection; it may be back soon.
    left_ns: AtomicU64,
    /// Whether it is of no use any more, and has said so where connections are accepted.
    gone: AtomicBool,
}

impl core::fmt::Debug for Door {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Door").field("local", &self.local).finish_non_exhaustive()
    }
}

type ListenSocket = stack_socket::ListenSocket<ShmWords, ShmData, TcpStream, Weak<Socket>>;

/// A listen socket and its flow.
struct Entrance {
    // Dropped before the flow is closed.
    socket: ListenSocket,
    flow: Flow,
    /// Doors beside this one whose connections are accepted here, and that are of use.
    others: usize,
    /// Whether that was told by [`Door::take_error`].
    told: bool,
}

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
        queue: &AcceptQueue,
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
        let rx = shared.areas.1.clone();
        let socket = ListenSocket::new(stack, rx, listener, config, queue);
        let entrance = Entrance { socket, flow, others: 0, told: false };
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
        self.seat.peek(|entrance| *entrance.socket.listener().counts())
    }

    pub(super) fn set_ttl(&self, ttl: u8) {
        self.seat.with(|entrance, _| entrance.socket.set_ttl(ttl));
    }

    pub(super) fn ttl(&self) -> u8 {
        self.seat.peek(|entrance| entrance.socket.ttl())
    }

    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.seat.with(|entrance, _| {
            let end = entrance.socket.flow_end().filter(|_| !entrance.told)?.clone();
            entrance.told = true;
            Some(Error::from(end).into())
        })
    }

    pub(super) fn acceptable_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.seat.descriptor(|acceptable| acceptable)
    }

    /// The application has let go of the listener: nobody will accept.
    pub(super) fn close(&self) {
        self.seat.leave_for_good(std::ptr::from_ref(self).cast());
        let (complete, ready) = self.seat.with(|entrance, _| entrance.socket.close());
        complete.into_iter().for_each(|complete| self.turn_away(complete));
        ready.into_iter().for_each(reset);
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
                if let Some(stream) = entrance.socket.accept() {
                    return Ok(Ok(stream));
                }
                if let Some(ending) = entrance.ending() {
                    return Err(ending.clone().into());
                }
                // Giving it a flow may take a while, which is for the service thread then.
                let complete = match now_ns < entrance.socket.paused_until_ns() {
                    false if !nonblocking => entrance.socket.pop_complete(),
                    _ => None,
                };
                let complete = complete.ok_or(stack_socket::Error::WouldBlock)?;
                Ok(Err((complete, entrance.socket.take_complete())))
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
    fn give_flow(&self, complete: Box<Complete>) -> Option<(TcpStream, AcceptSlot)> {
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
                return self.seat.aside(|entrance, _| entrance.socket.put_back(several));
            }
        }
    }

    /// What was asked for by [`Self::give_flow_later`] is here, or is not to be had.
    fn opened(self: Arc<Self>, complete: Box<Complete>, opened: Result<Flow, Error>) {
        let formed = opened.and_then(|mut flow| layers(&mut flow).map(|stack| (flow, stack)));
        match formed {
            Ok((flow, stack)) => {
                if let Some((stream, slot)) = self.join(complete, flow, stack) {
                    self.bring_in(stream, slot);
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
                        && let Some((stream, slot)) = door.give_flow(complete)
                    {
                        door.bring_in(stream, slot);
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
    ) -> Option<(TcpStream, AcceptSlot)> {
        let service = match flow.shared.service() {
            Ok(service) => service,
            Err(error) => {
                drop((stack, flow));
                self.refuse(complete, &Error::Thread(error));
                return None;
            }
        };
        let remote = complete.remote;
        let (connection, slot) = complete.into_parts();
        let socket = Socket::new(&self.options, flow, stack, service, connection);
        self.seat.with(|entrance, _| {
            let ttl = entrance.socket.ttl();
            socket.seat.aside(|exchange, _| {
                exchange.socket.set_ttl(ttl);
                exchange.door = Weak::clone(&self.this);
            });
            for (segment, bytes) in entrance.socket.joined(remote, Arc::downgrade(&socket)) {
                socket.hand_over(&segment, &bytes);
            }
        });
        socket.seat.with(|_, _| ());
        Some((TcpStream::of(socket), slot))
    }

    /// A connection is to be accepted.
    fn bring_in(&self, stream: TcpStream, slot: AcceptSlot) {
        let main = self.main.as_deref().unwrap_or(self);
        if let Err(late) = main.seat.with(|entrance, _| entrance.socket.push_ready(stream, slot)) {
            reset(late);
        }
    }

    /// A connection cannot be given a flow. If one may be had later it waits, and who comes meanwhile is not
    /// answered, as where a queue is full; or else it is reset. The reason is kept.
    fn refuse(&self, complete: Box<Complete>, error: &Error) {
        let may_pass = matches!(
            error,
            Error::TimedOut
                | Error::Memory(_)
                | Error::Thread(_)
                | Error::Refused(Refusal::Quota(_))
        );
        let again = may_pass && complete.refused + 1 < REFUSED_MAX;
        let left = self.seat.with(|entrance, now_ns| {
            let pause_ns = if may_pass { PAUSE_NS } else { 0 };
            let left = entrance.socket.refuse(complete, now_ns + pause_ns, again)?;
            entrance.socket.queue().turn_away(error);
            Some(left)
        });
        left.into_iter().for_each(|complete| self.turn_away(complete));
    }

    /// Resets a connection that cannot be had.
    fn turn_away(&self, complete: Box<Complete>) {
        self.seat.with(|entrance, now_ns| entrance.socket.turn_away(now_ns, complete));
    }

    /// A SYN arrived where it could not be answered; taken in by the service thread, for whoever says so holds
    /// another lock.
    pub(super) fn knock(&self, knock: ReopenRequest) {
        self.knocks().push(knock);
        self.seat.list();
    }

    fn knocks(&self) -> MutexGuard<'_, Vec<ReopenRequest>> {
        self.knocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer_knocks(&self) {
        let knocks = std::mem::take(&mut *self.knocks());
        if knocks.is_empty() {
            return;
        }
        self.seat.with(|entrance, now_ns| {
            knocks.iter().for_each(|request| entrance.reopen(now_ns, request));
        });
    }

    /// A door that is of no use any more is one less of those at which connections are accepted.
    fn pass_failure_on(&self) {
        let Some(main) = &self.main else { return };
        let failed = || self.seat.peek(|entrance| entrance.socket.flow_end().is_some());
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
                return if self.seat.peek(|entrance| entrance.socket.has_complete()) {
                    by(back_ns)
                } else {
                    outcome
                };
            }
            let (pause_ns, now_ns) =
                (self.seat.peek(|entrance| entrance.socket.paused_until_ns()), monotonic_ns());
            if now_ns < pause_ns {
                return by(pause_ns);
            }
            // Aside: who sits down lists the seat again, for ever.
            let first = self.seat.aside(|entrance, _| entrance.socket.pop_complete());
            let Some(complete) = first else { break };
            if let Err(complete) = self.give_flow_later(complete) {
                self.seat.aside(|entrance, _| entrance.socket.put_back([complete].into()));
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
    type Sight = Readiness;
    type Conditions = Condition;

    fn device(&mut self) -> Option<&mut FlowDevice> {
        Some(self.socket.device())
    }

    fn take_in(&mut self, shared: &Shared, now_ns: u64) {
        match shared.news() {
            Ok(changes) => {
                if let Some(changes) = changes {
                    self.heed(now_ns, changes);
                }
            }
            Err(error) => return self.socket.fail(FlowEnd::from(&error)),
        }
        self.socket.receive(now_ns, shared.slots_left());
        let forwarded = self.socket.take_forwarded();
        for (socket, segment, bytes) in &forwarded {
            if let Some(socket) = socket.upgrade() {
                socket.hand_over(segment, bytes);
            }
        }
        // Their answers come when all have been taken in (MUST-59).
        for (socket, ..) in forwarded {
            if let Some(socket) = socket.upgrade() {
                socket.seat.with(|_, _| ());
            }
        }
    }

    fn send_out(&mut self, shared: &Shared, now_ns: u64) {
        self.socket.transmit(now_ns);
        shared.kick(self.socket.device());
    }

    fn sight(&self) -> Readiness {
        let ended = self.ending().is_some();
        self.socket.readiness() | Readiness::IN.when(ended)
    }

    fn due_ns(&self, now_ns: u64) -> u64 {
        self.socket.next_deadline(now_ns).unwrap_or(NEVER)
    }

    fn is_done(&self) -> bool {
        false
    }

    fn is_watched(acceptable: &Condition) -> bool {
        acceptable.is_watched()
    }

    fn show(&self, acceptable: &Condition) {
        acceptable.set(self.sight().has(Readiness::IN));
    }
}

impl Entrance {
    /// The way of what is sent has changed, or a SYN has come another way.
    fn heed(&mut self, now_ns: u64, changes: Changes) {
        if changes.is_orphaned {
            // Nobody gives connections their flows.
            self.socket.fail(FlowEnd::FlowManagerGone);
        }
        if let Some(fib) = changes.fib {
            self.socket.set_fib(&fib);
        }
        for Reopened { remote, station: mac, header, above: sequence_min } in changes.reopened {
            if let Ok((_, syn, _)) = Segment::parse(&header, header.len(), Ecn::from_tos(0)) {
                self.reopen(now_ns, &ReopenRequest { syn, remote, mac, sequence_min });
            }
        }
    }

    fn reopen(&mut self, now_ns: u64, request: &ReopenRequest) {
        self.socket.reopen(now_ns, request, self.flow.shared.slots_left());
    }

    /// Why nobody comes here any more, nor at the doors for which connections are accepted here.
    fn ending(&self) -> Option<&FlowEnd> {
        self.socket.flow_end().filter(|_| self.others == 0)
    }
}
