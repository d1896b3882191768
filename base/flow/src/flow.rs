//! Flows and the access points between which they run (paper §3.2).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_wire::Protocol;

/// Names a flow to the flow manager, the driver and the tools; never reused while the system runs.
///
/// `index` is the place in the driver's table and is reused; `generation` tells the users of one
/// place apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct FlowId {
    /// Place in the driver's table.
    pub index: u32,
    /// How often the place was given away before.
    pub generation: u32,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl core::str::FromStr for FlowId {
    type Err = InvalidFlowId;

    fn from_str(text: &str) -> Result<Self, InvalidFlowId> {
        let (index, generation) = text.split_once('.').ok_or(InvalidFlowId)?;
        let number = |text: &str| text.parse().map_err(|_| InvalidFlowId);
        Ok(Self { index: number(index)?, generation: number(generation)? })
    }
}

/// The text is no name of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidFlowId;

impl fmt::Display for InvalidFlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a flow is named by two numbers, as `plumb flows` shows them, as in 3.1")
    }
}

impl core::error::Error for InvalidFlowId {}

/// The protocols whose flows the flow manager can open.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams (RFC 768).
    Udp,
    /// Streams (RFC 9293).
    Tcp,
    /// Echo requests and their replies; the echo identifier plays the part of the port.
    Icmp,
}

impl Transport {
    /// The protocol number that stands in an IP header of `address`'s family.
    pub const fn protocol(self, address: IpAddr) -> Protocol {
        match (self, address) {
            (Self::Udp, _) => Protocol::UDP,
            (Self::Tcp, _) => Protocol::TCP,
            (Self::Icmp, IpAddr::V4(_)) => Protocol::ICMP,
            (Self::Icmp, IpAddr::V6(_)) => Protocol::ICMPV6,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        })
    }
}

/// A service access point: an address and a port.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Sap {
    /// The address; the unspecified one means "any of this host's".
    pub address: IpAddr,
    /// The port (for ICMP the echo identifier); 0 asks for a free one.
    pub port: u16,
}

impl Sap {
    /// An access point.
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self { address, port }
    }

    /// Any IPv4 address, port `port`.
    pub const fn any_v4(port: u16) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port }
    }

    /// Any IPv6 address, port `port`.
    pub const fn any_v6(port: u16) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), port }
    }

    /// Whether the address is left open.
    pub const fn is_any_address(&self) -> bool {
        self.address.is_unspecified()
    }
}

impl fmt::Display for Sap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_any_address(), self.address) {
            (true, _) => write!(f, "*:{}", self.port),
            (false, IpAddr::V4(a)) => write!(f, "{a}:{}", self.port),
            (false, IpAddr::V6(a)) => write!(f, "[{a}]:{}", self.port),
        }
    }
}

impl From<core::net::SocketAddr> for Sap {
    fn from(address: core::net::SocketAddr) -> Self {
        Self { address: address.ip(), port: address.port() }
    }
}

impl From<Sap> for core::net::SocketAddr {
    fn from(sap: Sap) -> Self {
        Self::new(sap.address, sap.port)
    }
}

/// The two ends a flow runs between: what its frames are recognised by.
///
/// Three shapes, most specific first: *connected* (remote given), *listening* (local address
/// given, any remote) and *wildcard* (any local address, any remote).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Endpoints {
    /// The protocol.
    pub transport: Transport,
    /// This host's end.
    pub local: Sap,
    /// The other end, or `None` for any.
    pub remote: Option<Sap>,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, self.local)?;
        match self.remote {
            Some(remote) => write!(f, " - {remote}"),
            None => f.write_str(" - *"),
        }
    }
}

/// `address` with IPv4-mapped IPv6 addresses turned into IPv4, so that one host has one name.
pub const fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sap(text: &str) -> Sap {
        text.parse::<core::net::SocketAddr>().unwrap().into()
    }

    #[test]
    fn a_flow_is_named_by_its_place_and_generation_and_by_nothing_else() {
        let flow = FlowId { index: 3, generation: 12 };
        assert_eq!(flow.to_string(), "3.12");
        assert_eq!("3.12".parse(), Ok(flow));
        for bad in ["", "3", "3.", ".1", "3.1.2", "-1.0", "a.b", "4294967296.0"] {
            assert_eq!(bad.parse::<FlowId>(), Err(InvalidFlowId), "{bad}");
        }
        assert!(InvalidFlowId.to_string().contains("3.1"));
    }

    #[test]
    fn each_transport_has_its_name_and_its_number_in_both_families() {
        let (four, six) = (sap("192.0.2.1:1").address, sap("[2001:db8::1]:1").address);
        for (transport, name, in_four, in_six) in [
            (Transport::Udp, "udp", 17, 17),
            (Transport::Tcp, "tcp", 6, 6),
            (Transport::Icmp, "icmp", 1, 58),
        ] {
            assert_eq!(transport.to_string(), name);
            assert_eq!(transport.protocol(four), Protocol(in_four), "{name}");
            assert_eq!(transport.protocol(six), Protocol(in_six), "{name}");
        }
    }

    #[test]
    fn ends_read_as_one_would_type_them_and_a_star_is_any() {
        for (end, text, any) in [
            (sap("192.0.2.1:80"), "192.0.2.1:80", false),
            (sap("[2001:db8::1]:80"), "[2001:db8::1]:80", false),
            (Sap::any_v4(53), "*:53", true),
            (Sap::any_v6(53), "*:53", true),
            (Sap::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), "127.0.0.1:0", false),
        ] {
            assert_eq!((end.to_string().as_str(), end.is_any_address()), (text, any));
            assert_eq!(Sap::from(core::net::SocketAddr::from(end)), end);
        }
        assert!(Sap::any_v4(0).address.is_ipv4() && Sap::any_v6(0).address.is_ipv6());
        let listening =
            Endpoints { transport: Transport::Tcp, local: Sap::any_v4(80), remote: None };
        assert_eq!(listening.to_string(), "tcp *:80 - *");
        let connected = Endpoints { remote: Some(sap("192.0.2.1:9")), ..listening };
        assert_eq!(connected.to_string(), "tcp *:80 - 192.0.2.1:9");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_and_others_are_themselves() {
        for (address, name) in [
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(canonical(address.parse().unwrap()).to_string(), name);
        }
    }
}
