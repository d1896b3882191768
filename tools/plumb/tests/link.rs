//! The packet link on a real interface: what was handed to it arrives, whole and in order, however it was sent.

mod in_lab;

use base_wire::{EtherType, Ethernet, FRAME_BYTES_MIN};
use driver_filter::{HEADER_BYTES_MAX, Rights, Template};
use driver_link::Link;
use driver_link_packet::{PacketLink, bulk_is_possible};
use in_lab::{eventually, in_lab, on_peer};
use rbuf_channel::{Data, HeapData, Pair};
use zerocopy::IntoBytes;

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
        let template = Template::new(&Rights::Station(source), None);
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
                let data = HeapData::new(frame.len() as u32);
                assert!(data.write(0, &frame));
                let mut header = [0; HEADER_BYTES_MAX];
                let first = frame.len().min(HEADER_BYTES_MAX);
                header[..first].copy_from_slice(&frame[..first]);
                let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
                let checked = template.check(&header, &pairs, &data, frame.len()).unwrap();
                assert!(link.transmit(&checked));
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
