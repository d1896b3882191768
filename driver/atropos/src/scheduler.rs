//! The rules of A-TX, event by event, and its clock.

use base_flow::Contract;

use crate::buckets::Buckets;
use crate::flow::{Flow, State};
use crate::slack::Slack;
use crate::terms::Terms;
use crate::{Head, Line, Next, Scheduler};

/// The scheduler of one line.
#[derive(Debug)]
pub struct Atropos {
    line: Line,
    flows: Vec<Flow>,
    /// Until when earlier contracts bind.
    terms: Terms,
    run: Buckets,
    wait: Buckets,
    slack: Slack,
    /// When the wire is free, on the scheduler's clock.
    free_at: i64,
    /// By how much the scheduler's clock is behind the caller's.
    behind: i64,
    /// How much of that the caller was kept from the processor.
    stall: i64,
    /// Time for which the caller was off the processor since the line was last busy, and that no stall counts yet.
    away: i64,
    /// When it last told, and what it had used.
    told: Option<(i64, u64)>,
    /// By how much the last guaranteed frame was later than the bound.
    lag: i64,
    /// When the wire would begin to stand idle although there is work.
    due: Option<i64>,
    /// No waiting flow's period begins before this.
    quiet_until: i64,
    /// Cost of the last frame that went out.
    last_cost: i64,
    /// The latest time known.
    seen: i64,
}

/// A delay of the loop below this is not counted as a stall of the line.
const STALL_NS_MIN: i64 = 20_000;

/// What the caller's own work takes from the line is caught up with, at the cost of slack, while guaranteed frames
/// are no later than this beyond their bound. Whatever more there is to do than a processor can, it is not put off
/// for longer.
const CATCH_UP_NS_MAX: i64 = 10_000_000;

impl Atropos {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub fn new(line: Line, now_ns: i64) -> Self {
        Self {
            line,
            flows: Vec::new(),
            terms: Terms::default(),
            run: Buckets::new(line.shift()),
            wait: Buckets::new(line.shift()),
            slack: Slack::new(line.unit_ns()),
            free_at: now_ns,
            behind: 0,
            stall: 0,
            away: i64::MAX,
            told: None,
            lag: 0,
            due: None,
            quiet_until: i64::MIN,
            last_cost: 0,
            seen: now_ns,
        }
    }

    /// An idle flow with a frame gets into the queues.
    fn start(&mut self, index: u32, t: i64) {
        let flow = &mut self.flows[index as usize];
        if flow.is_guaranteed() {
            flow.wake(t);
            self.enter(index);
        } else {
            flow.set_state(State::Wait);
            self.slack.insert(index);
        }
    }

    /// Flow `index` has nothing to send for now, or cannot.
    fn pause(&mut self, index: u32, head: Head) {
        // A flow that waits for its period stays in the wait queue: it may be woken before then
        // and must not get a new budget. It falls idle when the period begins.
        let flow = &mut self.flows[index as usize];
        let (state, out_of_budget) = (flow.state(), flow.is_guaranteed() && flow.budget <= 0);
        flow.cost = 0;
        self.slack.remove(index);
        if state == State::Run {
            self.run.remove(&mut self.flows, index);
        }
        if head == Head::Empty && out_of_budget {
            if state == State::Run {
                self.enter(index);
            }
            return;
        }
        if state == State::Wait && self.flows[index as usize].is_guaranteed() {
            self.wait.remove(&mut self.flows, index);
        }
        let state = if head == Head::Empty { State::Idle } else { State::Suspended };
        self.flows[index as usize].set_state(state);
    }

    /// Puts a guaranteed flow into the queue its budget sends it to.
    fn enter(&mut self, index: u32) {
        let flow = &mut self.flows[index as usize];
        if flow.budget > 0 {
            flow.set_state(State::Run);
            let key = flow.key();
            self.run.insert(&mut self.flows, index, key);
        } else {
            flow.set_state(State::Wait);
            let (at, slack) = (flow.next_period, flow.takes_slack() && flow.cost > 0);
            self.wait.insert(&mut self.flows, index, at);
            self.quiet_until = self.quiet_until.min(at);
            if slack {
                self.slack.insert(index);
            }
        }
    }

    /// Takes a flow out of every queue.
    fn leave(&mut self, index: u32) {
        self.slack.remove(index);
        let flow = &self.flows[index as usize];
        match flow.state() {
            State::Run => self.run.remove(&mut self.flows, index),
            State::Wait if flow.is_guaranteed() => self.wait.remove(&mut self.flows, index),
            _ => {}
        }
    }

    /// Ends the contract of a flow that is in no queue. What it has sent binds until it is paid for.
    fn end(&mut self, index: u32) -> Flow {
        let flow = std::mem::replace(&mut self.flows[index as usize], Flow::VACANT);
        self.terms.bind(index, flow.end(), self.seen);
        flow
    }

    /// When the first budget of flow `index` may begin.
    fn begin(&self, index: u32, after: &[u32]) -> i64 {
        let earlier = after.iter().chain([&index]);
        earlier.map(|&index| self.terms.until(index)).max().unwrap_or(i64::MIN / 2)
    }

    /// Begins the periods that are due.
    fn replenish(&mut self, t: i64) {
        if t < self.quiet_until {
            return;
        }
        self.quiet_until = i64::MAX;
        while let Some(index) = self.wait.first(&mut self.flows, t) {
            let at = self.flows[index as usize].next_period;
            if at > t {
                // Others of its bucket may be due up to a bucket's width before it.
                self.quiet_until = self.quiet_until.min(at - (1 << self.line.shift()));
                return;
            }
            self.wait.remove(&mut self.flows, index);
            self.slack.remove(index);
            if self.flows[index as usize].cost == 0 {
                self.flows[index as usize].set_state(State::Idle);
                continue;
            }
            self.flows[index as usize].replenish();
            self.enter(index);
        }
    }

    /// When the next period of a waiting flow begins, early by up to a bucket, and whether that
    /// flow has something to send.
    fn next_period(&mut self) -> Option<(i64, bool)> {
        let index = self.wait.first(&mut self.flows, self.free_at)?;
        let flow = &self.flows[index as usize];
        Some((flow.next_period, flow.cost > 0))
    }

    /// Nothing to do before `until`; if there is work then, the line would stand idle from then on.
    fn sleep(&mut self, until: Option<(i64, bool)>) -> Next {
        self.due = until.filter(|&(_, work)| work).map(|(at, _)| at.max(self.free_at));
        // Somebody may be waiting for what is settled then.
        let until = [until.map(|(at, _)| at), self.terms.next()].into_iter().flatten().min();
        Next::Sleep {
            until_ns: until.map(|at| at + self.behind),
            idle_ns: until.map_or(i64::MAX, |at| at.max(self.free_at) + self.behind),
        }
    }

    /// The scheduler's time, which stands still while the line should have been busy and was not, because the
    /// caller was kept from the processor.
    fn observe(&mut self, now_ns: i64) -> i64 {
        let mut t = now_ns - self.behind;
        let late = self.due.map_or(0, |due| t - due);
        if late > STALL_NS_MIN {
            self.due = None;
            t -= self.stand_still(late);
        }
        if self.told.is_some() {
            self.away = 0;
        }
        self.seen = self.seen.max(t);
        t
    }

    /// The line was idle for `late` although there was work; returns for how much of it the clock stands still.
    fn stand_still(&mut self, late: i64) -> i64 {
        let kept = late.min(self.away);
        let still = if self.lag > CATCH_UP_NS_MAX { late } else { kept };
        self.away -= kept;
        self.stall += kept;
        self.behind += still;
        still
    }

    fn state(&self, index: u32) -> State {
        self.flows.get(index as usize).map_or(State::Vacant, Flow::state)
    }
}

impl Scheduler for Atropos {
    fn line(&self) -> &Line {
        &self.line
    }

    fn stall_ns(&self) -> i64 {
        self.stall
    }

    fn add(&mut self, index: u32, contract: &Contract, after: &[u32]) {
        let flows = (index as usize + 1).max(self.flows.len());
        self.flows.resize(flows, Flow::VACANT);
        self.terms.resize(flows);
        self.slack.resize(flows);
        let vacant = self.state(index) == State::Vacant && !self.terms.binds(index);
        assert!(vacant, "flow {index} is added twice");
        self.flows[index as usize] = Flow::new(contract, self.begin(index, after));
        self.slack.set_weight(index, contract.weight);
    }

    fn remove(&mut self, index: u32) {
        if self.state(index) != State::Vacant {
            self.leave(index);
            self.end(index);
        }
    }

    fn set_contract(&mut self, index: u32, contract: &Contract, after: &[u32], now_ns: i64) {
        if self.state(index) == State::Vacant {
            return;
        }
        let t = self.observe(now_ns);
        self.leave(index);
        let before = self.end(index);
        let begin = self.begin(index, after);
        let flow = &mut self.flows[index as usize];
        *flow = Flow::new(contract, begin);
        flow.cost = before.cost;
        self.slack.set_weight(index, contract.weight);
        if before.cost > 0 {
            self.start(index, t);
        }
    }

    fn binds(&self, index: u32) -> bool {
        self.terms.binds(index)
    }

    fn settled(&mut self, now_ns: i64) -> Option<u32> {
        self.terms.next()?;
        let t = self.observe(now_ns);
        self.terms.settled(t)
    }

    fn wants_wake(&self, index: u32) -> bool {
        match self.state(index) {
            State::Idle | State::Suspended => true,
            State::Wait => self.flows[index as usize].cost == 0,
            State::Run | State::Vacant => false,
        }
    }

    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64) {
        if !self.wants_wake(index) {
            return;
        }
        // What woke up while the line stood still wakes when that is over.
        let t = self.observe(now_ns);
        let flow = &mut self.flows[index as usize];
        flow.cost = clamp(cost_ns.min(self.line.unit_ns()));
        if flow.state() == State::Wait {
            // Its period has not begun: only slack could take it further.
            if flow.takes_slack() {
                self.slack.insert(index);
            }
            return;
        }
        self.start(index, t);
    }

    fn handed_over(&mut self, now_ns: i64) {
        let late = now_ns - self.behind + self.last_cost - self.free_at;
        if late > STALL_NS_MIN {
            self.free_at += late - self.stand_still(late);
        }
    }

    fn ran(&mut self, now_ns: i64, used_ns: u64) {
        self.away = match self.told.replace((now_ns, used_ns)) {
            None => 0,
            Some((then_ns, before_ns)) => {
                let worked = used_ns.saturating_sub(before_ns) as i64;
                self.away + (now_ns - then_ns - worked).max(0)
            }
        };
    }

    fn next(&mut self, now_ns: i64) -> Next {
        let t = self.observe(now_ns);
        self.due = None;
        let open_at = self.free_at - self.line.lead_ns() as i64;
        if t < open_at {
            let busy = !self.slack.is_empty() || self.run.first(&mut self.flows, t).is_some();
            if busy {
                return self.sleep(Some((open_at, true)));
            }
            let period = self.next_period().map(|(at, work)| (at.max(open_at), work));
            return self.sleep(period);
        }
        self.replenish(t);
        if let Some(flow) = self.run.first(&mut self.flows, t) {
            return Next::Serve { flow, slack: false, key_ns: self.flows[flow as usize].key() };
        }
        let flows = &self.flows;
        if let Some(flow) = self.slack.next(|flow| i64::from(flows[flow as usize].cost)) {
            return Next::Serve { flow, slack: true, key_ns: i64::MAX };
        }
        let until = self.next_period();
        self.sleep(until)
    }

    fn served(
        &mut self,
        index: u32,
        slack: bool,
        cost_ns: u64,
        sent: bool,
        head: Head,
        now_ns: i64,
    ) -> bool {
        let t = now_ns - self.behind;
        let cost = i64::from(clamp(cost_ns));
        if sent {
            self.free_at = self.free_at.max(t) + cost;
            self.last_cost = cost;
        }
        let key = self.flows[index as usize].key();
        let mut missed = false;
        if slack {
            self.lag = 0;
        } else if sent {
            self.lag = self.free_at - key - self.line.tardiness_ns() as i64;
            missed = self.lag > 0 && self.flows[index as usize].miss();
        }
        if slack {
            self.slack.charge(index, cost);
        } else {
            self.flows[index as usize].charge(cost);
        }
        match head {
            Head::Frame { cost_ns } => {
                let flow = &mut self.flows[index as usize];
                flow.cost = clamp(cost_ns.min(self.line.unit_ns()));
                if !slack && (flow.budget <= 0 || flow.key() != key) {
                    self.run.remove(&mut self.flows, index);
                    self.enter(index);
                }
            }
            Head::Empty | Head::Blocked => self.pause(index, head),
        }
        let work = head != Head::Empty || self.run.len() > 0 || !self.slack.is_empty();
        self.due = work.then_some(self.free_at.max(t));
        missed
    }
}

fn clamp(cost_ns: u64) -> u32 {
    u32::try_from(cost_ns).unwrap_or(u32::MAX)
}
