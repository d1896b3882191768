//! Sending: which way, how much, and what waits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base_rpc::{Reply, Request};
use base_wire::{IPV4_BYTES, UDP_BYTES};
use rbuf_shm::monotonic_ns;
use stack_layer::{Control, ControlError, Peer, SendError};

use super::door::{Desk, Door, Side};
use super::hops::{HOP_NS, Look, Waiting, Way};
use super::waiting::deadline;
use super::{Inner, SendBuffer, lock};
use crate::Error;
use crate::host::unexpected;

/// How long a call that may wait waits to hear that no way leads to a host: the flow manager knows that at once.
/// The neighbour is not waited for.
pub(super) const KNOWN_NS: u64 = 100_000_000;

/// Payload of a datagram in a packet of `mtu` bytes.
fn payload_bytes(mtu: u16) -> usize {
    usize::from(mtu).saturating_sub(IPV4_BYTES + UDP_BYTES)
}

/// How a datagram gets to a host.
enum Passage {
    /// By a flow that is with this host, and knows the next hop.
    Direct(Arc<Door>),
    /// Along the way that leads there.
    Ways,
    /// Not before the flows are turned.
    Held,
}

impl Inner {
    pub(super) fn send(this: &Arc<Self>, payload: &[u8]) -> Result<usize, Error> {
        let remote = this.doors().remote().ok_or(SendError::NoDestination)?;
        Self::send_along(this, payload, remote)
    }

    pub(super) fn send_to(
        this: &Arc<Self>,
        payload: &[u8],
        to: SocketAddr,
    ) -> Result<usize, Error> {
        match this.doors().remote() {
            Some(remote) if remote != to => Err(SendError::OtherDestination.into()),
            _ => Self::send_along(this, payload, to),
        }
    }

    fn send_along(this: &Arc<Self>, payload: &[u8], to: SocketAddr) -> Result<usize, Error> {
        let deadline_ns = this.send_deadline_ns();
        loop {
            let sent = match this.passage(to)? {
                Passage::Direct(door) => {
                    let buffer = this.buffer(&door, to, Peer::Connected, deadline_ns, true)?;
                    this.write(buffer, payload)
                }
                Passage::Ways => Self::pass(this, payload, to, deadline_ns, true),
                Passage::Held => {
                    this.hear_troubles()?;
                    this.fits(payload, to)?;
                    if Self::hold(this, Waiting { to, payload: payload.to_vec() })? {
                        return Ok(payload.len());
                    }
                    if monotonic_ns() >= deadline_ns {
                        return Err(Error::WouldBlock);
                    }
                    this.await_room(deadline_ns);
                    continue;
                }
            };
            // If not, the flow was turned in the middle of it.
            if sent? {
                return Ok(payload.len());
            }
        }
    }

    /// How a datagram gets to a host now.
    fn passage(self: &Arc<Self>, to: SocketAddr) -> Result<Passage, Error> {
        if lock(&self.hops).is_holding() {
            return Ok(Passage::Held);
        }
        if let Some(door) = self.direct(to) {
            return Ok(Passage::Direct(door));
        }
        if self.admits(to) {
            return Ok(Passage::Ways);
        }
        self.insist()?;
        Ok(Passage::Held)
    }

    /// Whether there is a flow by which datagrams can be sent to a host now.
    pub(super) fn admits(&self, to: SocketAddr) -> bool {
        self.doors().all().iter().any(|door| door.desk().admits(to))
    }

    /// The door whose flow is with a host and knows the next hop, unless what waits for the way would be overtaken.
    fn direct(&self, to: SocketAddr) -> Option<Arc<Door>> {
        let doors = self.doors();
        let is_direct = doors.main().desk().is_direct(to);
        (is_direct && !lock(&self.hops).waits_for(to.ip())).then(|| Arc::clone(doors.main()))
    }

    pub(super) fn connected_buffer(this: &Arc<Self>) -> Result<SendBuffer<'_>, Error> {
        let to = this.doors().remote().ok_or(SendError::NoDestination)?;
        let deadline_ns = this.send_deadline_ns();
        loop {
            match this.passage(to)? {
                Passage::Direct(door) => {
                    return this.buffer(&door, to, Peer::Connected, deadline_ns, true);
                }
                Passage::Ways => {
                    this.hear_troubles()?;
                    if let Some((mac, link)) = Self::way(this, to, deadline_ns)? {
                        let (doors, peer) = (this.doors(), Peer::At { address: to, mac });
                        return this.buffer(doors.door_to(to, link)?, to, peer, deadline_ns, true);
                    }
                    Self::call_courier(this)?;
                    this.await_move(deadline_ns);
                }
                Passage::Held => {
                    this.hear_troubles()?;
                    Self::call_turner(this)?;
                    this.await_turned(deadline_ns);
                    this.await_held(deadline_ns);
                }
            }
            if monotonic_ns() >= deadline_ns {
                return Err(Error::WouldBlock);
            }
        }
    }

    /// The way to a host; `None` if it is not known yet.
    fn way(this: &Arc<Self>, to: SocketAddr, deadline_ns: u64) -> Result<Option<Way>, Error> {
        let look = lock(&this.hops).look_up(to.ip(), monotonic_ns());
        match look {
            Look::Known(way) => Ok(Some(way)),
            Look::Refused(refusal) => Err(refusal.into()),
            Look::Unknown => {
                this.ask(to, deadline_ns)?;
                Ok(None)
            }
            Look::Asked | Look::Full => Ok(None),
        }
    }

    /// Hears at once if no way leads to a host. The neighbour is not waited for.
    pub(super) fn know_way(self: &Arc<Self>, to: SocketAddr) -> Result<(), Error> {
        let deadline_ns = self.send_deadline_ns().min(monotonic_ns() + KNOWN_NS);
        Self::way(self, to, deadline_ns)?;
        match lock(&self.hops).look_up(to.ip(), monotonic_ns()) {
            Look::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    fn send_deadline_ns(&self) -> u64 {
        match self.nonblocking.load(Ordering::Relaxed) {
            true => 0,
            false => deadline(&self.write_timeout_ns),
        }
    }

    /// Sends to a host that a flow admits along the way that leads there, or lets the datagram wait for it; `false` if
    /// no flow admits it any more.
    pub(super) fn pass(
        this: &Arc<Self>,
        payload: &[u8],
        to: SocketAddr,
        deadline_ns: u64,
        is_call: bool,
    ) -> Result<bool, Error> {
        if is_call && this.doors().remote().is_some() {
            this.hear_troubles()?;
        }
        let doors = this.doors();
        loop {
            let mut hops = lock(&this.hops);
            match hops.look_up(to.ip(), monotonic_ns()) {
                Look::Known((mac, link)) => {
                    drop(hops);
                    let (door, peer) = (doors.door_to(to, link)?, Peer::At { address: to, mac });
                    let buffer = this.buffer(door, to, peer, deadline_ns, is_call)?;
                    return this.write(buffer, payload);
                }
                Look::Asked => {
                    drop(hops);
                    this.fits(payload, to)?;
                    let datagram = Waiting { to, payload: payload.to_vec() };
                    if lock(&this.hops).wait(datagram) {
                        Self::call_courier(this)?;
                        return Ok(true);
                    }
                }
                Look::Refused(refusal) => return Err(refusal.into()),
                Look::Full => {
                    let now_ns = monotonic_ns();
                    if now_ns >= deadline_ns {
                        return Err(Error::WouldBlock);
                    }
                    drop(hops);
                    Self::call_courier(this)?;
                    this.await_move(deadline_ns);
                }
                Look::Unknown => {
                    drop(hops);
                    this.ask(to, deadline_ns)?;
                }
            }
        }
    }

    /// Whether a datagram that is to wait could be sent as it is.
    fn fits(&self, payload: &[u8], to: SocketAddr) -> Result<(), Error> {
        let max = self.doors().all().iter().map(|door| door.payload_bytes_max()).min();
        let (bytes, max) = (payload.len(), max.unwrap_or(0).min(self.path_payload(to)));
        if bytes > max { Err(SendError::TooLong { bytes, max }.into()) } else { Ok(()) }
    }

    /// Asks for the way to a host; whoever reads the answer heeds it, if that is not this thread.
    fn ask(self: &Arc<Self>, to: SocketAddr, deadline_ns: u64) -> Result<(), Error> {
        let remote = to.ip();
        let (weak, host) = (Arc::downgrade(self), self.host.clone());
        let late = move |reply| {
            if let Some(inner) = weak.upgrade() {
                inner.settle(remote, reply);
            }
        };
        let request = Request::Resolve { remote };
        let until_ns = deadline_ns.min(monotonic_ns() + KNOWN_NS);
        let reply = match deadline_ns {
            0 if host.is_gone() => Err(Error::FlowManagerGone),
            0 => {
                host.call_later(request, late);
                return Ok(());
            }
            _ => host.call_until(request, until_ns, late),
        };
        match reply {
            // The datagram waits for it.
            Err(Error::TimedOut) => Ok(()),
            Ok(Reply::Resolved { .. }) | Err(Error::Refused(_)) => {
                self.settle(remote, reply);
                Ok(())
            }
            reply => {
                self.settle(remote, Err(Error::FlowManagerGone));
                Err(reply.map_or_else(|error| error, |reply| unexpected(&reply)))
            }
        }
    }

    /// The flow manager has said which way leads to a host.
    pub(super) fn settle(&self, to: IpAddr, reply: Result<Reply, Error>) {
        let now_ns = monotonic_ns();
        let lost = match reply {
            Ok(Reply::Resolved { mac, link, path_mtu, .. }) => {
                self.learn_path(to, path_mtu, HOP_NS);
                lock(&self.hops).settle(to, Ok((mac, link)), now_ns)
            }
            Err(Error::Refused(refusal)) => lock(&self.hops).settle(to, Err(refusal), now_ns),
            // It cannot say.
            _ => lock(&self.hops).forget(to),
        };
        self.mourn(lost);
        self.moved.notify_all();
    }

    /// What is known already of the path to a host.
    pub(super) fn learn_path(&self, to: IpAddr, path_mtu: Option<u16>, lasts_ns: u64) {
        if let Some(mtu) = path_mtu {
            lock(&self.troubles).learn(to, mtu, monotonic_ns(), lasts_ns);
            self.is_troubled.store(true, Ordering::Release);
        }
    }

    /// Datagrams to these were accepted and are not sent.
    pub(super) fn mourn(&self, lost: Vec<SocketAddr>) {
        for to in lost {
            self.tell_lost(to, ControlError::HostUnreachable);
        }
    }

    /// A datagram was accepted and is not sent, for this reason.
    pub(super) fn tell_lost(&self, to: SocketAddr, error: ControlError) {
        let from = self.doors().main().desk().fib().source;
        lock(&self.troubles).keep(Control { to, from, error });
    }

    /// What the path to a host carries, if it is too little for so much payload.
    pub(super) fn too_narrow(&self, to: SocketAddr, bytes: usize) -> Option<u16> {
        let mtu = lock(&self.troubles).path(to.ip(), monotonic_ns())?;
        (payload_bytes(mtu) < bytes).then_some(mtu)
    }

    /// Most payload that the path to a host carries.
    pub(super) fn path_payload(&self, to: SocketAddr) -> usize {
        if !self.is_troubled.load(Ordering::Acquire) {
            return usize::MAX;
        }
        let path = lock(&self.troubles).path(to.ip(), monotonic_ns());
        path.map_or(usize::MAX, payload_bytes)
    }

    /// A buffer for a datagram to a host; errors that the next call is to return are for `is_call` only.
    fn buffer(
        &self,
        door: &Arc<Door>,
        to: SocketAddr,
        peer: Peer,
        deadline_ns: u64,
        is_call: bool,
    ) -> Result<SendBuffer<'_>, Error> {
        let packet =
            self.wait_until(Side::Send, Some(door), deadline_ns, is_call, |_, desk: &mut Desk| {
                desk.packet()
            })?;
        Ok(SendBuffer::new(self, Arc::clone(door), packet, to, peer))
    }

    /// As [`Self::buffer`], for what was accepted.
    pub(super) fn late_buffer(
        &self,
        door: &Arc<Door>,
        to: SocketAddr,
        peer: Peer,
        deadline_ns: u64,
    ) -> Result<SendBuffer<'_>, Error> {
        self.buffer(door, to, peer, deadline_ns, false)
    }

    fn write(&self, mut buffer: SendBuffer<'_>, payload: &[u8]) -> Result<bool, Error> {
        if payload.len() > buffer.room() {
            // The link may carry more by now.
            self.host.hear_notices();
            buffer.hear()?;
        }
        let max = buffer.room();
        if !buffer.write(payload) {
            return Err(SendError::TooLong { bytes: payload.len(), max }.into());
        }
        buffer.leave()
    }
}
