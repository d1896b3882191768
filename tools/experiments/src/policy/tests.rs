//! Each policy does what it is known for.

use base_flow::{Contract, Rate};

use super::Policy;
use crate::transmit::{Load, Plan, Sender, run};

const MS: u64 = 1_000_000;
const FRAME_NS: u64 = 123_040;

fn flood(contract: Contract) -> Sender {
    Sender { name: String::new(), contract, load: Load::Flood { bytes: 1514 }, from_ns: 0 }
}

fn steady(contract: Contract, every_ns: u64) -> Sender {
    let load = Load::Steady { bytes: 242, every_ns, burst: 1 };
    Sender { name: String::new(), contract, load, from_ns: 1 }
}

fn guaranteed(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * MS, period * MS).unwrap()
}

/// Frames of each sender in a second of 100 Mbit/s.
fn frames(policy: Policy, senders: Vec<Sender>) -> Vec<u64> {
    let plan = Plan { rate: Rate::mbit(100), length_ns: 1_000 * MS, senders, stalls: Vec::new() };
    let trace = run(&plan, |line| policy.schedule(line, 0));
    trace.lanes.iter().map(|lane| lane.frames.len() as u64).collect()
}

/// The longest that a steady sender waited, beside a flood with a guarantee of most of the line.
fn worst_wait_ns(policy: Policy) -> u64 {
    let senders =
        vec![steady(guaranteed(1, 10), 5 * MS), flood(guaranteed(80, 100).with_slack(true))];
    let plan = Plan { rate: Rate::mbit(100), length_ns: 1_000 * MS, senders, stalls: Vec::new() };
    let trace = run(&plan, |line| policy.schedule(line, 0));
    let waits = trace.lanes[0].frames.iter().map(|frame| frame.done_ns - frame.sent_ns);
    waits.max().unwrap()
}

#[test]
fn every_policy_that_shapes_gives_contracts_their_rates() {
    for policy in [Policy::Atx, Policy::TokenBucket, Policy::Carousel] {
        let sent = frames(policy, vec![flood(guaranteed(10, 100)), flood(guaranteed(40, 100))]);
        let [small, large] = [100 * MS / FRAME_NS, 400 * MS / FRAME_NS];
        assert!(
            sent[0].abs_diff(small) <= 2 && sent[1].abs_diff(large) <= 2,
            "{policy:?} {sent:?}"
        );
    }
}

#[test]
fn the_original_undercharges_by_what_it_forgets_of_a_frame() {
    let sent = frames(Policy::Qosentry, vec![flood(guaranteed(50, 100))]);
    let charged = FRAME_NS - 24 * 80;
    assert!(sent[0].abs_diff(500 * MS / charged) <= 2, "{sent:?}");
}

#[test]
fn round_robin_shares_all_of_the_line_in_proportion() {
    let sent = frames(Policy::Drr, vec![flood(guaranteed(10, 100)), flood(guaranteed(30, 100))]);
    let all = 1_000 * MS / FRAME_NS;
    assert!((sent[0] + sent[1]).abs_diff(all) <= 1, "nothing is left idle: {sent:?}");
    assert!(sent[1].abs_diff(3 * sent[0]) <= 120, "{sent:?}");
}

#[test]
fn who_may_borrow_gets_what_is_left() {
    for policy in [Policy::Atx, Policy::TokenBucket, Policy::Qosentry] {
        let sent = frames(policy, vec![flood(guaranteed(20, 100)), flood(Contract::BEST_EFFORT)]);
        let all = 1_000 * MS / FRAME_NS;
        assert!((sent[0] + sent[1]).abs_diff(all) <= 1, "{policy:?} {sent:?}");
        assert!(sent[1] > 3 * sent[0], "{policy:?} {sent:?}");
    }
}

#[test]
fn the_originals_rule_for_short_blocks_costs_a_steady_sender_its_period() {
    assert!(worst_wait_ns(Policy::Qosentry) > 4 * MS);
    assert!(worst_wait_ns(Policy::Atx) < 300_000);
}
