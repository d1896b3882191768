//! Figure 6: two best-effort senders as fast as they can. The paper's point is smoothness.

use base_flow::{Contract, Rate};

use super::fig5a::bandwidth;
use super::{BIN_NS, LENGTH_NS, line_name};
use crate::measure::{Quantiles, bins, jain, relative_sd};
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::reception::latency_picture;
use crate::trace::{Lane, Trace};
use crate::transmit::{self, FRAME_BYTES, Load, Plan, Sender};

/// The line.
pub const RATE: Rate = Rate::mbit(100);

/// The senders.
pub fn senders() -> Vec<Sender> {
    let load = Load::Flood { bytes: FRAME_BYTES as u16 };
    let sender = |name: &str| Sender {
        name: name.into(),
        contract: Contract::BEST_EFFORT,
        load,
        from_ns: 0,
    };
    ["first", "second"].map(sender).to_vec()
}

fn gaps(lane: &Lane) -> Quantiles {
    Quantiles::of(lane.frames.windows(2).map(|pair| pair[1].done_ns - pair[0].done_ns).collect())
}

/// How far gaps are from their mean.
fn gap_deviations(lane: &Lane) -> Quantiles {
    let gaps: Vec<u64> =
        lane.frames.windows(2).map(|pair| pair[1].done_ns - pair[0].done_ns).collect();
    let mean = gaps.iter().sum::<u64>() / gaps.len().max(1) as u64;
    Quantiles::of(gaps.into_iter().map(|gap| gap.abs_diff(mean)).collect())
}

/// What must be smoother than the reference's, and whether less is smoother. A reference that serves
/// in bursts has small gaps, most of the time: there the deviation is what counts.
const SMOOTHNESS: [(&str, bool); 4] = [
    ("share error", true),
    ("sd 200 ms", true),
    ("gap deviation p99", true),
    ("Jain's index", false),
];

/// Judges a run of `subject`.
pub fn judge(subject: &str, trace: &Trace) -> Part {
    let line = line_name(trace.rate);
    let cut = trace.without_stalls();
    let rates: Vec<f64> = cut
        .lanes
        .iter()
        .map(|lane| {
            let sums = bins(&lane.frames, cut.from_ns, cut.until_ns, BIN_NS);
            sums.iter().sum::<u64>() as f64 * 8e3 / (sums.len().max(1) as u64 * BIN_NS) as f64
        })
        .collect();
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let worst = |of: &dyn Fn(&Lane) -> f64| cut.lanes.iter().map(of).fold(0f64, f64::max);
    let share_error = rates.iter().map(|rate| (rate / mean - 1.0).abs()).fold(0f64, f64::max);
    let sd = worst(&|lane| relative_sd(&bins(&lane.frames, cut.from_ns, cut.until_ns, BIN_NS)));
    let gap = worst(&|lane| gaps(lane).at(0.99) as f64 / 1e3);
    let deviation = worst(&|lane| gap_deviations(lane).at(0.99) as f64 / 1e3);
    let metric = |name: &str, value: f64, unit| Metric::new(subject, &line, name, value, unit);
    // Fairness at the paper's grain: the worst bin.
    let per_bin: Vec<Vec<u64>> = cut
        .lanes
        .iter()
        .map(|lane| bins(&lane.frames, cut.from_ns, cut.until_ns, BIN_NS))
        .collect();
    let count = per_bin.iter().map(Vec::len).min().unwrap_or(0);
    let fairness = (0..count)
        .map(|bin| jain(&per_bin.iter().map(|bins| bins[bin] as f64).collect::<Vec<_>>()))
        .fold(1f64, f64::min);
    let mut metrics = vec![
        metric("share error", share_error * 100.0, "%"),
        metric("sd 200 ms", sd * 100.0, "%"),
        metric("gap p99", gap, "µs"),
        metric("gap deviation p99", deviation, "µs"),
        metric("Jain's index", fairness, "in the worst 200 ms"),
        metric("bandwidth", mean, "Mbit/s each"),
    ];
    metrics.push(metric("line stood still", trace.stalled_ns() as f64 / 1e6, "ms"));
    let title = format!("Figure 6, {subject}, {line}: two best-effort senders");
    let distributions: Vec<_> =
        cut.lanes.iter().map(|lane| (lane.name.clone(), gaps(lane))).collect();
    let mut gaps = latency_picture(
        &format!("{subject}-gaps"),
        &format!("Gaps between frames, {subject}, {line}"),
        &distributions,
    );
    gaps.axes[0].label = "gap between frames of a sender, µs".into();
    gaps.axes[1].label = "share of gaps".into();
    Part { metrics, pictures: vec![bandwidth(subject, &title, trace), gaps] }
}

/// Demands of our figures what needs no reference: equal shares.
pub fn demand_fairness(outcome: &mut Outcome) {
    for metric in &mut outcome.metrics {
        if metric.subject == Policy::Atx.name() && metric.name == "share error" {
            *metric = metric.clone().within(Some(Band::AtMost(0.5)));
        }
    }
    outcome.judge();
}

/// Demands of our figures that they be at least as smooth as those of `reference`, in every one.
pub fn compare(outcome: &mut Outcome, reference: &str) {
    let values: Vec<(&str, bool, f64)> = SMOOTHNESS
        .into_iter()
        .filter_map(|(name, less)| {
            let found = |metric: &&Metric| metric.subject == reference && metric.name == name;
            Some((name, less, outcome.metrics.iter().find(found)?.value))
        })
        .collect();
    for (name, less, value) in values {
        let band = if less { Band::AtMost(value) } else { Band::AtLeast(value) };
        for metric in &mut outcome.metrics {
            if metric.subject == Policy::Atx.name() && metric.name == name {
                *metric = metric.clone().within(Some(band));
            }
        }
    }
    outcome.judge();
}

pub(super) fn simulate(outcome: &mut Outcome) {
    for policy in Policy::ALL {
        let plan =
            Plan { rate: RATE, length_ns: LENGTH_NS, senders: senders(), stalls: Vec::new() };
        let trace = transmit::run(&plan, |line| policy.schedule(line, 0));
        outcome.add(judge(policy.name(), &trace));
    }
    compare(outcome, Policy::Qosentry.name());
    outcome.note(
        "The bands are the figures of the original's rules: ours must be at least as smooth.",
    );
}
