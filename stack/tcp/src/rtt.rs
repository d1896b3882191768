//! How long an answer takes, and how long to wait for one (RFC 6298, RFC 7323 appendix G).

/// Round-trip time: smoothed, its variation, the smallest of late, and the time-out that follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rtt {
    smoothed_ns: Option<u64>,
    variation_ns: u64,
    min_ns: u64,
    min_at_ns: u64,
    /// How often the time-out was doubled.
    backoff: u8,
}

/// Bounds of the time-out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RtoBounds {
    pub(crate) initial_ns: u64,
    pub(crate) min_ns: u64,
    pub(crate) max_ns: u64,
}

impl Rtt {
    /// For so long the smallest time is believed: routes change.
    const MIN_LASTS_NS: u64 = 300_000_000_000;

    pub(crate) const fn new() -> Self {
        Self { smoothed_ns: None, variation_ns: 0, min_ns: u64::MAX, min_at_ns: 0, backoff: 0 }
    }

    /// Takes a sample, by the oldest of what is acknowledged, so that the peer's delay is in it. If
    /// `samples` are expected in a round trip, each counts the less (RFC 7323 appendix G). Ends the
    /// doubling (RFC 6298 §5.7 lets it stay until a new sample).
    pub(crate) fn sample(&mut self, now_ns: u64, rtt_ns: u64, samples: u64) {
        let rtt_ns = rtt_ns.max(1);
        self.backoff = 0;
        self.fastest(now_ns, rtt_ns);
        let Some(smoothed) = self.smoothed_ns else {
            // RFC 6298 §2.2.
            self.smoothed_ns = Some(rtt_ns);
            self.variation_ns = rtt_ns / 2;
            return;
        };
        // RFC 6298 §2.3: a quarter of the deviation, an eighth of the time.
        let samples = samples.max(1);
        let deviation = smoothed.abs_diff(rtt_ns);
        self.variation_ns = toward(self.variation_ns, deviation, 4 * samples);
        self.smoothed_ns = Some(toward(smoothed, rtt_ns, 8 * samples));
    }

    /// Takes a time, by the newest of what is acknowledged, into the smallest of late.
    pub(crate) const fn fastest(&mut self, now_ns: u64, rtt_ns: u64) {
        let stale = now_ns.saturating_sub(self.min_at_ns) > Self::MIN_LASTS_NS;
        if rtt_ns <= self.min_ns || stale {
            self.min_ns = if rtt_ns > 0 { rtt_ns } else { 1 };
            self.min_at_ns = now_ns;
        }
    }

    pub(crate) const fn smoothed_ns(&self) -> Option<u64> {
        self.smoothed_ns
    }

    pub(crate) const fn variation_ns(&self) -> u64 {
        self.variation_ns
    }

    /// The smallest sample, if there is one.
    pub(crate) fn min_ns(&self) -> Option<u64> {
        (self.min_ns != u64::MAX).then_some(self.min_ns)
    }

    /// The retransmission time-out (RFC 6298 §2, RFC 9293 MUST-18). The floor is put under the variation, so that it is
    /// a margin and not hidden by a long round trip, as Linux does.
    pub(crate) fn timeout_ns(&self, bounds: &RtoBounds) -> u64 {
        let base = match self.smoothed_ns {
            None => bounds.initial_ns,
            Some(smoothed) => smoothed + (4 * self.variation_ns).max(bounds.min_ns),
        };
        base.saturating_mul(1 << self.backoff.min(32)).min(bounds.max_ns)
    }

    /// Doubles the time-out (RFC 6298 §5.5, RFC 9293 MUST-19).
    pub(crate) const fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    pub(crate) const fn backoff(&self) -> u8 {
        self.backoff
    }

    /// Ends the doubling.
    pub(crate) const fn calm(&mut self) {
        self.backoff = 0;
    }
}

/// `old` moved by one `divisor`th of the way to `new`, and at least a bit.
fn toward(old: u64, new: u64, divisor: u64) -> u64 {
    let step = old.abs_diff(new).div_ceil(divisor);
    if new > old { old + step } else { old - step }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RtoBounds =
        RtoBounds { initial_ns: 1_000_000_000, min_ns: 200_000_000, max_ns: 60_000_000_000 };

    #[test]
    fn the_smallest_time_is_believed_for_five_minutes_unless_there_is_a_smaller_one() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.min_ns(), None);
        rtt.fastest(7, 100);
        rtt.fastest(7 + Rtt::MIN_LASTS_NS, 200);
        assert_eq!(rtt.min_ns(), Some(100));
        rtt.fastest(8 + Rtt::MIN_LASTS_NS, 200);
        assert_eq!(rtt.min_ns(), Some(200));
        rtt.fastest(9 + Rtt::MIN_LASTS_NS, 0);
        assert_eq!(rtt.min_ns(), Some(1), "no time is none at all");
    }

    #[test]
    fn the_first_sample_gives_three_times_itself_or_the_floor_above_it() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout_ns(&BOUNDS), 1_000_000_000);
        rtt.sample(0, 1_000_000_000, 1);
        assert_eq!(rtt.timeout_ns(&BOUNDS), 3_000_000_000);
        let mut short = Rtt::new();
        short.sample(0, 10_000, 1);
        assert_eq!(short.timeout_ns(&BOUNDS), 200_010_000);
    }

    #[test]
    fn the_time_out_doubles_up_to_its_bound_and_a_sample_ends_that() {
        // RFC 9293 MUST-19.
        let mut rtt = Rtt::new();
        rtt.sample(0, 100_000_000, 1);
        for doubling in 0..80u32 {
            let expected = 300_000_000u64.saturating_mul(1 << doubling.min(20));
            assert_eq!(rtt.timeout_ns(&BOUNDS), expected.min(60_000_000_000));
            rtt.back_off();
        }
        rtt.sample(1, 100_000_000, 1);
        assert!(rtt.timeout_ns(&BOUNDS) <= 300_000_000);
    }

    #[test]
    fn many_samples_a_round_trip_forget_no_faster_than_one() {
        let (mut one, mut many) = (Rtt::new(), Rtt::new());
        one.sample(0, 1_000_000, 1);
        many.sample(0, 1_000_000, 1);
        one.sample(1, 9_000_000, 1);
        for _ in 0..100 {
            many.sample(1, 9_000_000, 100);
        }
        let (one, many) = (one.smoothed_ns().unwrap(), many.smoothed_ns().unwrap());
        assert!(one.abs_diff(many) < one / 10, "{one} {many}");
    }
}
