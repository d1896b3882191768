//! What was seen by receiving applications in one run, simulated or live.

use crate::measure::{Quantiles, line::occupied_bytes};
use crate::outcome::Metric;
use crate::picture::{Axis, Curve, Picture};

/// A datagram that an application read. Times in nanoseconds of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// When it was sent.
    pub sent_ns: u64,
    /// When the application had it.
    pub read_ns: u64,
}

/// One stream and the application that reads it.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    /// What it is called.
    pub name: String,
    /// Length of its frames, without check sequence.
    pub frame_bytes: u16,
    /// Datagrams that were sent to it.
    pub offered: u64,
    /// Datagrams that the receiving side says it dropped, for whatever reason.
    pub dropped: u64,
    /// Datagrams that had arrived and were not read yet when the run ended.
    pub waiting: u64,
    /// What it read.
    pub reads: Vec<Read>,
    /// Drops over time: until when, and how many so far.
    pub drops: Vec<(u64, u64)>,
}

impl Receiver {
    /// Datagrams sent and never seen again: neither read, nor waiting, nor dropped and counted.
    pub fn unaccounted(&self) -> i64 {
        self.offered as i64 - self.reads.len() as i64 - self.waiting as i64 - self.dropped as i64
    }

    /// Time from sending to reading.
    pub fn latencies(&self) -> Quantiles {
        let all = self.reads.iter().map(|read| read.read_ns.saturating_sub(read.sent_ns));
        Quantiles::of(all.collect())
    }
}

/// One run.
#[derive(Debug, Clone, Default)]
pub struct Reception {
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub until_ns: u64,
    /// The applications; the first one is the one that must not be hurt.
    pub receivers: Vec<Receiver>,
}

/// Length of the bins of pictures, as in the paper.
const BIN_NS: u64 = 200_000_000;

impl Reception {
    /// Bandwidth read, and bandwidth dropped, over time.
    pub fn picture(&self, name: &str, title: &str) -> Picture {
        let bins = (self.until_ns - self.from_ns) / BIN_NS;
        let mbit = |frames: u64, bytes: u16| {
            frames as f64 * occupied_bytes(bytes.into()) as f64 * 8e3 / BIN_NS as f64
        };
        let middle = |bin: u64| (bin as f64 + 0.5) * BIN_NS as f64 / 1e9;
        let mut curves = Vec::new();
        for receiver in &self.receivers {
            let mut read = vec![0; bins as usize];
            for datagram in &receiver.reads {
                let bin = datagram.read_ns.saturating_sub(self.from_ns) / BIN_NS;
                if let Some(count) = read.get_mut(bin as usize) {
                    *count += 1;
                }
            }
            let points = (0..bins).zip(&read);
            let points =
                points.map(|(bin, &count)| (middle(bin), mbit(count, receiver.frame_bytes)));
            curves.push(Curve { name: receiver.name.clone(), points: points.collect() });
            if receiver.dropped == 0 {
                continue;
            }
            let dropped_by = |at: u64| {
                let known = receiver.drops.partition_point(|&(until, _)| until <= at);
                known.checked_sub(1).map_or(0, |last| receiver.drops[last].1)
            };
            let points = (0..bins).map(|bin| {
                let from = self.from_ns + bin * BIN_NS;
                let count = dropped_by(from + BIN_NS) - dropped_by(from);
                (middle(bin), mbit(count, receiver.frame_bytes))
            });
            let name = format!("{}: loss", receiver.name);
            curves.push(Curve { name, points: points.collect() });
        }
        Picture {
            name: name.into(),
            title: title.into(),
            axes: [Axis::linear("time, s"), Axis::linear("bandwidth, Mbit/s")],
            curves,
        }
    }
}

/// Quantiles of latency as metrics, in microseconds.
pub fn latency_metrics(subject: &str, item: &str, latencies: &Quantiles) -> Vec<Metric> {
    let us = |ns: u64| ns as f64 / 1e3;
    let mut all: Vec<Metric> = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)]
        .map(|(name, q)| {
            let name = format!("latency {name}");
            Metric::new(subject, item, &name, us(latencies.at(q)), "µs")
        })
        .to_vec();
    all.push(Metric::new(subject, item, "latency max", us(latencies.max()), "µs"));
    all
}

/// Distributions of latency side by side.
pub fn latency_picture(name: &str, title: &str, all: &[(String, Quantiles)]) -> Picture {
    let curve = |(name, latencies): &(String, Quantiles)| Curve {
        name: name.clone(),
        points: latencies
            .cdf(200)
            .into_iter()
            .map(|(ns, share)| (ns as f64 / 1e3, share))
            .collect(),
    };
    Picture {
        name: name.into(),
        title: title.into(),
        axes: [Axis::logarithmic("latency, µs"), Axis::linear("share of packets")],
        curves: all.iter().map(curve).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_stream_closes_to_the_packet() {
        let reads = (0..7).map(|i| Read { sent_ns: i, read_ns: i + 5 }).collect();
        let mut receiver =
            Receiver { offered: 10, dropped: 2, waiting: 1, reads, ..Receiver::default() };
        assert_eq!(receiver.unaccounted(), 0);
        receiver.dropped = 1;
        assert_eq!(receiver.unaccounted(), 1, "a drop that nobody counted");
        assert_eq!(receiver.latencies().max(), 5);
    }

    #[test]
    fn bandwidth_and_loss_are_drawn_against_time() {
        let ms = 1_000_000;
        let reads = (0..400).map(|i| Read { sent_ns: 0, read_ns: i * ms }).collect();
        let receiver = Receiver {
            name: "second".into(),
            frame_bytes: 1226,
            dropped: 100,
            reads,
            drops: vec![(200 * ms, 0), (400 * ms, 100)],
            ..Receiver::default()
        };
        let reception = Reception { from_ns: 0, until_ns: 400 * ms, receivers: vec![receiver] };
        let picture = reception.picture("p", "t");
        // 200 frames of 1250 bytes in 200 ms are 10 Mbit/s.
        assert_eq!(picture.curves[0].points, [(0.1, 10.0), (0.3, 10.0)]);
        assert_eq!(picture.curves[1].points, [(0.1, 0.0), (0.3, 5.0)]);
    }
}
