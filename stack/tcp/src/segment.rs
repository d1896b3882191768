//! Segments: what a header says, and how it is written.

use base_wire::{Header, TCP_BYTES, Tcp, tcp_flag};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use crate::options::Options;

/// Longest header: 15 words of 4 bytes.
pub const HEADER_BYTES_MAX: usize = 60;

/// A segment without its payload: what the header says, and what the layers below said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Sequence number of the first byte, or of the SYN.
    pub sequence: u32,
    /// Next byte expected; meaningful if the ACK bit is set.
    pub acknowledgment: u32,
    /// Control bits, [`tcp_flag`].
    pub flags: u8,
    /// Bytes the sender can accept, as it stands on the wire.
    pub window: u16,
    /// Where urgent data ends, from the sequence number on; meaningful if the URG bit is set.
    pub urgent: u16,
    /// Options.
    pub options: Options,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// The congestion field of the IP header.
    pub ecn: Ecn,
}

/// The congestion field of an IP header (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ecn {
    /// The sender does not react to marks.
    #[default]
    NotCapable,
    /// The sender reacts to marks.
    Capable,
    /// A router on the way is congested.
    Congested,
}

impl Ecn {
    /// From the low two bits of the `tos` byte.
    pub const fn from_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotCapable,
            3 => Self::Congested,
            _ => Self::Capable,
        }
    }

    /// The low two bits of the `tos` byte: ECT(0) for a capable sender.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotCapable => 0,
            Self::Capable => 2,
            Self::Congested => 3,
        }
    }
}

/// Why bytes are no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are not the TCP header they claim to be")]
pub struct Malformed {
    /// Bytes there are.
    pub bytes: usize,
}

impl Segment {
    /// Reads the header at the front of `bytes`, which need not hold the payload; `segment_bytes` is
    /// the length of header and payload as IP says. The checksum is the caller's affair.
    ///
    /// Returns the ports (source, destination), the segment and the length of its header.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the header is cut short or shorter than it can be.
    pub fn parse(
        bytes: &[u8],
        segment_bytes: usize,
        ecn: Ecn,
    ) -> Result<((u16, u16), Self, usize), Malformed> {
        let malformed = Malformed { bytes: bytes.len() };
        let (tcp, _) = Tcp::split(bytes).ok_or(malformed)?;
        let header_bytes = tcp.header_bytes();
        if header_bytes < TCP_BYTES || header_bytes > segment_bytes {
            return Err(malformed);
        }
        let options = bytes.get(TCP_BYTES..header_bytes).ok_or(malformed)?;
        let segment = Self {
            sequence: tcp.sequence.get(),
            acknowledgment: tcp.acknowledgment.get(),
            flags: tcp.flags,
            window: tcp.window.get(),
            urgent: tcp.urgent.get(),
            options: Options::parse(options),
            payload_bytes: u32::try_from(segment_bytes - header_bytes).map_err(|_| malformed)?,
            ecn,
        };
        Ok(((tcp.source.get(), tcp.destination.get()), segment, header_bytes))
    }

    /// Writes the header, its checksum 0, and returns its length.
    pub fn write(
        &self,
        (source, destination): (u16, u16),
        out: &mut [u8; HEADER_BYTES_MAX],
    ) -> usize {
        let (header, options) = out.split_at_mut(TCP_BYTES);
        let bytes = TCP_BYTES + self.options.write(options);
        let tcp = Tcp {
            source: U16::new(source),
            destination: U16::new(destination),
            sequence: U32::new(self.sequence),
            acknowledgment: U32::new(self.acknowledgment),
            offset: ((bytes / 4) as u8) << 4,
            flags: self.flags,
            window: U16::new(self.window),
            checksum: U16::ZERO,
            urgent: U16::new(self.urgent),
        };
        header.copy_from_slice(tcp.as_bytes());
        bytes
    }

    /// Whether all of `flags` are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether it asks for a connection; one that ends it in the same breath does not (nor does Linux
    /// answer it: nobody means that).
    pub const fn opens(&self) -> bool {
        let others = tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN;
        self.has(tcp_flag::SYN) && self.flags & others == 0
    }

    /// Sequence space it takes: payload, SYN and FIN.
    pub const fn sequence_bytes(&self) -> u64 {
        self.payload_bytes as u64 + self.has(tcp_flag::SYN) as u64 + self.has(tcp_flag::FIN) as u64
    }
}
