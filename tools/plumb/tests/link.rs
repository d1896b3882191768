//! The packet link on a real interface: what was handed to it arrives, whole and in order, however it was sent.

mod in_lab;

use base_wire::{EtherType, Ethernet, FRAME_BYTES_MIN};
use driver_filter::{HEADER_BYTES_MAX, Rights, Template};
use driver_link::Link;
use driver_link_packet::{PacketLink, bulk_is_possible};
use driver_netlink::Netlink;
use in_lab::{eventually, in_lab, on_peer};
use rbuf_channel::{Data, HeapData, Pair};
use zerocopy::IntoBytes;

/// Hands an IPv4 or ARP frame of `source` to the link; returns where it is to be sent from.
fn transmit(link: &mut PacketLink, frame: &[u8]) -> HeapData {
    let template = Template::new(&Rights::Station(link.facts().station), None);
    let data = HeapData::new(frame.len() as u32);
    assert!(data.write(0, frame));
    let mut header = [0; HEADER_BYTES_MAX];
    let first = frame.len().min(HEADER_BYTES_MAX);
    header[..first].copy_from_slice(&frame[..first]);
    let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
    let checked = template.check(&header, &pairs, &data, frame.len()).unwrap();
    assert!(link.transmit(&checked));
    data
}

/// The other way of the packet link, which copies the few frames of a burst, is for IPv4.
#[test]
fn payload_leaves_from_where_its_sender_has_it_and_the_header_as_it_was_checked() {
    const NAME: &str =
        "payload_leaves_from_where_its_sender_has_it_and_the_header_as_it_was_checked";
    in_lab(NAME, &[], || {
        let mut link = PacketLink::open("plumb0", None).unwrap();
        let mut peer = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let (source, destination) = (link.facts().station, peer.facts().station);
        let ether_type = EtherType::ARP;
        let mut frame = Ethernet { destination, source, ether_type }.as_bytes().to_vec();
        let header_bytes = frame.len();
        frame.resize(1000, b'1');
        let data = transmit(&mut link, &frame);
        // Nothing has copied the payload yet.
        data.write(0, &[b'2'; 1000]);
        link.flush();
        link.complete(&mut |sent| assert!(sent));
        frame[header_bytes..].fill(b'2');
        let mut arrived = None;
        eventually("it has arrived", || {
            peer.poll_rx(64, &mut |arrival| {
                if arrival.frame[6..12] == source.0 && arrival.frame.len() == frame.len() {
                    arrived = Some(arrival.frame.to_vec());
                }
            });
            arrived.is_some()
        });
        assert!(arrived.unwrap() == frame, "{:?}", &frame[..HEADER_BYTES_MAX + 1]);
    });
}

/// Frames of every length, of the protocol that can be sent in bulk and of another, in flushes of one frame
/// and of many.
#[test]
fn frames_arrive_whole_and_in_order_whether_they_left_in_bulk_or_as_messages() {
    const NAME: &str = "frames_arrive_whole_and_in_order_whether_they_left_in_bulk_or_as_messages";
    in_lab(NAME, &[], || {
        let mut link = PacketLink::open("plumb0", None).unwrap();
        assert_eq!(link.sends_in_bulk(), bulk_is_possible().is_ok(), "veth has no queue");
        let mut peer = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let (source, destination) = (link.facts().station, peer.facts().station);
        let longest = link.facts().frame_bytes_max();

        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut number = 0_u32;
        for _ in 0..400 {
            let mut sent = Vec::new();
            for _ in 0..chance.usize(1..=link.room()) {
                let ether_type =
                    if chance.u8(..16) == 0 { EtherType::ARP } else { EtherType::IPV4 };
                let mut frame = Ethernet { destination, source, ether_type }.as_bytes().to_vec();
                frame.extend(number.to_be_bytes());
                frame.resize(chance.usize(FRAME_BYTES_MIN..=longest), number as u8);
                number += 1;
                transmit(&mut link, &frame);
                sent.push(frame);
            }
            link.flush();
            let mut done = 0;
            link.complete(&mut |left| done += usize::from(left));
            assert_eq!(done, sent.len());

            let mut arrived = Vec::new();
            eventually("all frames have arrived", || {
                peer.poll_rx(64, &mut |arrival| {
                    if arrival.frame[6..12] == source.0 {
                        arrived.push(arrival.frame.to_vec());
                    }
                });
                arrived.len() >= sent.len()
            });
            assert!(arrived == sent, "what arrived is not what was sent");
        }
    });
}

/// Nothing will ever make room for them on an interface without a queue.
#[test]
fn frames_that_the_other_end_does_not_take_hold_up_no_others() {
    const NAME: &str = "frames_that_the_other_end_does_not_take_hold_up_no_others";
    in_lab(NAME, &[], || {
        let mut link = PacketLink::open("plumb0", None).unwrap();
        let peer = on_peer(|| {
            let netlink = Netlink::open().unwrap();
            netlink.set_mtu(netlink.interface("plumb1").unwrap().index, 1000).unwrap();
            netlink.interface("plumb1").unwrap().mac
        });
        let source = link.facts().station;
        for in_a_row in [1, 2, 30] {
            for frame_bytes in [1514, 100] {
                let ether_type = EtherType::IPV4;
                let mut frame =
                    Ethernet { destination: peer, source, ether_type }.as_bytes().to_vec();
                frame.resize(frame_bytes, 0);
                (0..in_a_row).for_each(|_| drop(transmit(&mut link, &frame)));
            }
            link.flush();
            let mut fates = Vec::new();
            link.complete(&mut |sent| fates.push(sent));
            let expected: Vec<bool> = (0..2 * in_a_row).map(|index| index >= in_a_row).collect();
            assert_eq!(fates, expected, "{in_a_row} in a row");
            assert!(!link.is_congested());
        }
    });
}
