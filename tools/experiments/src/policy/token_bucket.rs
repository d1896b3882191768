//! A bucket of tokens per flow, filled at its rate, as HTB keeps it; who has tokens sends in turn,
//! and what nobody has tokens for goes in turn to flows that may borrow.
//!
//! A bucket holds one longest frame, HTB's default at these rates, and may be overdrawn by a frame.
//! There are no periods and no deadlines: among those with tokens whoever's turn it is goes first.

use base_flow::Contract;
use driver_atropos::{Head, Line, Next, Scheduler};

use super::wire::{Wire, stretch_ns};

/// Tokens, in nanoseconds of wire time, as of a time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens_ns: i64,
    at_ns: i64,
}

/// A bucket of tokens per flow.
#[derive(Debug)]
pub struct TokenBucket {
    wire: Wire<Bucket>,
    turn: u32,
}

impl TokenBucket {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub const fn new(line: Line, now_ns: i64) -> Self {
        Self { wire: Wire::new(line, now_ns), turn: 0 }
    }

    const fn burst_ns(&self) -> i64 {
        self.wire.line.frame_ns() as i64
    }
}

/// Tokens at `now_ns`.
fn tokens(contract: &Contract, bucket: Bucket, burst_ns: i64, now_ns: i64) -> i64 {
    let passed = i128::from((now_ns - bucket.at_ns).clamp(0, 10_000_000_000));
    let earned = passed * i128::from(contract.slice_ns) / i128::from(contract.period_ns.max(1));
    (bucket.tokens_ns + earned as i64).min(burst_ns)
}

impl Scheduler for TokenBucket {
    fn line(&self) -> &Line {
        &self.wire.line
    }

    fn stall_ns(&self) -> i64 {
        0
    }

    fn add(&mut self, index: u32, contract: &Contract) {
        let full = Bucket { tokens_ns: self.burst_ns(), at_ns: 0 };
        self.wire.add(index, contract, full);
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
        let (flows, turn, burst) =
            (self.wire.flows.len().max(1) as u32, self.turn, self.burst_ns());
        let distance = |index: u32| (index + flows - turn) % flows;
        let held = |contract: &Contract, bucket| tokens(contract, bucket, burst, now_ns);
        let own = self
            .wire
            .backlogged()
            .filter(|(_, flow)| flow.contract.is_guaranteed() && held(&flow.contract, flow.own) > 0)
            .min_by_key(|&(index, _)| distance(index));
        if let Some((flow, _)) = own {
            return Next::Serve { flow, slack: false, key_ns: i64::MAX };
        }
        let borrowed = self
            .wire
            .backlogged()
            .filter(|(_, flow)| flow.contract.slack)
            .min_by_key(|&(index, _)| distance(index));
        if let Some((flow, _)) = borrowed {
            return Next::Serve { flow, slack: true, key_ns: i64::MAX };
        }
        let until = self.wire.backlogged().map(|(_, flow)| {
            let missing = 1 - held(&flow.contract, flow.own);
            now_ns + stretch_ns(&flow.contract, missing).max(1)
        });
        let until = until.min();
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
        let burst = self.burst_ns();
        let flow = self.wire.get_mut(index);
        if !slack {
            let left = tokens(&flow.contract, flow.own, burst, now_ns) - cost_ns as i64;
            flow.own = Bucket { tokens_ns: left, at_ns: now_ns };
        }
        self.turn = index + 1;
        self.wire.served(index, cost_ns, sent, head, now_ns);
        false
    }
}
