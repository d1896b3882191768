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

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment's header with these flags and options.
    fn header(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; TCP_BYTES];
        bytes[13] = flags;
        bytes.extend(options);
        bytes
    }

    fn segment(header: &[u8]) -> Segment<'_> {
        let (tcp, _) = Tcp::split(header).unwrap();
        Segment { tcp, header, data_bytes: 0 }
    }

    #[test]
    fn a_clock_is_found_behind_any_other_options_and_not_behind_what_is_none() {
        let clock = [8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];
        for before in [&[][..], &[1], &[1, 1], &[2, 4, 5, 0xb4], &[254, 2, 3, 3, 7]] {
            let bytes = header(tcp_flag::SYN, &[before, &clock].concat());
            assert_eq!(segment(&bytes).clock(), Some(0x1234_5678), "{before:?}");
        }
        // The end of the list, lengths that no option has, and an option that is longer than the header.
        for before in [&[0][..], &[0, 2], &[3, 0], &[3, 1], &[2, 40]] {
            let bytes = header(tcp_flag::SYN, &[before, &clock].concat());
            assert_eq!(segment(&bytes).clock(), None, "{before:?}");
        }
        assert_eq!(segment(&header(tcp_flag::SYN, &clock[..6])).clock(), Some(0x1234_5678));
        assert_eq!(segment(&header(tcp_flag::SYN, &clock[..5])).clock(), None);
    }

    #[test]
    fn a_syn_opens_a_connection_unless_it_is_anything_else_too() {
        use tcp_flag::{ACK, FIN, RST, SYN};
        assert!(segment(&header(SYN, &[])).opens());
        for flags in [0, ACK, RST, FIN, SYN | ACK, SYN | RST, SYN | FIN, SYN | ACK | RST | FIN] {
            assert!(!segment(&header(flags, &[])).opens(), "{flags:#x}");
        }
    }
}
