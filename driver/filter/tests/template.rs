//! Templates against forgers: what leaves can only be the flow's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_flow::{DropReason, Endpoints, Fib, FlowId, Sap, Transport};
use base_wire::Mac;
use driver_filter::{HEADER_BYTES_MAX, Rights, Template};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use rbuf_channel::{Data, HeapData, Pair};

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn fib(transport: Transport, v6: bool, connected: bool) -> Fib {
    let (us, them): (IpAddr, IpAddr) = if v6 {
        ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
    } else {
        (Ipv4Addr::new(10, 77, 0, 1).into(), Ipv4Addr::new(10, 77, 0, 2).into())
    };
    let remote_port = if transport == Transport::Icmp { 0 } else { 80 };
    Fib {
        flow: FlowId { index: 1, generation: 0 },
        endpoints: Endpoints {
            transport,
            local: Sap::new(us, 80),
            remote: connected.then_some(Sap::new(them, remote_port)),
        },
        source: us,
        source_mac: US,
        next_hop_mac: connected.then_some(PEER),
        mtu: 1500,
        unit_bytes: 1500,
        path_mtu: None,
        vlan: None,
    }
}

/// A frame of the flow, built by an independent library.
fn honest(fib: &Fib, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(US.0, PEER.0);
    let mut frame = Vec::new();
    let v6 = fib.source.is_ipv6();
    let ip = if v6 {
        link.ipv6(
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets(),
            64,
        )
    } else {
        link.ipv4([10, 77, 0, 1], [10, 77, 0, 2], 64)
    };
    match (fib.endpoints.transport, v6) {
        (Transport::Udp, _) => ip.udp(80, 80).write(&mut frame, payload).unwrap(),
        (Transport::Tcp, _) => ip.tcp(80, 80, 1, 100).write(&mut frame, payload).unwrap(),
        (Transport::Icmp, false) => {
            ip.icmpv4_echo_request(80, 1).write(&mut frame, payload).unwrap()
        }
        (Transport::Icmp, true) => {
            ip.icmpv6_echo_request(80, 1).write(&mut frame, payload).unwrap()
        }
    }
    frame
}

/// Runs the template as the driver does; gives back the bytes that would leave.
fn send(template: &Template, frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let data = HeapData::new(4096);
    assert!(data.write(0, frame));
    let mut header = [0; HEADER_BYTES_MAX];
    let copied = frame.len().min(HEADER_BYTES_MAX);
    header[..copied].copy_from_slice(&frame[..copied]);
    let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
    let checked = template.check(&header, &pairs, &data, frame.len())?;
    let mut out = vec![0; frame.len()];
    Ok(checked.gather(&mut out).unwrap().to_vec())
}

fn flows() -> impl Strategy<Value = Fib> {
    let transport = prop_oneof![Just(Transport::Udp), Just(Transport::Tcp), Just(Transport::Icmp)];
    (transport, any::<bool>(), any::<bool>()).prop_map(|(t, v6, connected)| fib(t, v6, connected))
}

/// What an independent parser says about where a frame comes from and goes to.
fn speaks_for(fib: &Fib, frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
    let Some(etherparse::LinkSlice::Ethernet2(link)) = packet.link else {
        return Err("no Ethernet".into());
    };
    let ends = &fib.endpoints;
    let expect = |what: &str, ok: bool| if ok { Ok(()) } else { Err(what.to_string()) };
    expect("source MAC", link.source() == US.0)?;
    expect("destination MAC", fib.next_hop_mac.is_none_or(|mac| mac.0 == link.destination()))?;
    expect("VLAN", packet.link_exts.is_empty())?;
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref() {
        Some(NetSlice::Ipv4(ip)) => {
            expect("options", ip.header().ihl() == 5)?;
            expect("fragment", !ip.header().is_fragmenting_payload())?;
            expect("length", usize::from(ip.header().total_len()) + 14 == frame.len())?;
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(NetSlice::Ipv6(ip)) => {
            expect("extensions", ip.extensions().is_empty())?;
            expect("length", usize::from(ip.header().payload_length()) + 54 == frame.len())?;
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return Err("no IP".into()),
    };
    expect("source address", source == fib.source)?;
    expect("destination address", ends.remote.is_none_or(|remote| remote.address == destination))?;
    match (ends.transport, packet.transport.as_ref()) {
        (Transport::Udp, Some(TransportSlice::Udp(udp))) => {
            expect("source port", udp.source_port() == 80)?;
            expect(
                "destination port",
                ends.remote.is_none_or(|remote| remote.port == udp.destination_port()),
            )
        }
        (Transport::Tcp, Some(TransportSlice::Tcp(tcp))) => {
            expect("source port", tcp.source_port() == 80)?;
            expect(
                "destination port",
                ends.remote.is_none_or(|remote| remote.port == tcp.destination_port()),
            )
        }
        (Transport::Icmp, Some(TransportSlice::Icmpv4(icmp))) => {
            expect("echo request", icmp.type_u8() == 8 && icmp.bytes5to8()[..2] == [0, 80])
        }
        (Transport::Icmp, Some(TransportSlice::Icmpv6(icmp))) => {
            expect("echo request", icmp.type_u8() == 128 && icmp.bytes5to8()[..2] == [0, 80])
        }
        _ => Err("other protocol".into()),
    }
}

proptest! {
    #[test]
    fn an_honest_frame_leaves_as_it_is(fib in flows(), payload in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let frame = honest(&fib, &payload);
        let template = Template::new(&Rights::Flow(fib), None);
        prop_assert_eq!(send(&template, &frame), Ok(frame));
    }

    #[test]
    fn whatever_leaves_speaks_for_its_own_flow(
        fib in flows(),
        damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..6),
        cut in 0usize..100,
        extra in 0usize..100,
    ) {
        // RFC 9293 MUST-45.
        let mut frame = honest(&fib, &[0x33; 64]);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(frame.len() - cut.min(frame.len() - 1));
        frame.resize(frame.len() + extra, 0);
        let template = Template::new(&Rights::Flow(fib), None);
        if let Ok(sent) = send(&template, &frame) {
            prop_assert_eq!(&sent, &frame);
            if let Err(forged) = speaks_for(&fib, &sent) {
                return Err(TestCaseError::fail(format!("{forged} was forged")));
            }
        }
    }

    #[test]
    fn no_bytes_make_a_template_panic(fib in flows(), frame in proptest::collection::vec(any::<u8>(), 1..200), station: bool) {
        let rights = if station { Rights::Station(US) } else { Rights::Flow(fib) };
        let _ = send(&Template::new(&rights, None), &frame);
    }
}

#[test]
fn every_forgery_is_refused_under_its_name() {
    // RFC 9293 MUST-51, MUST-52, MUST-53: source routes leave as little as other options.
    let fib = fib(Transport::Udp, false, true);
    let template = Template::new(&Rights::Flow(fib), None);
    let forged = |at: usize, bytes: &[u8]| {
        let mut frame = honest(&fib, b"payload");
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        send(&template, &frame).err()
    };
    let rows: &[(&str, usize, &[u8], DropReason)] = &[
        ("destination MAC", 0, &[0xff; 6], DropReason::ForgedLink),
        ("source MAC", 6, &[6], DropReason::ForgedLink),
        ("EtherType ARP", 12, &[8, 6], DropReason::ForgedLink),
        ("VLAN tag", 12, &[0x81, 0], DropReason::ForgedLink),
        ("version", 14, &[0x65], DropReason::ForgedNetwork),
        ("header length", 14, &[0x46], DropReason::ForgedNetwork),
        ("more fragments", 20, &[0x20, 0], DropReason::ForgedFragment),
        ("fragment offset", 20, &[0x40, 1], DropReason::ForgedFragment),
        ("reserved bit", 20, &[0xc0, 0], DropReason::ForgedFragment),
        ("protocol", 23, &[6], DropReason::ForgedNetwork),
        ("source address", 29, &[3], DropReason::ForgedNetwork),
        ("destination address", 33, &[3], DropReason::ForgedNetwork),
        ("high byte of a port below 256", 34, &[1], DropReason::ForgedTransport),
        ("source port", 34, &[0, 81], DropReason::ForgedTransport),
        ("destination port", 36, &[0, 81], DropReason::ForgedTransport),
        ("total length", 16, &[0, 36], DropReason::LengthsDisagree),
        ("UDP length", 38, &[0, 16], DropReason::LengthsDisagree),
    ];
    for (name, at, bytes, reason) in rows {
        assert_eq!(forged(*at, bytes), Some(*reason), "{name}");
    }
    assert_eq!(forged(15, &[0xb8]), None, "type of service is the application's");
    assert_eq!(forged(22, &[1]), None, "time to live is the application's");
    assert_eq!(send(&template, &honest(&fib, b"")[..41]).err(), Some(DropReason::HeaderTooShort));
}

#[test]
fn the_header_that_leaves_is_the_one_that_was_checked() {
    let fib = fib(Transport::Udp, false, true);
    let template = Template::new(&Rights::Flow(fib), None);
    let frame = honest(&fib, b"payload");
    let data = HeapData::new(4096);
    data.write(0, &frame);
    let mut header = [0; HEADER_BYTES_MAX];
    header[..frame.len()].copy_from_slice(&frame);
    let pairs = [Pair { offset: 0, len: 50 }, Pair { offset: 1000, len: 4 }];
    let mut longer = header;
    longer[17] = 54 - 14;
    longer[39] = 54 - 34;
    let checked = template.check(&longer, &pairs, &data, 54).unwrap();
    data.write(0, &[0xee; 64]);
    data.write(1000, b"tail");
    let mut out = [0; 54];
    let sent = checked.gather(&mut out).unwrap();
    assert_eq!(sent[..42], longer[..42], "a header rewritten after publishing does not leave");
    assert_eq!(sent[42..50], [0xee; 8], "payload stays the sender's to change");
    assert_eq!(&sent[50..], b"tail");
}

#[test]
fn the_flow_manager_may_send_any_ip_or_arp_frame_but_only_from_our_station() {
    let template = Template::new(&Rights::Station(US), None);
    let frame = honest(&fib(Transport::Udp, false, true), b"x");
    assert!(send(&template, &frame).is_ok());
    let change = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        send(&template, &frame).err()
    };
    assert_eq!(change(6, 6), Some(DropReason::ForgedLink));
    assert_eq!(change(12, 9), Some(DropReason::ForgedLink));
    assert_eq!(change(13, 6), None, "ARP");
}

#[test]
fn a_tagged_link_demands_its_tag() {
    let fib = fib(Transport::Udp, false, true);
    let template = Template::new(&Rights::Flow(fib), Some(7));
    let plain = honest(&fib, b"payload");
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
    assert!(send(&template, &tagged).is_ok());
    assert_eq!(send(&template, &plain).err(), Some(DropReason::ForgedLink));
    tagged[15] = 8;
    assert_eq!(send(&template, &tagged).err(), Some(DropReason::ForgedLink));
}

/// Checks a TCP segment with `payload` bytes behind a header of its own range, to be cut.
fn check_unit(
    fib: &Fib,
    set: impl Fn(&mut [u8]),
    first: u32,
    payload: u32,
    cut: u16,
) -> Result<(), DropReason> {
    let mut frame = honest(fib, &vec![7; payload as usize]);
    set(&mut frame);
    let data = HeapData::new(1 << 16);
    assert!(data.write(0, &frame));
    let mut header = [0; HEADER_BYTES_MAX];
    let copied = (first as usize).min(HEADER_BYTES_MAX);
    header[..copied].copy_from_slice(&frame[..copied]);
    let rest = frame.len() as u32 - first;
    let pairs = [Pair { offset: 0, len: first }, Pair { offset: first, len: rest }];
    let template = Template::new(&Rights::Flow(*fib), None);
    let checked = template.check_unit(&header, &pairs, &data, frame.len(), (cut, 1514))?;
    let segmentation = checked.segmentation().unwrap();
    assert_eq!((segmentation.segment_bytes, segmentation.transport_at), (cut, 34));
    Ok(())
}

#[test]
fn only_plain_segments_are_cut_and_only_into_frames_that_fit_the_link() {
    let tcp = fib(Transport::Tcp, false, true);
    const FLAGS: usize = 47;
    let flags = |flags: u8| move |frame: &mut [u8]| frame[FLAGS] = flags;
    check_unit(&tcp, flags(0x10), 54, 14_600, 1460).unwrap();
    check_unit(&tcp, flags(0x19), 54, 14_601, 1460).unwrap();
    let refused = Err(DropReason::Segmentation);
    for odd in [0x12, 0x14, 0x30, 0x90] {
        assert_eq!(check_unit(&tcp, flags(odd), 54, 14_600, 1460), refused, "flags {odd:#x}");
    }
    assert_eq!(check_unit(&tcp, flags(0x10), 54, 14_600, 1461), refused, "a frame too long");
    assert_eq!(check_unit(&tcp, flags(0x10), 54, 14_600, 255), refused, "frames too small");
    assert_eq!(check_unit(&tcp, flags(0x10), 60, 14_600, 1460), refused, "payload in the first");
    let udp = fib(Transport::Udp, false, true);
    assert_eq!(check_unit(&udp, |_| (), 42, 14_600, 1460), refused);
    let forged = |frame: &mut [u8]| frame[29] = 9;
    let reason = DropReason::ForgedNetwork;
    assert_eq!(check_unit(&tcp, forged, 54, 14_600, 1460), Err(reason), "nobody else's");
}

/// What becomes of a frame of the flow when `bit` of byte `at` is another: the definition, field by field.
fn judged(fib: &Fib, tagged: bool, at: usize, bit: u8, frame: &[u8]) -> Option<DropReason> {
    let connected = fib.next_hop_mac.is_some();
    let (v4, link) = (fib.source.is_ipv4(), if tagged { 18 } else { 14 });
    let forged = |free: bool, reason| (!free).then_some(reason);
    if at < link {
        return forged(at < 6 && !connected, DropReason::ForgedLink);
    }
    let (ip, network) = (at - link, if v4 { 20 } else { 40 });
    if ip < network {
        return match (v4, ip) {
            (true, 2 | 3) | (false, 4 | 5) => Some(DropReason::LengthsDisagree),
            (true, 6) => forged(bit == 0x40, DropReason::ForgedFragment),
            (true, 7) => Some(DropReason::ForgedFragment),
            (true, 1 | 4 | 5 | 8 | 10 | 11) | (false, 1..=3 | 7) => None,
            (false, 0) => forged(bit < 0x10, DropReason::ForgedNetwork),
            (true, 16..) | (false, 24..) => forged(!connected, DropReason::ForgedNetwork),
            _ => Some(DropReason::ForgedNetwork),
        };
    }
    let transport = ip - network;
    let fixed = Some(DropReason::ForgedTransport);
    match (fib.endpoints.transport, transport) {
        (Transport::Icmp, 0 | 1 | 4 | 5) => fixed,
        (Transport::Udp | Transport::Tcp, 0 | 1) => fixed,
        (Transport::Udp | Transport::Tcp, 2 | 3) => forged(!connected, DropReason::ForgedTransport),
        (Transport::Udp, 4 | 5) => Some(DropReason::LengthsDisagree),
        (Transport::Tcp, 12) => {
            let whole = usize::from((frame[at] ^ bit) >> 4) * 4;
            let fits = whole >= 20 && link + network + whole <= frame.len().min(HEADER_BYTES_MAX);
            forged(fits, DropReason::LengthsDisagree)
        }
        _ => None,
    }
}

#[test]
fn every_bit_of_a_header_is_free_or_refused_under_its_name() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Icmp] {
        for (v6, connected, tagged) in
            (0..8).map(|choice| (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0))
        {
            let fib = fib(transport, v6, connected);
            let template = Template::new(&Rights::Flow(fib), tagged.then_some(7));
            let mut honest = honest(&fib, &[0x33; 10]);
            if tagged {
                honest.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
            }
            let transport_bytes = if transport == Transport::Tcp { 20 } else { 8 };
            let bytes = if tagged { 18 } else { 14 } + if v6 { 40 } else { 20 } + transport_bytes;
            assert_eq!((template.header_bytes(), honest.len()), (bytes, bytes + 10));
            for (at, bit) in (0..bytes).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit))) {
                let mut frame = honest.clone();
                frame[at] ^= bit;
                let (sent, expected) =
                    (send(&template, &frame), judged(&fib, tagged, at, bit, &honest));
                assert_eq!(sent.err(), expected, "byte {at}, bit {bit:#x}: {fib:?}, {tagged}");
            }
            let mut longer = honest.clone();
            longer.push(0);
            assert_eq!(send(&template, &longer).err(), Some(DropReason::LengthsDisagree));
            assert_eq!(
                send(&template, &honest[..bytes + 9]).err(),
                Some(DropReason::LengthsDisagree)
            );
            assert_eq!(
                send(&template, &honest[..bytes - 1]).err(),
                Some(DropReason::HeaderTooShort)
            );
        }
    }
}

#[test]
fn options_of_tcp_are_header_if_the_first_range_holds_them() {
    let fib = fib(Transport::Tcp, true, true);
    let template = Template::new(&Rights::Flow(fib), Some(7));
    let data = HeapData::new(4096);
    let check = |words: u8, first: u32, payload: usize| {
        let mut frame = honest(&fib, &vec![0x33; payload]);
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        frame[18 + 40 + 12] = words << 4;
        let mut header = [0; HEADER_BYTES_MAX];
        let copied = (first as usize).min(HEADER_BYTES_MAX);
        header[..copied].copy_from_slice(&frame[..copied]);
        let rest = frame.len() as u32 - first;
        let pairs = [Pair { offset: 0, len: first }, Pair { offset: 2000, len: rest }];
        let checked = template.check(&header, &pairs, &data, frame.len())?;
        assert_eq!((checked.segmentation(), checked.frame_bytes()), (None, frame.len()));
        assert_eq!(checked.data().memory(), data.memory());
        let mut ranges: Vec<Pair> = checked.payload().collect();
        if checked.header().len() < first as usize {
            let behind = checked.header().len() as u32;
            assert_eq!(ranges.remove(0), Pair { offset: behind, len: first - behind });
        }
        assert_eq!(ranges, [Pair { offset: 2000, len: rest }]);
        assert!(checked.gather(&mut vec![0; frame.len() - 1]).is_none());
        Ok(checked.header().len())
    };
    let disagree = Err(DropReason::LengthsDisagree);
    assert_eq!(check(5, 78, 50), Ok(78));
    assert_eq!(check(5, 79, 50), Ok(78));
    assert_eq!(check(6, 82, 50), Ok(82));
    assert_eq!(check(6, 81, 50), disagree, "an option in the second range");
    assert_eq!(check(15, 118, 50), Ok(118));
    assert_eq!(check(15, 117, 50), disagree);
    assert_eq!(check(15, 117, 39), disagree, "an option behind the packet");
    assert_eq!(check(4, 78, 50), disagree);
}

#[test]
fn the_flow_manager_may_send_what_it_speaks_on_a_tagged_link_too() {
    let template = Template::new(&Rights::Station(US), Some(7));
    let send = |tag: [u8; 4], ether_type: [u8; 2]| {
        let frame = [&[0xff; 6][..], &US.0, &tag, &ether_type, &[0; 20]].concat();
        send(&template, &frame).err()
    };
    let tag = [0x81, 0, 0, 7];
    for known in [[8, 0], [8, 6], [0x86, 0xdd]] {
        assert_eq!(send(tag, known), None, "{known:?}");
        assert_eq!(send([0x81, 0, 0, 8], known), Some(DropReason::ForgedLink));
    }
    for unknown in [[0x81, 0], [8, 1], [8, 7], [0x86, 0xdc], [0x88, 0xcc]] {
        assert_eq!(send(tag, unknown), Some(DropReason::ForgedLink), "{unknown:?}");
    }
}
