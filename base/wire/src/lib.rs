//! Packet formats: headers as they stand on the wire, and the Internet checksum.
//!
//! Every header is a `repr(C)` structure of byte arrays and network-endian integers, so a header
//! is read or written by viewing bytes, never by a parser that could disagree with the emitter.
//! Views are total: any bytes of the right length are a header; whether its *values* make sense
//! is asked by whoever relies on them (`driver-filter` for the driver, `stack-layer` for the
//! application).
//!
//! # Invariants
//!
//! 1. No function here panics on any input; a short slice is `None`.
//! 2. Nothing here allocates, reads a clock or does I/O.

#![forbid(unsafe_code)]

mod arp;
pub mod checksum;
mod control;
mod ethernet;
mod icmp;
mod ip;
mod mac;
mod transport;

pub use arp::{Arp, ArpOperation};
pub use control::ControlError;
pub use ethernet::{
    ETHERNET_BYTES, EtherType, Ethernet, FRAME_BYTES_MIN, VLAN_TAG_BYTES, VlanTag,
    WIRE_OVERHEAD_BYTES, wire_bytes,
};
pub use icmp::{ICMP_BYTES, Icmp, IcmpV4Type, IcmpV6Type};
pub use ip::{IPV4_BYTES, IPV6_BYTES, Ipv4, Ipv6, Protocol, pseudo_header};
pub use mac::{InvalidMac, Mac};
pub use transport::{TCP_BYTES, Tcp, UDP_BYTES, Udp, tcp_flag};

/// A header that can be viewed in, and written to, the front of a byte slice.
///
/// Implemented by every header of this crate; the methods are short names for `zerocopy`'s.
pub trait Header:
    zerocopy::FromBytes
    + zerocopy::IntoBytes
    + zerocopy::Immutable
    + zerocopy::KnownLayout
    + zerocopy::Unaligned
    + Sized
{
    /// Views the first bytes of `bytes` as this header, and returns what follows it.
    ///
    /// `None` if `bytes` is shorter than the header.
    fn split(bytes: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(bytes).ok()
    }

    /// Writes this header over the first bytes of `out`.
    ///
    /// `None`, and nothing written, if `out` is too short.
    fn put(&self, out: &mut [u8]) -> Option<()> {
        self.write_to_prefix(out).ok()
    }
}

impl<T> Header for T where
    T: zerocopy::FromBytes
        + zerocopy::IntoBytes
        + zerocopy::Immutable
        + zerocopy::KnownLayout
        + zerocopy::Unaligned
{
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_where_there_is_room_and_nowhere_else() {
        let udp =
            Udp { source: 1.into(), destination: 2.into(), bytes: 8.into(), checksum: 3.into() };
        let mut out = [0xaa; 10];
        assert_eq!(udp.put(&mut out), Some(()));
        assert_eq!(out, [0, 1, 0, 2, 0, 8, 0, 3, 0xaa, 0xaa]);
        assert_eq!(Udp::split(&out), Some((&udp, &out[8..])));
        let mut short = [0xaa; 7];
        assert_eq!(udp.put(&mut short), None);
        assert_eq!(short, [0xaa; 7]);
        assert_eq!(Udp::split(&short), None);
    }
}
