//! Headers are read as an independent parser, `etherparse`, reads them.

use std::net::{IpAddr, Ipv4Addr};

use base_wire::{Ethernet, Header, Ipv4, Mac, Protocol, Udp, checksum, pseudo_header};
use etherparse::{PacketBuilder, SlicedPacket};
use zerocopy::IntoBytes;

#[test]
fn a_packet_built_by_etherparse_is_read_field_by_field() {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 77, 0, 1], [10, 77, 0, 2], 64)
        .udp(4000, 5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();

    let (ethernet, rest) = Ethernet::split(&frame).unwrap();
    let (ip, rest) = Ipv4::split(rest).unwrap();
    let (udp, payload) = Udp::split(rest).unwrap();
    assert_eq!(ethernet.source, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(
        (ip.source(), ip.destination()),
        (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2))
    );
    assert_eq!((udp.source.get(), udp.destination.get()), (4000, 5000));
    assert_eq!(payload, b"payload");
    assert!(checksum::is_valid(checksum::sum(ip.as_bytes())));
    let pseudo = pseudo_header(
        IpAddr::V4(ip.source()),
        IpAddr::V4(ip.destination()),
        Protocol::UDP,
        udp.bytes.get().into(),
    )
    .unwrap();
    assert!(checksum::is_valid(pseudo + checksum::sum(rest)));
}

#[test]
fn a_header_built_here_is_accepted_by_etherparse() {
    let ip = Ipv4::new(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Protocol::UDP, 8);
    let mut packet = ip.as_bytes().to_vec();
    packet.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
    let sliced = SlicedPacket::from_ip(&packet).unwrap();
    let etherparse::NetSlice::Ipv4(parsed) = sliced.net.unwrap() else { panic!("not IPv4") };
    let header = parsed.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
}
