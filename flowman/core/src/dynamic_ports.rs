//! Which port they get who ask for any (RFC 6056 §3.3.4).
//!
//! One after the other for the same destination, so that a port is not used again soon; elsewhere for every
//! destination, so that who sees one cannot guess those of others and forge segments for them.
//!
//! # Cost
//!
//! A look at each port that is not free and comes before one that is. When none is free, nobody looks again
//! before one is.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use base_flow::{Sap, Transport};
use siphasher::sip::SipHasher24;

/// The dynamic range of RFC 6335.
pub(crate) const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

const COUNT: u16 = *DYNAMIC_PORTS.end() - *DYNAMIC_PORTS.start() + 1;

/// Destinations that share a counter tell each other how many ports they got.
const COUNTERS: usize = 64;

pub(crate) struct DynamicPorts {
    key: [u8; 16],
    given: [u16; COUNTERS],
    /// For whom none was free, and how often one had become so until then.
    none: [Option<(u64, u64)>; COUNTERS],
}

impl core::fmt::Debug for DynamicPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DynamicPorts").finish_non_exhaustive()
    }
}

impl DynamicPorts {
    /// With a `key` that nobody else knows.
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self { key, given: [0; COUNTERS], none: [None; COUNTERS] }
    }

    /// The next port that is `free` for these ends; that one became free has happened `freed` times.
    pub(crate) fn find(
        &mut self,
        ends: (Transport, IpAddr, Option<Sap>),
        freed: u64,
        free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let begin = self.hash(0, &ends) as u16 % COUNT;
        let whose = self.hash(1, &ends);
        let counter = whose as usize % COUNTERS;
        if self.none[counter] == Some((whose, freed)) {
            return None;
        }
        let given = self.given[counter];
        for step in 0..COUNT {
            // All are below 2^14, so the sum cannot overflow.
            let at = (begin + given + step) % COUNT;
            let port = *DYNAMIC_PORTS.start() + at;
            if free(port) {
                self.given[counter] = (given + step + 1) % COUNT;
                return Some(port);
            }
        }
        self.none[counter] = Some((whose, freed));
        None
    }

    fn hash(&self, purpose: u8, ends: &impl Hash) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u8(purpose);
        ends.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(remote: [u8; 4]) -> (Transport, IpAddr, Option<Sap>) {
        let remote = Sap::new(remote.into(), 80);
        (Transport::Tcp, [10, 0, 0, 1].into(), Some(remote))
    }

    #[test]
    fn ports_for_one_destination_follow_each_other_and_tell_nothing_of_those_for_others() {
        let mut ports = DynamicPorts::new([3; 16]);
        let mut find = |remote| ports.find(ends(remote), 0, |_| true).unwrap();
        let here = find([10, 0, 0, 2]);
        let there: Vec<u16> = (3..40).map(|host| find([10, 0, 0, host])).collect();
        let again = find([10, 0, 0, 2]);
        assert!((1..64).contains(&again.wrapping_sub(here)) || again < here, "{here}, {again}");
        // Close together by chance at most.
        let close = there.iter().filter(|port| port.abs_diff(here) < 200).count();
        assert!(close < 6, "{close} of {} are near {here}", there.len());
        let mut other = DynamicPorts::new([4; 16]);
        assert_ne!(other.find(ends([10, 0, 0, 2]), 0, |_| true), Some(here), "another key");
    }

    #[test]
    fn every_port_of_the_range_is_found_once_before_any_is_found_again() {
        let mut ports = DynamicPorts::new([5; 16]);
        let mut found: Vec<u16> =
            (0..COUNT).map(|_| ports.find(ends([10, 0, 0, 2]), 0, |_| true).unwrap()).collect();
        found.sort_unstable();
        assert!(found.into_iter().eq(DYNAMIC_PORTS));
        let looks = std::cell::Cell::new(0);
        let nothing = |_| {
            looks.set(looks.get() + 1);
            false
        };
        for _ in 0..100 {
            assert_eq!(ports.find(ends([10, 0, 0, 2]), 7, nothing), None);
        }
        assert_eq!(looks.get(), COUNT, "nobody looks again before one is free");
        assert_eq!(ports.find(ends([10, 0, 0, 2]), 8, nothing), None);
        assert_eq!(looks.get(), 2 * u32::from(COUNT) as u16);
        assert!(ports.find(ends([10, 0, 0, 3]), 8, |_| true).is_some(), "others have some");
    }
}
