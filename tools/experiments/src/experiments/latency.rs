//! Senders within their contracts among floods: what they wait, once what was released is replayed
//! over an exact line.
//!
//! A steady sender (200 bytes every 5 ms at 100 Mbit/s, every 1 ms at 1 Gbit/s) and a voice (160 bytes
//! every 20 ms under a contract of six frames in 100 ms with a deadline of 2 ms), against four
//! guaranteed floods and one that takes slack.

use base_flow::{Contract, Rate};

use super::{MS, S, guaranteed, line_name};
use crate::measure::Quantiles;
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::reception::{latency_metrics, latency_picture};
use crate::trace::Trace;
use crate::transmit::{self, FRAME_BYTES, Load, Plan, Sender};

/// The lines, and how long a conforming sender may wait at most in 99 of 100 cases, in microseconds.
pub const LINES: [(Rate, f64); 2] = [(Rate::mbit(100), 200.0), (Rate::mbit(1_000), 100.0)];

/// Headers of a datagram's frame.
const HEADER_BYTES: u16 = 42;

/// The senders for a line: the two that conform first.
pub fn senders(rate: Rate) -> Vec<Sender> {
    let longest = rate.wire_ns(FRAME_BYTES);
    let fast = rate == LINES[1].0;
    let every_ns = if fast { MS } else { 5 * MS };
    let voice = Contract { deadline_ns: 2 * MS, ..guaranteed(6 * longest, 100 * MS) };
    let steady = |name: &str, bytes, every_ns, contract, from_ns| Sender {
        name: name.into(),
        contract,
        load: Load::Steady { bytes: bytes + HEADER_BYTES, every_ns, burst: 1 },
        from_ns,
    };
    // The second is out of step with everything else.
    let mut all = vec![
        steady("steady", 200, every_ns, guaranteed(2 * longest, 2 * every_ns), 1_234_567),
        steady("voice", 160, 20 * MS, voice, 2_345_678),
    ];
    let load = Load::Flood { bytes: FRAME_BYTES as u16 };
    for (index, slice) in [8, 11, 14, 17].into_iter().enumerate() {
        all.push(Sender {
            name: format!("flood {}", index + 1),
            contract: guaranteed(slice * MS, 100 * MS),
            load,
            from_ns: 0,
        });
    }
    all.push(Sender { name: "slack".into(), contract: Contract::BEST_EFFORT, load, from_ns: 0 });
    all
}

/// How many of them conform.
pub const CONFORMING: usize = 2;

/// Judges a run of `subject`: the figures, and the distributions of latency.
pub fn judge(subject: &str, trace: &Trace) -> (Part, Vec<(String, Quantiles)>) {
    let ours = subject == Policy::Atx.name();
    let line = line_name(trace.rate);
    let limit = LINES.iter().find(|(rate, _)| *rate == trace.rate).map_or(0.0, |(_, limit)| *limit);
    let mut part = Part::default();
    let mut distributions = Vec::new();
    for lane in trace.lanes.iter().take(CONFORMING) {
        let latencies: Vec<u64> =
            lane.frames.iter().map(|frame| frame.done_ns.saturating_sub(frame.sent_ns)).collect();
        let latencies = Quantiles::of(latencies);
        let item = format!("{line}, {}", lane.name);
        for metric in latency_metrics(subject, &item, &latencies) {
            let band = (ours && metric.name == "latency p99").then_some(Band::AtMost(limit));
            part.metrics.push(metric.within(band));
        }
        let seen = Metric::new(subject, &item, "packets", latencies.len() as f64, "");
        part.metrics.push(seen.within(ours.then_some(Band::AtLeast(1.0))));
        distributions.push((format!("{subject}, {}", lane.name), latencies));
    }
    let excess = crate::measure::worst_excess_bytes(trace.seen(), trace.rate) as f64;
    part.metrics.push(Metric::new(subject, &line, "worst excess in 1 ms", excess, "bytes"));
    part.metrics.push(Metric::new(
        subject,
        &line,
        "line stood still",
        trace.stalled_ns() as f64 / 1e6,
        "ms",
    ));
    (part, distributions)
}

/// The picture of a line: everybody's steady sender, or everybody's voice.
pub fn pictures(rate: Rate, all: &[(String, Quantiles)]) -> Vec<crate::picture::Picture> {
    let (line, mbit) = (line_name(rate), rate.bits_per_s() / 1_000_000);
    let of = |which: &str| -> Vec<_> {
        all.iter().filter(|(name, _)| name.ends_with(which)).cloned().collect()
    };
    ["steady", "voice"]
        .map(|which| {
            let title = format!("Latency among floods, {which} sender, {line}");
            latency_picture(&format!("{mbit}-{which}"), &title, &of(which))
        })
        .to_vec()
}

pub(super) fn simulate(outcome: &mut Outcome) {
    for (rate, _) in LINES {
        let mut all = Vec::new();
        for policy in Policy::ALL {
            let length_ns = if rate == LINES[0].0 { 30 * S } else { 10 * S };
            let plan = Plan { rate, length_ns, senders: senders(rate), stalls: Vec::new() };
            let trace = transmit::run(&plan, |line| policy.schedule(line, 0));
            let (part, distributions) = judge(policy.name(), &trace);
            outcome.add(part);
            all.extend(distributions);
        }
        outcome.add(Part { pictures: pictures(rate, &all), ..Part::default() });
    }
}
