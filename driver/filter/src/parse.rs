//! One pass over the headers of an arriving frame.
//!
//! Reads what demultiplexing needs and checks what reading it safely needs; everything else
//! (checksums, options, state) is the business of the flow's owner, on his time.

use core::net::{IpAddr, Ipv4Addr};

use base_flow::DropReason;
use base_wire::{
    Arp, ETHERNET_BYTES, EtherType, Ethernet, Header, ICMP_BYTES, IPV4_BYTES, IPV6_BYTES, Icmp,
    IcmpV4Type, IcmpV6Type, Ipv4, Ipv6, Mac, Protocol, TCP_BYTES, Tcp, UDP_BYTES, Udp, VlanTag,
};

/// What a frame carries, as far as a demultiplexer cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// ARP: who speaks, and about whom.
    Arp { sender: Ipv4Addr, target: Ipv4Addr },
    /// An IP packet, and what it is about.
    Ip(Ends, About),
}

/// Between whom a packet goes, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
}

/// What a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// A flow of this host's, if it has one with these ends.
    Flow(Fields),
    /// An echo request, which the flow manager answers.
    Echo,
    /// IPv6 neighbour discovery, which is the flow manager's.
    Discovery,
    /// A protocol that no flow could be attached to.
    Unspoken,
    /// A control message that is no answer to anything: nobody wants it.
    Nothing,
    /// A part of a packet.
    Fragment,
}

/// The fields that decide whose packet it is, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Protocol of the flow: the packet's own, or for control messages the one they are about.
    pub(crate) protocol: Protocol,
    /// Address on this host: the destination, or for control messages the source of the packet
    /// they quote.
    pub(crate) local: IpAddr,
    /// Port on this host; for echo replies the identifier.
    pub(crate) local_port: u16,
    /// Address of the other end.
    pub(crate) remote: IpAddr,
    /// Port of the other end; 0 for echo.
    pub(crate) remote_port: u16,
    /// Bytes from the start of the frame to the end of the transport header.
    pub(crate) header_bytes: u16,
}

/// A frame, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Station it comes from, as it says itself.
    pub(crate) source: Mac,
    /// Station it is for, or group.
    pub(crate) destination: Mac,
    pub(crate) vlan: Option<u16>,
    pub(crate) arrived: Arrived,
}

/// Reads a frame; `stripped_vlan` is the tag's control field if the link has removed it.
///
/// # Errors
///
/// Why the frame cannot be anybody's.
pub(crate) fn parse(frame: &[u8], stripped_vlan: Option<u16>) -> Result<Parsed, DropReason> {
    let (ethernet, mut rest) = Ethernet::split(frame).ok_or(DropReason::Truncated)?;
    let mut ether_type = ethernet.ether_type;
    let mut vlan = stripped_vlan.map(|control| control & 0x0fff);
    let mut link_bytes = ETHERNET_BYTES;
    if ether_type == EtherType::VLAN {
        let (tag, inner) = VlanTag::split(rest).ok_or(DropReason::Truncated)?;
        if vlan.is_some() {
            return Err(DropReason::OtherVlan);
        }
        vlan = Some(tag.id());
        ether_type = tag.ether_type;
        rest = inner;
        link_bytes += base_wire::VLAN_TAG_BYTES;
    }
    let vlan = vlan.filter(|&id| id != 0);
    let arrived = match ether_type {
        EtherType::IPV4 => ipv4(rest, link_bytes)?,
        EtherType::IPV6 => ipv6(rest, link_bytes)?,
        EtherType::ARP => arp(rest)?,
        _ => return Err(DropReason::UnknownEtherType),
    };
    Ok(Parsed { source: ethernet.source, destination: ethernet.destination, vlan, arrived })
}

fn arp(packet: &[u8]) -> Result<Arrived, DropReason> {
    let (arp, _) = Arp::split(packet).ok_or(DropReason::Truncated)?;
    arp.operation().ok_or(DropReason::Unclaimed)?;
    Ok(Arrived::Arp { sender: arp.sender(), target: arp.target() })
}

fn ipv4(packet: &[u8], link_bytes: usize) -> Result<Arrived, DropReason> {
    let (ip, _) = Ipv4::split(packet).ok_or(DropReason::Truncated)?;
    let (header, total) = (ip.header_bytes(), usize::from(ip.total_bytes.get()));
    if ip.version() != 4 || header < IPV4_BYTES || total < header {
        return Err(DropReason::MalformedIp);
    }
    let payload = packet.get(header..total).ok_or(DropReason::Truncated)?;
    let (source, destination) = (IpAddr::V4(ip.source()), IpAddr::V4(ip.destination()));
    let ends = Ends { source, destination, protocol: ip.protocol };
    if ip.is_fragment() {
        return Ok(Arrived::Ip(ends, About::Fragment));
    }
    Ok(Arrived::Ip(ends, transport(ends, payload, link_bytes + header)?))
}

fn ipv6(packet: &[u8], link_bytes: usize) -> Result<Arrived, DropReason> {
    let (ip, rest) = Ipv6::split(packet).ok_or(DropReason::Truncated)?;
    if ip.version() != 6 {
        return Err(DropReason::MalformedIp);
    }
    let payload = rest.get(..usize::from(ip.payload_bytes.get())).ok_or(DropReason::Truncated)?;
    let (source, destination) = (IpAddr::V6(ip.source()), IpAddr::V6(ip.destination()));
    let ends = Ends { source, destination, protocol: ip.next };
    if ip.next == Protocol::IPV6_FRAGMENT {
        return Ok(Arrived::Ip(ends, About::Fragment));
    }
    Ok(Arrived::Ip(ends, transport(ends, payload, link_bytes + IPV6_BYTES)?))
}

fn transport(ends: Ends, payload: &[u8], lower_bytes: usize) -> Result<About, DropReason> {
    let Ends { source, destination, protocol } = ends;
    let fields = Fields {
        protocol,
        local: destination,
        local_port: 0,
        remote: source,
        remote_port: 0,
        header_bytes: lower_bytes as u16,
    };
    let with_ports = |local_port, remote_port, bytes: usize| {
        let header_bytes = (lower_bytes + bytes) as u16;
        Ok(About::Flow(Fields { local_port, remote_port, header_bytes, ..fields }))
    };
    match (protocol, destination) {
        (Protocol::UDP, _) => {
            let (udp, _) = Udp::split(payload).ok_or(DropReason::MalformedTransport)?;
            let bytes = usize::from(udp.bytes.get());
            if bytes < UDP_BYTES || bytes > payload.len() {
                return Err(DropReason::MalformedTransport);
            }
            with_ports(udp.destination.get(), udp.source.get(), UDP_BYTES)
        }
        (Protocol::TCP, _) => {
            let (tcp, _) = Tcp::split(payload).ok_or(DropReason::MalformedTransport)?;
            let bytes = tcp.header_bytes();
            if bytes < TCP_BYTES || bytes > payload.len() {
                return Err(DropReason::MalformedTransport);
            }
            with_ports(tcp.destination.get(), tcp.source.get(), bytes)
        }
        (Protocol::ICMP, IpAddr::V4(_)) | (Protocol::ICMPV6, IpAddr::V6(_)) => {
            let (icmp, quoted) = Icmp::split(payload).ok_or(DropReason::MalformedTransport)?;
            let fields = Fields { header_bytes: (lower_bytes + ICMP_BYTES) as u16, ..fields };
            Ok(control(icmp, quoted, fields))
        }
        _ => Ok(About::Unspoken),
    }
}

/// Whose control message it is: echo replies belong to the identifier, errors to the flow whose
/// packet they quote, questions to the flow manager, and everything else to nobody.
fn control(icmp: &Icmp, quoted: &[u8], fields: Fields) -> About {
    let (reply, error) = match fields.protocol {
        Protocol::ICMP => (
            IcmpV4Type::ECHO_REPLY,
            matches!(
                icmp.kind,
                IcmpV4Type::UNREACHABLE | IcmpV4Type::TIME_EXCEEDED | IcmpV4Type::PARAMETER_PROBLEM
            ),
        ),
        _ => (IcmpV6Type::ECHO_REPLY, icmp.kind <= IcmpV6Type::ERROR_MAX),
    };
    if icmp.kind == reply {
        return About::Flow(Fields { local_port: icmp.id.get(), ..fields });
    }
    if !error {
        return match (fields.protocol, icmp.kind) {
            (Protocol::ICMP, IcmpV4Type::ECHO_REQUEST)
            | (Protocol::ICMPV6, IcmpV6Type::ECHO_REQUEST) => About::Echo,
            (Protocol::ICMPV6, kind) if IcmpV6Type::DISCOVERY.contains(&kind) => About::Discovery,
            _ => About::Nothing,
        };
    }
    let Some((protocol, source, destination, transport)) = quote(quoted, fields.local) else {
        return About::Nothing;
    };
    // Only the first eight bytes of the quoted transport header need be there (RFC 792).
    let ports = match protocol {
        Protocol::UDP | Protocol::TCP => transport
            .first_chunk::<4>()
            .map(|&[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
        Protocol::ICMP | Protocol::ICMPV6 => {
            Icmp::split(transport).map(|(echo, _)| (echo.id.get(), 0))
        }
        _ => None,
    };
    let Some((local_port, remote_port)) = ports else { return About::Nothing };
    // A quote of a packet that this host cannot have sent is nobody's.
    if source != fields.local {
        return About::Nothing;
    }
    About::Flow(Fields { protocol, local_port, remote: destination, remote_port, ..fields })
}

/// The packet a control message quotes: protocol, source, destination, start of its payload.
fn quote(bytes: &[u8], outer: IpAddr) -> Option<(Protocol, IpAddr, IpAddr, &[u8])> {
    if outer.is_ipv4() {
        let (ip, _) = Ipv4::split(bytes)?;
        let header = ip.header_bytes();
        if ip.version() != 4 || header < IPV4_BYTES || ip.is_fragment() {
            return None;
        }
        Some((ip.protocol, ip.source().into(), ip.destination().into(), bytes.get(header..)?))
    } else {
        let (ip, rest) = Ipv6::split(bytes)?;
        (ip.version() == 6).then_some((ip.next, ip.source().into(), ip.destination().into(), rest))
    }
}
