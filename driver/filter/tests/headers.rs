//! Headers at their edges: what is just long enough is read, what is a byte short of it is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_flow::{DropReason, Endpoints, Sap, Stray, Transport};
use base_wire::{Arp, ETHERNET_BYTES, Mac};
use driver_filter::{Demux, Origin, Verdict};
use zerocopy::IntoBytes;

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const NOBODYS: u8 = 99;

/// Both ends in both families: `[us, the peer, a router, somebody else]`.
const V4: [IpAddr; 4] = [v4(10, 77, 0, 1), v4(192, 0, 2, 7), v4(10, 77, 0, 254), v4(192, 0, 2, 8)];
const V6: [IpAddr; 4] = [v6(1), v6(7), v6(254), v6(8)];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
}

/// Of each family: connected flows of UDP and TCP between the ports 1000 and 2000, and a flow of echoes.
const FLOWS: [(Transport, u32); 3] =
    [(Transport::Udp, 1), (Transport::Tcp, 2), (Transport::Icmp, 3)];

fn demux() -> Demux {
    let mut demux = Demux::new(US, None, [1, 2]);
    demux.set_addresses(&["10.77.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()]);
    for (family, [us, peer, ..]) in [(0, V4), (10, V6)] {
        for (transport, flow) in FLOWS {
            let connected = transport != Transport::Icmp;
            let remote = connected.then_some(Sap::new(peer, 2000));
            let ends = Endpoints { transport, local: Sap::new(us, 1000), remote };
            demux.install(&ends, family + flow).unwrap();
        }
    }
    demux
}

fn classify(frame: &[u8]) -> Verdict {
    demux().classify(frame, None, Origin::Wire)
}

const fn drops(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

/// An IP packet; of IPv4 with so many bytes of options.
fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    options: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.push(0x45 + options as u8 / 4);
            packet.push(0);
            packet.extend((20 + options as u16 + payload.len() as u16).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.resize(20 + options, 1);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => panic!("two families"),
    }
    packet.extend(payload);
    packet
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&US.0[..], &PEER.0, &ether_type, packet].concat()
}

fn udp(from: u16, to: u16, length: u16, bytes: usize) -> Vec<u8> {
    let mut header = [from, to, length, 0].map(u16::to_be_bytes).concat();
    header.resize(bytes, 0);
    header
}

fn tcp(from: u16, to: u16, words: u8, bytes: usize) -> Vec<u8> {
    let mut header = [from, to].map(u16::to_be_bytes).concat();
    header.resize(12, 0);
    header.push(words << 4);
    header.resize(bytes, 0);
    header
}

fn icmp(kind: u8, id: u16, quoted: &[u8]) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 1], quoted].concat()
}

#[test]
fn transport_headers_are_read_if_they_are_there_to_the_last_byte() {
    let malformed = drops(DropReason::MalformedTransport);
    for (base, options, ends) in [(0, 0, V4), (0, 8, V4), (0, 40, V4), (10, 0, V6)] {
        let [us, peer, ..] = ends;
        let lower = ETHERNET_BYTES + if us.is_ipv4() { 20 + options } else { 40 };
        let to = |flow, bytes| Verdict::Flow { flow, header_bytes: (lower + bytes) as u16 };
        let (echo, reply, request) = if us.is_ipv4() { (ICMP, 0, 8) } else { (ICMPV6, 129, 128) };
        let rows: &[(&str, u8, Vec<u8>, Verdict)] = &[
            ("an empty datagram", UDP, udp(2000, 1000, 8, 8), to(base + 1, 8)),
            ("padding behind it", UDP, udp(2000, 1000, 8, 12), to(base + 1, 8)),
            ("its length without its header", UDP, udp(2000, 1000, 7, 12), malformed),
            ("its length beyond the packet", UDP, udp(2000, 1000, 9, 8), malformed),
            ("its header cut", UDP, udp(2000, 1000, 8, 7), malformed),
            ("a segment", TCP, tcp(2000, 1000, 5, 20), to(base + 2, 20)),
            ("its options", TCP, tcp(2000, 1000, 6, 24), to(base + 2, 24)),
            ("all of them", TCP, tcp(2000, 1000, 15, 64), to(base + 2, 60)),
            ("options cut", TCP, tcp(2000, 1000, 6, 23), malformed),
            ("a header of 16 bytes", TCP, tcp(2000, 1000, 4, 20), malformed),
            ("its header cut", TCP, tcp(2000, 1000, 5, 19), malformed),
            ("an echo", echo, icmp(reply, 1000, &[]), to(base + 3, 8)),
            ("of nobody", echo, icmp(reply, 999, &[]), drops(DropReason::Unclaimed)),
            ("its request", echo, icmp(request, 1000, &[]), Verdict::LastResort(Stray::Control)),
            ("its header cut", echo, icmp(reply, 1000, &[])[..7].to_vec(), malformed),
            ("another's port", UDP, udp(2000, 999, 8, 8), Verdict::LastResort(Stray::Others)),
            ("another's port", TCP, tcp(2001, 1000, 5, 20), Verdict::LastResort(Stray::Segments)),
            ("nobody's protocol", NOBODYS, vec![0; 8], Verdict::LastResort(Stray::Others)),
            ("and nothing in it", NOBODYS, vec![], Verdict::LastResort(Stray::Others)),
        ];
        for (name, protocol, transport, verdict) in rows {
            let plain = frame(&packet(peer, us, *protocol, options, transport));
            assert_eq!(classify(&plain), *verdict, "{name}, protocol {protocol}, from {peer}");
            // Links pad short frames; a tag moves everything by four bytes.
            let padded = [&plain[..], &[0; 30]].concat();
            assert_eq!(classify(&padded), *verdict, "{name}, padded, from {peer}");
            let tagged = [&plain[..12], &[0x81, 0, 0, 0], &plain[12..]].concat();
            let moved = match *verdict {
                Verdict::Flow { flow, header_bytes } => {
                    Verdict::Flow { flow, header_bytes: header_bytes + 4 }
                }
                other => other,
            };
            assert_eq!(classify(&tagged), moved, "{name}, tagged, from {peer}");
        }
    }
}

#[test]
fn lower_headers_are_read_if_they_are_there_to_the_last_byte() {
    let (truncated, malformed) = (DropReason::Truncated, DropReason::MalformedIp);
    let cut_short = |frame: &[u8], least: usize, whole: Verdict| {
        for bytes in 0..=frame.len() {
            let expected = if bytes < least { drops(truncated) } else { whole };
            assert_eq!(classify(&frame[..bytes]), expected, "{bytes} of {} bytes", frame.len());
        }
    };
    let request = Arp::request(PEER, Ipv4Addr::new(10, 77, 0, 9), Ipv4Addr::new(10, 77, 0, 1));
    let arp = [&[0xff; 6][..], &PEER.0, &[8, 6], request.as_bytes(), &[0; 18]].concat();
    cut_short(&arp, 14 + 28, Verdict::LastResort(Stray::Neighbours));
    let tagged = [&arp[..12], &[0x81, 0, 0, 0], &arp[12..]].concat();
    cut_short(&tagged, 18 + 28, Verdict::LastResort(Stray::Neighbours));
    for [us, peer, ..] in [V4, V6] {
        for options in [0, 40] {
            let whole = frame(&packet(peer, us, NOBODYS, options, &[7; 9]));
            cut_short(&whole, whole.len(), Verdict::LastResort(Stray::Others));
        }
    }
    let [us, peer, ..] = V4;
    let changed = |at: usize, bytes: &[u8]| {
        let mut packet = packet(peer, us, NOBODYS, 0, &[7; 40]);
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        classify(&frame(&packet)[..])
    };
    let read = Verdict::LastResort(Stray::Others);
    assert_eq!(changed(0, &[0x44]), drops(malformed));
    assert_eq!(changed(2, &[0, 19]), drops(malformed));
    assert_eq!(changed(2, &[0, 20]), read);
    assert_eq!(changed(0, &[0x46, 0, 0, 23]), drops(malformed));
    assert_eq!(changed(0, &[0x46, 0, 0, 24]), read);
    assert_eq!(changed(2, &[0, 61]), drops(truncated));
    assert_eq!(changed(6, &[0x20, 0]), drops(DropReason::Fragment));
    assert_eq!(changed(6, &[0, 1]), drops(DropReason::Fragment));
    let [us, peer, ..] = V6;
    let sixth = frame(&packet(peer, us, FRAGMENT, 0, &[7; 40]));
    assert_eq!(classify(&sixth), drops(DropReason::Fragment));
    let mut fourth = sixth.clone();
    fourth[14] = 0x40;
    assert_eq!(classify(&fourth), drops(malformed));
    let mut longer = sixth;
    longer[19] = 41;
    assert_eq!(classify(&longer), drops(truncated));
}

/// What a control message that a router sent of `quoted` is for.
fn about(us: IpAddr, kind: u8, quoted: &[u8]) -> Option<u32> {
    let (protocol, [_, _, router, _]) = if us.is_ipv4() { (ICMP, V4) } else { (ICMPV6, V6) };
    match classify(&frame(&packet(router, us, protocol, 0, &icmp(kind, 0, quoted)))) {
        Verdict::Flow { flow, header_bytes } => {
            assert_eq!(header_bytes, if us.is_ipv4() { 42 } else { 62 });
            Some(flow)
        }
        Verdict::LastResort(Stray::Control | Stray::Neighbours) => None,
        Verdict::Drop(DropReason::Unclaimed) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_belong_to_the_flow_whose_packet_they_quote_and_nothing_else_does() {
    for (base, [us, peer, ..]) in [(0, V4), (10, V6)] {
        let quoted = packet(us, peer, TCP, 0, &tcp(1000, 2000, 5, 20));
        for kind in 0..=255 {
            let error = if us.is_ipv4() { [3, 11, 12].contains(&kind) } else { kind < 128 };
            assert_eq!(about(us, kind, &quoted), error.then_some(base + 2), "{us}, kind {kind}");
        }
    }
}

#[test]
fn a_quote_is_read_as_far_as_it_must_be_there() {
    for (base, [us, peer, _, other]) in [(0, V4), (10, V6)] {
        let (kind, header) = if us.is_ipv4() { (3, 20) } else { (1, 40) };
        let (echo, request) = if us.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
        // Of a transport header the first bytes may be all that there are.
        let rows: &[(u8, Vec<u8>, usize, u32)] = &[
            (UDP, udp(1000, 2000, 8, 8), 4, base + 1),
            (TCP, tcp(1000, 2000, 5, 20), 4, base + 2),
            (echo, icmp(request, 1000, &[]), 8, base + 3),
        ];
        for (protocol, transport, least, flow) in rows {
            let quoted = packet(us, peer, *protocol, 0, transport);
            for bytes in 0..=quoted.len() {
                let expected = (bytes >= header + least).then_some(*flow);
                assert_eq!(about(us, kind, &quoted[..bytes]), expected, "{bytes} of {protocol}");
            }
        }
        let segment = |from, to, source, destination| {
            about(us, kind, &packet(source, destination, TCP, 0, &tcp(from, to, 5, 20)))
        };
        assert_eq!(segment(1000, 2000, us, peer), Some(base + 2));
        assert_eq!(segment(1001, 2000, us, peer), None, "a port that is not open");
        assert_eq!(segment(1000, 2001, us, peer), None, "a peer's port that nobody asked");
        assert_eq!(segment(1000, 2000, us, other), None, "a peer whom nobody asked");
        assert_eq!(segment(1000, 2000, other, peer), None, "a packet that was not ours");
        assert_eq!(segment(2000, 1000, peer, us), None, "a packet that was for us");
        let other_protocol = packet(us, peer, NOBODYS, 0, &tcp(1000, 2000, 5, 20));
        assert_eq!(about(us, kind, &other_protocol), None);
        let mut other_version = packet(us, peer, TCP, 0, &tcp(1000, 2000, 5, 20));
        other_version[0] ^= 0x30;
        assert_eq!(about(us, kind, &other_version), None);
    }
    let [us, peer, ..] = V4;
    let quoted = packet(us, peer, TCP, 8, &tcp(1000, 2000, 5, 20));
    assert_eq!(about(us, 3, &quoted), Some(2), "with options");
    let changed = |at: usize, byte: u8| {
        let mut quoted = packet(us, peer, TCP, 0, &tcp(1000, 2000, 5, 20));
        quoted[at] = byte;
        about(us, 3, &quoted)
    };
    assert_eq!(changed(6, 0x20), None, "the first part of a packet");
    assert_eq!(changed(7, 1), None, "a later part of one");
    // An address that is the ports 1000 and 2000, if the header ended before it.
    let mut short = packet(us, v4(3, 232, 7, 208), TCP, 0, &tcp(1000, 2000, 5, 20));
    short[0] = 0x44;
    let mut demux = demux();
    let remote = Some(Sap::new(v4(3, 232, 7, 208), 2000));
    demux
        .install(&Endpoints { transport: Transport::Tcp, local: Sap::new(us, 1000), remote }, 9)
        .unwrap();
    let of = |quoted: &[u8]| {
        let message = frame(&packet(V4[2], us, ICMP, 0, &icmp(3, 0, quoted)));
        demux.classify(&message, None, Origin::Wire)
    };
    assert_eq!(of(&short), drops(DropReason::Unclaimed), "a header of 16 bytes");
    short[0] = 0x45;
    assert_eq!(of(&short), Verdict::Flow { flow: 9, header_bytes: 42 });
}

#[test]
fn control_messages_of_one_family_mean_nothing_in_the_other() {
    for ([us, peer, ..], protocol, reply) in [(V4, ICMPV6, 129), (V6, ICMP, 0)] {
        let verdict = classify(&frame(&packet(peer, us, protocol, 0, &icmp(reply, 1000, &[]))));
        assert!(matches!(verdict, Verdict::LastResort(_)), "{verdict:?}");
    }
}

#[test]
fn an_address_of_many_is_no_sender_and_only_datagrams_and_neighbours_are_for_it() {
    let [us, peer, _, other] = V6;
    let group = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let (nobody, loopback) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let of = |source, destination, station: [u8; 6], origin| {
        let mut frame = frame(&packet(source, destination, UDP, 0, &udp(2000, 1000, 8, 8)));
        frame[..6].copy_from_slice(&station);
        demux().classify(&frame, None, origin)
    };
    let groups = [0x33, 0x33, 0, 0, 0, 1];
    let wire = |source, destination, station| of(source, destination, station, Origin::Wire);
    let bad = drops(DropReason::BadSource);
    assert_eq!(wire(peer, us, US.0), Verdict::Flow { flow: 11, header_bytes: 62 });
    for source in [group, loopback, nobody] {
        for origin in [Origin::Wire, Origin::Inside] {
            assert_eq!(of(source, us, US.0, origin), bad, "{source}");
        }
    }
    assert_eq!(wire(us, us, US.0), bad);
    assert_eq!(of(us, us, US.0, Origin::Inside), Verdict::LastResort(Stray::Others));
    assert_eq!(wire(peer, other, US.0), drops(DropReason::NotOurAddress));
    assert_eq!(wire(peer, us, groups), drops(DropReason::SentToMany));
    assert_eq!(wire(peer, group, groups), drops(DropReason::Unclaimed));
    assert_eq!(wire(nobody, group, groups), drops(DropReason::Unclaimed));
    let solicitation = |destination, station: [u8; 6]| {
        let mut frame = frame(&packet(nobody, destination, ICMPV6, 0, &icmp(135, 0, &[])));
        frame[..6].copy_from_slice(&station);
        classify(&frame)
    };
    assert_eq!(solicitation(group, groups), Verdict::LastResort(Stray::Neighbours));
    assert_eq!(solicitation(us, groups), bad, "who has no address asks everybody");

    let [us, peer, ..] = V4;
    let group = v4(224, 0, 0, 1);
    let from = frame(&packet(peer, group, UDP, 0, &udp(2000, 1000, 8, 8)));
    assert_eq!(classify(&from), drops(DropReason::NotOurAddress));
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let from = frame(&packet(nobody, us, UDP, 0, &udp(2000, 1000, 8, 8)));
    assert_eq!(classify(&from), bad);
}
