//! The UDP layer (RFC 768).
//!
//! Control messages about datagrams of the flow are kept for whoever asks (RFC 1122 §4.1.3.3).

use std::collections::VecDeque;
use std::net::SocketAddr;

use base_flow::Fib;
use base_wire::{ControlError, Header, Mac, Protocol, UDP_BYTES, checksum, pseudo_header};
use rbuf_channel::{Buffer, Data, Fault};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::control::Control;
use crate::packet::{Incoming, Outgoing};
use crate::{Device, Layer, Network, SendError};

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// To whom the flow is connected.
    Connected,
    /// There, over this MAC address.
    At {
        /// The final destination.
        address: SocketAddr,
        /// The next hop on the link.
        mac: Mac,
    },
}

/// UDP headers for one flow, with checksums in both directions.
#[derive(Debug)]
pub struct Udp<N> {
    lower: N,
    local_port: u16,
    remote_port: Option<u16>,
    controls: VecDeque<Control>,
    damaged: u64,
}

/// Control messages that are kept; of more, the oldest are forgotten.
const CONTROLS_MAX: usize = 16;

impl<N: Network> Udp<N> {
    /// Datagrams as `fib` says, over `lower`, whose packets are UDP's.
    pub const fn new(lower: N, fib: &Fib) -> Self {
        Self {
            lower,
            local_port: fib.endpoints.local.port,
            remote_port: match fib.endpoints.remote {
                Some(remote) => Some(remote.port),
                None => None,
            },
            controls: VecDeque::new(),
            damaged: 0,
        }
    }

    /// The network layer, which has the options of packets.
    pub const fn network(&mut self) -> &mut N {
        &mut self.lower
    }

    /// Takes other ends over: what a socket's `connect` does.
    ///
    /// # Errors
    ///
    /// If they are of another family than the network layer; the old ones stay then.
    pub fn set_endpoints(&mut self, fib: &Fib) -> Result<(), N::Error> {
        self.lower.set_endpoints(fib)?;
        self.local_port = fib.endpoints.local.port;
        self.remote_port = fib.endpoints.remote.map(|remote| remote.port);
        self.reorganise(fib);
        Ok(())
    }

    /// The oldest control message about a datagram of this flow that was received and not taken.
    pub fn take_control(&mut self) -> Option<Control> {
        self.controls.pop_front()
    }

    /// Keeps what a control message says; `false` if it is damaged, or about nothing that was sent here.
    fn hear_control(&mut self, packet: &Incoming<N::Area>) -> bool {
        let Some(quote) = self.lower.control(packet) else { return false };
        let Some(to) = quote.is_between(self.local_port, self.remote_port) else { return false };
        // A datagram that was sent says of itself how long it is.
        let [_, _, _, _, a, b, ..] = quote.transport;
        let udp_bytes = u16::from_be_bytes([a, b]);
        if usize::from(udp_bytes) < UDP_BYTES || udp_bytes != quote.payload_bytes {
            return false;
        }
        // A path carries less than what was too large for it, and a router that does not say how much is
        // an old one: nothing is known but that (RFC 1191 §5).
        let error = match quote.error {
            ControlError::TooLarge { mtu } if mtu >= quote.packet_bytes => return false,
            error => error,
        };
        let Some(from) = packet.from() else { return false };
        if self.controls.len() == CONTROLS_MAX {
            self.controls.pop_front();
        }
        self.controls.push_back(Control { to, from: from.ip(), error });
        true
    }

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
        let source = self.lower.source();
        let pseudo = pseudo_header(source, destination, Protocol::UDP, bytes.into()).unwrap_or(0);
        let sum = checksum::finish(pseudo + checksum::sum(header.as_bytes()) + packet.sum());
        // 0 would mean "no checksum"; all ones is the same number.
        header.checksum = U16::new(if sum == 0 { 0xffff } else { sum });
        Ok(header)
    }
}

impl<N: Network> Layer for Udp<N> {
    type Area = N::Area;
    type Words = N::Words;

    fn device(&mut self) -> &mut Device<N::Words, N::Area> {
        self.lower.device()
    }

    fn head_room(&self) -> usize {
        self.lower.head_room() + UDP_BYTES
    }

    fn payload_bytes_max(&self) -> usize {
        self.lower.payload_bytes_max() - UDP_BYTES
    }

    fn packet(&mut self) -> Result<Option<Outgoing<N::Area>>, Fault> {
        self.lower.packet()
    }

    fn discard(&mut self, packet: Outgoing<N::Area>) -> Result<(), Fault> {
        self.lower.discard(packet)
    }

    fn send(&mut self, mut packet: Outgoing<N::Area>) -> Result<(), SendError> {
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

    fn receive(&mut self) -> Result<Option<Incoming<N::Area>>, Fault> {
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
