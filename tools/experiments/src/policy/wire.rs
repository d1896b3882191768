//! What every policy keeps: the line's clock, and each flow's contract and next frame.

use base_flow::Contract;
use driver_atropos::{Head, Line, Next};

/// A flow of a policy, and what the policy itself keeps of it.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    pub(super) contract: Contract,
    /// Wire time of its next frame, if it has one that can be sent.
    pub(super) head_ns: Option<i64>,
    pub(super) own: T,
}

/// The line, when it is free, and the flows.
#[derive(Debug)]
pub(super) struct Wire<T> {
    pub(super) line: Line,
    pub(super) free_ns: i64,
    pub(super) flows: Vec<Option<Entry<T>>>,
}

impl<T> Wire<T> {
    pub(super) const fn new(line: Line, now_ns: i64) -> Self {
        Self { line, free_ns: now_ns, flows: Vec::new() }
    }

    pub(super) fn add(&mut self, index: u32, contract: &Contract, own: T) {
        let place = index as usize;
        if self.flows.len() <= place {
            self.flows.resize_with(place + 1, || None);
        }
        assert!(self.flows[place].is_none(), "flow {index} is added twice");
        self.flows[place] = Some(Entry { contract: *contract, head_ns: None, own });
    }

    pub(super) fn remove(&mut self, index: u32) {
        if let Some(flow) = self.flows.get_mut(index as usize) {
            *flow = None;
        }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry<T> {
        self.flows[index as usize].as_mut().expect(super::NO_FLOW)
    }

    pub(super) fn set_contract(&mut self, index: u32, contract: &Contract) {
        if let Some(Some(flow)) = self.flows.get_mut(index as usize) {
            flow.contract = *contract;
        }
    }

    pub(super) fn wants_wake(&self, index: u32) -> bool {
        let flow = self.flows.get(index as usize);
        flow.is_some_and(|flow| flow.as_ref().is_some_and(|flow| flow.head_ns.is_none()))
    }

    /// Flows that have a frame, by index.
    pub(super) fn backlogged(&self) -> impl Iterator<Item = (u32, &Entry<T>)> {
        let all = self.flows.iter().enumerate();
        let some = all.filter_map(|(index, flow)| Some((index as u32, flow.as_ref()?)));
        some.filter(|(_, flow)| flow.head_ns.is_some())
    }

    /// Until when the line is committed beyond its lead, if it is.
    pub(super) fn committed(&self, now_ns: i64) -> Option<Next> {
        let open_ns = self.free_ns - self.line.lead_ns() as i64;
        (now_ns < open_ns).then(|| self.sleep(Some(open_ns)))
    }

    pub(super) fn sleep(&self, until_ns: Option<i64>) -> Next {
        let idle_ns = until_ns.map_or(i64::MAX, |at| at.max(self.free_ns));
        Next::Sleep { until_ns, idle_ns }
    }

    /// Notes that a frame went out, if it did, and what is next.
    pub(super) fn served(&mut self, index: u32, cost_ns: u64, sent: bool, head: Head, now_ns: i64) {
        if sent {
            self.free_ns = self.free_ns.max(now_ns) + cost_ns as i64;
        }
        self.get_mut(index).head_ns = match head {
            Head::Frame { cost_ns } => Some(cost_ns as i64),
            Head::Empty | Head::Blocked => None,
        };
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
