//! What paths carry: the largest packet that gets to a destination, as connections found out (RFC 1191,
//! RFC 8201).
//!
//! A router tells the connection or socket whose packet was too large, or a connection finds out by itself that
//! full packets vanish (RFC 4821). It says so here, and the next flow to the same destination begins with that
//! knowledge, in its `Fib`; who asks for the way there hears it with the answer. What an application says may be a lie, so it counts for flows of the same user; what
//! root says counts for everybody's.
//!
//! # Cost
//!
//! An entry of some dozen bytes, [`HELD_MAX`] of them, [`USER_MAX`] for each user.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// After this time a larger packet may be tried again (RFC 1191 §6.3, RFC 8201 §4: ten minutes).
const LASTS_NS: u64 = 600_000_000_000;

/// No smaller packet is believed to be the largest: every path carries it (RFC 5927 §7).
const MTU_MIN: u16 = 552;

/// Destinations known at a time; who is one too many finds out by itself.
const HELD_MAX: usize = 16_384;

/// Of them, by the word of one user.
const USER_MAX: usize = 1024;

/// Who may speak for everybody.
const ROOT: u32 = 0;

type Place = (u32, IpAddr);

#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// The largest packet, and until when that is believed.
    table: HashMap<Place, (u16, u64)>,
    /// By the time they end.
    queue: BTreeSet<(u64, Place)>,
    users: HashMap<u32, usize>,
}

impl Paths {
    /// A flow of `uid` has found that packets of `mtu` bytes, of `link_mtu` that its link carries, get to
    /// `destination`.
    pub(crate) fn learn(
        &mut self,
        now_ns: u64,
        uid: u32,
        destination: IpAddr,
        mtu: u16,
        link_mtu: u16,
    ) {
        let place = (uid, destination);
        self.forget(place);
        let held = self.users.get(&uid).copied().unwrap_or(0);
        if mtu >= link_mtu || held >= USER_MAX || self.table.len() >= HELD_MAX {
            return;
        }
        let until_ns = now_ns + LASTS_NS;
        self.table.insert(place, (mtu.max(MTU_MIN), until_ns));
        self.queue.insert((until_ns, place));
        *self.users.entry(uid).or_default() += 1;
    }

    fn forget(&mut self, place: Place) {
        let Some((_, until_ns)) = self.table.remove(&place) else { return };
        self.queue.remove(&(until_ns, place));
        if let Some(count) = self.users.get_mut(&place.0) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&place.0);
            }
        }
    }

    /// The largest packet that is known to get to `destination`, for a flow of `uid`.
    pub(crate) fn mtu(&self, uid: u32, destination: IpAddr) -> Option<u16> {
        let known = |uid| self.table.get(&(uid, destination)).map(|(mtu, _)| *mtu);
        [known(uid), known(ROOT)].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        while let Some((until_ns, place)) = self.queue.first().copied()
            && until_ns <= now_ns
        {
            self.forget(place);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.queue.first().map(|(until_ns, _)| *until_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    #[test]
    fn what_one_user_says_counts_for_that_user_and_what_root_says_for_all() {
        let mut paths = Paths::default();
        paths.learn(0, 1000, THERE, 1400, 1500);
        assert_eq!((paths.mtu(1000, THERE), paths.mtu(1001, THERE)), (Some(1400), None));
        paths.learn(0, ROOT, THERE, 1300, 1500);
        assert_eq!((paths.mtu(1000, THERE), paths.mtu(1001, THERE)), (Some(1300), Some(1300)));
        paths.learn(0, ROOT, THERE, 1500, 1500);
        assert_eq!((paths.mtu(1000, THERE), paths.mtu(1001, THERE)), (Some(1400), None));
        paths.learn(0, 1000, THERE, 68, 1500);
        assert_eq!(paths.mtu(1000, THERE), Some(MTU_MIN));
    }

    #[test]
    fn what_is_known_is_forgotten_after_ten_minutes_and_what_is_said_again_lasts_anew() {
        let mut paths = Paths::default();
        paths.learn(5, 1000, THERE, 1400, 1500);
        paths.learn(7, 1000, THERE, 1300, 1500);
        paths.tick(LASTS_NS + 6);
        assert_eq!(
            (paths.mtu(1000, THERE), paths.next_deadline()),
            (Some(1300), Some(LASTS_NS + 7))
        );
        paths.tick(LASTS_NS + 7);
        assert_eq!((paths.mtu(1000, THERE), paths.next_deadline()), (None, None));
        assert!(paths.users.is_empty() && paths.table.is_empty());
    }

    #[test]
    fn a_user_who_names_every_address_fills_a_share_of_the_table() {
        let mut paths = Paths::default();
        for last in 0..2 * USER_MAX as u32 {
            paths.learn(0, 1000, IpAddr::V4(last.into()), 1400, 1500);
        }
        assert_eq!(paths.table.len(), USER_MAX);
        paths.learn(0, 1001, THERE, 1400, 1500);
        assert_eq!(paths.mtu(1001, THERE), Some(1400));
    }
}
