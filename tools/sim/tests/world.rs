//! The whole system in virtual time: contracts, misfortunes, replay.

use base_flow::{Contract, DropReason, Rate};
use base_rpc::Refusal;
use driver_link::sim::{Impairments, Side};
use tools_sim::{OUR_ADDRESS, World};

const S: u64 = 1_000_000_000;

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

#[test]
fn figure_5a_holds_to_a_frame_over_ten_seconds() {
    let mut world = World::new(Rate::mbit(100), 1);
    let apps: Vec<_> =
        (1..=6).map(|i| world.connect(ms(4 * i, 100), 5000 + i as u16).unwrap()).collect();
    for &app in &apps {
        world.saturate(app, 1472);
    }
    world.run_for(S);
    let count = |world: &World, i: u16| world.peer().received(5000 + i).len();
    let before: Vec<usize> = (1..=6).map(|i| count(&world, i)).collect();
    world.run_for(10 * S);
    for i in 1..=6u16 {
        let frames = count(&world, i) - before[usize::from(i) - 1];
        let expected = u64::from(i) * 4 * 100 * 1_000_000 / 123_040;
        assert!(
            (frames as u64).abs_diff(expected) <= 1,
            "flow {i}: {frames} frames, not {expected}"
        );
    }
}

#[test]
fn figure_5b_slack_yields_and_is_not_wasted() {
    let mut world = World::new(Rate::mbit(100), 1);
    let flood = world.connect(Contract::BEST_EFFORT, 5000).unwrap();
    world.saturate(flood, 1472);
    world.run_for(S);
    for slice in 6..=9u16 {
        let sure = world.connect(ms(slice.into(), 100), 5000 + slice).unwrap();
        world.saturate(sure, 1472);
        world.run_for(S);
        let before: Vec<usize> =
            (6..=slice).map(|i| world.peer().received(5000 + i).len()).collect();
        let all_before: usize = before.iter().sum::<usize>() + world.peer().received(5000).len();
        world.run_for(4 * S);
        for i in 6..=slice {
            let frames = world.peer().received(5000 + i).len() - before[usize::from(i) - 6];
            let expected = u64::from(i) * 40 * 1_000_000 / 123_040;
            assert!((frames as u64).abs_diff(expected) <= 1, "{i} ms: {frames}, not {expected}");
        }
        let all: usize = (6..=slice).map(|i| world.peer().received(5000 + i).len()).sum::<usize>()
            + world.peer().received(5000).len();
        assert!(
            ((all - all_before) as u64).abs_diff(4 * S / 123_040) <= 2,
            "the line is never idle"
        );
    }
}

#[test]
fn what_the_line_has_not_left_is_not_promised() {
    let mut world = World::new(Rate::mbit(100), 1);
    world.connect(ms(90, 100), 5000).unwrap();
    let refused = world.connect(ms(10, 100), 5001).unwrap_err();
    let Refusal::OverAllocation { left_ppm, offer, .. } = refused else { panic!("{refused}") };
    assert_eq!((left_ppm, offer), (50_000, Some(ms(5, 100))));
    world.connect(ms(5, 100), 5002).unwrap();
}

#[test]
fn the_host_is_found_and_answers_while_it_sends() {
    let mut world = World::new(Rate::mbit(100), 1);
    let app = world.connect(ms(80, 100), 5000).unwrap();
    world.saturate(app, 1472);
    for sequence in 0..50 {
        world.peer().ping(OUR_ADDRESS, sequence);
        world.run_for(20_000_000);
    }
    assert_eq!(world.peer().echoes().len(), 50);
}

#[test]
fn datagrams_arrive_intact_or_not_at_all() {
    let mut world = World::new(Rate::mbit(100), 5);
    let app = world.connect(ms(10, 100), 5000).unwrap();
    world.impair(
        Side::Right,
        Impairments { corrupt_ppm: 200_000, duplicate_ppm: 100_000, ..Impairments::default() },
    );
    for number in 0..500u32 {
        let payload: Vec<u8> = number.to_be_bytes().repeat(50);
        world.peer().send(OUR_ADDRESS, 5000, 5000, &payload);
        world.run_for(1_000_000);
    }
    let received = world.received(app);
    assert!(received.len() > 350, "{} of 500", received.len());
    for payload in received {
        let number = &payload[..4];
        assert!(payload.chunks(4).all(|word| word == number), "a damaged datagram was delivered");
    }
}

#[test]
fn a_silent_peer_is_reported_as_such() {
    let mut world = World::new(Rate::mbit(100), 1);
    world.impair(Side::Left, Impairments { loss_ppm: 1_000_000, ..Impairments::default() });
    assert!(matches!(world.connect(ms(1, 100), 5000), Err(Refusal::Unreachable { .. })));
    assert!(world.now_ns() >= 3 * S && world.now_ns() < 4 * S, "after the last of four tries");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut world = World::new(Rate::mbit(100), seed);
        world.impair(
            Side::Left,
            Impairments {
                loss_ppm: 50_000,
                jitter_ns: 100_000,
                reorder_ppm: 10_000,
                reorder_ns: 500_000,
                ..Impairments::default()
            },
        );
        let app = world.connect(ms(30, 100), 5000).unwrap();
        world.peer_mut().frames = Some(Vec::new());
        world.saturate(app, 700);
        world.run_for(S);
        (world.peer().frames.clone().unwrap(), world.bill(app))
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[test]
fn every_frame_sent_was_somebodys_right() {
    let mut world = World::new(Rate::mbit(100), 1);
    let app = world.connect(ms(10, 100), 5000).unwrap();
    world.saturate(app, 100);
    world.run_for(S);
    let bill = world.bill(app);
    assert_eq!(bill.dropped_total(), 0, "an honest application is refused nothing: {bill:?}");
    assert!(bill.tx_frames > 1000 && bill.dropped(DropReason::ForgedNetwork) == 0);
}
