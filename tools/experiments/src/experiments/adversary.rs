//! The guarantee itself: no frame is later than its key and the tardiness bound allows, whatever the
//! flows do.
//!
//! An exact model runs beside the scheduler (`book.rs`), one flow at a time, without queues. It
//! knows when each guaranteed frame must have left the
//! wire; the wire is exact; the sources switch on and off around the moments where budgets and
//! periods end, send frames that straddle periods, and the smallest there are. In three sets of four they
//! also close, open and change their contracts at random and whenever a budget is used up, admitted by the
//! account that the flow manager keeps.

use base_flow::{Admission, Begin, Contract, FlowId, Rate, Refused, Shares};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};
use fastrand::Rng;

use super::book::{Book, NEVER};
use super::live_adversary;
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::transmit::{self, FRAME_BYTES, Plan};

struct Source {
    id: FlowId,
    /// Whose it is: sources of a user take each other's shares over.
    user: u32,
    /// Whether there is a flow at present.
    open: bool,
    contract: Contract,
    /// The number of the contract among those of the flow.
    change: u32,
    book: Book,
    /// When what was sent under earlier contracts is paid for: exactly, and in the scheduler's rounding.
    bound: (i128, i128),
    queue: u32,
    frame_bytes: usize,
    /// When the source next changes its mind.
    next_at: i64,
    habit: u64,
    /// Whether all sources burst at the same moments, just after a long frame went out: the
    /// critical instant of the proof.
    together: bool,
}

impl Source {
    fn new(index: u32, contract: Contract, habit: u64, together: bool) -> Self {
        Self {
            id: FlowId { index, generation: 0 },
            user: index % 2,
            open: true,
            change: 0,
            book: Book::new(&contract, NEVER),
            contract,
            bound: (NEVER, NEVER),
            queue: 0,
            frame_bytes: FRAME_BYTES,
            next_at: 0,
            habit,
            together,
        }
    }

    /// The contract ends: what it has sent binds until it is paid for.
    fn end(&mut self) {
        let end = self.book.end();
        self.bound = (self.bound.0.max(end.0), self.bound.1.max(end.1));
    }
}

/// What one task set came to.
struct Found {
    frames: u64,
    /// Latest beyond its key that a guaranteed frame was.
    worst_ns: i128,
    /// Frames that were later than the bound, or sent without a claim; contracts that were settled before
    /// they were paid for; counter-offers that were refused.
    violations: u64,
    /// Contracts that were ended, and of those, begun after others of the user.
    changes: u64,
    inherited: u64,
}

/// Flows that are opened, closed, and given other contracts at the worst moments, admitted as the flow
/// manager admits them.
struct Churn {
    shares: Shares,
    /// What can be asked for.
    contracts: Vec<Contract>,
}

impl Churn {
    /// The source wants another contract for its flow, or for a new one in its place; what it gets.
    fn admit(
        &mut self,
        source: &Source,
        id: FlowId,
        wanted: Contract,
        found: &mut Found,
    ) -> Option<(Contract, Begin)> {
        let mut admit = |contract| self.shares.admit(id, source.user, &contract, None);
        match admit(wanted) {
            Ok(begin) => Some((wanted, begin)),
            Err(Refused { offer: None, .. }) => None,
            Err(Refused { offer: Some(offer), .. }) => match admit(offer) {
                Ok(begin) => Some((offer, begin)),
                Err(_) => {
                    found.violations += 1;
                    None
                }
            },
        }
    }

    /// A source closes its flow, gives it another contract, or opens one; in half of the cases it moves
    /// what it had to another of its user at once.
    fn act(
        &mut self,
        sources: &mut [Source],
        index: usize,
        now: i64,
        atropos: &mut Atropos,
        chance: &mut Rng,
        found: &mut Found,
    ) {
        let had = sources[index].contract;
        let any = self.contracts[chance.usize(0..self.contracts.len())];
        let moves = sources[index].user == MOVER;
        match if moves { chance.u64(2..5) } else { chance.u64(0..8) } {
            0..3 if sources[index].open => self.close(&mut sources[index], atropos, found),
            3 => self.give(sources, index, Contract::BEST_EFFORT, now, atropos, found),
            4 => self.give(sources, index, had, now, atropos, found),
            _ => return self.give(sources, index, any, now, atropos, found),
        }
        let user = sources[index].user;
        let mut others = (index + 1..sources.len()).chain(0..index).filter(|&other| {
            let other = &sources[other];
            let free = other.open || !atropos.binds(other.id.index);
            other.user == user && free && !other.contract.is_guaranteed()
        });
        let other = others.next();
        if let Some(other) = other.filter(|_| moves || chance.u64(0..4) > 0) {
            self.give(sources, other, had, now, atropos, found);
        }
    }

    fn close(&mut self, source: &mut Source, atropos: &mut Atropos, found: &mut Found) {
        let place = source.id.index;
        source.end();
        (source.open, source.queue) = (false, 0);
        found.changes += u64::from(source.contract.is_guaranteed());
        source.contract = Contract::BEST_EFFORT;
        source.book = Book::new(&source.contract, NEVER);
        atropos.remove(place);
        self.shares.leave(source.id);
        if !atropos.binds(place) {
            self.shares.settled(source.id, None);
        }
    }

    /// Opens a flow with the contract `wanted`, or gives it to the one there is.
    fn give(
        &mut self,
        sources: &mut [Source],
        index: usize,
        wanted: Contract,
        now: i64,
        atropos: &mut Atropos,
        found: &mut Found,
    ) {
        let (place, source) = (index as u32, &sources[index]);
        if !source.open && atropos.binds(place) {
            return;
        }
        let next = FlowId { generation: source.id.generation + 1, ..source.id };
        let id = if source.open { source.id } else { next };
        let Some((contract, begin)) = self.admit(source, id, wanted, found) else { return };
        let after: Vec<u32> = begin.after.iter().map(|flow| flow.index).collect();
        found.inherited += after.len() as u64;
        let source = &mut sources[index];
        if source.open {
            source.end();
            found.changes += u64::from(source.contract.is_guaranteed());
            atropos.set_contract(place, &contract, &after, now);
            if !atropos.binds(place) {
                self.shares.settled(id, Some(begin.change));
            }
        } else {
            source.open = true;
            atropos.add(place, &contract, &after);
        }
        let after = after.into_iter().chain([place]);
        let binding = after.filter(|&index| atropos.binds(index));
        let start = binding.map(|index| sources[index as usize].bound.1).max().unwrap_or(NEVER);
        let source = &mut sources[index];
        (source.id, source.contract, source.change) = (id, contract, begin.change);
        source.book = Book::new(&contract, start);
        // It has not come for nothing.
        source.next_at = now;
        if source.queue > 0 && contract.is_guaranteed() {
            source.book.wake(now.into());
        }
    }

    /// Hears what the scheduler says is settled.
    fn settle(&mut self, sources: &[Source], now: i64, atropos: &mut Atropos, found: &mut Found) {
        while let Some(index) = atropos.settled(now) {
            let source = &sources[index as usize];
            found.violations += u64::from(i128::from(now) < source.bound.0);
            self.shares.settled(source.id, source.open.then_some(source.change));
        }
        let promised = self.shares.promised_ppm();
        found.violations += u64::from(promised > self.shares.promisable_ppm());
    }
}

/// Runs one task set for `frames` frames against the bound.
fn run(seed: u64, frames: u64, bound_ns: i128) -> Found {
    let mut chance = Rng::with_seed(seed);
    let line = Line::new(Rate::mbit(100), FRAME_BYTES, 0);
    let mut atropos = Atropos::new(line, 0);
    let flows = 1 + chance.u64(0..40) as u32;
    let density_ppm =
        if chance.u64(0..2) == 0 { 1_000_000 } else { 300_000 + chance.u64(0..700_001) };
    let mut sources = task_set(&mut chance, &line, flows, density_ppm);
    // No more than they have at first, so that who wants another must use what others have not paid for.
    let contracts: Vec<Contract> = sources.iter().map(|source| source.contract).collect();
    let promisable = contracts.iter().map(Contract::density_ppm).sum::<u64>().min(1_000_000);
    let mut churn =
        Churn { shares: Shares::new(Admission::new(line.frame_ns(), promisable)), contracts };
    let mover = sources.iter().any(|source| source.user == MOVER);
    let mut stays = mover || chance.u64(0..4) == 0;
    for (index, source) in sources.iter_mut().enumerate() {
        atropos.add(index as u32, &source.contract, &[]);
        match churn.shares.admit(source.id, source.user, &source.contract, None) {
            Ok(begin) => source.change = begin.change,
            // They fill the line to a rounding error: nothing else fits.
            Err(_) => stays = true,
        }
    }
    let mut now = 0i64;
    let mut found =
        Found { frames: 0, worst_ns: i128::MIN, violations: 0, changes: 0, inherited: 0 };
    while found.frames < frames {
        for (index, source) in sources.iter_mut().enumerate() {
            source.arrive(index as u32, now, &line, &mut atropos, &mut chance);
        }
        for source in &mut sources {
            source.book.replenish(now.into(), source.queue > 0);
        }
        churn.settle(&sources, now, &mut atropos, &mut found);
        let mover = sources.iter().position(|source| source.user == MOVER && source.book.waiting);
        if let Some(index) = mover {
            churn.act(&mut sources, index, now, &mut atropos, &mut chance, &mut found);
        } else if !stays && chance.u64(0..16) == 0 {
            // Most often one that has just used up what it had.
            let index = chance.usize(0..sources.len());
            let used_up = sources.iter().position(|source| source.book.waiting);
            let index = if chance.u64(0..2) == 0 { used_up.unwrap_or(index) } else { index };
            churn.act(&mut sources, index, now, &mut atropos, &mut chance, &mut found);
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
                let open = sources.iter().filter(|source| source.open);
                let arrival = open.map(|source| source.next_at).min().unwrap_or(i64::MAX);
                // If nobody has a flow, somebody will open one.
                let soon = if stays { i64::MAX } else { now + 1_000_000 };
                now = until_ns.unwrap_or(i64::MAX).min(arrival).min(soon).max(now + 1);
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
    (0..flows).map(|index| Source::new(index, contract, 0, true)).collect()
}

/// Floods that have a part of the line, and one user who has all of the rest and moves it, whenever it is
/// used up, to the next of his flows.
fn moving(line: &Line, chance: &mut Rng) -> Vec<Source> {
    let (percent, flows) = (20 + chance.u64(0..50), 1 + chance.u64(0..8));
    let period_ns = 10_000_000 + chance.u64(0..40_000_000);
    let slice_ns = (period_ns * (100 - percent) / 100 / flows).max(line.frame_ns());
    let flood = super::guaranteed(slice_ns, slice_ns * flows * 100 / (100 - percent));
    // Less by what densities are rounded up.
    let all = super::guaranteed(percent * 1_000_000 - 1_000, 100_000_000);
    let movers = [all].into_iter().chain([Contract::BEST_EFFORT; 7].map(|it| it.with_slack(true)));
    let floods = (0..flows).map(|_| (flood, 0));
    let all = floods.chain(movers.map(|contract| (contract, MOVER)));
    let source =
        |((contract, user), index)| Source { user, ..Source::new(index, contract, FLOODS, false) };
    all.zip(0..).map(source).collect()
}

/// The user who moves his share.
const MOVER: u32 = 7;

/// The habit of having more than can be sent.
const FLOODS: u64 = 9;

/// Random contracts that fill `density_ppm` of the line, half of them with a deadline hint.
fn task_set(chance: &mut Rng, line: &Line, flows: u32, density_ppm: u64) -> Vec<Source> {
    match chance.u64(0..8) {
        0 => return straddling(line, flows),
        1 => return moving(line, chance),
        _ => {}
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
        .zip(0..)
        .map(|(contract, index)| {
            Source::new(index, contract.validated().unwrap(), chance.u64(0..5), together)
        })
        .collect()
}

impl Source {
    fn size(&self, chance: &mut Rng) -> usize {
        match self.habit {
            0 | FLOODS => 1514,
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
        if !self.open || now < self.next_at {
            return;
        }
        let was_empty = self.queue == 0;
        let (p, s) = (self.contract.period_ns as i64, self.contract.slice_ns.max(1) as i64);
        let (frames, pause) = match chance.u64(0..6) {
            _ if self.habit == FLOODS => (2000, 1_000_000),
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
        } else if self.together && self.habit != FLOODS {
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
    let (mut changes, mut inherited) = (0, 0);
    for set in 0..SETS {
        let found = run(seed.wrapping_mul(1_000_003).wrapping_add(set), FRAMES, bound_ns);
        frames += found.frames;
        violations += found.violations;
        worst = worst.max(found.worst_ns);
        changes += found.changes;
        inherited += found.inherited;
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
        metric("contracts ended", changes as f64, "").within(Some(Band::AtLeast(1000.0))),
        metric("shares taken over", inherited as f64, "").within(Some(Band::AtLeast(1000.0))),
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
        "{SETS} random sets of contracts, half of them filling the line, against an exact model of the rules; in three of four, flows are closed, opened and changed all the time."
    ));
}
