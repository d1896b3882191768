//! Answers for the host where no flow does: ARP, echo, unreachable, reset (paper §3.2).
//!
//! Pure functions from a frame to the frame that answers it. None of them answers what was sent to
//! everybody, comes from everybody, or is itself an answer (RFC 1122 §3.2.2).

use std::net::Ipv4Addr;

use base_wire::{
    Arp, EtherType, Ethernet, Header, ICMP_BYTES, IPV4_BYTES, Icmp, IcmpV4Type, Ipv4, Mac,
    Protocol, Udp, VlanTag, checksum, pseudo_header,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::segment::Segment;
use crate::strays::ends_of;

/// Builds frames from our station.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Station {
    pub(crate) mac: Mac,
    pub(crate) vlan: Option<u16>,
}

impl Station {
    pub(crate) fn frame(self, to: Mac, ether_type: EtherType, parts: &[&[u8]]) -> Vec<u8> {
        let link_type = if self.vlan.is_some() { EtherType::VLAN } else { ether_type };
        let mut frame = Ethernet { destination: to, source: self.mac, ether_type: link_type }
            .as_bytes()
            .to_vec();
        if let Some(id) = self.vlan {
            frame.extend(VlanTag { control: U16::new(id), ether_type }.as_bytes());
        }
        for part in parts {
            frame.extend(*part);
        }
        frame
    }

    pub(crate) fn arp(self, to: Mac, arp: &Arp) -> Vec<u8> {
        self.frame(to, EtherType::ARP, &[arp.as_bytes()])
    }
}

/// What a frame that nobody claimed says.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Arp(&'a Arp),
    Packet(Packet<'a>),
    /// Nothing that is ever answered.
    Nothing,
}

/// An IPv4 packet to one of our addresses, and what it carries.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: Mac,
    pub(crate) ip: &'a Ipv4,
    /// The IP packet from its header to the end it states.
    whole: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// What follows the IP header.
    pub(crate) const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Reads a frame. Packets that may not be answered come out as [`Content::Nothing`].
pub(crate) fn read(frame: &[u8]) -> Content<'_> {
    let parse = || {
        let (ethernet, mut rest) = Ethernet::split(frame)?;
        let mut ether_type = ethernet.ether_type;
        if ether_type == EtherType::VLAN {
            let (tag, inner) = VlanTag::split(rest)?;
            (ether_type, rest) = (tag.ether_type, inner);
        }
        match ether_type {
            EtherType::ARP => Arp::split(rest).map(|(arp, _)| Content::Arp(arp)),
            EtherType::IPV4 => packet(ethernet, rest).map(Content::Packet),
            _ => None,
        }
    };
    parse().unwrap_or(Content::Nothing)
}

fn packet<'a>(ethernet: &Ethernet, bytes: &'a [u8]) -> Option<Packet<'a>> {
    let (ip, _) = Ipv4::split(bytes)?;
    let header = bytes.get(..ip.header_bytes())?;
    let whole = bytes.get(..usize::from(ip.total_bytes.get()))?;
    let payload = whole.get(ip.header_bytes()..)?;
    let source = ip.source();
    let answerable = ip.version() == 4
        && header.len() >= IPV4_BYTES
        && checksum::is_valid(checksum::sum(header))
        && !ip.is_fragment()
        && !ethernet.destination.is_group()
        && !ethernet.source.is_group()
        && !source.is_unspecified()
        && !source.is_multicast()
        && !source.is_broadcast()
        && !source.is_loopback()
        && is_intact(ip, payload);
    answerable.then_some(Packet { from: ethernet.source, ip, whole, payload })
}

/// Whether what a packet carries has the checksum it says: what was damaged on its way is answered by nobody
/// (RFC 1122 §3.2.2, §4.1.3.4, §4.2.2.7).
fn is_intact(ip: &Ipv4, payload: &[u8]) -> bool {
    let covered = match ip.protocol {
        Protocol::ICMP => Some((payload, 0)),
        Protocol::TCP => pseudo(ip, payload.len()).map(|pseudo| (payload, pseudo)),
        Protocol::UDP => Udp::split(payload).and_then(|(udp, _)| {
            let datagram = payload.get(..usize::from(udp.bytes.get()))?;
            match udp.checksum.get() {
                // The sender has left it out.
                0 => Some((&[][..], 0xffff)),
                _ => pseudo(ip, datagram.len()).map(|pseudo| (datagram, pseudo)),
            }
        }),
        _ => return true,
    };
    covered.is_some_and(|(bytes, pseudo)| checksum::is_valid(pseudo + checksum::sum(bytes)))
}

fn pseudo(ip: &Ipv4, bytes: usize) -> Option<u64> {
    pseudo_header(ip.source().into(), ip.destination().into(), ip.protocol, bytes as u32)
}

/// What the answer to a packet is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Echo(Vec<u8>),
    Unreachable(Vec<u8>),
    Reset(Vec<u8>),
}

/// The answer to a packet to a port or identifier nobody owns.
pub(crate) fn answer(packet: &Packet<'_>, station: Station) -> Option<Answer> {
    match packet.ip.protocol {
        Protocol::ICMP => echo(packet, station).map(Answer::Echo),
        Protocol::UDP => {
            Udp::split(packet.payload)?;
            unreachable(packet, station, IcmpV4Type::PORT_UNREACHABLE).map(Answer::Unreachable)
        }
        Protocol::TCP => reset(packet, station).map(Answer::Reset),
        _ => {
            unreachable(packet, station, IcmpV4Type::PROTOCOL_UNREACHABLE).map(Answer::Unreachable)
        }
    }
}

fn send(packet: &Packet<'_>, station: Station, protocol: Protocol, payload: &[&[u8]]) -> Vec<u8> {
    let bytes: usize = payload.iter().map(|part| part.len()).sum();
    let (us, them) = (packet.ip.destination(), packet.ip.source());
    let ip = Ipv4::new(us, them, protocol, bytes as u16);
    let mut parts = vec![ip.as_bytes()];
    parts.extend(payload);
    station.frame(packet.from, EtherType::IPV4, &parts)
}

/// RFC 792: the same data back. No code is defined, so none is refused (RFC 1122 §3.2.2.6).
fn echo(packet: &Packet<'_>, station: Station) -> Option<Vec<u8>> {
    let (icmp, data) = Icmp::split(packet.payload)?;
    if icmp.kind != IcmpV4Type::ECHO_REQUEST {
        return None;
    }
    let mut reply = Icmp { kind: IcmpV4Type::ECHO_REPLY, checksum: U16::ZERO, ..*icmp };
    reply.checksum =
        U16::new(checksum::finish(checksum::sum(reply.as_bytes()) + checksum::sum(data)));
    Some(send(packet, station, Protocol::ICMP, &[reply.as_bytes(), data]))
}

/// RFC 1122 §3.2.2.1 and §4.1.3.1: the head of the packet back, so that its sender knows which.
fn unreachable(packet: &Packet<'_>, station: Station, code: u8) -> Option<Vec<u8>> {
    let quoted = packet.whole.get(..packet.whole.len().min(packet.ip.header_bytes() + 8))?;
    let mut icmp = Icmp {
        kind: IcmpV4Type::UNREACHABLE,
        code,
        checksum: U16::ZERO,
        id: U16::ZERO,
        sequence: U16::ZERO,
    };
    icmp.checksum =
        U16::new(checksum::finish(checksum::sum(icmp.as_bytes()) + checksum::sum(quoted)));
    debug_assert_eq!(size_of::<Icmp>(), ICMP_BYTES);
    Some(send(packet, station, Protocol::ICMP, &[icmp.as_bytes(), quoted]))
}

fn reset(packet: &Packet<'_>, station: Station) -> Option<Vec<u8>> {
    let words = Segment::read(packet)?.reset()?;
    words.frame(station, packet.from, ends_of(packet)?)
}

/// The frames that say, unasked, that `address` is at our station (RFC 5227 §2.3).
pub(crate) fn announcement(station: Station, address: Ipv4Addr) -> Vec<u8> {
    station.arp(Mac::BROADCAST, &Arp::request(station.mac, address, address))
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const US: Station = Station { mac: Mac([2, 0, 0, 0, 0, 1]), vlan: None };
    const THEM: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn to_us() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(THEM, US.mac.0).ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
    }

    fn reply_to(frame: &[u8]) -> Option<Answer> {
        match read(frame) {
            Content::Packet(packet) => answer(&packet, US),
            _ => None,
        }
    }

    /// An echo request after `change`, with the checksum of its header made right again.
    fn changed(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut frame = Vec::new();
        to_us().icmpv4_echo_request(77, 5).write(&mut frame, b"some data").unwrap();
        change(&mut frame);
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..34])).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        frame
    }

    #[test]
    fn a_packet_with_anything_about_it_that_cannot_be_is_answered_by_nobody() {
        assert!(reply_to(&changed(|_| ())).is_some(), "but for that");
        type Change = fn(&mut [u8]);
        let wrong: [(&str, Change); 11] = [
            ("sent to a group's station", |frame| frame[0] |= 1),
            ("sent by a group's station", |frame| frame[6] |= 1),
            ("another version", |frame| frame[14] = 0x55),
            ("a header that is too short", |frame| frame[14] = 0x44),
            ("the last fragment of several", |frame| frame[21] = 1),
            ("the first fragment of several", |frame| frame[20] = 0x20),
            ("from nobody", |frame| frame[26..30].fill(0)),
            ("from a group", |frame| frame[26] = 224),
            ("from everybody", |frame| frame[26..30].fill(255)),
            ("from a host to itself", |frame| frame[26] = 127),
            ("damaged on its way", |frame| *frame.last_mut().unwrap() ^= 1),
        ];
        for (what, change) in wrong {
            assert_eq!(reply_to(&changed(change)), None, "{what}");
        }
        let mut frame = changed(|_| ());
        frame[24] ^= 1;
        assert_eq!(reply_to(&frame), None, "a damaged header");
    }

    #[test]
    fn what_cannot_be_delivered_comes_back_with_its_head_and_the_reason() {
        let mut frame = Vec::new();
        to_us().udp(9, 10).write(&mut frame, &[7; 100]).unwrap();
        let datagram = reply_to(&frame);
        let Some(Answer::Unreachable(reply)) = &datagram else { panic!("{datagram:?}") };
        // RFC 1122 §3.2.2: the header and eight bytes; RFC 792: code 3 is the port.
        assert_eq!((reply[34], reply[35], &reply[42..]), (3, 3, &frame[14..42]));
        frame[23] = 132;
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..34])).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        let packet = reply_to(&frame);
        let Some(Answer::Unreachable(reply)) = &packet else { panic!("{packet:?}") };
        assert_eq!((reply[34], reply[35]), (3, 2), "code 2 is the protocol");
    }

    #[test]
    fn an_echo_comes_back_with_its_data_and_a_good_checksum() {
        let mut frame = Vec::new();
        to_us().icmpv4_echo_request(77, 5).write(&mut frame, b"some data").unwrap();
        let Some(Answer::Echo(reply)) = reply_to(&frame) else { panic!("no echo") };
        let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("not ICMP") };
        assert_eq!((icmp.type_u8(), icmp.payload()), (0, &b"some data"[..]));
        assert!(checksum::is_valid(checksum::sum(&reply[34..])));
        assert_eq!(reply[..6], THEM);
        let at = frame.len() - 1;
        frame[at] ^= 1;
        assert_eq!(reply_to(&frame), None, "a damaged request is not answered");
    }

    #[test]
    fn a_datagram_to_nobody_is_answered_with_its_own_head() {
        let mut frame = Vec::new();
        to_us().udp(1000, 2000).write(&mut frame, &[7; 100]).unwrap();
        let Some(Answer::Unreachable(reply)) = reply_to(&frame) else { panic!("no answer") };
        assert_eq!(reply[14 + 20], 3);
        assert_eq!(reply[14 + 20 + 8..], frame[14..14 + 28]);
    }

    #[test]
    fn what_was_damaged_on_its_way_is_answered_by_nobody() {
        let mut frames = vec![Vec::new(); 4];
        to_us().udp(1000, 2000).write(&mut frames[0], b"some data").unwrap();
        to_us().tcp(1000, 2000, 500, 1000).syn().write(&mut frames[1], b"some data").unwrap();
        to_us().tcp(1000, 2000, 5, 10).ack(9).write(&mut frames[2], b"some data").unwrap();
        to_us().icmpv4_echo_request(77, 5).write(&mut frames[3], b"some data").unwrap();
        for frame in &frames {
            assert!(reply_to(frame).is_some());
            for at in 34..frame.len() {
                let mut damaged = frame.clone();
                damaged[at] ^= 0x10;
                assert_eq!(reply_to(&damaged), None, "byte {at}");
            }
        }
        // Whoever sends no checksum wants an answer all the same.
        let datagram = &mut frames[0];
        datagram[40..42].fill(0);
        assert!(matches!(reply_to(datagram), Some(Answer::Unreachable(_))));
    }

    #[test]
    fn a_segment_to_nobody_is_reset_as_the_standard_says() {
        let tcp = |build: fn(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
                   data: &[u8]| {
            let mut frame = Vec::new();
            build(to_us().tcp(1000, 2000, 500, 1000)).write(&mut frame, data).unwrap();
            reply_to(&frame).map(|reply| {
                let Answer::Reset(reply) = reply else { panic!("not a reset") };
                let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("not TCP") };
                let header = tcp.to_header();
                let ip = parsed.net.unwrap();
                let etherparse::NetSlice::Ipv4(ip) = ip else { panic!("not IPv4") };
                assert_eq!(
                    header.calc_checksum_ipv4(&ip.header().to_header(), &[]).unwrap(),
                    header.checksum
                );
                (header.rst, header.ack, header.sequence_number, header.acknowledgment_number)
            })
        };
        assert_eq!(tcp(|t| t.syn(), b""), Some((true, true, 0, 501)));
        assert_eq!(tcp(|t| t.fin(), b"abc"), Some((true, true, 0, 504)));
        assert_eq!(tcp(|t| t.ack(9000), b"abc"), Some((true, false, 9000, 0)));
        assert_eq!(tcp(|t| t.rst(), b""), None, "or resets would answer resets");
    }

    #[test]
    fn nothing_that_was_sent_to_or_from_everybody_is_answered() {
        let mut frame = Vec::new();
        to_us().udp(1, 2).write(&mut frame, b"x").unwrap();
        assert!(reply_to(&frame).is_some());
        let with = |change: fn(&mut Vec<u8>)| {
            let mut frame = frame.clone();
            change(&mut frame);
            let header = Ipv4::split(&frame[14..]).map(|(ip, _)| *ip).unwrap();
            let mut fixed = header;
            fixed.fill_checksum();
            frame[14..34].copy_from_slice(fixed.as_bytes());
            reply_to(&frame)
        };
        assert_eq!(with(|f| f[..6].fill(0xff)), None, "broadcast frame");
        assert_eq!(with(|f| f[6] |= 1), None, "from a group");
        assert_eq!(with(|f| f[26..30].fill(0)), None, "from nobody");
        assert_eq!(with(|f| f[26..30].fill(255)), None, "from everybody");
        assert_eq!(with(|f| f[26] = 224), None, "from a multicast address");
        assert_eq!(with(|f| f[20] = 0x20), None, "a fragment");
    }

    #[test]
    fn a_protocol_nobody_speaks_is_unreachable_and_a_request_of_any_code_comes_back() {
        let mut frame = Vec::new();
        to_us().udp(1000, 2000).write(&mut frame, &[7; 100]).unwrap();
        frame[23] = 200;
        let mut ip = Ipv4::split(&frame[14..]).map(|(ip, _)| *ip).unwrap();
        ip.fill_checksum();
        frame[14..34].copy_from_slice(ip.as_bytes());
        let Some(Answer::Unreachable(reply)) = reply_to(&frame) else { panic!("no answer") };
        assert_eq!(reply[34..36], [3, 2], "RFC 1122 3.2.2.1: protocol unreachable");
        assert_eq!(reply[14 + 20 + 8..], frame[14..14 + 28]);

        let mut frame = Vec::new();
        to_us().icmpv4_echo_request(77, 5).write(&mut frame, b"some data").unwrap();
        frame[35] = 9;
        frame[36..38].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[34..]));
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        let Some(Answer::Echo(reply)) = reply_to(&frame) else { panic!("no echo") };
        assert_eq!(reply[34..36], [0, 9], "as it came");
        assert!(checksum::is_valid(checksum::sum(&reply[34..])));
    }

    proptest! {
        #[test]
        fn no_frame_makes_the_last_resort_panic(frame in proptest::collection::vec(any::<u8>(), 0..200), ip: bool) {
            let mut frame = frame;
            if ip && frame.len() > 34 {
                frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            }
            reply_to(&frame);
        }
    }
}
