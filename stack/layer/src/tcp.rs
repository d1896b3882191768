//! The TCP layer: headers and checksums of segments. What they say is `stack-tcp`'s to decide.
//!
//! Payload is not copied on its way out: a segment's header is formed in front of bytes that stay
//! where the application put them ([`Outgoing::attach`]). On the way in, the checksum is verified
//! when a segment arrives, for an acknowledgment is a promise to keep it.

use std::net::{IpAddr, SocketAddr};

use base_flow::Fib;
use base_wire::{IPV4_BYTES, Mac, Protocol, checksum, pseudo_header};
use rbuf_channel::{Buffer, Data, Fault, Pair};
use stack_tcp::{Ecn, HEADER_BYTES_MAX, RouterError, Segment};

use crate::control;
use crate::ip4::Ip4;
use crate::packet::{Incoming, Outgoing};
use crate::{Layer, Peer, SendError};

/// TCP headers for one flow.
#[derive(Debug)]
pub struct Tcp<L> {
    lower: Ip4<L>,
    local_port: u16,
    remote_port: Option<u16>,
    damaged: u64,
}

/// What arrives at a flow.
#[derive(Debug)]
pub enum Arrived {
    /// A segment.
    Segment(Received),
    /// A router, or the peer's host, says what became of a segment of ours.
    RouterError {
        /// To whom it was.
        to: SocketAddr,
        /// Its sequence number.
        sequence: u32,
        /// What became of it.
        error: RouterError,
    },
}

/// A segment that arrived, and its payload where the driver put it.
#[derive(Debug)]
pub struct Received {
    /// What its header says.
    pub segment: Segment,
    /// Who sent it.
    pub from: SocketAddr,
    /// The station it came from: the way back.
    pub station: Mac,
    /// The buffer it is in, to be given back with [`Tcp::release`].
    pub buffer: Buffer,
    /// Where its payload is in the data area.
    pub payload: Pair,
}

impl<L: Layer> Tcp<L> {
    /// Segments as `fib` says, over `lower`; `None` if the flow is not IPv4.
    pub fn new(lower: L, fib: &Fib) -> Option<Self> {
        Some(Self {
            lower: Ip4::new(lower, fib, Protocol::TCP)?,
            local_port: fib.endpoints.local.port,
            remote_port: fib.endpoints.remote.map(|remote| remote.port),
            damaged: 0,
        })
    }

    /// What is below.
    pub const fn lower(&mut self) -> &mut Ip4<L> {
        &mut self.lower
    }

    /// Takes over how packets are to be formatted from now on.
    pub fn reorganise(&mut self, fib: &Fib) {
        self.lower.reorganise(fib);
    }

    /// Packets dropped by this layer and all below it because they were damaged or not for us.
    pub fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }

    /// Most payload of a segment that the link cuts; 0 if it cuts none.
    pub const fn unit_payload_max(&self) -> u32 {
        (self.lower.unit_bytes() as u32).saturating_sub((IPV4_BYTES + HEADER_BYTES_MAX) as u32)
    }

    /// Most frames that the link cuts a segment into.
    pub const fn unit_frames(&self) -> u16 {
        self.lower.unit_frames()
    }

    /// Sends a segment whose payload lies in `parts` of the data area, and returns its buffer; `None`
    /// if all buffers are on their way. With `cut` other than 0 the link cuts it into frames of so
    /// much payload.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send(
        &mut self,
        segment: &Segment,
        to: Peer,
        parts: [Pair; 2],
        cut: u16,
    ) -> Result<Option<Buffer>, SendError> {
        let Some(mut packet) = self.lower.packet()? else { return Ok(None) };
        let buffer = packet.buffer;
        packet.cut = cut;
        match self.write(&mut packet, segment, to, parts) {
            Ok(()) => self.lower.send(packet).map(|()| Some(buffer)),
            Err(error) => {
                self.lower.discard(packet)?;
                Err(error)
            }
        }
    }

    /// RFC 9293 MUST-2: with the checksum over pseudo header, header and payload.
    fn write(
        &self,
        packet: &mut Outgoing<L::Area>,
        segment: &Segment,
        to: Peer,
        parts: [Pair; 2],
    ) -> Result<(), SendError> {
        packet.set_destination(to);
        packet.set_tos(segment.ecn.bits());
        packet.attach(parts);
        let remote = self.lower.destination(&to)?;
        let port = match (to, self.remote_port) {
            (Peer::At { address, .. }, _) => address.port(),
            (Peer::Connected, Some(port)) => port,
            (Peer::Connected, None) => return Err(SendError::NoDestination),
        };
        let mut header = [0; HEADER_BYTES_MAX];
        let header_bytes = segment.write((self.local_port, port), &mut header);
        let bytes = header_bytes + packet.packet_bytes();
        let (source, destination) = (IpAddr::V4(self.lower.source()), IpAddr::V4(remote));
        let pseudo = pseudo_header(source, destination, Protocol::TCP, bytes as u32).unwrap_or(0);
        let sum = match packet.cut {
            0 => checksum::finish(pseudo + checksum::sum(&header[..header_bytes]) + packet.sum()),
            // Whoever cuts adds the rest to this, for each frame.
            _ => !checksum::finish(pseudo),
        };
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        packet.push_header(&header[..header_bytes]);
        Ok(())
    }

    /// The next segment that is for this flow, or word of one that it sent; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn receive(&mut self) -> Result<Option<Arrived>, Fault> {
        while let Some(mut packet) = self.lower.receive()? {
            if packet.is_control() {
                let word = self.read_control(&packet);
                self.damaged += u64::from(word.is_none());
                self.lower.give_back(packet)?;
                if let Some((to, sequence, error)) = word {
                    return Ok(Some(Arrived::RouterError { to, sequence, error }));
                }
                continue;
            }
            if let Some((segment, from)) = strip(&mut packet, self.local_port, self.remote_port) {
                let station = packet.station();
                let (buffer, payload) = packet.detach();
                let received = Received { segment, from, station, buffer, payload };
                return Ok(Some(Arrived::Segment(received)));
            }
            self.damaged += 1;
            self.lower.give_back(packet)?;
        }
        Ok(None)
    }

    /// Reads a control message (RFC 792): it quotes the head of a packet that we sent.
    fn read_control(&self, packet: &Incoming<L::Area>) -> Option<(SocketAddr, u32, RouterError)> {
        let ports = (self.local_port, self.remote_port);
        let quote = control::read(packet, &self.lower, Protocol::TCP, ports)?;
        let (icmp, [_, _, _, _, sequence @ ..]) = (quote.icmp, quote.transport);
        let error = RouterError::from_icmp_v4(icmp.kind, icmp.code, icmp.sequence.get())?;
        Some((quote.to, u32::from_be_bytes(sequence), error))
    }

    /// Gives the buffer of a received packet back.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the driver.
    pub fn release(&mut self, buffer: Buffer) -> Result<(), Fault> {
        self.lower.release(buffer)
    }
}

/// Where the checksum is in a header.
const CHECKSUM: usize = 16;

/// Checks and strips a header.
fn strip<D: Data>(
    packet: &mut Incoming<D>,
    local: u16,
    remote: Option<u16>,
) -> Option<(Segment, SocketAddr)> {
    let (head, bytes) = (packet.head(), packet.len());
    let parsed = Segment::parse(head, bytes, Ecn::from_tos(packet.tos()));
    let ((source, destination), segment, header_bytes) = parsed.ok()?;
    let covered = packet.pseudo_header(bytes as u64) + checksum::sum(head.get(..header_bytes)?);
    let ours = destination == local && remote.is_none_or(|port| port == source);
    if !ours || !packet.strip(header_bytes) || !packet.verify(covered) {
        return None;
    }
    let from = packet.from()?;
    Some((segment, SocketAddr::new(from.ip(), source)))
}
