//! What the flow manager installs: sizes, places and ends, and what their next user finds there.

mod rig;

use base_flow::{Contract, DropReason, Endpoints, FlowId, Pace, Sap, Stray, Transport};
use base_rpc::{DomainId, DomainUser, FlowLayout, FromDriver, InstallError, Region};
use driver_core::{Arenas, DRAIN_NS_MAX, HeapArenas};
use driver_link::sim::Side;
use rbuf_channel::{FifoWriter, fifo_words, flow_block_bytes};
use rig::{App, BUFFER, OURS, PEER, Rig, THEIRS, WORDS, fib, incoming, ms};

const MS: u64 = 1_000_000;
const FAST: Pace = Pace { per_s: 1_000_000, burst: 1_000_000 };

#[test]
fn a_domain_has_from_one_to_65536_flows() {
    let mut rig = Rig::new();
    let arenas = HeapArenas::new(fifo_words(1 << 17) as u64 * 8, 4096, 4096);
    let mut add = |id, flows| {
        rig.driver.add_domain(DomainId(id), arenas.clone(), flows, DomainUser::FLOW_MANAGER)
    };
    for flows in [0, 65_537, u32::MAX] {
        assert!(matches!(add(1, flows), Err(InstallError::Layout(_))), "{flows}");
    }
    for (id, flows) in [(1, 1), (2, 65_536)] {
        assert_eq!(add(id, flows), Ok(()), "{flows}");
    }
    assert!(matches!(add(1, 1), Err(InstallError::InUse(_))), "that name is taken");
}

/// A domain with places for four flows, and where the first two of them lie.
fn domain_of_two(rig: &mut Rig) -> (DomainId, HeapArenas, [FlowLayout; 2]) {
    let fifo_bytes = (fifo_words(4) as u64 * 8).next_multiple_of(64);
    let block_bytes = flow_block_bytes(WORDS, WORDS);
    let arenas = HeapArenas::new(fifo_bytes + 2 * block_bytes, 64 * BUFFER, 64 * BUFFER);
    let id = DomainId(50);
    let user = DomainUser { uid: Some(1), rx_cpu_ppb: 1, arena_bytes: 1 << 28 };
    rig.driver.add_domain(id, arenas.clone(), 4, user).unwrap();
    let layout = |at: u32| {
        let data = Region { offset: u64::from(at * 32 * BUFFER), bytes: 32 * BUFFER };
        FlowLayout {
            slot: at,
            control_offset: fifo_bytes + u64::from(at) * block_bytes,
            tx_words: WORDS,
            rx_words: WORDS,
            tx_data: data,
            rx_data: data,
        }
    };
    (id, arenas, [layout(0), layout(1)])
}

const fn flow(index: u32) -> FlowId {
    FlowId { index, generation: 0 }
}

#[test]
fn a_slot_and_a_number_are_given_to_one_flow_at_a_time() {
    let mut rig = Rig::new();
    let (domain, _, [first, second]) = domain_of_two(&mut rig);
    let mut add = |index, layout: &FlowLayout| {
        rig.driver.add_flow(flow(index), domain, layout, &ms(1, 100), 1, &[])
    };
    assert_eq!(add(3, &first), Ok(()));
    let same_slot = FlowLayout { slot: first.slot, ..second };
    assert_eq!(add(4, &same_slot), Err(InstallError::InUse("slot 0".into())));
    assert_eq!(add(3, &second), Err(InstallError::InUse("flow 3".into())));
    assert_eq!(add(63, &second), Ok(()));
    let third = FlowLayout { slot: 2, ..second };
    assert_eq!(add(64, &third), Err(InstallError::Full), "the limit is 64");
    assert_eq!(rig.driver.flows(), 2);
    assert_eq!(rig.driver.domain_of(flow(63)), Some(domain));
    assert_eq!(rig.driver.domain_of(flow(5)), None);
}

#[test]
fn a_flow_that_is_being_closed_or_has_lied_is_not_attached_again() {
    let mut rig = Rig::new();
    let mut closing = rig.app(4000, ms(1, 100));
    let frame = closing.frame(&[0; 1000]);
    while closing.send(&frame) {}
    rig.driver.remove_flow(closing.flow, rig.now);
    assert_eq!(rig.driver.draining(), 1);
    assert!(matches!(rig.driver.attach(&closing.fib, rig.now), Err(InstallError::Unknown(_))));
    let liar = rig.app(5000, ms(1, 100));
    liar.word(0).store(1 << 40, std::sync::atomic::Ordering::Relaxed);
    rig.run(MS);
    assert_eq!(rig.driver.take_faults().len(), 1);
    assert!(matches!(rig.driver.attach(&liar.fib, rig.now), Err(InstallError::Unknown(_))));
}

#[test]
fn parked_ends_are_the_last_resorts_until_they_are_taken_back_or_taken() {
    let mut rig = Rig::new();
    let mut manager = rig.bare(Contract::BEST_EFFORT);
    rig.driver.set_last_resort(Stray::Parked, manager.flow, FAST, 0).unwrap();
    let mut listener = rig.bare(Contract::BEST_EFFORT);
    listener.fib = fib(listener.flow, OURS, 4000, None, None);
    rig.driver.attach(&listener.fib, 0).unwrap();
    manager.offer(8);
    listener.offer(8);
    let endpoints = Endpoints {
        transport: Transport::Udp,
        local: Sap::new(OURS.into(), 4000),
        remote: Some(Sap::new(THEIRS.into(), 4000)),
    };
    let mut heard = |rig: &mut Rig| {
        rig.wire.send(Side::Right, incoming(4000, b"whose?"));
        rig.run(rig.now + MS);
        (manager.received().len(), listener.received().len())
    };
    assert_eq!(heard(&mut rig), (0, 1));
    rig.driver.park(&endpoints);
    assert_eq!(heard(&mut rig), (1, 0));
    rig.driver.unpark(&endpoints);
    assert_eq!(heard(&mut rig), (0, 1));
    rig.driver.park(&endpoints);
    let mut owner = rig.app(4000, Contract::BEST_EFFORT);
    owner.offer(1);
    assert_eq!(heard(&mut rig), (0, 0));
    assert_eq!(owner.received().len(), 1);
}

#[test]
fn what_no_single_flow_caused_is_billed_to_a_flow_of_the_domain_as_long_as_it_has_one() {
    let mut rig = Rig::new();
    let (domain, _, [first, second]) = domain_of_two(&mut rig);
    rig.driver.add_flow(flow(3), domain, &first, &ms(1, 100), 1, &[]).unwrap();
    rig.driver.add_flow(flow(4), domain, &second, &ms(1, 100), 1, &[]).unwrap();
    let mut used = 0;
    let mut bill = |rig: &mut Rig, domain: Option<DomainId>| {
        used += 100;
        let payer = domain.and_then(|domain| rig.driver.payer(domain));
        rig.driver.bill_control(0, used, payer);
        assert!(rig.driver.bill(used));
        let of = |index| rig.driver.flow_bill(flow(index)).map_or(0, |bill| bill.tx_cpu_ns);
        (of(3), of(4), rig.driver.link_bill().tx_cpu_ns)
    };
    assert_eq!(bill(&mut rig, Some(domain)), (100, 0, 0));
    assert_eq!(bill(&mut rig, None), (100, 0, 100), "for nobody");
    rig.driver.remove_flow(flow(3), 0);
    assert_eq!(bill(&mut rig, Some(domain)), (0, 100, 100), "by the one that is left");
    rig.driver.remove_flow(flow(4), 0);
    assert_eq!(bill(&mut rig, Some(domain)), (0, 0, 200));
}

#[test]
fn each_domain_pays_for_the_stretch_that_was_its_own() {
    let mut rig = Rig::new();
    let (cheap, dear) = (rig.app(4000, ms(1, 100)), rig.app(5000, ms(1, 100)));
    rig.driver.bill_rings(100, [cheap.domain]);
    rig.driver.bill_rings(10_000, [dear.domain]);
    rig.driver.bill_rings(10_300, [cheap.domain, DomainId(99), dear.domain]);
    assert!(rig.driver.bill(10_300));
    let ns = |app: &App| rig.driver.flow_bill(app.flow).unwrap().tx_cpu_ns;
    assert_eq!((ns(&cheap), ns(&dear)), (100 + 150, 9_900 + 150));
}

#[test]
fn the_next_user_of_a_place_finds_a_bill_of_nothing_and_pays_for_its_own_work_only() {
    let mut rig = Rig::new();
    let mut first = rig.app(4000, ms(10, 100));
    let mut second = rig.app(5000, ms(10, 100));
    for app in [&mut first, &mut second] {
        app.offer(3);
        let frame = app.frame(b"x");
        assert!(app.send(&frame));
    }
    for port in [4000, 5000, 5000] {
        rig.wire.send(Side::Right, incoming(port, b"y"));
    }
    rig.run(MS);
    let bill = |rig: &Rig, app: &App| rig.driver.flow_bill(app.flow).unwrap();
    let (before, others) = (bill(&rig, &second), bill(&rig, &first));
    assert_eq!((before.rx_backlog, others.rx_backlog), (2, 1), "frames not taken yet");
    // The last that the loop did before it was for the second; what comes of it is not yet billed.
    let frame = second.frame(b"x");
    second.reap();
    assert!(second.send(&frame));
    rig.driver.transmit(rig.now, &mut || rig.used);
    rig.driver.bill(rig.used + 1_000);
    rig.driver.remove_flow(second.flow, rig.now);
    let removed = rig.driver.take_removed();
    let [FromDriver::FlowRemoved { bill: last, .. }] = &removed[..] else { panic!("{removed:?}") };
    assert_eq!((last.tx_frames, last.rx_frames), (2, 2));
    assert_eq!(bill(&rig, &first), others, "the place beside it is another's");
    let again = FlowId { generation: 1, ..second.flow };
    rig.run(rig.now + 100 * MS);
    let layout = rig.layout();
    rig.driver.add_flow(again, second.domain, &layout, &ms(10, 100), 1, &[]).unwrap();
    assert_eq!(rig.driver.flow_bill(again), Some(base_flow::Bill::default()));
    assert_eq!(rig.driver.flow_bill(second.flow), None);
}

#[test]
fn what_comes_of_work_for_a_flow_that_is_gone_is_not_billed_to_the_next_in_its_place() {
    let mut rig = Rig::new();
    let app = rig.app(4000, ms(10, 100));
    rig.driver.bill_rings(100, [app.domain]);
    assert!(rig.driver.bill(100));
    rig.driver.remove_flow(app.flow, 0);
    let again = FlowId { generation: 1, ..app.flow };
    let layout = rig.layout();
    rig.driver.add_flow(again, app.domain, &layout, &ms(10, 100), 1, &[]).unwrap();
    rig.driver.bill_idle(5_000);
    assert_eq!(rig.driver.flow_bill(again), Some(base_flow::Bill::default()));
    let link = rig.driver.link_bill();
    assert_eq!(link.tx_cpu_ns + link.rx_cpu_ns, 4_900);
}

#[test]
fn flows_that_may_not_send_are_gone_as_soon_as_they_are_closed() {
    let mut rig = Rig::new();
    let mut detached = rig.app(4000, ms(1, 100));
    let mut liar = rig.app(4001, ms(1, 100));
    let mut manager = rig.bare(ms(1, 100));
    let mut idle = rig.app(4002, ms(1, 100));
    rig.driver.set_last_resort(Stray::Others, manager.flow, FAST, 0).unwrap();
    for app in [&mut detached, &mut liar, &mut manager] {
        let frame = app.frame(&[0; 1000]);
        (0..20).for_each(|_| assert!(app.send(&frame)));
    }
    idle.reap();
    liar.word(0).store(1 << 40, std::sync::atomic::Ordering::Relaxed);
    rig.run(MS);
    rig.driver.detach(detached.flow);
    for (app, what) in
        [(detached, "detached"), (liar, "liar"), (manager, "last resort"), (idle, "idle")]
    {
        assert!(!rig.driver.has_removed());
        rig.driver.remove_flow(app.flow, rig.now);
        assert!(rig.driver.has_removed() && rig.driver.draining() == 0, "{what}");
        let removed = rig.driver.take_removed();
        assert!(matches!(removed[..], [FromDriver::FlowRemoved { .. }]), "{what}: {removed:?}");
    }
}

#[test]
fn a_flow_that_cannot_drain_is_removed_at_its_time_however_many_were_closed_meanwhile() {
    let mut rig = Rig::new();
    // One of these frames in two seconds.
    let slow = Contract::guaranteed(45_000, 1000 * MS).unwrap();
    let mut stuck = rig.app(4000, slow);
    let frame = stuck.frame(&[0; 1000]);
    let close_others = |rig: &mut Rig| {
        for _ in 0..80 {
            let mut app = rig.app(5000, ms(90, 100));
            assert!(app.send(&frame));
            rig.driver.remove_flow(app.flow, rig.now);
            rig.driver.remove_domain(app.domain, rig.now);
            rig.run(rig.now + MS);
            rig.next_index = 1;
            rig.run(rig.now + 2 * MS);
        }
    };
    close_others(&mut rig);
    for _ in 0..32 {
        stuck.send(&frame);
    }
    let closed_ns = rig.now;
    rig.driver.remove_flow(stuck.flow, rig.now);
    assert_eq!(rig.driver.draining(), 1);
    close_others(&mut rig);
    rig.driver.transmit(closed_ns + DRAIN_NS_MAX - 1, &mut || 0);
    assert_eq!(rig.driver.draining(), 1);
    rig.driver.transmit(closed_ns + DRAIN_NS_MAX, &mut || 0);
    assert_eq!(rig.driver.draining(), 0);
}

#[test]
fn as_many_late_events_as_a_closed_flow_can_have_left_are_forgiven_and_not_one_more() {
    let mut rig = Rig::new();
    let (domain, arenas, [layout, _]) = domain_of_two(&mut rig);
    let add = |rig: &mut Rig, generation| {
        let id = FlowId { index: 3, generation };
        rig.driver.add_flow(id, domain, &layout, &ms(1, 100), 1, &[]).unwrap();
        id
    };
    let first = add(&mut rig, 0);
    rig.driver.attach(&fib(first, OURS, 4000, Some((THEIRS, 4000)), Some(PEER)), 0).unwrap();
    rig.driver.remove_flow(first, 0);
    add(&mut rig, 1);
    // Its arming, and what the zeroing of its block looks like.
    let mut events = FifoWriter::new(arenas.control_out(0, fifo_words(4)).unwrap()).unwrap();
    for (late, is_lie) in [(1, false), (2, false), (3, true)] {
        events.post(0);
        rig.run(rig.now + MS);
        assert_eq!(rig.driver.has_faults(), is_lie, "event {late}");
    }
}

#[test]
fn what_a_detached_flow_announces_waits_until_it_is_attached() {
    let mut rig = Rig::new();
    let mut app = rig.app(4000, ms(10, 100));
    rig.driver.detach(app.flow);
    let frame = app.frame(b"later");
    assert!(app.send(&frame));
    rig.run(MS);
    let bill = rig.driver.flow_bill(app.flow).unwrap();
    assert_eq!((bill.tx_frames, bill.dropped_total(), app.reap()), (0, 0, (0, 0)));
    rig.driver.attach(&app.fib, rig.now).unwrap();
    rig.run(rig.now + MS);
    assert_eq!(rig.arrived(), [frame]);
}

#[test]
fn who_lies_in_receiving_sends_and_receives_nothing_any_more_and_its_ends_are_free() {
    let mut rig = Rig::new();
    let mut liar = rig.app(4000, ms(10, 100));
    liar.word(16 + 72).store(1000, std::sync::atomic::Ordering::Relaxed);
    for injected in [false, true] {
        match injected {
            true => rig.driver.inject_frame(&incoming(4000, b"x"), rig.now),
            false => rig.wire.send(Side::Right, incoming(4000, b"x")),
        }
        rig.run(rig.now + MS);
    }
    assert_eq!(rig.driver.take_faults().len(), 1);
    let bill = rig.driver.flow_bill(liar.flow).unwrap();
    assert_eq!((bill.rx_offered, bill.dropped(DropReason::ChannelClosed)), (1, 1));
    let frame = liar.frame(b"x");
    liar.send(&frame);
    rig.run(rig.now + MS);
    assert!(rig.arrived().is_empty());
    let mut next = rig.app(4000, ms(10, 100));
    next.offer(1);
    rig.wire.send(Side::Right, incoming(4000, b"x"));
    rig.run(rig.now + MS);
    assert_eq!(next.received().len(), 1);
}

#[test]
fn the_next_in_the_place_of_a_last_resort_gets_nobodys_frames_and_other_kinds_go_on() {
    let mut rig = Rig::new();
    let mut parked = rig.bare(Contract::BEST_EFFORT);
    let others = rig.bare(Contract::BEST_EFFORT);
    rig.driver.set_last_resort(Stray::Parked, parked.flow, FAST, 0).unwrap();
    rig.driver.set_last_resort(Stray::Others, others.flow, FAST, 0).unwrap();
    let endpoints = Endpoints {
        transport: Transport::Udp,
        local: Sap::new(OURS.into(), 4000),
        remote: Some(Sap::new(THEIRS.into(), 4000)),
    };
    rig.driver.park(&endpoints);
    parked.offer(2);
    rig.driver.remove_flow(others.flow, 0);
    let layout = rig.layout();
    let again = FlowId { generation: 1, ..others.flow };
    rig.driver.add_flow(again, others.domain, &layout, &ms(1, 100), 1, &[]).unwrap();
    for port in [4000, 9999] {
        rig.wire.send(Side::Right, incoming(port, b"x"));
    }
    rig.run(MS);
    assert_eq!(parked.received().len(), 1);
    assert_eq!(rig.driver.flow_bill(again), Some(base_flow::Bill::default()));
    assert_eq!(rig.driver.link_bill().dropped(DropReason::Unclaimed), 1);
}
