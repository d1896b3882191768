//! Ways to hosts, and datagrams that wait for one.
//!
//! A call that sends never waits for a neighbour to answer: a datagram for a host whose way is being asked
//! for waits here, and nothing else does (RFC 1122 §2.3.2.2). One host that is switched off holds up what is
//! for it, and nobody else.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use base_rpc::Refusal;
use base_wire::Mac;

/// How long the way to a host is believed before it is asked for again.
pub(super) const HOP_NS: u64 = 30_000_000_000;

/// How long a refusal is.
const REFUSED_NS: u64 = 1_000_000_000;

/// Ways that are remembered.
const HOPS_MAX: usize = 1024;

/// Hosts that are asked for at a time: no more than the flow manager lets wait.
const ASKED_MAX: usize = 32;

/// Datagrams that wait for one host.
const WAITING_MAX: usize = 16;

/// A way: the next hop, and the link it is on.
pub(super) type Way = (Mac, u16);

/// A datagram that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
enum Hop {
    Known {
        way: Way,
        until_ns: u64,
    },
    /// It is being asked for, or was found and these are still to be sent first.
    Asked {
        way: Option<Way>,
        waiting: VecDeque<Waiting>,
    },
    Refused {
        refusal: Refusal,
        until_ns: u64,
    },
}

/// What is to be done with a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Send it this way.
    Known(Way),
    /// Ask for the way; others find it [`Self::Asked`] from now on.
    Unknown,
    /// Let it wait.
    Asked,
    /// Nothing.
    Refused(Refusal),
    /// Too many wait.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Hops {
    known: HashMap<IpAddr, Hop>,
    asked: usize,
    /// Datagrams that wait until the socket's flows are with whom it is connected to.
    held: VecDeque<Waiting>,
    /// To whom the datagram is that waited and is being sent.
    leaving: Option<SocketAddr>,
}

impl Hops {
    pub(super) fn look_up(&mut self, to: IpAddr, now_ns: u64) -> Look {
        match self.known.get(&to) {
            Some(Hop::Known { way, until_ns }) if now_ns < *until_ns => return Look::Known(*way),
            Some(Hop::Refused { refusal, until_ns }) if now_ns < *until_ns => {
                return Look::Refused(refusal.clone());
            }
            Some(Hop::Asked { waiting, .. }) if waiting.len() < WAITING_MAX => return Look::Asked,
            Some(Hop::Asked { .. }) => return Look::Full,
            _ => {}
        }
        if self.asked >= ASKED_MAX {
            return Look::Full;
        }
        if self.known.len() >= HOPS_MAX {
            self.known.retain(|_, hop| matches!(hop, Hop::Asked { .. }));
        }
        self.known.insert(to, Hop::Asked { way: None, waiting: VecDeque::new() });
        self.asked += 1;
        Look::Unknown
    }

    /// A datagram waits; `false` if it cannot.
    pub(super) fn wait(&mut self, datagram: Waiting) -> bool {
        match self.known.get_mut(&datagram.to.ip()) {
            Some(Hop::Asked { waiting, .. }) if waiting.len() < WAITING_MAX => {
                waiting.push_back(datagram);
                true
            }
            _ => false,
        }
    }

    /// Lets a datagram wait until the flows are with whom the socket is connected to; `false` if too many do.
    pub(super) fn hold(&mut self, datagram: Waiting) -> bool {
        let has_room = !self.is_full();
        if has_room {
            self.held.push_back(datagram);
        }
        has_room
    }

    /// Whether no more can be held.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() >= WAITING_MAX
    }

    /// Whether later datagrams are to be held too: they would overtake others.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// The first datagram that was held, which is still held until [`Self::let_go`].
    pub(super) fn first_held(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.held.front().map(|datagram| (datagram.to, datagram.payload.clone()))
    }

    /// The first datagram that was held is on its way.
    pub(super) fn let_go(&mut self) {
        self.held.pop_front();
    }

    /// Whether datagrams to somebody else wait, or are being sent after they did.
    pub(super) fn waits_for_others(&self, than: SocketAddr) -> bool {
        let others = |to: SocketAddr| to != than;
        self.leaving.is_some_and(others)
            || self.held.iter().any(|datagram| others(datagram.to))
            || self.waits_for_ways_of(others)
    }

    fn waits_for_ways_of(&self, whom: impl Fn(SocketAddr) -> bool) -> bool {
        self.known.values().any(|hop| match hop {
            Hop::Asked { waiting, .. } => waiting.iter().any(|datagram| whom(datagram.to)),
            _ => false,
        })
    }

    /// Whether datagrams wait for the way to a host.
    pub(super) fn waits_for(&self, to: IpAddr) -> bool {
        matches!(self.known.get(&to), Some(Hop::Asked { waiting, .. }) if !waiting.is_empty())
    }

    /// The way was found, or not. Returns to whom datagrams were that will not be sent.
    pub(super) fn settle(
        &mut self,
        to: IpAddr,
        found: Result<Way, Refusal>,
        now_ns: u64,
    ) -> Vec<SocketAddr> {
        let Some(hop @ Hop::Asked { .. }) = self.known.get_mut(&to) else { return Vec::new() };
        let Hop::Asked { way, waiting } = hop else { return Vec::new() };
        match found {
            Ok(found) if waiting.is_empty() => {
                *hop = Hop::Known { way: found, until_ns: now_ns + HOP_NS };
            }
            Ok(found) => {
                *way = Some(found);
                return Vec::new();
            }
            Err(refusal) => {
                let lost = waiting.drain(..).map(|datagram| datagram.to).collect();
                *hop = Hop::Refused { refusal, until_ns: now_ns + REFUSED_NS };
                self.asked -= 1;
                return lost;
            }
        }
        self.asked -= 1;
        Vec::new()
    }

    /// Nobody will say: as if it had never been asked for. Returns to whom datagrams were.
    pub(super) fn forget(&mut self, to: IpAddr) -> Vec<SocketAddr> {
        match self.known.remove(&to) {
            Some(Hop::Asked { waiting, .. }) => {
                self.asked -= 1;
                waiting.into_iter().map(|datagram| datagram.to).collect()
            }
            _ => Vec::new(),
        }
    }

    /// As if none had ever been asked for.
    pub(super) fn give_up(&mut self) -> Vec<SocketAddr> {
        let asked = |(&to, hop): (&IpAddr, &Hop)| matches!(hop, Hop::Asked { .. }).then_some(to);
        let all: Vec<IpAddr> = self.known.iter().filter_map(asked).collect();
        all.into_iter().flat_map(|to| self.forget(to)).collect()
    }

    /// Whether [`Self::next_ready`] has something to do.
    pub(super) fn is_ready(&self) -> bool {
        self.known.values().any(|hop| matches!(hop, Hop::Asked { way: Some(_), .. }))
    }

    /// Whether no way is being asked for, and nothing is still to be sent along one.
    pub(super) const fn is_settled(&self) -> bool {
        self.asked == 0
    }

    /// What [`Self::next_ready`] returned was sent, or was not.
    pub(super) const fn has_left(&mut self) {
        self.leaving = None;
    }

    /// A datagram that can be sent now, and its way. Later ones to the same host wait until there is none.
    pub(super) fn next_ready(&mut self, now_ns: u64) -> Option<(Waiting, Way)> {
        let ready = |hop: &&mut Hop| matches!(hop, Hop::Asked { way: Some(_), .. });
        let hop = self.known.values_mut().find(ready)?;
        let Hop::Asked { way: Some(way), waiting } = hop else { return None };
        let way = *way;
        if let Some(datagram) = waiting.pop_front() {
            self.leaving = Some(datagram.to);
            return Some((datagram, way));
        }
        *hop = Hop::Known { way, until_ns: now_ns + HOP_NS };
        self.asked -= 1;
        self.next_ready(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_leaves_in_order_and_nothing_overtakes_it_while_it_does() {
        let mut hops = Hops::default();
        assert!(!hops.is_holding() && hops.first_held().is_none());
        for number in 0..WAITING_MAX as u8 {
            assert!(hops.hold(datagram(2, number)));
        }
        assert!(!hops.hold(datagram(2, 99)), "as many as for a way");
        for number in 0..WAITING_MAX as u8 {
            assert_eq!(hops.first_held().unwrap().1, [number]);
            assert!(hops.is_holding(), "it has not left yet");
            hops.let_go();
        }
        assert!(!hops.is_holding());
    }

    #[test]
    fn who_waits_for_a_way_is_told_apart_by_whole_addresses() {
        let mut hops = Hops::default();
        let (to, same_host) = (datagram(2, 0).to, SocketAddr::new(host(2), 5001));
        hops.look_up(host(2), 0);
        assert!(!hops.waits_for(host(2)) && !hops.waits_for_others(to), "it is only asked for");
        assert!(hops.wait(datagram(2, 0)));
        assert!(hops.waits_for(host(2)) && !hops.waits_for(host(3)));
        assert!(!hops.waits_for_others(to) && hops.waits_for_others(same_host));
        hops.settle(host(2), Ok(WAY), 0);
        assert!(hops.waits_for_others(same_host), "it is still to be sent");
        assert!(hops.next_ready(0).is_some() && hops.next_ready(0).is_none());
        assert!(hops.waits_for_others(same_host) && !hops.waits_for_others(to), "it is being sent");
        hops.has_left();
        assert!(!hops.waits_for_others(same_host));
        hops.hold(datagram(2, 1));
        assert!(hops.waits_for_others(same_host) && !hops.waits_for_others(to));
    }

    const WAY: Way = (Mac([2; 6]), 1);

    fn host(last: u8) -> IpAddr {
        [10, 77, 0, last].into()
    }

    fn datagram(last: u8, number: u8) -> Waiting {
        Waiting { to: SocketAddr::new(host(last), 5000), payload: vec![number] }
    }

    #[test]
    fn what_waits_for_a_host_leaves_in_order_before_anything_later_for_it() {
        let mut hops = Hops::default();
        assert_eq!(hops.look_up(host(2), 0), Look::Unknown);
        assert!(hops.wait(datagram(2, 0)) && hops.wait(datagram(2, 1)));
        assert!(hops.next_ready(0).is_none());
        assert!(hops.settle(host(2), Ok(WAY), 0).is_empty());
        assert_eq!(hops.look_up(host(2), 0), Look::Asked, "it would overtake them");
        assert!(hops.wait(datagram(2, 2)));
        for number in 0..3 {
            let (waiting, way) = hops.next_ready(0).unwrap();
            assert_eq!((waiting.payload, way), (vec![number], WAY));
        }
        assert!(!hops.is_settled() && hops.next_ready(0).is_none() && hops.is_settled());
        assert_eq!(hops.look_up(host(2), 0), Look::Known(WAY));
        assert_eq!(hops.look_up(host(2), HOP_NS), Look::Unknown, "it is asked for again");
    }

    #[test]
    fn a_host_that_is_switched_off_holds_a_few_datagrams_and_nobody_else() {
        let mut hops = Hops::default();
        assert_eq!(hops.look_up(host(9), 0), Look::Unknown);
        for number in 0..WAITING_MAX as u8 {
            assert_eq!(hops.look_up(host(9), 0), Look::Asked);
            assert!(hops.wait(datagram(9, number)));
        }
        assert_eq!(hops.look_up(host(9), 0), Look::Full);
        assert!(!hops.wait(datagram(9, 99)));
        assert_eq!(hops.look_up(host(2), 0), Look::Unknown);
        hops.settle(host(2), Ok(WAY), 0);
        assert_eq!(hops.look_up(host(2), 0), Look::Known(WAY));
        let lost = hops.settle(host(9), Err(Refusal::Unreachable { address: host(9) }), 0);
        assert_eq!(lost.len(), WAITING_MAX, "each is told of");
        assert!(matches!(hops.look_up(host(9), 0), Look::Refused(_)));
        assert_eq!(hops.look_up(host(9), REFUSED_NS), Look::Unknown);
    }

    #[test]
    fn no_more_hosts_are_asked_for_at_a_time_and_remembered_than_there_is_room_for() {
        let mut hops = Hops::default();
        for last in 0..ASKED_MAX as u8 {
            assert_eq!(hops.look_up(host(last), 0), Look::Unknown);
        }
        assert_eq!(hops.look_up(host(200), 0), Look::Full);
        assert!(hops.forget(host(0)).is_empty());
        assert_eq!(hops.look_up(host(200), 0), Look::Unknown);
        hops.forget(host(200));
        for number in 0..3 * HOPS_MAX as u32 {
            let address = IpAddr::from((number + (11 << 24)).to_be_bytes());
            assert_eq!(hops.look_up(address, 0), Look::Unknown);
            hops.settle(address, Ok(WAY), 0);
            assert!(hops.known.len() <= HOPS_MAX);
        }
        assert_eq!(hops.asked, ASKED_MAX - 1);
    }
}
