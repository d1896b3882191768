//! Two engines over a wire that is as bad as it gets: every byte arrives once, in order, or a reset is
//! reported.

use base_flow::Rate;
use tools_sim::tcp::{Outcome, Scenario};

fn delivered(outcome: &Outcome, bytes: u64) {
    assert!(outcome.finished, "{outcome:?}");
    assert_eq!(outcome.failures, [None, None], "{outcome:?}");
    assert_eq!(outcome.progress[1].wrong, None);
    assert_eq!((outcome.progress[1].read, outcome.progress[1].ended), (bytes, true), "{outcome:?}");
}

#[test]
fn a_perfect_wire_is_used_up() {
    let scenario = Scenario { rate: Rate::mbit(100), ..Scenario::sends(20_000_000) };
    let outcome = scenario.engines().play();
    delivered(&outcome, 20_000_000);
    // 1448 of every 1538 bytes of wire are payload.
    let best_ns = 20_000_000 * 8 * 10 * 1538 / 1448;
    let read_ns = outcome.progress[1].last_read_ns;
    assert!(read_ns < best_ns + best_ns / 50, "{read_ns} {best_ns}");
}

/// How many seeds to try: `PLUMB_SEEDS`, as `cargo run -p xtask -- simulate` sets it, or some hundreds.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let first = number("PLUMB_SEED").unwrap_or(0);
    first..first + number("PLUMB_SEEDS").unwrap_or(300)
}

/// Whether the applications got what they should have; if not, what is wrong.
fn verdict(scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
    let worst = scenario.ways[0].loss_ppm.max(scenario.ways[1].loss_ppm);
    for side in 0..2 {
        let (progress, from) = (outcome.progress[side], outcome.progress[1 - side]);
        if let Some(offset) = progress.wrong {
            return Err(format!("byte {offset} at end {side} is wrong"));
        }
        if progress.read > from.written {
            return Err(format!("end {side} read more than was written"));
        }
    }
    if !outcome.finished {
        return Err("it never ended".into());
    }
    let cut_short = scenario.behaviours.iter().any(|behaviour| behaviour.closes_at_ns.is_some());
    for side in 0..2 {
        let failed = &outcome.failures[side];
        // Two packets of three may be lost there and back; R2 is 15 minutes.
        let hopeless = worst >= 300_000 && failed.as_deref() == Some("the peer does not answer");
        if failed.is_some() && !cut_short && !hopeless && outcome.failures[1 - side].is_none() {
            return Err(format!("end {side} failed: {failed:?}"));
        }
    }
    if cut_short || outcome.failures != [None, None] {
        return Ok(());
    }
    for side in 0..2 {
        let (progress, wrote) = (outcome.progress[side], scenario.behaviours[1 - side].writes);
        if !progress.ended || progress.read != wrote {
            return Err(format!("end {side} read {} of {wrote}", progress.read));
        }
    }
    Ok(())
}

#[test]
fn every_byte_arrives_once_in_order_or_a_reset_is_reported() {
    let mut wrong = Vec::new();
    for seed in seeds() {
        let scenario = Scenario::random(seed);
        let mut run = scenario.engines();
        let outcome = run.play();
        if let Err(what) = verdict(&scenario, &outcome) {
            eprintln!("PLUMB_SEED={seed} PLUMB_SEEDS=1: {what}\n{scenario:?}\n{outcome:?}\n");
            for host in [&run.hosts.0, &run.hosts.1] {
                eprintln!("{:?}", host.connection().map(|connection| connection.info()));
                for record in host.connection().into_iter().flat_map(|c| c.trace().records()) {
                    eprintln!("{record:?}");
                }
            }
            wrong.push(seed);
        }
    }
    assert!(wrong.is_empty(), "seeds {wrong:?}");
}
