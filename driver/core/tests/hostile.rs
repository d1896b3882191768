//! Applications that lie: the channel they lie in is closed, and nobody else notices.

mod rig;

use std::sync::atomic::Ordering::Relaxed;

use base_flow::Contract;
use driver_link::sim::Side;
use rig::{App, Rig, incoming, ms};

const MS: u64 = 1_000_000;

/// A liar and a neighbour; runs `lie` and returns the faults that were reported.
fn with_liar(lie: impl Fn(&mut App)) -> Vec<String> {
    let mut rig = Rig::new();
    let mut liar = rig.app(4000, ms(10, 100));
    let mut neighbour = rig.app(5000, ms(10, 100));
    neighbour.offer(8);
    // What was asked for when the flow was attached.
    assert!(liar.tx.notice().post);
    liar.events.post(1);
    lie(&mut liar);
    rig.wire.send(Side::Right, incoming(4000, b"to the liar"));
    rig.run(MS);
    let faults = rig.driver.take_faults().into_iter().map(|fault| format!("{fault:?}")).collect();
    let frame = neighbour.frame(b"still here");
    assert!(neighbour.send(&frame));
    rig.wire.send(Side::Right, incoming(5000, b"still there"));
    rig.run(rig.now + 10 * MS);
    assert_eq!(neighbour.received().len(), 1);
    assert!(rig.arrived().contains(&frame));
    rig.driver.remove_domain(liar.domain, rig.now);
    rig.driver.remove_domain(neighbour.domain, rig.now);
    assert_eq!(rig.driver.flows(), 0);
    faults
}

/// First word of the flow's transmit block, and of its receive block, in the control arena.
const TX: usize = 16;
const RX: usize = TX + 72;

#[test]
fn every_lie_closes_one_channel_and_is_reported() {
    let lies: &[(&str, usize, u64)] = &[
        ("published ahead", TX, 1000),
        ("published for ever", TX, u64::MAX),
        ("events ahead", 0, 1 << 40),
        ("free buffers ahead", RX, 1000),
    ];
    for &(name, word, value) in lies {
        let faults = with_liar(|liar| liar.word(word).store(value, Relaxed));
        assert_eq!(faults.len(), 1, "{name}: {faults:?}");
    }
    let faults = with_liar(|liar| {
        liar.offer(1);
        liar.word(RX + 1).store(5, Relaxed);
    });
    assert!(faults[0].contains("peer took 5 words"), "{faults:?}");
    let faults = with_liar(|liar| {
        let frame = liar.frame(b"x");
        assert!(liar.send(&frame));
        liar.word(TX + 1).store(5, Relaxed);
    });
    assert!(faults[0].contains("peer took 5 words"), "{faults:?}");
    let faults = with_liar(|liar| {
        liar.word(TX).store(2, Relaxed);
        liar.word(TX + 8).store(1, Relaxed);
        liar.word(TX + 9).store(u64::MAX, Relaxed);
    });
    assert!(faults[0].contains("outside a data area"), "{faults:?}");
    assert!(with_liar(|_| ()).is_empty(), "the truth is no fault");
}

#[test]
fn events_that_nobody_asked_for_are_lies() {
    for slot in [0, 2, 3] {
        let faults = with_liar(|liar| liar.events.post(slot));
        assert!(faults[0].contains("none was asked"), "{faults:?}");
    }
    let faults = with_liar(|liar| liar.events.post(4));
    assert!(faults[0].contains("event names flow 4"), "{faults:?}");
}

#[test]
fn garbage_in_every_word_never_stops_the_driver() {
    let mut seed = 1u64;
    let mut chance = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 16
    };
    for _ in 0..300 {
        let writes: Vec<(usize, u64)> = (0..50)
            .map(|_| {
                let value = match chance() % 3 {
                    0 => chance() % 100,
                    1 => (chance() << 40) | (chance() % 4096),
                    _ => (chance() % 20) | (1 << 16),
                };
                ((chance() % 160) as usize, value)
            })
            .collect();
        with_liar(|liar| {
            for &(word, value) in &writes {
                liar.word(word).store(value, Relaxed);
            }
        });
    }
}

#[test]
fn an_event_for_a_flow_that_was_closed_meanwhile_is_late_and_no_lie() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, Contract::BEST_EFFORT);
    let layout = rig.layout();
    for generation in 1..20 {
        // The arming of the closed flow may be answered late, and what the block's zeroing looks like.
        assert!(app.tx.notice().post);
        app.events.post(1);
        rig.driver.remove_flow(app.flow, rig.now);
        if app.tx.notice().post {
            app.events.post(1);
        }
        app.flow.generation = generation;
        rig.driver.add_flow(app.flow, app.domain, &layout, &Contract::BEST_EFFORT, 1, &[]).unwrap();
        app.fib.flow = app.flow;
        app.reopen(&layout);
        if generation % 3 == 0 {
            rig.driver.attach(&app.fib, rig.now).unwrap();
            rig.run(rig.now + MS);
        } else {
            rig.run(rig.now + MS);
            rig.driver.attach(&app.fib, rig.now).unwrap();
        }
        let frame = app.frame(b"again");
        assert!(app.send(&frame));
        assert_eq!((rig.arrived(), rig.driver.has_faults()), (vec![], false));
        rig.run(rig.now + MS);
        assert_eq!((rig.arrived(), rig.driver.has_faults()), (vec![frame], false));
        app.reap();
        rig.run(rig.now + MS);
    }
}
