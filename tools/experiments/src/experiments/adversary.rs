//! The guarantee itself: no frame is later than its key and the tardiness bound allows, whatever the
//! flows do.
//!
//! An exact model runs beside the scheduler (`book.rs`), one flow at a time, without queues. It
//! knows when each guaranteed frame must have left the
//! wire; the wire is exact; the sources switch on and off around the moments where budgets and
//! periods end, send frames that straddle periods, and the smallest there are.

use base_flow::{Contract, Rate};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};
use fastrand::Rng;

use super::book::Book;
use super::live_adversary;
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::transmit::{self, FRAME_BYTES, Plan};

struct Source {
    contract: Contract,
    book: Book,
    queue: u32,
    frame_bytes: usize,
    /// When the source next changes its mind.
    next_at: i64,
    habit: u64,
    /// Whether all sources burst at the same moments, just after a long frame went out: the
    /// critical instant of the proof.
    together: bool,
}

/// What one task set came to.
struct Found {
    frames: u64,
    /// Latest beyond its key that a guaranteed frame was.
    worst_ns: i128,
    /// Frames that were later than the bound, or sent without a claim.
    violations: u64,
}

/// Runs one task set for `frames` frames against the bound.
fn run(seed: u64, frames: u64, bound_ns: i128) -> Found {
    let mut chance = Rng::with_seed(seed);
    let line = Line::new(Rate::mbit(100), 1514, 0);
    let mut atropos = Atropos::new(line, 0);
    let flows = 1 + chance.u64(0..40) as u32;
    let density_ppm =
        if chance.u64(0..2) == 0 { 1_000_000 } else { 300_000 + chance.u64(0..700_001) };
    let mut sources = task_set(&mut chance, &line, flows, density_ppm);
    for (index, source) in sources.iter().enumerate() {
        atropos.add(index as u32, &source.contract);
    }
    let mut now = 0i64;
    let mut found = Found { frames: 0, worst_ns: i128::MIN, violations: 0 };
    while found.frames < frames {
        for (index, source) in sources.iter_mut().enumerate() {
            source.arrive(index as u32, now, &line, &mut atropos, &mut chance);
        }
        for source in &mut sources {
            source.book.replenish(now.into(), source.queue > 0);
        }
        match atropos.next(now) {
            Next::Serve { flow, slack, .. } => {
                let source = &mut sources[flow as usize];
                let cost = line.cost_ns(source.frame_bytes);
                let finish = i128::from(now) + i128::from(cost);
                if !slack {
                    let late = finish - source.book.key(cost.into()).div_euclid(source.book.s);
                    found.worst_ns = found.worst_ns.max(late);
                    found.violations += u64::from(late > bound_ns || !source.book.ready);
                }
                source.queue -= 1;
                source.frame_bytes = source.size(&mut chance);
                let more = source.queue > 0;
                if slack {
                    source.book.ready &= more;
                } else {
                    source.book.serve(cost.into(), more);
                }
                let head = if more {
                    Head::Frame { cost_ns: line.cost_ns(source.frame_bytes) }
                } else {
                    Head::Empty
                };
                atropos.served(flow, slack, cost, true, head, now);
                found.frames += 1;
                now += cost as i64;
            }
            Next::Sleep { until_ns, .. } => {
                let arrival = sources.iter().map(|source| source.next_at).min().unwrap_or(i64::MAX);
                now = until_ns.unwrap_or(i64::MAX).min(arrival).max(now + 1);
            }
        }
    }
    // An exact line does not stall: a scheduler that says so moves its own deadlines.
    found.violations += u64::from(atropos.stall_ns() != 0);
    found
}

/// Equal flows that fill the line, each with a slice of a frame and a half, which send all at once after
/// silence: if second halves of second frames counted for the first period, it would not hold them all.
fn straddling(line: &Line, flows: u32) -> Vec<Source> {
    let slice_ns = line.frame_ns() * 3 / 2;
    let contract = super::guaranteed(slice_ns, slice_ns * u64::from(flows));
    let source = |_| Source {
        book: Book::new(&contract),
        contract,
        queue: 0,
        frame_bytes: FRAME_BYTES,
        next_at: 0,
        habit: 0,
        together: true,
    };
    (0..flows).map(source).collect()
}

/// Random contracts that fill `density_ppm` of the line, half of them with a deadline hint.
fn task_set(chance: &mut Rng, line: &Line, flows: u32, density_ppm: u64) -> Vec<Source> {
    if chance.u64(0..8) == 0 {
        return straddling(line, flows);
    }
    let mut left = density_ppm;
    let mut sources = Vec::new();
    for index in 0..flows {
        let even = 2 * left / u64::from(flows - index);
        let share = if index + 1 == flows { left } else { chance.u64(0..even + 1).min(left) };
        // Long enough for a frame; one in two with a deadline hint, one in three of a single frame.
        let deadline_min = (line.frame_ns() * 1_000_000).div_ceil(share.max(1));
        if deadline_min > 400_000_000 {
            continue;
        }
        let stretch = if chance.u64(0..3) == 0 { 0 } else { chance.u64(0..20_000_000) };
        let deadline = deadline_min + stretch;
        let period = deadline + if chance.u64(0..2) == 0 { 0 } else { chance.u64(0..deadline * 4) };
        let slice = deadline * share / 1_000_000;
        left -= share;
        sources.push(Contract {
            slice_ns: slice.max(line.frame_ns()),
            period_ns: period.min(Contract::PERIOD_NS_MAX).max(deadline),
            deadline_ns: deadline,
            slack: chance.u64(0..4) == 0,
            weight: 1 + chance.u64(0..3) as u8,
        });
    }
    for _ in 0..chance.u64(0..3) {
        sources.push(Contract::BEST_EFFORT);
    }
    if sources.is_empty() {
        sources.push(Contract::guaranteed(line.frame_ns(), 1_000_000).unwrap());
    }
    let together = chance.u64(0..2) == 0;
    sources
        .into_iter()
        .map(|contract| Source {
            book: Book::new(&contract),
            contract: contract.validated().unwrap(),
            queue: 0,
            frame_bytes: 1514,
            next_at: 0,
            habit: chance.u64(0..5),
            together,
        })
        .collect()
}

impl Source {
    fn size(&self, chance: &mut Rng) -> usize {
        match self.habit {
            0 => 1514,
            1 => 60,
            // Sizes that leave an odd rest of the slice, so that frames straddle periods.
            2 => 200 + chance.u64(0..1315) as usize,
            _ => [60, 1514, 700][chance.u64(0..3) as usize],
        }
    }

    /// Frames appear: floods, bursts after silence, arrivals just before or after a boundary.
    fn arrive(
        &mut self,
        index: u32,
        now: i64,
        line: &Line,
        atropos: &mut Atropos,
        chance: &mut Rng,
    ) {
        if now < self.next_at {
            return;
        }
        let was_empty = self.queue == 0;
        let (p, s) = (self.contract.period_ns as i64, self.contract.slice_ns.max(1) as i64);
        let (frames, pause) = match chance.u64(0..6) {
            0 => (1 + chance.u64(0..400) as u32, p * 3),
            1 => (1, s),
            2 => (1 + (s / 123_040) as u32, p - 1),
            3 => (1 + (s / 123_040) as u32, p + 1),
            4 => (2, p / 7),
            _ => (1 + chance.u64(0..8) as u32, p * 2 + chance.u64(0..1000) as i64),
        };
        self.queue = (self.queue + frames).min(2000);
        self.next_at = now + pause.max(1);
        if !self.contract.is_guaranteed() {
            self.next_at = now + 1_000_000;
        } else if self.together {
            self.next_at = (now / 90_000_000 + 1) * 90_000_000 + 1;
        }
        if was_empty {
            self.frame_bytes = self.size(chance);
            // The book's replenishment comes before a wake at the same moment, as in `next`.
            let waiting = self.book.waiting;
            if self.contract.is_guaranteed() && !waiting {
                self.book.wake(now.into());
            }
            atropos.wake(index, line.cost_ns(self.frame_bytes), now);
        }
    }
}

/// Task sets of a run, and frames of each.
const SETS: u64 = 400;
const FRAMES: u64 = 10_000;

pub(super) fn simulate(outcome: &mut Outcome, seed: u64) {
    let line = Line::new(Rate::mbit(100), FRAME_BYTES, 0);
    let bound_ns = i128::from(line.tardiness_ns());
    let (mut frames, mut worst, mut violations) = (0, i128::MIN, 0);
    for set in 0..SETS {
        let found = run(seed.wrapping_mul(1_000_003).wrapping_add(set), FRAMES, bound_ns);
        frames += found.frames;
        violations += found.violations;
        worst = worst.max(found.worst_ns);
    }
    let subject = Policy::Atx.name();
    let metric = |name: &str, value: f64, unit| Metric::new(subject, "all sets", name, value, unit);
    let metrics = vec![
        metric("bound violations", violations as f64, "frames").within(Some(Band::AtMost(0.0))),
        // Sources that never press the bound prove nothing.
        metric("worst lateness of the bound", worst as f64 / bound_ns as f64, "")
            .within(Some(Band::AtLeast(0.5))),
        metric("worst lateness", worst as f64 / 1e3, "µs"),
        metric("bound", bound_ns as f64 / 1e3, "µs"),
        metric("frames", frames as f64, ""),
    ];
    outcome.add(Part { metrics, ..Part::default() });
    let plan = Plan {
        rate: live_adversary::RATE,
        length_ns: 10 * super::S,
        senders: live_adversary::senders(),
        stalls: vec![(super::S, 40 * super::MS), (5 * super::S, 150 * super::MS)],
    };
    let trace = transmit::run(&plan, |line| Atropos::new(line, 0));
    outcome.add(live_adversary::judge(&trace, false));
    outcome.note(format!(
        "{SETS} random sets of contracts, half of them filling the line, against an exact model of the rules."
    ));
}
