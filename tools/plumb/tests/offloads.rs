//! A peer on the same machine, as Linux ships it: its kernel cuts no segments and fills in no checksums, for there is
//! no wire.

mod in_lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use base_flow::DropReason;
use base_wire::{EtherType, Ethernet, Ipv4, Mac, Protocol, Udp, pseudo_header};
use driver_link::{Arrival, Checksum, Link, Merged};
use driver_link_packet::PacketLink;
use driver_netlink::Netlink;
use in_lab::{OURS, THEIRS, eventually, host, in_lab, kernel_socket, on_peer};
use plumb_net::{Options, Udp as PlumbUdp};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

const RATE: [&str; 2] = ["--rate", "1gbit"];
const NO_OFFLOADS: [&str; 3] = ["--rate", "1gbit", "--no-offloads"];

/// What a peer leaves to its interface unless it is told not to.
const LEFT_TO_THE_INTERFACE: [&str; 2] = ["tx-checksum-ip-generic", "tx-tcp-segmentation"];

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    noise
}

/// What the driver has dropped of what nobody sent too fast or to nobody.
fn dropped(reason: DropReason) -> u64 {
    let host = host();
    let links = host.query_links().unwrap();
    let flows = host.query_flows().unwrap();
    links[0].bill.dropped(reason)
        + flows
            .iter()
            .filter_map(|flow| flow.bill.as_ref())
            .map(|bill| bill.dropped(reason))
            .sum::<u64>()
}

/// A stream from the peer and one to it; how many merged frames came, and how many beside them.
fn streams() -> (usize, usize) {
    let sent = noise(5_000_000);
    let host = host();
    let listener = Options::new().host(&host).listen((OURS, 7400)).unwrap();
    let mut wire = PacketLink::open_with_ring("plumb0", None, 1 << 14).unwrap();
    let kernel = on_peer(|| TcpStream::connect((OURS, 7400)).unwrap());
    let mut ours = listener.accept().unwrap().0;
    let (mut merged, mut single) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            (&kernel).write_all(&sent).unwrap();
            kernel.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let seen = scope.spawn(|| {
            let mut seen = Vec::new();
            ours.read_to_end(&mut seen).unwrap();
            ours.write_all(&seen).unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            seen
        });
        let back = scope.spawn(|| {
            let mut back = Vec::new();
            (&kernel).read_to_end(&mut back).unwrap();
            back
        });
        while !back.is_finished() {
            wire.poll_rx(256, &mut |arrival: Arrival<'_>| match arrival.merged {
                Some(_) => merged += 1,
                None => single += 1,
            });
            thread::yield_now();
        }
        assert!(seen.join().unwrap() == sent, "what arrived is not what was sent");
        assert!(back.join().unwrap() == sent, "what came back is not what was sent");
    });
    (merged, single)
}

#[test]
fn streams_of_a_peer_that_leaves_cutting_to_its_interface_arrive_whole() {
    const NAME: &str = "streams_of_a_peer_that_leaves_cutting_to_its_interface_arrive_whole";
    in_lab(NAME, &RATE, || {
        let active =
            on_peer(|| Netlink::open().unwrap().active("plumb1", &LEFT_TO_THE_INTERFACE).unwrap());
        assert_eq!(active, LEFT_TO_THE_INTERFACE, "the lab's peer is not as Linux ships it");
        let (merged, _) = streams();
        assert!(merged > 50, "{merged} merged frames: nothing was tested");
        for reason in [DropReason::Merged, DropReason::BufferTooSmall] {
            assert_eq!(dropped(reason), 0, "{reason}");
        }
    });
}

#[test]
fn streams_of_a_peer_that_cuts_its_segments_arrive_whole() {
    const NAME: &str = "streams_of_a_peer_that_cuts_its_segments_arrive_whole";
    in_lab(NAME, &NO_OFFLOADS, || {
        let active =
            on_peer(|| Netlink::open().unwrap().active("plumb1", &LEFT_TO_THE_INTERFACE).unwrap());
        assert!(active.is_empty(), "{active:?}");
        let (merged, single) = streams();
        assert!(merged == 0 && single > 3000, "{merged} merged frames, {single} others");
    });
}

#[test]
fn datagrams_whose_checksum_was_left_open_arrive_and_are_refused_as_on_a_wire() {
    const NAME: &str = "datagrams_whose_checksum_was_left_open_arrive_and_are_refused_as_on_a_wire";
    in_lab(NAME, &RATE, || {
        let host = host();
        let ours = PlumbUdp::options().host(&host).bind((OURS, 7001)).unwrap();
        let kernel = kernel_socket(9001);
        for bytes in [1, 100, 1472] {
            let sent = noise(bytes);
            kernel.send_to(&sent, (OURS, 7001)).unwrap();
            let mut buffer = [0; 2000];
            let (length, from) = ours.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&sent[..], SocketAddr::from((THEIRS, 9001))));
        }
        // Whoever answers for ports that are nobody's verifies checksums.
        on_peer(|| {
            let refused =
                TcpStream::connect_timeout(&SocketAddr::from((OURS, 9999)), Duration::from_secs(5));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let udp = UdpSocket::bind((THEIRS, 0)).unwrap();
            udp.connect((OURS, 9999)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            udp.send(b"anybody?").unwrap();
            assert_eq!(udp.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
    });
}

/// A frame of `payload` from the peer's port 9001 to our port 7001, with the checksum left open.
fn datagrams(from: Mac, to: Mac, payload: &[u8]) -> Vec<u8> {
    let bytes = (8 + payload.len()) as u16;
    let pseudo = pseudo_header(THEIRS.into(), OURS.into(), Protocol::UDP, bytes.into()).unwrap();
    let udp = Udp {
        source: U16::new(9001),
        destination: U16::new(7001),
        bytes: U16::new(bytes),
        checksum: U16::new(!base_wire::checksum::finish(pseudo)),
    };
    let ethernet = Ethernet { destination: to, source: from, ether_type: EtherType::IPV4 };
    let ip = Ipv4::new(THEIRS, OURS, Protocol::UDP, bytes);
    [ethernet.as_bytes(), ip.as_bytes(), udp.as_bytes(), payload].concat()
}

#[test]
fn merged_datagrams_arrive_one_by_one_and_what_makes_no_sense_is_counted() {
    const NAME: &str = "merged_datagrams_arrive_one_by_one_and_what_makes_no_sense_is_counted";
    in_lab(NAME, &RATE, || {
        let host = host();
        let ours = PlumbUdp::options().host(&host).bind((OURS, 7001)).unwrap();
        let ours_mac = Netlink::open().unwrap().interface("plumb0").unwrap().mac;
        let peer = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let payload = noise(20_500);
        let frame = datagrams(peer.facts().station, ours_mac, &payload);
        let send = |protocol, piece_bytes, checksum| {
            let merged = Some(Merged { protocol, piece_bytes });
            let arrival = Arrival { frame: &frame, vlan: None, checksum, merged, missing: 0 };
            peer.forward(&arrival)
        };
        let open = Checksum::Partial { start: 34, field: 6 };
        send(Protocol::UDP, 1000, open).unwrap();
        let mut buffer = [0; 2000];
        for expected in payload.chunks(1000) {
            let (length, _) = ours.recv_from(&mut buffer).unwrap();
            assert!(&buffer[..length] == expected, "{length} bytes of {}", expected.len());
        }
        assert_eq!(dropped(DropReason::Merged), 0);

        // More datagrams than anybody merges. The kernel refuses most other lies, or counts them itself.
        let mut expected = 0;
        for _ in 0..10 {
            expected += u64::from(send(Protocol::UDP, 100, open).is_ok());
        }
        let _ = send(Protocol::TCP, 1000, Checksum::Partial { start: 34, field: 16 });
        let _ = send(Protocol::UDP, 1000, Checksum::Partial { start: 60_000, field: 6 });
        eventually("all are counted", || dropped(DropReason::Merged) >= expected);
        kernel_socket(9001).send_to(b"still there", (OURS, 7001)).unwrap();
        assert_eq!(ours.recv(&mut buffer).unwrap(), 11);
    });
}
