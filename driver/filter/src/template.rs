//! Transmit templates: copy, then check, then send the copy (paper §3.1.2, §4.3).
//!
//! A client's data area stays writable by the client, so a header is copied into the driver's
//! private memory first and that copy is checked and sent. Almost everything is one comparison
//! under a mask, a word of eight bytes at a time; the few relations between fields that no mask can
//! express (lengths) are checked after it.
//!
//! Unlike the original's templates, in which a zero byte meant "anything" and so left ports, types
//! and options open, value and mask are separate and version and header length are compared.

use core::net::IpAddr;

use base_flow::{DropReason, Fib, Transport};
use base_wire::{
    ETHERNET_BYTES, EtherType, Ethernet, Header, ICMP_BYTES, IPV4_BYTES, IPV6_BYTES, Ipv4, Ipv6,
    Mac, Protocol, TCP_BYTES, Tcp, UDP_BYTES, Udp, VLAN_TAG_BYTES, VlanTag, tcp_flag,
};
use rbuf_channel::{Data, Pair};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

/// Most header bytes a frame may have, and so the size of the private copy.
pub const HEADER_BYTES_MAX: usize = 128;

/// Words of a template: the longest fixed header, TCP over tagged IPv6, is 78 bytes.
const WORDS: usize = 10;

/// What the owner of a template may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Packets of one flow.
    Flow(Fib),
    /// Any IP or ARP frame from our station: the flow manager's own flow.
    Station(Mac),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Udp,
    Tcp,
    Icmp,
    Station,
}

/// A template: which header bytes are fixed, and their values.
#[derive(Debug, Clone)]
pub struct Template {
    value: [u64; WORDS],
    mask: [u64; WORDS],
    /// Bytes of the fixed header: what the first range of a packet must hold.
    header_bytes: u8,
    link_bytes: u8,
    v6: bool,
    shape: Shape,
}

impl Template {
    /// The template for `rights` on a link in `vlan`, or untagged.
    pub fn new(rights: &Rights, vlan: Option<u16>) -> Self {
        let mut image = Image::new();
        match rights {
            Rights::Station(mac) => {
                image.link(None, *mac, vlan, None);
                let link_bytes = image.bytes;
                image.into_template(link_bytes, false, Shape::Station)
            }
            Rights::Flow(fib) => Self::of_flow(fib, vlan, image),
        }
    }

    /// RFC 9293 MUST-45: no other source address leaves. Nor do IP options, so there are no source routes
    /// (MUST-51, MUST-52, MUST-53 are not kept, by intention).
    fn of_flow(fib: &Fib, vlan: Option<u16>, mut image: Image) -> Self {
        let ends = &fib.endpoints;
        let local = fib.source;
        let ether_type = if local.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        image.link(fib.next_hop_mac, fib.source_mac, vlan, Some(ether_type));
        let link_bytes = image.bytes;
        let protocol = ends.transport.protocol(local);
        let remote = ends.remote.map(|sap| sap.address);
        match local {
            IpAddr::V4(source) => {
                image.fixed(&[0x45]);
                image.open(1 + 2 + 2);
                // Reserved, more-fragments and offset must be zero; don't-fragment is free.
                image.masked(&[0, 0], &[0xbf, 0xff]);
                image.open(1);
                image.fixed(&[protocol.0]);
                image.open(2);
                image.fixed(&source.octets());
                match remote {
                    Some(IpAddr::V4(remote)) => image.fixed(&remote.octets()),
                    _ => image.open(4),
                }
            }
            IpAddr::V6(source) => {
                image.masked(&[0x60, 0, 0, 0], &[0xf0, 0, 0, 0]);
                image.open(2);
                image.fixed(&[protocol.0]);
                image.open(1);
                image.fixed(&source.octets());
                match remote {
                    Some(IpAddr::V6(remote)) => image.fixed(&remote.octets()),
                    _ => image.open(16),
                }
            }
        }
        let shape = match ends.transport {
            Transport::Icmp => {
                let request = if local.is_ipv4() {
                    base_wire::IcmpV4Type::ECHO_REQUEST
                } else {
                    base_wire::IcmpV6Type::ECHO_REQUEST
                };
                image.fixed(&[request, 0]);
                image.open(2);
                image.fixed(&ends.local.port.to_be_bytes());
                image.open(2);
                Shape::Icmp
            }
            Transport::Udp | Transport::Tcp => {
                image.fixed(&ends.local.port.to_be_bytes());
                match ends.remote {
                    Some(remote) => image.fixed(&remote.port.to_be_bytes()),
                    None => image.open(2),
                }
                if ends.transport == Transport::Udp {
                    image.open(UDP_BYTES - 4);
                    Shape::Udp
                } else {
                    image.open(TCP_BYTES - 4);
                    Shape::Tcp
                }
            }
        };
        image.into_template(link_bytes, local.is_ipv6(), shape)
    }

    /// Bytes of header that are checked: what the first range of a packet must at least hold.
    pub const fn header_bytes(&self) -> usize {
        self.header_bytes as usize
    }

    /// Checks a frame of `frame_bytes` whose first bytes were copied to `header`, and `payload`
    /// ranges of `data` behind them.
    ///
    /// `header` must hold the whole first range or [`HEADER_BYTES_MAX`] bytes of it. The returned
    /// frame sends as its header what was checked, and everything behind it in place.
    ///
    /// # Errors
    ///
    /// What the sender did wrong. He is charged all the same.
    pub fn check<'a, D: Data>(
        &self,
        header: &'a [u8; HEADER_BYTES_MAX],
        pairs: &'a [Pair],
        data: &'a D,
        frame_bytes: usize,
    ) -> Result<Checked<'a, D>, DropReason> {
        let first = pairs.first().map_or(0, |pair| pair.len as usize);
        if first < self.header_bytes() {
            return Err(DropReason::HeaderTooShort);
        }
        let mut differ = 0;
        let words = self.header_bytes().div_ceil(8);
        for (index, chunk) in header.as_chunks::<8>().0.iter().enumerate().take(words) {
            differ |= (u64::from_le_bytes(*chunk) ^ self.value[index]) & self.mask[index];
        }
        if differ != 0 {
            return Err(self.blame(header));
        }
        let sent = self.relations(header, frame_bytes, first)?;
        Ok(Checked { header: &header[..sent], pairs, data, frame_bytes, cut: None })
    }

    /// As [`Self::check`], for a TCP segment that the link is to cut into frames of `segment_bytes` of
    /// payload, none longer than `frame_bytes_max`. Its first range holds the header and nothing else.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], and [`DropReason::Segmentation`].
    pub fn check_unit<'a, D: Data>(
        &self,
        header: &'a [u8; HEADER_BYTES_MAX],
        pairs: &'a [Pair],
        data: &'a D,
        unit_bytes: usize,
        (segment_bytes, frame_bytes_max): (u16, usize),
    ) -> Result<Checked<'a, D>, DropReason> {
        let mut checked = self.check(header, pairs, data, unit_bytes)?;
        let sent = checked.header;
        let first = pairs.first().map_or(0, |pair| pair.len as usize);
        let frame_bytes = sent.len() + usize::from(segment_bytes);
        if !self.is_cuttable(sent, first, segment_bytes) || frame_bytes > frame_bytes_max {
            return Err(DropReason::Segmentation);
        }
        let transport_at = u16::from(self.link_bytes) + IPV4_BYTES as u16;
        checked.cut = Some(Segmentation { segment_bytes, transport_at });
        Ok(checked)
    }

    /// Checks what a mask cannot express. Returns the bytes of the whole header.
    fn relations(
        &self,
        header: &[u8; HEADER_BYTES_MAX],
        frame_bytes: usize,
        first: usize,
    ) -> Result<usize, DropReason> {
        let link_bytes = usize::from(self.link_bytes);
        let disagree = DropReason::LengthsDisagree;
        if self.shape == Shape::Station {
            let at = link_bytes - 2;
            let ether_type = EtherType(U16::from_bytes([header[at], header[at + 1]]));
            let known = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP].contains(&ether_type);
            return if known { Ok(link_bytes) } else { Err(DropReason::ForgedLink) };
        }
        let packet_bytes = frame_bytes - link_bytes;
        let (ip_bytes, payload_bytes) = if self.v6 {
            let (ip, _) = Ipv6::split(&header[link_bytes..]).ok_or(disagree)?;
            (IPV6_BYTES, usize::from(ip.payload_bytes.get()))
        } else {
            let (ip, _) = Ipv4::split(&header[link_bytes..]).ok_or(disagree)?;
            let total = usize::from(ip.total_bytes.get());
            (IPV4_BYTES, total.checked_sub(IPV4_BYTES).ok_or(disagree)?)
        };
        if ip_bytes + payload_bytes != packet_bytes {
            return Err(disagree);
        }
        let transport = &header[link_bytes + ip_bytes..];
        match self.shape {
            Shape::Udp => {
                let (udp, _) = Udp::split(transport).ok_or(disagree)?;
                if usize::from(udp.bytes.get()) != payload_bytes {
                    return Err(disagree);
                }
                Ok(self.header_bytes())
            }
            Shape::Tcp => {
                let (tcp, _) = Tcp::split(transport).ok_or(disagree)?;
                let bytes = tcp.header_bytes();
                let whole = link_bytes + ip_bytes + bytes;
                if bytes < TCP_BYTES || bytes > payload_bytes || whole > first.min(HEADER_BYTES_MAX)
                {
                    return Err(disagree);
                }
                Ok(whole)
            }
            Shape::Icmp | Shape::Station => Ok(self.header_bytes()),
        }
    }

    /// Whether frames cut from a segment with this header are what their sender could have sent one by
    /// one: plain data, and not so little in each that cutting costs more than sending.
    fn is_cuttable(&self, header: &[u8], first: usize, segment_bytes: u16) -> bool {
        let at = usize::from(self.link_bytes) + IPV4_BYTES;
        let Some((tcp, _)) = header.get(at..).and_then(Tcp::split) else { return false };
        let plain = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN | tcp_flag::ECE;
        self.shape == Shape::Tcp
            && !self.v6
            && first == header.len()
            && segment_bytes >= SEGMENT_BYTES_MIN
            && tcp.flags & !plain == 0
    }

    /// Which part of the header is not the flow's: the first byte that differs decides.
    #[cold]
    fn blame(&self, header: &[u8; HEADER_BYTES_MAX]) -> DropReason {
        let value = self.value.as_bytes();
        let mask = self.mask.as_bytes();
        let differs = |&at: &usize| (header[at] ^ value[at]) & mask[at] != 0;
        let at = (0..self.header_bytes()).find(differs).unwrap_or(0);
        let link = usize::from(self.link_bytes);
        let network = link + if self.v6 { IPV6_BYTES } else { IPV4_BYTES };
        if at < link {
            DropReason::ForgedLink
        } else if !self.v6 && (link + 6..link + 8).contains(&at) {
            DropReason::ForgedFragment
        } else if at < network {
            DropReason::ForgedNetwork
        } else {
            DropReason::ForgedTransport
        }
    }
}

/// A template under construction: bytes are appended with their mask.
struct Image {
    value: [u8; WORDS * 8],
    mask: [u8; WORDS * 8],
    bytes: usize,
}

impl Image {
    const fn new() -> Self {
        Self { value: [0; WORDS * 8], mask: [0; WORDS * 8], bytes: 0 }
    }

    fn masked(&mut self, value: &[u8], mask: &[u8]) {
        for (&value, &mask) in value.iter().zip(mask) {
            self.value[self.bytes] = value & mask;
            self.mask[self.bytes] = mask;
            self.bytes += 1;
        }
    }

    fn fixed(&mut self, value: &[u8]) {
        for &byte in value {
            self.masked(&[byte], &[0xff]);
        }
    }

    fn open(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    fn link(
        &mut self,
        destination: Option<Mac>,
        source: Mac,
        vlan: Option<u16>,
        ether_type: Option<EtherType>,
    ) {
        match destination {
            Some(mac) => self.fixed(&mac.0),
            None => self.open(6),
        }
        self.fixed(&source.0);
        if let Some(id) = vlan {
            self.fixed(EtherType::VLAN.as_bytes());
            self.fixed(&id.to_be_bytes());
        }
        match ether_type {
            Some(ether_type) => self.fixed(ether_type.as_bytes()),
            None => self.open(2),
        }
        debug_assert!(
            self.bytes == ETHERNET_BYTES || self.bytes == ETHERNET_BYTES + VLAN_TAG_BYTES
        );
    }

    fn into_template(self, link_bytes: usize, v6: bool, shape: Shape) -> Template {
        let words = |bytes: &[u8; WORDS * 8]| {
            let mut words = [0; WORDS];
            for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*chunk);
            }
            words
        };
        Template {
            value: words(&self.value),
            mask: words(&self.mask),
            header_bytes: self.bytes as u8,
            link_bytes: link_bytes as u8,
            v6,
            shape,
        }
    }
}

const _: () = {
    let longest = ETHERNET_BYTES + VLAN_TAG_BYTES + IPV6_BYTES + TCP_BYTES;
    assert!(longest <= WORDS * 8);
    assert!(WORDS * 8 <= HEADER_BYTES_MAX);
    assert!(size_of::<Ethernet>() == ETHERNET_BYTES && size_of::<VlanTag>() == VLAN_TAG_BYTES);
    assert!(ICMP_BYTES == 8 && Protocol::UDP.0 == 17);
};

/// Least payload of the frames that a link cuts.
pub const SEGMENT_BYTES_MIN: u16 = 256;

/// How a link is to cut a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Payload of each frame but the last.
    pub segment_bytes: u16,
    /// Where the TCP header begins.
    pub transport_at: u16,
}

/// A frame that passed its flow's template. Having one is the proof: only [`Template::check`] makes
/// it, and a link sends nothing else.
#[derive(Debug)]
pub struct Checked<'a, D> {
    header: &'a [u8],
    pairs: &'a [Pair],
    data: &'a D,
    frame_bytes: usize,
    cut: Option<Segmentation>,
}

impl<'a, D: Data> Checked<'a, D> {
    /// How it is to be cut, if it is: a link that does not cut is never asked to. The checksum of such a
    /// segment covers its pseudo header alone; the rest is the link's to add.
    pub const fn segmentation(&self) -> Option<Segmentation> {
        self.cut
    }

    /// The header: the driver's own copy, which its sender can no longer change.
    pub const fn header(&self) -> &'a [u8] {
        self.header
    }

    /// What follows the header, still in the sender's data area and still his to change, which
    /// is harmless: it is only payload.
    pub fn payload(&self) -> impl Iterator<Item = Pair> + use<'a, D> {
        let mut skip = self.header.len() as u32;
        self.pairs.iter().filter_map(move |pair| {
            let skipped = skip.min(pair.len);
            skip -= skipped;
            let rest = Pair { offset: pair.offset + skipped, len: pair.len - skipped };
            (rest.len > 0).then_some(rest)
        })
    }

    /// The data area the payload is in.
    pub const fn data(&self) -> &'a D {
        self.data
    }

    /// Bytes of the whole frame, without check sequence.
    pub const fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Copies the whole frame to the front of `out`; `None` if it does not fit.
    pub fn gather<'b>(&self, out: &'b mut [u8]) -> Option<&'b [u8]> {
        let frame = out.get_mut(..self.frame_bytes)?;
        let (head, mut rest) = frame.split_at_mut(self.header.len());
        head.copy_from_slice(self.header);
        for pair in self.payload() {
            let (part, tail) = rest.split_at_mut_checked(pair.len as usize)?;
            self.data.read(pair.offset, part);
            rest = tail;
        }
        Some(frame)
    }
}
