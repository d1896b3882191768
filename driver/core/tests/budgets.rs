//! What a domain makes the driver do costs that domain, and nobody else.
//!
//! The driver's clock runs by a fixed amount whenever it is read, which is once for every stretch of
//! work for another domain; so everything is counted and nothing measured.

mod rig;

use base_flow::{Bill, Contract, DropReason};
use driver_link::sim::Side;
use rig::{App, Rig, incoming, ms};

const MS: u64 = 1_000_000;

/// What the driver's clock runs from reading to reading.
const STRETCH_NS: u64 = 5_000;

/// Drives for `until_ns`; before each round `applications` does what it likes. Time passes as the driver
/// works.
fn drive(rig: &mut Rig, until_ns: u64, mut applications: impl FnMut(&mut Rig)) {
    while rig.now < until_ns {
        applications(rig);
        rig.wire.advance(rig.now);
        let begun_ns = rig.used;
        let mut used_ns = rig.used;
        let mut clock = || {
            used_ns += STRETCH_NS;
            used_ns
        };
        rig.driver.receive(rig.now, &mut clock);
        rig.driver.transmit(rig.now, &mut clock);
        let worked = rig.driver.bill(used_ns);
        if !worked {
            rig.driver.bill_idle(used_ns);
        }
        rig.used = used_ns;
        rig.now += used_ns - begun_ns;
    }
}

fn time_ns(bill: &Bill) -> u64 {
    bill.tx_cpu_ns + bill.rx_cpu_ns
}

/// A sender with a fifth of the line for a second, which sends all it may, beside `attackers` domains of another
/// user that do `attack` before every round. Returns its bill, and those of the attackers.
fn beside(attackers: usize, attack: impl Fn(&mut App)) -> (Bill, Vec<Bill>, Bill) {
    let mut rig = Rig::new();
    let mut victim = rig.app(4000, ms(20, 100));
    rig.uid = 2000;
    let mut others: Vec<App> =
        (0..attackers as u16).map(|at| rig.app(5000 + at, Contract::BEST_EFFORT)).collect();
    let frame = victim.frame(&[0; 1472]);
    drive(&mut rig, 1000 * MS, |_| {
        victim.reap();
        while victim.send(&frame) {}
        others.iter_mut().for_each(&attack);
    });
    let bill = |app: &App| rig.driver.flow_bill(app.flow).unwrap();
    (bill(&victim), others.iter().map(bill).collect(), rig.driver.link_bill())
}

/// Posts whenever that was asked for, and has never anything to send: the driver asks at once again.
fn cry_wolf(app: &mut App) {
    if app.tx.notice().post {
        app.events.post(1);
    }
}

#[test]
fn events_for_nothing_without_end_cost_a_guaranteed_flow_nothing() {
    let (alone, _, _) = beside(0, cry_wolf);
    let (bill, attackers, link) = beside(50, cry_wolf);
    assert!(alone.tx_frames >= 1_620, "{alone:?}");
    assert!(bill.tx_frames + 1 >= alone.tx_frames, "{} of {}", bill.tx_frames, alone.tx_frames);
    assert_eq!(bill.tx_periods_missed, 0);
    let attack_ns: u64 = attackers.iter().map(time_ns).sum();
    assert!(attack_ns > 200 * MS, "they were heard: {attack_ns}");
    assert!(attack_ns < 400 * MS, "a quarter, and what rounds cost beside: {attack_ns}");
    assert!(time_ns(&bill) <= time_ns(&alone), "{} of {}", time_ns(&bill), time_ns(&alone));
    let all_ns = attack_ns + time_ns(&bill) + time_ns(&link);
    assert!(all_ns.abs_diff(1000 * MS) < MS, "the bills close: {all_ns}");
}

#[test]
fn users_with_many_domains_are_heard_no_more_than_users_with_one() {
    let mut rig = Rig::new();
    let mut many: Vec<App> = (0..40).map(|at| rig.app(5000 + at, Contract::BEST_EFFORT)).collect();
    rig.uid = 2000;
    let mut one = rig.app(4000, Contract::BEST_EFFORT);
    drive(&mut rig, 1000 * MS, |_| {
        many.iter_mut().for_each(cry_wolf);
        cry_wolf(&mut one);
    });
    let ns = |app: &App| time_ns(&rig.driver.flow_bill(app.flow).unwrap());
    let (many_ns, one_ns) = (many.iter().map(ns).sum::<u64>(), ns(&one));
    assert!(many_ns < one_ns * 3 / 2, "{many_ns} beside {one_ns}");
}

#[test]
fn who_rings_for_nothing_pays_and_is_not_heard_until_he_can() {
    let mut rig = Rig::new();
    let mut victim = rig.app(4000, ms(20, 100));
    rig.uid = 2000;
    let ringer = rig.app(5000, Contract::BEST_EFFORT);
    let frame = victim.frame(&[0; 1472]);
    let (mut heard, mut unheard) = (0, 0);
    let ring_ns = 50_000;
    for _ in 0..10_000 {
        victim.reap();
        while victim.send(&frame) {}
        if rig.driver.is_open(ringer.domain, rig.now) {
            rig.used += ring_ns;
            rig.driver.bill_rings(rig.used, [ringer.domain]);
            heard += 1;
        } else {
            unheard += 1;
        }
        let until = rig.now + 100_000;
        rig.run(until);
    }
    assert!(heard > 5 && unheard > heard / 4, "{heard} heard, {unheard} not");
    let bill = |app: &App| rig.driver.flow_bill(app.flow).unwrap();
    let paid = time_ns(&bill(&ringer));
    assert!(paid >= heard * ring_ns && paid <= heard * (ring_ns + 2_000), "{paid}");
    assert!(heard * ring_ns <= 255 * MS, "no more than a quarter of a second in a second: {heard}");
    assert!(bill(&victim).tx_frames >= 1_620);
}

#[test]
fn who_is_woken_all_the_time_waits_when_he_cannot_pay_and_misses_nothing() {
    let mut rig = Rig::new();
    rig.idle_neighbour();
    let mut sleeper = rig.app(4000, Contract::BEST_EFFORT);
    sleeper.offer(30);
    let mut frames = 0;
    drive(&mut rig, 1000 * MS, |rig| {
        rig.wire.send(Side::Right, incoming(4000, b"wake up"));
        while let Some(rec) = sleeper.rx.take().unwrap() {
            frames += 1;
            let whole = rbuf_channel::Pair { len: rig::BUFFER, ..rec.pairs()[0] };
            sleeper.rx.put(&rbuf_channel::IoRec::single(rec.cookie, whole)).unwrap();
        }
        sleeper.rx.await_published(2).unwrap();
    });
    let wakes = sleeper.arenas.rings();
    // Beside the stretch that it takes, a wake-up pays as much for its round.
    let most = 260 * MS / (2 * STRETCH_NS);
    assert!(wakes > most / 2 && wakes <= most, "{wakes} of {most} for {frames} frames");
    // With one more to come, its wake-up is late but not lost.
    sleeper.rx.awake();
    let until = rig.now + 20 * MS;
    drive(&mut rig, until, |_| while sleeper.rx.take().unwrap().is_some() {});
    sleeper.offer(2);
    let wakes = sleeper.arenas.rings();
    assert!(sleeper.rx.await_published(2).unwrap().is_some(), "all was taken");
    rig.wire.send(Side::Right, incoming(4000, b"the last"));
    let until = rig.now + 20 * MS;
    drive(&mut rig, until, |_| ());
    assert_eq!(sleeper.arenas.rings(), wakes + 1);
}

#[test]
fn refusing_takes_no_more_of_the_line_than_sending_would() {
    let mut rig = Rig::new();
    let mut forger = rig.app(4000, Contract::BEST_EFFORT);
    rig.uid = 2000;
    let mut honest = rig.app(5000, Contract::BEST_EFFORT);
    let mut forged = forger.frame(&[0; 18]);
    forged[30] = 99;
    let frame = honest.frame(&[0; 1472]);
    for _ in 0..1000 {
        for (app, frame) in [(&mut forger, &forged), (&mut honest, &frame)] {
            app.reap();
            while app.send(frame) {}
        }
        let until = rig.now + MS / 10;
        rig.run(until);
    }
    let bill = |app: &App| rig.driver.flow_bill(app.flow).unwrap();
    let refused = bill(&forger).dropped_total();
    // A tenth of a second has room for so many of the shortest frames, shared by two.
    let shortest = 100 * MS / base_flow::Rate::mbit(100).wire_ns(60);
    assert!(refused > 1_000 && refused <= shortest * 11 / 20, "{refused} of {shortest}");
    let long = 100 * MS / base_flow::Rate::mbit(100).wire_ns(1514);
    assert!(bill(&honest).tx_frames >= long * 9 / 20, "{} of {long}", bill(&honest).tx_frames);
}

/// Frames received in a second by so many flows of one user that share a flood of the shortest frames, and what a
/// quiet flow of the same user lost in the second half. A frame that is delivered takes 4 µs, any other 0.2 µs.
fn flooded(flows: u16) -> (u64, u64) {
    let mut rig = Rig::new();
    rig.rx_cpu_ppb = 200_000_000;
    let mut apps: Vec<App> =
        (0..=flows).map(|at| rig.app(5000 + at, Contract::BEST_EFFORT)).collect();
    apps.iter_mut().for_each(|app| app.offer(30));
    let (mut turn, mut quiet_at, mut delivered, mut lost_before) = (0, 0, 0, None);
    while rig.now < 1000 * MS {
        // As many as the wire carries.
        while rig.wire.would_be_out(Side::Right, 60) <= rig.now + 10_000 {
            turn = (turn + 1) % flows;
            let quiet = rig.now >= quiet_at;
            quiet_at += if quiet { MS } else { 0 };
            rig.wire.send(Side::Right, incoming(5000 + if quiet { flows } else { turn }, b"flood"));
        }
        rig.wire.advance(rig.now);
        let used_ns = rig.used;
        let arrived = rig.driver.receive(rig.now, &mut || used_ns) as u64;
        let mut taken = 0;
        for app in &mut apps {
            while let Some(rec) = app.rx.take().unwrap() {
                let whole = rbuf_channel::Pair { len: rig::BUFFER, ..rec.pairs()[0] };
                app.rx.put(&rbuf_channel::IoRec::single(rec.cookie, whole)).unwrap();
                taken += 1;
            }
        }
        delivered += taken;
        rig.used += 3_800 * taken + 200 * arrived;
        if !rig.driver.bill(rig.used) {
            rig.driver.bill_idle(rig.used);
        }
        rig.now += (rig.used - used_ns).max(1_000);
        let lost = || rig.driver.flow_bill(apps[usize::from(flows)].flow).unwrap().dropped_total();
        if rig.now > 500 * MS {
            lost_before = lost_before.or_else(|| Some(lost()));
        }
    }
    let bill = rig.driver.flow_bill(apps[usize::from(flows)].flow).unwrap();
    (delivered, bill.dropped(DropReason::RxBudget) - lost_before.unwrap())
}

#[test]
fn flooded_flows_of_a_user_together_take_little_more_than_one_and_leave_the_others_theirs() {
    let (one, one_lost) = flooded(1);
    let (many, many_lost) = flooded(40);
    assert!(one > 10_000 && one < 30_000, "{one}");
    assert!(many < one * 5 / 2, "{many} frames of 40 flows, {one} of one");
    assert_eq!((one_lost, many_lost), (0, 0), "who is not flooded loses nothing");
}

/// A clock that runs by each of `steps` in turn, when it is read.
fn steps(steps: &[u64]) -> impl FnMut() -> u64 {
    let (mut steps, mut now) = (steps.iter().copied(), 0);
    move || {
        now += steps.next().expect("it is read once for each stretch");
        now
    }
}

#[test]
fn in_a_round_each_domain_pays_for_its_own_stretches_of_frames() {
    let mut rig = Rig::new();
    let mut apps: Vec<App> = (0..2).map(|at| rig.app(4000 + at, ms(40, 100))).collect();
    let mut manager = rig.bare(Contract::BEST_EFFORT);
    let pace = base_flow::Pace { per_s: 1_000_000, burst: 1_000 };
    rig.driver.set_last_resort(base_flow::Stray::Others, manager.flow, pace, 0).unwrap();
    apps.iter_mut().for_each(|app| app.offer(4));
    manager.offer(4);
    for port in [4000, 9999, 4001, 4001, 9999, 4000] {
        rig.wire.send(Side::Right, incoming(port, b"x"));
    }
    rig.wire.advance(MS);
    rig.driver.receive(MS, &mut steps(&[0, 1, 20, 300, 4_000, 50_000]));
    let ns = |app: &App| {
        let bill = rig.driver.flow_bill(app.flow).unwrap();
        (bill.rx_cpu_ns, bill.tx_cpu_ns)
    };
    assert_eq!((ns(&apps[0]), ns(&apps[1]), ns(&manager)), ((50_001, 0), (300, 0), (4_020, 0)));
}

#[test]
fn in_a_round_each_domain_pays_for_its_own_frames_that_leave() {
    let limits = driver_core::Limits { flows_max: 64, ..Default::default() };
    let mut rig = Rig::limited(MS, limits);
    let mut apps: Vec<App> = (0..2).map(|at| rig.app(4000 + at, ms(40, 100))).collect();
    for app in &mut apps {
        let frame = app.frame(b"x");
        assert!(app.send(&frame));
    }
    // For both, for the events of each, and for the frames of each.
    rig.driver.transmit(0, &mut steps(&[0, 1, 20, 300, 4_000]));
    let ns = |app: &App| rig.driver.flow_bill(app.flow).unwrap().tx_cpu_ns;
    assert_eq!((ns(&apps[0]), ns(&apps[1])), (301, 4_020));
}

#[test]
fn what_the_machine_did_to_a_frame_is_billed_and_not_held_against_its_flow() {
    let mut rig = Rig::new();
    // Half a millisecond can be saved up, and no frame takes more than a twenty-fifth of it.
    rig.rx_cpu_ppb = 100_000_000;
    let mut app = rig.app(4000, Contract::BEST_EFFORT);
    app.offer(32);
    let mut used = 0;
    for round in 1..=4 {
        (0..10).for_each(|_| rig.wire.send(Side::Right, incoming(4000, b"x")));
        rig.wire.advance(round * MS);
        let begun = used;
        used += 300_000;
        let mut clock = [begun, used].into_iter();
        rig.driver.receive(MS, &mut || clock.next().unwrap());
    }
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    assert_eq!((bill.rx_frames, bill.dropped(DropReason::RxBudget)), (30, 10));
}
