//! Which port they get who ask for any (RFC 6056 §3.3.4).
//!
//! One after the other for the same destination, so that a port is not used again soon; elsewhere for every
//! destination, so that who sees one cannot guess those of others and forge segments for them.
//!
//! # Cost
//!
//! A step for each 64 ports, however many are taken, by whom, and whether any is free.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use base_flow::{Sap, Transport};
use siphasher::sip::SipHasher24;

use crate::port_set::{COUNT, DYNAMIC_PORTS, first_free};

/// Destinations that share a counter tell each other how many ports they got.
const COUNTERS: usize = 64;

pub(crate) struct DynamicPorts {
    key: [u8; 16],
    given: [u16; COUNTERS],
}

impl core::fmt::Debug for DynamicPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DynamicPorts").finish_non_exhaustive()
    }
}

impl DynamicPorts {
    /// With a `key` that nobody else knows.
    pub(crate) const fn new(key: [u8; 16]) -> Self {
        Self { key, given: [0; COUNTERS] }
    }

    /// The next port that is not `taken`; one that is not `spared` either if there is such a one. Both tell
    /// words of a [`PortSet`](crate::port_set::PortSet).
    pub(crate) fn find(
        &mut self,
        ends: (Transport, IpAddr, Option<Sap>),
        taken: impl Fn(usize) -> u64,
        spared: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        let begin = self.hash(0, &ends) as u16 % COUNT;
        let counter = self.hash(1, &ends) as usize % COUNTERS;
        // Both are below 2^14, so the sum cannot overflow.
        let at = (begin + self.given[counter]) % COUNT;
        let port =
            first_free(at, |word| taken(word) | spared(word)).or_else(|| first_free(at, taken))?;
        let found = port - *DYNAMIC_PORTS.start();
        self.given[counter] = (found + COUNT - begin + 1) % COUNT;
        Some(port)
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

    const NONE: fn(usize) -> u64 = |_| 0;

    #[test]
    fn ports_for_one_destination_follow_each_other_and_tell_nothing_of_those_for_others() {
        let mut ports = DynamicPorts::new([3; 16]);
        let mut find = |remote| ports.find(ends(remote), NONE, NONE).unwrap();
        let here = find([10, 0, 0, 2]);
        let there: Vec<u16> = (3..40).map(|host| find([10, 0, 0, host])).collect();
        let again = find([10, 0, 0, 2]);
        assert!((1..64).contains(&again.wrapping_sub(here)) || again < here, "{here}, {again}");
        // Close together by chance at most.
        let close = there.iter().filter(|port| port.abs_diff(here) < 200).count();
        assert!(close < 6, "{close} of {} are near {here}", there.len());
        let mut other = DynamicPorts::new([4; 16]);
        assert_ne!(other.find(ends([10, 0, 0, 2]), NONE, NONE), Some(here), "another key");
    }

    #[test]
    fn every_port_of_the_range_is_found_once_before_any_is_found_again() {
        let mut ports = DynamicPorts::new([5; 16]);
        let mut found: Vec<u16> =
            (0..COUNT).map(|_| ports.find(ends([10, 0, 0, 2]), NONE, NONE).unwrap()).collect();
        found.sort_unstable();
        assert!(found.into_iter().eq(DYNAMIC_PORTS));
    }

    #[test]
    fn that_none_is_free_is_seen_in_a_step_for_64_for_every_destination_anew() {
        let mut ports = DynamicPorts::new([5; 16]);
        let steps = std::cell::Cell::new(0);
        let all = |_| {
            steps.set(steps.get() + 1);
            u64::MAX
        };
        for host in 0..100 {
            assert_eq!(ports.find(ends([10, 0, 0, host]), all, NONE), None);
        }
        let passes = steps.get() / 100;
        assert!(passes <= 2 * (usize::from(COUNT) / 64 + 1), "{passes} steps for each");
    }

    #[test]
    fn a_port_that_is_spared_is_found_when_no_other_is_free() {
        let mut ports = DynamicPorts::new([5; 16]);
        // Of the first word the first bit is free, of the second the second.
        let taken = |word| match word {
            0 => !1,
            1 => !2,
            _ => u64::MAX,
        };
        let spared = |word| u64::from(word == 0);
        let mut find = |spared: fn(usize) -> u64| ports.find(ends([10, 0, 0, 2]), taken, spared);
        for _ in 0..3 {
            assert_eq!(find(spared), Some(DYNAMIC_PORTS.start() + 65));
        }
        assert_eq!(find(|word| [1, 2][word.min(1)]), Some(*DYNAMIC_PORTS.start()));
    }
}
