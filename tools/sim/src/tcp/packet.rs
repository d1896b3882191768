//! Segments in IPv4 packets and out of them.

use std::net::Ipv4Addr;

use base_wire::{Header, IPV4_BYTES, Ipv4, Protocol, TCP_BYTES, checksum, pseudo_header};
use stack_tcp::{Ecn, HEADER_BYTES_MAX, Segment};
use zerocopy::IntoBytes;

use super::RawPacket;

/// Builds a packet, checksums included.
pub fn packet(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    segment: &Segment,
    payload: &[&[u8]],
) -> RawPacket {
    let mut header = [0; HEADER_BYTES_MAX];
    let header_bytes = segment.write(ports, &mut header);
    let mut tcp = header[..header_bytes].to_vec();
    payload.iter().for_each(|part| tcp.extend_from_slice(part));
    let pseudo = pseudo_header(source.into(), destination.into(), Protocol::TCP, tcp.len() as u32);
    let sum = checksum::finish(pseudo.unwrap_or(0) + checksum::sum(&tcp));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = Ipv4::new(source, destination, Protocol::TCP, tcp.len() as u16);
    ip.tos = segment.ecn.bits();
    ip.fill_checksum();
    [ip.as_bytes(), &tcp].concat()
}

/// Takes a packet apart; `None` if it is damaged.
pub fn unwrap(packet: &[u8]) -> Option<((u16, u16), Segment, &[u8])> {
    let (ip, _) = Ipv4::split(packet)?;
    let total = usize::from(ip.total_bytes.get());
    let sound = ip.version_ihl == 0x45
        && checksum::is_valid(checksum::sum(ip.as_bytes()))
        && ip.protocol == Protocol::TCP
        && total >= IPV4_BYTES + TCP_BYTES;
    let tcp = packet.get(IPV4_BYTES..total).filter(|_| sound)?;
    let pseudo = pseudo_header(
        ip.source().into(),
        ip.destination().into(),
        Protocol::TCP,
        tcp.len() as u32,
    )?;
    if !checksum::is_valid(pseudo + checksum::sum(tcp)) {
        return None;
    }
    let (ports, segment, header_bytes) =
        Segment::parse(tcp, tcp.len(), Ecn::from_tos(ip.tos)).ok()?;
    Some((ports, segment, tcp.get(header_bytes..)?))
}
