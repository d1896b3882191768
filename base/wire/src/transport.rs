//! Transport headers: UDP (RFC 768) and TCP (RFC 9293 §3.1).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a UDP header.
pub const UDP_BYTES: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_BYTES: usize = 20;

/// A UDP header.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Udp {
    /// Port the datagram claims to come from.
    pub source: U16,
    /// Port it is for.
    pub destination: U16,
    /// Bytes of header and payload.
    pub bytes: U16,
    /// Over pseudo header, header and payload; 0 means "none" on IPv4.
    pub checksum: U16,
}

/// A TCP header; options, if any, follow it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Tcp {
    /// Port the segment claims to come from.
    pub source: U16,
    /// Port it is for.
    pub destination: U16,
    /// Sequence number of the first byte (or of SYN).
    pub sequence: U32,
    /// Next sequence number expected, if ACK is set.
    pub acknowledgment: U32,
    /// Header length in words of 4 bytes (4 bits), reserved (4 bits).
    pub offset: u8,
    /// Control bits, [`tcp_flag`].
    pub flags: u8,
    /// Bytes the sender of this segment can accept, unscaled.
    pub window: U16,
    /// Over pseudo header, header and payload.
    pub checksum: U16,
    /// Where urgent data ends, if URG is set.
    pub urgent: U16,
}

impl Tcp {
    /// Bytes of the header, options included; below [`TCP_BYTES`] it is malformed.
    pub const fn header_bytes(&self) -> usize {
        (self.offset >> 4) as usize * 4
    }
}

/// Control bits of a TCP header.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is meaningful.
    pub const ACK: u8 = 0x10;
    /// The urgent field is meaningful.
    pub const URG: u8 = 0x20;
    /// The sender of this segment saw a congestion mark (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// The sender of this segment has slowed down because of marks.
    pub const CWR: u8 = 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_header_is_in_the_high_half_of_its_byte_in_words() {
        for offset in 0..=u8::MAX {
            let bytes = [[0; 12].as_slice(), &[offset], &[0; 7]].concat();
            let tcp = Tcp::read_from_bytes(&bytes).unwrap();
            assert_eq!(tcp.header_bytes(), usize::from(offset / 16 * 4), "{offset:#04x}");
        }
    }
}
