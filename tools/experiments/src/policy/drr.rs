//! Deficit round robin (Shreedhar and Varghese): each flow in turn may send its quantum, which is
//! its share of the line. Work-conserving: nobody is held back while the line is idle, so a contract
//! is a floor and not a ceiling, and there is no notion of when a slice is wanted.

use base_flow::Contract;
use driver_atropos::{Line, Next};

use super::baseline::{Baseline, Rule, Wire};

/// Deficit round robin.
pub type Drr = Baseline<Turns>;

/// Whose turn it is, and whether that flow was given its quantum. A flow keeps its deficit.
#[derive(Debug, Default)]
pub struct Turns {
    turn: u32,
    begun: bool,
}

/// The quantum of a flow: a round of all shares takes a hundred longest frames.
fn quantum_ns(line: &Line, contract: &Contract) -> i64 {
    let round = 100 * line.frame_ns();
    let share =
        u128::from(round) * u128::from(contract.slice_ns) / u128::from(contract.period_ns.max(1));
    (share as i64).max(line.frame_ns() as i64)
}

impl Rule for Turns {
    type Own = i64;

    fn own(_line: &Line) -> i64 {
        0
    }

    fn choose(&mut self, wire: &mut Wire<i64>, _now_ns: i64) -> Next {
        if wire.backlogged().next().is_none() {
            return wire.sleep(None);
        }
        let flows = wire.flows.len() as u32;
        loop {
            let index = self.turn % flows;
            let line = wire.line;
            if let Some(flow) = &mut wire.flows[index as usize]
                && let Some(head_ns) = flow.head_ns
            {
                if !std::mem::replace(&mut self.begun, true) {
                    flow.own += quantum_ns(&line, &flow.contract);
                }
                if head_ns <= flow.own {
                    return Next::Serve { flow: index, slack: false, key_ns: i64::MAX };
                }
            }
            (self.turn, self.begun) = ((index + 1) % flows, false);
        }
    }

    fn paid(&mut self, wire: &mut Wire<i64>, index: u32, _: bool, cost_ns: u64, _: i64) {
        let flow = wire.get_mut(index);
        // Who has nothing to send saves nothing up.
        flow.own = if flow.head_ns.is_some() { flow.own - cost_ns as i64 } else { 0 };
    }
}
