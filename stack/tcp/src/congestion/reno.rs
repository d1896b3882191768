//! Slow start and congestion avoidance (RFC 5681 §3.1).

use super::{Acked, Congestion, Window, remains};

/// One segment more each round trip, half as much after congestion.
#[derive(Debug, Clone, Default)]
pub struct Reno {
    /// Bytes acknowledged since the window grew last.
    credit: u64,
}

impl Congestion for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn acked(&mut self, window: &mut Window, acked: &Acked) {
        if !acked.limited {
            return;
        }
        let bytes = slow_start(window, acked.bytes);
        self.credit += bytes;
        // Appropriate byte counting (RFC 3465), so delayed acknowledgments do not slow it down.
        // By one segment at a time, whatever a single one acknowledges.
        if bytes > 0 && self.credit >= window.bytes {
            self.credit = (self.credit - window.bytes).min(window.bytes);
            window.bytes += window.segment;
        }
    }

    fn congested(&mut self, window: &Window, flight: u64) -> u64 {
        self.credit = 0;
        remains(window, flight, 1, 2)
    }
}

/// Grows the window by what was acknowledged, up to the threshold; what is left of `bytes` counts
/// beyond it (RFC 9293 MUST-19).
pub(super) fn slow_start(window: &mut Window, bytes: u64) -> u64 {
    let grow = bytes.min(window.threshold.saturating_sub(window.bytes));
    window.bytes += grow;
    bytes - grow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(bytes: u64) -> Acked {
        Acked {
            now_ns: 0,
            bytes,
            rtt_ns: None,
            smoothed_rtt_ns: 0,
            new_round: false,
            limited: true,
        }
    }

    #[test]
    fn a_round_trip_doubles_the_window_below_the_threshold_and_adds_a_segment_above() {
        // RFC 9293 MUST-19.
        let mut reno = Reno::default();
        let mut window = Window { bytes: 10_000, threshold: 15_000, segment: 1000 };
        reno.acked(&mut window, &acked(10_000));
        assert_eq!(window.bytes, 15_000, "half of it below the threshold");
        for _ in 0..10 {
            reno.acked(&mut window, &acked(1000));
        }
        assert_eq!(window.bytes, 16_000, "5000 before and 10000 now make a window");
    }

    #[test]
    fn a_window_that_was_not_used_does_not_grow() {
        let mut window = Window { bytes: 10_000, threshold: 50_000, segment: 1000 };
        Reno::default().acked(&mut window, &Acked { limited: false, ..acked(10_000) });
        assert_eq!(window.bytes, 10_000);
    }

    #[test]
    fn half_of_what_was_under_way_remains_and_two_segments_at_least() {
        let window = Window { bytes: 20_000, threshold: u64::MAX, segment: 1000 };
        assert_eq!(Reno::default().congested(&window, 50_000), 10_000);
        assert_eq!(Reno::default().congested(&window, 8_000), 4_000);
        assert_eq!(Reno::default().congested(&window, 1_000), 2_000);
    }
}
