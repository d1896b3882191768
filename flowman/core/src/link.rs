//! What the flow manager keeps of a link.

use std::net::IpAddr;

use base_flow::{Contract, FlowId, LinkFacts, Prefix, Shares};
use base_rpc::DomainId;

use crate::config::LinkConfig;

/// The flow manager's own use of a link: one longest frame in fifty, a fiftieth of the line; and by
/// a deadline that makes its density a twentieth, the part that is kept back from promises.
const OWN_PERIOD_FRAMES: u64 = 50;
const OWN_DEADLINE_FRAMES: u64 = 20;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    /// What the driver told, while it is connected.
    pub(crate) driver: Option<Driver>,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) facts: LinkFacts,
    pub(crate) shares: Shares,
    /// The flow manager's own domain and flow.
    pub(crate) own_domain: DomainId,
    pub(crate) own_flow: FlowId,
    /// Whether that flow can be used: before, nobody is answered, and no neighbour found.
    pub(crate) open: bool,
    /// When one of our addresses was last defended.
    pub(crate) defended_at: Option<u64>,
}

impl Link {
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

impl Driver {
    /// The contract of the flow manager's own flow: prompt answers to ARP and echo, however busy
    /// the line is.
    pub(crate) fn own_contract(facts: &LinkFacts) -> Contract {
        let slice_ns = longest_frame_ns(facts).clamp(1, Contract::PERIOD_NS_MAX);
        let times = |frames: u64| slice_ns.saturating_mul(frames).min(Contract::PERIOD_NS_MAX);
        Contract {
            slice_ns,
            period_ns: times(OWN_PERIOD_FRAMES),
            deadline_ns: times(OWN_DEADLINE_FRAMES),
            slack: true,
            weight: 1,
        }
    }
}

/// Wire time of the longest frame a link ever carries: contracts are admitted for that.
pub(crate) fn longest_frame_ns(facts: &LinkFacts) -> u64 {
    let tag = if facts.vlan.is_some() { base_wire::VLAN_TAG_BYTES } else { 0 };
    facts.rate.wire_ns(usize::from(facts.mtu_max) + base_wire::ETHERNET_BYTES + tag)
}
