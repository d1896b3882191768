//! Two engines over a wire that is as bad as it gets: every byte arrives once, in order, or a reset is
//! reported.

mod differential;
mod peer;

use std::cell::RefCell;
use std::rc::Rc;

use base_flow::Rate;
use driver_link::sim::Impairments;
use peer::Smoltcp;
use stack_tcp::{Algorithm, Config};
use tools_sim::tcp::{Behaviour, Checker, Engine, Outcome, Run, Scenario};

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

/// Megabits a second of payload, for 3 MB at 100 Mbit/s.
fn goodput(congestion: Algorithm, loss_ppm: u32, rtt_ms: u64, buffer: u32) -> String {
    let config = Config {
        congestion,
        receive_bytes: 65_536.min(buffer),
        receive_bytes_max: buffer,
        ..Config::default()
    };
    let way = Impairments {
        loss_ppm,
        delay_ns: rtt_ms * 500_000,
        queue_ns: Some(20_000_000),
        ..Impairments::default()
    };
    let bytes = 3_000_000;
    let scenario = Scenario {
        rate: Rate::mbit(100),
        configs: [config.clone(), config],
        limit_ns: 200_000_000_000,
        ..Scenario::sends(bytes)
    }
    .both_ways(way);
    let outcome = scenario.engines().play();
    assert_eq!(outcome.progress[1].wrong, None);
    let progress = outcome.progress[1];
    format!("{:.2}", progress.read as f64 * 8000.0 / progress.last_read_ns as f64)
}

#[test]
fn throughput_is_what_it_was() {
    use std::fmt::Write;
    let mut table = String::new();
    for (name, congestion) in [("cubic", Algorithm::Cubic), ("reno", Algorithm::Reno)] {
        for buffer in [16_384, 131_072, 4 << 20] {
            writeln!(
                table,
                "{name}, receive buffer {buffer}: Mbit/s by loss (rows) and round trip"
            )
            .unwrap();
            writeln!(table, "{:>8} {:>8} {:>8} {:>8} {:>8}", "", "0 ms", "2 ms", "20 ms", "200 ms")
                .unwrap();
            for (loss, ppm) in
                [("0", 0), ("0.1 %", 1_000), ("1 %", 10_000), ("5 %", 50_000), ("20 %", 200_000)]
            {
                write!(table, "{loss:>8}").unwrap();
                for rtt_ms in [0, 2, 20, 200] {
                    write!(table, " {:>8}", goodput(congestion, ppm, rtt_ms, buffer)).unwrap();
                }
                writeln!(table).unwrap();
            }
        }
    }
    insta::assert_snapshot!(table);
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
    // Whoever died may not have been heard; to notice that is what keep-alives are for.
    if !outcome.finished && outcome.failures == [None, None] {
        return Err("it never ended".into());
    }
    // R2 ends what makes no progress (RFC 9293 §3.8.3), a time-out later at most.
    let r2_ns = scenario.configs.iter().map(|config| config.user_timeout_ns).max().unwrap_or(0);
    if outcome.stall.for_ns > r2_ns + 120_000_000_000 {
        return Err(format!("nothing happened for too long: {:?}", outcome.stall));
    }
    let cut_short = scenario.behaviours.iter().any(|behaviour| behaviour.closes_at_ns.is_some());
    for side in 0..2 {
        let failed = &outcome.failures[side];
        // Two packets of three may be lost there and back; R2 is 15 minutes.
        let unanswered = failed.as_deref() == Some("the peer does not answer");
        // The last acknowledgment was lost again and again, until the peer, which had everything, had
        // waited twice the MSL and forgot.
        let all_read = (0..2).all(|end| {
            outcome.progress[end].read == scenario.behaviours[1 - end].writes
                && outcome.progress[end].ended
        });
        let forgotten = all_read && failed.as_deref() == Some("the peer reset the connection");
        let hopeless = worst >= 300_000 && (unanswered || forgotten);
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
        let broken = Rc::new(RefCell::new(None));
        let (mut checker, told) = (Checker::default(), Rc::clone(&broken));
        let mut run = scenario.engines().observed(move |now_ns, _, packet| {
            if let Err(rule) = checker.packet(now_ns, packet) {
                told.borrow_mut().get_or_insert(rule);
            }
        });
        let outcome = run.play();
        let broken = broken.borrow_mut().take().map_or(Ok(()), Err);
        if let Err(what) = verdict(&scenario, &outcome).and(broken) {
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

/// The engine at one end, smoltcp at the other; end 0 opens.
enum Mixed {
    First(Run<Engine, Smoltcp>),
    Second(Run<Smoltcp, Engine>),
}

impl Mixed {
    fn new(scenario: &Scenario, engine_opens: bool) -> Self {
        let [first, second] = scenario.behaviours;
        let [config, _] = scenario.configs.clone();
        let isn = (scenario.seed as u32).wrapping_mul(0x1234_5677);
        if engine_opens {
            let mut engine = Engine::new(0, config, first, isn);
            engine.connect(0);
            Self::First(scenario.between(engine, Smoltcp::new(1, second, 65_536, false)))
        } else {
            let engine = Engine::new(1, config, second, isn);
            Self::Second(scenario.between(Smoltcp::new(0, first, 65_536, true), engine))
        }
    }

    fn play(&mut self) -> Outcome {
        match self {
            Self::First(run) => run.play(),
            Self::Second(run) => run.play(),
        }
    }
}

#[test]
fn another_implementation_gets_every_byte_and_gives_every_byte() {
    let mut wrong = Vec::new();
    for seed in seeds() {
        let loss_ppm = [0, 1_000, 20_000, 100_000][seed as usize % 4];
        let ways = Impairments {
            loss_ppm,
            duplicate_ppm: if seed % 3 == 0 { 20_000 } else { 0 },
            corrupt_ppm: if seed % 5 == 0 { 5_000 } else { 0 },
            reorder_ppm: if seed % 7 < 3 { 30_000 } else { 0 },
            reorder_ns: 500_000,
            delay_ns: 20_000 << (seed % 9),
            ..Impairments::default()
        };
        let bytes = if loss_ppm >= 100_000 { 20_000 } else { 300_000 };
        let behaviours = match seed % 3 {
            0 => [Behaviour::sends(bytes), Behaviour::sends(0)],
            1 => [Behaviour::sends(0), Behaviour::sends(bytes)],
            _ => [Behaviour::sends(bytes), Behaviour::sends(bytes)],
        };
        let scenario = Scenario { seed, behaviours, rate: Rate::mbit(100), ..Scenario::sends(0) }
            .both_ways(ways);
        let outcome = Mixed::new(&scenario, seed % 2 == 0).play();
        let whole = (0..2).all(|side| {
            let (progress, wrote) = (outcome.progress[side], behaviours[1 - side].writes);
            (progress.wrong, progress.read) == (None, wrote)
        });
        if !whole || !outcome.finished {
            eprintln!("PLUMB_SEED={seed} PLUMB_SEEDS=1: {outcome:?}");
            wrong.push(seed);
        }
    }
    assert!(wrong.is_empty(), "seeds {wrong:?}");
}
