//! How large packets may be on the way to the peer (RFC 1191, RFC 8201, RFC 4821).
//!
//! A router's word is believed only downwards, only about data that is in flight, and never below the
//! smallest packet every path carries (RFC 5927 §7). Upwards, and where routers are silent, the
//! connection finds out by itself: it sends one larger segment and sees whether it arrives.

use std::ops::Range;

use crate::Position;
use crate::config::Config;

#[derive(Debug)]
pub(crate) struct Path {
    /// Largest packet thought to arrive.
    mtu: u16,
    /// Largest packet worth trying.
    upper: u16,
    /// What the link carries.
    link: u16,
    /// Header bytes of IP and TCP without options.
    header_bytes: u16,
    ip_header_bytes: u16,
    mss_max: u16,
    probe: Option<Probe>,
    /// When larger packets may be tried again.
    retry_ns: u64,
    enabled: bool,
    /// Full packets vanished, and it is not known yet whether smaller ones arrive.
    doubtful: bool,
    /// What others who talk to the same host should know, and have not been told.
    news: Option<u16>,
}

/// A larger segment on its way.
#[derive(Debug, Clone)]
struct Probe {
    range: Range<Position>,
    mtu: u16,
}

impl Path {
    /// After a failure, larger packets are tried again after so long (RFC 4821 §7.2, RFC 8201 §4).
    const RETRY_NS: u64 = 600_000_000_000;

    /// The search ends when the two ends are so close.
    const CLOSE_BYTES: u16 = 32;

    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mtu: config.mtu,
            upper: config.mtu,
            link: config.mtu,
            header_bytes: config.ip_header_bytes + 20,
            ip_header_bytes: config.ip_header_bytes,
            mss_max: config.mss_max.unwrap_or(u16::MAX),
            probe: None,
            retry_ns: 0,
            enabled: config.probe_mtu,
            doubtful: false,
            news: None,
        }
    }

    pub(crate) const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What a packet carries, of what the peer can take; without options.
    pub(crate) fn mss(&self, peer: u16) -> u16 {
        self.mtu.saturating_sub(self.header_bytes).min(peer).min(self.mss_max).max(1)
    }

    /// Smallest packet every path carries: RFC 791 says 68, but nothing below 552 is believed
    /// (Linux's `min_pmtu`); RFC 8200 §5.
    const fn floor(&self) -> u16 {
        if self.ip_header_bytes >= 40 { 1280 } else { 552 }
    }

    /// A router cannot pass packets larger than `mtu` on; whether that changes anything.
    pub(crate) fn too_big(&mut self, now_ns: u64, mtu: u16) -> bool {
        let changes = self.remember(now_ns, mtu);
        if changes {
            (self.doubtful, self.news) = (false, Some(self.mtu));
        }
        changes
    }

    /// What is worth telling those who talk to the same host, once.
    pub(crate) const fn take_news(&mut self) -> Option<u16> {
        self.news.take()
    }

    /// Something arrived.
    pub(crate) const fn confirm(&mut self) {
        if self.doubtful {
            (self.doubtful, self.news) = (false, Some(self.mtu));
        }
    }

    /// It is known already that packets larger than `mtu` do not arrive; whether that changes anything.
    pub(crate) fn remember(&mut self, now_ns: u64, mtu: u16) -> bool {
        let mtu = mtu.max(self.floor());
        if mtu >= self.mtu {
            return false;
        }
        self.mtu = mtu;
        self.upper = mtu;
        self.probe = None;
        self.retry_ns = now_ns + Self::RETRY_NS;
        true
    }

    /// The link carries other packets from now on (another route, another next hop).
    /// What is known to be too large for the path behind it stays known, until it is time to try again.
    pub(crate) fn set_link(&mut self, mtu: u16) {
        let is_path_smaller = self.mtu < self.link;
        self.mtu = if is_path_smaller { self.mtu.min(mtu) } else { mtu }.max(1);
        self.link = mtu;
        self.upper = mtu;
        self.probe = None;
    }

    /// Full segments vanish without a word: try half of the size, as RFC 4821 §7.7 suggests; whether
    /// that changes anything.
    pub(crate) fn black_hole(&mut self, now_ns: u64) -> bool {
        let mtu = (self.mtu / 2).max(self.floor());
        if !self.enabled || mtu >= self.mtu {
            return false;
        }
        self.upper = self.mtu.saturating_sub(1);
        self.mtu = mtu;
        self.probe = None;
        self.retry_ns = now_ns;
        // It may be the peer that is silent.
        self.doubtful = true;
        true
    }

    /// Size of the next packet to try, in bytes of IP packet.
    pub(crate) fn next_probe(&mut self, now_ns: u64) -> Option<u16> {
        if !self.enabled || self.probe.is_some() {
            return None;
        }
        if self.upper < self.link && now_ns >= self.retry_ns && self.is_settled() {
            self.upper = self.link;
        }
        if self.is_settled() || now_ns < self.retry_ns {
            return None;
        }
        // The largest first: the usual case is that the path has recovered.
        let middle = self.mtu + (self.upper - self.mtu) / 2;
        Some(if self.upper == self.link { self.link } else { middle })
    }

    const fn is_settled(&self) -> bool {
        self.upper.saturating_sub(self.mtu) < Self::CLOSE_BYTES
    }

    pub(crate) fn probing(&mut self, range: Range<Position>, mtu: u16) {
        self.probe = Some(Probe { range, mtu });
    }

    /// Where the probe is that was not answered.
    pub(crate) fn probe(&self) -> Option<&Range<Position>> {
        self.probe.as_ref().map(|probe| &probe.range)
    }

    /// The probe arrived if everything up to `acknowledged` did; whether it has.
    pub(crate) fn arrived(&mut self, now_ns: u64, acknowledged: Position) -> bool {
        let Some(probe) = self.probe.take_if(|probe| probe.range.end <= acknowledged) else {
            return false;
        };
        if probe.mtu > self.mtu {
            (self.mtu, self.news) = (probe.mtu, Some(probe.mtu));
        }
        self.rest_if_settled(now_ns);
        true
    }

    /// The probe was lost: not congestion, but an answer (RFC 4821 §7.4).
    pub(crate) fn lost(&mut self, now_ns: u64) {
        if let Some(probe) = self.probe.take() {
            self.upper = (probe.mtu - 1).max(self.mtu);
            self.rest_if_settled(now_ns);
        }
    }

    const fn rest_if_settled(&mut self, now_ns: u64) {
        if self.is_settled() {
            self.retry_ns = now_ns + Self::RETRY_NS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        Path::new(&Config::default())
    }

    /// Searches until there is nothing to try; packets of up to `carries` bytes arrive.
    fn search(path: &mut Path, now_ns: u64, carries: u16) -> usize {
        let here = Position::initial(0);
        for tried in 0.. {
            let Some(mtu) = path.next_probe(now_ns) else { return tried };
            path.probing(here..here + 1, mtu);
            if mtu <= carries {
                assert!(path.arrived(now_ns, here + 1));
            } else {
                path.lost(now_ns);
            }
        }
        unreachable!()
    }

    #[test]
    fn routers_are_believed_downwards_and_not_below_what_every_path_carries() {
        let mut path = path();
        assert!(!path.too_big(0, 1500) && !path.too_big(0, 9000));
        assert!(path.too_big(0, 1400) && path.mtu() == 1400);
        assert!(path.too_big(0, 68) && path.mtu() == 552);
        assert_eq!(path.next_probe(1), None, "and it is not tried again at once");
    }

    #[test]
    fn a_link_that_changes_makes_nobody_forget_what_the_path_does_not_carry() {
        let mut path = path();
        path.set_link(1400);
        assert_eq!(path.mtu(), 1400);
        path.set_link(1500);
        assert_eq!(path.mtu(), 1500, "the link was all that was in the way");
        path.too_big(0, 1300);
        path.set_link(1400);
        path.set_link(9000);
        assert_eq!(path.mtu(), 1300);
        assert_eq!(path.next_probe(1), None, "nor is it tried again at once");
        path.set_link(1200);
        assert_eq!(path.mtu(), 1200);
    }

    #[test]
    fn the_search_after_ten_minutes_finds_what_the_path_carries() {
        for carries in [600, 1000, 1280, 1499, 1500] {
            let mut path = path();
            path.too_big(0, 560);
            let later = 600_000_000_000;
            assert!(search(&mut path, later, carries) < 12);
            assert!(path.mtu() <= carries && carries - path.mtu() < 64, "{} {carries}", path.mtu());
            assert_eq!(path.next_probe(later), None);
        }
    }

    #[test]
    fn others_hear_what_is_certain_and_once() {
        let mut path = path();
        let here = Position::initial(0);
        assert!(path.too_big(0, 1400) && !path.too_big(0, 1450));
        assert_eq!((path.take_news(), path.take_news()), (Some(1400), None));
        assert!(path.black_hole(5));
        assert_eq!(path.take_news(), None, "the peer may be gone");
        path.confirm();
        assert_eq!((path.take_news(), path.mtu()), (Some(700), 700));
        path.confirm();
        assert_eq!(path.take_news(), None);
        let larger = path.next_probe(5).unwrap();
        path.probing(here..here + 1, larger);
        assert!(path.arrived(5, here + 1));
        assert_eq!(path.take_news(), Some(larger));
        let mut knows = Path::new(&Config::default());
        assert!(knows.remember(0, 1300));
        assert_eq!((knows.take_news(), knows.mtu()), (None, 1300), "it heard it from others");
        assert_eq!(knows.next_probe(1), None, "and does not doubt it at once");
    }

    #[test]
    fn a_black_hole_halves_packets_and_then_finds_its_edge() {
        let mut path = path();
        assert!(path.black_hole(5));
        assert_eq!(path.mtu(), 750);
        search(&mut path, 5, 1300);
        assert!((1240..=1300).contains(&path.mtu()));
        while path.black_hole(6) {}
        assert_eq!(path.mtu(), 552);
    }
}
