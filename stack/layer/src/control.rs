//! Control messages about packets that a flow sent (RFC 792): what routers, and the peer's host, say.

use std::net::SocketAddr;

use base_wire::{ControlError, Header, Icmp, Ipv4, Protocol};
use rbuf_channel::Data;

use crate::Layer;
use crate::ip4::Ip4;
use crate::packet::Incoming;

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
