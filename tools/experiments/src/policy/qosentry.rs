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

use driver_atropos::{Line, Next};

use super::baseline::{Baseline, Rule, Wire};

/// The original system's transmit scheduler.
pub type Qosentry = Baseline<Servers>;

/// How long a flow may use unclaimed time before it is another's turn.
const QUANTUM_NS: i64 = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Run,
    Wait,
}

/// What is kept of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    state: State,
    deadline_ns: i64,
    left_ns: i64,
}

/// Who uses unclaimed time, and how much of its quantum is left.
#[derive(Debug)]
pub struct Servers {
    turn: u32,
    quantum_ns: i64,
}

impl Default for Servers {
    fn default() -> Self {
        Self { turn: 0, quantum_ns: QUANTUM_NS }
    }
}

/// What the original charged for a frame that costs `cost_ns`.
fn charged_ns(line: &Line, cost_ns: u64) -> i64 {
    let forgotten = 24 * 8_000_000_000 / line.rate().bits_per_s();
    cost_ns.saturating_sub(forgotten) as i64
}

/// Begins the periods that are due.
fn replenish(wire: &mut Wire<Server>, now_ns: i64) {
    for flow in wire.flows.iter_mut().flatten() {
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

impl Servers {
    /// Whose turn it is to use unclaimed time.
    fn slack(&mut self, wire: &Wire<Server>) -> Option<u32> {
        let flows = wire.flows.len() as u32;
        if self.quantum_ns <= 0 {
            (self.turn, self.quantum_ns) = ((self.turn + 1) % flows.max(1), QUANTUM_NS);
        }
        for step in 0..flows {
            let index = (self.turn + step) % flows;
            let takes = wire.flows[index as usize]
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

impl Rule for Servers {
    type Own = Server;

    fn own(_line: &Line) -> Server {
        Server { state: State::Idle, deadline_ns: i64::MIN, left_ns: 0 }
    }

    fn woken(&mut self, wire: &mut Wire<Server>, index: u32, now_ns: i64) {
        let flow = wire.get_mut(index);
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

    fn choose(&mut self, wire: &mut Wire<Server>, now_ns: i64) -> Next {
        replenish(wire, now_ns);
        let claims = wire.backlogged().filter(|(_, flow)| flow.own.state == State::Run);
        if let Some((flow, entry)) = claims.min_by_key(|(_, flow)| flow.own.deadline_ns) {
            return Next::Serve { flow, slack: false, key_ns: entry.own.deadline_ns };
        }
        if let Some(flow) = self.slack(wire) {
            return Next::Serve { flow, slack: true, key_ns: i64::MAX };
        }
        let waiting = wire.backlogged().filter(|(_, flow)| flow.contract.is_guaranteed());
        let until = waiting.map(|(_, flow)| flow.own.deadline_ns).min();
        wire.sleep(until)
    }

    fn paid(&mut self, wire: &mut Wire<Server>, index: u32, slack: bool, cost_ns: u64, _: i64) {
        let charged = charged_ns(&wire.line, cost_ns);
        let flow = wire.get_mut(index);
        let empty = flow.head_ns.is_none();
        let server = &mut flow.own;
        if slack {
            self.quantum_ns -= charged;
        } else {
            server.left_ns -= charged;
        }
        // A flow without a share waits for ever, and is given unclaimed time.
        server.state = if empty {
            State::Idle
        } else if server.left_ns <= 0 {
            State::Wait
        } else {
            State::Run
        };
    }
}
