//! Internet headers: IPv4 (RFC 791) and IPv6 (RFC 8200).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum;

/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_BYTES: usize = 40;

/// An Internet protocol number (IPv4 `protocol`, IPv6 `next header`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Control messages of IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// Transmission Control Protocol (RFC 9293).
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol (RFC 768).
    pub const UDP: Self = Self(17);
    /// Control messages of IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// IPv6 fragment extension (RFC 8200 §4.5).
    pub const IPV6_FRAGMENT: Self = Self(44);
}

/// An IPv4 header; options, if any, follow it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in words of 4 bytes (4 bits): 0x45 without options.
    pub version_ihl: u8,
    /// Differentiated services and congestion notification (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_bytes: U16,
    /// Identifies the datagram a fragment belongs to.
    pub id: U16,
    /// Flags (3 bits: reserved, don't fragment, more fragments) and offset in units of 8 bytes.
    pub fragment: U16,
    /// Routers the packet may still pass.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// Checksum of the header alone.
    pub checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Ipv4 {
    /// Flag in [`Self::fragment`]: routers may not fragment this.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// Flag in [`Self::fragment`]: this is not the last fragment.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// Part of [`Self::fragment`] that is the offset.
    pub const OFFSET_MASK: u16 = 0x1fff;

    /// A header without options for `payload_bytes` of `protocol`, checksum filled in.
    pub fn new(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
        payload_bytes: u16,
    ) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_bytes: U16::new(payload_bytes.saturating_add(IPV4_BYTES as u16)),
            id: U16::ZERO,
            fragment: U16::new(Self::DONT_FRAGMENT),
            ttl: 64,
            protocol,
            checksum: U16::ZERO,
            source: source.octets(),
            destination: destination.octets(),
        };
        header.fill_checksum();
        header
    }

    /// Computes [`Self::checksum`] over the other fields.
    pub fn fill_checksum(&mut self) {
        self.checksum = U16::ZERO;
        self.checksum = U16::new(checksum::finish(checksum::sum(self.as_bytes())));
    }

    /// IP version: 4 in a valid header.
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of the header, options included; below [`IPV4_BYTES`] it is malformed.
    pub const fn header_bytes(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Address the packet claims to come from.
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.source)
    }

    /// Address the packet is for.
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.destination)
    }

    /// Whether the packet is a fragment, first or later.
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & (Self::MORE_FRAGMENTS | Self::OFFSET_MASK) != 0
    }
}

/// An IPv6 header; extension headers, if any, follow it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: [u8; 4],
    /// Bytes after this header.
    pub payload_bytes: U16,
    /// What follows this header.
    pub next: Protocol,
    /// Routers the packet may still pass.
    pub hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

impl Ipv6 {
    /// A header for `payload_bytes` of `next`.
    pub fn new(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next: Protocol,
        payload_bytes: u16,
    ) -> Self {
        Self {
            version_class_label: [0x60, 0, 0, 0],
            payload_bytes: U16::new(payload_bytes),
            next,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
        }
    }

    /// IP version: 6 in a valid header.
    pub const fn version(&self) -> u8 {
        self.version_class_label[0] >> 4
    }

    /// Address the packet claims to come from.
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.source)
    }

    /// Address the packet is for.
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.destination)
    }
}

/// Sum of the pseudo header that UDP, TCP and `ICMPv6` checksums cover (RFC 768, RFC 8200 §8.1).
///
/// `None` if the addresses are of different families.
pub fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    bytes: u32,
) -> Option<u64> {
    let addresses = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => checksum::sum(&s.octets()) + checksum::sum(&d.octets()),
        (IpAddr::V6(s), IpAddr::V6(d)) => checksum::sum(&s.octets()) + checksum::sum(&d.octets()),
        _ => return None,
    };
    Some(addresses + u64::from(protocol.0) + u64::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_length_share_the_first_byte() {
        let mut four = Ipv4::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, Protocol::UDP, 0);
        let mut six = Ipv6::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, Protocol::UDP, 0);
        assert_eq!((four.version(), four.header_bytes(), six.version()), (4, IPV4_BYTES, 6));
        for (first, version, bytes) in [(0x45, 4, 20), (0x4f, 4, 60), (0x60, 6, 0), (0xa6, 10, 24)]
        {
            four.version_ihl = first;
            six.version_class_label[0] = first;
            assert_eq!((four.version(), four.header_bytes()), (version, bytes));
            assert_eq!(six.version(), version);
        }
    }

    #[test]
    fn a_fragment_has_an_offset_or_more_to_come() {
        let mut ip = Ipv4::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, Protocol::UDP, 0);
        for word in 0..=u16::MAX {
            ip.fragment = U16::new(word);
            let more = word >> 13 & 1 == 1;
            assert_eq!(ip.is_fragment(), more || word % 8192 > 0, "{word:#06x}");
        }
    }

    #[test]
    fn the_pseudo_header_is_summed_as_the_rfcs_lay_it_out() {
        let v4 = |a: u8| IpAddr::from([192, 0, 2, a]);
        let v6 =
            |a: u8| IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, a, 3, 2, a]);
        let octets = |address: IpAddr| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        for (source, destination, bytes) in
            [(v4(1), v4(254), 1480), (v6(1), v6(254), 1480), (v6(7), v6(8), 0x0001_2345)]
        {
            let mut laid_out = [octets(source), octets(destination)].concat();
            laid_out.extend(u32::to_be_bytes(bytes));
            laid_out.extend([0, 0, 0, Protocol::TCP.0]);
            let sum = pseudo_header(source, destination, Protocol::TCP, bytes).unwrap();
            assert_eq!(checksum::finish(sum), checksum::finish(checksum::sum(&laid_out)));
        }
        assert_eq!(pseudo_header(v4(1), v6(1), Protocol::TCP, 0), None);
        assert_eq!(pseudo_header(v6(1), v4(1), Protocol::TCP, 0), None);
    }
}
