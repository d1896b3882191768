//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, Mac};

/// What an ARP packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Arp {
    hardware: U16,
    protocol: EtherType,
    hardware_bytes: u8,
    protocol_bytes: u8,
    operation: U16,
    /// Hardware address of the speaker.
    pub sender_mac: Mac,
    sender_ip: [u8; 4],
    /// Hardware address asked for; zero in a request.
    pub target_mac: Mac,
    target_ip: [u8; 4],
}

impl Arp {
    /// `sender` asks everyone for the owner of `target`.
    pub const fn request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self::new(1, sender_mac, sender, Mac::ZERO, target)
    }

    /// `sender` tells `target` that it owns its address.
    pub const fn reply(
        sender_mac: Mac,
        sender: Ipv4Addr,
        target_mac: Mac,
        target: Ipv4Addr,
    ) -> Self {
        Self::new(2, sender_mac, sender, target_mac, target)
    }

    const fn new(
        operation: u16,
        sender_mac: Mac,
        sender: Ipv4Addr,
        target_mac: Mac,
        target: Ipv4Addr,
    ) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: EtherType::IPV4,
            hardware_bytes: 6,
            protocol_bytes: 4,
            operation: U16::new(operation),
            sender_mac,
            sender_ip: sender.octets(),
            target_mac,
            target_ip: target.octets(),
        }
    }

    /// What this packet says, or `None` if it is not ARP for IPv4 over Ethernet.
    pub fn operation(&self) -> Option<ArpOperation> {
        let ours = self.hardware.get() == 1
            && self.protocol == EtherType::IPV4
            && self.hardware_bytes == 6
            && self.protocol_bytes == 4;
        match (ours, self.operation.get()) {
            (true, 1) => Some(ArpOperation::Request),
            (true, 2) => Some(ArpOperation::Reply),
            _ => None,
        }
    }

    /// Protocol address of the speaker; unspecified in a probe (RFC 5227).
    pub const fn sender(&self) -> Ipv4Addr {
        octets(self.sender_ip)
    }

    /// Protocol address asked for or answered.
    pub const fn target(&self) -> Ipv4Addr {
        octets(self.target_ip)
    }
}

const fn octets([a, b, c, d]: [u8; 4]) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply as it stands on the wire.
    const REPLY: [u8; 28] = [
        0, 1, 8, 0, 6, 4, 0, 2, // Ethernet, IPv4, their lengths, reply
        2, 0, 0, 0, 0, 1, 192, 0, 2, 1, // sender
        2, 0, 0, 0, 0, 2, 192, 0, 2, 2, // target
    ];

    #[test]
    fn requests_and_replies_are_as_on_the_wire() {
        let (one, two) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
        let reply = Arp::reply(macs[0], one, macs[1], two);
        assert_eq!(reply.as_bytes(), REPLY);
        assert_eq!(reply.operation(), Some(ArpOperation::Reply));
        assert_eq!((reply.sender(), reply.target()), (one, two));
        let request = Arp::request(macs[0], one, two);
        let mut bytes = REPLY;
        bytes[7] = 1;
        bytes[18..24].fill(0);
        assert_eq!(request.as_bytes(), bytes);
        assert_eq!(request.operation(), Some(ArpOperation::Request));
    }

    #[test]
    fn nothing_but_requests_and_replies_for_ipv4_over_ethernet_says_anything() {
        for place in 0..8 {
            for value in 0..=u8::MAX {
                let mut bytes = REPLY;
                bytes[place] = value;
                let expected = match (place, value) {
                    (7, 1) => Some(ArpOperation::Request),
                    _ if bytes == REPLY => Some(ArpOperation::Reply),
                    _ => None,
                };
                let arp = Arp::read_from_bytes(&bytes).unwrap();
                assert_eq!(arp.operation(), expected, "{value} at {place}");
            }
        }
    }
}
