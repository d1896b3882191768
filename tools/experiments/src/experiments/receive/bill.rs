//! Who pays for a flood: what the driver did must be billed to flows, and somebody else's processor
//! time must buy as much work as without the flood.

use super::COSTS;
use super::flood::{self, Target};
use crate::experiments::S;
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;

/// Work done, and the processor time that was charged for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Units of work.
    pub done: u64,
    /// Processor time charged, in nanoseconds.
    pub charged_ns: u64,
}

impl Work {
    /// Units per second charged.
    pub fn rate(self) -> f64 {
        self.done as f64 * 1e9 / self.charged_ns.max(1) as f64
    }
}

/// The driver's processor time, and what of it was billed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Billed {
    /// What the driver used.
    pub driver_ns: u64,
    /// What flows were billed.
    pub flows_ns: u64,
}

/// How far the bills are from closing, in percent of what the driver used.
pub fn closure(subject: &str, billed: Billed) -> Metric {
    let off = billed.flows_ns as f64 / billed.driver_ns.max(1) as f64 * 100.0 - 100.0;
    Metric::new(subject, "driver", "billed to flows, beyond used", off, "%")
        .within((subject == Policy::Atx.name()).then_some(Band::Within(2.0)))
}

/// What the work of `who` lost per second charged, in percent.
pub fn loss(subject: &str, who: &str, alone: Work, flooded: Work) -> Vec<Metric> {
    let lost = (1.0 - flooded.rate() / alone.rate().max(f64::MIN_POSITIVE)) * 100.0;
    let metric = |name: &str, value: f64, unit| Metric::new(subject, who, name, value, unit);
    vec![
        metric("work lost per second charged", lost, "%")
            .within((subject == Policy::Atx.name()).then_some(Band::AtMost(10.0))),
        metric("work per second charged, alone", alone.rate(), "1/s"),
        metric("work per second charged, flooded", flooded.rate(), "1/s"),
    ]
}

pub(in crate::experiments) fn simulate(outcome: &mut Outcome, seed: u64) {
    let subject = Policy::Atx.name();
    for target in [Target::Neighbour, Target::Nobody] {
        let (world, ..) = flood::run(seed, target, COSTS, S / 2);
        let billed = Billed { driver_ns: world.driver_ns(), flows_ns: world.billed_ns() };
        let mut metric = closure(subject, billed);
        metric.item = format!("driver, flood at {target:?}").to_lowercase();
        let used = Metric::new(subject, &metric.item, "used", billed.driver_ns as f64 / 1e6, "ms");
        outcome.add(Part { metrics: vec![metric, used], ..Part::default() });
    }
    outcome.note("Work per second charged needs real processors: see --live.");
}
