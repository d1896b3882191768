//! Congestion control for a flow whose share of the wire is guaranteed.

use super::{Acked, Congestion, Cubic, Window};

/// Starts at the guarantee instead of looking for it, and is [`Cubic`] beyond and after congestion.
///
/// What a contract gives is a rate at *our* interface, whatever the neighbours do. So:
///
/// * There is no slow start up to it. As soon as a round-trip time is known, the window covers the
///   guaranteed rate for a round trip and a period: the driver, not a burst of ours, spaces the
///   frames out, and it may let a whole slice go at once.
/// * Without slack there is no growth beyond it either. More could only queue up in front of the
///   driver, where it would make the round trip longer and nothing faster.
/// * With slack, growth beyond it is a matter of what others leave, and that has to be probed for.
/// * Congestion on the way is taken as seriously as by anybody else (RFC 2914). The contract binds the
///   interface and not the routers behind it, so a loss shrinks the window as it would without a
///   contract. Only the way back is shorter: up to what was given before is slow start.
#[derive(Debug, Clone)]
pub struct Guaranteed {
    bytes_per_second: u64,
    period_ns: u64,
    slack: bool,
    cubic: Cubic,
    started: bool,
}

impl Guaranteed {
    /// For a contract of `bytes_per_second` in slices every `period_ns`, with or without slack.
    pub const fn new(bytes_per_second: u64, period_ns: u64, slack: bool) -> Self {
        Self { bytes_per_second, period_ns, slack, cubic: Cubic::new(), started: false }
    }

    /// The guarantee for a round trip and a period.
    fn given(&self, window: &Window, rtt_ns: u64) -> u64 {
        let span = u128::from(rtt_ns) + u128::from(self.period_ns);
        let bytes = u128::from(self.bytes_per_second) * span / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX / 4).max(2 * window.segment)
    }
}

impl Congestion for Guaranteed {
    fn name(&self) -> &'static str {
        "guaranteed"
    }

    fn acked(&mut self, window: &mut Window, acked: &Acked) {
        let rtt_ns = acked.smoothed_rtt_ns;
        if rtt_ns == 0 {
            return;
        }
        let given = self.given(window, rtt_ns);
        if !self.started {
            self.started = true;
            if self.slack {
                window.bytes = window.bytes.max(given);
            } else {
                window.bytes = given;
                window.threshold = window.threshold.min(given);
            }
            return;
        }
        if self.slack || window.bytes < given {
            self.cubic.acked(window, acked);
        }
    }

    fn congested(&mut self, window: &Window, flight: u64) -> u64 {
        self.cubic.congested(window, flight)
    }

    fn timed_out(&mut self, window: &Window, flight: u64) -> u64 {
        self.cubic.timed_out(window, flight)
    }

    fn undo(&mut self) {
        self.cubic.undo();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(rtt_ns: u64) -> Acked {
        Acked {
            now_ns: 1,
            bytes: 1000,
            rtt_ns: Some(rtt_ns),
            smoothed_rtt_ns: rtt_ns,
            new_round: true,
            limited: true,
        }
    }

    #[test]
    fn the_first_round_trip_opens_the_window_to_what_was_given_and_slack_goes_beyond() {
        // 1 MB/s for 20 ms + 100 ms.
        for slack in [false, true] {
            let mut control = Guaranteed::new(1_000_000, 100_000_000, slack);
            let mut window = Window::initial(1000);
            control.acked(&mut window, &acked(20_000_000));
            assert_eq!(window.bytes, 120_000);
            for _ in 0..100 {
                control.acked(&mut window, &acked(20_000_000));
            }
            assert_eq!(window.bytes > 120_000, slack, "{window:?}");
        }
    }

    #[test]
    fn a_smaller_contract_shrinks_the_window_to_what_it_gives() {
        let mut window = Window::initial(1000);
        window.bytes = 500_000;
        Guaranteed::new(1_000_000, 100_000_000, false).acked(&mut window, &acked(20_000_000));
        assert_eq!(window.bytes, 120_000);
        window.bytes = 500_000;
        Guaranteed::new(1_000_000, 100_000_000, true).acked(&mut window, &acked(20_000_000));
        assert_eq!(window.bytes, 500_000, "slack is what others leave");
    }

    #[test]
    fn congestion_on_the_way_counts_as_it_does_for_everybody() {
        let mut control = Guaranteed::new(1_000_000, 100_000_000, false);
        let mut window = Window::initial(1000);
        control.acked(&mut window, &acked(20_000_000));
        assert_eq!(control.congested(&window, 120_000), 84_000);
    }
}
