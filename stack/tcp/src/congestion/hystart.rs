//! When to leave slow start before it overflows a queue: HyStart++ (RFC 9406).

use super::{Acked, Window};

/// Watches round-trip times during slow start.
#[derive(Debug, Clone)]
pub(super) struct HyStart {
    last_round_min_ns: u64,
    round_min_ns: u64,
    samples: u32,
    /// Conservative slow start, if times have grown.
    conservative: Option<Conservative>,
    /// Bytes that did not count in conservative slow start yet.
    credit: u64,
}

#[derive(Debug, Clone)]
struct Conservative {
    baseline_ns: u64,
    rounds: u32,
}

impl HyStart {
    // RFC 9406 §4.3.
    const RTT_MIN_NS: u64 = 4_000_000;
    const RTT_MAX_NS: u64 = 16_000_000;
    const RTT_DIVISOR: u64 = 8;
    const SAMPLES: u32 = 8;
    const GROWTH_DIVISOR: u64 = 4;
    const ROUNDS: u32 = 5;

    pub(super) const fn new() -> Self {
        Self {
            last_round_min_ns: u64::MAX,
            round_min_ns: u64::MAX,
            samples: 0,
            conservative: None,
            credit: 0,
        }
    }

    /// Grows `window` in slow start, and sets its threshold when that is to end; what is left of the
    /// acknowledged bytes counts beyond it.
    pub(super) fn acked(&mut self, window: &mut Window, acked: &Acked) -> u64 {
        self.watch(acked);
        let mut bytes = acked.bytes;
        if self.conservative.is_some() {
            let all = self.credit + bytes;
            bytes = all / Self::GROWTH_DIVISOR;
            self.credit = all % Self::GROWTH_DIVISOR;
        }
        let rest = super::reno::slow_start(window, bytes);
        if self.conservative.as_ref().is_some_and(|css| css.rounds >= Self::ROUNDS) {
            window.threshold = window.bytes;
        }
        rest
    }

    fn watch(&mut self, acked: &Acked) {
        if acked.new_round {
            self.last_round_min_ns = self.round_min_ns;
            self.round_min_ns = u64::MAX;
            self.samples = 0;
            if let Some(conservative) = &mut self.conservative {
                conservative.rounds += 1;
            }
        }
        let Some(rtt_ns) = acked.rtt_ns else { return };
        self.round_min_ns = self.round_min_ns.min(rtt_ns);
        self.samples += 1;
        if self.samples < Self::SAMPLES || self.last_round_min_ns == u64::MAX {
            return;
        }
        match &self.conservative {
            None => {
                let grown = (self.last_round_min_ns / Self::RTT_DIVISOR)
                    .clamp(Self::RTT_MIN_NS, Self::RTT_MAX_NS);
                if self.round_min_ns >= self.last_round_min_ns.saturating_add(grown) {
                    let baseline_ns = self.round_min_ns;
                    self.conservative = Some(Conservative { baseline_ns, rounds: 0 });
                }
            }
            // It was jitter.
            Some(conservative) if self.round_min_ns < conservative.baseline_ns => {
                self.conservative = None;
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of `segments` acknowledgments that each took `rtt_ns`.
    fn round(hystart: &mut HyStart, window: &mut Window, rtt_ns: u64, segments: u64) {
        for segment in 0..segments {
            let acked = Acked {
                now_ns: 0,
                bytes: 1000,
                rtt_ns: Some(rtt_ns),
                smoothed_rtt_ns: rtt_ns,
                new_round: segment == 0,
                limited: true,
            };
            hystart.acked(window, &acked);
        }
    }

    #[test]
    fn slow_start_goes_on_while_times_stay_and_ends_five_rounds_after_they_grew() {
        let mut hystart = HyStart::new();
        let mut window = Window { bytes: 10_000, threshold: u64::MAX, segment: 1000 };
        for _ in 0..3 {
            round(&mut hystart, &mut window, 20_000_000, 10);
        }
        assert_eq!(window.bytes, 40_000);
        round(&mut hystart, &mut window, 30_000_000, 16);
        let slower = window.bytes;
        assert!(slower < 40_000 + 16_000 && slower > 40_000 + 8_000);
        for _ in 0..5 {
            assert_eq!(window.threshold, u64::MAX);
            round(&mut hystart, &mut window, 30_000_000, 16);
        }
        round(&mut hystart, &mut window, 30_000_000, 1);
        assert!(window.threshold < u64::MAX);
    }

    #[test]
    fn a_burst_of_jitter_does_not_end_slow_start() {
        let mut hystart = HyStart::new();
        let mut window = Window { bytes: 10_000, threshold: u64::MAX, segment: 1000 };
        for rtt_ns in [20_000_000, 30_000_000, 20_000_000, 20_000_000] {
            round(&mut hystart, &mut window, rtt_ns, 20);
        }
        let before = window.bytes;
        round(&mut hystart, &mut window, 20_000_000, 8);
        assert_eq!((window.bytes - before, window.threshold), (8000, u64::MAX));
    }
}
