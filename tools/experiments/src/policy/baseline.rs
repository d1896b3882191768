//! What every policy that A-TX is compared with has in common: the line's clock, each flow's contract and
//! next frame. A policy is only what remains: a [`Rule`].

use std::fmt;

use base_flow::Contract;
use driver_atropos::{Head, Line, Next, Scheduler};

/// What policies are asked about; anything else is a fault of the driver.
const NO_FLOW: &str = "a flow that was added";

/// What distinguishes a policy.
pub trait Rule: Sized {
    /// What it keeps of a flow.
    type Own: fmt::Debug;

    /// What it keeps of a new flow.
    fn own(line: &Line) -> Self::Own;

    /// A flow has a frame again.
    fn woken(&mut self, _wire: &mut Wire<Self::Own>, _index: u32, _now_ns: i64) {}

    /// What to do while the line is free.
    fn choose(&mut self, wire: &mut Wire<Self::Own>, now_ns: i64) -> Next;

    /// A flow was served and pays; its next frame is in place already.
    fn paid(
        &mut self,
        wire: &mut Wire<Self::Own>,
        index: u32,
        slack: bool,
        cost_ns: u64,
        now_ns: i64,
    );

    /// A flow is gone.
    fn left(&mut self, _index: u32) {}
}

/// A flow of a policy, and what the policy itself keeps of it.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    pub(super) contract: Contract,
    /// Wire time of its next frame, if it has one that can be sent.
    pub(super) head_ns: Option<i64>,
    pub(super) own: T,
}

/// The line, when it is free, and the flows.
#[derive(Debug)]
pub struct Wire<T> {
    pub(super) line: Line,
    free_ns: i64,
    pub(super) flows: Vec<Option<Entry<T>>>,
}

impl<T> Wire<T> {
    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry<T> {
        self.flows[index as usize].as_mut().expect(NO_FLOW)
    }

    /// Flows that have a frame, by index.
    pub(super) fn backlogged(&self) -> impl Iterator<Item = (u32, &Entry<T>)> {
        let all = self.flows.iter().enumerate();
        let some = all.filter_map(|(index, flow)| Some((index as u32, flow.as_ref()?)));
        some.filter(|(_, flow)| flow.head_ns.is_some())
    }

    pub(super) fn sleep(&self, until_ns: Option<i64>) -> Next {
        let idle_ns = until_ns.map_or(i64::MAX, |at| at.max(self.free_ns));
        Next::Sleep { until_ns, idle_ns }
    }
}

/// A scheduler that follows a [`Rule`]. It knows nothing of time in which it could not run, and misses no
/// period: it promises none.
#[derive(Debug)]
pub struct Baseline<R: Rule> {
    wire: Wire<R::Own>,
    rule: R,
}

impl<R: Rule + Default> Baseline<R> {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub fn new(line: Line, now_ns: i64) -> Self {
        Self { wire: Wire { line, free_ns: now_ns, flows: Vec::new() }, rule: R::default() }
    }
}

impl<R: Rule> Scheduler for Baseline<R> {
    fn line(&self) -> &Line {
        &self.wire.line
    }

    fn stall_ns(&self) -> i64 {
        0
    }

    fn add(&mut self, index: u32, contract: &Contract, _after: &[u32]) {
        let (place, flows) = (index as usize, &mut self.wire.flows);
        if flows.len() <= place {
            flows.resize_with(place + 1, || None);
        }
        assert!(flows[place].is_none(), "flow {index} is added twice");
        let own = R::own(&self.wire.line);
        flows[place] = Some(Entry { contract: *contract, head_ns: None, own });
    }

    fn remove(&mut self, index: u32) {
        if let Some(flow) = self.wire.flows.get_mut(index as usize) {
            *flow = None;
            self.rule.left(index);
        }
    }

    fn set_contract(&mut self, index: u32, contract: &Contract, _after: &[u32], _now_ns: i64) {
        if let Some(Some(flow)) = self.wire.flows.get_mut(index as usize) {
            flow.contract = *contract;
        }
    }

    fn wants_wake(&self, index: u32) -> bool {
        let flow = self.wire.flows.get(index as usize).and_then(Option::as_ref);
        flow.is_some_and(|flow| flow.head_ns.is_none())
    }

    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64) {
        if self.wants_wake(index) {
            self.wire.get_mut(index).head_ns = Some(cost_ns as i64);
            self.rule.woken(&mut self.wire, index, now_ns);
        }
    }

    fn next(&mut self, now_ns: i64) -> Next {
        let open_ns = self.wire.free_ns - self.wire.line.lead_ns() as i64;
        if now_ns < open_ns {
            return self.wire.sleep(Some(open_ns));
        }
        self.rule.choose(&mut self.wire, now_ns)
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
        if sent {
            self.wire.free_ns = self.wire.free_ns.max(now_ns) + cost_ns as i64;
        }
        self.wire.get_mut(index).head_ns = match head {
            Head::Frame { cost_ns } => Some(cost_ns as i64),
            Head::Empty | Head::Blocked => None,
        };
        self.rule.paid(&mut self.wire, index, slack, cost_ns, now_ns);
        false
    }
}

/// `cost · period / slice`: how long a contract's share of the line takes for it. Best effort has no
/// share, so takes no time.
pub(super) fn stretch_ns(contract: &Contract, cost_ns: i64) -> i64 {
    if contract.slice_ns == 0 {
        return 0;
    }
    let product = i128::from(cost_ns) * i128::from(contract.period_ns);
    (product / i128::from(contract.slice_ns)) as i64
}
