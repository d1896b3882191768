//! TCP connections whose application has died: their peers are to hear of it (RFC 9293 §3.5.3).
//!
//! A reset counts only if it hits the next byte that the peer expects (RFC 5961), which nobody here
//! knows: sequence numbers were the application's affair. But the peer does. So it is asked: a segment
//! that cannot be right makes it say where it is, what it says comes to the handler of last resort
//! because nobody owns the connection any more, and the reset that answers it is exact. Question or reset
//! may be lost, so it is asked again until it answers by a reset itself: it knows nothing any more.
//!
//! # Invariants
//!
//! 1. These resets are no answers to strangers and need no part of their allowance: each connection is
//!    answered [`ANSWERS_MAX`] times at most, and only while it is asked. Who is asked had a flow, with
//!    all that its user may have of these.
//! 2. Nobody is asked so fast that questions and answers do not fit into the flow manager's own flow.
//!
//! # Cost
//!
//! About a hundred bytes for each connection, for a second; a packet is looked up in logarithmic time.

use std::collections::{BTreeMap, BTreeSet};

use base_flow::Endpoints;
use base_wire::Mac;

use crate::manager::LinkId;
use crate::segment::Ends;

/// Connections asked about at a time; those of further ones hear when they speak next.
const ASKING_MAX: usize = 4096;

/// Pauses before questions, in nanoseconds, and after the last: the first may come before the driver has
/// forgotten the flow, and any may be lost.
const PAUSES_NS: [u64; 5] = [20_000_000, 80_000_000, 200_000_000, 500_000_000, 200_000_000];

/// Questions at once, and the pause after so many: half of the buffers that the flow manager has.
const AT_ONCE: usize = 32;
const AT_ONCE_PAUSE_NS: u64 = 4_000_000;

/// Resets for a connection: to each question, and to what was under way before the peer says where it is.
const ANSWERS_MAX: u8 = 8;

#[derive(Debug)]
struct Gone {
    link: LinkId,
    to: Mac,
    /// Pauses that have passed.
    passed: usize,
    /// Its key in the queue.
    due_ns: u64,
    answered: u8,
}

/// Those whose peers may not have heard of it.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    gone: BTreeMap<Ends, Gone>,
    /// By the end of a pause; 0 before it is known what time it is.
    queue: BTreeSet<(u64, Ends)>,
    /// Nobody is asked before.
    next_ns: u64,
}

impl Departed {
    /// The application of a connection has died.
    pub(crate) fn add(&mut self, ends: Endpoints, link: LinkId, to: Mac) {
        let Some(remote) = ends.remote else { return };
        let ends = (ends.local, remote);
        if self.gone.len() < ASKING_MAX && !self.gone.contains_key(&ends) {
            self.gone.insert(ends, Gone { link, to, passed: 0, due_ns: 0, answered: 0 });
            self.queue.insert((0, ends));
        }
    }

    /// The peer of a connection has spoken and is to be answered by a reset; `false` if it is nobody's
    /// peer, or was answered often enough.
    pub(crate) fn answers(&mut self, ends: Ends) -> bool {
        let Some(gone) = self.gone.get_mut(&ends) else { return false };
        let open = gone.answered < ANSWERS_MAX;
        gone.answered += u8::from(open);
        open
    }

    /// The peer of a connection has none any more, or begins another one.
    pub(crate) fn forget(&mut self, ends: Ends) {
        if let Some(gone) = self.gone.remove(&ends) {
            self.queue.remove(&(gone.due_ns, ends));
        }
    }

    /// Whom to ask now: on which link, at which station, about which connection.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Vec<(LinkId, Mac, Ends)> {
        let mut ask = Vec::new();
        while now_ns >= self.next_ns
            && let Some((due_ns, ends)) = self.queue.first().copied()
            && due_ns <= now_ns
        {
            self.queue.pop_first();
            let Some(gone) = self.gone.get_mut(&ends) else { continue };
            gone.passed += usize::from(due_ns > 0);
            let Some(pause_ns) = PAUSES_NS.get(gone.passed) else {
                self.gone.remove(&ends);
                continue;
            };
            gone.due_ns = now_ns + pause_ns;
            self.queue.insert((gone.due_ns, ends));
            if gone.passed > 0 {
                ask.push((gone.link, gone.to, ends));
            }
            if ask.len() == AT_ONCE {
                self.next_ns = now_ns + AT_ONCE_PAUSE_NS;
            }
        }
        ask
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.queue.first().map(|(due_ns, _)| (*due_ns).max(self.next_ns))
    }
}

#[cfg(test)]
mod tests {
    use base_flow::{Sap, Transport};

    use super::*;

    const LINK: LinkId = LinkId(0);
    const MAC: Mac = Mac([2; 6]);

    fn ends(port: u16) -> Endpoints {
        let local = Sap::new([10, 0, 0, 1].into(), port);
        let remote = Some(Sap::new([10, 0, 0, 2].into(), 80));
        Endpoints { transport: Transport::Tcp, local, remote }
    }

    fn key(port: u16) -> Ends {
        (ends(port).local, ends(port).remote.unwrap())
    }

    /// Who is asked until nobody is any more, and when.
    fn asked(departed: &mut Departed, from_ns: u64) -> Vec<(u64, Ends)> {
        let (mut all, mut now_ns) = (Vec::new(), from_ns);
        while let Some(at_ns) = departed.next_deadline() {
            now_ns = now_ns.max(at_ns);
            all.extend(departed.tick(now_ns).into_iter().map(|(_, _, ends)| (now_ns, ends)));
        }
        all
    }

    #[test]
    fn a_connection_is_answered_eight_times_and_only_while_it_is_asked() {
        let mut departed = Departed::default();
        departed.add(ends(1), LINK, MAC);
        let answered = (0..20).filter(|_| departed.answers(key(1))).count();
        assert_eq!(answered, 8);
        assert!(!departed.answers(key(2)), "a stranger");
        departed.add(ends(3), LINK, MAC);
        assert!(departed.answers(key(3)));
        departed.forget(key(3));
        assert!(!departed.answers(key(3)));
    }

    #[test]
    fn nobody_is_asked_before_the_driver_can_have_forgotten_the_flow() {
        let mut departed = Departed::default();
        departed.add(ends(1), LINK, MAC);
        let now_ns = 7_000_000_000;
        assert_eq!(departed.tick(now_ns), [], "the clock begins");
        let at: Vec<u64> = asked(&mut departed, now_ns).iter().map(|(at, _)| at - now_ns).collect();
        assert_eq!(at, [20_000_000, 100_000_000, 300_000_000, 800_000_000]);
    }

    #[test]
    fn who_dies_twice_is_asked_no_more_often_and_of_too_many_some_are_not() {
        let mut departed = Departed::default();
        for port in 0..ASKING_MAX as u16 + 7 {
            departed.add(ends(port), LINK, MAC);
        }
        departed.tick(1_000_000_000);
        departed.add(ends(0), LINK, MAC);
        let all = asked(&mut departed, 1_000_000_000);
        let of = |port| all.iter().filter(|(_, ends)| *ends == key(port)).count();
        assert_eq!((of(0), of(ASKING_MAX as u16 - 1), of(ASKING_MAX as u16)), (4, 4, 0));
        assert_eq!(all.len(), 4 * ASKING_MAX);
        assert!(departed.gone.is_empty());
    }
}
