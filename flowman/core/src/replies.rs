//! How many ICMP errors are sent (RFC 1812 §4.3.2.8): so many to one host, so many altogether.
//!
//! A limit that all share is an oracle: who sends in another's name, and sees whether there is an answer
//! left for himself, learns which of those packets were answered, and so which ports are open to that other
//! host ("SAD DNS"). So each host has a limit of its own, which is reached long before the common one, and
//! how much the limits hold is drawn by lot.

use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;

use base_flow::{Limiter, Pace};
use siphasher::sip::SipHasher24;

/// To one host: enough for who traces a route or asks for a few ports.
const EACH: Pace = Pace { per_s: 10, burst: 8 };
/// Altogether.
const ALL: Pace = Pace { per_s: 1_000, burst: 200 };
/// Hosts are told apart so far, by a secret.
const PLACES: usize = 1_024;

/// The limits.
#[derive(Debug)]
pub(crate) struct Replies {
    key: [u8; 16],
    each: Vec<Limiter>,
    all: Limiter,
}

impl Replies {
    /// With a `key` that nobody else knows.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let lot = |place: usize| hash(&key, &("lot", place));
        let each = (0..PLACES).map(|place| Limiter::new(EACH, lot(place))).collect();
        Self { key, each, all: Limiter::new(ALL, lot(PLACES)) }
    }

    /// A number that nobody else can tell before.
    pub(crate) fn lot(&self, of: &impl Hash) -> u64 {
        hash(&self.key, &("drawn", of))
    }

    /// Whether an error may be sent to a host.
    pub(crate) fn take(&mut self, now_ns: u64, to: Ipv4Addr) -> bool {
        let place = hash(&self.key, &to) as usize % PLACES;
        self.each[place].take(now_ns) && self.all.take(now_ns)
    }
}

fn hash(key: &[u8; 16], what: &impl Hash) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_one_hosts_name_tells_nothing_to_another() {
        let mut silent = 0;
        for round in 0..50u64 {
            let mut replies = Replies::new([round as u8; 16]);
            let now = round * 10_000_000_000;
            let sent =
                (0..1_000).filter(|_| replies.take(now, Ipv4Addr::new(10, 0, 0, 53))).count();
            assert!(sent <= 8, "{sent}");
            silent += u64::from(!replies.take(now, Ipv4Addr::new(10, 0, 0, 66)));
        }
        // Two hosts may share a place, by chance.
        assert!(silent <= 2, "{silent} of 50");
    }

    #[test]
    fn altogether_no_more_than_a_thousand_a_second() {
        let mut replies = Replies::new([3; 16]);
        let hosts = (0..100_000u32).map(|host| Ipv4Addr::from_bits(0x0a00_0000 + host));
        let sent = hosts.zip(0u64..).filter(|&(to, at)| replies.take(at * 10_000, to)).count();
        assert!((900..=1_200).contains(&sent), "{sent} in a second");
    }
}
