//! What kind of frame nobody claims, and how many of it are heard.

use serde::{Deserialize, Serialize};

/// Kinds of frames that no flow claims. Each goes to the flow manager by a flow of its own, with its own
/// buffers, budget and contract: so a flood of one kind leaves the others alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stray {
    /// ARP for our addresses or about them, and neighbour discovery: without them the host falls off the
    /// network.
    Neighbours,
    /// Echo requests.
    Control,
    /// Segments of connections that are over for their applications and not for the network.
    Parked,
    /// Segments to ports where nobody listens.
    Segments,
    /// Everything else that is answered: datagrams to closed ports, protocols nobody speaks.
    Others,
    /// ARP between other stations: not answered, but it may tell that one of them has moved.
    Gossip,
}

impl Stray {
    /// All kinds; what matters most to everybody comes first.
    pub const ALL: [Self; 6] =
        [Self::Neighbours, Self::Control, Self::Parked, Self::Segments, Self::Others, Self::Gossip];

    /// How many kinds there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How many frames are let through: so many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Frames a second.
    pub per_s: u32,
    /// Frames at once, after a pause.
    pub burst: u32,
}

/// Lets frames through at a [`Pace`].
///
/// Whoever sees when it closes must not be able to count with it what others have sent (the side
/// channel of "SAD DNS"): each time it is full again, it holds up to a quarter less than the burst,
/// by lot.
#[derive(Debug, Clone, Copy)]
pub struct Limiter {
    pace: Pace,
    /// Billionths of a frame.
    left: u64,
    counted_at: u64,
    /// Drawn from at random.
    lot: u64,
}

impl Limiter {
    const ONE: u64 = 1_000_000_000;

    /// A full one; `lot` is random.
    pub const fn new(pace: Pace, lot: u64) -> Self {
        Self { pace, left: pace.burst as u64 * Self::ONE, counted_at: 0, lot: lot | 1 }
    }

    /// Whether one frame more is let through at `now_ns`.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let passed = now_ns.saturating_sub(self.counted_at).min(60 * Self::ONE);
        self.counted_at = self.counted_at.max(now_ns);
        let full = u64::from(self.pace.burst) * Self::ONE;
        self.left += passed * u64::from(self.pace.per_s);
        if self.left >= full {
            self.left = full - self.draw(u64::from(self.pace.burst / 4) + 1) * Self::ONE;
        }
        let open = self.left >= Self::ONE;
        self.left -= u64::from(open) * Self::ONE;
        open
    }

    /// A number below `end` (Marsaglia's xorshift).
    const fn draw(&mut self, end: u64) -> u64 {
        self.lot ^= self.lot << 13;
        self.lot ^= self.lot >> 7;
        self.lot ^= self.lot << 17;
        (self.lot >> 32) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limiter_lets_through_its_pace_and_at_once_no_more_than_its_burst() {
        let mut limiter = Limiter::new(Pace { per_s: 100, burst: 10 }, 7);
        let at_once = (0..1000).filter(|_| limiter.take(0)).count();
        assert!((8..=10).contains(&at_once), "{at_once}");
        let sent = (0..10_000u64).filter(|at| limiter.take(at * 100_000)).count();
        assert!((99..=101).contains(&sent), "{sent} in a second");
        assert!(!limiter.take(0), "time that runs backwards earns nothing");
    }

    #[test]
    fn how_much_a_full_limiter_holds_cannot_be_told() {
        let mut limiter = Limiter::new(Pace { per_s: 1000, burst: 40 }, 12_345);
        let mut seen = std::collections::BTreeSet::new();
        for minute in 1..100u64 {
            let now = minute * 60_000_000_000;
            seen.insert((0..100).filter(|_| limiter.take(now)).count());
        }
        assert_eq!((seen.first(), seen.last()), (Some(&30), Some(&40)));
        assert_eq!(seen.len(), 11, "each number between is drawn");
    }

    #[test]
    fn each_kind_has_the_place_in_which_it_stands() {
        assert_eq!(Stray::ALL.map(Stray::index), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_pause_earns_the_frames_of_its_whole_time() {
        let mut limiter = Limiter::new(Pace { per_s: 1, burst: 100 }, 7);
        assert_eq!((0..200).filter(|_| limiter.take(0)).count().min(75), 75);
        assert_eq!((0..200).filter(|_| limiter.take(50_000_000_000)).count(), 50);
        assert!(limiter.take(u64::MAX), "a pause without end does not overflow");
    }

    /// Shifts of 13, 7 and 17, as another implementation draws from the seed of Marsaglia's paper.
    #[test]
    fn lots_are_those_of_marsaglias_xorshift() {
        let pace = Pace { per_s: 1, burst: 1 };
        let mut limiter = Limiter { lot: 88_172_645_463_325_252, ..Limiter::new(pace, 0) };
        let states: [u64; 3] =
            [8_748_534_153_485_358_512, 3_040_900_993_826_735_515, 3_453_997_556_048_239_312];
        for state in states {
            let lot = limiter.draw(1_000_003);
            assert_eq!(limiter.lot, state);
            assert_eq!(lot, (state >> 32) % 1_000_003);
        }
    }
}
