//! Figure 5(b): one sender takes slack from the start; guaranteed ones of 6, 7, 8, 9 ms in 100 ms
//! join every five seconds. In virtual time the scheduler is also kept from running a few times.

use base_flow::{Contract, Rate};

use super::fig5a::{bandwidth, sender_metrics};
use super::{LENGTH_NS, MS, S, guaranteed, line_name};
use crate::measure::{ExactLine, service_by_period, worst_excess_bytes};
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::trace::Trace;
use crate::transmit::{self, FRAME_BYTES, Load, Plan, Sender};

/// The line.
pub const RATE: Rate = Rate::mbit(100);
/// Time between joins.
pub const JOIN_NS: u64 = 5 * S;
/// Periods before and after a join that are compared.
const PERIODS: usize = 10;

/// The senders; `join_ns` apart.
pub fn senders(join_ns: u64) -> Vec<Sender> {
    let load = Load::Flood { bytes: FRAME_BYTES as u16 };
    let mut all =
        vec![Sender { name: "slack".into(), contract: Contract::BEST_EFFORT, load, from_ns: 0 }];
    for (index, slice) in (6..=9).enumerate() {
        all.push(Sender {
            name: format!("{slice} ms"),
            contract: guaranteed(slice * MS, 100 * MS),
            load,
            from_ns: (index as u64 + 1) * join_ns,
        });
    }
    all
}

/// The most that running guaranteed senders were moved by a join, in frames per period.
fn moved_by_joins(cut: &Trace) -> f64 {
    let line = ExactLine::new(cut.rate);
    let frame = line.frame_ns(FRAME_BYTES);
    let guaranteed = || cut.lanes.iter().filter(|lane| lane.contract.is_guaranteed());
    let mut worst = 0f64;
    for joining in guaranteed() {
        for running in guaranteed().filter(|lane| lane.from_ns < joining.from_ns) {
            let period = running.contract.period_ns;
            let service =
                service_by_period(&running.frames, &line, period, running.from_ns, cut.until_ns);
            let at = ((joining.from_ns - running.from_ns) / period) as usize;
            let mean = |range: std::ops::Range<usize>| {
                let given = service.get(range).unwrap_or(&[]);
                given.iter().sum::<f64>() / given.len().max(1) as f64
            };
            if at >= PERIODS && at + PERIODS <= service.len() {
                worst = worst.max((mean(at - PERIODS..at) - mean(at..at + PERIODS)).abs() / frame);
            }
        }
    }
    worst
}

/// Judges a run of `subject`.
pub fn judge(subject: &str, trace: &Trace, live: bool) -> Part {
    let ours = subject == Policy::Atx.name();
    let band = |band| ours.then_some(band);
    let line = line_name(trace.rate);
    let cut = trace.without_stalls();
    let mut part = Part::default();
    for lane in cut.lanes.iter().filter(|lane| lane.contract.is_guaranteed()) {
        // From the first whole period on.
        let from = lane.from_ns + lane.contract.period_ns;
        part.metrics.extend(sender_metrics(subject, &line, &cut, lane, from, live));
    }
    let exact = ExactLine::new(cut.rate);
    // The last frames of the replay may be beyond the end.
    let inside = |at: u64| at > cut.from_ns && at <= cut.until_ns;
    let frames = cut.lanes.iter().flat_map(|lane| &lane.frames);
    let busy: f64 = frames
        .filter(|frame| inside(frame.done_ns))
        .map(|frame| exact.frame_ns(frame.bytes.into()))
        .sum();
    let used = busy / (cut.until_ns - cut.from_ns) as f64 * 100.0;
    let metric = |name: &str, value: f64, unit| Metric::new(subject, &line, name, value, unit);
    part.metrics.push(metric("line used", used, "%").within(band(Band::AtLeast(99.5))));
    let excess = worst_excess_bytes(trace.seen(), trace.rate) as f64;
    let one_frame = crate::measure::line::occupied_bytes(FRAME_BYTES) as f64;
    part.metrics.push(
        metric("worst excess in 1 ms", excess, "bytes").within(band(Band::AtMost(one_frame))),
    );
    part.metrics.push(
        metric("moved by a join", moved_by_joins(&cut), "frames/period")
            .within(band(Band::AtMost(1.0))),
    );
    part.metrics.push(metric("line stood still", trace.stalled_ns() as f64 / 1e6, "ms"));
    let title = format!("Figure 5(b), {subject}, {line}: slack, and 6, 7, 8, 9 ms that join");
    part.pictures.push(bandwidth(subject, &title, trace));
    part
}

pub(super) fn simulate(outcome: &mut Outcome) {
    // The driver is kept from the processor between joins, in the middle of everything.
    let stalls = [(3_210, 35), (7_777, 20), (13_130, 50), (18_018, 8), (22_222, 120)]
        .map(|(at, ns)| (at * MS, ns * MS));
    for policy in [Policy::Atx, Policy::Qosentry, Policy::TokenBucket, Policy::Carousel] {
        let plan = Plan {
            rate: RATE,
            length_ns: LENGTH_NS,
            senders: senders(JOIN_NS),
            stalls: stalls.to_vec(),
        };
        let trace = transmit::run(&plan, |line| policy.schedule(line, 0));
        outcome.add(judge(policy.name(), &trace, false));
    }
    outcome.note(
        "The scheduler does not get to run for 8 to 120 ms five times; what the line stood still is cut out of time.",
    );
}
