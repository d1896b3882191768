//! TIME-WAIT: what remains of TCP connections whose flows are closed (RFC 9293 §3.6.1).
//!
//! The side that closed first must wait until no segment of the connection can be in the network any
//! more, and meanwhile acknowledge the peer's FIN should that come again. A flow, with its channels and
//! its place in the driver, would be a high price for that, and an application may end; so the flow
//! manager remembers a few numbers, and the driver gives it what still comes between these ends. They
//! are not given to anybody else before the time is over.
//!
//! Of a connection whose application was killed nothing is known but its ends: they are kept
//! from others for as long, and what comes is answered by a reset.
//!
//! # Cost
//!
//! About a hundred bytes each, [`HELD_MAX`] of them, [`USER_MAX`] for each user.

use std::collections::{BTreeSet, HashMap};

use base_flow::{Endpoints, Sap, Transport};
use base_rpc::TimeWait;
use base_wire::{Header, Protocol, TCP_BYTES, Tcp, tcp_flag};
use zerocopy::byteorder::network_endian::{U16, U32};

use crate::last_resort::{Packet, Station, intact, segment};
use crate::manager::LinkId;
use crate::strays::ends_of;

/// Twice the longest life of a segment, taken for 30 s as Linux does.
pub(crate) const TIME_WAIT_NS: u64 = 60_000_000_000;

/// Ends remembered at a time. Those of further connections are free at once.
const HELD_MAX: usize = 65_536;

/// Of them, for one user.
const USER_MAX: usize = 16_384;

/// Local end, remote end.
type Ends = (Sap, Sap);

#[derive(Debug)]
struct Waiting {
    link: LinkId,
    uid: u32,
    what: Option<TimeWait>,
    /// When it began, and when it ends; 0 before it is known what time it is.
    since_ns: u64,
    until_ns: u64,
}

/// Connections that are over for their applications, and not for the network.
#[derive(Debug, Default)]
pub(crate) struct TimeWaits {
    table: HashMap<Ends, Waiting>,
    /// Those that wait for a clock.
    fresh: Vec<Ends>,
    /// By the time they end.
    queue: BTreeSet<(u64, Ends)>,
    users: HashMap<u32, usize>,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is none of TIME-WAIT's business, or nothing is known of the connection.
    NotHere,
    /// It is not answered.
    Silence,
    /// It is answered by this frame.
    Acknowledge(Vec<u8>),
    /// It opens the connection anew: these ends are free.
    Reopens(Endpoints),
}

impl TimeWaits {
    /// Remembers a connection; `false` if there are too many.
    pub(crate) fn add(
        &mut self,
        ends: Endpoints,
        link: LinkId,
        uid: u32,
        what: Option<TimeWait>,
    ) -> bool {
        let Some(remote) = ends.remote else { return false };
        let key = (ends.local, remote);
        let user = self.users.get(&uid).copied().unwrap_or(0);
        if self.table.len() >= HELD_MAX || user >= USER_MAX || self.table.contains_key(&key) {
            return false;
        }
        self.table.insert(key, Waiting { link, uid, what, since_ns: 0, until_ns: 0 });
        self.fresh.push(key);
        *self.users.entry(uid).or_default() += 1;
        true
    }

    /// Whether these ends are not free.
    pub(crate) fn has(&self, local: Sap, remote: Sap) -> bool {
        self.table.contains_key(&(local, remote))
    }

    fn remove(&mut self, ends: Ends) -> Option<LinkId> {
        let waiting = self.table.remove(&ends)?;
        self.queue.remove(&(waiting.until_ns, ends));
        if let Some(count) = self.users.get_mut(&waiting.uid) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&waiting.uid);
            }
        }
        Some(waiting.link)
    }

    /// Time has passed: the ends that are free now.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Vec<(LinkId, Endpoints)> {
        let until_ns = now_ns + TIME_WAIT_NS;
        for ends in std::mem::take(&mut self.fresh) {
            if let Some(waiting) = self.table.get_mut(&ends) {
                (waiting.since_ns, waiting.until_ns) = (now_ns, until_ns);
                self.queue.insert((until_ns, ends));
            }
        }
        let mut free = Vec::new();
        while let Some((due_ns, ends)) = self.queue.first().copied()
            && due_ns <= now_ns
        {
            self.queue.pop_first();
            if self.table.get(&ends).is_some_and(|waiting| waiting.until_ns == due_ns)
                && let Some(link) = self.remove(ends)
            {
                free.push((link, endpoints(ends)));
            }
        }
        free
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        match self.fresh.is_empty() {
            false => Some(0),
            true => self.queue.first().map(|(due_ns, _)| *due_ns),
        }
    }

    /// A packet came to this host that no flow claimed.
    pub(crate) fn on_packet(
        &mut self,
        now_ns: u64,
        packet: &Packet<'_>,
        station: Station,
    ) -> Verdict {
        if self.table.is_empty() || packet.ip.protocol != Protocol::TCP {
            return Verdict::NotHere;
        }
        let (Some(ends), Some((tcp, after))) = (ends_of(packet), Tcp::split(packet.payload()))
        else {
            return Verdict::NotHere;
        };
        let Some(waiting) = self.table.get_mut(&ends) else { return Verdict::NotHere };
        if !intact(packet) || tcp.header_bytes() < TCP_BYTES {
            return Verdict::Silence;
        }
        let opens = tcp.flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN;
        let options = after.get(..tcp.header_bytes() - TCP_BYTES).unwrap_or(&[]);
        let Some(what) = &waiting.what else {
            if opens {
                self.remove(ends);
                return Verdict::Reopens(endpoints(ends));
            }
            return Verdict::NotHere;
        };
        // RFC 1337: a RST may be an old duplicate.
        if tcp.flags & tcp_flag::RST != 0 {
            return Verdict::Silence;
        }
        let ahead = |number: u32, than: u32| number.wrapping_sub(than).cast_signed() > 0;
        // RFC 6191 §2, RFC 9293 SHLD-4.
        let newer = match (clock(options), what.clocks) {
            (Some(clock), Some((_, recent))) => ahead(clock, recent),
            _ => ahead(tcp.sequence.get(), what.acknowledgment),
        };
        if opens && newer {
            self.remove(ends);
            return Verdict::Reopens(endpoints(ends));
        }
        if tcp.flags & tcp_flag::FIN != 0 {
            // RFC 9293 §3.10.7.4: the peer has not heard us; wait anew.
            self.queue.remove(&(waiting.until_ns, ends));
            waiting.until_ns = now_ns + TIME_WAIT_NS;
            self.queue.insert((waiting.until_ns, ends));
        }
        let data = packet.payload().len() - tcp.header_bytes().min(packet.payload().len());
        if data == 0 && tcp.flags & (tcp_flag::SYN | tcp_flag::FIN) == 0 {
            // An acknowledgment is not acknowledged.
            return Verdict::Silence;
        }
        let what = *what;
        let ticks = (now_ns.saturating_sub(waiting.since_ns) / 1_000_000) as u32;
        acknowledge(packet, station, tcp, &what, ticks)
            .map_or(Verdict::Silence, Verdict::Acknowledge)
    }
}

fn endpoints((local, remote): Ends) -> Endpoints {
    Endpoints { transport: Transport::Tcp, local, remote: Some(remote) }
}

/// What the sender's clock shows, if its segment says so.
fn clock(mut options: &[u8]) -> Option<u32> {
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

/// Where we are.
fn acknowledge(
    packet: &Packet<'_>,
    station: Station,
    tcp: &Tcp,
    what: &TimeWait,
    ticks: u32,
) -> Option<Vec<u8>> {
    let mut options = Vec::new();
    if let Some((ours, theirs)) = what.clocks {
        options.extend([1, 1, 8, 10]);
        options.extend(ours.wrapping_add(ticks).to_be_bytes());
        options.extend(theirs.to_be_bytes());
    }
    let reply = Tcp {
        source: tcp.destination,
        destination: tcp.source,
        sequence: U32::new(what.sequence),
        acknowledgment: U32::new(what.acknowledgment),
        offset: (((TCP_BYTES + options.len()) / 4) as u8) << 4,
        flags: tcp_flag::ACK,
        window: U16::new(0xffff),
        checksum: U16::ZERO,
        urgent: U16::ZERO,
    };
    segment(packet, station, reply, &options)
}
