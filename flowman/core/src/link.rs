//! What the flow manager keeps of a link.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use base_flow::{FlowId, LinkFacts, Prefix, Shares, Stray};
use base_rpc::DomainId;

use crate::config::LinkConfig;
use crate::conflicts::{Defence, Kernels, Possession};

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    /// What the driver told, while it is connected.
    pub(crate) driver: Option<Driver>,
    /// Whether it could be used at any time.
    pub(crate) was_open: bool,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) facts: LinkFacts,
    pub(crate) shares: Shares,
    pub(crate) own: Own,
    /// How far our addresses are ours: before, nobody is answered, and no neighbour found.
    pub(crate) possession: Possession,
    /// What was done about those of our addresses that others claim.
    pub(crate) defences: HashMap<Ipv4Addr, Defence>,
    /// Those that the kernel has got since.
    pub(crate) kernels: Kernels,
}

/// The flow manager's own domain and flows, one for each kind of stray.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) domain: DomainId,
    pub(crate) flows: [FlowId; Stray::COUNT],
    /// When they were opened last; 0 for with the driver.
    pub(crate) opened_at: u64,
    /// Whether they do not work, and wait for being opened again.
    pub(crate) lost: bool,
}

impl Link {
    /// Whether its addresses are ours, so that it can be used.
    pub(crate) fn is_open(&self) -> bool {
        self.driver.as_ref().is_some_and(|driver| driver.possession.is_ours())
    }

    /// Whether its addresses are being probed for.
    pub(crate) fn is_probing(&self) -> bool {
        let possession = self.driver.as_ref().map(|driver| driver.possession);
        matches!(possession, Some(Possession::Probing { again: false, .. }))
    }

    /// Whether `address` is ours on this link.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.config.addresses.iter().any(|prefix| prefix.address() == address)
    }

    /// Our address for talking to `hop`: of the same network if there is one, else the first of
    /// the family.
    pub(crate) fn source_for(&self, hop: IpAddr) -> Option<IpAddr> {
        let same_family = |prefix: &&Prefix| prefix.address().is_ipv4() == hop.is_ipv4();
        let addresses = || self.config.addresses.iter().filter(same_family);
        addresses()
            .find(|prefix| prefix.contains(hop))
            .or_else(|| addresses().next())
            .map(Prefix::address)
    }

    /// Whether `address` reaches every host of a network of this link.
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
            || self.config.addresses.iter().any(|prefix| prefix.broadcast() == Some(address))
    }
}

/// What the longest frame is charged that a link ever carries: contracts are admitted for that.
pub(crate) fn longest_frame_ns(facts: &LinkFacts) -> u64 {
    let tag = if facts.vlan.is_some() { base_wire::VLAN_TAG_BYTES } else { 0 };
    let bytes = usize::from(facts.mtu_max) + base_wire::ETHERNET_BYTES + tag;
    facts.rate.wire_ns(bytes).max(facts.frame_cost_ns)
}

#[cfg(test)]
mod tests {
    use base_flow::Rate;

    use super::*;

    #[test]
    fn the_longest_frame_has_the_largest_packet_that_was_ever_carried_and_its_tag() {
        let mut facts = LinkFacts {
            name: "eth0".into(),
            kind: "test".into(),
            mac: base_wire::Mac([2; 6]),
            mtu: 1280,
            mtu_max: 1500,
            unit_bytes: 1280,
            vlan: None,
            rate: Rate::mbit(100),
            frame_cost_ns: 0,
            tardiness_ns: 0,
        };
        assert_eq!(longest_frame_ns(&facts), 123_040);
        facts.vlan = Some(7);
        assert_eq!(longest_frame_ns(&facts), 123_360);
    }
}
