//! Figure 5(a): six senders saturate guarantees of 4, 8, … 24 ms in every 100 ms, without slack.

use base_flow::{Contract, Rate};

use super::{BIN_NS, LENGTH_NS, MS, guaranteed, line_name};
use crate::measure::{ExactLine, bins, fulfilment, relative_sd};
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::picture::{Axis, Curve, Picture};
use crate::policy::Policy;
use crate::trace::{Lane, Trace};
use crate::transmit::{self, FRAME_BYTES, Load, Plan, Sender};

/// The lines: the paper's, and today's. On the second the same contracts are ten times the bandwidth.
pub const LINES: [Rate; 2] = [Rate::mbit(100), Rate::mbit(1_000)];

/// The paper's contracts.
pub fn contracts() -> Vec<Contract> {
    (1..=6).map(|i| guaranteed(4 * i * MS, 100 * MS)).collect()
}

/// The senders.
pub fn senders() -> Vec<Sender> {
    let sender = |contract: Contract| Sender {
        name: format!("{} ms", contract.slice_ns / MS),
        contract,
        load: Load::Flood { bytes: FRAME_BYTES as u16 },
        from_ns: 0,
    };
    contracts().into_iter().map(sender).collect()
}

/// How far a guaranteed sender was from its contract: in frames, over how many.
///
/// Over whole periods, and in the time in which the line could run: `cut` is a trace
/// [without stalls](Trace::without_stalls). One of the flow's periods begins at `from_ns`.
pub fn error_frames(cut: &Trace, lane: &Lane, from_ns: u64) -> (f64, f64) {
    let Contract { slice_ns, period_ns, .. } = lane.contract;
    let periods = (cut.until_ns.saturating_sub(from_ns) / period_ns).saturating_sub(1);
    let length = periods * period_ns;
    let inside = |at: u64| at > from_ns && at <= from_ns + length;
    let sent = lane.frames.iter().filter(|frame| inside(frame.done_ns)).count() as f64;
    let bytes = lane.frames.first().map_or(FRAME_BYTES, |frame| frame.bytes.into());
    let expected = (periods * slice_ns) as f64 / ExactLine::new(cut.rate).frame_ns(bytes);
    (sent - expected, expected)
}

/// By how much a sender was from its contract if the time counts in which the line stood still.
fn wall_error(cut: &Trace, lane: &Lane, from_ns: u64) -> f64 {
    let (off, expected) = error_frames(cut, lane, from_ns);
    let (available, wall) = ((cut.until_ns - cut.from_ns) as f64, cut.wall_ns as f64);
    (expected + off) / expected * available / wall - 1.0
}

/// What was measured of one sender; `live` chooses the band.
pub fn sender_metrics(
    subject: &str,
    line: &str,
    cut: &Trace,
    lane: &Lane,
    from_ns: u64,
    live: bool,
) -> Vec<Metric> {
    let ours = subject == Policy::Atx.name();
    let band = |band| ours.then_some(band);
    let item = format!("{line}, {}", lane.name);
    let (off, expected) = error_frames(cut, lane, from_ns);
    let percent = off / expected * 100.0;
    let live_band = if cut.rate == LINES[0] { 0.05 } else { 0.1 };
    let exact = Metric::new(subject, &item, "error", off, "frames");
    let relative = Metric::new(subject, &item, "error", percent, "%");
    let mut all = if live {
        // Ours takes stalls out; nobody else's can, so compare in wall time.
        let wall = wall_error(cut, lane, from_ns) * 100.0;
        let wall = Metric::new(subject, &item, "error in wall time", wall, "%");
        vec![relative.within(band(Band::Within(live_band))), wall]
    } else {
        vec![exact.within(band(Band::Within(1.0))), relative]
    };
    let sums = bins(&lane.frames, from_ns, cut.until_ns, BIN_NS);
    all.push(Metric::new(subject, &item, "sd 200 ms", relative_sd(&sums) * 100.0, "%"));
    all
}

/// Bandwidth of every sender over time, as the paper draws it.
pub fn bandwidth(name: &str, title: &str, trace: &Trace) -> Picture {
    let curve = |lane: &Lane| {
        let sums = bins(&lane.frames, trace.from_ns, trace.until_ns, BIN_NS);
        let points = sums.iter().enumerate().map(|(bin, &bytes)| {
            let at = (bin as f64 + 0.5) * BIN_NS as f64 / 1e9;
            (at, bytes as f64 * 8e3 / BIN_NS as f64)
        });
        Curve { name: lane.name.clone(), points: points.collect() }
    };
    Picture {
        name: name.into(),
        title: title.into(),
        axes: [Axis::linear("time, s"), Axis::linear("bandwidth on the wire, Mbit/s")],
        curves: trace.lanes.iter().map(curve).collect(),
    }
}

/// What each period was given, as a share of the slice.
pub fn periods(name: &str, title: &str, trace: &Trace) -> Picture {
    let line = ExactLine::new(trace.rate);
    let curve = |lane: &Lane| {
        let kept = fulfilment(
            &lane.frames,
            &line,
            &lane.contract,
            trace.tardiness_ns,
            lane.from_ns,
            trace.until_ns,
        );
        let points = kept.shares.iter().enumerate();
        let points = points.map(|(period, &share)| (period as f64, share * 100.0)).collect();
        Curve { name: lane.name.clone(), points }
    };
    let guaranteed = trace.lanes.iter().filter(|lane| lane.contract.is_guaranteed());
    Picture {
        name: name.into(),
        title: title.into(),
        axes: [Axis::linear("period"), Axis::linear("given, % of the slice")],
        curves: guaranteed.map(curve).collect(),
    }
}

/// Judges a run of `subject`.
pub fn judge(subject: &str, trace: &Trace, live: bool) -> Part {
    let line = line_name(trace.rate);
    let cut = trace.without_stalls();
    let ours = subject == Policy::Atx.name();
    let mut part = Part::default();
    for lane in &cut.lanes {
        // Processes do not all begin at once.
        let warm_up = if live { 3 * lane.contract.period_ns } else { 0 };
        let from = lane.from_ns.max(cut.from_ns) + warm_up;
        for metric in sender_metrics(subject, &line, &cut, lane, from, live) {
            let smooth = (ours && metric.name == "sd 200 ms").then_some(Band::AtMost(0.25));
            let band = metric.band.or(smooth);
            part.metrics.push(metric.within(band));
        }
        if ours && !live {
            let kept = fulfilment(
                &lane.frames,
                &ExactLine::new(cut.rate),
                &lane.contract,
                cut.tardiness_ns,
                from,
                cut.until_ns,
            );
            let item = format!("{line}, {}", lane.name);
            let missed =
                Metric::new(subject, &item, "periods missed", kept.missed as f64, "periods");
            part.metrics.push(missed.within(Some(Band::AtMost(0.0))));
        }
    }
    let stalled = Metric::new(subject, &line, "line stood still", cut_ms(trace), "ms");
    // What is taken out must not be what matters.
    let limit = (trace.until_ns - trace.from_ns) as f64 / 1e6 / 10.0;
    part.metrics.push(stalled.within(ours.then_some(Band::AtMost(limit))));
    let mbit = trace.rate.bits_per_s() / 1_000_000;
    let title = format!("Figure 5(a), {subject}, {line}: 4, 8, … 24 ms in 100 ms");
    part.pictures.push(bandwidth(&format!("{subject}-{mbit}"), &title, trace));
    if ours && trace.rate == LINES[0] {
        let title = format!("Every period's slice, {subject}, {line}");
        part.pictures.push(periods(&format!("{subject}-{mbit}-periods"), &title, &cut));
    }
    part
}

fn cut_ms(trace: &Trace) -> f64 {
    trace.stalled_ns() as f64 / 1e6
}

pub(super) fn simulate(outcome: &mut Outcome) {
    for rate in LINES {
        for policy in Policy::ALL {
            let plan = Plan { rate, length_ns: LENGTH_NS, senders: senders(), stalls: Vec::new() };
            let trace = transmit::run(&plan, |line| policy.schedule(line, 0));
            outcome.add(judge(policy.name(), &trace, false));
        }
    }
    outcome.note("30 s of virtual time on an exact line; frames of 1514 bytes, 1538 on the wire.");
    outcome.note(
        "Of the policies only plumb and qosentry know periods; drr gives floors and no ceilings.",
    );
}
