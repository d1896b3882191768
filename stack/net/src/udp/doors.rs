//! The links of a socket.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use base_flow::{Bill, Endpoints};
use base_rpc::Refusal;
use rbuf_shm::monotonic_ns;

use super::Inner;
use super::door::{Door, With};
use crate::{Error, Host, Options};

/// Ports that are tried if each is in use on one of several links.
const PORTS_TRIED: usize = 16;

/// Links of a socket: as many as a thread can sleep on.
pub(super) const DOORS_MAX: usize = 32;

/// A socket's doors: one for each link, or one.
#[derive(Debug)]
pub(super) struct Doors {
    /// If one is with a single host, it is the first.
    list: Vec<Arc<Door>>,
    /// What the socket was bound to, with its port, and nobody at the other end.
    bound: Endpoints,
    /// Whom it is connected to.
    remote: Option<SocketAddr>,
    /// How often that was said.
    serial: u64,
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
        let (bound, remote) = (Endpoints { remote: None, ..ends }, ends.remote);
        Ok(Self { list, bound, remote: remote.map(SocketAddr::from), serial: 0 })
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

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) const fn bound(&self) -> Endpoints {
        self.bound
    }

    /// The same doors, and a wish to be connected to `remote`.
    pub(super) fn wishing(&self, remote: Option<SocketAddr>) -> Self {
        let serial = self.serial.wrapping_add(1);
        Self { list: self.list.clone(), bound: self.bound, remote, serial }
    }

    /// Other doors.
    pub(super) fn with_list(&self, list: Vec<Arc<Door>>) -> Self {
        Self { list, ..*self }
    }

    /// Whether the flows are with `wanted`, or with anybody, and with nobody else.
    pub(super) fn are_with(&self, wanted: Option<SocketAddr>) -> bool {
        let mut with = self.list.iter().map(|door| door.with());
        match wanted {
            None => with.all(|with| with == With::Anybody),
            Some(to) => with.next() == Some(With::One(to)) && with.all(|with| with == With::Nobody),
        }
    }

    /// The door to a host that is on a link, or behind it.
    pub(super) fn door_to(&self, to: SocketAddr, link: u16) -> Result<&Arc<Door>, Error> {
        self.to(link).ok_or(Error::Refused(Refusal::OtherLink { address: to.ip(), link }))
    }

    /// The links on which there is no door.
    pub(super) fn missing(&self, host: &Host) -> Vec<u16> {
        // Whoever does not say has none that could be opened.
        let _ = host.refresh_links();
        let links = host.links();
        let missing = links.iter().map(|link| link.link).filter(|&link| self.to(link).is_none());
        missing.take(DOORS_MAX.saturating_sub(self.list.len())).collect()
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
    /// left. One that is connected was on one link only. Says whether it did.
    pub(super) fn leave(&self, lost: &Arc<Door>) -> bool {
        let others = self.doors();
        let others = others.list.iter().filter(|door| !Arc::ptr_eq(door, lost));
        let list: Vec<Arc<Door>> = others.cloned().collect();
        if list.iter().all(|door| door.with() == With::Nobody) {
            return false;
        }
        let mut doors = self.doors.write().unwrap_or_else(PoisonError::into_inner);
        *doors = Arc::new(doors.with_list(list));
        true
    }

    /// Closes all doors when what waits for a way has left.
    pub(super) fn close(&self) -> Result<Bill, Error> {
        self.await_held(monotonic_ns() + CLOSING_NS);
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
