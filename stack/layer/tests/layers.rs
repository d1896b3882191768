//! The layers over a channel in memory: what they send is what an independent parser reads, and
//! what an independent builder sends is what they receive.

use std::net::SocketAddr;

use base_flow::{Endpoints, Fib, FlowId, Sap, Transport};
use base_wire::{Mac, Protocol};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use rbuf_channel::{Data, End, HeapData, HeapWords, IoRec, block_words, flag};
use stack_layer::{
    Control, ControlError, Device, Ether, HEAD_BYTES_MAX, Ip4, Layer, Network as _, Outgoing, Peer,
    SendError, Udp,
};

mod wire;

use wire::{OURS, PEER, THEIRS, US, icmp_error};

const MTU: u16 = 1500;
const BUFFERS: u32 = 4;

type Stack = Udp<Ip4<Ether<Device<HeapWords, HeapData>>>>;

/// A stack, and the driver's side of its channels.
struct Two {
    stack: Stack,
    tx: End<HeapWords>,
    rx: End<HeapWords>,
    tx_data: HeapData,
    rx_data: HeapData,
}

fn fib(connected: bool, vlan: Option<u16>) -> Fib {
    Fib {
        flow: FlowId { index: 0, generation: 0 },
        endpoints: Endpoints {
            transport: Transport::Udp,
            local: Sap::new(OURS.into(), 4000),
            remote: connected.then_some(Sap::new(THEIRS.into(), 5000)),
        },
        source: OURS.into(),
        source_mac: US,
        next_hop_mac: connected.then_some(PEER),
        mtu: MTU,
        unit_bytes: MTU,
        path_mtu: None,
        vlan,
    }
}

fn two(fib: &Fib) -> Two {
    let bytes = BUFFERS * Device::<HeapWords, HeapData>::buffer_bytes(MTU);
    let pair = || {
        let (a, b) = (HeapWords::new(block_words(16)), HeapWords::new(block_words(16)));
        (End::new(a.clone(), b.clone(), bytes).unwrap(), End::new(b, a, bytes).unwrap())
    };
    let ((tx, tx_peer), (rx, rx_peer)) = (pair(), pair());
    let (tx_data, rx_data) = (HeapData::new(bytes), HeapData::new(bytes));
    let device = Device::new((tx, rx), (tx_data.clone(), rx_data.clone()), MTU).unwrap();
    let network = Ip4::new(Ether::new(device, fib), fib, Protocol::UDP).unwrap();
    let stack = Udp::new(network, fib);
    Two { stack, tx: tx_peer, rx: rx_peer, tx_data, rx_data }
}

impl Two {
    /// Takes a frame as the driver does, and returns its buffer.
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

    /// Delivers a frame as the driver does.
    fn deliver(&mut self, frame: &[u8], flags: u8) -> bool {
        let Some(mut rec) = self.rx.take().unwrap() else { return false };
        assert!(self.rx_data.write(rec.pairs()[0].offset, frame));
        rec.set_len(0, frame.len() as u32);
        rec.flags = flags;
        self.rx.put(&rec).unwrap()
    }

    fn packet(&mut self, payload: &[u8]) -> Outgoing<HeapData> {
        let mut packet = self.stack.packet().unwrap().unwrap();
        assert!(packet.write(payload));
        packet
    }

    /// The next datagram that is not damaged.
    fn received(&mut self) -> Option<Vec<u8>> {
        let packet = self.stack.receive().unwrap()?;
        let mut payload = vec![0; packet.len()];
        let whole = packet.read(&mut payload);
        self.stack.give_back(packet).unwrap();
        whole.map(|_| payload)
    }
}

fn incoming(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(5000, 4000)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

proptest! {
    #[test]
    fn what_is_sent_is_a_correct_frame_of_the_flow(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5)) {
        let mut two = two(&fib(true, None));
        let mut packet = two.stack.packet().unwrap().unwrap();
        for part in &parts {
            prop_assert!(packet.write(part));
        }
        two.stack.send(packet).unwrap();
        let frame = two.sent();
        let payload = parts.concat();
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &parsed.net else { panic!("not IPv4") };
        let Some(TransportSlice::Udp(udp)) = &parsed.transport else { panic!("not UDP") };
        let header = ip.header().to_header();
        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
        prop_assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (OURS, THEIRS));
        prop_assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (4000, 5000, &payload[..]));
        let sum = udp.to_header().calc_checksum_ipv4(&header, &payload).unwrap();
        prop_assert_eq!(udp.checksum(), sum);
        prop_assert_eq!((&frame[..6], &frame[6..12]), (&PEER.0[..], &US.0[..]));
    }

    #[test]
    fn what_arrives_intact_is_received_and_what_is_damaged_is_not(payload in proptest::collection::vec(any::<u8>(), 1..1400), at in 14usize..60, flip in 1u8..) {
        let mut two = two(&fib(true, None));
        let frame = incoming(&payload);
        prop_assert!(two.deliver(&frame, flag::CHECKSUM_UNVERIFIED));
        prop_assert_eq!(two.received(), Some(payload.clone()));
        let mut damaged = frame.clone();
        let at = at.min(damaged.len() - 1);
        damaged[at] ^= flip;
        prop_assert!(two.deliver(&damaged, flag::CHECKSUM_UNVERIFIED));
        // A checksum of zero means that there is none; then only the headers protect.
        let unprotected = damaged[40] == 0 && damaged[41] == 0;
        if let Some(received) = two.received() {
            prop_assert!(unprotected || received == payload, "byte {}", at);
        }
    }

    #[test]
    fn no_frame_makes_the_layers_panic_or_lose_a_buffer(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..40)) {
        let mut two = two(&fib(true, None));
        for frame in &frames {
            prop_assert!(two.deliver(frame, flag::CHECKSUM_UNVERIFIED), "all buffers came back");
            prop_assert_eq!(two.received(), None);
        }
        prop_assert_eq!(two.stack.damaged(), frames.len() as u64);
    }
}

#[test]
fn head_room_is_the_sum_of_all_layers() {
    assert_eq!(two(&fib(true, None)).stack.head_room(), 14 + 20 + 8);
    assert_eq!(two(&fib(true, Some(7))).stack.head_room(), 18 + 20 + 8);
    assert_eq!(two(&fib(true, None)).stack.payload_bytes_max(), 1472);
}

#[test]
fn a_link_with_a_vlan_has_tagged_frames() {
    let mut two = two(&fib(true, Some(7)));
    let packet = two.packet(b"tagged");
    two.stack.send(packet).unwrap();
    let frame = two.sent();
    assert_eq!(frame[12..18], [0x81, 0, 0, 7, 8, 0]);
    let mut tagged = incoming(b"tagged");
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert!(two.deliver(&tagged, 0));
    assert_eq!(two.received(), Some(b"tagged".to_vec()));
}

#[test]
fn padding_is_not_payload() {
    let mut two = two(&fib(true, None));
    let mut frame = incoming(b"hi");
    frame.resize(60, 0xee);
    assert!(two.deliver(&frame, flag::CHECKSUM_UNVERIFIED));
    assert_eq!(two.received(), Some(b"hi".to_vec()));
}

#[test]
fn a_link_that_vouches_for_checksums_is_believed() {
    let mut two = two(&fib(true, None));
    let mut frame = incoming(b"payload");
    frame[40] ^= 0xff;
    assert!(two.deliver(&frame, flag::CHECKSUM_PARTIAL));
    assert_eq!(two.received(), Some(b"payload".to_vec()));
    assert!(two.deliver(&frame, flag::CHECKSUM_UNVERIFIED));
    assert_eq!(two.received(), None);
}

#[test]
fn a_flow_that_is_not_connected_sends_where_it_is_told() {
    let mut two = two(&fib(false, None));
    for _ in 0..=BUFFERS {
        let packet = two.packet(b"whither?");
        assert_eq!(
            two.stack.send(packet),
            Err(SendError::NoDestination),
            "and the buffer is free again"
        );
    }
    let mut packet = two.packet(b"there");
    let address = SocketAddr::from((THEIRS, 7000));
    packet.set_destination(Peer::At { address, mac: PEER });
    two.stack.send(packet).unwrap();
    let frame = two.sent();
    assert_eq!((&frame[..6], &frame[36..38]), (&PEER.0[..], &7000u16.to_be_bytes()[..]));
}

#[test]
fn a_connected_flow_sends_nowhere_else() {
    let mut two = two(&fib(true, None));
    for _ in 0..=BUFFERS {
        let mut packet = two.packet(b"elsewhere");
        packet.set_destination(Peer::At { address: SocketAddr::from((THEIRS, 5001)), mac: PEER });
        assert_eq!(two.stack.send(packet), Err(SendError::OtherDestination));
    }
}

#[test]
fn buffers_run_out_and_come_back() {
    let mut two = two(&fib(true, None));
    for _ in 0..BUFFERS {
        let packet = two.packet(b"x");
        two.stack.send(packet).unwrap();
    }
    assert!(two.stack.packet().unwrap().is_none());
    two.sent();
    assert!(two.stack.packet().unwrap().is_some());
}

#[test]
fn a_driver_that_returns_what_it_was_not_given_is_at_fault() {
    let mut two = two(&fib(true, None));
    assert!(two.tx.put(&IoRec::single(3, rbuf_channel::Pair { offset: 0, len: 64 })).unwrap());
    let device = two.stack.device();
    assert!(device.reap().is_err());
}

#[test]
fn a_change_of_the_way_changes_the_next_frame() {
    let mut two = two(&fib(true, None));
    let other = Mac([2, 0, 0, 0, 0, 10]);
    two.stack.reorganise(&Fib { next_hop_mac: Some(other), ..fib(true, None) });
    let packet = two.packet(b"x");
    two.stack.send(packet).unwrap();
    assert_eq!(two.sent()[..6], other.0);
}

#[test]
fn packets_are_as_large_as_the_link_carries_now_and_never_larger_than_their_buffers() {
    let mut two = two(&fib(true, None));
    let max = usize::from(MTU) - 28;
    assert_eq!(two.stack.payload_bytes_max(), max);
    two.stack.reorganise(&Fib { mtu: 700, unit_bytes: 700, ..fib(true, None) });
    assert_eq!(two.stack.payload_bytes_max(), 672);
    let begun_before = two.packet(&vec![7; max]);
    let refused = two.stack.send(begun_before).unwrap_err();
    assert!(matches!(refused, SendError::TooLong { max: 672, .. }), "{refused}");
    let packet = two.packet(&[7; 672]);
    two.stack.send(packet).unwrap();
    assert_eq!(two.sent().len(), 14 + 700);
    two.stack.reorganise(&Fib { mtu: 9000, unit_bytes: 9000, ..fib(true, None) });
    assert_eq!(two.stack.payload_bytes_max(), max);
}

#[test]
fn reading_posts_nothing_to_a_driver_that_waits_for_something_to_send() {
    let mut two = two(&fib(true, None));
    two.stack.device().notice();
    two.tx.arm().unwrap();
    assert!(two.deliver(&incoming(b"hello"), 0));
    let packet = two.stack.receive().unwrap().unwrap();
    two.stack.give_back(packet).unwrap();
    let notices = two.stack.device().notice();
    assert!(notices.iter().all(|notice| !notice.post), "{notices:?}");
    let packet = two.packet(b"x");
    assert!(two.stack.send(packet).is_ok());
    assert!(two.stack.device().notice()[0].post, "now there is something");
}

/// An ICMP error that quotes the head of `datagram`, an Ethernet frame of ours, after `change`.
fn said_of(datagram: &[u8], said: (u8, u8, u16), change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut quote = datagram[14..42].to_vec();
    change(&mut quote);
    icmp_error(said, &quote)
}

#[test]
fn a_control_message_is_heard_if_it_is_about_a_datagram_that_was_sent_here() {
    for connected in [true, false] {
        let mut two = two(&fib(connected, None));
        let mut packet = two.stack.packet().unwrap().unwrap();
        packet.write(&[7; 1000]);
        if !connected {
            packet.set_destination(Peer::At { address: (THEIRS, 5000).into(), mac: PEER });
        }
        two.stack.send(packet).unwrap();
        let sent = two.sent();
        let to = SocketAddr::from((THEIRS, 5000));
        for (said, error) in [
            ((3, 0, 0), ControlError::NetworkUnreachable),
            ((3, 1, 0), ControlError::HostUnreachable),
            ((3, 2, 0), ControlError::ProtocolUnreachable),
            ((3, 3, 0), ControlError::PortUnreachable),
            ((3, 4, 900), ControlError::TooLarge { mtu: 900 }),
            ((3, 4, 0), ControlError::TooLarge { mtu: 0 }),
            ((3, 9, 0), ControlError::NetworkProhibited),
            ((3, 13, 0), ControlError::Prohibited),
            ((11, 0, 0), ControlError::TimeExceeded),
            ((12, 0, 0), ControlError::ParameterProblem),
        ] {
            assert!(two.deliver(&said_of(&sent, said, |_| ()), 0));
            assert!(two.stack.receive().unwrap().is_none());
            let heard = two.stack.take_control();
            let from = [10, 77, 0, 254].into();
            assert_eq!(heard, Some(Control { to, from, error }));
        }
        assert_eq!(two.stack.damaged(), 0);
        // A quote of what was not sent here, or cannot have been too large.
        // By a byte of the quote.
        for (lie, (at, mtu)) in [(9, 900), (12, 900), (20, 900), (25, 900), (2, 900), (28, 1028)]
            .into_iter()
            .enumerate()
        {
            let change = |quote: &mut [u8]| {
                if let Some(byte) = quote.get_mut(at) {
                    *byte ^= 1;
                }
            };
            assert!(two.deliver(&said_of(&sent, (3, 4, mtu), change), 0));
            assert!(two.stack.receive().unwrap().is_none());
            assert_eq!((two.stack.take_control(), two.stack.damaged()), (None, lie as u64 + 1));
        }
        let damaged = said_of(&sent, (3, 3, 0), |_| ());
        let damaged = [&damaged[..40], &[damaged[40] ^ 1], &damaged[41..]].concat();
        assert!(two.deliver(&damaged, flag::CHECKSUM_UNVERIFIED));
        assert!(two.stack.receive().unwrap().is_none());
        assert_eq!(two.stack.take_control(), None);
        let elsewhere = said_of(&sent, (3, 3, 0), |quote| quote[23] ^= 1);
        assert!(two.deliver(&elsewhere, 0));
        assert!(two.stack.receive().unwrap().is_none());
        assert_eq!(two.stack.take_control().is_none(), connected, "to another port");
    }
}

#[test]
fn of_more_control_messages_than_are_taken_the_newest_are_kept() {
    let mut two = two(&fib(true, None));
    let packet = two.stack.packet().unwrap().unwrap();
    two.stack.send(packet).unwrap();
    let sent = two.sent();
    for _ in 0..100 {
        assert!(two.deliver(&said_of(&sent, (3, 3, 0), |_| ()), 0));
        assert!(two.stack.receive().unwrap().is_none());
    }
    assert!(two.deliver(&said_of(&sent, (3, 1, 0), |_| ()), 0));
    assert!(two.stack.receive().unwrap().is_none());
    let all: Vec<Control> = std::iter::from_fn(|| two.stack.take_control()).collect();
    assert!(all.len() < 100);
    assert_eq!(all.last().unwrap().error, ControlError::HostUnreachable);
}

#[test]
fn a_frame_with_one_fault_is_damaged_and_gives_its_buffer_back() {
    let mut two = two(&fib(true, None));
    let sound = incoming(b"payload");
    // Byte by byte of the headers; the checksum of the IP header is right.
    let faults: [(&str, &[(usize, u8)]); 9] = [
        ("version 5", &[(14, 0x55)]),
        ("a header of 16 bytes", &[(14, 0x44)]),
        ("ICMPv6", &[(23, 58)]),
        ("more fragments", &[(20, 0x20)]),
        ("the end of a fragmented packet", &[(21, 1)]),
        ("longer than the frame", &[(17, 36)]),
        ("shorter than its headers", &[(14, 0x46), (17, 23)]),
        ("a datagram longer than its packet", &[(39, 16)]),
        ("a datagram shorter than its header", &[(39, 7)]),
    ];
    for (count, (fault, changes)) in faults.into_iter().enumerate() {
        let mut frame = sound.clone();
        changes.iter().for_each(|&(at, byte)| frame[at] = byte);
        frame[24..26].fill(0);
        let header_bytes = usize::from(frame[14] & 15) * 4;
        let sum = base_wire::checksum::sum(&frame[14..14 + header_bytes]);
        frame[24..26].copy_from_slice(&base_wire::checksum::finish(sum).to_be_bytes());
        assert!(two.deliver(&frame, 0), "all buffers came back");
        assert_eq!((two.received(), two.stack.damaged()), (None, count as u64 + 1), "{fault}");
    }
    // Who sent it is for the driver to judge, which knows first whom a flow is with.
    for (at, fault, comes) in [(35, "from another port", true), (37, "to another port", false)] {
        let mut frame = sound.clone();
        frame[at] ^= 1;
        let before = two.stack.damaged();
        assert!(two.deliver(&frame, 0));
        assert_eq!(two.received().is_some(), comes, "{fault}");
        assert_eq!(two.stack.damaged(), before + u64::from(!comes), "{fault}");
    }
    for _ in 0..2 * BUFFERS {
        assert!(two.deliver(&sound, 0));
        assert_eq!(two.received(), Some(b"payload".to_vec()));
    }
}

#[test]
fn a_datagram_without_a_checksum_is_received_and_of_one_that_has_all_must_be_right() {
    let mut two = two(&fib(true, None));
    let payload: Vec<u8> = (0..=255).collect();
    let mut frame = incoming(&payload);
    let beginning = |two: &mut Two, frame: &[u8]| {
        assert!(two.deliver(frame, flag::CHECKSUM_UNVERIFIED));
        let packet = two.stack.receive().unwrap().unwrap();
        let mut bytes = [0; 10];
        let read = packet.read(&mut bytes).map(|count| bytes[..count].to_vec());
        two.stack.give_back(packet).unwrap();
        read
    };
    assert_eq!(beginning(&mut two, &frame), Some(payload[..10].to_vec()));
    // Beyond what is read.
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(beginning(&mut two, &frame), None);
    frame[40..42].fill(0);
    assert_eq!(beginning(&mut two, &frame), Some(payload[..10].to_vec()));
}

#[test]
fn a_packet_says_what_is_left_of_it_and_which_class_it_is_of() {
    let mut two = two(&fib(true, None));
    let mut frame = incoming(b"payload");
    frame[15] = 0xb9;
    frame[24..26].fill(0);
    let sum = base_wire::checksum::finish(base_wire::checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert!(two.deliver(&frame, 0));
    let mut packet = two.stack.receive().unwrap().unwrap();
    assert_eq!((packet.tos(), packet.len(), packet.is_empty()), (0xb9, 7, false));
    assert!(!packet.strip(8) && packet.strip(3) && !packet.strip(5));
    assert_eq!((packet.head(), packet.len()), (&b"load"[..], 4));
    assert!(!packet.truncate(5) && packet.truncate(2) && packet.strip(2));
    assert!(packet.is_empty());
}

#[test]
fn a_packet_takes_as_much_as_there_is_room_for_and_no_more() {
    let mut two = two(&fib(true, None));
    let mut packet = two.stack.packet().unwrap().unwrap();
    let room = packet.room();
    // A whole number of 64 bytes, headers apart.
    assert_eq!(Device::<HeapWords, HeapData>::buffer_bytes(MTU), 26 * 64);
    assert_eq!(room, 26 * 64 - HEAD_BYTES_MAX);
    assert!(packet.is_empty() && packet.write(b"four"));
    assert_eq!((packet.len(), packet.room(), packet.is_empty()), (4, room - 4, false));
    assert!(!packet.write(&vec![0; room - 3]));
    assert_eq!(packet.len(), 4);
    assert!(packet.write(&vec![0; room - 4]));
    assert_eq!((packet.len(), packet.room()), (room, 0));
}

#[test]
fn a_device_counts_its_buffers_and_what_the_driver_refused() {
    let mut two = two(&fib(true, None));
    let device = |two: &mut Two| {
        let device = two.stack.device();
        device.reap().unwrap();
        (device.send_buffers(), device.receive_buffers(), device.rejected())
    };
    let all = BUFFERS as usize;
    assert_eq!(device(&mut two), ((all, all), all, 0));
    for (flags, rejected) in [(0, 0), (flag::CHECKSUM_UNVERIFIED, 0), (flag::REJECTED, 1)] {
        let packet = two.packet(b"x");
        two.stack.send(packet).unwrap();
        assert_eq!(device(&mut two), ((all, all - 1), all, 0));
        let mut rec = two.tx.take().unwrap().unwrap();
        rec.flags = flags;
        assert!(two.tx.put(&rec).unwrap());
        assert_eq!(device(&mut two), ((all, all), all, rejected), "{flags}");
    }
}

#[test]
fn a_connected_flow_may_be_told_where_it_is_and_takes_other_ends_over() {
    let mut two = two(&fib(true, None));
    let send = |two: &mut Two, to: SocketAddr, class| {
        let mut packet = two.packet(b"x");
        packet.set_destination(Peer::At { address: to, mac: PEER });
        packet.set_tos(class);
        two.stack.send(packet).map(|()| two.sent())
    };
    let there = SocketAddr::from((THEIRS, 5000));
    two.stack.network().set_service(46);
    // The class of the flow is the packet's, too: said twice.
    assert_eq!(send(&mut two, there, 46 << 2 | 1).unwrap()[15], 46 << 2 | 1);
    let elsewhere = SocketAddr::from((OURS, 5000));
    assert_eq!(send(&mut two, elsewhere, 0), Err(SendError::OtherDestination));
    let mut other = fib(true, None);
    other.endpoints.remote = Some(Sap::new(OURS.into(), 5000));
    two.stack.set_endpoints(&other).unwrap();
    assert_eq!(send(&mut two, there, 0), Err(SendError::OtherDestination));
    assert_eq!(send(&mut two, elsewhere, 0).unwrap()[30..34], OURS.octets());
    let sixth = std::net::Ipv6Addr::LOCALHOST.into();
    two.stack.set_endpoints(&Fib { source: sixth, ..fib(true, None) }).unwrap_err();
}

/// What comes of packets that have just enough room for headers, too little, as much payload as there may be, and more.
fn at_the_bounds(layer: &mut impl Layer) {
    for (above, sent) in [(0, true), (1, false)] {
        let mut packet = layer.packet().unwrap().unwrap();
        let header = vec![0; packet.head_room() - layer.head_room() + above];
        assert!(packet.push_header(&header));
        assert_eq!(layer.send(packet).is_ok(), sent, "{above}");
    }
    let max = layer.payload_bytes_max();
    let mut full = || {
        let mut packet = layer.packet().unwrap().unwrap();
        assert!(packet.write(&vec![0; max]));
        packet
    };
    let (packet, mut longer) = (full(), full());
    layer.send(packet).unwrap();
    longer.push_header(&[0; 2]);
    assert_eq!(layer.send(longer), Err(SendError::TooLong { bytes: max + 2, max }));
}

#[test]
fn a_layer_refuses_what_it_has_no_room_for_and_nothing_else() {
    at_the_bounds(&mut two(&fib(true, None)).stack);
    at_the_bounds(two(&fib(true, None)).stack.network());
}

#[test]
fn an_empty_datagram_is_received_and_shows_where_it_came_from() {
    for connected in [true, false] {
        let mut two = two(&fib(connected, None));
        assert!(two.deliver(&incoming(b""), flag::CHECKSUM_UNVERIFIED));
        let packet = two.stack.receive().unwrap().unwrap();
        assert_eq!((packet.len(), packet.mac()), (0, PEER));
        assert_eq!(packet.from(), Some((THEIRS, 5000).into()));
        assert_eq!(two.stack.network().remote(), connected.then_some(THEIRS.into()));
    }
}

#[test]
fn what_is_damaged_below_is_counted_with_the_rest() {
    let mut two = two(&fib(true, None));
    // Two ranges where one was offered, and then another ether type.
    let mut rec = two.rx.take().unwrap().unwrap();
    rec.set_len(0, 60);
    let second = rbuf_channel::Pair { offset: rec.pairs()[0].offset + 64, len: 64 };
    assert!(rec.push(second));
    assert!(two.rx.put(&rec).unwrap());
    assert_eq!((two.received(), two.stack.damaged()), (None, 1));
    let mut frame = incoming(b"payload");
    frame[12] ^= 1;
    assert!(two.deliver(&frame, 0));
    assert_eq!((two.received(), two.stack.damaged()), (None, 2));
}

#[test]
fn control_messages_are_kept_in_the_order_in_which_they_came() {
    let mut two = two(&fib(true, None));
    let packet = two.stack.packet().unwrap().unwrap();
    two.stack.send(packet).unwrap();
    let sent = two.sent();
    for code in [3, 1] {
        assert!(two.deliver(&said_of(&sent, (3, code, 0), |_| ()), 0));
    }
    assert!(two.stack.receive().unwrap().is_none());
    let errors: Vec<ControlError> =
        std::iter::from_fn(|| two.stack.take_control()).map(|control| control.error).collect();
    assert_eq!(errors, [ControlError::PortUnreachable, ControlError::HostUnreachable]);
}

#[test]
fn the_link_cuts_what_is_longer_than_its_frames_and_nothing_for_this_host_itself() {
    let mut two = two(&fib(true, None));
    let cut = |unit_bytes, next_hop| Fib {
        mtu: 1400,
        unit_bytes,
        next_hop_mac: Some(next_hop),
        ..fib(true, None)
    };
    for (fib, payload, segs) in [
        (cut(1399, PEER), 0, 0),
        (cut(1400, PEER), 0, 0),
        (cut(1401, PEER), 1381, 1),
        (cut(64_000, PEER), 63_980, 45),
        (cut(64_000, US), 0, 0),
    ] {
        two.stack.reorganise(&fib);
        let ip = two.stack.network();
        assert_eq!((ip.gso_payload_max(), ip.gso_max_segs()), (payload, segs), "{fib:?}");
    }
}

#[test]
fn channels_that_are_given_up_hold_nothing_for_whoever_has_them_next() {
    let mut two = two(&fib(true, None));
    let packet = two.packet(b"x");
    two.stack.send(packet).unwrap();
    two.stack.device().retire();
    assert!(two.tx.take().unwrap().is_none() && two.rx.take().unwrap().is_none());
}
