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
const KNOWN_NS: u64 = 100_000_000;

/// Payload of a datagram in a packet of `mtu` bytes.
fn payload_bytes(mtu: u16) -> usize {
    usize::from(mtu).saturating_sub(IPV4_BYTES + UDP_BYTES)
}

impl Inner {
    pub(super) fn send(this: &Arc<Self>, payload: &[u8]) -> Result<usize, Error> {
        match this.doors().chosen() {
            Some(remote) => {
                this.hear_troubles()?;
                Self::send_along(this, payload, remote)
            }
            None => this.write(Self::connected_buffer(this)?, payload),
        }
    }

    pub(super) fn connected_buffer(this: &Arc<Self>) -> Result<SendBuffer<'_>, Error> {
        let doors = this.doors();
        let Some(to) = doors.chosen() else {
            return this.buffer(doors.main(), Peer::Connected, doors.remote());
        };
        this.hear_troubles()?;
        let deadline_ns = this.send_deadline_ns();
        loop {
            if let Some((mac, link)) = Self::way(this, to, deadline_ns)? {
                let peer = Peer::At { address: to, mac };
                return this.buffer(doors.door_to(to, link)?, peer, Some(to));
            }
            Self::call_courier(this)?;
            let now_ns = monotonic_ns();
            if now_ns >= deadline_ns {
                return Err(Error::WouldBlock);
            }
            this.await_move(deadline_ns);
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

    pub(super) fn send_to(
        this: &Arc<Self>,
        payload: &[u8],
        to: SocketAddr,
    ) -> Result<usize, Error> {
        let doors = this.doors();
        if let Some(remote) = doors.remote() {
            return if remote == to {
                Self::send(this, payload)
            } else {
                Err(SendError::OtherDestination.into())
            };
        }
        Self::send_along(this, payload, to)
    }

    /// Sends along the way that leads there, or lets the datagram wait for it.
    fn send_along(this: &Arc<Self>, payload: &[u8], to: SocketAddr) -> Result<usize, Error> {
        let (doors, deadline_ns) = (this.doors(), this.send_deadline_ns());
        loop {
            let mut hops = lock(&this.hops);
            match hops.look_up(to.ip(), monotonic_ns()) {
                Look::Known((mac, link)) => {
                    drop(hops);
                    let door = doors.door_to(to, link)?;
                    let buffer = this.buffer(door, Peer::At { address: to, mac }, Some(to))?;
                    return this.write(buffer, payload);
                }
                Look::Asked => {
                    let max = doors.all().iter().map(|door| door.payload_bytes_max()).min();
                    let max = max.unwrap_or(0).min(this.path_payload(Some(to)));
                    if payload.len() > max {
                        return Err(SendError::TooLong { bytes: payload.len(), max }.into());
                    }
                    let waits = hops.wait(Waiting { to, payload: payload.to_vec() });
                    drop(hops);
                    if waits {
                        Self::call_courier(this)?;
                        return Ok(payload.len());
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
    pub(super) fn path_payload(&self, to: Option<SocketAddr>) -> usize {
        if !self.is_troubled.load(Ordering::Acquire) {
            return usize::MAX;
        }
        let troubles = lock(&self.troubles);
        let path = to.and_then(|to| troubles.path(to.ip(), monotonic_ns()));
        path.map_or(usize::MAX, payload_bytes)
    }

    fn buffer(
        &self,
        door: &Arc<Door>,
        peer: Peer,
        to: Option<SocketAddr>,
    ) -> Result<SendBuffer<'_>, Error> {
        let packet = self.wait_on(Side::Send, Some(door), |_, desk| desk.packet())?;
        Ok(SendBuffer::new(Arc::clone(door), packet, peer, self.path_payload(to)))
    }

    /// As [`Self::buffer`], as long as that takes: for what was accepted.
    pub(super) fn late_buffer(
        &self,
        door: &Arc<Door>,
        peer: Peer,
        deadline_ns: u64,
    ) -> Result<SendBuffer<'_>, Error> {
        let packet =
            self.wait_until(Side::Send, Some(door), deadline_ns, |_, desk: &mut Desk| {
                desk.packet()
            })?;
        Ok(SendBuffer::new(Arc::clone(door), packet, peer, usize::MAX))
    }

    fn write(&self, mut buffer: SendBuffer<'_>, payload: &[u8]) -> Result<usize, Error> {
        if payload.len() > buffer.room() {
            // The link may carry more by now.
            self.host.hear_notices();
            buffer.hear()?;
        }
        let max = buffer.room();
        if !buffer.write(payload) {
            return Err(SendError::TooLong { bytes: payload.len(), max }.into());
        }
        buffer.leave()?;
        Ok(payload.len())
    }
}
