//! The links of a socket.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use base_flow::{Bill, Endpoints};
use base_rpc::Refusal;
use rbuf_shm::monotonic_ns;

use super::door::{Door, Side};
use super::troubles::PATH_NS;
use super::{Inner, lock};
use crate::{Error, Host, Options};

/// Ports that are tried if each is in use on one of several links.
const PORTS_TRIED: usize = 16;

/// Links of a socket: as many as a thread can sleep on.
pub(super) const DOORS_MAX: usize = 32;

/// How long what was sent is given to leave before the socket's ends are changed.
const LEAVING_NS: u64 = 1_000_000_000;

/// A socket's doors: one for each link, or one.
#[derive(Debug)]
pub(super) struct Doors {
    list: Vec<Arc<Door>>,
    /// What the socket was bound to, with its port.
    bound: Endpoints,
    remote: Option<SocketAddr>,
}

impl Doors {
    pub(super) fn open(host: &Host, options: &Options, ends: Endpoints) -> Result<Self, Error> {
        let links: Vec<Option<u16>> = if ends.local.is_any_address() && ends.remote.is_none() {
            host.refresh_links()?;
            host.links().iter().take(DOORS_MAX).map(|link| Some(link.link)).collect()
        } else {
            vec![None]
        };
        for _ in 1..PORTS_TRIED {
            match Self::open_on(host, options, ends, &links) {
                // Taken on another link than that which chose it.
                Err(Error::Refused(Refusal::InUse { .. })) if ends.local.port == 0 => {}
                opened => return opened,
            }
        }
        Self::open_on(host, options, ends, &links)
    }

    fn open_on(
        host: &Host,
        options: &Options,
        mut ends: Endpoints,
        links: &[Option<u16>],
    ) -> Result<Self, Error> {
        let mut list = Vec::with_capacity(links.len());
        for &link in links {
            match Door::open(host, options, ends, link) {
                Ok(door) => {
                    ends.local.port = door.desk().fib().endpoints.local.port;
                    list.push(door);
                }
                // A link without a driver brings nothing.
                Err(Error::Refused(Refusal::NoLink { .. })) if links.len() > 1 => {}
                Err(error) => return Err(error),
            }
        }
        if list.is_empty() {
            return Err(Error::Address("no link has a driver".into()));
        }
        Ok(Self { list, bound: ends, remote: ends.remote.map(SocketAddr::from) })
    }

    pub(super) fn all(&self) -> &[Arc<Door>] {
        &self.list
    }

    pub(super) fn main(&self) -> &Arc<Door> {
        &self.list[0]
    }

    pub(super) const fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// To whom the socket is connected if its flows are with anybody: then it is this side that takes nothing from
    /// others, and looks for the way of each datagram.
    pub(super) fn chosen(&self) -> Option<SocketAddr> {
        self.remote.filter(|_| self.bound.remote.is_none())
    }

    /// The door to a host that is on a link, or behind it.
    pub(super) fn door_to(&self, to: SocketAddr, link: u16) -> Result<&Arc<Door>, Error> {
        self.to(link).ok_or(Error::Refused(Refusal::OtherLink { address: to.ip(), link }))
    }

    /// The door to a link.
    pub(super) fn to(&self, link: u16) -> Option<&Arc<Door>> {
        self.list.iter().find(|door| door.shared.link() == link)
    }
}

impl Inner {
    pub(super) fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives up a door whose flow is lost, if there are others: a socket at any address lives on the links that are
    /// left. Says whether it did.
    pub(super) fn leave(&self, lost: &Arc<Door>) -> bool {
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        let others = doors.list.iter().filter(|door| !Arc::ptr_eq(door, lost));
        let list: Vec<Arc<Door>> = others.cloned().collect();
        if list.is_empty() {
            return false;
        }
        *doors = Arc::new(Doors { list, bound: doors.bound, remote: doors.remote });
        true
    }

    /// Connects to `remote`. Nobody need hear of it, unless the flow is with one host only: that is changed.
    pub(super) fn connect(this: &Arc<Self>, remote: SocketAddr) -> Result<(), Error> {
        let (doors, is_patient) = (this.doors(), !this.nonblocking.load(Ordering::Relaxed));
        if is_patient {
            this.know_way(remote)?;
        }
        if doors.bound.remote.is_some() {
            return if is_patient { this.reattach(remote) } else { Err(Error::WouldBlock) };
        }
        let list = doors.list.clone();
        let connected = Doors { list, bound: doors.bound, remote: Some(remote) };
        this.become_connected(connected);
        doors.all().iter().for_each(|door| door.shared.call());
        if !lock(&this.hops).is_settled() { Self::call_courier(this) } else { Ok(()) }
    }

    fn become_connected(&self, connected: Doors) {
        lock(&self.troubles).forget_error();
        *self.doors.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(connected);
    }

    /// Connects to `remote`, through the door that leads there; the others are closed.
    fn reattach(&self, remote: SocketAddr) -> Result<(), Error> {
        let doors = self.doors();
        let ends = Endpoints { remote: Some(remote.into()), ..doors.bound };
        // A flow sends to its new ends only.
        let deadline_ns = monotonic_ns() + LEAVING_NS;
        for door in doors.all() {
            let left = self.wait_until(Side::Send, Some(door), deadline_ns, |_, desk| {
                Ok(desk.has_left()?.then_some(()))
            });
            match left {
                Ok(()) | Err(Error::WouldBlock | Error::Control(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let door = match doors.main().attach(ends) {
            Err(Error::Refused(Refusal::OtherLink { link, .. })) => match doors.to(link) {
                Some(door) => door.attach(ends).map(|()| Arc::clone(door))?,
                None => Door::open(&self.host, &self.options, ends, Some(link))?,
            },
            attached => attached.map(|()| Arc::clone(doors.main()))?,
        };
        self.learn_path(remote.ip(), door.desk().fib().path_mtu, PATH_NS);
        let connected = Doors { list: vec![door], bound: doors.bound, remote: Some(remote) };
        self.become_connected(connected);
        // Who sleeps at the others is to sleep here.
        doors.all().iter().for_each(|door| door.shared.call());
        Ok(())
    }

    /// Closes all doors when what waits for a way has left.
    pub(super) fn close(&self) -> Result<Bill, Error> {
        self.await_courier(monotonic_ns() + CLOSING_NS);
        let mut sum = Bill::default();
        for door in self.doors().all() {
            sum = sum.plus(&door.shared.close()?);
        }
        Ok(sum)
    }
}

/// Longest that closing waits for a neighbour, which is asked for three seconds.
const CLOSING_NS: u64 = 5_000_000_000;
