//! The rules of A-TX, done slowly: every flow is looked at for every decision.
//!
//! The scheduler finds flows by buckets, and may take any of a bucket; so the oracle follows its choice, and says
//! which choices there were. It asks for decisions at the last nanosecond of a bucket only: what is due then is
//! the same for both.

use std::collections::BTreeMap;

use base_flow::{Contract, Rate};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};
use proptest::prelude::*;

/// Less than this is no stall.
const STALL_MIN: i64 = 20_000;
const LONG_AGO: i64 = i64::MIN / 2;
const FLOWS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Idle,
    Run,
    Wait,
    Suspended,
}

/// A flow: `r`, `T` and `F` of the rules, `F` in 2⁻³² ns.
#[derive(Debug, Clone)]
struct Flow {
    contract: Contract,
    state: State,
    cost: i64,
    budget: i64,
    next_period: i64,
    fluid: i128,
    missed: bool,
}

impl Flow {
    fn new(contract: Contract, begin: i64) -> Self {
        let fluid = i128::from(begin) << 32;
        let (state, cost, budget) = (State::Idle, 0, 0);
        Self { contract, state, cost, budget, next_period: begin, fluid, missed: false }
    }

    fn implicit(&self) -> bool {
        self.contract.deadline_ns == self.contract.period_ns
    }

    /// `l/s` in 2⁻³², rounded up.
    fn ratio(&self) -> i128 {
        let (deadline, slice) = (self.contract.deadline_ns, self.contract.slice_ns);
        (i128::from(deadline) << 32).unsigned_abs().div_ceil(u128::from(slice)) as i128
    }

    fn stretch(&self, work: i64) -> i64 {
        let product = i128::from(work) * self.ratio();
        (-((-product) >> 32)) as i64
    }

    /// `F`, rounded down.
    fn fluid(&self) -> i64 {
        if self.implicit() {
            self.next_period - self.stretch(self.budget)
        } else {
            (self.fluid >> 32) as i64
        }
    }

    fn key(&self) -> i64 {
        match (self.implicit(), self.cost > self.budget) {
            (true, true) => self.next_period + self.stretch(self.cost - self.budget),
            (true, false) => self.next_period,
            (false, _) => self.fluid() + self.stretch(self.cost.max(self.budget)),
        }
    }

    fn wake(&mut self, t: i64) {
        let behind = self.fluid() < t;
        if t >= self.next_period || (self.implicit() && behind) {
            let slice = self.contract.slice_ns as i64;
            self.missed = false;
            self.budget = if behind { slice } else { slice + self.budget.min(0) };
            let from = if self.implicit() && !behind { self.next_period } else { t };
            self.next_period = from + self.contract.period_ns as i64;
        }
        self.fluid = self.fluid.max(i128::from(t) << 32);
    }

    fn in_slack(&self) -> bool {
        let takes = !self.contract.is_guaranteed() || self.contract.slack;
        self.cost > 0 && self.state == State::Wait && takes
    }
}

/// What the scheduler should do.
struct Oracle {
    line: Line,
    /// Width of a bucket.
    bucket: i64,
    flows: BTreeMap<u32, Flow>,
    /// Until when earlier contracts of a place bind, and in which order that is asked.
    terms: BTreeMap<u32, i64>,
    ends: Vec<(i64, u32)>,
    free_at: i64,
    stall: i64,
    due: Option<i64>,
    last_cost: i64,
    seen: i64,
}

impl Oracle {
    fn new(line: Line, now: i64) -> Self {
        let (flows, terms, ends) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (stall, due, last_cost) = (0, None, 0);
        let bucket = (line.tardiness_ns() - line.unit_ns() - line.lead_ns()) as i64;
        Self { line, bucket, flows, terms, ends, free_at: now, stall, due, last_cost, seen: now }
    }

    fn observe(&mut self, now: i64) -> i64 {
        let mut t = now - self.stall;
        if let Some(due) = self.due
            && t - due > STALL_MIN
        {
            self.stall += t - due;
            (self.due, t) = (None, due);
        }
        self.seen = self.seen.max(t);
        t
    }

    fn begin(&self, index: u32, after: &[u32]) -> i64 {
        let places = after.iter().chain([&index]);
        places.filter_map(|place| self.terms.get(place)).copied().max().unwrap_or(LONG_AGO)
    }

    fn end(&mut self, index: u32) {
        let flow = &self.flows[&index];
        let end = if flow.contract.is_guaranteed() { flow.fluid() + 2 } else { i64::MIN };
        if end > self.seen {
            match self.terms.get_mut(&index) {
                Some(until) => *until = end.max(*until),
                None => {
                    self.terms.insert(index, end);
                    self.ends.push((end, index));
                }
            }
        }
    }

    fn settled(&mut self, now: i64) -> Option<u32> {
        if self.ends.is_empty() {
            return None;
        }
        let t = self.observe(now);
        loop {
            let first = self.ends.iter().map(|&(at, _)| at).min().filter(|&at| at <= t)?;
            let place = self.ends.iter().position(|&(at, _)| at == first).unwrap();
            let (_, index) = self.ends.remove(place);
            if self.terms[&index] <= t {
                self.terms.remove(&index);
                return Some(index);
            }
            self.ends.push((self.terms[&index], index));
        }
    }

    fn add(&mut self, index: u32, contract: Contract, after: &[u32]) {
        self.flows.insert(index, Flow::new(contract, self.begin(index, after)));
    }

    fn remove(&mut self, index: u32) {
        if self.flows.contains_key(&index) {
            self.end(index);
            self.flows.remove(&index);
        }
    }

    fn set_contract(&mut self, index: u32, contract: Contract, after: &[u32], now: i64) {
        let Some(cost) = self.flows.get(&index).map(|flow| flow.cost) else { return };
        let t = self.observe(now);
        self.end(index);
        self.add(index, contract, after);
        self.flows.get_mut(&index).unwrap().cost = cost;
        if cost > 0 {
            self.start(index, t);
        }
    }

    fn start(&mut self, index: u32, t: i64) {
        let flow = self.flows.get_mut(&index).unwrap();
        if flow.contract.is_guaranteed() {
            flow.wake(t);
            flow.state = if flow.budget > 0 { State::Run } else { State::Wait };
        } else {
            flow.state = State::Wait;
        }
    }

    fn wants_wake(&self, index: u32) -> bool {
        self.flows.get(&index).is_some_and(|flow| match flow.state {
            State::Idle | State::Suspended => true,
            State::Wait => flow.cost == 0,
            State::Run => false,
        })
    }

    fn wake(&mut self, index: u32, cost: u64, now: i64) {
        if !self.wants_wake(index) {
            return;
        }
        let t = self.observe(now);
        let flow = self.flows.get_mut(&index).unwrap();
        flow.cost = cost.min(self.line.unit_ns()) as i64;
        if flow.state != State::Wait {
            self.start(index, t);
        }
    }

    fn handed_over(&mut self, now: i64) {
        let late = now - self.stall + self.last_cost - self.free_at;
        self.stall += if late > STALL_MIN { late } else { 0 };
    }

    fn replenish(&mut self, t: i64) {
        for flow in self.flows.values_mut().filter(|flow| flow.contract.is_guaranteed()) {
            while flow.state == State::Wait && flow.next_period <= t {
                if flow.cost == 0 {
                    flow.state = State::Idle;
                    continue;
                }
                flow.missed = false;
                flow.budget += flow.contract.slice_ns as i64;
                flow.fluid = flow.fluid.max(i128::from(flow.next_period) << 32);
                flow.next_period += flow.contract.period_ns as i64;
                if flow.budget > 0 {
                    flow.state = State::Run;
                }
            }
        }
    }

    /// The least key of those who may send by it.
    fn least_key(&self) -> Option<i64> {
        self.flows.values().filter(|flow| flow.state == State::Run).map(Flow::key).min()
    }

    fn any_slack(&self) -> bool {
        self.flows.values().any(Flow::in_slack)
    }

    /// Whether `next` is right.
    fn check_next(&mut self, next: Next, now: i64) -> Result<(), TestCaseError> {
        let t = self.observe(now);
        self.due = None;
        let open_at = self.free_at - self.line.lead_ns() as i64;
        let waiting = |flow: &&Flow| flow.contract.is_guaranteed() && flow.state == State::Wait;
        if t >= open_at {
            self.replenish(t);
            match next {
                Next::Serve { flow, slack: false, key_ns } => {
                    let chosen = &self.flows[&flow];
                    prop_assert_eq!((chosen.state, chosen.key()), (State::Run, key_ns));
                    prop_assert!(key_ns - self.least_key().unwrap() < self.bucket);
                    return Ok(());
                }
                Next::Serve { flow, slack: true, key_ns } => {
                    prop_assert_eq!((self.least_key(), key_ns), (None, i64::MAX));
                    prop_assert!(self.flows[&flow].in_slack());
                    return Ok(());
                }
                Next::Sleep { .. } => prop_assert!(self.least_key().is_none() && !self.any_slack()),
            }
        }
        let Next::Sleep { until_ns, idle_ns } = next else {
            return Err(TestCaseError::fail("served before the line is free"));
        };
        let busy = t < open_at && (self.any_slack() || self.least_key().is_some());
        let period = self.flows.values().filter(waiting).map(|flow| flow.next_period).min();
        let until = if busy { Some(open_at) } else { period.map(|at| at.max(open_at)) };
        let end = self.ends.iter().map(|&(at, _)| at).min();
        let until = until.into_iter().chain(end).min();
        prop_assert_eq!(until_ns.is_some(), until.is_some());
        let exact = busy || until == end;
        if let (Some(said), Some(at)) = (until_ns, until) {
            let late = said - self.stall - at;
            prop_assert!(
                late == 0 || (!exact && (0..self.bucket).contains(&late)),
                "{} late",
                late
            );
            prop_assert_eq!(idle_ns, said.max(self.free_at + self.stall));
        } else {
            prop_assert_eq!(idle_ns, i64::MAX);
        }
        Ok(())
    }

    fn served(
        &mut self,
        index: u32,
        slack: bool,
        cost: i64,
        sent: bool,
        head: Head,
        now: i64,
    ) -> bool {
        let t = now - self.stall;
        if sent {
            self.free_at = self.free_at.max(t) + cost;
            self.last_cost = cost;
        }
        let (unit, tardiness) = (self.line.unit_ns(), self.line.tardiness_ns() as i64);
        let free_at = self.free_at;
        let flow = self.flows.get_mut(&index).unwrap();
        let late = sent && !slack && free_at - flow.key() > tardiness;
        let missed = late && !flow.missed;
        flow.missed |= late;
        if !slack {
            flow.budget -= cost;
            if !flow.implicit() {
                flow.fluid += i128::from(cost) * flow.ratio();
            }
        }
        let guaranteed = flow.contract.is_guaranteed();
        let out_of_budget = guaranteed && flow.budget <= 0;
        flow.cost = if let Head::Frame { cost_ns } = head { cost_ns.min(unit) as i64 } else { 0 };
        flow.state = match head {
            Head::Frame { .. } | Head::Empty if out_of_budget => State::Wait,
            Head::Frame { .. } => flow.state,
            Head::Empty => State::Idle,
            Head::Blocked => State::Suspended,
        };
        let work = head != Head::Empty || self.least_key().is_some() || self.any_slack();
        self.due = work.then_some(free_at.max(t));
        missed
    }
}

/// Both, and the clock.
struct Both {
    atropos: Box<dyn Scheduler>,
    oracle: Oracle,
    now: i64,
    missed: u32,
}

impl Both {
    /// The next time at or after `at` that is the last of a bucket on the scheduler's clock.
    fn align(&mut self, at: i64) {
        let t = at.max(self.now) - self.oracle.stall;
        self.now = (t | (self.oracle.bucket - 1)) + self.oracle.stall;
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.atropos.stall_ns(), self.oracle.stall);
        for index in 0..FLOWS + 1 {
            prop_assert_eq!(
                self.atropos.wants_wake(index),
                self.oracle.wants_wake(index),
                "{}",
                index
            );
            let binds = self.oracle.terms.contains_key(&index);
            prop_assert_eq!(self.atropos.binds(index), binds, "{}", index);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (atropos, oracle, now) = (&mut self.atropos, &mut self.oracle, self.now);
        match step {
            Step::Open(index, contract, after) => {
                if oracle.flows.contains_key(&index) {
                    oracle.set_contract(index, contract, &after, now);
                    atropos.set_contract(index, &contract, &after, now);
                } else if !oracle.terms.contains_key(&index) {
                    oracle.add(index, contract, &after);
                    atropos.add(index, &contract, &after);
                } else {
                    oracle.set_contract(index, contract, &after, now);
                    atropos.set_contract(index, &contract, &after, now);
                }
            }
            Step::Close(index) => {
                oracle.remove(index);
                atropos.remove(index);
            }
            Step::Wake(index, cost) => {
                oracle.wake(index, cost, now);
                atropos.wake(index, cost, now);
            }
            Step::Settle => prop_assert_eq!(atropos.settled(now), oracle.settled(now)),
            Step::Go { cost, sent, head, hand_over, stall } => {
                let next = atropos.next(now);
                oracle.check_next(next, now)?;
                match next {
                    Next::Serve { flow, slack, .. } => {
                        let cost = cost.min(oracle.line.unit_ns());
                        let head = match head {
                            0..6 => Head::Frame { cost_ns: cost },
                            6 => Head::Frame { cost_ns: u64::MAX },
                            7 | 8 => Head::Empty,
                            _ => Head::Blocked,
                        };
                        // What is charged is what was said when it became the first in its channel.
                        let cost = oracle.flows[&flow].cost;
                        let expected = oracle.served(flow, slack, cost, sent, head, now);
                        let missed = atropos.served(flow, slack, cost as u64, sent, head, now);
                        prop_assert_eq!(missed, expected);
                        self.missed += u32::from(missed);
                        if sent && hand_over > 0 {
                            oracle.handed_over(now + hand_over);
                            atropos.handed_over(now + hand_over);
                            self.now += hand_over;
                        }
                        if stall > 0 {
                            self.now += stall;
                            // Whoever asks first notices.
                            let contract = ms(1, 10);
                            oracle.set_contract(flow, contract, &[], self.now);
                            atropos.set_contract(flow, &contract, &[], self.now);
                        }
                        self.align(self.now);
                    }
                    Next::Sleep { until_ns, .. } => {
                        self.align(until_ns.unwrap_or(now + 1_000_000));
                    }
                }
            }
        }
        self.compare()
    }
}

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Open(u32, Contract, Vec<u32>),
    Close(u32),
    Wake(u32, u64),
    Settle,
    Go { cost: u64, sent: bool, head: u8, hand_over: i64, stall: i64 },
}

fn contract() -> impl Strategy<Value = Contract> {
    let period = prop_oneof![200_000u64..40_000_000, 40_000_000u64..1_000_000_000];
    let guaranteed = (any::<bool>(), any::<bool>(), period, 1u64..100, 1u64..100);
    let guaranteed = guaranteed.prop_map(|(slack, hint, period, slice, deadline)| {
        let slice = (period * slice / 150).max(100);
        let deadline = if hint { slice + (period - slice) * deadline / 100 } else { period };
        Contract { slice_ns: slice, period_ns: period, deadline_ns: deadline, slack, weight: 1 }
    });
    let best_effort = (1u8..4).prop_map(|weight| Contract { weight, ..Contract::BEST_EFFORT });
    prop_oneof![4 => guaranteed, 1 => best_effort]
}

fn step() -> impl Strategy<Value = Step> {
    let cost = prop_oneof![6_720u64..123_041, Just(123_040), Just(u64::MAX)];
    let rarely = |ns: i64| prop_oneof![12 => Just(0), 1 => 1..40_000i64, 1 => 20_001..ns];
    let go = (6_720u64..123_041, 0u8..12, 0u8..10, rarely(400_000), rarely(90_000_000));
    prop_oneof![
        2 => (0..FLOWS, contract(), proptest::collection::vec(0..FLOWS, 0..2))
            .prop_map(|(index, contract, after)| Step::Open(index, contract, after)),
        1 => (0..FLOWS).prop_map(Step::Close),
        6 => (0..FLOWS, cost).prop_map(|(index, cost)| Step::Wake(index, cost)),
        2 => Just(Step::Settle),
        20 => go.prop_map(|(cost, sent, head, hand_over, stall)| {
            Step::Go { cost, sent: sent > 0, head, hand_over, stall }
        }),
    ]
}

proptest! {
    /// On a fast line most periods are longer than the horizon of the queues' fine tier.
    #[test]
    fn every_decision_is_one_that_the_rules_allow(
        mbit in prop_oneof![Just(100u32), Just(10_000)],
        lead in prop_oneof![Just(0u64), 1u64..200_000],
        units in prop_oneof![Just(0u64), 123_041u64..500_000],
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let line = Line::new(Rate::mbit(mbit), 1514, lead).with_units(units);
        let (atropos, oracle) = (Box::new(Atropos::new(line, 0)), Oracle::new(line, 0));
        let mut both = Both { atropos, oracle, now: 0, missed: 0 };
        prop_assert_eq!(both.atropos.line(), &line);
        both.align(0);
        for step in steps {
            both.step(step)?;
        }
    }
}
