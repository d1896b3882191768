//! Figure 7: streams of 40 and 45 Mbit/s; the first application discards what it reads, the second
//! works on each packet, and takes longer after every 20,000.

use base_flow::Rate;
use tools_sim::World;

use super::{COSTS, FULL, PORTS, account, full_stream, receiver};
use crate::experiments::{LENGTH_NS, MS, S};
use crate::outcome::{Band, Metric, Outcome, Part};
use crate::policy::Policy;
use crate::reception::{Reception, latency_metrics, latency_picture};

/// The streams, in Mbit/s.
pub const STREAMS: [u64; 2] = [40, 45];

/// Packets after which the second application becomes slower.
pub const SLOWER_AFTER: u64 = 20_000;

/// How long the second application works on a packet after it has read `read` others, if it becomes
/// slower after every `slower_after`. A packet comes every 273 µs.
pub const fn work_ns(read: u64, slower_after: u64) -> u64 {
    const STAGES: [u64; 5] = [100_000, 320_000, 400_000, 520_000, 700_000];
    let stage = (read / slower_after) as usize;
    STAGES[if stage < STAGES.len() { stage } else { STAGES.len() - 1 }]
}

/// Judges a run of `subject`, given the first application alone and beside the second.
pub fn judge(subject: &str, alone: &Reception, both: &Reception) -> Part {
    let ours = subject == Policy::Atx.name();
    let band = |band| ours.then_some(band);
    let [first, second] = &both.receivers[..] else { return Part::default() };
    let metric =
        |item: &str, name: &str, value: f64, unit| Metric::new(subject, item, name, value, unit);
    let alone_latency = alone.receivers[0].latencies();
    let latency = first.latencies();
    let lost = first.offered as f64 - first.reads.len() as f64 - first.waiting as f64;
    let mut metrics = vec![
        metric("first", "lost", lost, "packets").within(band(Band::Within(0.0))),
        metric(
            "first",
            "latency p99 against alone",
            latency.at(0.99) as f64 / (alone_latency.at(0.99) as f64).max(1.0),
            "×",
        )
        .within(band(Band::AtMost(1.2))),
        metric("second", "unaccounted for", second.unaccounted() as f64, "packets")
            .within(band(Band::Within(0.0))),
        metric("second", "dropped", second.dropped as f64, "packets")
            .within(band(Band::AtLeast(1.0))),
        metric("first", "offered", first.offered as f64, "packets"),
        metric("second", "offered", second.offered as f64, "packets"),
    ];
    metrics.extend(latency_metrics(subject, "first, alone", &alone_latency));
    metrics.extend(latency_metrics(subject, "first", &latency));
    let title = format!("Figure 7, {subject}: the second application slows every 20,000 packets");
    let pictures = vec![
        both.picture(subject, &title),
        latency_picture(
            &format!("{subject}-latency"),
            &format!("The first application's latency, {subject}"),
            &[("alone".into(), alone_latency), ("beside".into(), latency)],
        ),
    ];
    Part { metrics, pictures }
}

/// The first application alone, or beside the second.
fn run(seed: u64, streams: &[u64], length_ns: u64) -> Reception {
    let mut world = World::new(Rate::mbit(100), seed);
    world.charge(COSTS);
    let apps: Vec<_> =
        streams.iter().zip(PORTS).map(|(_, port)| receiver(&mut world, port)).collect();
    world.consume(apps[0], |_| 0);
    if let Some(&second) = apps.get(1) {
        world.consume(second, |read| work_ns(read, SLOWER_AFTER));
    }
    let from_ns = world.now_ns() + MS;
    let until_ns = from_ns + length_ns;
    for (&mbit, port) in streams.iter().zip(PORTS) {
        world.peer_mut().stream(full_stream(port, mbit, from_ns, until_ns));
    }
    let mut drops = vec![Vec::new(); apps.len()];
    // A second more than the streams last, so that all that was delivered is read.
    while world.now_ns() < until_ns + S {
        for (app, drops) in apps.iter().zip(&mut drops) {
            drops.push((world.now_ns(), world.bill(*app).dropped_total()));
        }
        world.run_for(10 * MS);
    }
    let names = ["no-processing", "processing"];
    let receivers = apps
        .iter()
        .zip(drops)
        .enumerate()
        .map(|(i, (&app, drops))| account(&world, app, names[i], PORTS[i], FULL.0, drops));
    Reception { from_ns, until_ns, receivers: receivers.collect() }
}

pub(in crate::experiments) fn simulate(outcome: &mut Outcome, seed: u64) {
    let alone = run(seed, &STREAMS[..1], LENGTH_NS / 3);
    let both = run(seed, &STREAMS, LENGTH_NS);
    outcome.add(judge(Policy::Atx.name(), &alone, &both));
    outcome.note("The sources are exact: a frame every 307.6 and 273.4 µs of virtual time.");
    outcome.note(format!(
        "The driver takes {} ns of virtual time to look at a frame and {} ns more to deliver it.",
        COSTS.classify_ns, COSTS.deliver_ns
    ));
}
