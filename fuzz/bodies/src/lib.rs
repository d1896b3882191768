//! Bodies of the fuzz targets.
//!
//! Each takes bytes that an adversary chose and panics if something he must not achieve happens. They
//! run as ordinary tests over the kept corpus and random inputs (`tests/corpus.rs`), and under a
//! coverage-guided engine with `cargo fuzz` (`cargo run -p xtask -- fuzz TARGET`).

#![forbid(unsafe_code)]

mod listener;
mod script;
mod tcp;

pub use listener::listener;
pub use tcp::tcp;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering::Relaxed;

use base_flow::{Bill, Endpoints, Fib, FlowId, LinkFacts, Rate, Sap, Transport};
use base_rpc::{Answer, Call, DomainId, FromDriver, ToDriver, decode, encode};
use base_wire::{Mac, Protocol};
use driver_filter::{
    Demux, HEADER_BYTES_MAX, Origin, PIECES_MAX, Pieces, Rights, Sums, Template, Verdict,
    is_transport_checksum,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use flowman_core::{ClientId, Config, Counters, FlowManager, LinkConfig, LinkId, Output};
use rbuf_channel::{Data, End, HeapData, HeapWords, IoRec, Pair, block_words};

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target: its name, which is that of its corpus, and its body.
pub const TARGETS: [(&str, Body); 8] = [
    ("iorec", iorec),
    ("receive", receive),
    ("merged", merged),
    ("transmit", transmit),
    ("message", message),
    ("last_resort", last_resort),
    ("tcp", tcp),
    ("listener", listener),
];

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A peer writes these words, in this order, into its block: nothing but iorecs inside the data area
/// may be taken, and never more than were published.
pub fn iorec(bytes: &[u8]) {
    const RING: u32 = 16;
    const AREA: u32 = 4096;
    let (theirs, mine) = (HeapWords::new(block_words(RING)), HeapWords::new(block_words(RING)));
    let Some(mut end) = End::new(mine, theirs.clone(), AREA) else { return };
    for chunk in bytes.chunks_exact(9) {
        let place = usize::from(chunk[0]) % theirs.len();
        let word = chunk[1..].iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        theirs[place].store(word, Relaxed);
        if let Ok(Some(rec)) = end.take() {
            assert!(rec.validate(AREA).is_ok() && rec.bytes() <= u64::from(AREA), "{rec:?}");
        }
        let _ = end.put(&IoRec::single(1, Pair { offset: 0, len: 64 }));
        let _ = end.notice();
        let _ = end.arm();
    }
}

/// A frame arrives: it may be claimed only by the flow it names, as an independent parser reads it.
pub fn receive(frame: &[u8]) {
    let mut demux = Demux::new(US, None, [1, 2]);
    demux.set_addresses(&["10.77.0.1/24".parse().expect("a valid prefix")]);
    let ends =
        |transport, port| Endpoints { transport, local: Sap::new(OURS.into(), port), remote: None };
    for (flow, transport) in [(1, Transport::Udp), (2, Transport::Tcp), (3, Transport::Icmp)] {
        demux.install(&ends(transport, 1000), flow).expect("different ends");
    }
    let Verdict::Flow { flow, header_bytes } = demux.classify(frame, None, Origin::Wire) else {
        return;
    };
    assert!(usize::from(header_bytes) <= frame.len(), "headers beyond the frame");
    let packet = SlicedPacket::from_ethernet(frame).expect("what is claimed can be parsed");
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    assert!(
        ip.header().destination_addr() == OURS
            || ip.header().destination_addr().is_broadcast()
            || ip.header().destination_addr().octets()[3] == 255
    );
    assert!((1..=3).contains(&flow));
    let source = ip.header().source_addr();
    assert!(source != OURS && !source.is_loopback() && !source.is_multicast());
    assert!(frame[..6] == US.0 || flow == 1, "a connection with many");
}

/// A frame arrives of which the kernel says that it was merged, after eight bytes of what it says: no more pieces come
/// of it than may, and they carry what it carried, as an independent parser reads it.
pub fn merged(bytes: &[u8]) {
    let Some((&[protocol, mtu_high, mtu_low, high, low, start, field, sums], frame)) =
        bytes.split_first_chunk()
    else {
        return;
    };
    let _ = is_transport_checksum(frame, start.into(), field.into());
    let protocol = if protocol < 128 { Protocol::TCP } else { Protocol::UDP };
    let (mtu, piece_bytes) =
        (u16::from_be_bytes([mtu_high, mtu_low]), u16::from_be_bytes([high, low]));
    let sums = if sums < 128 { Sums::Open } else { Sums::Whole };
    let Some(mut pieces) = Pieces::merged(frame, (protocol, piece_bytes), mtu, sums) else {
        return;
    };
    let payload = |frame: &[u8]| match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(tcp.payload().to_vec()),
        TransportSlice::Udp(udp) => Some(udp.payload().to_vec()),
        _ => None,
    };
    let whole = payload(frame).expect("what is cut can be parsed");
    let (mut carried, mut count) = (Vec::new(), 0);
    while let Some((head, rest)) = pieces.next_frame() {
        carried.extend(payload(&[head, rest].concat()).expect("a piece can be parsed"));
        count += 1;
    }
    assert!(carried == whole, "the pieces carry something else");
    assert!((1..=PIECES_MAX).contains(&count), "{count} pieces");
}

/// An application sends this frame on a connected UDP flow: what leaves is that flow's, as an
/// independent parser reads it.
pub fn transmit(frame: &[u8]) {
    if frame.is_empty() || frame.len() > 2000 {
        return;
    }
    let (them, peer) = (Ipv4Addr::new(10, 77, 0, 2), Mac([2, 0, 0, 0, 0, 9]));
    let fib = Fib {
        flow: FlowId { index: 1, generation: 0 },
        endpoints: Endpoints {
            transport: Transport::Udp,
            local: Sap::new(OURS.into(), 80),
            remote: Some(Sap::new(them.into(), 2000)),
        },
        source: OURS.into(),
        source_mac: US,
        next_hop_mac: Some(peer),
        mtu: 1500,
        unit_bytes: 1500,
        path_mtu: None,
        vlan: None,
    };
    let data = HeapData::new(2048);
    data.write(0, frame);
    let mut header = [0; HEADER_BYTES_MAX];
    let first = frame.len().min(HEADER_BYTES_MAX);
    header[..first].copy_from_slice(&frame[..first]);
    let pairs = [Pair { offset: 0, len: frame.len() as u32 }];
    let template = Template::new(&Rights::Flow(fib), None);
    let Ok(checked) = template.check(&header, &pairs, &data, frame.len()) else { return };
    let mut out = [0; 2000];
    let sent = checked.gather(&mut out).expect("it fits");
    let packet = SlicedPacket::from_ethernet(sent).expect("what leaves can be parsed");
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP") };
    let header = ip.header();
    assert_eq!((&sent[..6], &sent[6..12]), (&peer.0[..], &US.0[..]));
    assert_eq!((header.source_addr(), header.destination_addr()), (OURS, them));
    assert_eq!((udp.source_port(), udp.destination_port()), (80, 2000));
    assert!(header.ihl() == 5 && !header.is_fragmenting_payload() && packet.link_exts.is_empty());
}

/// Bytes arrive on a connection: they are one message, and then encode to themselves, or none.
pub fn message(bytes: &[u8]) {
    fn same<T: serde_like::Message>(bytes: &[u8]) {
        if let Ok(message) = decode::<T>(bytes) {
            let again = encode(&message);
            assert_eq!(decode::<T>(&again).as_ref(), Ok(&message));
        }
    }
    same::<Call>(bytes);
    same::<Answer>(bytes);
    same::<ToDriver>(bytes);
    same::<FromDriver>(bytes);
}

mod serde_like {
    /// What every message is.
    pub(crate) trait Message:
        serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug
    {
    }

    impl<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug> Message
        for T
    {
    }
}

struct NoCounters;

impl Counters for NoCounters {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        (Bill::default(), 0, 0)
    }
}

/// A frame nobody claims, and a message from an application, reach the flow manager: what it sends
/// comes from our station and our address, and it answers or is silent, but never fails.
pub fn last_resort(bytes: &[u8]) {
    let link = LinkConfig {
        dev: "sim".into(),
        addresses: vec!["10.77.0.1/24".parse().expect("a valid prefix")],
        gateway: None,
        rate: None,
        vlan: None,
        probe_wait_ms: 0,
    };
    let mut manager = FlowManager::new(Config { links: vec![link], ..Config::default() }, [7; 16]);
    let facts = LinkFacts {
        name: "sim".into(),
        kind: "sim".into(),
        mac: US,
        mtu: 1500,
        mtu_max: 1500,
        unit_bytes: 1500,
        vlan: None,
        rate: Rate::mbit(100),
        frame_cost_ns: 0,
        tardiness_ns: 0,
    };
    let link = manager.driver_joined(facts).expect("the link is configured");
    manager.driver_message(link, FromDriver::DomainAdded { domain: DomainId(1), result: Ok(()) });
    let client = ClientId(1);
    manager.client_joined(client, 1, 0).expect("the first of its user");
    manager.frame(1, link, bytes);
    if let Ok(call) = decode::<Call>(bytes) {
        manager.request(2, client, call, &NoCounters);
    }
    manager.tick(3);
    manager.client_left(client);
    while let Some(output) = manager.poll_output() {
        let Output::Frame { frame, .. } = output else { continue };
        assert_eq!(frame[6..12], US.0, "not from our station");
        let packet = SlicedPacket::from_ethernet(&frame).expect("what is sent can be parsed");
        if let Some(NetSlice::Ipv4(ip)) = packet.net {
            assert_eq!(IpAddr::V4(ip.header().source_addr()), IpAddr::V4(OURS));
        }
    }
}
