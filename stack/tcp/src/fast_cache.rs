//! What a client knows of the hosts that it opened connections to with data on the SYN (RFC 7413 §4.1.3).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::fast_open::{FastOpen, Learned, Opening};

/// Hosts that are remembered; whoever is one too many takes the place of the oldest.
const HOSTS_MAX: usize = 1024;

/// After two SYNs with data that were lost in a row, no more is tried for this time, doubled for each.
const PAUSE_NS: u64 = 60_000_000_000;

/// Cookies, and what else decides how a connection is opened.
#[derive(Debug, Default)]
pub struct FastCache {
    hosts: HashMap<IpAddr, Known>,
    oldest: VecDeque<IpAddr>,
}

#[derive(Debug, Default)]
struct Known {
    cookie: Option<FastOpen>,
    mss: Option<u16>,
    /// Asked with the standard's option once, and in vain: the next one is the experimental one.
    experimental: bool,
    lost: u32,
    lost_ns: u64,
}

impl FastCache {
    /// How to open a connection to `host`, and the MSS that it told last time; `None` if data on the SYN
    /// does not get there. What carries data needs no cookie if the user says so (`bare`).
    pub fn opening(&self, now_ns: u64, host: IpAddr, bare: bool) -> Option<(Opening, Option<u16>)> {
        let known = self.hosts.get(&host);
        let mss = known.and_then(|known| known.mss);
        if bare {
            return Some((Opening::Bare, mss));
        }
        let Some(known) = known else {
            let asks = FastOpen { cookie: None, experimental: false };
            return Some((Opening::Option(asks), None));
        };
        let pause_ns = PAUSE_NS << known.lost.min(16);
        if known.lost > 1 && now_ns < known.lost_ns.saturating_add(pause_ns) {
            return None;
        }
        let asks = FastOpen { cookie: None, experimental: known.experimental };
        Some((Opening::Option(known.cookie.unwrap_or(asks)), mss))
    }

    /// What a connection to `host` has shown.
    pub fn learn(&mut self, now_ns: u64, host: IpAddr, learned: &Learned) {
        if !self.hosts.contains_key(&host) {
            if self.hosts.len() >= HOSTS_MAX
                && let Some(oldest) = self.oldest.pop_front()
            {
                self.hosts.remove(&oldest);
            }
            self.oldest.push_back(host);
        }
        let known = self.hosts.entry(host).or_default();
        known.mss = Some(learned.mss);
        if learned.cookie.is_some() {
            known.cookie = learned.cookie;
        } else if learned.in_vain {
            known.experimental = !known.experimental;
        }
        (known.lost, known.lost_ns) = if learned.lost { (known.lost + 1, now_ns) } else { (0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fast_open::Cookie;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const NOTHING: Learned = Learned { cookie: None, mss: 1460, lost: false, in_vain: false };

    fn asks(experimental: bool) -> Opening {
        Opening::Option(FastOpen { cookie: None, experimental })
    }

    #[test]
    fn a_cookie_is_asked_for_kept_and_not_forgotten_for_a_loss() {
        let mut cache = FastCache::default();
        assert_eq!(cache.opening(0, HOST, false), Some((asks(false), None)));
        let cookie = FastOpen { cookie: Cookie::new(&[1; 8]), experimental: false };
        cache.learn(0, HOST, &Learned { cookie: Some(cookie), ..NOTHING });
        let known = Some((Opening::Option(cookie), Some(1460)));
        assert_eq!(cache.opening(0, HOST, false), known);
        let lost = Learned { lost: true, ..NOTHING };
        cache.learn(0, HOST, &lost);
        assert_eq!(cache.opening(0, HOST, false), known);
        cache.learn(0, HOST, &lost);
        assert_eq!(cache.opening(4 * PAUSE_NS - 1, HOST, false), None, "two in a row");
        assert_eq!(cache.opening(4 * PAUSE_NS, HOST, false), known);
        cache.learn(0, HOST, &NOTHING);
        assert_eq!(cache.opening(0, HOST, false), known);
    }

    #[test]
    fn who_gives_no_cookie_is_asked_in_the_other_way_next_time() {
        let mut cache = FastCache::default();
        let in_vain = Learned { in_vain: true, ..NOTHING };
        for experimental in [true, false, true] {
            cache.learn(0, HOST, &in_vain);
            assert_eq!(cache.opening(0, HOST, false), Some((asks(experimental), Some(1460))));
        }
    }

    #[test]
    fn a_host_too_many_takes_the_place_of_the_oldest() {
        let mut cache = FastCache::default();
        for host in 0..2 * HOSTS_MAX as u32 {
            cache.learn(0, IpAddr::V4(host.into()), &NOTHING);
        }
        assert_eq!((cache.hosts.len(), cache.oldest.len()), (HOSTS_MAX, HOSTS_MAX));
        assert!(cache.hosts.contains_key(&IpAddr::V4((2 * HOSTS_MAX as u32 - 1).into())));
    }
}
