//! The TCP layer over a channel in memory, beside an independent parser and builder.

use std::net::SocketAddr;

use base_flow::{Endpoints, Fib, FlowId, Sap, Transport};
use base_wire::{Protocol, checksum, pseudo_header};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use rbuf_channel::{Data, End, HeapData, HeapWords, Pair, block_words};
use stack_layer::{Arrived, Device, Ether, HEAD_BYTES_MAX, Ip4, Network as _, Peer, Tcp};
use stack_tcp::{Ecn, Error, Options, RouterError, Segment, Timestamps};

mod wire;

use wire::{OURS, PEER, THEIRS, US, icmp_error};

const HEADERS: u16 = 4;
const RING: u32 = 3000;

struct Two {
    stack: Tcp<Ip4<Ether<Device<HeapWords, HeapData>>>>,
    tx: End<HeapWords>,
    rx: End<HeapWords>,
    tx_data: HeapData,
    rx_data: HeapData,
}

fn two() -> Two {
    two_with(Some(Sap::new(THEIRS.into(), 5000)))
}

fn fib(remote: Option<Sap>) -> Fib {
    Fib {
        flow: FlowId { index: 0, generation: 0 },
        endpoints: Endpoints {
            transport: Transport::Tcp,
            local: Sap::new(OURS.into(), 4000),
            remote,
        },
        source: OURS.into(),
        source_mac: US,
        next_hop_mac: remote.map(|_| PEER),
        mtu: 1500,
        unit_bytes: 1500,
        path_mtu: None,
        vlan: None,
    }
}

fn two_with(remote: Option<Sap>) -> Two {
    let fib = fib(remote);
    let tx_bytes = u32::from(HEADERS) * HEAD_BYTES_MAX as u32 + RING;
    let rx_bytes = 4 * Device::<HeapWords, HeapData>::buffer_bytes(1500);
    let pair = |bytes| {
        let (a, b) = (HeapWords::new(block_words(16)), HeapWords::new(block_words(16)));
        (End::new(a.clone(), b.clone(), bytes).unwrap(), End::new(b, a, bytes).unwrap())
    };
    let ((tx, tx_peer), (rx, rx_peer)) = (pair(tx_bytes), pair(rx_bytes));
    let (tx_data, rx_data) = (HeapData::new(tx_bytes), HeapData::new(rx_bytes));
    let areas = (tx_data.clone(), rx_data.clone());
    let mut device = Device::with_headers((tx, rx), areas, 1500, HEADERS);
    device.offer_buffers(4).unwrap();
    let network = Ip4::new(Ether::new(device, &fib), &fib, Protocol::TCP).unwrap();
    let stack = Tcp::new(network, &fib);
    Two { stack, tx: tx_peer, rx: rx_peer, tx_data, rx_data }
}

impl Two {
    fn sent(&mut self) -> Vec<u8> {
        let rec = self.tx.take().unwrap().unwrap();
        let mut frame = Vec::new();
        for pair in rec.pairs() {
            let mut part = vec![0; pair.len as usize];
            assert!(self.tx_data.read(pair.offset, &mut part));
            frame.extend(part);
        }
        assert!(self.tx.put(&rec).unwrap());
        frame
    }

    fn deliver(&mut self, frame: &[u8]) {
        let mut rec = self.rx.take().unwrap().unwrap();
        assert!(self.rx_data.write(rec.pairs()[0].offset, frame));
        rec.set_len(0, frame.len() as u32);
        rec.flags = rbuf_channel::flag::CHECKSUM_UNVERIFIED;
        assert!(self.rx.put(&rec).unwrap());
    }
}

proptest! {
    #[test]
    fn payload_in_two_parts_leaves_as_one_segment_with_a_right_checksum(
        first in proptest::collection::vec(any::<u8>(), 0..700),
        second in proptest::collection::vec(any::<u8>(), 0..700),
        sequence: u32, value: u32,
    ) {
        // RFC 9293 MUST-2.
        let mut two = two();
        let base = u32::from(HEADERS) * HEAD_BYTES_MAX as u32;
        let parts = [
            Pair { offset: base + RING - first.len() as u32, len: first.len() as u32 },
            Pair { offset: base, len: second.len() as u32 },
        ];
        two.tx_data.write(parts[0].offset, &first);
        two.tx_data.write(parts[1].offset, &second);
        let segment = Segment {
            sequence,
            acknowledgment: 7,
            flags: 0x18,
            window: 1000,
            options: Options { timestamps: Some(Timestamps { value, echo: 1 }), ..Options::default() },
            payload_bytes: (first.len() + second.len()) as u32,
            ecn: Ecn::Capable,
            ..Segment::default()
        };
        prop_assert!(two.stack.send(&segment, Peer::Connected, parts, 0).unwrap().is_some());
        let frame = two.sent();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("not TCP") };
        let sum = tcp.calc_checksum_ipv4(OURS.octets(), THEIRS.octets()).unwrap();
        prop_assert_eq!(tcp.checksum(), sum);
        prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (4000, 5000));
        prop_assert_eq!((tcp.sequence_number(), ip.header().ecn().value()), (sequence, 2));
        prop_assert_eq!(tcp.payload(), [first, second].concat());
    }

    #[test]
    fn a_segment_arrives_as_it_was_built_and_not_at_all_if_a_bit_changed(
        payload in proptest::collection::vec(any::<u8>(), 0..1400), flip in proptest::option::of(any::<usize>())
    ) {
        // RFC 9293 MUST-3.
        let mut two = two();
        let builder = PacketBuilder::ethernet2(PEER.0, US.0)
            .ipv4(THEIRS.octets(), OURS.octets(), 64)
            .tcp(5000, 4000, 99, 500)
            .ack(33);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        if let Some(bit) = flip {
            let bit = 34 * 8 + bit % ((frame.len() - 34) * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        two.deliver(&frame);
        let received = two.stack.receive().unwrap();
        if flip.is_some() {
            prop_assert!(received.is_none());
            prop_assert_eq!(two.stack.damaged(), 1);
            return Ok(());
        }
        let Some(Arrived::Segment(received)) = received else { panic!("no segment") };
        prop_assert_eq!(received.from, SocketAddr::from((THEIRS, 5000)));
        let segment = received.segment;
        prop_assert_eq!((segment.sequence, segment.acknowledgment, segment.window), (99, 33, 500));
        let (buffer, pair) = (received.buffer, received.payload);
        let mut read = vec![0; pair.len as usize];
        two.rx_data.read(pair.offset, &mut read);
        prop_assert_eq!(read, payload);
        two.stack.release(buffer).unwrap();
    }
}

#[test]
fn a_router_is_heard_if_it_quotes_a_segment_of_this_flow() {
    let mut two = two();
    let none = [Pair { offset: 0, len: 0 }; 2];
    let segment = Segment { sequence: 77_777, flags: 0x10, ..Segment::default() };
    two.stack.send(&segment, Peer::Connected, none, 0).unwrap();
    let quote = two.sent()[14..42].to_vec();
    for (kind, code, expected) in [
        (3, 4, RouterError::TooBig(1400)),
        (3, 1, RouterError::Undelivered(Error::HostUnreachable)),
        (3, 3, RouterError::Undelivered(Error::Refused)),
        (11, 0, RouterError::Undelivered(Error::HostUnreachable)),
    ] {
        two.deliver(&icmp_error((kind, code, 1400), &quote));
        let heard = two.stack.receive().unwrap();
        let Some(Arrived::RouterError { sequence, error, .. }) = heard else { panic!("{heard:?}") };
        assert_eq!((sequence, error), (77_777, expected));
    }
    // Another port, a cut quote, a wrong checksum.
    let mut other = quote.clone();
    other[21] ^= 1;
    two.deliver(&icmp_error((3, 4, 1400), &other));
    two.deliver(&icmp_error((3, 4, 1400), &quote[..24]));
    let mut damaged = icmp_error((3, 4, 1400), &quote);
    damaged[40] ^= 1;
    two.deliver(&damaged);
    assert!(two.stack.receive().unwrap().is_none());
    assert_eq!(two.stack.damaged(), 3);
}

#[test]
fn what_a_listener_says_tells_nobody_how_much_it_says_to_others() {
    let none = [Pair { offset: 0, len: 0 }; 2];
    let mut listener = two_with(None);
    for last in [2, 3, 4] {
        let address = SocketAddr::from(([10, 77, 0, last], 5000));
        let to = Peer::At { address, mac: PEER };
        listener.stack.send(&Segment::default(), to, none, 0).unwrap();
        let frame = listener.sent();
        assert_eq!(frame[18..22], [0, 0, 0x40, 0], "identification, don't fragment");
    }
    let mut connected = two();
    let ids = [(); 3].map(|()| {
        connected.stack.send(&Segment::default(), Peer::Connected, none, 0).unwrap();
        connected.sent()[19]
    });
    assert_eq!(ids, [0, 1, 2]);
}

/// A segment of the peer whose IP header has `options`.
fn with_ip_options(options: &[u8], tcp_options: &[u8]) -> Vec<u8> {
    use base_wire::{Protocol, checksum, pseudo_header};
    let mut tcp =
        [&5000u16.to_be_bytes()[..], &4000u16.to_be_bytes(), &[0, 0, 0, 9, 0, 0, 0, 7]].concat();
    tcp.extend([(((20 + tcp_options.len()) / 4) << 4) as u8, 0x10, 1, 0, 0, 0, 0, 0]);
    tcp.extend(tcp_options);
    tcp.extend(b"text");
    let pseudo =
        pseudo_header(THEIRS.into(), OURS.into(), Protocol::TCP, tcp.len() as u32).unwrap();
    let sum = checksum::finish(pseudo + checksum::sum(&tcp));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let header_bytes = 20 + options.len();
    let mut ip = vec![0x40 | (header_bytes / 4) as u8, 0];
    ip.extend(((header_bytes + tcp.len()) as u16).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    ip.extend(THEIRS.octets());
    ip.extend(OURS.octets());
    ip.extend(options);
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&US.0[..], &PEER.0, &[8, 0], &ip, &tcp].concat()
}

#[test]
fn ip_options_of_any_length_keep_no_segment_away() {
    // RFC 9293 MUST-50, and MUST-53 as far as the route is not heeded.
    let mut two = two();
    // Record route, a loose source route, an unknown option, and as many as fit.
    let route = [7, 7, 4, 0, 0, 0, 0, 0];
    let source_route = [131, 7, 4, 10, 77, 0, 9, 0];
    let unknown = [0x9e, 4, 1, 2];
    for options in [&route[..], &source_route, &unknown, &[1; 40]] {
        for tcp_options in [&[][..], &[1; 40]] {
            two.deliver(&with_ip_options(options, tcp_options));
            let Some(Arrived::Segment(received)) = two.stack.receive().unwrap() else {
                panic!("{options:?}")
            };
            assert_eq!((received.segment.sequence, received.payload.len), (9, 4));
            two.stack.release(received.buffer).unwrap();
        }
    }
}

#[test]
fn every_segment_has_the_time_to_live_and_the_service_class_that_were_chosen() {
    // RFC 9293 MUST-48, MUST-49.
    let mut two = two();
    two.stack.network().set_ttl(5);
    two.stack.network().set_service(46);
    let none = [Pair { offset: 0, len: 0 }; 2];
    for ecn in [Ecn::NotCapable, Ecn::Capable] {
        let segment = Segment { flags: 0x10, ecn, ..Segment::default() };
        two.stack.send(&segment, Peer::Connected, none, 0).unwrap();
        let frame = two.sent();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
        assert_eq!((ip.header().ttl(), ip.header().dcp().value()), (5, 46));
        assert_eq!(ip.header().ecn().value(), ecn.bits());
    }
}

#[test]
fn of_a_segment_that_the_link_cuts_the_checksum_is_that_of_what_all_frames_have_in_common() {
    let mut two = two();
    let device = two.stack.device();
    assert_eq!(device.send_buffers(), (HEADERS.into(), HEADERS.into()));
    let base = u32::from(HEADERS) * HEAD_BYTES_MAX as u32;
    let parts = [Pair { offset: base, len: 2000 }, Pair { offset: 0, len: 0 }];
    let segment = Segment { flags: 0x10, payload_bytes: 2000, ..Segment::default() };
    assert!(two.stack.send(&segment, Peer::Connected, parts, 0).is_err(), "it is one frame");
    let fib = Fib { unit_bytes: 60_000, ..fib(Some(Sap::new(THEIRS.into(), 5000))) };
    assert_eq!((two.stack.gso_payload_max(), two.stack.gso_max_segs()), (0, 0));
    two.stack.reorganise(&fib);
    let headers = 20 + stack_tcp::HEADER_BYTES_MAX as u32;
    assert_eq!((two.stack.gso_payload_max(), two.stack.gso_max_segs()), (60_000 - headers, 40));
    assert!(two.stack.send(&segment, Peer::Connected, parts, 1000).unwrap().is_some());
    let frame = two.sent();
    let bytes = (frame.len() - 34) as u32;
    let (ours, theirs) = (OURS.into(), THEIRS.into());
    let common = pseudo_header(ours, theirs, Protocol::TCP, bytes).unwrap();
    assert_eq!(frame[50..52], (!checksum::finish(common)).to_be_bytes());
}

#[test]
fn damage_is_counted_in_whichever_header_it_is() {
    let mut two = two();
    let sound = with_ip_options(&[], &[]);
    for (count, at) in [14, 23, 46, sound.len() - 1].into_iter().enumerate() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        two.deliver(&damaged);
        assert!(two.stack.receive().unwrap().is_none());
        assert_eq!(two.stack.damaged(), count as u64 + 1, "byte {at}");
    }
    // From or to another port, with another number, so that the checksum is right.
    for port in [35, 37] {
        let (mut other, before) = (sound.clone(), two.stack.damaged());
        (other[port], other[41]) = (other[port] + 1, other[41] - 1);
        two.deliver(&other);
        assert!(two.stack.receive().unwrap().is_none());
        assert_eq!(two.stack.damaged(), before + 1, "{port}");
    }
    two.deliver(&sound);
    assert!(two.stack.receive().unwrap().is_some());
}
