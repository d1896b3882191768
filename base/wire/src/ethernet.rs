//! Ethernet II frames and 802.1Q tags, and what a frame occupies on the wire.

use core::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Mac;

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes an 802.1Q tag adds.
pub const VLAN_TAG_BYTES: usize = 4;
/// Shortest frame, without its check sequence; shorter ones are padded by the interface.
pub const FRAME_BYTES_MIN: usize = 60;
/// What every frame costs beyond its own bytes: 4 check sequence, 8 preamble and delimiter, 12 gap.
pub const WIRE_OVERHEAD_BYTES: usize = 24;

/// Bytes of wire a frame of `frame_bytes` (without check sequence) occupies, padding included.
///
/// 1 514 bytes occupy 1 538; the shortest frame occupies 84.
pub const fn wire_bytes(frame_bytes: usize) -> usize {
    let padded = if frame_bytes < FRAME_BYTES_MIN { FRAME_BYTES_MIN } else { frame_bytes };
    padded + WIRE_OVERHEAD_BYTES
}

/// The protocol an Ethernet frame carries.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct EtherType(pub U16);

impl EtherType {
    /// Internet Protocol version 4.
    pub const IPV4: Self = Self(U16::new(0x0800));
    /// Address Resolution Protocol (RFC 826).
    pub const ARP: Self = Self(U16::new(0x0806));
    /// 802.1Q tag.
    pub const VLAN: Self = Self(U16::new(0x8100));
    /// Internet Protocol version 6.
    pub const IPV6: Self = Self(U16::new(0x86dd));
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04x}", self.0)
    }
}

/// An Ethernet II header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Ethernet {
    /// Station the frame is for.
    pub destination: Mac,
    /// Station that sent it.
    pub source: Mac,
    /// What follows: a network header, or an 802.1Q tag.
    pub ether_type: EtherType,
}

/// What follows [`EtherType::VLAN`]: an 802.1Q tag and the real type.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligibility (1), VLAN identifier (12).
    pub control: U16,
    /// What the frame carries.
    pub ether_type: EtherType,
}

impl VlanTag {
    /// The numbers that VLANs have (IEEE 802.1Q §9.6: 0 means none, 4095 is reserved).
    pub const IDS: core::ops::RangeInclusive<u16> = 1..=4094;

    /// The VLAN identifier; 0 means "priority only, no VLAN".
    pub fn id(&self) -> u16 {
        self.control.get() & 0x0fff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_occupies_its_padding_and_overhead() {
        for (frame, wire) in [(1514, 1538), (60, 84), (42, 84), (0, 84), (61, 85)] {
            assert_eq!(wire_bytes(frame), wire);
        }
    }

    #[test]
    fn the_identifier_of_a_vlan_is_twelve_bits() {
        for (control, id) in
            [(0x0000, 0), (0x0064, 100), (0xe064, 100), (0x1001, 1), (0xffff, 4095)]
        {
            let tag = VlanTag { control: U16::new(control), ether_type: EtherType::IPV4 };
            assert_eq!(tag.id(), id, "{control:#06x}");
        }
    }

    #[test]
    fn a_type_reads_as_in_the_registry() {
        assert_eq!(format!("{:?}", EtherType::ARP), "0x0806");
    }
}
