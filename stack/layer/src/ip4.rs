//! The IPv4 layer (RFC 791).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base_flow::Fib;
use base_wire::{Header, IPV4_BYTES, Ipv4, Protocol, checksum};
use rbuf_channel::{Buffer, Data, Fault};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::packet::{Incoming, Outgoing};
use crate::{Layer, Peer, SendError};

/// IPv4 headers for one flow. No options and no fragments: packets have the "don't fragment" bit, and
/// what arrives in fragments does not get past the driver.
#[derive(Debug)]
pub struct Ip4<L> {
    lower: L,
    header: Ipv4,
    remote: Option<Ipv4Addr>,
    source: Ipv4Addr,
    /// Longest packet that the link cuts; 0 if it cuts none.
    unit_bytes: u16,
    /// Most frames that it is cut into: a unit of many short ones would keep the wire for longer.
    unit_frames: u16,
    /// Service class, in the upper six bits.
    service: u8,
    id: u16,
    damaged: u64,
}

impl<L: Layer> Ip4<L> {
    /// Packets of `protocol` as `fib` says, over `lower`; `None` if the flow is not IPv4.
    pub fn new(lower: L, fib: &Fib, protocol: Protocol) -> Option<Self> {
        let (source, remote) = addresses(fib)?;
        let header = Ipv4::new(source, remote.unwrap_or(Ipv4Addr::UNSPECIFIED), protocol, 0);
        let unit_bytes = unit_bytes(fib);
        Some(Self {
            lower,
            header,
            remote,
            source,
            unit_bytes,
            unit_frames: unit_bytes / fib.mtu.max(1),
            service: 0,
            id: 0,
            damaged: 0,
        })
    }

    pub(crate) fn set_endpoints(&mut self, fib: &Fib) -> bool {
        let Some((source, remote)) = addresses(fib) else { return false };
        (self.source, self.remote) = (source, remote);
        true
    }

    /// What is below.
    pub const fn lower(&mut self) -> &mut L {
        &mut self.lower
    }

    /// Our address.
    pub const fn source(&self) -> Ipv4Addr {
        self.source
    }

    /// Where packets go; `None` if the flow is not connected.
    pub const fn remote(&self) -> Option<Ipv4Addr> {
        self.remote
    }

    /// How many routers a packet may pass (RFC 9293 MUST-49).
    pub const fn set_ttl(&mut self, ttl: u8) {
        self.header.ttl = ttl;
    }

    /// The service class of what is sent (RFC 2474, RFC 9293 MUST-48): 0 to 63.
    pub const fn set_service(&mut self, class: u8) {
        self.service = class << 2;
    }

    /// Longest packet that the link cuts, in bytes; 0 if it cuts none.
    pub const fn unit_bytes(&self) -> u16 {
        self.unit_bytes
    }

    /// Most frames that the link cuts a packet into, however short they are; 0 if it cuts none.
    pub const fn unit_frames(&self) -> u16 {
        self.unit_frames
    }

    /// The header of a packet.
    fn header<D: Data>(&self, packet: &Outgoing<D>) -> Result<Ipv4, SendError> {
        let max = match packet.cut {
            0 => self.payload_bytes_max(),
            _ => usize::from(self.unit_bytes).saturating_sub(IPV4_BYTES),
        };
        let bytes = packet.packet_bytes();
        if bytes > max || packet.head_room() < self.head_room() {
            return Err(SendError::TooLong { bytes, max });
        }
        let destination = self.destination(&packet.hop)?;
        let mut header = Ipv4::new(self.source, destination, self.header.protocol, bytes as u16);
        // Of packets that are never cut it means nothing (RFC 6864 §4.1); one count for all peers would tell
        // each how many others there are.
        header.id = U16::new(self.remote.map_or(0, |_| self.id));
        header.tos = self.service | packet.tos;
        header.ttl = self.header.ttl;
        header.fill_checksum();
        Ok(header)
    }

    /// Where this packet goes.
    pub(crate) fn destination(&self, hop: &Peer) -> Result<Ipv4Addr, SendError> {
        match (hop, self.remote) {
            (Peer::Connected, Some(remote)) => Ok(remote),
            (Peer::Connected, None) => Err(SendError::NoDestination),
            (Peer::At { address: SocketAddr::V4(to), .. }, None) => Ok(*to.ip()),
            (Peer::At { address, .. }, Some(remote)) if address.ip() == IpAddr::V4(remote) => {
                Ok(remote)
            }
            (Peer::At { .. }, _) => Err(SendError::OtherDestination),
        }
    }
}

impl<L: Layer> Layer for Ip4<L> {
    type Area = L::Area;

    fn head_room(&self) -> usize {
        self.lower.head_room() + IPV4_BYTES
    }

    fn payload_bytes_max(&self) -> usize {
        self.lower.payload_bytes_max() - IPV4_BYTES
    }

    fn packet(&mut self) -> Result<Option<Outgoing<L::Area>>, Fault> {
        self.lower.packet()
    }

    fn discard(&mut self, packet: Outgoing<L::Area>) -> Result<(), Fault> {
        self.lower.discard(packet)
    }

    fn send(&mut self, mut packet: Outgoing<L::Area>) -> Result<(), SendError> {
        match self.header(&packet) {
            Ok(header) => {
                self.id = self.id.wrapping_add(1);
                packet.push_header(header.as_bytes());
                self.lower.send(packet)
            }
            Err(error) => {
                self.discard(packet)?;
                Err(error)
            }
        }
    }

    fn receive(&mut self) -> Result<Option<Incoming<L::Area>>, Fault> {
        while let Some(mut packet) = self.lower.receive()? {
            if strip(&mut packet, self.header.protocol).is_some() {
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
        self.unit_bytes = unit_bytes(fib);
        self.unit_frames = self.unit_bytes / fib.mtu.max(1);
        self.lower.reorganise(fib);
    }

    fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }
}

/// Longest packet that the link cuts. What goes to this host itself meets no link.
fn unit_bytes(fib: &Fib) -> u16 {
    let own = fib.next_hop_mac == Some(fib.source_mac);
    if own || fib.unit_bytes <= fib.mtu { 0 } else { fib.unit_bytes }
}

/// Our address and the remote one, if the flow is IPv4.
fn addresses(fib: &Fib) -> Option<(Ipv4Addr, Option<Ipv4Addr>)> {
    let IpAddr::V4(source) = fib.source else { return None };
    match fib.endpoints.remote.map(|remote| remote.address) {
        Some(IpAddr::V4(remote)) => Some((source, Some(remote))),
        Some(IpAddr::V6(_)) => None,
        None => Some((source, None)),
    }
}

/// Checks and strips a header; what is left is exactly the payload, without Ethernet's padding: of
/// `protocol`, or a control message that the driver found to be about this flow.
///
/// RFC 9293 MUST-50: options are passed over; a source route among them is not answered along (MUST-53).
fn strip<D: Data>(packet: &mut Incoming<D>, protocol: Protocol) -> Option<()> {
    let (ip, _) = Ipv4::split(packet.head())?;
    let ip = *ip;
    let header = packet.head().get(..ip.header_bytes())?;
    let control = ip.protocol == Protocol::ICMP && protocol != Protocol::ICMP;
    let sound = ip.version() == 4
        && ip.header_bytes() >= IPV4_BYTES
        && checksum::is_valid(checksum::sum(header))
        && (ip.protocol == protocol || control)
        && !ip.is_fragment();
    let total = usize::from(ip.total_bytes.get());
    if !sound || !packet.truncate(total) || !packet.strip(ip.header_bytes()) {
        return None;
    }
    packet.from = Some(SocketAddr::new(ip.source().into(), 0));
    packet.tos = ip.tos;
    packet.control = control;
    packet.set_pseudo_header(ip.source(), ip.destination(), protocol);
    Some(())
}
