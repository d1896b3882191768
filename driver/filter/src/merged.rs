//! Frames that the kernel has merged, cut into what they were merged from, and checksums that it left open.
//!
//! A kernel on the same machine hands over up to 64 KiB of a stream as one frame with one header, and leaves
//! the checksum to a wire that never comes; receive offloads of real interfaces merge what arrived there. What
//! a flow gets are the frames that a wire would have carried: each with headers of its own.
//!
//! # Invariants
//!
//! 1. What the pieces carry is what the frame carried, in order, whatever was said of it.
//! 2. A frame makes [`PIECES_MAX`] pieces at most. A stream may be cut anywhere, so what asks for smaller
//!    pieces gets larger ones; datagrams, whose ends mean something, are not cut at all then.

use std::net::IpAddr;

use base_wire::{
    ETHERNET_BYTES, EtherType, Ethernet, Header, IPV4_BYTES, IPV6_BYTES, Ipv4, Ipv6, Protocol,
    TCP_BYTES, Tcp, UDP_BYTES, Udp, VLAN_TAG_BYTES, VlanTag, checksum, pseudo_header, tcp_flag,
};

/// Most pieces of a frame: more than a frame of 64 KiB makes at any usual size of segments, and as many
/// datagrams as Linux merges (`UDP_MAX_SEGMENTS`).
pub const PIECES_MAX: usize = 128;

/// Least payload of a piece of a stream: a frame of 64 KiB makes no more than [`PIECES_MAX`] of it.
const STREAM_BYTES_MIN: usize = 512;

/// Most bytes of headers: tagged Ethernet, and IP and TCP with all the options they can have.
const HEADERS_MAX: usize = ETHERNET_BYTES + VLAN_TAG_BYTES + 60 + 60;

const IPV4_TOTAL: usize = 2;
const IPV4_ID: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_PAYLOAD: usize = 4;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_URGENT: usize = 18;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// Where the parts of a TCP or UDP packet in a frame begin, and where it ends.
#[derive(Debug, Clone, Copy)]
struct Layout {
    ip_at: usize,
    transport_at: usize,
    payload_at: usize,
    end: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
}

impl Layout {
    fn read(frame: &[u8]) -> Option<Self> {
        let (ethernet, mut rest) = Ethernet::split(frame)?;
        let (mut ether_type, mut ip_at) = (ethernet.ether_type, ETHERNET_BYTES);
        if ether_type == EtherType::VLAN {
            let (tag, inner) = VlanTag::split(rest)?;
            (ether_type, rest, ip_at) = (tag.ether_type, inner, ip_at + VLAN_TAG_BYTES);
        }
        let (source, destination, protocol, header_bytes, bytes): (IpAddr, IpAddr, _, _, _) =
            match ether_type {
                EtherType::IPV4 => {
                    let (ip, _) = Ipv4::split(rest).filter(|(ip, _)| {
                        ip.version() == 4 && ip.header_bytes() >= IPV4_BYTES && !ip.is_fragment()
                    })?;
                    let bytes = usize::from(ip.total_bytes.get());
                    let ends = (ip.source().into(), ip.destination().into());
                    (ends.0, ends.1, ip.protocol, ip.header_bytes(), bytes)
                }
                EtherType::IPV6 => {
                    let (ip, _) = Ipv6::split(rest).filter(|(ip, _)| ip.version() == 6)?;
                    let bytes = IPV6_BYTES + usize::from(ip.payload_bytes.get());
                    (ip.source().into(), ip.destination().into(), ip.next, IPV6_BYTES, bytes)
                }
                _ => return None,
            };
        let transport = rest.get(..bytes)?.get(header_bytes..)?;
        let transport_bytes = match protocol {
            Protocol::TCP => {
                let bytes = Tcp::split(transport)?.0.header_bytes();
                Some(bytes).filter(|bytes| (TCP_BYTES..=transport.len()).contains(bytes))?
            }
            Protocol::UDP => {
                let whole = usize::from(Udp::split(transport)?.0.bytes.get());
                Some(UDP_BYTES).filter(|_| whole == transport.len())?
            }
            _ => return None,
        };
        let transport_at = ip_at + header_bytes;
        Some(Self {
            ip_at,
            transport_at,
            payload_at: transport_at + transport_bytes,
            end: ip_at + bytes,
            source,
            destination,
            protocol,
        })
    }

    /// Where the checksum field is in the transport header.
    const fn field(&self) -> usize {
        if self.protocol.0 == Protocol::TCP.0 { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// Sum of the pseudo header of a packet with so much payload.
    fn pseudo(&self, payload_bytes: usize) -> u64 {
        let bytes = self.payload_at - self.transport_at + payload_bytes;
        pseudo_header(self.source, self.destination, self.protocol, bytes as u32).unwrap_or(0)
    }
}

/// Whether a checksum that covers a frame from `start` on, and whose field is `field` bytes behind that, is the
/// one of its TCP or UDP header. A checksum of anything else is of no use to its receiver.
pub fn is_transport_checksum(frame: &[u8], start: u16, field: u16) -> bool {
    Layout::read(frame).is_some_and(|layout| {
        layout.transport_at == usize::from(start) && layout.field() == usize::from(field)
    })
}

/// Whether a frame holds a segment that opens a TCP connection; and if it does, where what its checksum covers begins,
/// and how far behind that its field is.
pub fn opens_connection(frame: &[u8]) -> Option<(u16, u16)> {
    let layout = Layout::read(frame).filter(|layout| layout.protocol == Protocol::TCP)?;
    let flags = frame[layout.transport_at + TCP_FLAGS];
    let opens = flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN;
    opens.then_some((layout.transport_at as u16, layout.field() as u16))
}

/// What the checksums of pieces are to cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// The pseudo header alone: whoever reads them is told that.
    Open,
    /// Everything, as on a wire.
    Whole,
}

/// The frames of a frame: those that it was merged from, or itself.
#[derive(Debug)]
pub struct Pieces<'a> {
    frame: &'a [u8],
    layout: Layout,
    sums: Sums,
    /// Headers of the piece at hand.
    headers: [u8; HEADERS_MAX],
    piece_bytes: usize,
    /// Where the next piece begins in the payload, and how many there were.
    at: usize,
    count: u16,
}

impl<'a> Pieces<'a> {
    /// A TCP or UDP packet as it is, but for its checksum, which was left open. `None` if it is nothing of the
    /// kind.
    pub fn whole(frame: &'a [u8], sums: Sums) -> Option<Self> {
        let layout = Layout::read(frame)?;
        let headers = [0; HEADERS_MAX];
        Some(Self { frame, layout, sums, headers, piece_bytes: usize::MAX, at: 0, count: 0 })
    }

    /// Cuts `frame`, which `protocol` has merged, into frames of `piece_bytes` of payload each, the last one
    /// excepted; those of a stream fit into IP packets of `mtu` bytes. `None` if that is not what it can be.
    pub fn merged(
        frame: &'a [u8],
        (protocol, piece_bytes): (Protocol, u16),
        mtu: u16,
        sums: Sums,
    ) -> Option<Self> {
        let whole = Self::whole(frame, sums)?;
        let Layout { ip_at, transport_at, payload_at, end, .. } = whole.layout;
        let asked = usize::from(piece_bytes);
        let piece_bytes = if protocol == Protocol::TCP {
            let flags = *frame.get(transport_at + TCP_FLAGS)?;
            let room = usize::from(mtu).checked_sub(payload_at - ip_at)?;
            // What opens or resets a connection comes alone.
            let alone = flags & (tcp_flag::SYN | tcp_flag::RST) != 0;
            Some(asked.max(STREAM_BYTES_MIN).min(room)).filter(|_| !alone)?
        } else {
            asked
        };
        // The pieces get a checksum of their own: a wrong one must not become right.
        let ip = frame.get(ip_at..transport_at)?;
        let intact = !whole.layout.source.is_ipv4() || checksum::is_valid(checksum::sum(ip));
        let possible = whole.layout.protocol == protocol
            && intact
            && piece_bytes > 0
            && (end - payload_at).div_ceil(piece_bytes) <= PIECES_MAX;
        possible.then_some(Self { piece_bytes, ..whole })
    }

    /// How many are still to come.
    pub fn left(&self) -> usize {
        let rest = (self.layout.end - self.layout.payload_at).saturating_sub(self.at);
        rest.div_ceil(self.piece_bytes)
    }

    /// The next frame: its headers, and its payload.
    pub fn next_frame(&mut self) -> Option<(&[u8], &'a [u8])> {
        let Layout { ip_at, transport_at, payload_at, end, protocol, .. } = self.layout;
        let all = self.frame.get(payload_at..end)?;
        // A packet without payload is a frame, too.
        if self.at >= all.len() && self.count > 0 {
            return None;
        }
        let (at, count) = (self.at, self.count);
        let payload = &all[at..all.len().min(at.saturating_add(self.piece_bytes))];
        self.at += payload.len();
        self.count += 1;

        let pseudo = self.layout.pseudo(payload.len());
        let headers = self.headers.get_mut(..payload_at)?;
        headers.copy_from_slice(self.frame.get(..payload_at)?);
        let (lower, transport) = headers.split_at_mut(transport_at);
        if payload.len() < all.len() {
            self.layout.rewrite_ip(&mut lower[ip_at..], count, payload_at - ip_at + payload.len());
            if protocol == Protocol::TCP {
                rewrite_tcp(transport, count, at, self.at == all.len());
            } else {
                put(transport, UDP_LENGTH, (UDP_BYTES + payload.len()) as u16);
            }
        }
        let field = self.layout.field();
        if protocol == Protocol::TCP || get(transport, field) != 0 {
            put(transport, field, 0);
            let sum = match self.sums {
                Sums::Open => !checksum::finish(pseudo),
                Sums::Whole => {
                    checksum::finish(pseudo + checksum::sum(transport) + checksum::sum(payload))
                }
            };
            // Zero says that there is none.
            let none = sum == 0 && protocol == Protocol::UDP;
            put(transport, field, if none { 0xffff } else { sum });
        }
        Some((headers, payload))
    }
}

impl Layout {
    fn rewrite_ip(&self, ip: &mut [u8], count: u16, packet_bytes: usize) {
        if self.source.is_ipv4() {
            let id = get(ip, IPV4_ID).wrapping_add(count);
            put(ip, IPV4_TOTAL, packet_bytes as u16);
            put(ip, IPV4_ID, id);
            put(ip, IPV4_CHECKSUM, 0);
            let sum = checksum::finish(checksum::sum(ip));
            put(ip, IPV4_CHECKSUM, sum);
        } else {
            put(ip, IPV6_PAYLOAD, (packet_bytes - IPV6_BYTES) as u16);
        }
    }
}

/// Makes the header that of piece `count`, whose payload begins `at` bytes behind the first one's.
fn rewrite_tcp(tcp: &mut [u8], count: u16, at: usize, last: bool) {
    let sequence = u32::from(get(tcp, TCP_SEQUENCE)) << 16 | u32::from(get(tcp, TCP_SEQUENCE + 2));
    let sequence = sequence.wrapping_add(at as u32).to_be_bytes();
    tcp[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence);
    // The urgent byte is as far behind this piece's number as is left of the way.
    let urgent = usize::from(get(tcp, TCP_URGENT)).saturating_sub(at);
    let flags = &mut tcp[TCP_FLAGS];
    if !last {
        *flags &= !(tcp_flag::FIN | tcp_flag::PSH);
    }
    if count > 0 {
        // A reduction is told once (RFC 3168 §6.1.2).
        *flags &= !tcp_flag::CWR;
    }
    if *flags & tcp_flag::URG != 0 {
        if urgent == 0 {
            *flags &= !tcp_flag::URG;
        }
        put(tcp, TCP_URGENT, urgent as u16);
    }
}

fn get(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn put(header: &mut [u8], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
