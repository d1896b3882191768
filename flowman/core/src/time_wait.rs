//! TIME-WAIT: what remains of TCP connections whose flows are closed (RFC 9293 §3.6.1).
//!
//! The side that closed first must wait until no segment of the connection can be in the network any
//! more, and meanwhile acknowledge the peer's FIN should that come again. A flow, with its channels and
//! its place in the driver, would be a high price for that, and an application may end; so the flow
//! manager remembers a few numbers, and the driver gives it what still comes between these ends. They
//! are not given to anybody else before the time is over.
//!
//! A SYN that is newer than the connection opens it anew (RFC 6191). Who listens is then told where the
//! new one's numbers begin at least (RFC 9293 MAY-2): nobody else knows where the old one ended. The old
//! one is forgotten when the peer goes on with the new one, so that no copy of the SYN gets there first.
//!
//! Ends belong to whoever holds the port. They are remembered for a user's next connections, and by the
//! peer's word only: a flow that received nothing leaves none. They are forgotten when another user asks
//! for the port, or for any port and no other is left: it is that user's then.
//!
//! Of a connection whose application was killed nothing is known but its ends: they are kept
//! from others for as long, and what comes is answered by a reset.
//!
//! # Cost
//!
//! A few hundred bytes each, [`HELD_MAX`] of them, [`USER_MAX`] for each user.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use base_flow::{Endpoints, FlowId, Sap, Transport};
use base_rpc::TimeWait;
use base_wire::tcp_flag;

use crate::left_ports::LeftPorts;
use crate::manager::LinkId;
use crate::segment::{Ends, Segment, Words};

/// Twice the longest life of a segment, taken for 30 s as Linux does.
pub(crate) const TIME_WAIT_NS: u64 = 60_000_000_000;

/// Ends remembered at a time. Those of further connections are free at once.
const HELD_MAX: usize = 65_536;

/// Of them, for one user.
const USER_MAX: usize = 16_384;

/// A new connection between the same ends begins so far above the old one: beyond anything that may still
/// be under way of it.
const REOPENED_ABOVE: u32 = 65_537;

/// A SYN that comes again so much later was not answered: it takes its chance with the clock alone.
const CALL_NS: u64 = 900_000_000;

#[derive(Debug)]
struct Waiting {
    link: LinkId,
    uid: u32,
    /// The flow that left them.
    flow: FlowId,
    what: Option<TimeWait>,
    /// When it began, and when it ends; 0 before it is known what time it is.
    since_ns: u64,
    until_ns: u64,
    /// When a SYN that opens it anew was handed to a listener.
    called_ns: Option<u64>,
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
    ports: LeftPorts,
}

/// What becomes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is none of TIME-WAIT's business, or nothing is known of the connection.
    NotHere,
    /// It is not answered.
    Silence,
    /// It is answered so.
    Acknowledge(Words),
    /// It opens the connection anew, with numbers from this one on: for who listens, by message.
    Reopens(u32),
    /// The connection is forgotten, and this is no business of TIME-WAIT's any more.
    Free,
}

impl TimeWaits {
    /// Remembers a connection; `false` if there are too many.
    pub(crate) fn add(
        &mut self,
        ends: Endpoints,
        link: LinkId,
        (uid, flow): (u32, FlowId),
        what: Option<TimeWait>,
    ) -> bool {
        let Some(remote) = ends.remote else { return false };
        let key = (ends.local, remote);
        let user = self.users.get(&uid).copied().unwrap_or(0);
        if self.table.len() >= HELD_MAX || user >= USER_MAX || self.table.contains_key(&key) {
            return false;
        }
        let waiting = Waiting { link, uid, flow, what, since_ns: 0, until_ns: 0, called_ns: None };
        self.table.insert(key, waiting);
        self.ports.add(uid, key);
        self.fresh.push(key);
        *self.users.entry(uid).or_default() += 1;
        true
    }

    /// Whether these ends are not free.
    pub(crate) fn has(&self, local: Sap, remote: Sap) -> bool {
        self.table.contains_key(&(local, remote))
    }

    /// Whether a connection of this user has left these ends.
    pub(crate) fn has_of(&self, uid: u32, local: Sap, remote: Sap) -> bool {
        self.table.get(&(local, remote)).is_some_and(|waiting| waiting.uid == uid)
    }

    /// Ends at a port of ours, on this address or any, that other users have left.
    pub(crate) fn others_at(&self, uid: u32, local: Sap) -> impl Iterator<Item = Ends> {
        self.ports.others_at(uid, local)
    }

    /// The dynamic ports of a word at which other users have left ends.
    pub(crate) fn others_ports(&self, uid: u32, word: usize) -> u64 {
        self.ports.others(uid, word)
    }

    /// The dynamic ports of a word that this user's next connection from `from` to `remote` cannot have.
    pub(crate) fn own_ports(&self, uid: u32, from: IpAddr, remote: Sap, word: usize) -> u64 {
        self.ports.connected(uid, from, remote, word)
    }

    /// Whether these ends are those that `flow` left.
    pub(crate) fn is_of(&self, flow: FlowId, ends: Ends) -> bool {
        self.table.get(&ends).is_some_and(|waiting| waiting.flow == flow)
    }

    /// All ends of a link that are not free.
    pub(crate) fn of(&self, link: LinkId) -> Vec<Endpoints> {
        let on_link = self.table.iter().filter(|(_, waiting)| waiting.link == link);
        on_link.map(|(&ends, _)| endpoints(ends)).collect()
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, ends: Ends) -> Option<LinkId> {
        let waiting = self.table.remove(&ends)?;
        self.queue.remove(&(waiting.until_ns, ends));
        self.ports.remove(waiting.uid, ends);
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

    /// A segment came to this host that no flow claimed.
    pub(crate) fn on_segment(
        &mut self,
        now_ns: u64,
        ends: Ends,
        segment: Option<&Segment<'_>>,
    ) -> Verdict {
        let Some(waiting) = self.table.get_mut(&ends) else { return Verdict::NotHere };
        let Some(segment) = segment else { return Verdict::Silence };
        let Some(what) = waiting.what else {
            if segment.opens() {
                self.remove(ends);
                return Verdict::Free;
            }
            return Verdict::NotHere;
        };
        if let Some(called_ns) = waiting.called_ns {
            if segment.opens() && now_ns.saturating_sub(called_ns) < CALL_NS {
                // A copy, which must not be with the listener before the message is.
                return Verdict::Silence;
            }
            self.remove(ends);
            return Verdict::Free;
        }
        // RFC 1337: a RST may be an old duplicate.
        if segment.has(tcp_flag::RST) {
            return Verdict::Silence;
        }
        let ahead = |number: u32, than: u32| number.wrapping_sub(than).cast_signed() > 0;
        // RFC 6191 §2, RFC 9293 SHLD-4.
        let newer = match (segment.clock(), what.clocks) {
            (Some(clock), Some((_, recent))) => ahead(clock, recent),
            _ => ahead(segment.tcp.sequence.get(), what.acknowledgment),
        };
        if segment.opens() && newer {
            waiting.called_ns = Some(now_ns);
            return Verdict::Reopens(what.sequence.wrapping_add(REOPENED_ABOVE));
        }
        if segment.has(tcp_flag::FIN) {
            // RFC 9293 §3.10.7.4: the peer has not heard us; wait anew.
            self.queue.remove(&(waiting.until_ns, ends));
            waiting.until_ns = now_ns + TIME_WAIT_NS;
            self.queue.insert((waiting.until_ns, ends));
        }
        if segment.data_bytes == 0
            && !segment.has(tcp_flag::SYN | tcp_flag::FIN)
            && segment.tcp.sequence.get() == what.acknowledgment
        {
            // An acknowledgment is not acknowledged, unless the peer is elsewhere than both have ended.
            return Verdict::Silence;
        }
        let ms = (now_ns.saturating_sub(waiting.since_ns) / 1_000_000) as u32;
        Verdict::Acknowledge(Words::acknowledgment(&what, ms))
    }
}

pub(crate) const fn endpoints((local, remote): Ends) -> Endpoints {
    Endpoints { transport: Transport::Tcp, local, remote: Some(remote) }
}

#[cfg(test)]
mod tests {
    use base_wire::{Header, TCP_BYTES, Tcp};

    use super::*;

    const LINK: LinkId = LinkId(0);
    const FLOW: FlowId = FlowId { index: 3, generation: 1 };
    const WHAT: TimeWait = TimeWait { sequence: 1000, acknowledgment: 5000, clocks: None };

    fn ends(number: u32) -> Endpoints {
        let local = Sap::new([10, 0, 0, 1].into(), 80);
        let remote = Sap::new(std::net::Ipv4Addr::from_bits(0x0a00_0002 + number).into(), 4000);
        Endpoints { transport: Transport::Tcp, local, remote: Some(remote) }
    }

    fn key(number: u32) -> Ends {
        (ends(number).local, ends(number).remote.unwrap())
    }

    fn add(waits: &mut TimeWaits, number: u32, uid: u32) -> bool {
        waits.add(ends(number), LINK, (uid, FLOW), Some(WHAT))
    }

    /// What becomes of a segment at `sequence` with so much data.
    fn hear(waits: &mut TimeWaits, now_ns: u64, flags: u8, sequence: u32, data: usize) -> Verdict {
        let mut header = [0; TCP_BYTES];
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = flags;
        let (tcp, _) = Tcp::split(&header).unwrap();
        let segment = Segment { tcp, header: &header, data_bytes: data };
        waits.on_segment(now_ns, key(0), Some(&segment))
    }

    #[test]
    fn a_user_leaves_so_many_ends_and_others_theirs_and_each_once() {
        let mut waits = TimeWaits::default();
        let left = (0..USER_MAX as u32 + 7).filter(|&number| add(&mut waits, number, 1)).count();
        assert_eq!(left, USER_MAX);
        assert!(!add(&mut waits, 0, 2), "another user, and the same ends");
        assert!(add(&mut waits, 1 << 20, 2));
        // What is forgotten makes room for as much, however often.
        for round in 0..3 {
            for number in 0..2 {
                assert_eq!(waits.remove(key(100 * round + number)), Some(LINK));
            }
            let base = (1 << 21) + 100 * round;
            let more = (base..base + 5).filter(|&number| add(&mut waits, number, 1)).count();
            assert_eq!(more, 2, "{round}");
        }
        // All users together.
        let more = (0..HELD_MAX as u32).filter(|&at| add(&mut waits, (1 << 22) + at, 3 + at % 9));
        assert_eq!(more.count() + USER_MAX + 1, HELD_MAX);
    }

    #[test]
    fn ends_are_those_of_the_flow_that_left_them() {
        let mut waits = TimeWaits::default();
        assert!(add(&mut waits, 0, 1));
        let next = FlowId { generation: 2, ..FLOW };
        assert!(waits.is_of(FLOW, key(0)) && !waits.is_of(next, key(0)));
        assert!(!waits.is_of(FLOW, key(1)));
    }

    #[test]
    fn of_what_comes_to_ends_that_wait_only_an_acknowledgment_in_its_place_is_not_answered() {
        use tcp_flag::{ACK, FIN, SYN};
        let mut waits = TimeWaits::default();
        add(&mut waits, 0, 1);
        assert_eq!(hear(&mut waits, 0, ACK, 5000, 0), Verdict::Silence);
        for (flags, sequence, data) in [
            (ACK, 5001, 0),
            (ACK, 4999, 0),
            (ACK, 5000, 1),
            (ACK | FIN, 5000, 0),
            // At the very number where the old one ended it is not newer.
            (SYN, 5000, 0),
            (SYN, 4999, 0),
            (SYN | FIN, 5000, 0),
        ] {
            let verdict = hear(&mut waits, 0, flags, sequence, data);
            assert!(
                matches!(verdict, Verdict::Acknowledge(_)),
                "{flags:#x} {sequence} {verdict:?}"
            );
        }
        assert!(matches!(hear(&mut waits, 0, SYN, 5001, 0), Verdict::Reopens(_)));
    }

    #[test]
    fn copies_of_a_syn_wait_for_the_listener_as_long_as_it_may_answer() {
        let mut waits = TimeWaits::default();
        add(&mut waits, 0, 1);
        assert!(matches!(hear(&mut waits, 0, tcp_flag::SYN, 6000, 0), Verdict::Reopens(_)));
        assert_eq!(hear(&mut waits, CALL_NS - 1, tcp_flag::SYN, 6000, 0), Verdict::Silence);
        assert_eq!(hear(&mut waits, CALL_NS, tcp_flag::SYN, 6000, 0), Verdict::Free);
    }
}
