//! Looks at what two ends say to each other, and names what no end may do.
//!
//! It stands beside one end and sees packets in the order in which that end sends and receives them; what the
//! other end knows, it knows later or never. So each rule is one that holds whatever is still
//! under way.
//!
//! | Rule | Source |
//! |---|---|
//! | A packet is whole and its checksums are right | RFC 9293 MUST-2 |
//! | Options of a SYN stand in SYNs only; timestamps stand in every segment once they were agreed on | MUST-65, RFC 7323 §3.2 |
//! | Options have the length of their kind; a window is shifted by 14 bits at most | RFC 9293 §3.2, RFC 7323 §2.3, RFC 2018 §3 |
//! | A selective acknowledgment is of what was sent, and lies above the acknowledgment; the first may report a duplicate | RFC 2018 §4, RFC 2883 §4 |
//! | No data and no FIN ends beyond the farthest edge of the window that was ever announced | RFC 9293 §3.8.6 |
//! | Nothing is acknowledged that was not sent | RFC 9293 §3.4 |
//! | What was selectively acknowledged is not sent again, nor any part of it, but after a time-out | RFC 2018 §5, §8 |

use std::collections::HashMap;
use std::net::Ipv4Addr;

use base_wire::{Header, IPV4_BYTES, Ipv4, TCP_BYTES, Tcp, tcp_flag};
use stack_tcp::{SACK_BLOCKS_MAX, Segment};

use super::unwrap;

/// So soon after a report its sender may not have seen it, or have sent before it did.
const NEWS_NS: u64 = 10_000_000;

/// After silence of so long what is sent again may be after a time-out.
const SILENCE_NS: u64 = 150_000_000;

/// An end of a connection.
type End = (Ipv4Addr, u16);

#[derive(Debug, Default, Clone)]
struct Half {
    /// Its SYN's number; offsets count from there.
    initial: Option<u32>,
    /// End of what it has sent.
    end: u64,
    /// Edge of the window it announced, as an offset of the other's stream, and its scale.
    edge: u64,
    shift: u8,
    offered_shift: Option<u8>,
    offered_clocks: bool,
    /// What it reported out of order, and when it was told.
    reported: Vec<(u64, u64, u64)>,
    sent_ns: u64,
}

#[derive(Debug, Default, Clone)]
struct Talk {
    halves: [Half; 2],
    shifts: bool,
    clocks: bool,
    over: bool,
}

/// Looks at packets one after the other.
#[derive(Debug, Default)]
pub struct Checker {
    /// By both ends, the smaller one first.
    talks: HashMap<(End, End), Talk>,
    /// Whose retransmissions are looked at.
    beside: Option<Ipv4Addr>,
    /// Segments that were looked at.
    pub segments: u64,
}

impl Checker {
    /// A checker that stands beside the end with this address.
    pub fn beside(address: Ipv4Addr) -> Self {
        Self { beside: Some(address), ..Self::default() }
    }

    /// Looks at an IPv4 packet.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn packet(&mut self, now_ns: u64, packet: &[u8]) -> Result<(), String> {
        let (ports, segment, _) = unwrap(packet).ok_or("a damaged packet")?;
        let (ip, _) = Ipv4::split(packet).ok_or("a damaged packet")?;
        let (from, to) = ((ip.source(), ports.0), (ip.destination(), ports.1));
        let (key, side) = if from < to { ((from, to), 0) } else { ((to, from), 1) };
        self.segments += 1;
        let described = |rule| format!("{rule}: {from:?} to {to:?}, {segment:?}");
        check_options(packet).map_err(described)?;
        let patient = self.beside == Some(from.0);
        let talk = self.talks.entry(key).or_default();
        if talk.over && segment.flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
            *talk = Talk::default();
        }
        talk.segment(now_ns, side, &segment, patient).map_err(described)
    }
}

/// Reads the options of an IPv4 packet as they stand on the wire, where a parser that forgives would not
/// tell.
fn check_options(packet: &[u8]) -> Result<(), &'static str> {
    let tcp = packet.get(IPV4_BYTES..).unwrap_or_default();
    let (header, rest) = Tcp::split(tcp).ok_or("no header")?;
    let mut bytes = rest.get(..header.header_bytes() - TCP_BYTES).ok_or("no header")?;
    while let [kind, after @ ..] = bytes {
        match kind {
            0 => break,
            1 => {
                bytes = after;
                continue;
            }
            _ => {}
        }
        let length = usize::from(*after.first().ok_or("an option without a length")?);
        let body = bytes.get(2..length).ok_or("an option longer than its header")?;
        let legal = match kind {
            2 => body.len() == 2,
            3 => body.len() == 1 && body[0] <= 14,
            4 => body.is_empty(),
            5 => {
                let blocks = body.len() / 8;
                body.len() == 8 * blocks && (1..=SACK_BLOCKS_MAX).contains(&blocks)
            }
            8 => body.len() == 8,
            _ => true,
        };
        if !legal {
            return Err("an option that cannot be");
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

impl Talk {
    fn segment(
        &mut self,
        now_ns: u64,
        side: usize,
        segment: &Segment,
        patient: bool,
    ) -> Result<(), &'static str> {
        let (syn, ack) = (segment.has(tcp_flag::SYN), segment.has(tcp_flag::ACK));
        let (rst, fin) = (segment.has(tcp_flag::RST), segment.has(tcp_flag::FIN));
        let options = &segment.options;
        if rst {
            self.over = true;
            return Ok(());
        }
        if syn {
            self.begin(side, segment, ack);
        } else if options.mss.is_some() || options.window_shift.is_some() || options.sack_permitted
        {
            return Err("an option of a SYN without one");
        }
        let [Some(_), Some(_)] = [0, 1].map(|at: usize| self.halves[at].initial) else {
            return Ok(());
        };
        if self.clocks && !syn && options.timestamps.is_none() {
            return Err("a segment without the timestamps that were agreed on");
        }
        let start = self.offset(side, segment.sequence, self.halves[side].end);
        let end = start + segment.sequence_bytes();
        let theirs = &self.halves[1 - side];
        if !syn && segment.sequence_bytes() > 0 && end > theirs.edge + u64::from(fin) {
            return Err("data beyond the window");
        }
        if ack {
            self.acknowledge(now_ns, side, segment)?;
        }
        if patient && segment.payload_bytes > 0 {
            self.sent_again(now_ns, side, start, end)?;
        }
        let half = &mut self.halves[side];
        half.end = half.end.max(end);
        half.sent_ns = now_ns;
        self.over |= fin;
        Ok(())
    }

    fn begin(&mut self, side: usize, segment: &Segment, answers: bool) {
        let half = &mut self.halves[side];
        half.initial = Some(segment.sequence);
        half.end = half.end.max(1);
        half.offered_shift = segment.options.window_shift;
        half.offered_clocks = segment.options.timestamps.is_some();
        if answers {
            let [one, other] = &self.halves;
            self.shifts = one.offered_shift.is_some() && other.offered_shift.is_some();
            self.clocks = one.offered_clocks && other.offered_clocks;
            for half in &mut self.halves {
                half.shift = if self.shifts { half.offered_shift.unwrap_or(0).min(14) } else { 0 };
            }
        }
    }

    /// A number of `side`'s stream as an offset from its SYN, near `near`.
    fn offset(&self, side: usize, number: u32, near: u64) -> u64 {
        let initial = self.halves[side].initial.unwrap_or(0);
        let low = number.wrapping_sub(initial);
        near.saturating_add_signed(i64::from(low.wrapping_sub(near as u32).cast_signed()))
    }

    fn acknowledge(
        &mut self,
        now_ns: u64,
        side: usize,
        segment: &Segment,
    ) -> Result<(), &'static str> {
        let sent = self.halves[1 - side].end;
        let acknowledged = self.offset(1 - side, segment.acknowledgment, sent);
        if acknowledged > sent {
            return Err("an acknowledgment of what was not sent");
        }
        let reports: Vec<(u64, u64)> = segment
            .options
            .sack
            .as_slice()
            .iter()
            .map(|&(start, end)| {
                (self.offset(1 - side, start, sent), self.offset(1 - side, end, sent))
            })
            .collect();
        for (index, (start, end)) in reports.iter().enumerate() {
            let above = *start > acknowledged;
            let duplicate = index == 0 && (above || *end <= acknowledged);
            if start >= end || *end > sent || !(above || duplicate) {
                return Err("a selective acknowledgment of what cannot be");
            }
        }
        let half = &mut self.halves[side];
        let shift = if segment.has(tcp_flag::SYN) { 0 } else { half.shift };
        let edge = acknowledged + (u64::from(segment.window) << shift);
        // Old segments have old edges; and rounding may take back less than a unit.
        half.edge = half.edge.max(edge);
        half.reported.retain(|(_, end, _)| *end > acknowledged);
        for (start, end) in reports {
            let known = half.reported.iter().any(|(from, to, _)| *from <= start && end <= *to);
            if end > acknowledged && !known {
                half.reported.push((start, end, now_ns));
            }
        }
        Ok(())
    }

    fn sent_again(
        &self,
        now_ns: u64,
        side: usize,
        start: u64,
        end: u64,
    ) -> Result<(), &'static str> {
        let quiet = now_ns.saturating_sub(self.halves[side].sent_ns) > SILENCE_NS;
        let known = self.halves[1 - side].reported.iter().any(|(from, to, told_ns)| {
            *from < end && start < *to && now_ns.saturating_sub(*told_ns) > NEWS_NS
        });
        if known && !quiet { Err("what was selectively acknowledged, sent again") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::packet;
    use stack_tcp::{Options, SackBlocks, Timestamps};

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn segment(sequence: u32, acknowledgment: u32, flags: u8, payload_bytes: u32) -> Segment {
        Segment {
            sequence,
            acknowledgment,
            flags,
            window: 1000,
            payload_bytes,
            ..Segment::default()
        }
    }

    /// Two ends after their handshake, without options.
    fn opened() -> Checker {
        let mut checker = Checker::beside(A);
        say(&mut checker, 0, true, segment(u32::MAX, 0, 0x02, 0)).unwrap();
        say(&mut checker, 1, false, segment(500, 0, 0x12, 0)).unwrap();
        say(&mut checker, 2, true, segment(0, 501, 0x10, 0)).unwrap();
        checker
    }

    fn say(checker: &mut Checker, ms: u64, ours: bool, segment: Segment) -> Result<(), String> {
        let payload = vec![0; segment.payload_bytes as usize];
        let (ends, ports) = if ours { ((A, B), (1, 2)) } else { ((B, A), (2, 1)) };
        checker.packet(ms * 1_000_000, &packet(ends, ports, &segment, &[&payload]))
    }

    #[test]
    fn each_rule_is_noticed_when_it_is_broken() {
        say(&mut opened(), 3, true, segment(0, 501, 0x18, 1000)).unwrap();
        let broken = |ours: bool, wrong: Segment, rule: &str| {
            let problem = say(&mut opened(), 3, ours, wrong).unwrap_err();
            assert!(problem.starts_with(rule), "{problem}");
        };
        broken(true, segment(0, 501, 0x18, 1001), "data beyond the window");
        broken(false, segment(501, 1, 0x10, 0), "an acknowledgment of what was not sent");
        let options = Options { mss: Some(1000), ..Options::default() };
        let odd = Segment { options, ..segment(0, 501, 0x10, 0) };
        broken(true, odd, "an option of a SYN");
        let blocks = |all: &[(u32, u32)]| {
            let mut sack = SackBlocks::default();
            all.iter().for_each(|(start, end)| assert!(sack.push(*start, *end)));
            let options = Options { sack, ..Options::default() };
            Segment { options, ..segment(501, 0, 0x10, 0) }
        };
        broken(false, blocks(&[(500, 1000)]), "a selective acknowledgment of what cannot be");
        let sent = || {
            let mut checker = opened();
            say(&mut checker, 3, true, segment(0, 501, 0x18, 1000)).unwrap();
            checker
        };
        let legal: [&[(u32, u32)]; 3] =
            [&[(500, 1000)], &[(600, 700), (500, 800)], &[(600, 700), (800, 900)]];
        for legal in legal {
            say(&mut sent(), 4, false, blocks(legal)).unwrap();
        }
        let illegal: [&[(u32, u32)]; 4] =
            [&[(500, 1001)], &[(700, 600)], &[(600, 600)], &[(500, 1000), (0, 100)]];
        for illegal in illegal {
            let problem = say(&mut sent(), 4, false, blocks(illegal)).unwrap_err();
            assert!(problem.starts_with("a selective acknowledgment"), "{problem}");
        }
        let mut bytes = packet((A, B), (1, 2), &segment(0, 501, 0x10, 0), &[]);
        bytes[33] ^= 1;
        assert!(opened().packet(3, &bytes).unwrap_err().starts_with("a damaged packet"));
    }

    #[test]
    fn what_was_reported_is_not_sent_again_but_after_a_silence() {
        let reported = || {
            let mut checker = opened();
            say(&mut checker, 3, true, segment(0, 501, 0x10, 500)).unwrap();
            say(&mut checker, 3, true, segment(500, 501, 0x18, 500)).unwrap();
            let mut sack = SackBlocks::default();
            sack.push(500, 1000);
            let options = Options { sack, ..Options::default() };
            let report = Segment { options, ..segment(501, 0, 0x10, 0) };
            say(&mut checker, 10, false, report).unwrap();
            checker
        };
        say(&mut reported(), 11, true, segment(500, 501, 0x18, 500)).unwrap();
        say(&mut reported(), 40, true, segment(0, 501, 0x18, 500)).unwrap();
        for (start, bytes) in [(500, 500), (0, 501), (999, 1), (0, 1000)] {
            let again = segment(start, 501, 0x18, bytes);
            let problem = say(&mut reported(), 40, true, again).unwrap_err();
            assert!(problem.starts_with("what was selectively"), "{problem}");
        }
        say(&mut reported(), 400, true, segment(500, 501, 0x18, 500)).unwrap();
    }

    #[test]
    fn options_are_read_as_they_stand_on_the_wire() {
        // The packet of a SYN, its options in place of those that a forgiving parser would show.
        let with = |options: [u8; 12]| {
            let clocks = Some(Timestamps { value: 1, echo: 0 });
            let syn = Segment {
                options: Options { timestamps: clocks, ..Options::default() },
                ..segment(0, 0, 0x02, 0)
            };
            let mut bytes = packet((A, B), (1, 2), &syn, &[]);
            bytes[40..].copy_from_slice(&options);
            check_options(&bytes)
        };
        let legal = [
            [2, 4, 5, 0xb4, 3, 3, 14, 4, 2, 0, 0, 0],
            [5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1],
            [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0],
            [254, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        let illegal = [
            [2, 3, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [3, 3, 15, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [4, 3, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [5, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [5, 11, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1],
            [8, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 254, 3],
            [254, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ];
        legal.iter().for_each(|options| with(*options).unwrap());
        illegal.iter().for_each(|options| assert!(with(*options).is_err(), "{options:?}"));
    }

    #[test]
    fn timestamps_once_agreed_on_are_in_every_segment() {
        let clocks =
            Options { timestamps: Some(Timestamps { value: 1, echo: 1 }), ..Options::default() };
        let mut checker = Checker::default();
        let with = |segment: Segment| Segment { options: clocks, ..segment };
        say(&mut checker, 0, true, with(segment(u32::MAX, 0, 0x02, 0))).unwrap();
        say(&mut checker, 1, false, with(segment(500, 0, 0x12, 0))).unwrap();
        say(&mut checker, 2, true, with(segment(0, 501, 0x10, 0))).unwrap();
        assert!(say(&mut checker, 3, true, segment(0, 501, 0x10, 0)).is_err());
    }
}
