//! TCP connections whose application has died: their peers are to hear of it (RFC 9293 §3.5.3).
//!
//! A reset counts only if it hits the next byte that the peer expects (RFC 5961), which nobody here
//! knows: sequence numbers were the application's affair. But the peer does. So it is asked: a segment
//! that cannot be right makes it say where it is, what it says comes to the handler of last resort
//! because nobody owns the connection any more, and the reset that answers it is exact.

use base_flow::{Endpoints, Sap};
use base_wire::{
    IPV4_BYTES, Ipv4, Mac, Protocol, TCP_BYTES, Tcp, checksum, pseudo_header, tcp_flag,
};
use std::net::IpAddr;
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32};

use crate::last_resort::Station;
use crate::manager::LinkId;

/// Connections asked about at a time; those of further ones hear when they speak next.
const ASKING_MAX: usize = 4096;

/// Pauses between questions, in nanoseconds: the first may come before the driver has forgotten the
/// flow, and any may be lost.
const PAUSES_NS: [u64; 4] = [20_000_000, 80_000_000, 200_000_000, 500_000_000];

#[derive(Debug)]
struct Gone {
    ends: Endpoints,
    link: LinkId,
    to: Mac,
    /// When to ask again; 0 for as soon as it is known what time it is.
    due_ns: u64,
    asked: usize,
}

/// Those whose peers have not been heard.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    gone: Vec<Gone>,
}

impl Departed {
    /// The application of a connection has died.
    pub(crate) fn add(&mut self, ends: Endpoints, link: LinkId, to: Mac) {
        if self.gone.len() < ASKING_MAX {
            self.gone.push(Gone { ends, link, to, due_ns: 0, asked: 0 });
        }
    }

    /// The peer of a connection has spoken, and was answered by a reset.
    pub(crate) fn heard(&mut self, local: Sap, remote: Sap) {
        self.gone.retain(|gone| gone.ends.local != local || gone.ends.remote != Some(remote));
    }

    /// Whom to ask now: on which link, at which station, about which connection.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Vec<(LinkId, Mac, Endpoints)> {
        let mut ask = Vec::new();
        for gone in &mut self.gone {
            if gone.due_ns > now_ns {
                continue;
            }
            // The first pause passes before the first question.
            if gone.due_ns > 0 {
                ask.push((gone.link, gone.to, gone.ends));
                gone.asked += 1;
            }
            gone.due_ns = now_ns + PAUSES_NS.get(gone.asked).copied().unwrap_or(0);
        }
        self.gone.retain(|gone| gone.asked < PAUSES_NS.len());
        ask
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.gone.iter().map(|gone| gone.due_ns).min()
    }
}

/// The segment that makes a peer say where it is: it acknowledges nothing that was ever sent, at a number
/// that is, but for a chance in thousands, far from the window.
pub(crate) fn question(station: Station, to: Mac, ends: &Endpoints) -> Option<Vec<u8>> {
    let remote = ends.remote?;
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (ends.local.address, remote.address) else {
        return None;
    };
    let mut tcp = Tcp {
        source: U16::new(ends.local.port),
        destination: U16::new(remote.port),
        sequence: U32::ZERO,
        acknowledgment: U32::ZERO,
        offset: ((TCP_BYTES / 4) as u8) << 4,
        flags: tcp_flag::ACK,
        window: U16::ZERO,
        checksum: U16::ZERO,
        urgent: U16::ZERO,
    };
    let pseudo = pseudo_header(source.into(), destination.into(), Protocol::TCP, TCP_BYTES as u32)?;
    tcp.checksum = U16::new(checksum::finish(pseudo + checksum::sum(tcp.as_bytes())));
    let ip = Ipv4::new(source, destination, Protocol::TCP, TCP_BYTES as u16);
    debug_assert_eq!(ip.as_bytes().len(), IPV4_BYTES);
    Some(station.frame(to, base_wire::EtherType::IPV4, &[ip.as_bytes(), tcp.as_bytes()]))
}
