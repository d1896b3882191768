//! The driver on a simulated wire: delivery, contracts, refusals, teardown.

mod rig;

use base_flow::{Contract, DropReason, FlowId, Pace, Prefix, Stray};
use base_rpc::{DomainUser, FromDriver, InstallError};
use base_wire::{Arp, Mac};
use driver_link::sim::Side;
use rig::{App, BUFFER, OURS, PEER, Rig, THEIRS, US, fib, frame, incoming, ms};
use zerocopy::IntoBytes;

const MS: u64 = 1_000_000;

#[test]
fn a_frame_leaves_as_it_was_written_and_its_buffer_comes_back() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let sent = app.frame(b"hello, wire");
    assert!(app.send(&sent));
    rig.run(MS);
    assert_eq!(rig.arrived(), [sent]);
    assert_eq!(app.reap(), (1, 0));
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    assert_eq!((bill.tx_frames, bill.tx_wire_ns, bill.dropped_total()), (1, 6_720, 0));
}

#[test]
fn a_frame_arrives_in_the_buffer_that_was_offered() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    app.offer(2);
    let sent = incoming(4000, &[0x42; 1400]);
    rig.wire.send(Side::Right, sent.clone());
    rig.run(MS);
    assert_eq!(app.received(), [sent]);
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    assert_eq!((bill.rx_offered, bill.rx_frames), (1, 1));
}

#[test]
fn saturating_senders_share_the_wire_by_their_contracts() {
    let mut rig = Rig::new();
    let mut apps: Vec<App> =
        (1..=6).map(|i| rig.app(4000 + i, ms(4 * u64::from(i), 100))).collect();
    let payload = [0; 1472];
    let end = 2_000 * MS;
    while rig.now < end {
        for app in &mut apps {
            app.reap();
            let frame = app.frame(&payload);
            while app.send(&frame) {}
        }
        let until = (rig.now + MS).min(end);
        rig.run(until);
    }
    for (index, app) in apps.iter().enumerate() {
        let frames = rig.driver.flow_bill(app.flow).unwrap().tx_frames;
        let expected = (4 * (index as u64 + 1) * 20 * MS) / 123_040;
        assert!(frames.abs_diff(expected) <= 1, "flow {index}: {frames}, not {expected}");
    }
}

#[test]
fn an_application_that_does_not_read_loses_only_its_own_frames_and_all_are_counted() {
    let mut rig = Rig::new();
    let (mut slow, mut good) = (rig.app(4000, ms(10, 100)), rig.app(5000, ms(10, 100)));
    slow.offer(10);
    let (mut offered, mut delivered) = (0, 0);
    for _ in 0..100 {
        good.offer(1);
        rig.wire.send(Side::Right, incoming(4000, b"to the slow one"));
        rig.wire.send(Side::Right, incoming(5000, b"to the good one"));
        offered += 1;
        let until = rig.now + MS;
        rig.run(until);
        delivered += good.received().len();
    }
    assert_eq!(delivered, offered);
    let bill = rig.driver.flow_bill(slow.flow).unwrap();
    assert_eq!(
        (bill.rx_offered, bill.rx_frames, bill.dropped(DropReason::NoFreeBuffer)),
        (100, 10, 90)
    );
    assert_eq!(slow.received().len(), 10);
    assert_eq!(rig.driver.flow_bill(good.flow).unwrap().dropped_total(), 0);
}

#[test]
fn a_frame_larger_than_its_buffer_is_dropped_and_the_buffer_used_again() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let small = rbuf_channel::IoRec::single(3, rbuf_channel::Pair { offset: 0, len: 100 });
    assert!(app.rx.put(&small).unwrap());
    rig.wire.send(Side::Right, incoming(4000, &[1; 1000]));
    rig.wire.send(Side::Right, incoming(4000, &[2; 20]));
    rig.run(MS);
    assert_eq!(app.received().len(), 1);
    assert_eq!(rig.driver.flow_bill(app.flow).unwrap().dropped(DropReason::BufferTooSmall), 1);
}

#[test]
fn headers_and_payload_go_to_their_own_ranges() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let mut rec = rbuf_channel::IoRec::single(7, rbuf_channel::Pair { offset: 0, len: 128 });
    assert!(rec.push(rbuf_channel::Pair { offset: BUFFER, len: BUFFER }));
    assert!(app.rx.put(&rec).unwrap());
    rig.wire.send(Side::Right, incoming(4000, b"payload"));
    rig.run(MS);
    let filled = app.rx.take().unwrap().unwrap();
    let lens: Vec<u32> = filled.pairs().iter().map(|pair| pair.len).collect();
    assert_eq!((lens, filled.cookie), (vec![42, 7], 7));
}

#[test]
fn a_payload_that_does_not_fit_behind_the_headers_is_not_cut_but_put_beside_them() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let mut rec = rbuf_channel::IoRec::single(7, rbuf_channel::Pair { offset: 0, len: 1000 });
    assert!(rec.push(rbuf_channel::Pair { offset: BUFFER, len: 16 }));
    assert!(app.rx.put(&rec).unwrap());
    rig.wire.send(Side::Right, incoming(4000, &[1; 100]));
    rig.run(MS);
    let filled = app.rx.take().unwrap().unwrap();
    let lens: Vec<u32> = filled.pairs().iter().map(|pair| pair.len).collect();
    assert_eq!(lens, [142]);
}

#[test]
fn forged_frames_are_refused_charged_and_never_leave() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let honest = app.frame(b"payload");
    let forgeries: &[(usize, u8, DropReason)] = &[
        (0, 0xff, DropReason::ForgedLink),
        (6, 0x06, DropReason::ForgedLink),
        (13, 0x06, DropReason::ForgedLink),
        (14, 0x46, DropReason::ForgedNetwork),
        (20, 0x20, DropReason::ForgedFragment),
        (23, 0x06, DropReason::ForgedNetwork),
        (29, 0x03, DropReason::ForgedNetwork),
        (35, 0x00, DropReason::ForgedTransport),
        (17, 0x00, DropReason::LengthsDisagree),
    ];
    for &(at, byte, _) in forgeries {
        let mut forged = honest.clone();
        forged[at] = byte;
        assert!(app.send(&forged));
    }
    assert!(app.send(&honest[..30]));
    rig.run(50 * MS);
    assert!(rig.arrived().is_empty());
    assert_eq!(app.reap(), (forgeries.len() + 1, forgeries.len() + 1));
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    for &(at, _, reason) in forgeries {
        assert!(bill.dropped(reason) > 0, "byte {at}");
    }
    assert_eq!(bill.dropped(DropReason::HeaderTooShort), 1);
    assert_eq!(bill.dropped_total() as usize, forgeries.len() + 1);
    assert!(bill.tx_cpu_ns > 0, "refusing costs the forger");
}

#[test]
fn packets_no_mask_can_judge_are_refused_too() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let frame = app.frame(&[0; 1473]);
    assert!(app.send(&frame));
    let honest = app.frame(b"x");
    assert!(rbuf_channel::Data::write(&app.tx_data, BUFFER + 1, &honest));
    let len = honest.len() as u32;
    let mut odd = rbuf_channel::IoRec::single(9, rbuf_channel::Pair { offset: BUFFER + 1, len });
    assert!(app.tx.put(&odd).unwrap());
    odd = rbuf_channel::IoRec::single(9, rbuf_channel::Pair { offset: BUFFER, len });
    odd.gso_size = 1000;
    assert!(app.tx.put(&odd).unwrap());
    let mut long = rbuf_channel::IoRec::single(8, rbuf_channel::Pair { offset: 0, len: 2000 });
    long.gso_size = 1000;
    assert!(app.tx.put(&long).unwrap());
    rig.run(MS);
    assert!(rig.arrived().is_empty());
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    for (reason, count) in
        [(DropReason::TooLong, 1), (DropReason::Misaligned, 1), (DropReason::Segmentation, 2)]
    {
        assert_eq!(bill.dropped(reason), count, "{reason}");
    }
}

#[test]
fn what_the_interface_does_not_carry_any_more_is_refused_and_what_it_never_carried_stays_so() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let mut carried = |rig: &mut Rig, payload: usize| {
        let frame = app.frame(&vec![7; payload]);
        assert!(app.send(&frame));
        let until = rig.now + 200 * MS;
        rig.run(until);
        app.reap();
        rig.arrived() == [frame]
    };
    assert!(carried(&mut rig, 1472));
    let told = |mtu| Some(FromDriver::Carries { mtu, unit_bytes: mtu });
    assert_eq!(rig.driver.set_mtu(700), told(700));
    assert_eq!(rig.driver.set_mtu(700), None, "that is nothing new");
    assert!(carried(&mut rig, 672) && !carried(&mut rig, 673));
    assert_eq!(rig.driver.set_mtu(9000), told(1500), "as much as there was room made for");
    assert!(carried(&mut rig, 1472));
    assert_eq!(rig.driver.set_mtu(0), told(68), "RFC 791");
    let facts = rig.driver.facts("lan", "sim");
    assert_eq!((facts.mtu, facts.mtu_max), (68, 1500));
    assert_eq!(rig.driver.flow_bill(app.flow).unwrap().dropped(DropReason::TooLong), 1);
}

#[test]
fn a_flow_that_is_not_attached_neither_sends_nor_receives() {
    let mut rig = Rig::new();
    let mut app = rig.bare(ms(10, 100));
    app.fib = fib(app.flow, OURS, 4000, Some((THEIRS, 4000)), Some(PEER));
    app.offer(1);
    let frame = app.frame(b"early");
    assert!(app.send(&frame));
    rig.wire.send(Side::Right, incoming(4000, b"early"));
    rig.run(MS);
    assert!(rig.arrived().is_empty() && app.received().is_empty());
    assert_eq!(rig.driver.link_bill().dropped(DropReason::Unclaimed), 1);
    rig.driver.attach(&app.fib, rig.now).unwrap();
    let until = rig.now + MS;
    rig.run(until);
    assert_eq!(rig.arrived(), [frame], "what was queued before leaves after");
}

#[test]
fn frames_between_local_flows_turn_around_in_the_driver() {
    let mut rig = Rig::new();
    let mut sender = rig.bare(ms(10, 100));
    sender.fib = fib(sender.flow, OURS, 4000, Some((OURS, 5000)), Some(US));
    rig.driver.attach(&sender.fib, 0).unwrap();
    let mut receiver = rig.bare(ms(10, 100));
    receiver.fib = fib(receiver.flow, OURS, 5000, None, None);
    rig.driver.attach(&receiver.fib, 0).unwrap();
    receiver.offer(1);
    let sent = frame(US, US, OURS, OURS, 4000, 5000, b"to myself");
    assert!(sender.send(&sent));
    rig.run(MS);
    assert_eq!(receiver.received(), [sent]);
    assert_eq!(sender.reap(), (1, 0));
    assert!(rig.arrived().is_empty(), "nothing was on the wire");
    assert_eq!(rig.driver.flow_bill(sender.flow).unwrap().tx_local_frames, 1);
}

#[test]
fn what_nobody_claims_goes_to_the_last_resort_under_its_own_budget() {
    let mut rig = Rig::new();
    let mut manager = rig.bare(Contract::BEST_EFFORT);
    manager.offer(4);
    rig.driver.set_last_resort(Stray::Others, manager.flow, FAST, 0).unwrap();
    for _ in 0..10 {
        rig.wire.send(Side::Right, incoming(9999, b"?"));
    }
    rig.run(10 * MS);
    assert_eq!(manager.received().len(), 4);
    assert_eq!(rig.driver.flow_bill(manager.flow).unwrap().dropped(DropReason::NoFreeBuffer), 6);
    let any = frame(US, Mac::BROADCAST, OURS, THEIRS, 1, 2, b"anything from our station");
    assert!(manager.send(&any));
    let mut stranger = any.clone();
    stranger[11] = 7;
    assert!(manager.send(&stranger));
    let until = rig.now + MS;
    rig.run(until);
    assert_eq!(rig.arrived(), [any]);
}

/// As many as come.
const FAST: Pace = Pace { per_s: 1_000_000, burst: 1_000_000 };

#[test]
fn a_flood_of_one_kind_of_strays_is_cut_and_leaves_the_other_kinds_alone() {
    let mut rig = Rig::new();
    let mut arp = rig.bare(Contract::BEST_EFFORT);
    let mut others = rig.bare(Contract::BEST_EFFORT);
    arp.offer(32);
    others.offer(32);
    let pace = Pace { per_s: 1_000, burst: 16 };
    rig.driver.set_last_resort(Stray::Neighbours, arp.flow, FAST, 0).unwrap();
    rig.driver.set_last_resort(Stray::Others, others.flow, pace, 0).unwrap();
    let request = Arp::request(PEER, THEIRS, OURS);
    let request = [&Mac::BROADCAST.0[..], &PEER.0, &[8, 6], request.as_bytes()].concat();
    let flood = incoming(9999, b"?");
    let (mut asked, mut heard, mut sent, mut strangers) = (0, 0, 0, 0);
    for ms in 0..1_000u64 {
        // A hundred thousand a second, as the wire carries them, and a question now and then.
        for _ in 0..100 {
            rig.wire.send(Side::Right, flood.clone());
            sent += 1;
        }
        if ms % 50 == 0 {
            rig.wire.send(Side::Right, request.clone());
            asked += 1;
        }
        rig.run((ms + 1) * MS);
        heard += arp.taken();
        strangers += others.taken();
    }
    rig.run(1_100 * MS);
    heard += arp.taken();
    strangers += others.taken();
    assert_eq!(heard, asked);
    let seconds = rig.now / (1_000 * MS) + 1;
    let cut = rig.driver.flow_bill(others.flow).unwrap().dropped(DropReason::RxBudget);
    assert!(strangers as u64 <= 16 + 1_000 * seconds && strangers > 500, "{strangers} of {sent}");
    assert!(cut > 0);
}

#[test]
fn what_is_handed_back_comes_to_the_last_resort_no_second_time() {
    let mut rig = Rig::new();
    let mut manager = rig.bare(Contract::BEST_EFFORT);
    manager.offer(4);
    rig.driver.set_last_resort(Stray::Others, manager.flow, FAST, 0).unwrap();
    let mut app = rig.app(4000, Contract::BEST_EFFORT);
    app.offer(4);
    rig.driver.inject_frame(&incoming(9999, b"nobody's"), 0);
    rig.driver.inject_frame(&incoming(4000, b"mine"), 0);
    assert_eq!((manager.received().len(), app.received().len()), (0, 1));
    assert_eq!(rig.driver.link_bill().dropped(DropReason::Unclaimed), 1);
}

#[test]
fn a_flood_to_one_flow_stops_at_its_budget() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    // Each settlement bills a microsecond; the budget holds ten and earns next to none.
    rig.driver.remove_flow(app.flow, rig.now);
    assert!(rig.driver.flow_bill(app.flow).is_none());
    let mut poor = rig.bare(ms(10, 100));
    rig.driver.remove_flow(poor.flow, rig.now);
    let layout = base_rpc::FlowLayout {
        slot: 1,
        control_offset: (rbuf_channel::fifo_words(4) as u64 * 8).next_multiple_of(64),
        tx_words: rig::WORDS,
        rx_words: rig::WORDS,
        tx_data: base_rpc::Region { offset: 0, bytes: 4096 },
        rx_data: base_rpc::Region { offset: 0, bytes: 32 * BUFFER },
    };
    rig.driver.add_flow(poor.flow, poor.domain, &layout, &ms(10, 100), 2_000_000, &[]).unwrap();
    poor.fib = fib(poor.flow, OURS, 6000, None, None);
    rig.driver.attach(&poor.fib, rig.now).unwrap();
    poor.offer(30);
    for _ in 0..40 {
        rig.wire.send(Side::Right, incoming(6000, b"x"));
        rig.run(rig.now + 10_000);
    }
    let bill = rig.driver.flow_bill(poor.flow).unwrap();
    assert!(bill.dropped(DropReason::RxBudget) > 10 && bill.rx_frames >= 10, "{bill:?}");
    assert_eq!(bill.rx_frames + bill.dropped_total(), bill.rx_offered);
    app.reap();
}

#[test]
fn a_sender_that_takes_no_buffers_back_stops_itself_and_goes_on_when_it_does() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(90, 100));
    let frame = app.frame(b"x");
    for _ in 0..20 {
        while app.send(&frame) {}
        rig.run(rig.now + MS);
    }
    let blocked = rig.driver.flow_bill(app.flow).unwrap().tx_frames;
    assert_eq!(blocked, u64::from(rig::WORDS) / 2, "as many as can be returned");
    assert_eq!(app.reap().0 as u64, blocked);
    rig.run(rig.now + MS);
    assert!(rig.driver.flow_bill(app.flow).unwrap().tx_frames > blocked, "room wakes it");
}

#[test]
fn endpoints_and_places_are_given_once() {
    let mut rig = Rig::new();
    let app = rig.app(4000, ms(10, 100));
    let other = rig.bare(ms(10, 100));
    let stolen = fib(other.flow, OURS, 4000, Some((THEIRS, 4000)), Some(PEER));
    assert!(matches!(rig.driver.attach(&stolen, 0), Err(InstallError::InUse(_))));
    let own = fib(other.flow, OURS, 4001, Some((THEIRS, 4000)), Some(PEER));
    rig.driver.attach(&own, 0).unwrap();
    rig.driver.attach(&own, 0).unwrap();
    rig.driver.detach(app.flow);
    let now_free = fib(other.flow, OURS, 4000, Some((THEIRS, 4000)), Some(PEER));
    rig.driver.attach(&now_free, 0).unwrap();
    assert!(
        rig.driver.add_domain(app.domain, app.arenas.clone(), 4, DomainUser::FLOW_MANAGER).is_err()
    );
}

#[test]
fn layouts_outside_the_arenas_are_refused_and_leave_nothing_behind() {
    let mut rig = Rig::new();
    let app = rig.bare(ms(10, 100));
    rig.driver.remove_flow(app.flow, rig.now);
    let good = base_rpc::FlowLayout {
        slot: 1,
        control_offset: (rbuf_channel::fifo_words(4) as u64 * 8).next_multiple_of(64),
        tx_words: rig::WORDS,
        rx_words: rig::WORDS,
        tx_data: base_rpc::Region { offset: 0, bytes: 4096 },
        rx_data: base_rpc::Region { offset: 0, bytes: 4096 },
    };
    let far = base_rpc::Region { offset: 1 << 40, bytes: 4096 };
    let bad = [
        base_rpc::FlowLayout { slot: 4, ..good },
        base_rpc::FlowLayout { control_offset: good.control_offset + 8, ..good },
        base_rpc::FlowLayout { control_offset: u64::MAX - 63, ..good },
        base_rpc::FlowLayout { tx_words: 63, ..good },
        base_rpc::FlowLayout { rx_words: 1 << 20, ..good },
        base_rpc::FlowLayout { tx_words: 2, ..good },
        base_rpc::FlowLayout { tx_data: far, ..good },
        base_rpc::FlowLayout { rx_data: base_rpc::Region { offset: 0, bytes: u32::MAX }, ..good },
    ];
    for layout in bad {
        assert!(
            rig.driver.add_flow(app.flow, app.domain, &layout, &ms(1, 10), 1, &[]).is_err(),
            "{layout:?}"
        );
    }
    assert!(
        rig.driver.add_flow(app.flow, base_rpc::DomainId(99), &good, &ms(1, 10), 1, &[]).is_err()
    );
    rig.driver.add_flow(app.flow, app.domain, &good, &ms(1, 10), 1, &[]).unwrap();
}

#[test]
fn a_contract_can_change_while_the_flow_sends() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let frame = app.frame(&[0; 1472]);
    let second = |rig: &mut Rig, app: &mut App| {
        let before = rig.driver.flow_bill(app.flow).unwrap().tx_frames;
        for _ in 0..1000 {
            app.reap();
            while app.send(&frame) {}
            rig.run(rig.now + MS);
        }
        rig.driver.flow_bill(app.flow).unwrap().tx_frames - before
    };
    let slow = second(&mut rig, &mut app);
    rig.driver.set_contract(app.flow, &ms(30, 100), 2, &[], rig.now);
    rig.run(rig.now + 100 * MS);
    let fast = second(&mut rig, &mut app);
    assert!(fast.abs_diff(3 * slow) <= 3, "{slow} then {fast}");
    let settled = FromDriver::Settled { flow: app.flow, change: Some(2) };
    assert_eq!(
        rig.settled,
        [settled],
        "the flow manager hears when the earlier one binds no longer"
    );
}

#[test]
fn a_flow_is_settled_and_its_place_free_when_what_it_sent_is_paid_for() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    let frame = app.frame(&[0; 1472]);
    let frames = std::iter::from_fn(|| app.send(&frame).then_some(())).count() as u64;
    rig.run(8 * MS);
    let flow = app.flow;
    rig.driver.remove_flow(flow, rig.now);
    let removed = rig.driver.take_removed();
    assert!(matches!(removed[..], [FromDriver::FlowRemoved { settled: false, .. }]), "{removed:?}");
    let layout = base_rpc::FlowLayout {
        slot: 1,
        control_offset: (rbuf_channel::fifo_words(4) as u64 * 8).next_multiple_of(64),
        tx_words: rig::WORDS,
        rx_words: rig::WORDS,
        tx_data: base_rpc::Region { offset: 0, bytes: 4096 },
        rx_data: base_rpc::Region { offset: 0, bytes: 4096 },
    };
    let again = FlowId { generation: flow.generation + 1, ..flow };
    let add = |rig: &mut Rig| rig.driver.add_flow(again, app.domain, &layout, &ms(10, 100), 1, &[]);
    assert!(matches!(add(&mut rig), Err(InstallError::InUse(_))));
    let paid = frames * 123_040 * 10;
    assert!(paid > 10 * MS, "{frames} frames are more than its share of 8 ms");
    rig.run(paid - 10_000);
    assert_eq!(rig.settled, []);
    rig.run(paid + 10_000);
    assert_eq!(rig.settled, [FromDriver::Settled { flow, change: None }]);
    add(&mut rig).unwrap();
}

#[test]
fn the_bills_close() {
    let mut rig = Rig::new();
    let mut a = rig.app(4000, ms(10, 100));
    let mut b = rig.app(5000, ms(20, 100));
    a.offer(8);
    let (fa, fb) = (a.frame(b"x"), b.frame(&[0; 1000]));
    let mut billed = 0;
    for _ in 0..200 {
        a.reap();
        b.reap();
        a.send(&fa);
        b.send(&fb);
        rig.wire.send(Side::Right, incoming(4000, b"y"));
        rig.wire.send(Side::Right, incoming(7777, b"z"));
        rig.wire.advance(rig.now);
        let mut clock = || {
            billed += 37;
            billed
        };
        rig.driver.receive(rig.now, &mut clock);
        rig.driver.transmit(rig.now, &mut clock);
        billed += 1_313;
        if !rig.driver.bill(billed) {
            rig.driver.bill_idle(billed);
        }
        rig.now += MS;
    }
    let cpu = |bill: base_flow::Bill| bill.tx_cpu_ns + bill.rx_cpu_ns;
    let sum = cpu(rig.driver.flow_bill(a.flow).unwrap())
        + cpu(rig.driver.flow_bill(b.flow).unwrap())
        + cpu(rig.driver.link_bill());
    assert_eq!(sum, billed);
}

#[test]
fn a_domain_that_sleeps_is_rung_once_and_only_then() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    app.offer(8);
    rig.wire.send(Side::Right, incoming(4000, b"a"));
    rig.run(MS);
    assert_eq!(app.arenas.rings(), 0, "an application that looks by itself is left alone");
    assert!(app.rx.take().unwrap().is_some());
    assert_eq!(app.rx.arm(), Ok(false));
    app.events.set_asleep(true);
    for _ in 0..3 {
        rig.wire.send(Side::Right, incoming(4000, b"b"));
    }
    rig.run(rig.now + MS);
    assert_eq!(app.arenas.rings(), 1);
}

#[test]
fn addresses_decide_what_is_ours() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    app.offer(2);
    rig.driver.set_addresses(&["10.77.0.99/24".parse::<Prefix>().unwrap()]);
    rig.wire.send(Side::Right, incoming(4000, b"x"));
    rig.run(MS);
    assert!(app.received().is_empty());
    assert_eq!(rig.driver.link_bill().dropped(DropReason::NotOurAddress), 1);
}

#[test]
fn nobody_on_this_wire_has_the_addresses_of_our_other_links() {
    let mut rig = Rig::new();
    let mut app = rig.bare(ms(10, 100));
    app.fib = fib(app.flow, OURS, 4000, None, None);
    rig.driver.attach(&app.fib, 0).unwrap();
    app.offer(2);
    rig.wire.send(Side::Right, incoming(4000, b"before"));
    rig.run(MS);
    rig.driver.set_elsewhere(&[Prefix::new(THEIRS.into(), 24).unwrap()]);
    rig.wire.send(Side::Right, incoming(4000, b"after"));
    rig.run(rig.now + MS);
    assert_eq!(app.received(), [incoming(4000, b"before")]);
}
