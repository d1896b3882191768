//! Where the driver takes longer for a frame than the wire does, frames are charged its time, and guarantees hold.

mod rig;

use base_flow::{Bill, Contract, Rate};
use driver_core::Limits;
use rig::{App, Rig, ms};

const MS: u64 = 1_000_000;

/// What a frame takes of the driver's time: three times what the shortest takes of a gigabit.
const FRAME_NS: u64 = 2_000;

/// What a round takes besides.
const ROUND_NS: u64 = 500;

/// Drives flows with these contracts, and frames with so many bytes of payload, for a second at a gigabit; all
/// always have something to send, for the lead is less than a channel holds, and the driver's thread has a processor of
/// its own. Returns the bills, and for how long the line stood still.
fn compete(frame_cost_ns: u64, flows: &[(Contract, usize)]) -> (Vec<Bill>, i64) {
    let limits = Limits { flows_max: 64, frame_cost_ns, ..Limits::default() };
    let mut rig = Rig::at(Rate::mbit(1000), 15_000, limits);
    let mut apps: Vec<(App, Vec<u8>)> = Vec::new();
    for (at, (contract, payload)) in flows.iter().enumerate() {
        let app = rig.app(4000 + at as u16, *contract);
        let frame = app.frame(&vec![0; *payload]);
        apps.push((app, frame));
    }
    let sent = |rig: &Rig, apps: &[(App, Vec<u8>)]| -> u64 {
        apps.iter().map(|(app, _)| rig.driver.flow_bill(app.flow).unwrap().tx_frames).sum()
    };
    let mut used = 0;
    while rig.now < 1000 * MS {
        for (app, frame) in &mut apps {
            app.reap();
            while app.send(frame) {}
        }
        rig.wire.advance(rig.now);
        rig.driver.ran(rig.now, used);
        let before = sent(&rig, &apps);
        let until = rig.driver.transmit(rig.now, &mut || used).unwrap_or(u64::MAX);
        let frames = sent(&rig, &apps) - before;
        let spent = ROUND_NS + frames * FRAME_NS;
        used += spent;
        rig.now += spent;
        rig.driver.ran(rig.now, used);
        rig.driver.handed_over(rig.now);
        rig.driver.bill(used);
        // What was sent, the applications have replaced by now; if nothing was, it sleeps.
        if frames == 0 {
            rig.now = rig.now.max(until.min(1000 * MS));
        }
    }
    let bills = apps.iter().map(|(app, _)| rig.driver.flow_bill(app.flow).unwrap()).collect();
    (bills, rig.driver.stall_ns())
}

/// Frames of full length in a fifth of a second of the line.
const FIFTH: u64 = 200 * MS / 12_304;

#[test]
fn the_shortest_frames_on_slack_leave_a_guarantee_what_it_is() {
    let flows = [(ms(20, 100), 1472), (Contract::BEST_EFFORT, 18)];
    let (bills, stall_ns) = compete(FRAME_NS, &flows);
    let [guaranteed, slack] = &bills[..] else { panic!() };
    assert!(guaranteed.tx_frames >= FIFTH - 300, "{} of {FIFTH}", guaranteed.tx_frames);
    assert_eq!((guaranteed.tx_periods_missed, stall_ns), (0, 0));
    assert!(slack.tx_frames > 350_000, "it has what is left: {}", slack.tx_frames);
}

#[test]
fn a_guarantee_of_the_shortest_frames_takes_no_more_of_the_driver_than_its_share() {
    let flows = [(ms(45, 100), 1472), (ms(40, 100), 18), (Contract::BEST_EFFORT, 18)];
    let (bills, stall_ns) = compete(FRAME_NS, &flows);
    let [long, short, slack] = &bills[..] else { panic!() };
    assert!(long.tx_frames >= 450 * MS / 12_304 - 300, "{}", long.tx_frames);
    assert!(short.tx_frames >= 400 * MS / FRAME_NS - 1_000, "{}", short.tx_frames);
    assert!(short.tx_frames <= 440 * MS / FRAME_NS, "{}", short.tx_frames);
    assert_eq!((long.tx_periods_missed, short.tx_periods_missed, stall_ns), (0, 0, 0));
    assert!(slack.tx_frames > 0);
}

#[test]
fn what_the_driver_has_no_time_for_is_missed_and_no_stall() {
    let flows = [(ms(45, 100), 1472), (ms(40, 100), 18)];
    let (bills, stall_ns) = compete(0, &flows);
    let missed: u64 = bills.iter().map(|bill| bill.tx_periods_missed).sum();
    assert!(missed > 0, "promised without reckoning what frames cost: {bills:?}");
    assert_eq!(stall_ns, 0, "the thread had a processor all the time");
}
