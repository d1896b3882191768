//! The IPv4 layer (RFC 791).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base_flow::Fib;
use base_wire::{ControlError, Header, IPV4_BYTES, Icmp, Ipv4, Protocol, checksum};
use rbuf_channel::{Buffer, Data, Fault};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::control::Quote;
use crate::packet::{Incoming, Outgoing};
use crate::{Device, Layer, Network, Peer, SendError};

/// A flow that is not IPv4, and so cannot have this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is no IPv4 address; there is no other network layer yet")]
pub struct NotIpv4 {
    /// The end that is of another family.
    pub address: IpAddr,
}

/// IPv4 headers for one flow. No options and no fragments: packets have the "don't fragment" bit, and
/// what arrives in fragments does not get past the driver.
#[derive(Debug)]
pub struct Ip4<L> {
    lower: L,
    header: Ipv4,
    remote: Option<Ipv4Addr>,
    source: Ipv4Addr,
    /// Longest packet that the link segments, in bytes; 0 if it segments none.
    gso_max_size: u16,
    /// Most frames that it is segmented into: many short ones would keep the wire for longer.
    gso_max_segs: u16,
    /// Service class, in the upper six bits.
    service: u8,
    id: u16,
    damaged: u64,
}

impl<L: Layer> Ip4<L> {
    /// Packets of `protocol` as `fib` says, over `lower`.
    ///
    /// # Errors
    ///
    /// [`NotIpv4`] if one of the flow's ends is not.
    pub fn new(lower: L, fib: &Fib, protocol: Protocol) -> Result<Self, NotIpv4> {
        let (source, remote) = addresses(fib)?;
        let header = Ipv4::new(source, remote.unwrap_or(Ipv4Addr::UNSPECIFIED), protocol, 0);
        let gso_max_size = gso_max_size(fib);
        Ok(Self {
            lower,
            header,
            remote,
            source,
            gso_max_size,
            gso_max_segs: gso_max_size / fib.mtu.max(1),
            service: 0,
            id: 0,
            damaged: 0,
        })
    }

    /// The header of a packet.
    fn header<D: Data>(&self, packet: &Outgoing<D>) -> Result<Ipv4, SendError> {
        let max = match packet.cut {
            0 => self.payload_bytes_max(),
            _ => self.gso_payload_max().into(),
        };
        let bytes = packet.packet_bytes();
        if bytes > max || packet.head_room() < self.head_room() {
            return Err(SendError::TooLong { bytes, max });
        }
        let destination = self.address_of(&packet.hop)?;
        let mut header = Ipv4::new(self.source, destination, self.header.protocol, bytes as u16);
        // Of packets that are never cut it means nothing (RFC 6864 §4.1); one count for all peers would tell
        // each how many others there are.
        header.id = U16::new(self.remote.map_or(0, |_| self.id));
        header.tos = self.service | packet.tos;
        header.ttl = self.header.ttl;
        header.fill_checksum();
        Ok(header)
    }

    fn address_of(&self, hop: &Peer) -> Result<Ipv4Addr, SendError> {
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

impl<L: Layer> Network for Ip4<L> {
    type Error = NotIpv4;

    fn protocol(&self) -> Protocol {
        self.header.protocol
    }

    fn source(&self) -> IpAddr {
        self.source.into()
    }

    fn remote(&self) -> Option<IpAddr> {
        self.remote.map(IpAddr::V4)
    }

    fn destination(&self, peer: &Peer) -> Result<IpAddr, SendError> {
        self.address_of(peer).map(IpAddr::V4)
    }

    fn set_endpoints(&mut self, fib: &Fib) -> Result<(), NotIpv4> {
        (self.source, self.remote) = addresses(fib)?;
        Ok(())
    }

    fn set_ttl(&mut self, ttl: u8) {
        self.header.ttl = ttl;
    }

    fn set_service(&mut self, class: u8) {
        self.service = class << 2;
    }

    fn gso_payload_max(&self) -> u16 {
        self.gso_max_size.saturating_sub(IPV4_BYTES as u16)
    }

    fn gso_max_segs(&self) -> u16 {
        self.gso_max_segs
    }

    fn control(&self, packet: &Incoming<L::Area>) -> Option<Quote> {
        let (icmp, quote) = Icmp::split(packet.head()).filter(|_| packet.verify(0))?;
        let (ip, _) = Ipv4::split(quote)?;
        let header_bytes = ip.header_bytes();
        let transport = *quote.get(header_bytes..)?.first_chunk()?;
        let ours = ip.source() == self.source
            && ip.protocol == self.header.protocol
            && self.remote.is_none_or(|remote| remote == ip.destination());
        let error = ControlError::from_icmp_v4(icmp.kind, icmp.code, icmp.sequence.get());
        let packet_bytes = ip.total_bytes.get();
        Some(Quote {
            error: error.filter(|_| ours)?,
            to: ip.destination().into(),
            packet_bytes,
            payload_bytes: packet_bytes.saturating_sub(header_bytes as u16),
            transport,
        })
    }
}

impl<L: Layer> Layer for Ip4<L> {
    type Area = L::Area;
    type Words = L::Words;

    fn device(&mut self) -> &mut Device<L::Words, L::Area> {
        self.lower.device()
    }

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
        self.gso_max_size = gso_max_size(fib);
        self.gso_max_segs = self.gso_max_size / fib.mtu.max(1);
        self.lower.reorganise(fib);
    }

    fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }
}

/// Longest packet that the link segments. What goes to this host itself meets no link.
fn gso_max_size(fib: &Fib) -> u16 {
    let own = fib.next_hop_mac == Some(fib.source_mac);
    if own || fib.unit_bytes <= fib.mtu { 0 } else { fib.unit_bytes }
}

/// Our address and the remote one.
fn addresses(fib: &Fib) -> Result<(Ipv4Addr, Option<Ipv4Addr>), NotIpv4> {
    let v4 = |address| match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(NotIpv4 { address }),
    };
    let remote = fib.endpoints.remote.map(|remote| v4(remote.address)).transpose()?;
    Ok((v4(fib.source)?, remote))
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
