//! A bucket of tokens per flow, filled at its rate, as HTB keeps it; who has tokens sends in turn,
//! and what nobody has tokens for goes in turn to flows that may borrow.
//!
//! A bucket holds one longest frame, HTB's default at these rates, and may be overdrawn by a frame.
//! There are no periods and no deadlines: among those with tokens whoever's turn it is goes first.

use base_flow::Contract;
use driver_atropos::{Line, Next};

use super::baseline::{Baseline, Rule, Wire, stretch_ns};

/// A bucket of tokens per flow.
pub type TokenBucket = Baseline<Buckets>;

/// Tokens, in nanoseconds of wire time, as of a time.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens_ns: i64,
    at_ns: i64,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Buckets {
    turn: u32,
}

/// What a bucket holds.
const fn burst_ns(line: &Line) -> i64 {
    line.frame_ns() as i64
}

/// Tokens at `now_ns`.
fn tokens(contract: &Contract, bucket: Bucket, burst_ns: i64, now_ns: i64) -> i64 {
    let passed = i128::from((now_ns - bucket.at_ns).clamp(0, 10_000_000_000));
    let earned = passed * i128::from(contract.slice_ns) / i128::from(contract.period_ns.max(1));
    (bucket.tokens_ns + earned as i64).min(burst_ns)
}

impl Rule for Buckets {
    type Own = Bucket;

    fn own(line: &Line) -> Bucket {
        Bucket { tokens_ns: burst_ns(line), at_ns: 0 }
    }

    fn choose(&mut self, wire: &mut Wire<Bucket>, now_ns: i64) -> Next {
        let (flows, turn, burst) =
            (wire.flows.len().max(1) as u32, self.turn, burst_ns(&wire.line));
        let distance = |index: u32| (index + flows - turn) % flows;
        let held = |contract: &Contract, bucket| tokens(contract, bucket, burst, now_ns);
        let own = wire
            .backlogged()
            .filter(|(_, flow)| flow.contract.is_guaranteed() && held(&flow.contract, flow.own) > 0)
            .min_by_key(|&(index, _)| distance(index));
        if let Some((flow, _)) = own {
            return Next::Serve { flow, slack: false, key_ns: i64::MAX };
        }
        let borrowed = wire
            .backlogged()
            .filter(|(_, flow)| flow.contract.slack)
            .min_by_key(|&(index, _)| distance(index));
        if let Some((flow, _)) = borrowed {
            return Next::Serve { flow, slack: true, key_ns: i64::MAX };
        }
        let until = wire.backlogged().map(|(_, flow)| {
            let missing = 1 - held(&flow.contract, flow.own);
            now_ns + stretch_ns(&flow.contract, missing).max(1)
        });
        let until = until.min();
        wire.sleep(until)
    }

    fn paid(
        &mut self,
        wire: &mut Wire<Bucket>,
        index: u32,
        slack: bool,
        cost_ns: u64,
        now_ns: i64,
    ) {
        let burst = burst_ns(&wire.line);
        let flow = wire.get_mut(index);
        if !slack {
            let left = tokens(&flow.contract, flow.own, burst, now_ns) - cost_ns as i64;
            flow.own = Bucket { tokens_ns: left, at_ns: now_ns };
        }
        self.turn = index + 1;
    }
}
