//! The UDP layer (RFC 768).
//!
//! Control messages about datagrams of the flow are kept for whoever asks (RFC 1122 §4.1.3.3).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use base_flow::Fib;
use base_wire::{
    ControlError, Header, IPV4_BYTES, Mac, Protocol, UDP_BYTES, checksum, pseudo_header,
};
use rbuf_channel::{Buffer, Data, Fault};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::control::{self, Control};
use crate::ip4::Ip4;
use crate::packet::{Incoming, Outgoing};
use crate::{Layer, SendError};

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// To whom the flow is connected.
    Connected,
    /// There, over this station.
    At {
        /// The final destination.
        address: SocketAddr,
        /// The next hop on the link.
        mac: Mac,
    },
}

/// UDP headers for one flow, with checksums in both directions.
#[derive(Debug)]
pub struct Udp<L> {
    lower: Ip4<L>,
    local_port: u16,
    remote_port: Option<u16>,
    controls: VecDeque<Control>,
    damaged: u64,
}

/// Control messages that are kept; of more, the oldest are forgotten.
const CONTROLS_MAX: usize = 16;

impl<L: Layer> Udp<L> {
    /// Datagrams as `fib` says, over `lower`; `None` if the flow is not IPv4.
    pub fn new(lower: L, fib: &Fib) -> Option<Self> {
        Some(Self {
            lower: Ip4::new(lower, fib, Protocol::UDP)?,
            local_port: fib.endpoints.local.port,
            remote_port: fib.endpoints.remote.map(|remote| remote.port),
            controls: VecDeque::new(),
            damaged: 0,
        })
    }

    /// Takes other ends over: what a socket's `connect` does. `false` if they are not IPv4.
    pub fn set_endpoints(&mut self, fib: &Fib) -> bool {
        self.local_port = fib.endpoints.local.port;
        self.remote_port = fib.endpoints.remote.map(|remote| remote.port);
        let set = self.lower.set_endpoints(fib);
        self.reorganise(fib);
        set
    }

    /// The oldest control message about a datagram of this flow that was received and not taken.
    pub fn take_control(&mut self) -> Option<Control> {
        self.controls.pop_front()
    }

    /// Keeps what a control message says; `false` if it is damaged, or about nothing that was sent here.
    fn hear_control(&mut self, packet: &Incoming<L::Area>) -> bool {
        let ports = (self.local_port, self.remote_port);
        let Some(quote) = control::read(packet, &self.lower, Protocol::UDP, ports) else {
            return false;
        };
        // A datagram that was sent says of itself how long it is.
        let [_, _, _, _, a, b, ..] = quote.transport;
        let udp_bytes = usize::from(u16::from_be_bytes([a, b]));
        let icmp = quote.icmp;
        let error = ControlError::from_icmp_v4(icmp.kind, icmp.code, icmp.sequence.get());
        let (Some(error), true) = (
            error,
            udp_bytes >= UDP_BYTES && udp_bytes + IPV4_BYTES == usize::from(quote.packet_bytes),
        ) else {
            return false;
        };
        // A path carries less than what was too large for it, and a router that does not say how much is
        // an old one: nothing is known but that (RFC 1191 §5).
        let error = match error {
            ControlError::TooLarge { mtu } if mtu >= quote.packet_bytes => return false,
            error => error,
        };
        let Some(from) = packet.from() else { return false };
        if self.controls.len() == CONTROLS_MAX {
            self.controls.pop_front();
        }
        self.controls.push_back(Control { to: quote.to, from: from.ip(), error });
        true
    }

    /// What is below.
    pub const fn lower(&mut self) -> &mut Ip4<L> {
        &mut self.lower
    }
}

impl<L: Layer> Udp<L> {
    /// The header of a packet, its checksum over the payload included.
    fn header<D: Data>(&self, packet: &Outgoing<D>) -> Result<base_wire::Udp, SendError> {
        let (payload, max) = (packet.packet_bytes(), self.payload_bytes_max());
        if payload > max || packet.head_room() < self.head_room() {
            return Err(SendError::TooLong { bytes: payload, max });
        }
        let destination = self.lower.destination(&packet.hop)?;
        let port = match (packet.hop, self.remote_port) {
            (Peer::At { address, .. }, None) => address.port(),
            (Peer::At { address, .. }, Some(port)) if address.port() == port => port,
            (Peer::At { .. }, Some(_)) => return Err(SendError::OtherDestination),
            (Peer::Connected, Some(port)) => port,
            (Peer::Connected, None) => return Err(SendError::NoDestination),
        };
        let bytes = (payload + UDP_BYTES) as u16;
        let mut header = base_wire::Udp {
            source: U16::new(self.local_port),
            destination: U16::new(port),
            bytes: U16::new(bytes),
            checksum: U16::ZERO,
        };
        let (source, destination) = (IpAddr::V4(self.lower.source()), IpAddr::V4(destination));
        let pseudo = pseudo_header(source, destination, Protocol::UDP, bytes.into()).unwrap_or(0);
        let sum = checksum::finish(pseudo + checksum::sum(header.as_bytes()) + packet.sum());
        // 0 would mean "no checksum"; all ones is the same number.
        header.checksum = U16::new(if sum == 0 { 0xffff } else { sum });
        Ok(header)
    }
}

impl<L: Layer> Layer for Udp<L> {
    type Area = L::Area;

    fn head_room(&self) -> usize {
        self.lower.head_room() + UDP_BYTES
    }

    fn payload_bytes_max(&self) -> usize {
        self.lower.payload_bytes_max() - UDP_BYTES
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
            if packet.is_control() {
                self.damaged += u64::from(!self.hear_control(&packet));
                self.lower.give_back(packet)?;
                continue;
            }
            if strip(&mut packet, self.local_port).is_some() {
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
        self.lower.reorganise(fib);
    }

    fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }
}

/// Checks and strips a header. The checksum is verified when the payload is read, unless the link
/// vouches for it or the sender left it out. Whose datagrams a flow gets is up to its driver: some may still be from
/// whom it was with before.
fn strip<D: Data>(packet: &mut Incoming<D>, local: u16) -> Option<()> {
    let (udp, _) = base_wire::Udp::split(packet.head())?;
    let udp = *udp;
    let bytes = udp.bytes.get();
    if udp.destination.get() != local
        || usize::from(bytes) < UDP_BYTES
        || !packet.truncate(bytes.into())
        || !packet.strip(UDP_BYTES)
    {
        return None;
    }
    packet.from = packet.from.map(|from| SocketAddr::new(from.ip(), udp.source.get()));
    if udp.checksum.get() != 0 && !packet.vouched {
        let pseudo = packet.pseudo_header(bytes.into());
        packet.verify_later(pseudo + checksum::sum(udp.as_bytes()));
    }
    Some(())
}
