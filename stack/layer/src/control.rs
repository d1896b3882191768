//! Control messages about packets that a flow sent (RFC 792): what routers, and the peer's host, say.

use std::net::SocketAddr;

use base_wire::{Header, Icmp, IcmpV4Type, Ipv4, Protocol};
use rbuf_channel::Data;

use crate::Layer;
use crate::ip4::Ip4;
use crate::packet::Incoming;

/// What became of a packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens at the port.
    #[error("nobody listens there")]
    PortUnreachable,
    /// The host does not speak the protocol.
    #[error("the host does not speak the protocol")]
    ProtocolUnreachable,
    /// The last router does not reach the host.
    #[error("a router does not reach the host")]
    HostUnreachable,
    /// A router knows no way to the network.
    #[error("a router knows no way to the network")]
    NetworkUnreachable,
    /// A router or the host does not let such packets pass.
    #[error("such packets are not let through")]
    Prohibited,
    /// It was too large for a link on the way, which carries packets of `mtu` bytes; 0 if the router does
    /// not say (RFC 1191).
    #[error("the packet is too large for the path")]
    TooLarge {
        /// Largest packet, in bytes.
        mtu: u16,
    },
    /// It passed too many routers.
    #[error("the packet passed too many routers")]
    TimeExceeded,
    /// A field of its header is wrong.
    #[error("a router does not understand the packet's header")]
    ParameterProblem,
}

/// A control message about a packet that this flow can have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// To whom the packet was.
    pub to: SocketAddr,
    /// Who says so.
    pub from: std::net::IpAddr,
    /// What became of it.
    pub error: ControlError,
}

impl ControlError {
    /// What a message of this type and code says, with the MTU it names; `None` if it reports no error.
    pub const fn from_icmp_v4(kind: u8, code: u8, mtu: u16) -> Option<Self> {
        Some(match (kind, code) {
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::PROTOCOL_UNREACHABLE) => {
                Self::ProtocolUnreachable
            }
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::PORT_UNREACHABLE) => Self::PortUnreachable,
            (IcmpV4Type::UNREACHABLE, IcmpV4Type::FRAGMENTATION_NEEDED) => Self::TooLarge { mtu },
            // Network unknown, network unreachable for this service (RFC 1122 §3.2.2.1).
            (IcmpV4Type::UNREACHABLE, 0 | 6 | 11) => Self::NetworkUnreachable,
            // Prohibited by administrators (RFC 1812 §5.2.7.1).
            (IcmpV4Type::UNREACHABLE, 9 | 10 | 13..=15) => Self::Prohibited,
            (IcmpV4Type::UNREACHABLE, _) => Self::HostUnreachable,
            (IcmpV4Type::TIME_EXCEEDED, _) => Self::TimeExceeded,
            (IcmpV4Type::PARAMETER_PROBLEM, _) => Self::ParameterProblem,
            _ => return None,
        })
    }
}

/// What a control message quotes of a packet of ours.
pub(crate) struct Quote {
    pub(crate) icmp: Icmp,
    pub(crate) to: SocketAddr,
    /// Bytes of the IP packet.
    pub(crate) packet_bytes: u16,
    /// The first bytes of its transport header (RFC 792).
    pub(crate) transport: [u8; 8],
}

/// Reads a control message; `None` if it is damaged, or does not quote a packet that this flow, between these
/// ports, can have sent.
pub(crate) fn read<L: Layer, D: Data>(
    packet: &Incoming<D>,
    lower: &Ip4<L>,
    protocol: Protocol,
    (local, remote): (u16, Option<u16>),
) -> Option<Quote> {
    let (icmp, quote) = Icmp::split(packet.head()).filter(|_| packet.verify(0))?;
    let (ip, _) = Ipv4::split(quote)?;
    let transport = *quote.get(ip.header_bytes()..)?.first_chunk::<8>()?;
    let [a, b, c, d, ..] = transport;
    let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let ours = ip.source() == lower.source()
        && ip.protocol == protocol
        && lower.remote().is_none_or(|remote| remote == ip.destination())
        && source == local
        && remote.is_none_or(|port| port == destination);
    let to = SocketAddr::new(ip.destination().into(), destination);
    let packet_bytes = ip.total_bytes.get();
    ours.then_some(Quote { icmp: *icmp, to, packet_bytes, transport })
}
