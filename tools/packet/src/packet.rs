//! Between packets as a script writes them and packets as they are.
//!
//! A script counts both streams from their SYN and clocks from wherever it likes; on the wire they begin
//! anywhere. [`Numbers`] knows the difference for one connection.

use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;

use base_wire::{
    Header, IPV4_BYTES, Ipv4, Protocol, TCP_BYTES, Tcp as TcpHeader, checksum, pseudo_header,
    tcp_flag,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use crate::byte_at;
use crate::host::{LOCAL, REMOTE};
use crate::script::{EcnField, Icmp, OptionItem, Tcp};

/// Where the peer's stream begins on the wire: near the end of the numbers, so that they wrap.
const THEIRS: u32 = 0xffff_fc00;

/// Ports of a connection: ours, theirs.
pub(crate) type Ports = (u16, u16);

/// The difference between a script's numbers and the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Our stream; known with our SYN.
    ours: Option<u32>,
    theirs: u32,
    /// Our clock in the script, and as it was, when it was first seen.
    clock: Option<(u32, u32)>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { ours: None, theirs: THEIRS, clock: None }
    }
}

/// A segment that left, in the numbers of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) ports: Ports,
    pub(crate) tos: u8,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) bytes: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<OptionItem>,
    /// First byte of payload that is not what was written.
    pub(crate) wrong: Option<u32>,
}

impl Numbers {
    /// Makes a segment arrive.
    pub(crate) fn arriving(&self, tcp: &Tcp, (ours, theirs): Ports) -> Vec<u8> {
        let mut options = Vec::new();
        for item in tcp.options.iter().flatten() {
            self.option(item, &mut options);
        }
        while options.len() % 4 != 0 {
            options.push(0);
        }
        let offset = ((TCP_BYTES + options.len()) / 4) as u8;
        let to_us = |number: u32| number.wrapping_add(self.ours.unwrap_or(0));
        let header = TcpHeader {
            source: U16::new(theirs),
            destination: U16::new(ours),
            sequence: U32::new(tcp.sequence.wrapping_add(self.theirs)),
            acknowledgment: U32::new(tcp.acknowledgment.map_or(0, to_us)),
            offset: offset << 4,
            flags: tcp.flags,
            window: U16::new(tcp.window.unwrap_or(0)),
            checksum: U16::ZERO,
            urgent: U16::new(tcp.urgent.unwrap_or(0)),
        };
        let mut segment = [header.as_bytes(), &options].concat();
        let syn = u64::from(tcp.flags & tcp_flag::SYN != 0);
        let first = (u64::from(tcp.sequence) + syn).wrapping_sub(1);
        segment.extend((0..u64::from(tcp.bytes)).map(|at| byte_at(first.wrapping_add(at))));
        let ecn = match tcp.ecn {
            Some(EcnField::Is(bits)) => bits,
            Some(EcnField::Capable) => 2,
            None => 0,
        };
        wrap((REMOTE, LOCAL), Protocol::TCP, tcp.tos.unwrap_or(0) | ecn, segment)
    }

    /// Makes a router say something of a segment that we sent.
    pub(crate) fn quoting(&self, icmp: &Icmp, (ours, theirs): Ports) -> Vec<u8> {
        let (sequence, bytes) = icmp.quotes;
        let mut quote = Vec::new();
        quote.extend(ours.to_be_bytes());
        quote.extend(theirs.to_be_bytes());
        quote.extend(sequence.wrapping_add(self.ours.unwrap_or(0)).to_be_bytes());
        let mut quoted = Ipv4::new(
            LOCAL,
            REMOTE,
            Protocol::TCP,
            (TCP_BYTES as u16).saturating_add(bytes as u16),
        );
        quoted.fill_checksum();
        let mtu = icmp.mtu.to_be_bytes();
        let mut message = vec![icmp.kind.0, icmp.kind.1, 0, 0, 0, 0, mtu[0], mtu[1]];
        message.extend(quoted.as_bytes());
        message.extend(quote);
        let sum = checksum::finish(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        wrap((REMOTE, LOCAL), Protocol::ICMP, 0, message)
    }

    fn option(&self, item: &OptionItem, out: &mut Vec<u8>) {
        match item {
            OptionItem::Nop => out.push(1),
            OptionItem::End => out.push(0),
            OptionItem::Mss(mss) => {
                out.extend([2, 4]);
                out.extend(mss.to_be_bytes());
            }
            OptionItem::WindowShift(shift) => out.extend([3, 3, *shift]),
            OptionItem::SackPermitted => out.extend([4, 2]),
            OptionItem::Timestamps(value, echo) => {
                let echo = match self.clock {
                    Some((script, real)) if *echo != 0 => {
                        echo.wrapping_sub(script).wrapping_add(real)
                    }
                    _ => *echo,
                };
                out.extend([8, 10]);
                out.extend(value.to_be_bytes());
                out.extend(echo.to_be_bytes());
            }
            OptionItem::Sack(blocks) => {
                let to_us = |number: u32| number.wrapping_add(self.ours.unwrap_or(0)).to_be_bytes();
                out.extend([5, 2 + 8 * blocks.len() as u8]);
                for (start, end) in blocks {
                    out.extend(to_us(*start));
                    out.extend(to_us(*end));
                }
            }
            OptionItem::Other(kind, content) => {
                out.push(*kind);
                out.extend(content);
            }
        }
    }

    /// Reads a segment that left. `expected` tells what its SYN and its clock are called.
    pub(crate) fn left(&mut self, packet: &[u8], expected: &Tcp) -> Option<Left> {
        let (ip, tcp, options, payload) = split(packet)?;
        let syn = tcp.flags & tcp_flag::SYN != 0;
        if syn && self.ours.is_none() {
            self.ours = Some(tcp.sequence.get().wrapping_sub(expected.sequence));
        }
        let ours = self.ours.unwrap_or(0);
        let sequence = tcp.sequence.get().wrapping_sub(ours);
        let first = u64::from(sequence).wrapping_sub(1);
        let wrong = (payload.iter().zip(first..)).find(|(byte, at)| **byte != byte_at(*at));
        let mut options = read_options(options, self.theirs);
        for item in &mut options {
            if let OptionItem::Timestamps(value, _) = item {
                let script = expected.options.iter().flatten().find_map(|item| match item {
                    OptionItem::Timestamps(value, _) => Some(*value),
                    _ => None,
                });
                let (script, real) = *self.clock.get_or_insert((script.unwrap_or(*value), *value));
                *value = value.wrapping_sub(real).wrapping_add(script);
            }
        }
        let acknowledges = tcp.flags & tcp_flag::ACK != 0;
        Some(Left {
            ports: (tcp.source.get(), tcp.destination.get()),
            tos: ip.tos,
            flags: tcp.flags,
            sequence,
            bytes: payload.len() as u32,
            acknowledgment: if acknowledges {
                tcp.acknowledgment.get().wrapping_sub(self.theirs)
            } else {
                tcp.acknowledgment.get()
            },
            window: tcp.window.get(),
            urgent: tcp.urgent.get(),
            options,
            wrong: wrong.map(|(_, at)| at as u32),
        })
    }
}

/// Ports of a segment that left.
pub(crate) fn ports_of(packet: &[u8]) -> Option<Ports> {
    split(packet).map(|(_, tcp, ..)| (tcp.source.get(), tcp.destination.get()))
}

fn split(packet: &[u8]) -> Option<(&Ipv4, &TcpHeader, &[u8], &[u8])> {
    let (ip, _) = Ipv4::split(packet)?;
    let segment = packet.get(IPV4_BYTES..usize::from(ip.total_bytes.get()))?;
    let (tcp, _) = TcpHeader::split(segment)?;
    let header_bytes = tcp.header_bytes();
    let pseudo = pseudo_header(
        ip.source().into(),
        ip.destination().into(),
        Protocol::TCP,
        segment.len() as u32,
    )?;
    let sound = checksum::is_valid(pseudo + checksum::sum(segment));
    let options = segment.get(TCP_BYTES..header_bytes).filter(|_| sound)?;
    Some((ip, tcp, options, segment.get(header_bytes..)?))
}

fn wrap(ends: (Ipv4Addr, Ipv4Addr), protocol: Protocol, tos: u8, mut payload: Vec<u8>) -> Vec<u8> {
    if protocol == Protocol::TCP {
        let bytes = payload.len() as u32;
        let pseudo = pseudo_header(ends.0.into(), ends.1.into(), protocol, bytes).unwrap_or(0);
        let sum = checksum::finish(pseudo + checksum::sum(&payload));
        payload[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    let mut ip = Ipv4::new(ends.0, ends.1, protocol, payload.len() as u16);
    ip.tos = tos;
    ip.fill_checksum();
    [ip.as_bytes(), &payload].concat()
}

/// Reads options without judging them.
fn read_options(mut bytes: &[u8], theirs: u32) -> Vec<OptionItem> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap_or_default());
    let mut items = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind < 2 {
            items.push(if *kind == 0 { OptionItem::End } else { OptionItem::Nop });
            bytes = rest;
            continue;
        }
        let length = usize::from(rest.first().copied().unwrap_or(0)).max(2);
        let body = bytes.get(2..length).unwrap_or(&[]);
        bytes = bytes.get(length..).unwrap_or(&[]);
        items.push(match (*kind, body) {
            (2, [a, b]) => OptionItem::Mss(u16::from_be_bytes([*a, *b])),
            (3, [shift]) => OptionItem::WindowShift(*shift),
            (4, []) => OptionItem::SackPermitted,
            (8, clocks) if clocks.len() == 8 => {
                OptionItem::Timestamps(number(&clocks[..4]), number(&clocks[4..]))
            }
            (5, blocks) if blocks.len().is_multiple_of(8) => OptionItem::Sack(
                blocks
                    .chunks_exact(8)
                    .map(|block| {
                        let of = |bytes| number(bytes).wrapping_sub(theirs);
                        (of(&block[..4]), of(&block[4..]))
                    })
                    .collect(),
            ),
            (kind, body) => {
                let mut all = vec![length as u8];
                all.extend(body);
                OptionItem::Other(kind, all)
            }
        });
    }
    items
}

impl Display for OptionItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nop => f.write_str("nop"),
            Self::End => f.write_str("eol"),
            Self::Mss(mss) => write!(f, "mss {mss}"),
            Self::WindowShift(shift) => write!(f, "wscale {shift}"),
            Self::SackPermitted => f.write_str("sackOK"),
            Self::Timestamps(value, echo) => write!(f, "TS val {value} ecr {echo}"),
            Self::Sack(blocks) => {
                f.write_str("sack")?;
                blocks.iter().try_for_each(|(start, end)| write!(f, " {start}:{end}"))
            }
            Self::Other(kind, content) => {
                write!(f, "kind {kind} [")?;
                content.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(" ]")
            }
        }
    }
}

impl Display for Left {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.tos & 3 {
            0 => {}
            1 => f.write_str("[ect1] ")?,
            2 => f.write_str("[ect0] ")?,
            _ => f.write_str("[ce] ")?,
        }
        let letters = "FSRP.UEW".chars().enumerate();
        letters
            .filter(|(bit, _)| self.flags & (1 << bit) != 0)
            .try_for_each(|(_, letter)| write!(f, "{letter}"))?;
        let end = self.sequence.wrapping_add(self.bytes);
        write!(f, " {}:{end}({})", self.sequence, self.bytes)?;
        if self.flags & tcp_flag::ACK != 0 {
            write!(f, " ack {}", self.acknowledgment)?;
        }
        write!(f, " win {}", self.window)?;
        if self.flags & tcp_flag::URG != 0 {
            write!(f, " urg {}", self.urgent)?;
        }
        if !self.options.is_empty() {
            let items: Vec<String> = self.options.iter().map(ToString::to_string).collect();
            write!(f, " <{}>", items.join(","))?;
        }
        Ok(())
    }
}
