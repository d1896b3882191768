//! Merged frames against an independent parser, which reads every piece on its own.

use base_wire::{ETHERNET_BYTES, Protocol, checksum};
use driver_filter::{PIECES_MAX, Pieces, Sums, is_transport_checksum, opens_connection};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId};
use proptest::prelude::*;

const MTU: u16 = 1500;

/// A frame of a kernel that leaves checksums to others: of TCP with 12 bytes of options, or of UDP.
fn merged(v6: bool, tagged: bool, tcp: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
    let mut frame = Vec::new();
    macro_rules! over {
        ($ip:expr) => {
            if tcp {
                let options = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
                $ip.tcp(4000, 80, u32::MAX - 3000, 1000)
                    .options_raw(&options)
                    .unwrap()
                    .write(&mut frame, payload)
                    .unwrap()
            } else {
                $ip.udp(4000, 80).write(&mut frame, payload).unwrap()
            }
        };
    }
    macro_rules! through {
        ($link:expr) => {
            if v6 {
                over!($link.ipv6([0xfd; 16], [0xfe; 16], 64))
            } else {
                over!($link.ipv4([10, 77, 0, 2], [10, 77, 0, 1], 64))
            }
        };
    }
    if tagged {
        through!(builder.single_vlan(VlanId::try_new(7).unwrap()))
    } else {
        through!(builder)
    }
    let transport_at = transport_at(v6, tagged);
    if tcp {
        frame[transport_at + 13] = flags;
    }
    // As the kernel leaves it: the sum of the pseudo header.
    let field = transport_at + if tcp { 16 } else { 6 };
    frame[field..field + 2].copy_from_slice(&[0x12, 0x34]);
    frame
}

fn transport_at(v6: bool, tagged: bool) -> usize {
    ETHERNET_BYTES + if tagged { 4 } else { 0 } + if v6 { 40 } else { 20 }
}

fn all(mut pieces: Pieces<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let left = pieces.left();
        let Some((head, rest)) = pieces.next_frame() else {
            assert_eq!(left, 0);
            return all;
        };
        assert!(left > 0 || rest.is_empty());
        assert!(all.len() < PIECES_MAX, "no end of it");
        all.push([head, rest].concat());
    }
}

/// What an independent parser reads in a piece: its payload; and for TCP number and flags.
fn read(frame: &[u8]) -> (Vec<u8>, Option<(u32, u8)>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert!(usize::from(header.total_len) <= frame.len());
        }
        NetSlice::Ipv6(_) => {}
        NetSlice::Arp(_) => panic!("not IP"),
    }
    match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => {
                    header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap()
                }
                NetSlice::Ipv6(ip) => {
                    header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).unwrap()
                }
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(sum, header.checksum);
            let flags = tcp.slice()[13];
            (tcp.payload().to_vec(), Some((header.sequence_number, flags)))
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => {
                    header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap()
                }
                NetSlice::Ipv6(ip) => {
                    header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
                }
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(sum, header.checksum);
            (udp.payload().to_vec(), None)
        }
        _ => panic!("neither TCP nor UDP"),
    }
}

proptest! {
    #[test]
    fn the_pieces_of_a_stream_are_the_segments_that_a_wire_would_have_carried(
        v6: bool, tagged: bool, fin: bool, push: bool, cwr: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
        asked in 1u16..4000,
    ) {
        let flags = 0x10 | u8::from(fin) | u8::from(push) << 3 | u8::from(cwr) << 7;
        let mut frame = merged(v6, tagged, true, flags, &payload);
        // Nothing is urgent, so this means nothing.
        let urgent_at = transport_at(v6, tagged) + 18;
        frame[urgent_at..urgent_at + 2].copy_from_slice(&[0x12, 0x34]);
        let pieces = Pieces::merged(&frame, (Protocol::TCP, asked), MTU, Sums::Whole).unwrap();
        let pieces = all(pieces);
        let room = usize::from(MTU) - if v6 { 40 } else { 20 } - 32;
        let size = usize::from(asked).clamp(512, room);
        prop_assert_eq!(pieces.len(), payload.len().div_ceil(size));
        let mut carried = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let (part, tcp) = read(piece);
            let (number, seen) = tcp.unwrap();
            let last = index + 1 == pieces.len();
            prop_assert!(part.len() == size || last);
            prop_assert_eq!(number, (u32::MAX - 3000).wrapping_add(carried.len() as u32));
            let kept = if last { 0x09 } else { 0 } | if index == 0 { 0x80 } else { 0 } | 0x10;
            prop_assert_eq!(seen, flags & kept);
            if !v6 {
                let id_at = ETHERNET_BYTES + if tagged { 4 } else { 0 } + 4;
                let id = |frame: &[u8]| u16::from_be_bytes([frame[id_at], frame[id_at + 1]]);
                prop_assert_eq!(id(piece), id(&frame).wrapping_add(index as u16));
            }
            // Nothing else is another than in the merged frame.
            prop_assert_eq!(&piece[..12], &frame[..12]);
            let at = transport_at(v6, tagged);
            prop_assert_eq!(&piece[at + 8..at + 13], &frame[at + 8..at + 13]);
            prop_assert_eq!(&piece[at + 18..at + 32], &frame[at + 18..at + 32]);
            carried.extend(part);
        }
        prop_assert!(carried == payload);
    }

    #[test]
    fn datagrams_keep_their_ends_however_long_they_are(
        v6: bool, tagged: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..20_000),
        asked in 1u16..4000,
    ) {
        let frame = merged(v6, tagged, false, 0, &payload);
        let pieces = Pieces::merged(&frame, (Protocol::UDP, asked), MTU, Sums::Whole);
        let expected: Vec<&[u8]> = payload.chunks(usize::from(asked)).collect();
        prop_assert_eq!(pieces.is_some(), expected.len() <= PIECES_MAX);
        if let Some(pieces) = pieces {
            let carried: Vec<Vec<u8>> = all(pieces).iter().map(|piece| read(piece).0).collect();
            prop_assert!(carried == expected);
        }
    }

    #[test]
    fn no_frame_and_no_word_about_it_makes_more_pieces_than_a_frame_may(
        tcp: bool, v6: bool, damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
        length in 0usize..4000, cut in 0usize..200,
        asked: u16, mtu: u16, protocol: u8,
    ) {
        let mut frame = merged(v6, false, tcp, 0x10, &vec![7; length]);
        for (at, value) in damage {
            frame[at % 40] = value;
        }
        frame.truncate(frame.len() - cut.min(frame.len()));
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol(protocol)] {
            if let Some(pieces) = Pieces::merged(&frame, (protocol, asked), mtu, Sums::Open) {
                prop_assert!((1..=PIECES_MAX).contains(&all(pieces).len()));
            }
        }
        if let Some(pieces) = Pieces::whole(&frame, Sums::Whole) {
            prop_assert_eq!(all(pieces).len(), 1);
        }
    }
}

#[test]
fn an_open_sum_is_what_a_device_would_complete() {
    let frame = merged(false, false, true, 0x10, &[5; 3000]);
    let merged = (Protocol::TCP, 1448);
    let open = all(Pieces::merged(&frame, merged, MTU, Sums::Open).unwrap());
    let whole = all(Pieces::merged(&frame, merged, MTU, Sums::Whole).unwrap());
    assert_eq!(open.len(), 3);
    for (mut open, whole) in open.into_iter().zip(whole) {
        let sum = checksum::finish(checksum::sum(&open[34..]));
        open[50..52].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(open, whole);
    }
}

#[test]
fn a_packet_whose_sum_was_left_open_gets_it_and_stays_as_it_is() {
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let frame = merged(v6, false, tcp, 0x02, b"some data");
        let at = transport_at(v6, false);
        let field = if tcp { 16 } else { 6 };
        assert!(is_transport_checksum(&frame, at as u16, field));
        assert!(!is_transport_checksum(&frame, at as u16 + 1, field));
        assert!(!is_transport_checksum(&frame, at as u16, 22 - field));
        let [mut piece] =
            <[_; 1]>::try_from(all(Pieces::whole(&frame, Sums::Whole).unwrap())).unwrap();
        assert_eq!(read(&piece).0, b"some data");
        let sum = at + usize::from(field);
        piece[sum..sum + 2].copy_from_slice(&frame[sum..sum + 2]);
        assert_eq!(piece, frame);
        let mut wrong = frame.clone();
        wrong[if v6 { 15 } else { 24 }] ^= 1;
        let lower = &all(Pieces::whole(&wrong, Sums::Whole).unwrap())[0][..at];
        assert_eq!(lower, &wrong[..at], "what is wrong stays wrong");
    }
}

#[test]
fn what_cannot_have_been_merged_is_not_cut() {
    let of = |frame: &[u8]| Pieces::merged(frame, (Protocol::TCP, 1448), MTU, Sums::Open).is_some();
    let sound = merged(false, false, true, 0x10, &[5; 3000]);
    assert!(of(&sound));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut frame = sound.clone();
        change(&mut frame);
        of(&frame)
    };
    assert!(!with(|f| f[47] |= 0x02), "what opens a connection comes alone");
    assert!(!with(|f| f[47] |= 0x04), "what ends it comes alone");
    assert!(!with(|f| f[24] ^= 1), "a wrong checksum of the header would become right");
    assert!(!with(|f| f.truncate(2000)), "not all there");
    assert!(!with(|f| f[23] = 47), "a tunnel");
    let datagrams = merged(false, false, false, 0, &[5; 3000]);
    assert!(!of(&datagrams));
    let zero = Pieces::merged(&datagrams, (Protocol::UDP, 0), MTU, Sums::Open);
    assert!(zero.is_none());
}

#[test]
fn the_urgent_byte_stays_where_it_is_in_the_stream() {
    let mut frame = merged(false, false, true, 0x30, &[5; 3000]);
    frame[52..54].copy_from_slice(&1500_u16.to_be_bytes());
    let pieces = all(Pieces::merged(&frame, (Protocol::TCP, 1000), MTU, Sums::Whole).unwrap());
    let urgent =
        |piece: &[u8]| (piece[47] & 0x20 != 0).then(|| u16::from_be_bytes([piece[52], piece[53]]));
    let seen: Vec<Option<u16>> = pieces.iter().map(|piece| urgent(piece)).collect();
    assert_eq!(seen, [Some(1500), Some(500), None]);
}

/// A merged frame with all the headers that there can be, or with none that need not.
fn with_options(ip_options: u8, tcp_options: u8, payload: &[u8]) -> Vec<u8> {
    let (ip, tcp) = (20 + usize::from(ip_options), 20 + usize::from(tcp_options));
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x81, 0, 0, 7, 8, 0];
    frame.resize(18 + ip + tcp, 1);
    frame.extend(payload);
    let total = (frame.len() - 18) as u16;
    frame[18] = 0x40 | (ip / 4) as u8;
    frame[20..22].copy_from_slice(&total.to_be_bytes());
    frame[24..30].copy_from_slice(&[0x40, 0, 64, 6, 0, 0]);
    frame[18 + ip + 12..18 + ip + 14].copy_from_slice(&[(tcp / 4) as u8 * 16, 0x10]);
    let sum = checksum::finish(checksum::sum(&frame[18..18 + ip]));
    frame[28..30].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn headers_of_any_length_are_those_of_every_piece() {
    for (ip, tcp) in [(0, 0), (40, 0), (0, 40), (40, 40), (4, 36)] {
        let frame = with_options(ip, tcp, &[7; 5000]);
        let headers = 18 + 40 + usize::from(ip + tcp);
        let merged = Pieces::merged(&frame, (Protocol::TCP, 9000), MTU, Sums::Whole).unwrap();
        let pieces = all(merged);
        let room = usize::from(MTU) + 18 - headers;
        assert_eq!(pieces.len(), 5000_usize.div_ceil(room), "{ip} and {tcp} bytes of options");
        for piece in &pieces {
            let (total, header) =
                (u16::from_be_bytes([piece[20], piece[21]]), 20 + usize::from(ip));
            assert_eq!(usize::from(total), piece.len() - 18);
            assert!(checksum::is_valid(checksum::sum(&piece[18..18 + header])));
            assert_eq!(piece[30..18 + header], frame[30..18 + header]);
            assert_eq!(piece[18 + header + 20..headers], frame[18 + header + 20..headers]);
        }
    }
}

#[test]
fn pieces_fit_the_link_or_there_are_none() {
    let frame = with_options(0, 12, &[7; 1000]);
    let pieces = |mtu: u16| {
        let pieces = Pieces::merged(&frame, (Protocol::TCP, 600), mtu, Sums::Whole);
        pieces.map(|pieces| all(pieces).iter().map(Vec::len).max().unwrap() - 18)
    };
    assert_eq!(pieces(1500), Some(652));
    assert_eq!(pieces(652), Some(652));
    assert_eq!(pieces(651), Some(651));
    assert_eq!(pieces(60), Some(60), "125 pieces of eight bytes");
    for mtu in [59, 52, 51, 0] {
        assert_eq!(pieces(mtu), None, "{mtu}");
    }
}

#[test]
fn what_is_not_to_be_read_is_left_to_its_owner() {
    let sound = merged(false, false, true, 0x10, &[5; 100]);
    let sixth = merged(true, false, true, 0x10, &[5; 100]);
    let datagram = merged(false, false, false, 0, &[5; 100]);
    let is_read = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        let whole = Pieces::whole(&frame, Sums::Whole).is_some();
        let (start, field) = if frame[12] == 8 { (34, 16) } else { (54, 16) };
        let field = if frame[23] == 17 { 6 } else { field };
        assert_eq!(is_transport_checksum(&frame, start, field), whole);
        whole
    };
    assert!(is_read(&sound, 0, &[]) && is_read(&sixth, 0, &[]) && is_read(&datagram, 0, &[]));
    let rows: &[(&str, &[u8], usize, &[u8])] = &[
        ("ARP", &sound, 12, &[8, 6]),
        ("a tag in a tag", &sound, 12, &[0x81, 0, 0, 1, 0x81, 0]),
        ("version 5", &sound, 14, &[0x55]),
        ("a header of 16 bytes", &sound, 14, &[0x44]),
        ("the first part of a packet", &sound, 20, &[0x20, 0]),
        ("a later part of one", &sound, 20, &[0, 1]),
        ("a packet beyond the frame", &sound, 16, &[0, 153]),
        ("a packet that ends in its header", &sound, 16, &[0, 19]),
        ("TCP of 16 bytes", &sound, 46, &[0x40]),
        ("TCP beyond the packet", &sound, 16, &[0, 51]),
        ("version 4", &sixth, 14, &[0x40]),
        ("a packet beyond the frame", &sixth, 18, &[0, 133]),
        ("UDP that is shorter", &datagram, 38, &[0, 107]),
        ("UDP that is longer", &datagram, 38, &[0, 109]),
    ];
    for (name, frame, at, bytes) in rows {
        assert!(!is_read(frame, *at, bytes), "{name}");
    }
    assert!(is_read(&sound, 16, &[0, 52]), "its header, and padding");
    assert!(is_read(&sound, 46, &[0xf0]), "60 bytes of header");
}

#[test]
fn a_packet_without_payload_is_a_frame() {
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let frame = merged(v6, false, tcp, 0x10, &[]);
        let mut pieces = Pieces::whole(&frame, Sums::Whole).unwrap();
        assert_eq!(pieces.left(), 0);
        let (headers, payload) = pieces.next_frame().unwrap();
        assert_eq!((headers.len(), payload.len()), (frame.len(), 0));
        assert!(pieces.next_frame().is_none());
    }
}

#[test]
fn a_datagram_that_says_it_has_no_checksum_gets_none_and_no_other_looks_like_one() {
    let mut frame = merged(false, false, false, 0, &[0; 4]);
    frame[40..42].fill(0);
    let piece = |frame: &[u8]| all(Pieces::whole(frame, Sums::Whole).unwrap()).remove(0);
    assert_eq!(piece(&frame), frame);
    // Two bytes of the payload make the sum whatever it has to be: all ones, whose complement is none.
    frame[40..42].copy_from_slice(&[1, 1]);
    let sum = piece(&frame)[40..42].to_vec();
    frame[42..44].copy_from_slice(&sum);
    assert_eq!(piece(&frame)[40..42], [0xff, 0xff]);
    let mut segment = merged(false, false, true, 0x10, &[0; 4]);
    let sum = piece(&segment)[50..52].to_vec();
    segment[66..68].copy_from_slice(&sum);
    assert_eq!(piece(&segment)[50..52], [0, 0], "of TCP zero is a sum as any other");
}

#[test]
fn urgent_bytes_that_are_behind_a_piece_are_none_of_its_own() {
    for (urgent, expected) in
        [(0, [None; 3]), (999, [Some(999), None, None]), (1000, [Some(1000), None, None])]
    {
        let mut frame = merged(false, false, true, 0x30, &[5; 3000]);
        frame[52..54].copy_from_slice(&u16::to_be_bytes(urgent));
        let merged = Pieces::merged(&frame, (Protocol::TCP, 1000), MTU, Sums::Whole).unwrap();
        let seen = all(merged).into_iter().map(|piece| {
            (piece[47] & 0x20 != 0).then(|| u16::from_be_bytes([piece[52], piece[53]]))
        });
        assert_eq!(seen.collect::<Vec<_>>(), expected, "{urgent}");
    }
}

#[test]
fn a_segment_that_opens_a_connection_has_syn_and_neither_ack_nor_rst() {
    for (v6, tagged) in [(false, false), (false, true), (true, false), (true, true)] {
        for flags in 0..=0xff {
            let frame = merged(v6, tagged, true, flags, b"");
            let found = opens_connection(&frame);
            assert_eq!(found.is_some(), flags & 0x16 == 0x02, "{flags:#x}");
            assert!(found.is_none_or(|(start, field)| is_transport_checksum(&frame, start, field)));
            assert_eq!(opens_connection(&frame[..frame.len() - 1]), None);
        }
        assert_eq!(opens_connection(&merged(v6, tagged, false, 2, b"")), None);
    }
}
