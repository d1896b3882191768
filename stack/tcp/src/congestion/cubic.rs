//! CUBIC (RFC 9438), in integers.

use super::hystart::HyStart;
use super::reno::slow_start;
use super::{Acked, Congestion, Window, remains};

/// Grows with the cube of the time since the last congestion: fast, then hardly at all around the
/// window where it was congested, then fast again.
#[derive(Debug, Clone)]
pub struct Cubic {
    curve: Curve,
    /// What it was before the last congestion, if that should turn out to have been none.
    before: Curve,
    hystart: HyStart,
}

#[derive(Debug, Clone, Copy, Default)]
struct Curve {
    /// The window at which there was congestion (`W_max`), in bytes.
    congested_at: u64,
    /// The window just before it (`cwnd_prior`).
    prior: u64,
    epoch: Option<Epoch>,
}

/// Congestion avoidance since the last congestion.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    start_ns: u64,
    /// When the curve reaches `congested_at`, from the start on (`K`).
    plateau_us: u64,
    /// What Reno would have (`W_est`).
    reno_bytes: u64,
    reno_credit: u64,
    credit: u64,
    heard_ns: u64,
}

impl Default for Cubic {
    fn default() -> Self {
        Self::new()
    }
}

impl Cubic {
    /// β = 0.7 (§4.6).
    const DECREASE: (u64, u64) = (7, 10);

    /// α = 3 (1 − β) / (1 + β) (§4.3).
    const RENO_GROWTH: (u64, u64) = (9, 17);

    /// A connection that has seen no congestion.
    pub const fn new() -> Self {
        let curve = Curve { congested_at: 0, prior: 0, epoch: None };
        Self { curve, before: curve, hystart: HyStart::new() }
    }

    fn avoid(&mut self, window: &mut Window, acked: &Acked, bytes: u64) {
        let curve = &mut self.curve;
        let epoch = curve.epoch.get_or_insert_with(|| {
            let short = curve.congested_at.saturating_sub(window.bytes);
            if short == 0 {
                curve.congested_at = window.bytes;
            }
            Epoch {
                start_ns: acked.now_ns,
                plateau_us: plateau_us(short, window.segment),
                reno_bytes: window.bytes,
                reno_credit: 0,
                credit: 0,
                heard_ns: acked.now_ns,
            }
        });
        epoch.heard_ns = acked.now_ns;
        // §4.3: as fast as Reno until the old window is reached, then as fast as it would from there.
        let (part, of) = if epoch.reno_bytes < curve.prior { Self::RENO_GROWTH } else { (1, 1) };
        epoch.reno_credit += bytes * window.segment * part / of;
        epoch.reno_bytes += epoch.reno_credit / window.bytes;
        epoch.reno_credit %= window.bytes;

        let elapsed_us = acked.now_ns.saturating_sub(epoch.start_ns) / 1000;
        let here = cubic_bytes(elapsed_us, epoch.plateau_us, curve.congested_at, window.segment);
        if here < epoch.reno_bytes {
            window.bytes = window.bytes.max(epoch.reno_bytes);
            return;
        }
        // §4.4: aim at where the curve is a round trip from now.
        let ahead_us = elapsed_us + acked.smoothed_rtt_ns / 1000;
        let target = cubic_bytes(ahead_us, epoch.plateau_us, curve.congested_at, window.segment)
            .clamp(window.bytes, window.bytes + window.bytes / 2);
        epoch.credit = epoch.credit.saturating_add((target - window.bytes).saturating_mul(bytes));
        let grow = epoch.credit / window.bytes;
        epoch.credit %= window.bytes;
        window.bytes += grow;
    }
}

impl Congestion for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn acked(&mut self, window: &mut Window, acked: &Acked) {
        if !acked.limited {
            // §5.8: time in which the sender had nothing to send is not time of the curve.
            if let Some(epoch) = &mut self.curve.epoch {
                epoch.start_ns += acked.now_ns.saturating_sub(epoch.heard_ns);
                epoch.heard_ns = acked.now_ns;
            }
            return;
        }
        let bytes = match (window.is_slow_start(), window.threshold) {
            (false, _) => acked.bytes,
            // RFC 9406 §4.3: only where nothing is known of the path yet.
            (true, u64::MAX) => self.hystart.acked(window, acked),
            (true, _) => slow_start(window, acked.bytes),
        };
        // Time counts from the first acknowledgment on, although it may not grow the window.
        let begins = self.curve.epoch.is_none() && !window.is_slow_start();
        if bytes > 0 || begins {
            self.avoid(window, acked, bytes);
        }
    }

    fn congested(&mut self, window: &Window, flight: u64) -> u64 {
        self.before = self.curve;
        let curve = &mut self.curve;
        // §4.7, fast convergence: congested earlier than last time, so somebody new is there.
        curve.congested_at = if window.bytes < curve.congested_at {
            window.bytes * (Self::DECREASE.0 + Self::DECREASE.1) / (2 * Self::DECREASE.1)
        } else {
            window.bytes
        };
        curve.prior = window.bytes;
        curve.epoch = None;
        remains(window, flight, Self::DECREASE.0, Self::DECREASE.1)
    }

    fn timed_out(&mut self, window: &Window, _flight: u64) -> u64 {
        // §4.6 permits the window in place of the flight where it does not grow unused, which it does not
        // (`acked`). What happens to be the last of a request says little of the path (as Linux sees it).
        let threshold = self.congested(window, window.bytes);
        // §4.8: after a time-out the curve begins where congestion avoidance does.
        self.curve.congested_at = 0;
        self.hystart = HyStart::new();
        threshold
    }

    fn timed_out_again(&mut self, window: &Window, _flight: u64) -> u64 {
        // One reduction for one episode, as Linux does.
        window.threshold
    }

    fn undo(&mut self) {
        self.curve = self.before;
    }
}

/// `K` (§4.2): when the curve that starts `short` bytes below its plateau reaches it.
fn plateau_us(short: u64, segment: u64) -> u64 {
    // K³ = short / (C · segment) with C = 0.4, in seconds; 10¹⁸ makes them microseconds.
    let cube = u128::from(short) * 5 * 1_000_000_000_000_000_000 / (2 * u128::from(segment.max(1)));
    cube_root(cube)
}

/// `W_cubic` (§4.2), in bytes.
fn cubic_bytes(elapsed_us: u64, plateau_us: u64, plateau: u64, segment: u64) -> u64 {
    // Farther away than this the window is as large as it can be anyway.
    const FAR_US: i128 = 10_000_000_000;
    let away = (i128::from(elapsed_us) - i128::from(plateau_us)).clamp(-FAR_US, FAR_US);
    let grown = away.pow(3) * 2 * i128::from(segment) / (5 * 1_000_000_000_000_000_000);
    u64::try_from((i128::from(plateau) + grown).max(0)).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// The largest number whose cube is not larger, by Newton's method.
fn cube_root(cube: u128) -> u64 {
    if cube == 0 {
        return 0;
    }
    let mut root = 1u128 << (cube.ilog2() / 3 + 1);
    loop {
        let better = (2 * root + cube / (root * root)) / 3;
        if better >= root {
            return root as u64;
        }
        root = better;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT_NS: u64 = 100_000_000;

    /// The window after `rounds` round trips in which it was always used.
    fn grow(cubic: &mut Cubic, window: &mut Window, now_ns: &mut u64, rounds: u32) {
        for _ in 0..rounds {
            let (segments, mut new_round) = (window.bytes / window.segment, true);
            for _ in 0..segments {
                *now_ns += RTT_NS / segments;
                let acked = Acked {
                    now_ns: *now_ns,
                    bytes: window.segment,
                    rtt_ns: Some(RTT_NS),
                    smoothed_rtt_ns: RTT_NS,
                    new_round,
                    limited: true,
                };
                cubic.acked(window, &acked);
                new_round = false;
            }
        }
    }

    #[test]
    fn the_window_is_back_where_it_was_after_the_time_of_the_equation() {
        let mut cubic = Cubic::new();
        let mut window = Window { bytes: 1_000_000, threshold: 500_000, segment: 1000 };
        window.threshold = cubic.congested(&window, 1_000_000);
        window.bytes = window.threshold;
        assert_eq!(window.bytes, 700_000);
        // K = cbrt(300 / 0.4) = 9.09 s.
        let mut now = 0;
        grow(&mut cubic, &mut window, &mut now, 45);
        assert!((900_000..1_000_000).contains(&window.bytes), "{}", window.bytes);
        grow(&mut cubic, &mut window, &mut now, 45);
        assert!((990_000..1_001_000).contains(&window.bytes), "{}", window.bytes);
        grow(&mut cubic, &mut window, &mut now, 90);
        assert!(window.bytes > 1_250_000, "then it looks for more: {}", window.bytes);
    }

    #[test]
    fn small_windows_grow_at_least_as_fast_as_reno_shares() {
        let mut cubic = Cubic::new();
        let mut window = Window { bytes: 10_000, threshold: 10_000, segment: 1000 };
        window.threshold = cubic.congested(&window, 10_000);
        window.bytes = window.threshold;
        let mut now = 0;
        grow(&mut cubic, &mut window, &mut now, 10);
        assert!(window.bytes >= 7_000 + 10 * 9 * 1000 / 17 - 1000, "{}", window.bytes);
    }

    #[test]
    fn idle_time_does_not_move_along_the_curve() {
        let mut cubic = Cubic::new();
        let mut window = Window { bytes: 700_000, threshold: 700_000, segment: 1000 };
        cubic.congested(&Window { bytes: 1_000_000, ..window }, 1_000_000);
        let mut now = 0;
        grow(&mut cubic, &mut window, &mut now, 5);
        let before = window.bytes;
        now += 3_600_000_000_000;
        let idle = Acked {
            now_ns: now,
            bytes: 1000,
            rtt_ns: None,
            smoothed_rtt_ns: RTT_NS,
            new_round: true,
            limited: false,
        };
        cubic.acked(&mut window, &idle);
        assert_eq!(window.bytes, before);
        grow(&mut cubic, &mut window, &mut now, 1);
        assert!(window.bytes < before + before / 10, "{before} {}", window.bytes);
    }

    #[test]
    fn congestion_that_was_none_leaves_no_trace_on_the_curve() {
        let mut cubic = Cubic::new();
        let mut window = Window { bytes: 700_000, threshold: 700_000, segment: 1000 };
        cubic.congested(&Window { bytes: 1_000_000, ..window }, 1_000_000);
        let mut now = 0;
        grow(&mut cubic, &mut window, &mut now, 5);
        let (mut twin, mut twin_window, mut twin_now) = (cubic.clone(), window, now);
        twin.congested(&window, 700_000);
        twin.undo();
        grow(&mut cubic, &mut window, &mut now, 20);
        grow(&mut twin, &mut twin_window, &mut twin_now, 20);
        assert_eq!(window, twin_window);
    }

    #[test]
    fn one_episode_reduces_the_threshold_once_however_little_is_under_way_when_its_time_is_out_again()
     {
        let mut cubic = Cubic::new();
        let mut window = Window { bytes: 1_000_000, threshold: u64::MAX, segment: 1000 };
        window.threshold = cubic.timed_out(&window, 5_000);
        assert_eq!(window.threshold, 700_000, "of the window, not of what was under way");
        window.bytes = window.segment;
        for flight in [700_000, 5_000, 1_000, 0] {
            window.threshold = cubic.timed_out_again(&window, flight);
            assert_eq!(window.threshold, 700_000, "{flight} under way");
        }
    }

    proptest! {
        #[test]
        fn the_root_is_the_largest_whose_cube_fits(cube in 0u128..1 << 120) {
            let root = u128::from(cube_root(cube));
            prop_assert!(root.pow(3) <= cube && (root + 1).pow(3) > cube);
        }

        #[test]
        fn no_acknowledgment_makes_the_window_smaller(
            bytes in 2_000u64..1 << 30, threshold in 2_000u64..1 << 30,
            steps in proptest::collection::vec((0u64..10_000_000_000, 1u64..1 << 20, any::<bool>(), 0u64..1_000_000_000), 1..50),
        ) {
            let mut cubic = Cubic::new();
            let mut window = Window { bytes, threshold, segment: 1000 };
            let mut now_ns = 0;
            for (later, bytes, limited, rtt) in steps {
                let before = window.bytes;
                now_ns += later;
                cubic.acked(&mut window, &Acked { now_ns, bytes, rtt_ns: Some(rtt), smoothed_rtt_ns: rtt, new_round: true, limited });
                prop_assert!(window.bytes >= before);
                prop_assert!(window.bytes <= before + bytes.max(before));
            }
        }
    }
}
