//! The wire that both tests of layers speak of: who is on it, and the frames of a router.

use std::net::Ipv4Addr;

use base_wire::{Mac, checksum};
use etherparse::{IpNumber, PacketBuilder};

pub const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// An ICMP error of a router, of this type, code and MTU of the next hop, about a packet that begins with `quote`.
pub fn icmp_error((kind, code, mtu): (u8, u8, u16), quote: &[u8]) -> Vec<u8> {
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quote);
    let sum = checksum::finish(checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4([10, 77, 0, 254], OURS.octets(), 64)
        .write(&mut frame, IpNumber::ICMP, &icmp)
        .unwrap();
    frame
}
