//! The rules of the original system's transmit scheduler, as its code meant them.
//!
//! A flow has a deadline `d` and what remains of its slice, `r`. When `d` has passed, `r += s` and
//! `d += p`; who has something left is served earliest deadline first, may overdraw by a frame, and
//! then waits for `d`. A flow that wakes after its deadline begins a new period. One that wakes
//! *before* it loses what remained of its slice ("to protect the innocent"), so a sender with gaps
//! waits for its next period every time. Time nobody has a claim to goes round robin to flows that
//! want it, 20 ms at a stretch. A frame is charged its length at the line's rate: preamble, gap and
//! check sequence are forgotten. Nothing is known of time in which the scheduler could not run.
//!
//! Defects of the code, not of the rules, are left out: it skipped every second due entry, and slept
//! with work to do when a single flow's quantum had ended.

use base_flow::Contract;
use driver_atropos::{Head, Line, Next, Scheduler};

use super::wire::Wire;

/// How long a flow may use unclaimed time before it is another's turn.
const QUANTUM_NS: i64 = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Run,
    Wait,
}

#[derive(Debug, Clone, Copy)]
struct Server {
    state: State,
    deadline_ns: i64,
    left_ns: i64,
}

/// The original system's transmit scheduler.
#[derive(Debug)]
pub struct Qosentry {
    wire: Wire<Server>,
    /// Who uses unclaimed time, and how much of its quantum is left.
    turn: u32,
    quantum_ns: i64,
}

impl Qosentry {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub const fn new(line: Line, now_ns: i64) -> Self {
        Self { wire: Wire::new(line, now_ns), turn: 0, quantum_ns: QUANTUM_NS }
    }

    /// What the original charged for a frame that costs `cost_ns`.
    fn charged_ns(&self, cost_ns: u64) -> i64 {
        let forgotten = 24 * 8_000_000_000 / self.wire.line.rate().bits_per_s();
        cost_ns.saturating_sub(forgotten) as i64
    }

    /// Begins the periods that are due.
    fn replenish(&mut self, now_ns: i64) {
        for flow in self.wire.flows.iter_mut().flatten() {
            let (contract, server) = (&flow.contract, &mut flow.own);
            while server.state == State::Wait
                && contract.is_guaranteed()
                && server.deadline_ns <= now_ns
            {
                server.left_ns += contract.slice_ns as i64;
                server.deadline_ns += contract.period_ns as i64;
                if server.left_ns > 0 {
                    server.state = State::Run;
                }
            }
        }
    }

    /// Whose turn it is to use unclaimed time.
    fn slack(&mut self) -> Option<u32> {
        let flows = self.wire.flows.len() as u32;
        if self.quantum_ns <= 0 {
            (self.turn, self.quantum_ns) = ((self.turn + 1) % flows.max(1), QUANTUM_NS);
        }
        for step in 0..flows {
            let index = (self.turn + step) % flows;
            let takes = self.wire.flows[index as usize]
                .as_ref()
                .is_some_and(|flow| flow.contract.slack && flow.head_ns.is_some());
            if takes {
                if step > 0 {
                    (self.turn, self.quantum_ns) = (index, QUANTUM_NS);
                }
                return Some(index);
            }
        }
        None
    }
}

impl Scheduler for Qosentry {
    fn line(&self) -> &Line {
        &self.wire.line
    }

    fn stall_ns(&self) -> i64 {
        0
    }

    fn add(&mut self, index: u32, contract: &Contract) {
        let server = Server { state: State::Idle, deadline_ns: i64::MIN, left_ns: 0 };
        self.wire.add(index, contract, server);
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

    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64) {
        let flow = self.wire.get_mut(index);
        flow.head_ns = Some(cost_ns as i64);
        let server = &mut flow.own;
        if server.state == State::Idle {
            if now_ns > server.deadline_ns {
                server.left_ns = flow.contract.slice_ns as i64;
                server.deadline_ns = now_ns + flow.contract.period_ns as i64;
            } else {
                server.left_ns = 0;
            }
            server.state = if server.left_ns > 0 { State::Run } else { State::Wait };
        }
    }

    fn next(&mut self, now_ns: i64) -> Next {
        if let Some(committed) = self.wire.committed(now_ns) {
            return committed;
        }
        self.replenish(now_ns);
        let claims = self.wire.backlogged().filter(|(_, flow)| flow.own.state == State::Run);
        if let Some((flow, entry)) = claims.min_by_key(|(_, flow)| flow.own.deadline_ns) {
            return Next::Serve { flow, slack: false, key_ns: entry.own.deadline_ns };
        }
        if let Some(flow) = self.slack() {
            return Next::Serve { flow, slack: true, key_ns: i64::MAX };
        }
        let waiting = self.wire.backlogged().filter(|(_, flow)| flow.contract.is_guaranteed());
        let until = waiting.map(|(_, flow)| flow.own.deadline_ns).min();
        self.wire.sleep(until)
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
        let charged = self.charged_ns(cost_ns);
        if slack {
            self.quantum_ns -= charged;
        }
        self.wire.served(index, cost_ns, sent, head, now_ns);
        let flow = self.wire.get_mut(index);
        let empty = flow.head_ns.is_none();
        let server = &mut flow.own;
        if !slack {
            server.left_ns -= charged;
        }
        // A flow without a share waits for ever, and is given unclaimed time.
        server.state = if server.left_ns <= 0 && !empty {
            State::Wait
        } else if empty {
            State::Idle
        } else {
            State::Run
        };
        false
    }
}
