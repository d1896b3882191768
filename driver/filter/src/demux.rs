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
use std::net::IpAddr;

use base_flow::{DropReason, Endpoints, Prefix, Sap};
use base_wire::{Mac, Protocol};

use crate::key::{Key, Key4, Key6, Secret};
use crate::parse::{Arrived, Fields, parse};

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
    LastResort,
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
            v4: HashMap::with_hasher(Secret(secret)),
            v6: HashMap::with_hasher(Secret(secret)),
            open: 0,
        }
    }

    /// Sets this host's addresses on the link; packets for others are dropped.
    pub fn set_addresses(&mut self, addresses: &[Prefix]) {
        self.addresses = addresses.to_vec();
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
    pub fn classify(&self, frame: &[u8], stripped_vlan: Option<u16>) -> Verdict {
        let (destination, vlan, arrived) = match parse(frame, stripped_vlan) {
            Ok(parsed) => parsed,
            Err(reason) => return Verdict::Drop(reason),
        };
        if destination != self.station && !destination.is_group() {
            return Verdict::Drop(DropReason::NotOurMac);
        }
        if vlan != self.vlan {
            return Verdict::Drop(DropReason::OtherVlan);
        }
        match arrived {
            Arrived::Arp => Verdict::LastResort,
            Arrived::OtherIp { fragment: true, destination } => {
                Verdict::Drop(if self.is_ours(destination) {
                    DropReason::Fragment
                } else {
                    DropReason::NotOurAddress
                })
            }
            Arrived::OtherIp { destination, .. } => self.unclaimed(destination),
            Arrived::Packet(fields) => {
                if fields.unsolicited {
                    return self.unclaimed(fields.destination);
                }
                if !self.is_ours(fields.destination) {
                    return Verdict::Drop(DropReason::NotOurAddress);
                }
                if fields.protocol == Protocol::TCP && !self.is_between_two(&fields) {
                    return Verdict::Drop(DropReason::Unclaimed);
                }
                match self.find(&fields) {
                    Some(PARKED) => self.unclaimed(fields.destination),
                    Some(flow) => Verdict::Flow { flow, header_bytes: fields.header_bytes },
                    None => self.unclaimed(fields.destination),
                }
            }
        }
    }

    /// The flow manager answers for what is sent to this host alone, and hears IPv6 neighbour
    /// discovery; nobody may answer a broadcast (RFC 1122 §3.2.2).
    fn unclaimed(&self, destination: IpAddr) -> Verdict {
        let own = self.addresses.iter().any(|prefix| prefix.address() == destination);
        let discovery = destination.is_ipv6() && destination.is_multicast();
        if own || discovery {
            Verdict::LastResort
        } else if self.is_ours(destination) {
            Verdict::Drop(DropReason::Unclaimed)
        } else {
            Verdict::Drop(DropReason::NotOurAddress)
        }
    }

    /// Whether a packet is for this host alone, and from one that may be there (RFC 9293 MUST-57, MUST-63).
    fn is_between_two(&self, fields: &Fields) -> bool {
        let many = |address: IpAddr| {
            self.addresses.iter().any(|prefix| prefix.broadcast() == Some(address))
        };
        self.addresses.iter().any(|prefix| prefix.address() == fields.local)
            && !many(fields.remote)
            && match fields.remote {
                IpAddr::V4(remote) => {
                    !(remote.is_multicast()
                        || remote.is_broadcast()
                        || remote.is_unspecified()
                        || remote.is_loopback())
                }
                IpAddr::V6(remote) => {
                    !(remote.is_multicast() || remote.is_unspecified() || remote.is_loopback())
                }
            }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        let broadcast = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
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
