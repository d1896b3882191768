//! One flow to a million, all with something to send: what a decision costs, and whether everybody
//! still gets his share.
//!
//! In virtual time the shares are counted. How long decisions take is measured on the machine, so it
//! is part of a live run.

use std::hint::black_box;
use std::time::Instant;

use base_flow::{Contract, Rate};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};

use crate::outcome::{Band, Metric, Outcome, Part};
use crate::picture::{Axis, Curve, Picture};
use crate::policy::Policy;
use crate::transmit::FRAME_BYTES;

/// Numbers of flows.
pub const FLOWS: [u32; 6] = [1, 16, 256, 4_096, 65_536, 1_000_000];
/// Frames in a slice.
pub const FRAMES: [u64; 2] = [1, 8];

/// Fast enough for a slice of eight frames for each of a million flows within a second.
const RATE: Rate = Rate::mbit(400_000);

struct Crowd {
    scheduler: Atropos,
    contract: Contract,
    cost_ns: u64,
    now: i64,
}

impl Crowd {
    /// `flows` flows with slices of `frames` frames that fill 95 % of the line.
    fn new(flows: u32, frames: u64) -> Self {
        let line = Line::new(RATE, FRAME_BYTES, 0);
        let cost_ns = line.cost_ns(FRAME_BYTES);
        let slice_ns = cost_ns * frames;
        let period_ns = (slice_ns * u64::from(flows) * 100 / 95).max(slice_ns);
        let contract = super::guaranteed(slice_ns, period_ns);
        let mut crowd = Self { scheduler: Atropos::new(line, 0), contract, cost_ns, now: 0 };
        for flow in 0..flows {
            // Not all at once: as people come.
            crowd.now = (u64::from(flow) * period_ns / u64::from(flows)) as i64;
            crowd.join(flow, &[]);
        }
        crowd
    }

    /// `flow` has its contract from what those `after` which it comes have left of theirs.
    fn join(&mut self, flow: u32, after: &[u32]) {
        self.scheduler.add(flow, &self.contract, after);
        self.scheduler.wake(flow, self.cost_ns, self.now);
    }

    /// Sends one frame; returns whose.
    fn decide(&mut self) -> u32 {
        loop {
            match self.scheduler.next(self.now) {
                Next::Serve { flow, slack, .. } => {
                    let head = Head::Frame { cost_ns: self.cost_ns };
                    self.scheduler.served(flow, slack, self.cost_ns, true, head, self.now);
                    self.now += self.cost_ns as i64;
                    return flow;
                }
                Next::Sleep { until_ns, .. } => {
                    self.now = until_ns.unwrap_or(self.now).max(self.now + 1);
                }
            }
        }
    }
}

/// The most frames by which any flow is from its share over some periods, one flow in a hundred
/// having left and come back before.
fn worst_share(flows: u32, frames: u64) -> f64 {
    let mut crowd = Crowd::new(flows, frames);
    let leaving = |flow: u32| flow % 100 == 99;
    for _ in 0..u64::from(flows.min(65_536)) * frames {
        crowd.decide();
    }
    // A place is free again when what its flow was allowed is used up or over: who comes back at once
    // has another.
    let mut places = flows;
    for flow in (0..flows).filter(|&flow| leaving(flow)) {
        crowd.scheduler.remove(flow);
        crowd.join(places, &[flow]);
        places += 1;
    }
    let mut sent = vec![0u64; places as usize];
    let periods = if flows > 65_536 { 1 } else { 3 };
    let until = crowd.now + periods * crowd.contract.period_ns as i64;
    while crowd.now < until {
        sent[crowd.decide() as usize] += 1;
    }
    let expected = (periods as u64 * frames) as f64;
    let off = |(_, &sent): (usize, &u64)| (sent as f64 - expected).abs();
    let stayed = |&(flow, _): &(usize, &u64)| (flow as u32) < flows && !leaving(flow as u32);
    sent.iter().enumerate().filter(stayed).map(off).fold(0.0, f64::max)
}

pub(super) fn simulate(outcome: &mut Outcome) {
    let subject = Policy::Atx.name();
    for frames in FRAMES {
        for flows in FLOWS {
            let item = format!("{flows} flows, {frames} frames per slice");
            let worst = worst_share(flows, frames);
            let metric = Metric::new(subject, &item, "worst share", worst, "frames off");
            // A window that begins anywhere may cut through a slice at both ends.
            let metric = metric.within(Some(Band::AtMost(frames as f64)));
            outcome.add(Part { metrics: vec![metric], ..Part::default() });
        }
    }
    outcome.note("How long a decision takes is measured, so it is part of --live.");
}

/// What a decision costs on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Flows.
    pub flows: u32,
    /// Frames in a slice.
    pub frames: u64,
    /// Time of a decision, frame served included.
    pub decision_ns: f64,
    /// Time for a flow to leave and another to join.
    pub turnover_ns: f64,
}

/// Measures a decision, and a flow's leaving and joining, on this machine's clock.
pub fn measure(flows: u32, frames: u64) -> Cost {
    let mut crowd = Crowd::new(flows, frames);
    let decisions = (2 * u64::from(flows) * frames).clamp(1_000_000, 4_000_000);
    for _ in 0..decisions / 4 {
        crowd.decide();
    }
    let begun = Instant::now();
    for _ in 0..decisions {
        black_box(crowd.decide());
    }
    let decision_ns = begun.elapsed().as_nanos() as f64 / decisions as f64;
    let turnovers = 100_000;
    let mut places: Vec<u32> = (0..flows).collect();
    let begun = Instant::now();
    for i in 0..turnovers {
        let place = &mut places[((i * 7919) % flows) as usize];
        crowd.scheduler.remove(*place);
        let before = std::mem::replace(place, flows + i);
        crowd.join(*place, &[before]);
    }
    let turnover_ns = begun.elapsed().as_nanos() as f64 / f64::from(turnovers);
    Cost { flows, frames, decision_ns, turnover_ns }
}

/// Memory of a flow in the scheduler, when there are a million; `resident` says how many bytes this
/// process has.
pub fn measure_memory(resident: impl Fn() -> u64) -> Metric {
    let flows = FLOWS[FLOWS.len() - 1];
    let before = resident();
    let crowd = black_box(Crowd::new(flows, 1));
    let bytes = resident().saturating_sub(before) as f64 / f64::from(flows);
    drop(crowd);
    Metric::new(Policy::Atx.name(), "scheduler", "memory of a flow", bytes, "bytes")
}

/// Limits at numbers of flows where there is one: of slices of one frame, and of eight.
const LIMITS_NS: [(u32, [f64; 2]); 2] = [(65_536, [100.0, 30.0]), (1_000_000, [200.0, 50.0])];

/// The figures of `costs`, and decision time against the number of flows.
pub fn report(costs: &[Cost]) -> Part {
    let subject = Policy::Atx.name();
    let mut part = Part::default();
    for cost in costs {
        let item = format!("{} flows, {} frames per slice", cost.flows, cost.frames);
        let limit = LIMITS_NS.iter().find(|(flows, _)| *flows == cost.flows);
        let limit = limit.map(|(_, limits)| Band::AtMost(limits[usize::from(cost.frames > 1)]));
        let decision = Metric::new(subject, &item, "decision", cost.decision_ns, "ns");
        part.metrics.push(decision.within(limit));
        part.metrics.push(Metric::new(subject, &item, "leave and join", cost.turnover_ns, "ns"));
    }
    let curve = |frames: u64| Curve {
        name: if frames == 1 { "1 frame".into() } else { format!("{frames} frames") },
        points: costs
            .iter()
            .filter(|cost| cost.frames == frames)
            .map(|cost| (f64::from(cost.flows), cost.decision_ns))
            .collect(),
    };
    part.pictures.push(Picture {
        name: "decision".into(),
        title: "A scheduling decision, by flows that have something to send and frames per slice"
            .into(),
        axes: [Axis::logarithmic("flows"), Axis::linear("time of a decision, ns")],
        curves: FRAMES.map(curve).to_vec(),
    });
    part
}
