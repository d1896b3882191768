//! A listen socket: connections on their way in, at one address.
//!
//! A handshake that completes waits here until whoever drives the socket has had a flow for it ([`ListenSocket::pop_complete`],
//! [`ListenSocket::joined`]), and then, with that, until it is accepted ([`ListenSocket::accept`]). Its peer's segments
//! arrive here meanwhile, and are kept for it; later ones are passed on ([`ListenSocket::take_forwarded`]).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Weak;

use base_flow::Fib;
use base_wire::Mac;
use rbuf_channel::{Data, Pair, Words};
use stack_layer::{Arrived, Device, Network as _, Peer, Received};
use stack_tcp::{Config, Connection, Listener, Segment};

use crate::tcp::{STARVED_NS, TTL};
use crate::{AcceptQueue, AcceptSlot, FlowEnd, Layers, Readiness, ReopenRequest};

/// Connections whose segments are looked for at the listen socket.
const FORWARD_MAX: usize = 4096;

/// Segments that wait for a connection to be given a flow; the peer sends again what was too many.
const WAITING_SEGMENTS_MAX: usize = 64;

const NO_PAYLOAD: [Pair; 2] = [Pair { offset: 0, len: 0 }; 2];

/// A connection without a flow of its own.
#[derive(Debug)]
pub struct Complete {
    /// The connection.
    pub connection: Connection,
    /// Its peer.
    pub remote: SocketAddr,
    /// How often it could not be given a flow.
    pub refused: u8,
    mac: Mac,
    slot: AcceptSlot,
}

impl Complete {
    /// The connection is being joined with a flow, and keeps its place.
    pub fn into_parts(self) -> (Connection, AcceptSlot) {
        (self.connection, self.slot)
    }
}

/// A connection with a flow, as a listen socket knows it: to pass on what arrives in the wrong place.
pub trait Target {
    /// Tells whether the connection is still there.
    fn is_live(&self) -> bool;
}

impl<T> Target for Weak<T> {
    fn is_live(&self) -> bool {
        self.strong_count() > 0
    }
}

/// Where every connection is found by its own ends, there is nothing to pass on.
impl Target for () {
    fn is_live(&self) -> bool {
        false
    }
}

/// A connection whose segments may still arrive at the listen socket.
#[derive(Debug)]
enum Forward<T> {
    /// It is being given a flow; these wait for it.
    Opening(Vec<(Segment, Vec<u8>)>),
    To(T),
}

/// A TCP socket that listens, at one address. `A` is an accepted connection, `T` how it is found again.
#[derive(Debug)]
pub struct ListenSocket<W, D, A, T> {
    stack: Layers<W, D>,
    /// Receive data.
    rx: D,
    listener: Listener<Mac>,
    /// What connections are told that begin now.
    config: Config,
    queue: AcceptQueue,
    /// Those that have no flow of their own yet, and for which none was asked.
    complete: VecDeque<Box<Complete>>,
    /// Those that have one.
    ready: VecDeque<(A, AcceptSlot)>,
    forward: HashMap<SocketAddr, Forward<T>>,
    forwarded: Vec<(T, Segment, Vec<u8>)>,
    ttl: u8,
    /// Whether there is more to send than the driver has room for.
    starved: bool,
    /// The application has let go: who comes now is reset.
    closed: bool,
    ended: Option<FlowEnd>,
    /// Nobody is asked for a flow before, and nobody let in: there was none to be had.
    paused_until_ns: u64,
}

impl<W: Words, D: Data, A, T: Target + Clone> ListenSocket<W, D, A, T> {
    /// A socket with the layers of a wildcard flow, whose receive data area is `rx`.
    pub fn new(
        stack: Layers<W, D>,
        rx: D,
        listener: Listener<Mac>,
        config: Config,
        queue: &AcceptQueue,
    ) -> Self {
        Self {
            stack,
            rx,
            listener,
            config,
            queue: queue.clone(),
            complete: VecDeque::new(),
            ready: VecDeque::new(),
            forward: HashMap::new(),
            forwarded: Vec::new(),
            ttl: TTL,
            starved: false,
            closed: false,
            ended: None,
            paused_until_ns: 0,
        }
    }

    /// The half-open connections, to be asked.
    pub const fn listener(&self) -> &Listener<Mac> {
        &self.listener
    }

    /// The half-open connections, to be given options.
    pub const fn listener_mut(&mut self) -> &mut Listener<Mac> {
        &mut self.listener
    }

    /// The flow's channels.
    pub fn device(&mut self) -> &mut Device<W, D> {
        self.stack.device()
    }

    /// Tells connections that begin from now on something else.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
        self.listener.set_config(self.config.clone());
    }

    /// The flow goes another way.
    pub fn set_fib(&mut self, fib: &Fib) {
        self.stack.reorganise(fib);
        self.config.mtu = fib.mtu;
        self.listener.set_config(self.config.clone());
    }

    /// Sets how many more connections may be complete and not accepted.
    pub const fn set_backlog(&mut self, backlog: usize) {
        self.queue.set_backlog(backlog);
    }

    /// Sets how many routers a packet may pass.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
        self.stack.network().set_ttl(ttl);
    }

    /// How many routers a packet may pass.
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Sets the service class of what is sent: 0 to 63.
    pub fn set_service(&mut self, class: u8) {
        self.stack.network().set_service(class);
    }

    /// Nobody comes here any more.
    pub fn fail(&mut self, end: FlowEnd) {
        self.ended.get_or_insert(end);
    }

    /// Why nobody comes here any more, if so.
    pub const fn flow_end(&self) -> Option<&FlowEnd> {
        self.ended.as_ref()
    }

    /// Takes in what has arrived. `flows_left` more connections can be given flows.
    pub fn receive(&mut self, now_ns: u64, flows_left: usize) {
        loop {
            match self.stack.receive() {
                Ok(Some(Arrived::Segment(received))) => self.take(now_ns, received, flows_left),
                Ok(Some(Arrived::RouterError { to, sequence, error })) => {
                    self.listener.on_router_error(now_ns, to, sequence, error);
                }
                Ok(None) => return,
                Err(fault) => return self.fail(fault.into()),
            }
        }
    }

    fn take(&mut self, now_ns: u64, received: Received, flows_left: usize) {
        let Received { segment, from, mac, buffer, payload } = received;
        let rx = &self.rx;
        let bytes = || {
            let mut bytes = vec![0; payload.len as usize];
            rx.read(payload.offset, &mut bytes);
            bytes
        };
        match self.forward.get_mut(&from) {
            Some(Forward::Opening(waiting)) => {
                if waiting.len() < WAITING_SEGMENTS_MAX {
                    waiting.push((segment, bytes()));
                }
            }
            Some(Forward::To(target)) if target.is_live() => {
                self.forwarded.push((target.clone(), segment, bytes()));
            }
            _ => {
                let full = self.is_full(now_ns, flows_left);
                let complete = self.listener.on_segment(now_ns, (from, mac), &segment, full);
                if let Some(connection) = complete {
                    let waiting = vec![(segment, bytes())];
                    self.make_room_to_forward();
                    self.forward.insert(from, Forward::Opening(waiting));
                    let slot = self.queue.slot();
                    let complete = Complete { connection, remote: from, refused: 0, mac, slot };
                    self.complete.push_back(Box::new(complete));
                }
            }
        }
        if let Err(fault) = self.stack.release(buffer) {
            self.fail(fault.into());
        }
    }

    /// Tells whether the application has as many connections to accept as it wants, or another one would have no flow.
    pub fn is_full(&self, now_ns: u64, flows_left: usize) -> bool {
        self.queue.is_full() || now_ns < self.paused_until_ns || flows_left <= self.complete.len()
    }

    fn make_room_to_forward(&mut self) {
        if self.forward.len() >= FORWARD_MAX {
            self.forward.retain(|_, forward| match forward {
                Forward::Opening(_) => true,
                Forward::To(target) => target.is_live(),
            });
        }
    }

    /// Segments that arrived here although their connections have flows of their own.
    pub fn take_forwarded(&mut self) -> Vec<(T, Segment, Vec<u8>)> {
        std::mem::take(&mut self.forwarded)
    }

    /// A connection has a flow: its segments are for `target` from now on. Returns those that waited, to come before
    /// anything else.
    pub fn joined(&mut self, remote: SocketAddr, target: T) -> Vec<(Segment, Vec<u8>)> {
        match self.forward.insert(remote, Forward::To(target)) {
            Some(Forward::Opening(waiting)) => waiting,
            _ => Vec::new(),
        }
    }

    /// A SYN arrived where it could not be answered, for it opens a connection anew.
    pub fn reopen(&mut self, now_ns: u64, request: &ReopenRequest, flows_left: usize) {
        let ReopenRequest { syn, remote, mac, sequence_min } = request;
        let full = self.is_full(now_ns, flows_left);
        self.forward.remove(remote);
        self.listener.reopen(now_ns, (*remote, *mac), syn, full, *sequence_min);
    }

    /// Sends what there is to send. The driver is to be told ([`Device::notice`]).
    pub fn transmit(&mut self, now_ns: u64) {
        let _ = self.stack.device().reap();
        self.starved = false;
        // What there is no room for stays with the listener until the driver has sent some: who called would wait for it as
        // for something that was lost.
        loop {
            if self.stack.device().send_buffers().1 == 0 {
                self.starved = true;
                return;
            }
            let Some((address, mac, segment)) = self.listener.poll_transmit(now_ns) else { return };
            // What cannot be sent at all is asked for again.
            let _ = self.stack.send(&segment, Peer::At { address, mac }, NO_PAYLOAD, 0);
        }
    }

    /// When there is something to do although nothing arrives.
    pub fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        if self.starved {
            return Some(now_ns + STARVED_NS);
        }
        let asks_again = !self.complete.is_empty() && now_ns < self.paused_until_ns;
        let pause_ns = asks_again.then_some(self.paused_until_ns);
        self.listener.next_deadline().into_iter().chain(pause_ns).min()
    }

    /// What can be found by who calls now: [`Readiness::IN`] for somebody to accept, [`Readiness::OPEN`] for somebody
    /// who has no flow yet.
    pub fn readiness(&self) -> Readiness {
        Readiness::IN.when(!self.ready.is_empty())
            | Readiness::OPEN.when(!self.complete.is_empty())
            | Readiness::ERR.when(self.ended.is_some())
    }

    /// Connections that have a flow and were not accepted, oldest first.
    pub fn ready(&self) -> impl Iterator<Item = &A> {
        self.ready.iter().map(|(accepted, _)| accepted)
    }

    /// As [`Self::ready`], to be driven.
    pub fn ready_mut(&mut self) -> impl Iterator<Item = &mut A> {
        self.ready.iter_mut().map(|(accepted, _)| accepted)
    }

    /// The oldest connection that has a flow.
    pub fn accept(&mut self) -> Option<A> {
        self.ready.pop_front().map(|(accepted, _)| accepted)
    }

    /// A connection can be accepted; gives it back if the application has let go.
    ///
    /// # Errors
    ///
    /// The connection.
    pub fn push_ready(&mut self, accepted: A, slot: AcceptSlot) -> Result<(), A> {
        if self.closed {
            return Err(accepted);
        }
        self.ready.push_back((accepted, slot));
        Ok(())
    }

    /// When flows can be asked for again.
    pub const fn paused_until_ns(&self) -> u64 {
        self.paused_until_ns
    }

    /// Tells whether a connection waits for a flow.
    pub fn has_complete(&self) -> bool {
        !self.complete.is_empty()
    }

    /// The oldest connection without a flow, which is to be given one.
    pub fn pop_complete(&mut self) -> Option<Box<Complete>> {
        self.complete.pop_front()
    }

    /// All connections without a flow, oldest first, which are to be given one each.
    pub fn take_complete(&mut self) -> VecDeque<Box<Complete>> {
        std::mem::take(&mut self.complete)
    }

    /// There is no room for the flows of `several` now, and will be: others may have come meanwhile, and are later.
    pub fn put_back(&mut self, mut several: VecDeque<Box<Complete>>) {
        several.append(&mut self.complete);
        self.complete = several;
    }

    /// A connection could not be given a flow. `again` it waits until `paused_until_ns`, and who comes meanwhile is not
    /// answered, as where a queue is full; or else it is given back, to be reset ([`Self::turn_away`]).
    pub fn refuse(
        &mut self,
        mut complete: Box<Complete>,
        paused_until_ns: u64,
        again: bool,
    ) -> Option<Box<Complete>> {
        complete.refused += 1;
        self.paused_until_ns = paused_until_ns;
        if again && !self.closed {
            // Before those that were not asked for yet, and behind others that were refused as well.
            let before = self.complete.iter().take_while(|other| other.refused > 0).count();
            self.complete.insert(before, complete);
            return None;
        }
        Some(complete)
    }

    /// The queue at whose end connections wait.
    pub const fn queue(&self) -> &AcceptQueue {
        &self.queue
    }

    /// Resets a connection that cannot be had.
    pub fn turn_away(&mut self, now_ns: u64, complete: Box<Complete>) {
        let Complete { mut connection, remote: address, mac, .. } = *complete;
        self.forward.remove(&address);
        connection.abort(now_ns);
        while let Some(last) = connection.poll_transmit(now_ns) {
            // If there is no room, what the peer sends next is answered so.
            let _ = self.stack.send(&last.segment, Peer::At { address, mac }, NO_PAYLOAD, 0);
        }
    }

    /// The application lets go: nobody will accept. Returns connections without a flow, which are to be
    /// [turned away](Self::turn_away), and those with one.
    pub fn close(&mut self) -> (VecDeque<Box<Complete>>, Vec<A>) {
        self.closed = true;
        let ready = self.ready.drain(..).map(|(accepted, _)| accepted).collect();
        (std::mem::take(&mut self.complete), ready)
    }

    /// Tells whether the application has let go.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }
}
