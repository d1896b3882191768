//! At which of our ports connections in TIME-WAIT have left ends, and whose they are.
//!
//! # Cost
//!
//! What others have left at a port is found without a look at what its user has left there: a server that
//! closes first leaves some with every connection, and takes the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use base_flow::Sap;

use crate::port_set::{PortSet, place};
use crate::segment::Ends;

/// No access point comes before or after.
const FIRST: Sap = Sap::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const LAST: Sap = Sap::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u16::MAX);

/// Our port and address, whose ends they are, and the other end.
type Place = (u16, IpAddr, u32, Sap);

/// Whose ports are not free yet.
#[derive(Debug, Default)]
pub(crate) struct LeftPorts {
    places: BTreeSet<Place>,
    /// How many ends a user has left at a port.
    counts: BTreeMap<(u16, u32), u32>,
    /// Dynamic ports at which anybody has left some, and at which several users have.
    any: PortSet,
    several: PortSet,
    /// Of them, those at which a user has: in words, as a set has them.
    users: HashMap<(u32, usize), u64>,
    /// Those from which a user was connected to another end, from one of our addresses.
    ends: HashMap<(u32, IpAddr, Sap, usize), u64>,
    #[cfg(test)]
    pub(crate) steps: std::cell::Cell<usize>,
}

impl LeftPorts {
    /// `uid` has left these ends, which nobody else has.
    pub(crate) fn add(&mut self, uid: u32, (local, remote): Ends) {
        self.places.insert((local.port, local.address, uid, remote));
        *self.counts.entry((local.port, uid)).or_default() += 1;
        self.mark(uid, (local, remote), true);
    }

    /// They are free.
    pub(crate) fn remove(&mut self, uid: u32, (local, remote): Ends) {
        self.places.remove(&(local.port, local.address, uid, remote));
        if let Some(count) = self.counts.get_mut(&(local.port, uid)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(local.port, uid));
            }
        }
        self.mark(uid, (local, remote), false);
    }

    fn mark(&mut self, uid: u32, (local, remote): Ends, left: bool) {
        let port = local.port;
        let Some((word, bit)) = place(port) else { return };
        let users = self.counts.range((port, 0)..=(port, u32::MAX)).take(2).count();
        self.any.set(port, users > 0);
        self.several.set(port, users > 1);
        let user_has = self.counts.contains_key(&(port, uid));
        set_bit(&mut self.users, (uid, word), bit, user_has);
        set_bit(&mut self.ends, (uid, local.address, remote, word), bit, left);
    }

    /// The dynamic ports of a word at which users other than `uid` have left ends.
    pub(crate) fn others(&self, uid: u32, word: usize) -> u64 {
        let own = self.users.get(&(uid, word)).copied().unwrap_or(0);
        self.several.word(word) | (self.any.word(word) & !own)
    }

    /// The dynamic ports of a word from which `uid` was connected to `remote`.
    pub(crate) fn connected(&self, uid: u32, from: IpAddr, remote: Sap, word: usize) -> u64 {
        self.ends.get(&(uid, from, remote, word)).copied().unwrap_or(0)
    }

    /// Ends at a port of ours, on this address or any, that users other than `uid` have left.
    pub(crate) fn others_at(&self, uid: u32, local: Sap) -> impl Iterator<Item = Ends> {
        let port = local.port;
        let address = (!local.is_any_address()).then_some(local.address);
        let mut from = Bound::Included((port, address.unwrap_or(FIRST.address), 0, FIRST));
        std::iter::from_fn(move || {
            loop {
                #[cfg(test)]
                self.steps.set(self.steps.get() + 1);
                let place = *self.places.range((from, Bound::Unbounded)).next()?;
                let (at, on, whose, remote) = place;
                if at != port || address.is_some_and(|address| address != on) {
                    return None;
                }
                if whose != uid {
                    from = Bound::Excluded(place);
                    return Some((Sap::new(on, at), remote));
                }
                // Past all of its own at once.
                from = Bound::Excluded((at, on, uid, LAST));
            }
        })
    }
}

fn set_bit<K: Eq + std::hash::Hash>(words: &mut HashMap<K, u64>, key: K, bit: u64, set: bool) {
    if set {
        *words.entry(key).or_default() |= bit;
    } else if let Some(word) = words.get_mut(&key) {
        *word &= !bit;
        if *word == 0 {
            words.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::port_set::{DYNAMIC_PORTS, WORDS};

    fn ends(port: u16, here: u8, there: u16) -> Ends {
        let at = |host, port| Sap::new([10, 0, 0, host].into(), port);
        (at(here, port), at(9, there))
    }

    #[test]
    fn what_a_user_has_left_at_a_port_is_not_walked_over_for_those_of_others() {
        let mut left = LeftPorts::default();
        for there in 1..=10_000 {
            left.add(1000, ends(80, 1, there));
        }
        let steps = |left: &LeftPorts, uid, local: Sap| {
            left.steps.set(0);
            let found = left.others_at(uid, local).count();
            (found, left.steps.get())
        };
        let (here, any) = (ends(80, 1, 1).0, Sap::any_v4(80));
        assert_eq!(steps(&left, 1000, here), (0, 2), "one past its own, one at the end");
        assert_eq!(steps(&left, 1000, any), (0, 2));
        assert_eq!(steps(&left, 1001, ends(80, 2, 1).0), (0, 1), "nor what others have elsewhere");
        left.add(1001, ends(80, 1, 1));
        assert_eq!(steps(&left, 1000, here), (1, 3));
        assert_eq!(steps(&left, u32::MAX, here).0, 10_001);
    }

    proptest! {
        #[test]
        fn users_ports_and_ends_are_those_of_a_list(
            steps in proptest::collection::vec((any::<bool>(), 0..3u32, 0..3u16, 1..3u8, 1..3u16), 0..80),
        ) {
            let mut left = LeftPorts::default();
            let mut list: Vec<(u32, Ends)> = Vec::new();
            for (begins, uid, port, here, there) in steps {
                let ends = ends(DYNAMIC_PORTS.start() + port * 63, here, there);
                let known = list.iter().position(|(_, known)| *known == ends);
                match (begins, known) {
                    (true, None) => {
                        left.add(uid, ends);
                        list.push((uid, ends));
                    }
                    (false, Some(at)) => {
                        let (uid, ends) = list.swap_remove(at);
                        left.remove(uid, ends);
                    }
                    _ => {}
                }
                for uid in 0..3 {
                    let mut others = PortSet::default();
                    let mut connected = PortSet::default();
                    for (whose, (local, remote)) in &list {
                        if *whose != uid {
                            others.set(local.port, true);
                        } else if (*local, *remote) == (Sap { port: local.port, ..ends.0 }, ends.1) {
                            connected.set(local.port, true);
                        }
                    }
                    for word in 0..WORDS {
                        prop_assert_eq!(left.others(uid, word), others.word(word));
                        let is = left.connected(uid, ends.0.address, ends.1, word);
                        prop_assert_eq!(is, connected.word(word));
                    }
                    for local in [ends.0, Sap::any_v4(ends.0.port)] {
                        let mut found: Vec<Ends> = left.others_at(uid, local).collect();
                        let at = |at: Sap| local.is_any_address() && at.port == local.port || at == local;
                        let mut expected: Vec<Ends> = list
                            .iter()
                            .filter(|(whose, (here, _))| *whose != uid && at(*here))
                            .map(|(_, ends)| *ends)
                            .collect();
                        found.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
            for (uid, ends) in list {
                left.remove(uid, ends);
            }
            prop_assert!(left.places.is_empty() && left.counts.is_empty());
            prop_assert!(left.users.is_empty() && left.ends.is_empty());
        }
    }
}
