//! The TCP layer: headers and checksums of segments. What they say is `stack-tcp`'s to decide.
//!
//! Payload is not copied on its way out: a segment's header is formed in front of bytes that stay
//! where the application put them ([`Outgoing::attach`]). On the way in, the checksum is verified
//! when a segment arrives, for an acknowledgment is a promise to keep it.

use std::net::SocketAddr;

use base_flow::Fib;
use base_wire::{Mac, Protocol, checksum, pseudo_header};
use rbuf_channel::{Buffer, Data, Fault, Pair};
use stack_tcp::{Ecn, HEADER_BYTES_MAX, RouterError, Segment};

use crate::packet::{Incoming, Outgoing};
use crate::{Device, Network, Peer, SendError};

/// TCP headers for one flow.
#[derive(Debug)]
pub struct Tcp<N> {
    lower: N,
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
    /// The MAC address it came from: the way back.
    pub mac: Mac,
    /// The buffer it is in, to be given back with [`Tcp::release`].
    pub buffer: Buffer,
    /// Where its payload is in the data area.
    pub payload: Pair,
}

impl<N: Network> Tcp<N> {
    /// Segments as `fib` says, over `lower`, whose packets are TCP's.
    pub const fn new(lower: N, fib: &Fib) -> Self {
        let remote_port = match fib.endpoints.remote {
            Some(remote) => Some(remote.port),
            None => None,
        };
        Self { lower, local_port: fib.endpoints.local.port, remote_port, damaged: 0 }
    }

    /// The network layer, which has the options of packets.
    pub const fn network(&mut self) -> &mut N {
        &mut self.lower
    }

    /// The flow's channels, at the bottom.
    pub fn device(&mut self) -> &mut Device<N::Words, N::Area> {
        self.lower.device()
    }

    /// Takes over how packets are to be formatted from now on.
    pub fn reorganise(&mut self, fib: &Fib) {
        self.lower.reorganise(fib);
    }

    /// Packets dropped by this layer and all below it because they were damaged or not for us.
    pub fn damaged(&self) -> u64 {
        self.damaged + self.lower.damaged()
    }

    /// Most payload of what the link cuts into segments; 0 if it cuts nothing.
    pub fn gso_payload_max(&self) -> u32 {
        u32::from(self.lower.gso_payload_max()).saturating_sub(HEADER_BYTES_MAX as u32)
    }

    /// Most segments that it cuts at a time.
    pub fn gso_max_segs(&self) -> u16 {
        self.lower.gso_max_segs()
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
        packet: &mut Outgoing<N::Area>,
        segment: &Segment,
        to: Peer,
        parts: [Pair; 2],
    ) -> Result<(), SendError> {
        packet.set_destination(to);
        packet.set_tos(segment.ecn.bits());
        packet.attach(parts);
        let destination = self.lower.destination(&to)?;
        let port = match (to, self.remote_port) {
            (Peer::At { address, .. }, _) => address.port(),
            (Peer::Connected, Some(port)) => port,
            (Peer::Connected, None) => return Err(SendError::NoDestination),
        };
        let mut header = [0; HEADER_BYTES_MAX];
        let header_bytes = segment.write((self.local_port, port), &mut header);
        let bytes = header_bytes + packet.packet_bytes();
        let pseudo = pseudo_header(self.lower.source(), destination, Protocol::TCP, bytes as u32)
            .unwrap_or(0);
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
                let mac = packet.mac();
                let (buffer, payload) = packet.detach();
                let received = Received { segment, from, mac, buffer, payload };
                return Ok(Some(Arrived::Segment(received)));
            }
            self.damaged += 1;
            self.lower.give_back(packet)?;
        }
        Ok(None)
    }

    /// Reads a control message (RFC 792): it quotes the head of a packet that we sent.
    fn read_control(&self, packet: &Incoming<N::Area>) -> Option<(SocketAddr, u32, RouterError)> {
        let quote = self.lower.control(packet)?;
        let to = quote.is_between(self.local_port, self.remote_port)?;
        let [_, _, _, _, sequence @ ..] = quote.transport;
        Some((to, u32::from_be_bytes(sequence), quote.error.into()))
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
