//! Who is told, when, and of how much: doorbells, sleep, and the figures that only the loop knows.

mod rig;

use std::sync::atomic::Ordering::Relaxed;

use base_flow::{BILL_WORDS, Contract, DropReason, Pace, Stray, bill_word};
use base_rpc::{FromDriver, Spender};
use driver_core::{Limits, Payer};
use driver_link::sim::Side;
use rbuf_channel::{IoRec, Pair};
use rig::{BUFFER, OURS, Rig, THEIRS, US, fib, frame, incoming, ms};

const MS: u64 = 1_000_000;

#[test]
fn who_waits_for_a_buffer_is_woken_whatever_became_of_its_frames() {
    for fate in ["sent", "refused", "turned around"] {
        let mut rig = Rig::new();
        let mut app = rig.bare(ms(90, 100));
        let remote = if fate == "turned around" { (OURS, 5000) } else { (THEIRS, 4000) };
        let hop = if fate == "turned around" { US } else { rig::PEER };
        app.fib = fib(app.flow, OURS, 4000, Some(remote), Some(hop));
        rig.driver.attach(&app.fib, 0).unwrap();
        let frame = match fate {
            "sent" => app.frame(b"x"),
            "refused" => app.frame(b"x")[..30].to_vec(),
            _ => frame(US, US, OURS, OURS, 4000, 5000, b"x"),
        };
        for _ in 0..2 {
            assert!(app.send(&frame));
        }
        assert!(app.tx.await_published(4).unwrap().is_some(), "{fate}: none is back");
        rig.run(MS);
        assert_eq!(app.arenas.rings(), 1, "{fate}");
        assert_eq!(app.reap().0, 2, "{fate}");
    }
}

#[test]
fn frames_that_leave_and_arrive_in_one_round_wake_both_who_wait() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(90, 100));
    app.offer(2);
    let frame = app.frame(b"x");
    assert!(app.send(&frame));
    rig.wire.send(Side::Right, incoming(4000, b"y"));
    assert!(app.tx.await_published(2).unwrap().is_some());
    assert!(app.rx.await_published(2).unwrap().is_some());
    rig.wire.advance(MS);
    // Received, and told at the end of the round in which it is sent.
    rig.driver.receive(MS, &mut || 0);
    rig.driver.transmit(MS, &mut || 0);
    assert_eq!(app.arenas.rings(), 2);
}

#[test]
fn the_driver_sleeps_only_when_no_domain_has_posted_and_says_so() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let other = rig.app(5000, ms(10, 100));
    assert_eq!(rig.driver.doze(0), Some(u64::MAX), "as long as it likes");
    assert!(app.driver_sleeps() && other.driver_sleeps());
    rig.driver.awake();
    assert!(!app.driver_sleeps() && !other.driver_sleeps());
    let frame = app.frame(b"x");
    assert!(app.send(&frame));
    assert_eq!(rig.driver.doze(0), None, "there is an event to be read");
    assert!(!app.driver_sleeps() && !other.driver_sleeps());
    rig.run(MS);
    assert_eq!(rig.driver.doze(MS), Some(u64::MAX));
    rig.driver.awake();
    // Who has spent too much is not heard, nor is its bell, until it has earned again.
    rig.driver.bill_rings(rig.used + 1000 * MS, [app.domain]);
    assert!(!rig.driver.is_open(app.domain, MS) && rig.driver.is_open(other.domain, MS));
    app.events.post(1);
    let until = rig.driver.doze(MS).expect("what it posts is not looked at");
    assert!(until > MS && until < 2_000 * MS, "{until}");
    assert!(!app.driver_sleeps() && other.driver_sleeps());
    assert!(
        !rig.driver.is_open(app.domain, until - 2) && rig.driver.is_open(app.domain, until + 2)
    );
}

#[test]
fn half_of_the_lead_is_slept_away() {
    let lead_ns = 400_000;
    let mut rig = Rig::with(lead_ns, usize::MAX);
    let mut app = rig.app(4000, ms(90, 100));
    let frame = app.frame(&[0; 1472]);
    while app.send(&frame) {}
    let again = rig.driver.transmit(0, &mut || 0);
    // As many frames as begin within the lead; the line is then busy for so long.
    let frames = rig.driver.flow_bill(app.flow).unwrap().tx_frames;
    assert_eq!(frames, lead_ns.div_ceil(123_040) + u64::from(lead_ns.is_multiple_of(123_040)));
    assert_eq!(again, Some(frames * 123_040 - lead_ns / 2));
}

#[test]
fn a_loop_that_comes_late_says_for_how_long_the_line_stood_still() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(90, 100));
    let frame = app.frame(&[0; 1472]);
    while app.send(&frame) {}
    let due = rig.driver.transmit(0, &mut || 0).unwrap();
    assert_eq!((due, rig.driver.stall_ns()), (123_040, 0));
    rig.driver.transmit(due + 5 * MS, &mut || 0);
    assert_eq!(rig.driver.stall_ns(), 5 * MS as i64);
    // And once more when what was sent was handed over late.
    rig.driver.handed_over(due + 7 * MS);
    assert_eq!(rig.driver.stall_ns(), 7 * MS as i64);
    rig.driver.handed_over(due + 9 * MS);
    assert_eq!(rig.driver.stall_ns(), 7 * MS as i64, "nothing was sent since");
    rig.driver.publish(1234);
    let link = |word: usize| rig.counters[64 * BILL_WORDS + word].load(Relaxed);
    assert_eq!(link(bill_word::LINK_STALL_NS), 7 * MS);
    assert_eq!(link(bill_word::LINK_THREAD_NS), 1234);
}

#[test]
fn frames_that_found_no_place_in_the_links_ring_are_counted_by_the_link() {
    let mut rig = Rig::with(0, 4);
    let mut app = rig.app(4000, ms(10, 100));
    app.offer(10);
    (0..7).for_each(|_| rig.wire.send(Side::Right, incoming(4000, b"x")));
    rig.now = MS;
    rig.run(2 * MS);
    assert_eq!(app.received().len(), 4);
    assert_eq!(rig.driver.link_bill().dropped(DropReason::RingOverflow), 3);
}

#[test]
fn a_stray_frame_fills_the_first_range_of_its_buffer_first() {
    let mut rig = Rig::new();
    let mut manager = rig.bare(Contract::BEST_EFFORT);
    let pace = Pace { per_s: 1_000_000, burst: 1_000_000 };
    rig.driver.set_last_resort(Stray::Others, manager.flow, pace, 0).unwrap();
    let mut rec = IoRec::single(7, Pair { offset: 0, len: 128 });
    assert!(rec.push(Pair { offset: BUFFER, len: BUFFER }));
    assert!(manager.rx.put(&rec).unwrap());
    rig.wire.send(Side::Right, incoming(9999, &[1; 200]));
    rig.run(MS);
    let filled = manager.rx.take().unwrap().unwrap();
    let lens: Vec<u32> = filled.pairs().iter().map(|pair| pair.len).collect();
    assert_eq!(lens, [128, 242 - 128]);
}

#[test]
fn a_frame_that_fits_exactly_is_taken_and_a_buffer_without_way_back_is_kept() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let fill = |rig: &mut Rig, count| {
        (0..count).for_each(|_| rig.wire.send(Side::Right, incoming(4000, &[1; 20])));
        rig.run(rig.now + MS);
    };
    app.offer(rig::WORDS / 2);
    fill(&mut rig, rig::WORDS / 2);
    // As many as can be returned; one more buffer is here, and no way to return it.
    let exact = IoRec::single(9, Pair { offset: 0, len: 62 });
    assert!(app.rx.put(&exact).unwrap());
    fill(&mut rig, 2);
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    assert_eq!((bill.rx_frames, bill.dropped(DropReason::NoFreeBuffer)), (32, 2));
    assert_eq!(app.received().len(), 32);
    fill(&mut rig, 1);
    assert_eq!(app.received(), [incoming(4000, &[1; 20])]);
}

#[test]
fn an_end_at_which_nothing_moved_is_told_nothing() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    assert_eq!(app.rx.arm(), Ok(false));
    app.events.set_asleep(true);
    let frame = app.frame(b"x");
    assert!(app.send(&frame));
    rig.run(MS);
    assert_eq!((app.arenas.rings(), app.reap()), (0, (1, 0)));
}

#[test]
fn one_frame_is_enough_to_wake_who_waits_for_its_buffer() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(90, 100));
    let refused = app.frame(b"x")[..30].to_vec();
    assert!(app.send(&refused));
    assert!(app.tx.await_published(2).unwrap().is_some());
    rig.run(MS);
    assert_eq!((app.arenas.rings(), app.reap()), (1, (1, 1)));
}

#[test]
fn a_wake_up_is_billed_to_sending_or_to_receiving_as_what_it_is_for() {
    let mut rig = Rig::new();
    let mut sender = rig.app(4000, ms(40, 100));
    let mut receiver = rig.app(5000, ms(40, 100));
    receiver.offer(1);
    let frame = sender.frame(b"x");
    assert!(sender.send(&frame));
    rig.wire.send(Side::Right, incoming(5000, b"y"));
    assert!(sender.tx.await_published(2).unwrap().is_some());
    assert!(receiver.rx.await_published(2).unwrap().is_some());
    rig.wire.advance(MS);
    let mut used_ns = 0;
    let mut clock = || {
        used_ns += 1_000;
        used_ns
    };
    rig.driver.receive(MS, &mut clock);
    rig.driver.transmit(MS, &mut clock);
    assert_eq!((sender.arenas.rings(), receiver.arenas.rings()), (1, 1));
    let ns = |app: &rig::App| {
        let bill = rig.driver.flow_bill(app.flow).unwrap();
        (bill.tx_cpu_ns > 0, bill.rx_cpu_ns > 0)
    };
    assert_eq!((ns(&sender), ns(&receiver)), ((true, false), (false, true)));
}

#[test]
fn no_more_events_are_read_in_a_round_than_the_limit_and_the_next_round_goes_on_there() {
    let limits = Limits { flows_max: 64, events: 32, ..Limits::default() };
    let mut rig = Rig::limited(MS, limits);
    let mut apps: Vec<_> = (0..3).map(|at| rig.app(4000 + at, ms(30, 100))).collect();
    for app in &mut apps {
        let frame = app.frame(b"x");
        assert!(app.send(&frame));
    }
    let sent = |rig: &Rig| {
        [0, 1, 2].map(|at: usize| rig.driver.flow_bill(apps[at].flow).unwrap().tx_frames)
    };
    // The clock is read before the first event, and that time is nobody's.
    let mut used_ns = 0;
    let mut clock = || {
        used_ns += if used_ns == 0 { MS } else { 10 };
        used_ns
    };
    rig.driver.transmit(0, &mut clock);
    assert_eq!(sent(&rig), [1, 1, 0], "sixteen for each of two");
    let billed = |rig: &Rig, at: usize| rig.driver.flow_bill(apps[at].flow).unwrap().tx_cpu_ns;
    assert!(billed(&rig, 0) < MS && billed(&rig, 1) < MS);
    rig.driver.transmit(0, &mut || 2 * MS);
    assert_eq!(sent(&rig), [1, 1, 1]);
}

#[test]
fn the_flow_manager_hears_once_of_who_has_no_time_left_and_until_when() {
    let mut rig = Rig::new();
    rig.idle_neighbour();
    let app = rig.app(4000, Contract::BEST_EFFORT);
    let payer = rig.driver.payer(app.domain).unwrap();
    assert_eq!(payer, Payer { domain: app.domain, uid: Some(1000) });
    let mut used = rig.used;
    let mut control = |rig: &mut Rig, now_ns: u64, spent_ns: u64| {
        used += spent_ns;
        rig.driver.bill_control(now_ns, used, Some(payer))
    };
    let domain =
        |until_ns| Some(FromDriver::Spent { whose: Spender::Domain(app.domain), until_ns });
    // A quarter of 5 ms was saved up.
    assert_eq!(control(&mut rig, MS, 1_000_000), None);
    let until_ns = 3_500_004;
    assert_eq!(control(&mut rig, MS, 500_000), domain(until_ns), "half of 5 ms at a quarter");
    assert_eq!(control(&mut rig, MS, 1_000), None, "it knows");
    assert_eq!(control(&mut rig, until_ns - 1, 1_000), None);
    let Some(FromDriver::Spent { until_ns: later, .. }) = control(&mut rig, until_ns, 1_000) else {
        panic!("it owes more than when that was said")
    };
    assert_eq!(control(&mut rig, later + 5_000, 1_000), None, "there is some again");
    let deepest = control(&mut rig, later + 5_000, 1_000_000_000);
    assert_eq!(deepest, domain(later + 5_000 + Spender::NS_MAX), "and then it is asked again");
}

#[test]
fn who_leaves_with_a_debt_is_named_as_a_user_before_he_joins_again() {
    let mut rig = Rig::new();
    rig.idle_neighbour();
    let app = rig.app(4000, Contract::BEST_EFFORT);
    let payer = rig.driver.payer(app.domain);
    let mut used = rig.used + 1_300_000;
    assert!(rig.driver.bill_control(0, used, payer).is_some(), "50 µs more than it had");
    rig.driver.remove_domain(app.domain, 0);
    assert_eq!(rig.driver.payer(app.domain), None);
    used += 100_000;
    let whose = Spender::User(1000);
    // As much as the domain began with there is for those who leave; a tenth of the time pays the rest.
    let until_ns = 10 * (50_000 + 100_000);
    let told = rig.driver.bill_control(0, used, payer);
    assert_eq!(told, Some(FromDriver::Spent { whose, until_ns }));
    let next = rig.app(5000, Contract::BEST_EFFORT);
    let payer = rig.driver.payer(next.domain);
    used += 1;
    assert!(rig.driver.bill_control(0, used, payer).is_some(), "it begins with the debt");
    assert_eq!(rig.driver.bill_control(0, used + 1_000 * MS, None), None, "that concerns nobody");
}
