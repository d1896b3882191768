//! TCP segments that the flow manager reads, and those it sends in place of applications.
//!
//! It speaks only for connections that have no flow: those that never were, those in TIME-WAIT, and
//! those whose application was killed. A segment with a wrong checksum or a wrong header is not read at
//! all (RFC 9293 MUST-3).

use std::net::IpAddr;

use base_flow::Sap;
use base_rpc::TimeWait;
use base_wire::{
    EtherType, Header, Ipv4, Mac, Protocol, TCP_BYTES, Tcp, checksum, pseudo_header, tcp_flag,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use crate::last_resort::{Packet, Station};

/// Our end of a connection, and the other.
pub(crate) type Ends = (Sap, Sap);

/// A segment that arrived whole.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) tcp: &'a Tcp,
    /// Header and options.
    pub(crate) header: &'a [u8],
    pub(crate) data_bytes: usize,
}

impl<'a> Segment<'a> {
    /// Reads a packet, which arrived undamaged; `None` if it is no segment.
    pub(crate) fn read(packet: &Packet<'a>) -> Option<Self> {
        let bytes = packet.payload();
        let (tcp, _) = Tcp::split(bytes).filter(|_| packet.ip.protocol == Protocol::TCP)?;
        let header = bytes.get(..tcp.header_bytes()).filter(|header| header.len() >= TCP_BYTES)?;
        Some(Self { tcp, header, data_bytes: bytes.len() - header.len() })
    }

    pub(crate) const fn has(&self, flags: u8) -> bool {
        self.tcp.flags & flags != 0
    }

    /// Whether it asks for a connection, and not for its end in one breath.
    pub(crate) const fn opens(&self) -> bool {
        self.has(tcp_flag::SYN) && !self.has(tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN)
    }

    /// What the sender's clock shows, if it says so (RFC 7323 §3.2).
    pub(crate) fn clock(&self) -> Option<u32> {
        let mut options = self.header.get(TCP_BYTES..)?;
        loop {
            options = match options {
                [1, rest @ ..] => rest,
                [8, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d])),
                [kind, length, ..] if *kind > 1 && *length > 1 => {
                    options.get(usize::from(*length)..)?
                }
                _ => return None,
            };
        }
    }

    /// RFC 9293 §3.10.7.1: what is answered to a segment of a connection that does not exist: a reset,
    /// unless it is one.
    pub(crate) fn reset(&self) -> Option<Words> {
        if self.has(tcp_flag::RST) {
            return None;
        }
        if self.has(tcp_flag::ACK) {
            let sequence = self.tcp.acknowledgment.get();
            return Some(Words { sequence, flags: tcp_flag::RST, ..Words::default() });
        }
        let occupied = |flag| u32::from(self.has(flag));
        let length = (self.data_bytes as u32)
            .wrapping_add(occupied(tcp_flag::SYN))
            .wrapping_add(occupied(tcp_flag::FIN));
        Some(Words {
            acknowledgment: self.tcp.sequence.get().wrapping_add(length),
            flags: tcp_flag::RST | tcp_flag::ACK,
            ..Words::default()
        })
    }
}

/// What a segment of ours says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Words {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    /// Our clock and the peer's.
    clocks: Option<(u32, u32)>,
}

impl Words {
    /// Where a connection stands that was closed `ms` ago.
    pub(crate) fn acknowledgment(what: &TimeWait, ms: u32) -> Self {
        Self {
            sequence: what.sequence,
            acknowledgment: what.acknowledgment,
            flags: tcp_flag::ACK,
            window: 0xffff,
            clocks: what.clocks.map(|(ours, theirs)| (ours.wrapping_add(ms), theirs)),
        }
    }

    /// What makes a peer say where it is: this acknowledges nothing that was ever sent, at a number that
    /// is, but for a chance in thousands, far from the window.
    pub(crate) fn question() -> Self {
        Self { flags: tcp_flag::ACK, ..Self::default() }
    }

    /// The frame that says this to a peer at station `to`.
    pub(crate) fn frame(&self, station: Station, to: Mac, (us, them): Ends) -> Option<Vec<u8>> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (us.address, them.address) else {
            return None;
        };
        let mut options = Vec::new();
        if let Some((ours, theirs)) = self.clocks {
            options.extend([1, 1, 8, 10]);
            options.extend(ours.to_be_bytes());
            options.extend(theirs.to_be_bytes());
        }
        let bytes = TCP_BYTES + options.len();
        let mut tcp = Tcp {
            source: U16::new(us.port),
            destination: U16::new(them.port),
            sequence: U32::new(self.sequence),
            acknowledgment: U32::new(self.acknowledgment),
            offset: ((bytes / 4) as u8) << 4,
            flags: self.flags,
            window: U16::new(self.window),
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        };
        let pseudo = pseudo_header(us.address, them.address, Protocol::TCP, bytes as u32)?;
        let sum = pseudo + checksum::sum(tcp.as_bytes()) + checksum::sum(&options);
        tcp.checksum = U16::new(checksum::finish(sum));
        let ip = Ipv4::new(source, destination, Protocol::TCP, bytes as u16);
        Some(station.frame(to, EtherType::IPV4, &[ip.as_bytes(), tcp.as_bytes(), &options]))
    }
}
