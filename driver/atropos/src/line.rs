//! The line: what a frame costs, and how precisely it is scheduled.

use base_flow::Rate;

/// Facts about the wire that the scheduler works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    rate: Rate,
    /// Wire time of the longest frame.
    frame_ns: u64,
    /// Wire time of the longest unit: what the scheduler decides about at a time.
    unit_ns: u64,
    lead_ns: u64,
    /// Least a frame costs, whatever its wire time: the driver's own time for it, so that
    /// guarantees hold where the processor and not the wire is the bottleneck.
    cost_ns_min: u64,
    shift: u32,
}

impl Line {
    /// Coarsest bucket width that keeps the longest period and its deadline within the queues.
    const SHIFT_MIN: u32 = 7;

    /// A line of `rate` for frames of up to `frame_bytes` (without check sequence).
    ///
    /// `lead_ns` is how far ahead of the wire frames are handed to the device: 0 for a driver that
    /// spins, at least the time of a wake-up for one that sleeps. It adds to the tardiness bound.
    pub const fn new(rate: Rate, frame_bytes: usize, lead_ns: u64) -> Self {
        let frame_ns = rate.wire_ns(frame_bytes);
        // Buckets of at most an eighth of the longest frame, but wide enough for the horizon.
        let eighth = frame_ns / 8;
        let shift = if eighth < 1 << Self::SHIFT_MIN { Self::SHIFT_MIN } else { eighth.ilog2() };
        Self { rate, frame_ns, unit_ns: frame_ns, lead_ns, cost_ns_min: 0, shift }
    }

    /// The same line, on which no frame costs less than `cost_ns`.
    #[must_use]
    pub const fn with_cost_min(self, cost_ns: u64) -> Self {
        let unit_ns = if self.unit_ns > cost_ns { self.unit_ns } else { cost_ns };
        Self { cost_ns_min: cost_ns, unit_ns, ..self }
    }

    /// The same line, to which units of up to `unit_ns` of wire time are handed at once.
    #[must_use]
    pub const fn with_units(self, unit_ns: u64) -> Self {
        Self { unit_ns: if unit_ns > self.frame_ns { unit_ns } else { self.frame_ns }, ..self }
    }

    /// What a frame of `frame_bytes` is charged.
    pub const fn cost_ns(&self, frame_bytes: usize) -> u64 {
        self.unit_cost_ns(self.rate.wire_ns(frame_bytes), 1)
    }

    /// What a unit is charged that the link cuts into `frames`, which take `wire_ns` of the wire together.
    ///
    /// The driver handles it once, and then somebody cuts: the interface itself, which takes hardly anything of the
    /// driver's time, or the kernel, which takes a third of what sending a frame by a socket does (750 ns of
    /// 2,150 ns, measured on a veth).
    pub const fn unit_cost_ns(&self, wire_ns: u64, frames: u64) -> u64 {
        let driver_ns = self.cost_ns_min.saturating_mul(frames.saturating_add(2)) / 3;
        if wire_ns < driver_ns { driver_ns } else { wire_ns }
    }

    /// Least that a frame is charged.
    pub const fn cost_ns_min(&self) -> u64 {
        self.cost_ns_min
    }

    /// The rate.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Wire time of the longest frame.
    pub const fn frame_ns(&self) -> u64 {
        self.frame_ns
    }

    /// What the longest unit is charged: nothing that costs more may be sent.
    pub const fn unit_ns(&self) -> u64 {
        self.unit_ns
    }

    /// How far ahead of the wire frames are handed to the device.
    pub const fn lead_ns(&self) -> u64 {
        self.lead_ns
    }

    /// How late beyond its key a guaranteed frame can leave the wire.
    pub const fn tardiness_ns(&self) -> u64 {
        self.unit_ns + self.lead_ns + (1 << self.shift)
    }

    pub(crate) const fn shift(&self) -> u32 {
        self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_at_most_a_unit_the_lead_and_a_bucket_late() {
        let line = Line::new(Rate::mbit(100), 1514, 1_000);
        assert_eq!((line.frame_ns(), line.tardiness_ns()), (123_040, 123_040 + 1_000 + 8_192));
        let line = line.with_units(500_000);
        assert_eq!((line.unit_ns(), line.tardiness_ns()), (500_000, 500_000 + 1_000 + 8_192));
        let line = Line::new(Rate::mbit(100_000), 1514, 0).with_cost_min(2_000);
        assert_eq!((line.cost_ns(60), line.cost_ns(1514)), (2_000, 2_000));
        assert_eq!(line.tardiness_ns(), 2_000 + 128, "no frame is cheaper, so no unit is shorter");
        assert_eq!((line.unit_cost_ns(123, 1), line.unit_cost_ns(1_230, 10)), (2_000, 8_000));
        assert_eq!(line.unit_cost_ns(12_300, 10), 12_300);
    }

    #[test]
    fn units_are_not_shorter_than_frames_nor_cheaper_than_what_a_frame_costs() {
        let line = Line::new(Rate::mbit(100), 1514, 7);
        assert_eq!((line.rate(), line.lead_ns(), line.unit_ns()), (Rate::mbit(100), 7, 123_040));
        assert_eq!(line.with_units(123_039).unit_ns(), 123_040);
        assert_eq!(line.with_units(123_041).unit_ns(), 123_041);
        assert_eq!(line.with_cost_min(123_041).unit_ns(), 123_041);
        let units = line.with_units(500_000).with_cost_min(200_000);
        assert_eq!((units.unit_ns(), units.frame_ns()), (500_000, 123_040));
        assert_eq!((units.cost_ns(1514), line.cost_ns(1514)), (200_000, 123_040));
        assert_eq!(line.with_cost_min(10_000).cost_ns(60), 10_000);
        assert_eq!(line.with_cost_min(10_000).cost_ns(1514), 123_040);
    }

    /// An eighth of a frame or the power of two below it, but no less than the horizon needs.
    #[test]
    fn buckets_are_as_wide_as_the_longest_frame_and_the_longest_period_allow() {
        for (frame_bytes, mbit, width) in
            [(1514, 100, 8_192), (1514, 1_000, 1_024), (1514, 10_000, 128), (60, 100, 512)]
        {
            let line = Line::new(Rate::mbit(mbit), frame_bytes, 0);
            let late = line.tardiness_ns() - line.unit_ns();
            assert_eq!((late, 1 << line.shift()), (width, width), "{frame_bytes} at {mbit}");
        }
    }
}
