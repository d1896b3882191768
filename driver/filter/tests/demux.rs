//! The demultiplexer against a linear scan over an independently parsed packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_flow::{DropReason, Endpoints, Sap, Stray, Transport};
use base_wire::{Arp, Mac, Protocol};
use driver_filter::{Demux, InUse, Origin, Verdict};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use zerocopy::IntoBytes;

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OURS_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OURS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn demux() -> Demux {
    let mut demux = Demux::new(US, None, [1, 2]);
    demux.set_addresses(&["10.77.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()]);
    demux
}

/// The definition: of all flows that match, the one with the most ends given.
fn scan(flows: &[(Endpoints, u32)], frame: &[u8]) -> Option<u32> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let (transport, there, here) = match packet.transport.as_ref()? {
        TransportSlice::Udp(udp) => (Transport::Udp, udp.source_port(), udp.destination_port()),
        TransportSlice::Tcp(tcp) => (Transport::Tcp, tcp.source_port(), tcp.destination_port()),
        _ => return None,
    };
    let matches = |ends: &Endpoints| {
        ends.transport == transport
            && ends.local.port == here
            && ends.local.address.is_ipv4() == destination.is_ipv4()
            && (ends.local.is_any_address() || ends.local.address == destination)
            && ends.remote.is_none_or(|remote| remote == Sap::new(source, there))
    };
    let rank = |ends: &Endpoints| (ends.remote.is_some(), !ends.local.is_any_address());
    flows
        .iter()
        .filter(|(ends, _)| matches(ends))
        .max_by_key(|(ends, _)| rank(ends))
        .map(|(_, flow)| *flow)
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let transport = prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)];
    (transport, any::<bool>(), any::<bool>(), any::<bool>(), 1u16..4, 1u16..4, 2u8..5).prop_map(
        |(transport, v6, any_address, connected, here, there, host)| {
            let (ours, all, peer): (IpAddr, IpAddr, IpAddr) = if v6 {
                (
                    OURS_V6.into(),
                    Ipv6Addr::UNSPECIFIED.into(),
                    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
                )
            } else {
                (
                    OURS_V4.into(),
                    Ipv4Addr::UNSPECIFIED.into(),
                    Ipv4Addr::new(10, 77, 0, host).into(),
                )
            };
            // A connected flow has a definite local address: the flow manager fills it in.
            let local = Sap::new(if any_address && !connected { all } else { ours }, here);
            Endpoints { transport, local, remote: connected.then_some(Sap::new(peer, there)) }
        },
    )
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), any::<bool>(), 1u16..4, 1u16..4, 2u8..5).prop_map(
        |(v6, tcp, there, here, host)| {
            let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0);
            let ip = if v6 {
                link.ipv6(
                    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).octets(),
                    OURS_V6.octets(),
                    64,
                )
            } else {
                link.ipv4([10, 77, 0, host], OURS_V4.octets(), 64)
            };
            let mut frame = Vec::new();
            if tcp {
                ip.tcp(there, here, 1, 1000).write(&mut frame, b"x").unwrap();
            } else {
                ip.udp(there, here).write(&mut frame, b"x").unwrap();
            }
            frame
        },
    )
}

proptest! {
    #[test]
    fn a_frame_goes_where_a_linear_scan_sends_it(
        ends in proptest::collection::vec(endpoints(), 0..24),
        frames in proptest::collection::vec(frame(), 1..16),
        removed in any::<u32>(),
    ) {
        let mut demux = demux();
        let mut flows: Vec<(Endpoints, u32)> = Vec::new();
        for (index, ends) in ends.into_iter().enumerate() {
            let taken = flows.iter().find(|(other, _)| *other == ends).map(|(_, flow)| InUse { flow: *flow });
            let installed = demux.install(&ends, index as u32);
            prop_assert_eq!(installed.err(), taken);
            if taken.is_none() {
                flows.push((ends, index as u32));
            }
        }
        flows.retain(|(ends, flow)| {
            let keep = removed & (1 << flow) == 0;
            demux.remove(ends, *flow + 100);
            if !keep {
                demux.remove(ends, *flow);
            }
            keep
        });
        prop_assert_eq!((demux.len(), demux.is_empty()), (flows.len(), flows.is_empty()));
        for frame in frames {
            let verdict = match demux.classify(&frame, None, Origin::Wire) {
                Verdict::Flow { flow, .. } => Some(flow),
                Verdict::LastResort(_) => None,
                Verdict::Drop(reason) => return Err(TestCaseError::fail(format!("dropped: {reason}"))),
            };
            prop_assert_eq!(verdict, scan(&flows, &frame));
        }
    }

    #[test]
    fn no_bytes_make_the_demultiplexer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), vlan in any::<Option<u16>>()) {
        let _ = demux().classify(&bytes, vlan, Origin::Wire);
    }

    #[test]
    fn a_damaged_frame_is_never_claimed_against_the_independent_parser(mut frame in frame(), at in 0usize..54, value: u8) {
        let ends = Endpoints { transport: Transport::Udp, local: Sap::any_v4(1), remote: None };
        let mut demux = demux();
        demux.install(&ends, 7).unwrap();
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        if let Verdict::Flow { .. } = demux.classify(&frame, None, Origin::Wire) {
            prop_assert_eq!(scan(&[(ends, 7)], &frame), Some(7));
        }
    }
}

fn udp_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
        .ipv4([10, 77, 0, 2], OURS_V4.octets(), 64)
        .udp(2000, 1000)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = udp_frame();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn every_reason_to_drop_has_a_frame_that_causes_it() {
    let mut demux = demux();
    let local = Sap::new(OURS_V4.into(), 1000);
    demux.install(&Endpoints { transport: Transport::Udp, local, remote: None }, 5).unwrap();
    let verdict = |frame: &[u8]| demux.classify(frame, None, Origin::Wire);
    assert_eq!(verdict(&udp_frame()), Verdict::Flow { flow: 5, header_bytes: 42 });
    let rows: &[(&str, Vec<u8>, DropReason)] = &[
        ("no whole Ethernet header", udp_frame()[..13].to_vec(), DropReason::Truncated),
        ("no whole IP header", udp_frame()[..30].to_vec(), DropReason::Truncated),
        ("payload cut", udp_frame()[..45].to_vec(), DropReason::Truncated),
        ("another station", with(5, &[2]), DropReason::NotOurMac),
        ("unknown type", with(12, &[0x12, 0x34]), DropReason::UnknownEtherType),
        ("version 5", with(14, &[0x55]), DropReason::MalformedIp),
        ("header of 16 bytes", with(14, &[0x44]), DropReason::MalformedIp),
        ("total below header", with(16, &[0, 19]), DropReason::MalformedIp),
        ("first fragment", with(20, &[0x20, 0]), DropReason::Fragment),
        ("later fragment", with(20, &[0, 9]), DropReason::Fragment),
        ("another host", with(33, &[9]), DropReason::NotOurAddress),
        ("UDP length below header", with(38, &[0, 7]), DropReason::MalformedTransport),
        ("UDP length beyond packet", with(38, &[0, 99]), DropReason::MalformedTransport),
        ("broadcast to nobody", with(30, &[10, 77, 0, 255, 0, 0, 9, 9]), DropReason::Unclaimed),
    ];
    for (name, frame, reason) in rows {
        assert_eq!(verdict(frame), Verdict::Drop(*reason), "{name}");
    }
    assert_eq!(
        verdict(&with(36, &[9, 9])),
        Verdict::LastResort(Stray::Others),
        "a port nobody owns"
    );
    assert_eq!(
        verdict(&with(23, &[89])),
        Verdict::LastResort(Stray::Others),
        "a protocol nobody speaks"
    );
}

#[test]
fn what_the_flow_manager_would_not_answer_does_not_come_to_it() {
    let demux = demux();
    let peer = [10, 77, 0, 2];
    let icmp = |kind: u8, protocol: u8| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
            .ipv4(peer, OURS_V4.octets(), 64)
            .write(&mut frame, protocol.into(), &[kind, 0, 0, 0, 0, 1, 0, 1])
            .unwrap();
        demux.classify(&frame, None, Origin::Wire)
    };
    for kind in 0..=255 {
        let expected = match kind {
            8 => Verdict::LastResort(Stray::Control),
            _ => Verdict::Drop(DropReason::Unclaimed),
        };
        assert_eq!(icmp(kind, 1), expected, "ICMP {kind}");
        assert_eq!(icmp(kind, 58), Verdict::LastResort(Stray::Others), "no protocol of IPv4");
    }
    let mut demux = self::demux();
    let remote = Some(Sap::new(Ipv4Addr::from(peer).into(), 2000));
    let local = Sap::new(OURS_V4.into(), 1000);
    demux.park(&Endpoints { transport: Transport::Tcp, local, remote });
    let verdict = demux.classify(&unreachable(), None, Origin::Wire);
    assert_eq!(verdict, Verdict::Drop(DropReason::Unclaimed), "about a connection that is over");
}

/// A report that a segment between the ports 1000 and 2000 did not arrive.
fn unreachable() -> Vec<u8> {
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(OURS_V4.octets(), [10, 77, 0, 2], 64)
        .tcp(1000, 2000, 1, 1)
        .write(&mut quoted, &[])
        .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
        .ipv4([10, 77, 0, 2], OURS_V4.octets(), 64)
        .write(&mut frame, 1.into(), &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat())
        .unwrap();
    frame
}

#[test]
fn a_link_without_an_ipv6_address_is_in_no_group_of_ipv6() {
    let mut demux = Demux::new(US, None, [1, 2]);
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let them = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let frames = || {
        let to = || {
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0x33, 0x33, 0, 0, 0, 1]).ipv6(
                them.octets(),
                everybody.octets(),
                255,
            )
        };
        let mut frames = vec![Vec::new(); 3];
        to().icmpv6_raw(135, 0, [0; 4]).write(&mut frames[0], &[0; 16]).unwrap();
        to().icmpv6_echo_request(1, 1).write(&mut frames[1], &[]).unwrap();
        to().udp(5353, 5353).write(&mut frames[2], b"who is there?").unwrap();
        frames
    };
    let verdicts = |demux: &Demux| {
        frames().iter().map(|frame| demux.classify(frame, None, Origin::Wire)).collect::<Vec<_>>()
    };
    demux.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
    assert_eq!(verdicts(&demux), [Verdict::Drop(DropReason::NotOurAddress); 3]);
    demux.set_addresses(&["10.77.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()]);
    let unclaimed = Verdict::Drop(DropReason::Unclaimed);
    let discovery = Verdict::LastResort(Stray::Neighbours);
    assert_eq!(verdicts(&demux), [discovery, unclaimed, unclaimed]);
}

#[test]
fn arp_between_others_is_told_from_arp_for_our_addresses_and_about_them() {
    let demux = demux();
    let (them, another) = (Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 3));
    let peer = Mac([2, 0, 0, 0, 0, 9]);
    let verdict = |arp: Arp, change: fn(&mut Vec<u8>)| {
        let mut frame = [&[0xff; 6][..], &peer.0, &[8, 6], arp.as_bytes()].concat();
        change(&mut frame);
        demux.classify(&frame, None, Origin::Wire)
    };
    let as_it_is: fn(&mut Vec<u8>) = |_| {};
    let (ours, gossip) =
        (Verdict::LastResort(Stray::Neighbours), Verdict::LastResort(Stray::Gossip));
    let nobody = Ipv4Addr::UNSPECIFIED;
    for (arp, expected) in [
        (Arp::request(peer, them, OURS_V4), ours),
        (Arp::reply(peer, them, US, OURS_V4), ours),
        (Arp::request(peer, nobody, OURS_V4), ours),
        (Arp::request(peer, OURS_V4, OURS_V4), ours),
        (Arp::request(peer, OURS_V4, them), ours),
        (Arp::request(peer, them, another), gossip),
        (Arp::request(peer, them, them), gossip),
        (Arp::reply(peer, them, Mac::BROADCAST, them), gossip),
        (Arp::request(peer, nobody, them), gossip),
    ] {
        assert_eq!(verdict(arp, as_it_is), expected, "{arp:?}");
    }
    let request = Arp::request(peer, them, OURS_V4);
    let unclaimed = Verdict::Drop(DropReason::Unclaimed);
    assert_eq!(verdict(request, |frame| frame[21] = 3), unclaimed, "neither question nor answer");
    assert_eq!(verdict(request, |frame| frame[16] = 9), unclaimed, "not for IPv4");
    assert_eq!(verdict(request, |frame| frame.truncate(41)), Verdict::Drop(DropReason::Truncated));
}

#[test]
fn vlan_tags_in_the_frame_and_beside_it_mean_the_same() {
    let mut tagged = udp_frame();
    tagged.splice(12..12, [0x81, 0x00, 0x20, 0x07]);
    let local = Sap::new(OURS_V4.into(), 1000);
    let ends = Endpoints { transport: Transport::Udp, local, remote: None };
    for (vlan, expected_tagged, expected_plain) in
        [(None, false, true), (Some(7), true, false), (Some(8), false, false)]
    {
        let mut demux = Demux::new(US, vlan, [1, 2]);
        demux.set_addresses(&["10.77.0.1/24".parse().unwrap()]);
        demux.install(&ends, 5).unwrap();
        let claimed = |frame: &[u8], beside| {
            matches!(demux.classify(frame, beside, Origin::Wire), Verdict::Flow { .. })
        };
        assert_eq!(claimed(&tagged, None), expected_tagged, "in the frame, link in {vlan:?}");
        assert_eq!(
            claimed(&udp_frame(), Some(0x2007)),
            expected_tagged,
            "beside it, link in {vlan:?}"
        );
        assert_eq!(claimed(&udp_frame(), None), expected_plain, "untagged, link in {vlan:?}");
        assert_eq!(
            claimed(&udp_frame(), Some(0x2000)),
            expected_plain,
            "priority tag, link in {vlan:?}"
        );
    }
    assert_eq!(
        demux().classify(&tagged, Some(7), Origin::Wire),
        Verdict::Drop(DropReason::OtherVlan),
        "two tags"
    );
}

#[test]
fn control_messages_go_to_the_flow_they_are_about() {
    let mut demux = demux();
    let local = Sap::new(OURS_V4.into(), 1000);
    let remote = Some(Sap::new(Ipv4Addr::new(10, 77, 0, 2).into(), 2000));
    demux.install(&Endpoints { transport: Transport::Udp, local, remote }, 5).unwrap();
    demux
        .install(
            &Endpoints {
                transport: Transport::Icmp,
                local: Sap::new(OURS_V4.into(), 77),
                remote: None,
            },
            6,
        )
        .unwrap();
    let icmp = |kind: u8, id: u16, quoted: &[u8]| {
        let mut frame = Vec::new();
        let mut payload = vec![kind, 0, 0, 0];
        payload.extend(id.to_be_bytes());
        payload.extend([0, 1]);
        payload.extend(quoted);
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
            .ipv4([10, 77, 0, 2], OURS_V4.octets(), 64)
            .write(&mut frame, etherparse::IpNumber::ICMP, &payload)
            .unwrap();
        frame
    };
    let sent = |from: [u8; 4]| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(from, [10, 77, 0, 2], 64)
            .udp(1000, 2000)
            .write(&mut packet, &[])
            .unwrap();
        packet
    };
    let flow = |frame: &[u8]| match demux.classify(frame, None, Origin::Wire) {
        Verdict::Flow { flow, .. } => Some(flow),
        _ => None,
    };
    assert_eq!(flow(&icmp(0, 77, &[])), Some(6), "echo reply");
    assert_eq!(flow(&icmp(0, 78, &[])), None, "echo reply to nobody");
    assert_eq!(flow(&icmp(8, 77, &[])), None, "echo request is the flow manager's");
    assert_eq!(flow(&icmp(3, 0, &sent([10, 77, 0, 1]))), Some(5), "unreachable");
    assert_eq!(
        flow(&icmp(3, 0, &sent([10, 77, 0, 3]))),
        None,
        "about a packet we cannot have sent"
    );
    assert_eq!(flow(&icmp(3, 0, &sent([10, 77, 0, 1])[..21])), None, "quote cut short");
}

fn udp_between(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
        .ipv4(source, destination, 64)
        .udp(2000, 1000)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn echo_reply(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
        .ipv4(source, destination, 64)
        .icmpv4_echo_reply(1000, 1)
        .write(&mut frame, &[])
        .unwrap();
    frame
}

fn tcp_frame(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
        .ipv4(source, destination, 64)
        .tcp(2000, 1000, 1, 100)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

#[test]
fn what_is_parked_goes_to_the_last_resort_whoever_listens_until_a_flow_has_it() {
    let mut demux = demux();
    let local = Sap::new(OURS_V4.into(), 1000);
    let remote = Some(Sap::new(std::net::Ipv4Addr::new(10, 77, 0, 2).into(), 2000));
    let listener = Endpoints { transport: Transport::Tcp, local, remote: None };
    let parked = Endpoints { remote, ..listener };
    let verdict = |demux: &Demux| {
        demux.classify(&tcp_frame([10, 77, 0, 2], OURS_V4.octets()), None, Origin::Wire)
    };
    let to = |flow| Verdict::Flow { flow, header_bytes: 54 };
    demux.install(&listener, 5).unwrap();
    assert_eq!(verdict(&demux), to(5));
    demux.park(&parked);
    assert_eq!(verdict(&demux), Verdict::LastResort(Stray::Parked));
    demux.unpark(&parked);
    assert_eq!(verdict(&demux), to(5));
    demux.park(&parked);
    demux.install(&parked, 6).unwrap();
    assert_eq!(verdict(&demux), to(6));
    demux.park(&parked);
    demux.unpark(&parked);
    assert_eq!(verdict(&demux), to(6), "a flow's ends cannot be parked");
}

#[test]
fn a_packet_for_one_that_reached_many_is_nobodys() {
    let mut demux = demux();
    for (flow, transport) in [(1, Transport::Udp), (2, Transport::Tcp), (3, Transport::Icmp)] {
        let ends = Endpoints { transport, local: Sap::any_v4(1000), remote: None };
        demux.install(&ends, flow).unwrap();
    }
    let (ours, peer) = (OURS_V4.octets(), [10, 77, 0, 2]);
    let subnet = [10, 77, 0, 255];
    let all = [255; 4];
    let of = |protocol, destination| match protocol {
        Protocol::UDP => udp_between(peer, destination),
        Protocol::TCP => tcp_frame(peer, destination),
        _ => echo_reply(peer, destination),
    };
    let to_station = |frame: Vec<u8>, station: [u8; 6]| {
        let mut frame = frame;
        frame[..6].copy_from_slice(&station);
        demux.classify(&frame, None, Origin::Wire)
    };
    let many = Verdict::Drop(DropReason::SentToMany);
    for protocol in [Protocol::UDP, Protocol::TCP, Protocol::ICMP] {
        let to_us = to_station(of(protocol, ours), US.0);
        assert!(matches!(to_us, Verdict::Flow { .. }), "{protocol:?}");
        for station in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(to_station(of(protocol, ours), station), many, "{protocol:?} {station:?}");
        }
        for station in [[0xff; 6], US.0] {
            for destination in [subnet, all] {
                let verdict = to_station(of(protocol, destination), station);
                let heard = matches!(verdict, Verdict::Flow { flow: 1, .. });
                assert_eq!(heard, protocol == Protocol::UDP, "{protocol:?} {destination:?}");
                assert!(heard || verdict == many, "MUST-57: {protocol:?} {destination:?}");
            }
        }
    }
    // What nobody owns goes to the flow manager only if it came to us alone.
    let mut stray = udp_between(peer, ours);
    stray[36..38].fill(9);
    assert_eq!(to_station(stray.clone(), US.0), Verdict::LastResort(Stray::Others));
    assert_eq!(to_station(stray, [0xff; 6]), many);
}

#[test]
fn nobody_on_the_wire_has_our_address_or_one_that_nobody_has() {
    let mut demux = demux();
    for (flow, transport) in [(1, Transport::Udp), (2, Transport::Tcp), (3, Transport::Icmp)] {
        let ends = Endpoints { transport, local: Sap::any_v4(1000), remote: None };
        demux.install(&ends, flow).unwrap();
    }
    let ours = OURS_V4.octets();
    let verdict = |frame: &[u8], origin| demux.classify(frame, None, origin);
    let bad = Verdict::Drop(DropReason::BadSource);
    let nobodys = [
        [10, 77, 0, 255],
        [255; 4],
        [224, 0, 0, 1],
        [239, 1, 2, 3],
        [127, 0, 0, 1],
        [127, 9, 9, 9],
        [0; 4],
        [0, 1, 2, 3],
    ];
    for make in [udp_between, tcp_frame, echo_reply] {
        for from in nobodys {
            for origin in [Origin::Wire, Origin::Inside] {
                assert_eq!(verdict(&make(from, ours), origin), bad, "MUST-63: {from:?}");
            }
        }
        let in_our_name = make(ours, ours);
        assert_eq!(verdict(&in_our_name, Origin::Wire), bad);
        assert!(matches!(verdict(&in_our_name, Origin::Inside), Verdict::Flow { .. }));
        let mut stray = make(ours, ours);
        stray[23] = 89;
        assert_eq!(verdict(&stray, Origin::Wire), bad, "nor does the flow manager see it");
        let from_station = |station: [u8; 6]| {
            let mut frame = make([10, 77, 0, 2], ours);
            frame[6..12].copy_from_slice(&station);
            frame
        };
        assert!(matches!(
            verdict(&from_station([2, 9, 9, 9, 9, 9]), Origin::Wire),
            Verdict::Flow { .. }
        ));
        assert_eq!(verdict(&from_station(US.0), Origin::Wire), bad);
        assert_eq!(verdict(&from_station([0xff; 6]), Origin::Wire), bad);
        assert!(matches!(verdict(&from_station(US.0), Origin::Inside), Verdict::Flow { .. }));
    }
    // Who has no address yet asks everybody.
    let asking = udp_between([0; 4], [255; 4]);
    assert!(matches!(verdict(&asking, Origin::Wire), Verdict::Flow { flow: 1, .. }));
}

#[test]
fn nobody_on_the_wire_has_an_address_that_is_ours_on_another_link() {
    let mut demux = demux();
    let ends = Endpoints { transport: Transport::Udp, local: Sap::any_v4(1000), remote: None };
    demux.install(&ends, 1).unwrap();
    let verdict = |demux: &Demux, from, origin| {
        demux.classify(&udp_between(from, OURS_V4.octets()), None, origin)
    };
    let taken = Verdict::Flow { flow: 1, header_bytes: 42 };
    let bad = Verdict::Drop(DropReason::BadSource);
    let (other, everybody, stranger) = ([10, 78, 0, 1], [10, 78, 0, 255], [10, 78, 0, 2]);
    assert_eq!(verdict(&demux, other, Origin::Wire), taken, "whose it is was not said");
    demux.set_elsewhere(&["10.78.0.1/24".parse().unwrap()]);
    assert_eq!(verdict(&demux, other, Origin::Wire), bad);
    assert_eq!(verdict(&demux, everybody, Origin::Wire), bad);
    assert_eq!(verdict(&demux, everybody, Origin::Inside), bad);
    assert_eq!(verdict(&demux, stranger, Origin::Wire), taken, "others there may call");
    let to = udp_between([10, 77, 0, 2], other);
    let verdict = demux.classify(&to, None, Origin::Wire);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotOurAddress), "it is not ours here");
}

#[test]
fn a_router_may_write_of_whom_it_likes_but_not_in_our_name() {
    let mut demux = demux();
    let local = Sap::new(OURS_V4.into(), 1000);
    demux.install(&Endpoints { transport: Transport::Tcp, local, remote: None }, 5).unwrap();
    let quoting = |from: [u8; 4]| {
        let mut quoted = Vec::new();
        PacketBuilder::ipv4(OURS_V4.octets(), [10, 77, 0, 9], 64)
            .tcp(1000, 2000, 1, 1)
            .write(&mut quoted, &[])
            .unwrap();
        let payload = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], US.0)
            .ipv4(from, OURS_V4.octets(), 64)
            .write(&mut frame, etherparse::IpNumber::ICMP, &payload)
            .unwrap();
        demux.classify(&frame, None, Origin::Wire)
    };
    assert!(matches!(quoting([192, 0, 2, 1]), Verdict::Flow { flow: 5, .. }));
    assert_eq!(quoting(OURS_V4.octets()), Verdict::Drop(DropReason::BadSource));
    assert_eq!(quoting([127, 0, 0, 1]), Verdict::Drop(DropReason::BadSource));
}
