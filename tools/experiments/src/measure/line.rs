//! The exact line: a first-in-first-out wire that frames are put on at given times.
//!
//! Pacing on a virtual interface is not pacing on a wire: nothing there takes time. So what a
//! scheduler released is replayed over a line that does, the same for every scheduler. A scheduler
//! that releases more than the line carries builds up a queue in the replay, and its latency shows it.

use base_flow::Rate;

/// What a frame of `bytes` (without check sequence) occupies on Ethernet: padding to 60 bytes, 4 of
/// check sequence, 8 of preamble and start, 12 of gap.
pub const fn occupied_bytes(bytes: usize) -> u64 {
    (if bytes < 60 { 60 } else { bytes } + 4 + 8 + 12) as u64
}

/// A wire that is busy until some time.
#[derive(Debug, Clone, Copy)]
pub struct ExactLine {
    bits_per_s: u64,
    free_ns: f64,
}

impl ExactLine {
    /// An idle line.
    pub const fn new(rate: Rate) -> Self {
        Self { bits_per_s: rate.bits_per_s(), free_ns: 0.0 }
    }

    /// How long a frame takes.
    pub fn frame_ns(&self, bytes: usize) -> f64 {
        occupied_bytes(bytes) as f64 * 8e9 / self.bits_per_s as f64
    }

    /// Puts a frame on the line at `at_ns`, behind those before it; returns when its last bit is out.
    pub fn send(&mut self, at_ns: u64, bytes: usize) -> u64 {
        self.free_ns = self.free_ns.max(at_ns as f64) + self.frame_ns(bytes);
        self.free_ns.round() as u64
    }
}

/// The most by which the frames within any millisecond exceed what the line carries in one, in bytes
/// of occupancy; 0 if none does. `frames` are times and lengths, in order of time.
///
/// A millisecond holds the frames that begin in it, so even an exact line exceeds it by less than
/// one frame.
pub fn worst_excess_bytes(frames: impl IntoIterator<Item = (u64, usize)>, rate: Rate) -> u64 {
    const WINDOW_NS: u64 = 1_000_000;
    let capacity = rate.bits_per_s() / 8 / 1_000;
    let mut window = std::collections::VecDeque::new();
    let (mut inside, mut worst) = (0, 0);
    for (at, bytes) in frames {
        while let Some(&(first, gone)) = window.front()
            && at >= first + WINDOW_NS
        {
            inside -= gone;
            window.pop_front();
        }
        let occupied = occupied_bytes(bytes);
        window.push_back((at, occupied));
        inside += occupied;
        worst = worst.max(inside.saturating_sub(capacity));
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_frame_takes_123_040_ns_at_100_mbit() {
        let mut line = ExactLine::new(Rate::mbit(100));
        assert_eq!(occupied_bytes(1514), 1538);
        assert_eq!(occupied_bytes(42), 84);
        assert_eq!(line.send(1_000, 1514), 124_040);
        assert_eq!(line.send(1_000, 1514), 247_080, "behind the first");
        assert_eq!(line.send(300_000, 60), 306_720, "the line was free again");
    }

    #[test]
    fn frames_at_line_rate_exceed_no_millisecond_by_more_than_a_frame() {
        let exact = (0..1000).map(|i| (i * 123_040, 1514));
        assert!(worst_excess_bytes(exact, Rate::mbit(100)) <= 1538);
        let burst = (0..10).map(|_| (5, 1514));
        assert_eq!(worst_excess_bytes(burst, Rate::mbit(100)), 15_380 - 12_500);
    }
}
