//! Receive demultiplexer: decides which flow, if any, owns an arriving frame.
//!
//! Runs in the driver once per frame, on time no flow is charged for yet: the cost that §3.1.1 of
//! the paper warns about.
//!
//! # Cost
//!
//! One hash probe for a connected flow, up to two more for a listener; none grows with the number
//! of flows beyond the cache misses of a larger table.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_flow::{DropReason, Endpoints, Prefix, Sap, Stray};
use base_wire::{Mac, Protocol};

use crate::key::{Key, Key4, Key6, Secret};
use crate::parse::{About, Arrived, Ends, Fields, Parsed, parse};

/// Where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The wire: what it says of its sender is an allegation.
    Wire,
    /// This host: it passed its sender's template, and may come from our own address.
    Inside,
}

/// What is to be done with an arriving frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver it to this flow.
    Flow {
        /// The number it was installed under.
        flow: u32,
        /// Bytes from the start of the frame to its payload.
        header_bytes: u16,
    },
    /// Give it to the flow manager.
    LastResort(Stray),
    /// Drop and count it.
    Drop(DropReason),
}

/// The endpoints belong to another flow already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("endpoints belong to flow {flow}")]
pub struct InUse {
    /// That flow.
    pub flow: u32,
}

/// The table of flows of one link.
#[derive(Debug)]
pub struct Demux {
    station: Mac,
    vlan: Option<u16>,
    addresses: Vec<Prefix>,
    /// This host's addresses on other links.
    elsewhere: Vec<Prefix>,
    v4: HashMap<Key4, u32, Secret>,
    v6: HashMap<Key6, u32, Secret>,
    /// Flows whose remote end is open: if there are none, one probe decides.
    open: usize,
}

impl Demux {
    /// An empty table for a link with address `station`, in `vlan` or untagged.
    ///
    /// `secret` must be random, so that remote hosts cannot make keys collide.
    pub fn new(station: Mac, vlan: Option<u16>, secret: [u64; 2]) -> Self {
        Self {
            station,
            vlan,
            addresses: Vec::new(),
            elsewhere: Vec::new(),
            v4: HashMap::with_hasher(Secret(secret)),
            v6: HashMap::with_hasher(Secret(secret)),
            open: 0,
        }
    }

    /// Sets this host's addresses on the link; packets for others are dropped.
    pub fn set_addresses(&mut self, addresses: &[Prefix]) {
        self.addresses = addresses.to_vec();
    }

    /// Sets this host's addresses on its other links. Nobody on this wire has them: who answered a packet from
    /// one of them would answer itself.
    pub fn set_elsewhere(&mut self, addresses: &[Prefix]) {
        self.elsewhere = addresses.to_vec();
    }

    /// Lets `flow` receive what is between `endpoints`.
    ///
    /// # Errors
    ///
    /// [`InUse`] if a flow has the same endpoints, which the flow manager's reservation of access
    /// points excludes. Nothing is changed then.
    ///
    /// # Panics
    ///
    /// If the ends are of different families.
    pub fn install(&mut self, endpoints: &Endpoints, flow: u32) -> Result<(), InUse> {
        let present = match Key::of(endpoints).expect("both ends are of one family") {
            Key::V4(key) => insert(&mut self.v4, key, flow),
            Key::V6(key) => insert(&mut self.v6, key, flow),
        };
        if let Some(flow) = present {
            return Err(InUse { flow });
        }
        self.open += usize::from(endpoints.remote.is_none());
        Ok(())
    }

    /// Takes `endpoints` away from `flow`; no effect if they are not its own.
    pub fn remove(&mut self, endpoints: &Endpoints, flow: u32) {
        let removed = match Key::of(endpoints) {
            Some(Key::V4(key)) if self.v4.get(&key) == Some(&flow) => self.v4.remove(&key),
            Some(Key::V6(key)) if self.v6.get(&key) == Some(&flow) => self.v6.remove(&key),
            _ => None,
        };
        if removed.is_some() && endpoints.remote.is_none() {
            self.open -= 1;
        }
    }

    /// Gives what is between `endpoints` to the flow manager, unless they belong to a flow.
    pub fn park(&mut self, endpoints: &Endpoints) {
        if endpoints.remote.is_some() {
            match Key::of(endpoints) {
                Some(Key::V4(key)) => drop(insert(&mut self.v4, key, PARKED)),
                Some(Key::V6(key)) => drop(insert(&mut self.v6, key, PARKED)),
                None => {}
            }
        }
    }

    /// Ends what [`Self::park`] began.
    pub fn unpark(&mut self, endpoints: &Endpoints) {
        self.remove(endpoints, PARKED);
    }

    /// Number of flows installed, and of parked ends.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no flow is installed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whose frame it is. `stripped_vlan` is the tag's control field if the link has removed it.
    ///
    /// A frame from the wire whose sender cannot be on it is nobody's (RFC 1122 §3.2.1.3), nor is one that
    /// reached many and is for one (§3.3.6); only datagrams may be for many.
    pub fn classify(&self, frame: &[u8], stripped_vlan: Option<u16>, origin: Origin) -> Verdict {
        self.judge(frame, stripped_vlan, origin).unwrap_or_else(Verdict::Drop)
    }

    fn judge(
        &self,
        frame: &[u8],
        stripped_vlan: Option<u16>,
        origin: Origin,
    ) -> Result<Verdict, DropReason> {
        let Parsed { source, destination, vlan, arrived } = parse(frame, stripped_vlan)?;
        if destination != self.station && !destination.is_group() {
            return Err(DropReason::NotOurMac);
        }
        if vlan != self.vlan {
            return Err(DropReason::OtherVlan);
        }
        if source.is_group() || (origin == Origin::Wire && source == self.station) {
            return Err(DropReason::BadSource);
        }
        let (ends, about) = match arrived {
            Arrived::Ip(ends, about) => (ends, about),
            Arrived::Arp { sender, target } => {
                let ours = [sender, target].into_iter().any(|address| self.is_own(address.into()));
                let stray = if ours { Stray::Neighbours } else { Stray::Gossip };
                return Ok(Verdict::LastResort(stray));
            }
        };
        // Who has no address of the family is in none of its groups.
        let group = ends.destination.is_ipv6()
            && ends.destination.is_multicast()
            && self.addresses.iter().any(|prefix| prefix.address().is_ipv6());
        if !self.is_ours(ends.destination) && !group {
            return Err(DropReason::NotOurAddress);
        }
        if !self.can_be_from(&ends, origin) {
            return Err(DropReason::BadSource);
        }
        let for_us_alone = self.is_own(ends.destination);
        let reached_many = !for_us_alone || destination.is_group();
        // A datagram for many is for its port; neighbour discovery is the flow manager's.
        let for_many = !for_us_alone && (ends.protocol == Protocol::UDP || group);
        if reached_many && !for_many {
            return Err(DropReason::SentToMany);
        }
        match about {
            About::Fragment => Err(DropReason::Fragment),
            About::Nothing => Err(DropReason::Unclaimed),
            About::Discovery => Ok(Verdict::LastResort(Stray::Neighbours)),
            About::Echo => self.unclaimed(&ends, Stray::Control),
            About::Unspoken => self.unclaimed(&ends, Stray::Others),
            About::Flow(fields) => {
                let header_bytes = fields.header_bytes;
                match (self.find(&fields), ends.protocol) {
                    (Some(flow), _) if flow != PARKED => Ok(Verdict::Flow { flow, header_bytes }),
                    // What it answers or reports was nobody's.
                    (_, Protocol::ICMP | Protocol::ICMPV6) => Err(DropReason::Unclaimed),
                    (Some(_), _) => self.unclaimed(&ends, Stray::Parked),
                    (None, Protocol::TCP) => self.unclaimed(&ends, Stray::Segments),
                    (None, _) => self.unclaimed(&ends, Stray::Others),
                }
            }
        }
    }

    /// Whether the sender of a packet can be what it says it is.
    fn can_be_from(&self, ends: &Ends, origin: Origin) -> bool {
        let mut hosts = self.addresses.iter().chain(&self.elsewhere);
        if origin == Origin::Wire && hosts.clone().any(|prefix| prefix.address() == ends.source) {
            return false;
        }
        let broadcast = |prefix: &Prefix| prefix.broadcast() == Some(ends.source);
        match ends.source {
            // Who has no address yet says so, to everybody.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ends.destination == Ipv4Addr::BROADCAST,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => ends.destination.is_multicast(),
            IpAddr::V4(source) => {
                source.octets()[0] != 0
                    && !source.is_loopback()
                    && !source.is_multicast()
                    && !source.is_broadcast()
                    && !hosts.any(broadcast)
            }
            IpAddr::V6(source) => !source.is_loopback() && !source.is_multicast(),
        }
    }

    /// The flow manager answers for what is sent to this host alone; what is for many is not even shown to it.
    fn unclaimed(&self, ends: &Ends, stray: Stray) -> Result<Verdict, DropReason> {
        if self.is_own(ends.destination) {
            Ok(Verdict::LastResort(stray))
        } else {
            Err(DropReason::Unclaimed)
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.address() == address)
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
        self.addresses
            .iter()
            .any(|prefix| prefix.address() == address || prefix.broadcast() == Some(address))
            || address == broadcast
    }

    fn find(&self, fields: &Fields) -> Option<u32> {
        let Fields { protocol, local, local_port, remote, remote_port, .. } = *fields;
        let (here, there) = (Sap::new(local, local_port), Sap::new(remote, remote_port));
        let connected = self.get(Key::new(protocol, here, Some(there)));
        if connected.is_some() || self.open == 0 {
            return connected;
        }
        let any = match local {
            IpAddr::V4(_) => Sap::any_v4(local_port),
            IpAddr::V6(_) => Sap::any_v6(local_port),
        };
        self.get(Key::new(protocol, here, None)).or_else(|| self.get(Key::new(protocol, any, None)))
    }

    fn get(&self, key: Option<Key>) -> Option<u32> {
        match key? {
            Key::V4(key) => self.v4.get(&key).copied(),
            Key::V6(key) => self.v6.get(&key).copied(),
        }
    }
}

/// In place of a flow's number: the flow manager speaks for these ends.
const PARKED: u32 = u32::MAX;

/// Inserts unless a flow has the key; returns which.
fn insert<K: Eq + std::hash::Hash>(
    table: &mut HashMap<K, u32, Secret>,
    key: K,
    flow: u32,
) -> Option<u32> {
    match table.entry(key) {
        std::collections::hash_map::Entry::Occupied(mut entry) if *entry.get() == PARKED => {
            entry.insert(flow);
            None
        }
        std::collections::hash_map::Entry::Occupied(entry) => Some(*entry.get()),
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(flow);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen from inside: whether a second look is taken changes what a frame costs, and not its verdict.
    #[test]
    fn listeners_are_looked_for_as_long_as_there_are_any() {
        let mut demux = Demux::new(Mac([2, 0, 0, 0, 0, 1]), None, [1, 2]);
        let transport = base_flow::Transport::Udp;
        let peer = Sap::new(Ipv4Addr::new(10, 77, 0, 2).into(), 7);
        let listener = |port| Endpoints { transport, local: Sap::any_v4(port), remote: None };
        let connected = Endpoints { remote: Some(peer), ..listener(1) };
        demux.install(&connected, 1).unwrap();
        assert_eq!(demux.open, 0);
        demux.install(&listener(1), 2).unwrap();
        demux.install(&listener(2), 3).unwrap();
        demux.install(&listener(2), 4).unwrap_err();
        demux.park(&listener(3));
        assert_eq!(demux.open, 2);
        demux.remove(&listener(2), 2);
        demux.remove(&connected, 1);
        assert_eq!(demux.open, 2);
        demux.remove(&listener(1), 2);
        demux.remove(&listener(1), 2);
        demux.remove(&listener(2), 3);
        assert_eq!((demux.open, demux.is_empty()), (0, true));
    }
}
