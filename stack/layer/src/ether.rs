//! The Ethernet layer.

use base_flow::Fib;
use base_wire::{ETHERNET_BYTES, EtherType, Ethernet, Header, Mac, VLAN_TAG_BYTES, VlanTag};
use rbuf_channel::{Buffer, Fault};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::packet::{Incoming, Outgoing};
use crate::{Device, Layer, Peer, SendError};

/// Ethernet II headers for one flow, with the tag of the link's VLAN if it has one.
#[derive(Debug)]
pub struct Ether<L> {
    lower: L,
    header: Ethernet,
    vlan: Option<VlanTag>,
    next_hop: Option<Mac>,
    ether_type: EtherType,
    damaged: u64,
}

impl<L> Ether<L> {
    /// Frames as `fib` says, over `lower`.
    pub const fn new(lower: L, fib: &Fib) -> Self {
        let ether_type = if fib.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let vlan = match fib.vlan {
            Some(id) => Some(VlanTag { control: U16::new(id), ether_type }),
            None => None,
        };
        let link_type = if vlan.is_some() { EtherType::VLAN } else { ether_type };
        let header =
            Ethernet { destination: Mac::ZERO, source: fib.source_mac, ether_type: link_type };
        Self { lower, header, vlan, next_hop: fib.next_hop_mac, ether_type, damaged: 0 }
    }

    const fn header_bytes(&self) -> usize {
        ETHERNET_BYTES + if self.vlan.is_some() { VLAN_TAG_BYTES } else { 0 }
    }
}

impl<L: Layer> Layer for Ether<L> {
    type Area = L::Area;
    type Words = L::Words;

    fn device(&mut self) -> &mut Device<L::Words, L::Area> {
        self.lower.device()
    }

    fn head_room(&self) -> usize {
        self.lower.head_room() + self.header_bytes()
    }

    fn payload_bytes_max(&self) -> usize {
        // The MTU, whether tagged or not.
        self.lower.payload_bytes_max() - ETHERNET_BYTES - VLAN_TAG_BYTES
    }

    fn packet(&mut self) -> Result<Option<Outgoing<L::Area>>, Fault> {
        self.lower.packet()
    }

    fn discard(&mut self, packet: Outgoing<L::Area>) -> Result<(), Fault> {
        self.lower.discard(packet)
    }

    fn send(&mut self, mut packet: Outgoing<L::Area>) -> Result<(), SendError> {
        // A flow that is with one host has one next hop, which is known better here than where the packet was begun.
        let destination = match (packet.hop, self.next_hop) {
            (_, Some(mac)) | (Peer::At { mac, .. }, None) => mac,
            (Peer::Connected, None) => {
                self.discard(packet)?;
                return Err(SendError::NoDestination);
            }
        };
        if let Some(tag) = &self.vlan {
            packet.push_header(tag.as_bytes());
        }
        let header = Ethernet { destination, ..self.header };
        packet.push_header(header.as_bytes());
        self.lower.send(packet)
    }

    fn receive(&mut self) -> Result<Option<Incoming<L::Area>>, Fault> {
        while let Some(mut packet) = self.lower.receive()? {
            if strip(&mut packet, self.ether_type).is_some() {
                return Ok(Some(packet));
            }
            self.damaged += 1;
            self.lower.give_back(packet)?;
        }
        Ok(None)
    }

    fn release(&mut self, buffer: Buffer) -> Result<(), Fault> {
        self.lower.release(buffer)
    }

    fn reorganise(&mut self, fib: &Fib) {
        self.next_hop = fib.next_hop_mac;
        self.header.source = fib.source_mac;
        self.lower.reorganise(fib);
    }

    fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }
}

fn strip<D: rbuf_channel::Data>(packet: &mut Incoming<D>, expected: EtherType) -> Option<()> {
    let (ethernet, rest) = Ethernet::split(packet.head())?;
    let mac = ethernet.source;
    let (ether_type, bytes) = if ethernet.ether_type == EtherType::VLAN {
        let (tag, _) = VlanTag::split(rest)?;
        (tag.ether_type, ETHERNET_BYTES + VLAN_TAG_BYTES)
    } else {
        (ethernet.ether_type, ETHERNET_BYTES)
    };
    packet.mac = mac;
    (ether_type == expected && packet.strip(bytes)).then_some(())
}
