//! Cost of a scheduling decision against the number of backlogged flows.
//!
//! All flows have a frame at all times and together contracts for 98 % of the line; a slice is one frame
//! or eight. Reported is the median over batches of the time for one `next` and one `served`.

use std::hint::black_box;
use std::time::Instant;

use base_flow::{Contract, Rate};
use driver_atropos::{Atropos, Head, Line, Next, Scheduler};

const BATCH: usize = 4096;

fn main() {
    println!("{:>8} {:>16} {:>14} {:>14}", "flows", "frames a slice", "median ns", "p99 ns");
    for flows in [256u32, 4_096, 65_536, 262_144] {
        for frames in [1u64, 8] {
            let (median, p99) = measure(flows, frames);
            println!("{flows:>8} {frames:>16} {median:>14.1} {p99:>14.1}");
        }
    }
}

/// Nanoseconds per decision.
fn measure(flows: u32, frames: u64) -> (f64, f64) {
    // A lead of a burst, so that the clock moves once a burst, as in the driver.
    let line = Line::new(Rate::mbit(40_000), 1514, Rate::mbit(40_000).wire_ns(1514) * 64);
    let cost = line.cost_ns(1514);
    let slice = cost * frames;
    let period = (slice * u64::from(flows) * 100 / 98).clamp(slice, Contract::PERIOD_NS_MAX);
    let contract = Contract::guaranteed(slice, period).expect("a valid contract");
    let mut atropos = Atropos::new(line, 0);
    let mut now = 0i64;
    for flow in 0..flows {
        atropos.add(flow, &contract, &[]);
        // Periods begin spread over one, as those of independent applications do.
        let at = i64::from(flow) * (period as i64) / i64::from(flows);
        atropos.wake(flow, cost, at);
        now = at;
    }
    let decide = |atropos: &mut Atropos, now: &mut i64| {
        loop {
            match atropos.next(*now) {
                Next::Serve { flow, slack, .. } => {
                    let head = Head::Frame { cost_ns: cost };
                    atropos.served(black_box(flow), slack, cost, true, head, *now);
                    return;
                }
                Next::Sleep { until_ns, .. } => {
                    *now = until_ns.expect("there is always work").max(*now + 1)
                }
            }
        }
    };
    for _ in 0..flows as usize * 2 {
        decide(&mut atropos, &mut now);
    }
    let batches = (2_000_000 / BATCH).max(flows as usize * 2 / BATCH);
    let mut times: Vec<f64> = (0..batches)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..BATCH {
                decide(&mut atropos, &mut now);
            }
            begun.elapsed().as_nanos() as f64 / BATCH as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
