//! Deficit round robin (Shreedhar and Varghese): each flow in turn may send its quantum, which is
//! its share of the line. Work-conserving: nobody is held back while the line is idle, so a contract
//! is a floor and not a ceiling, and there is no notion of when a slice is wanted.

use base_flow::Contract;
use driver_atropos::{Head, Line, Next, Scheduler};

use super::wire::Wire;

/// Deficit round robin.
#[derive(Debug)]
pub struct Drr {
    /// A flow keeps its deficit.
    wire: Wire<i64>,
    turn: u32,
    /// Whether the flow whose turn it is was given its quantum.
    begun: bool,
}

impl Drr {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub const fn new(line: Line, now_ns: i64) -> Self {
        Self { wire: Wire::new(line, now_ns), turn: 0, begun: false }
    }

    /// The quantum of a flow: a round of all shares takes a hundred longest frames.
    fn quantum_ns(&self, contract: &Contract) -> i64 {
        let round = 100 * self.wire.line.frame_ns();
        let share = u128::from(round) * u128::from(contract.slice_ns)
            / u128::from(contract.period_ns.max(1));
        (share as i64).max(self.wire.line.frame_ns() as i64)
    }
}

impl Scheduler for Drr {
    fn line(&self) -> &Line {
        &self.wire.line
    }

    fn stall_ns(&self) -> i64 {
        0
    }

    fn add(&mut self, index: u32, contract: &Contract) {
        self.wire.add(index, contract, 0);
    }

    fn remove(&mut self, index: u32) {
        self.wire.remove(index);
    }

    fn set_contract(&mut self, index: u32, contract: &Contract) {
        self.wire.set_contract(index, contract);
    }

    fn wants_wake(&self, index: u32) -> bool {
        self.wire.wants_wake(index)
    }

    fn wake(&mut self, index: u32, cost_ns: u64, _now_ns: i64) {
        self.wire.get_mut(index).head_ns = Some(cost_ns as i64);
    }

    fn next(&mut self, now_ns: i64) -> Next {
        if let Some(committed) = self.wire.committed(now_ns) {
            return committed;
        }
        if self.wire.backlogged().next().is_none() {
            return self.wire.sleep(None);
        }
        let flows = self.wire.flows.len() as u32;
        loop {
            let index = self.turn % flows;
            let head = self.wire.flows[index as usize].as_ref().and_then(|flow| flow.head_ns);
            if let Some(head) = head {
                let contract = self.wire.get_mut(index).contract;
                let quantum = if std::mem::replace(&mut self.begun, true) {
                    0
                } else {
                    self.quantum_ns(&contract)
                };
                let flow = self.wire.get_mut(index);
                flow.own += quantum;
                if head <= flow.own {
                    return Next::Serve { flow: index, slack: false, key_ns: i64::MAX };
                }
            }
            (self.turn, self.begun) = ((index + 1) % flows, false);
        }
    }

    fn served(
        &mut self,
        index: u32,
        _slack: bool,
        cost_ns: u64,
        sent: bool,
        head: Head,
        now_ns: i64,
    ) -> bool {
        self.wire.served(index, cost_ns, sent, head, now_ns);
        let flow = self.wire.get_mut(index);
        // Who has nothing to send saves nothing up.
        flow.own = if flow.head_ns.is_some() { flow.own - cost_ns as i64 } else { 0 };
        false
    }
}
