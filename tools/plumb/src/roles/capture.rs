//! What arrives at the peer: the kernel's time stamp of every frame, and what the datagram says.

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use base_wire::{EtherType, Ethernet, Header, Ipv4, Protocol, Udp};
use driver_link::Link;
use driver_link_packet::PacketLink;
use rbuf_shm::monotonic_ns;

use super::read_stamp;
use crate::cli;
use crate::daemons::die_with_parent;
use crate::output::say;
use crate::process::told_to_end;

/// A frame that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub seen_ns: u64,
    /// When it was sent, as its sender says.
    pub sent_ns: u64,
    /// Its number, as its sender says.
    pub number: u64,
    /// Port it was sent to.
    pub port: u16,
    /// Its length, without check sequence.
    pub bytes: u16,
}

const RECORD_BYTES: usize = 28;

/// Slots of the ring: a reader that shares its processor may sleep for a while.
const SLOTS: usize = 32_768;

impl Seen {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.seen_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.port.to_le_bytes());
        bytes[26..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            seen_ns: word(0)?,
            sent_ns: word(8)?,
            number: word(16)?,
            port: half(24)?,
            bytes: half(26)?,
        })
    }
}

/// Reads what [`run`] wrote.
pub fn read(file: &Path) -> Result<Vec<Seen>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(bytes.chunks_exact(RECORD_BYTES).filter_map(Seen::from_bytes).collect())
}

/// By how much the realtime clock is ahead of the monotonic one.
fn realtime_offset() -> u64 {
    let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    real.as_nanos() as u64 - monotonic_ns()
}

/// Notes what arrives until it is told to end; then writes it, and prints how many frames the kernel
/// could not show it.
pub fn run(arguments: &cli::Capture) -> Result<ExitCode> {
    die_with_parent()?;
    // Somebody must be at the ports, or the kernel says that nobody is. Nobody reads there.
    let listen = |port: &u16| UdpSocket::bind(("0.0.0.0", *port));
    let _sockets: Vec<UdpSocket> =
        arguments.ports.iter().map(listen).collect::<Result<_, _>>().context("cannot bind")?;
    let mut link = PacketLink::open_with_ring(&arguments.dev, None, SLOTS)?;
    let told = told_to_end();
    say!("ready")?;
    let offset = realtime_offset();
    let (mut all, mut lost) = (Vec::with_capacity(1 << 20), 0);
    loop {
        let ending = told.load(Ordering::Acquire);
        let mut sink = |arrival: driver_link::Arrival<'_>, at: u64| {
            if let Some((port, payload)) = datagram(arrival.frame)
                && let Some((number, sent_ns)) = read_stamp(payload)
            {
                let seen_ns = at.saturating_sub(offset);
                let bytes = arrival.frame.len() as u16;
                all.push(Seen { seen_ns, sent_ns, number, port, bytes });
            }
        };
        while link.poll_stamped(1024, &mut sink) > 0 {}
        lost += link.take_overflow();
        if ending {
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let file = std::fs::File::create(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let mut file = std::io::BufWriter::new(file);
    for seen in all {
        file.write_all(&seen.to_bytes())?;
    }
    file.flush()?;
    say!("{lost}")?;
    Ok(ExitCode::SUCCESS)
}

/// Destination port and payload, if the frame is a datagram.
fn datagram(frame: &[u8]) -> Option<(u16, &[u8])> {
    let (ethernet, rest) = Ethernet::split(frame)?;
    if ethernet.ether_type != EtherType::IPV4 {
        return None;
    }
    let (ip, _) = Ipv4::split(rest)?;
    if ip.protocol != Protocol::UDP {
        return None;
    }
    let (udp, payload) = Udp::split(rest.get(ip.header_bytes()..)?)?;
    Some((udp.destination.get(), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let seen = Seen { seen_ns: 1, sent_ns: u64::MAX, number: 3, port: 4, bytes: 1514 };
        assert_eq!(Seen::from_bytes(&seen.to_bytes()), Some(seen));
        assert_eq!(Seen::from_bytes(&[0; RECORD_BYTES - 1]), None);
    }
}
