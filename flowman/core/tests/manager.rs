//! The flow manager by script: what goes in, what comes out, and what is left.

mod script;

use std::net::{IpAddr, Ipv4Addr};

use base_flow::{
    Bill, Contract, DropReason, Endpoints, Fib, FlowId, LinkFacts, Sap, Stray, Transport,
};
use base_rpc::{
    Call, DomainId, FromDriver, InstallError, JoinOffer, Query, QueryReply, Refusal, Reply,
    Request, Spender, ToDriver,
};
use base_wire::{Arp, ArpOperation, Mac};
use flowman_core::{
    ClientId, Config, Counters, FlowManager, LinkConfig, LinkId, Output, Policy, Rights, Unwelcome,
};
use script::{LINK, NoCounters, OURS, PEER, S, Script, THEIRS, US, facts, ms, peer, refused};

#[test]
fn a_flow_to_an_unknown_neighbour_opens_when_it_answers() {
    let mut script = Script::new();
    let client = script.client(0);
    // RFC 9293 MUST-44.
    script.arps();
    assert_eq!(
        script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5000))),
        None,
        "it must be asked for first"
    );
    let arps = script.arps();
    assert_eq!(
        (arps.len(), arps[0].operation(), arps[0].target()),
        (1, Some(ArpOperation::Request), THEIRS)
    );
    assert!(!script.told.iter().any(|message| matches!(message, ToDriver::Attach { .. })));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let Some(Reply::Opened { fib: Some(fib), contract, .. }) = script.answer(client) else {
        panic!("not opened")
    };
    assert_eq!(
        (fib.next_hop_mac, fib.source, contract),
        (Some(PEER), IpAddr::V4(OURS), ms(4, 100))
    );
    assert!(fib.endpoints.local.port >= 49_152 && fib.endpoints.local.address == IpAddr::V4(OURS));
    assert!(script.told.contains(&ToDriver::Attach { fib }));
    assert!(
        script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5001))).is_some(),
        "now it is known"
    );
}

#[test]
fn a_flow_to_a_silent_neighbour_is_refused_and_leaves_nothing() {
    let mut script = Script::new();
    let client = script.client(0);
    let before = script.status(client);
    assert_eq!(script.open(client, ms(90, 100), Sap::any_v4(0), Some(peer(5000))), None);
    script.pass(5 * S);
    let refusal = refused(script.answer(client));
    assert_eq!(refusal, Refusal::Unreachable { address: THEIRS.into() });
    script.removed();
    let after = script.status(client);
    assert_eq!((after.flows, after.ports), (before.flows, before.ports));
    script
        .open(client, ms(90, 100), Sap::new(OURS.into(), 7), None)
        .expect("its share is free again");
}

#[test]
fn hosts_beyond_the_network_are_reached_over_the_gateway() {
    let mut script = Script::new();
    let client = script.client(0);
    script.arps();
    let far = Sap::new(Ipv4Addr::new(192, 0, 2, 1).into(), 53);
    assert_eq!(script.open(client, Contract::BEST_EFFORT, Sap::any_v4(0), Some(far)), None);
    assert_eq!(script.arps()[0].target(), Ipv4Addr::new(10, 77, 0, 254));
}

#[test]
fn a_neighbour_that_moves_takes_its_flows_along() {
    let mut script = Script::new();
    let client = script.client(0);
    script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5000)));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let Some(Reply::Opened { fib: Some(before), .. }) = script.answer(client) else {
        panic!("not opened")
    };
    let other = Mac([2, 0, 0, 0, 0, 10]);
    script.hear_arp(&Arp::request(other, THEIRS, THEIRS));
    assert_eq!(script.answer(client), None, "its old station is asked first");
    script.pass(S);
    let after = Fib { next_hop_mac: Some(other), ..before };
    assert_eq!(script.answer(client), Some(Reply::Reorganised { fib: after }));
    assert!(script.told.contains(&ToDriver::Attach { fib: after }));
}

#[test]
fn requests_for_our_addresses_are_answered_and_others_are_not() {
    let mut script = Script::new();
    script.arps();
    script.hear_arp(&Arp::request(PEER, THEIRS, OURS));
    let answers = script.arps();
    assert_eq!(answers, [Arp::reply(US, OURS, PEER, THEIRS)]);
    script.hear_arp(&Arp::request(PEER, THEIRS, Ipv4Addr::new(10, 77, 0, 3)));
    assert!(script.arps().is_empty());
}

#[test]
fn whatever_a_client_held_is_free_when_it_is_gone() {
    let mut script = Script::new();
    let watcher = script.client(0);
    let before = script.status(watcher);
    let client = script.client(0);
    let local = Sap::new(OURS.into(), 80);
    assert!(matches!(
        script.ask(client, Request::Bind { transport: Transport::Udp, local }),
        Some(Reply::Bound { .. })
    ));
    assert!(script.open(client, ms(90, 100), Sap::new(OURS.into(), 81), None).is_some());
    assert_eq!(
        script.open(client, ms(1, 100), Sap::any_v4(0), Some(peer(1))),
        None,
        "waits for ARP"
    );
    script.manager.client_left(client);
    script.drain();
    assert!(script.told.iter().any(|message| matches!(message, ToDriver::RemoveDomain { .. })));
    script.removed();
    let after = script.status(watcher);
    assert_eq!(
        (after.clients, after.flows, after.ports),
        (before.clients, before.flows, before.ports)
    );
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(script.answers.is_empty(), "nobody is left to be answered");
    script
        .open(watcher, ms(90, 100), Sap::new(OURS.into(), 80), None)
        .expect("port and share are free");
}

#[test]
fn flows_of_other_clients_cannot_be_touched() {
    let mut script = Script::new();
    let (owner, thief) = (script.client(0), script.client(0));
    let flow = script.listen(owner, 80);
    let endpoints =
        Endpoints { transport: Transport::Udp, local: Sap::new(OURS.into(), 99), remote: None };
    for request in [
        Request::Close { flow, time_wait: None },
        Request::Attach { flow, endpoints, waits: true },
        Request::Detach { flow },
    ] {
        assert_eq!(refused(script.ask(thief, request)), Refusal::UnknownFlow);
    }
    let stale = FlowId { generation: flow.generation + 1, ..flow };
    assert_eq!(
        refused(script.ask(owner, Request::Close { flow: stale, time_wait: None })),
        Refusal::UnknownFlow
    );
}

#[test]
fn a_closed_flow_is_answered_when_the_driver_has_let_go() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    assert_eq!(script.ask(client, Request::Close { flow, time_wait: None }), None);
    assert_eq!(
        refused(script.ask(client, Request::Close { flow, time_wait: None })),
        Refusal::UnknownFlow,
        "closing already"
    );
    let bill = Bill { tx_frames: 7, ..Bill::default() };
    script
        .manager
        .driver_message(LINK, FromDriver::FlowRemoved { flow, bill: bill.clone(), settled: true });
    script.drain();
    assert_eq!(script.answer(client), Some(Reply::Closed { bill }));
}

#[test]
fn users_have_the_rights_of_the_policy() {
    let rights =
        Rights { flows_max: 2, guarantee_ppm_max: 100_000, ports_max: 3, ..Rights::ORDINARY };
    let mut script = Script::with(Policy { default: rights, ..Policy::default() });
    let join = Request::Join(JoinOffer { link: 0, flows_max: 3 });
    let stranger = ClientId(99);
    script.manager.client_joined(stranger, 1, 1000).unwrap();
    script.ask(stranger, Request::Hello);
    script.manager.request(script.now, stranger, Call { tag: 1, request: join }, &NoCounters);
    script.drain();
    assert!(matches!(refused(script.answer(stranger)), Refusal::Quota(_)));

    let root = script.client(0);
    assert!(script.open(root, ms(50, 100), Sap::new(OURS.into(), 80), None).is_some());
    let mut user =
        Script::with(Policy { default: Rights { flows_max: 64, ..rights }, ..Policy::default() });
    let client = user.client(1000);
    assert!(matches!(
        refused(user.open(client, ms(1, 100), Sap::new(OURS.into(), 80), None)),
        Refusal::Policy(_)
    ));
    assert!(matches!(
        refused(user.open(client, ms(11, 100), Sap::new(OURS.into(), 8080), None)),
        Refusal::OverAllowance { .. }
    ));
    // What was admitted for the flow that found no port is given back when its driver says so.
    user.removed();
    assert!(matches!(
        user.open(client, ms(10, 100), Sap::new(OURS.into(), 8080), None),
        Some(Reply::Opened { .. })
    ));
    let other = user.client(1000);
    let again = user.open(other, ms(1, 100), Sap::new(OURS.into(), 8081), None);
    assert!(
        matches!(refused(again), Refusal::OverAllowance { offer: None, .. }),
        "the user's, not the process's"
    );
}

#[test]
fn other_users_bills_are_not_shown() {
    let mut script = Script::new();
    let (root, user) = (script.client(0), script.client(1000));
    script.listen(root, 80);
    script.listen(user, 8080);
    let mut bills = |client| match script.ask(client, Request::Query(Query::Flows { from: 0 })) {
        Some(Reply::Found(QueryReply::Flows { flows, next: None })) => {
            flows.iter().map(|flow| (flow.uid, flow.bill.is_some())).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let own = |visible| std::iter::repeat_n((0, visible), Stray::COUNT);
    assert_eq!(bills(user), own(false).chain([(0, false), (1000, true)]).collect::<Vec<_>>());
    assert_eq!(bills(root), own(true).chain([(0, true), (1000, true)]).collect::<Vec<_>>());
}

#[test]
fn a_change_of_contract_is_admitted_like_a_new_one() {
    let mut script = Script::new();
    let client = script.client(0);
    let Some(Reply::Opened { flow, .. }) =
        script.open(client, ms(60, 100), Sap::new(OURS.into(), 80), None)
    else {
        panic!("not opened")
    };
    let adjust = |contract| Request::AdjustQos { flow, contract };
    assert!(matches!(
        refused(script.ask(client, adjust(ms(96, 100)))),
        Refusal::OverAllocation { .. }
    ));
    assert!(matches!(script.ask(client, adjust(ms(95, 100))), Some(Reply::Adjusted { .. })));
    let after = Vec::new();
    assert!(script.told.contains(&ToDriver::SetContract {
        flow,
        contract: ms(95, 100),
        change: 2,
        after
    }));
    assert!(matches!(script.ask(client, adjust(ms(1, 100))), Some(Reply::Adjusted { .. })));
    let stranger = script.client(0);
    let other =
        |script: &mut Script| script.open(stranger, ms(94, 100), Sap::new(OURS.into(), 81), None);
    script.manager.driver_message(LINK, FromDriver::Settled { flow, change: Some(2) });
    // That was the first change; the second may not be settled.
    assert!(matches!(script.ask(client, adjust(ms(95, 100))), Some(Reply::Adjusted { .. })));
    assert!(matches!(script.ask(client, adjust(ms(1, 100))), Some(Reply::Adjusted { .. })));
    script.manager.driver_message(LINK, FromDriver::Settled { flow, change: Some(5) });
    assert!(
        matches!(other(&mut script), Some(Reply::Opened { .. })),
        "what was given back is free"
    );
}

#[test]
fn a_share_is_not_free_before_the_driver_says_that_what_was_sent_is_paid_for() {
    let mut script = Script::new();
    let (user, other) = (script.client(0), script.client(1));
    let at = |port| Sap::new(OURS.into(), port);
    let Some(Reply::Opened { flow, .. }) = script.open(user, ms(60, 100), at(80), None) else {
        panic!("not opened")
    };
    script.ask(user, Request::Close { flow, time_wait: None });
    let bill = Bill::default();
    script.manager.driver_message(LINK, FromDriver::FlowRemoved { flow, bill, settled: false });
    script.drain();
    assert!(matches!(script.answer(user), Some(Reply::Closed { .. })), "closing takes no time");
    let refusal = refused(script.open(other, ms(50, 100), at(8080), None));
    let Refusal::OverAllocation { offer, .. } = refusal else { panic!("{refusal}") };
    assert_eq!(offer, Some(ms(35, 100)));
    // Its own user need not wait: his next flow does.
    script.told.clear();
    assert!(matches!(script.open(user, ms(60, 100), at(80), None), Some(Reply::Opened { .. })));
    let waits =
        |told: &ToDriver| matches!(told, ToDriver::AddFlow { after, .. } if after.len() == 1);
    assert!(script.told.iter().any(waits), "{:?}", script.told);
    script.manager.driver_message(LINK, FromDriver::Settled { flow, change: None });
    assert!(script.open(other, ms(50, 100), at(8080), None).is_some_and(is_refused));
    assert!(matches!(script.open(other, ms(35, 100), at(8080), None), Some(Reply::Opened { .. })));
}

#[test]
fn requests_wait_of_whom_the_driver_has_no_time_for_and_of_nobody_else() {
    let mut script = Script::new();
    let (user, other) = (script.client(1), script.client(2));
    let at = |port| Sap::new(OURS.into(), port);
    let Some(Reply::Opened { flow, .. }) = script.open(user, Contract::BEST_EFFORT, at(8080), None)
    else {
        panic!("not opened")
    };
    let domain = script.told.iter().rev().find_map(|told| match told {
        ToDriver::AddFlow { domain, .. } => Some(*domain),
        _ => None,
    });
    let close = Request::Close { flow, time_wait: None };
    let join = Request::Join(JoinOffer { link: 0, flows_max: 4 });
    let of_nobody = Request::Query(Query::Status);
    let asked = [&close, &join, &of_nobody];
    let until = |script: &Script, now_ns, client| {
        asked.map(|request| script.manager.spent_until(now_ns, client, request))
    };
    let spent = |whose, until_ns| FromDriver::Spent { whose, until_ns };
    assert_eq!(until(&script, 0, user), [None; 3]);
    script.manager.driver_message(LINK, spent(Spender::Domain(domain.unwrap()), 500));
    assert_eq!(until(&script, 499, user), [Some(500), None, None]);
    assert_eq!((until(&script, 500, user), until(&script, 499, other)), ([None; 3], [None; 3]));
    script.manager.driver_message(LINK, spent(Spender::User(1), 400));
    script.manager.driver_message(LINK, spent(Spender::User(3), 300 + Spender::NS_MAX));
    assert_eq!(until(&script, 399, user), [Some(500), Some(400), None]);
    assert_eq!((until(&script, 400, user)[1], until(&script, 399, other)), (None, [None; 3]));
    // What is over is forgotten, and a driver's word goes with the driver.
    script.manager.driver_message(LINK, spent(Spender::User(3), 400 + Spender::NS_MAX));
    assert_eq!(until(&script, 399, user)[1], None);
    script.manager.driver_message(LINK, spent(Spender::User(1), 900));
    script.manager.driver_left(LINK);
    assert_eq!(until(&script, 0, user), [None; 3]);
}

fn is_refused(reply: Reply) -> bool {
    matches!(reply, Reply::Refused(_))
}

#[test]
fn a_contract_is_changed_by_its_user_and_by_root_and_its_owner_hears_of_it() {
    let mut script = Script::new();
    let (owner, same, other, root) =
        (script.client(1000), script.client(1000), script.client(1001), script.client(0));
    let Some(Reply::Opened { flow, .. }) =
        script.open(owner, ms(10, 100), Sap::new(OURS.into(), 8080), None)
    else {
        panic!("not opened")
    };
    let adjust = |contract| Request::AdjustQos { flow, contract };
    assert!(matches!(refused(script.ask(other, adjust(ms(20, 100)))), Refusal::Policy(_)));
    assert_eq!(script.told(|told| matches!(told, ToDriver::SetContract { .. })), 0);
    for (client, contract) in [(same, ms(30, 100)), (root, ms(40, 100))] {
        assert!(matches!(script.ask(client, adjust(contract)), Some(Reply::Adjusted { .. })));
        assert_eq!(script.answer(owner), Some(Reply::Recontracted { flow, contract }));
    }
    // Half of the line is what an ordinary user may have, whoever asks for it.
    let refusal = refused(script.ask(root, adjust(ms(60, 100)))).to_string();
    assert!(refusal.contains("--slice 50ms --period 100ms would be admitted"), "{refusal}");
}

#[test]
fn a_driver_that_goes_takes_its_flows_and_a_new_one_starts_clean() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    script.manager.driver_left(LINK);
    script.drain();
    assert!(matches!(script.answer(client), Some(Reply::Lost { flow: lost, .. }) if lost == flow));
    let again = script.open(client, Contract::BEST_EFFORT, Sap::new(OURS.into(), 80), None);
    assert_eq!(refused(again), Refusal::NotJoined { link: 0 });
    assert_eq!(script.manager.undriven().count(), 1);
    assert_eq!(script.manager.driver_joined(facts()), Ok(LINK));
    assert_eq!(script.manager.undriven().count(), 0);
    let name = facts().name;
    assert_eq!(
        script.manager.driver_joined(facts()),
        Err(Unwelcome::Driven { name: name.clone() })
    );
    let stranger = LinkFacts { name: "wan".into(), ..facts() };
    assert_eq!(
        script.manager.driver_joined(stranger),
        Err(Unwelcome::Unknown { name: "wan".into(), known: name })
    );
}

#[test]
fn what_a_frame_costs_the_driver_counts_in_admission_and_in_what_is_offered() {
    let mut script = Script::new();
    script.manager.driver_left(LINK);
    script.drain();
    let slow = LinkFacts { frame_cost_ns: 200_000, ..facts() };
    assert_eq!(script.manager.driver_joined(slow), Ok(LINK));
    script.drain();
    let client = script.client(0);
    // Long enough for the wire.
    let contract = Contract::guaranteed(150_000, 100_000_000).unwrap();
    let refusal = refused(script.open(client, contract, Sap::new(OURS.into(), 80), None));
    let refusal = refusal.to_string();
    assert!(refusal.contains("a full frame of 0.2ms"), "{refusal}");
    assert!(refusal.contains("--slice 0.2ms --period 133.333334ms would be admitted"), "{refusal}");
}

#[test]
fn a_flow_the_driver_refuses_is_lost_with_the_reason() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    let error = InstallError::Region { region: "transmit data".into() };
    script.manager.driver_message(LINK, FromDriver::FlowFailed { flow, error });
    script.drain();
    let Some(Reply::Lost { reason, .. }) = script.answer(client) else { panic!("not lost") };
    assert!(reason.contains("transmit data"), "{reason}");
    let again = script.listen(client, 80);
    assert_ne!(again, flow, "the port is free, the name is another");
}

#[test]
fn a_frame_for_a_flow_the_driver_does_not_have_yet_is_given_to_it_not_answered() {
    let mut script = Script::new();
    let client = script.client(0);
    script.listen(client, 8080);
    script.frames.clear();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(1, 8080)
        .write(&mut frame, b"early")
        .unwrap();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert!(script.told.contains(&ToDriver::Inject { frame }) && script.frames.is_empty());
}

#[test]
fn a_frame_for_a_flow_whose_neighbour_is_being_asked_goes_nowhere() {
    let mut script = Script::new();
    let client = script.client(0);
    let local = Sap::new(OURS.into(), 8080);
    assert_eq!(script.open(client, Contract::BEST_EFFORT, local, Some(peer(1))), None);
    script.frames.clear();
    script.told.clear();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(1, 8080)
        .write(&mut frame, b"early")
        .unwrap();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert_eq!((script.told.len(), script.frames.len()), (0, 0), "{:?}", script.told);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert_eq!(script.told.last(), Some(&ToDriver::Inject { frame }), "now the driver knows it");
}

#[test]
fn answers_to_strangers_are_limited_and_those_held_back_are_counted() {
    let mut script = Script::new();
    script.frames.clear();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(1, 9)
        .write(&mut frame, b"?")
        .unwrap();
    for _ in 0..1_000 {
        script.manager.frame(script.now, LINK, &frame);
    }
    script.drain();
    let client = script.client(0);
    let status = script.status(client);
    assert_eq!(
        (script.frames.len() as u64, status.unreachable_sent + status.replies_suppressed),
        (status.unreachable_sent, 1_000)
    );
    assert!(status.unreachable_sent <= 8, "to one host");
}

#[test]
fn every_segment_to_a_closed_port_is_reset_and_icmps_limit_has_no_part_in_it() {
    let mut script = Script::new();
    script.frames.clear();
    let packet = || {
        etherparse::PacketBuilder::ethernet2(PEER.0, US.0).ipv4(THEIRS.octets(), OURS.octets(), 64)
    };
    let mut datagram = Vec::new();
    packet().udp(1, 9).write(&mut datagram, b"?").unwrap();
    for port in 1..=1_000 {
        let mut segment = Vec::new();
        packet().tcp(1000, port, 1, 1000).syn().write(&mut segment, &[]).unwrap();
        script.manager.frame(script.now, LINK, &segment);
        script.manager.frame(script.now, LINK, &datagram);
    }
    script.drain();
    let client = script.client(0);
    assert_eq!(script.status(client).resets_sent, 1_000);
}

#[test]
fn own_flows_that_are_lost_are_said_to_be_and_opened_again_once_a_second() {
    let mut script = Script::new();
    assert_eq!((script.opened_own, script.lost_own), (1, 0));
    script.manager.own_lost(LINK, "a fault".into());
    script.manager.own_lost(LINK, "the same fault".into());
    script.drain();
    assert_eq!((script.opened_own, script.lost_own), (1, 1));
    assert_eq!(script.told(|told| matches!(told, ToDriver::RemoveFlow { .. })), Stray::COUNT);
    assert_eq!(script.told(|told| matches!(told, ToDriver::RemoveDomain { .. })), 1);
    script.removed();
    let client = script.client(0);
    let flows = script.status(client).flows;
    script.pass(S);
    assert_eq!(script.opened_own, 2);
    let status = script.status(client);
    assert_eq!((status.flows as usize, status.last_resorts_lost), (Stray::COUNT, 1));
    assert_eq!(flows, 0, "nothing of the lost ones stayed");
    // A driver that refuses them all the time is not asked all the time.
    for _ in 0..100 {
        script.manager.own_lost(LINK, "again".into());
        script.drain();
        script.removed();
        script.pass(S / 10);
    }
    assert!((10..=13).contains(&script.opened_own), "{} in eleven seconds", script.opened_own);
}

#[test]
fn forty_gratuitous_arps_move_nobody_whose_station_answers() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    for port in 0..50 {
        let local = Sap::new(OURS.into(), 2000 + port);
        assert!(matches!(
            script.open(client, Contract::BEST_EFFORT, local, Some(peer(53))),
            Some(Reply::Opened { .. })
        ));
    }
    script.arps();
    for liar in 0..40 {
        script.hear_arp(&Arp::request(Mac([2, 0, 0, 0, 7, liar]), THEIRS, THEIRS));
        script.pass(S / 10);
        // The old station says that it is there.
        if script.arps().iter().any(|arp| arp.target() == THEIRS) {
            script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
        }
    }
    script.pass(2 * S);
    assert_eq!((script.answers.len(), script.gone.len()), (0, 0), "{:?}", script.answers);
}

#[test]
fn a_next_hop_that_was_replaced_in_silence_is_found_while_a_flow_sends_to_it() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let local = Sap::new(OURS.into(), 2000);
    script.open(client, Contract::BEST_EFFORT, local, Some(peer(53))).expect("it is known");
    let other = Mac([2, 0, 0, 0, 0, 10]);
    let begun = script.now;
    let found = loop {
        script.pass(S / 10);
        // The new station answers what is sent to everybody or to itself.
        if script.frames.iter().any(|frame| frame[..6] == Mac::BROADCAST.0 || frame[..6] == other.0)
        {
            script.frames.clear();
            script.hear_arp(&Arp::reply(other, THEIRS, US, OURS));
        }
        if let Some(Reply::Reorganised { fib }) = script.answer(client) {
            break fib;
        }
        assert!(script.now - begun < 105 * S, "Linux has noticed by now");
    };
    assert_eq!(found.next_hop_mac, Some(other));
}

#[test]
fn requests_out_of_order_are_refused_and_their_client_sent_away() {
    let mut script = Script::new();
    let rude = ClientId(50);
    script.manager.client_joined(rude, 1, 0).unwrap();
    assert!(matches!(refused(script.ask(rude, Request::Query(Query::Links))), Refusal::Order(_)));
    assert_eq!(script.gone, [rude]);
    let _ = DomainId(0);
    let client = script.client(0);
    script.manager.unreadable(client, Refusal::Descriptors("some came".into()));
    script.drain();
    assert!(matches!(refused(script.answer(client)), Refusal::Descriptors(_)));
    assert_eq!(script.gone, [rude, client]);
}

#[test]
fn a_link_that_carries_less_tells_each_application_once_and_what_opens_later() {
    let mut script = Script::new();
    let (client, other) = (script.client(0), script.client(1000));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    for remote in [80, 81] {
        assert!(matches!(script.connect(client, 4000, remote), Some(Reply::Opened { .. })));
    }
    let carries = |mtu| FromDriver::Carries { mtu, unit_bytes: mtu };
    script.manager.driver_message(LINK, carries(700));
    script.drain();
    let told = Reply::Carries { link: 0, mtu: 700, unit_bytes: 700 };
    assert_eq!(script.answer(client), Some(told.clone()));
    assert_eq!(script.answer(client), None, "once for all its flows");
    assert_eq!(script.answer(other), Some(told));
    let opened = script.connect(client, 4000, 82);
    let Some(Reply::Opened { fib: Some(fib), .. }) = opened else { panic!("{opened:?}") };
    assert_eq!((fib.mtu, fib.unit_bytes), (700, 700));
    // A neighbour that moves does not bring the old size back.
    script.hear_arp(&Arp::request(Mac([2, 0, 0, 0, 0, 10]), THEIRS, THEIRS));
    script.pass(S);
    for _ in 0..3 {
        let moved = script.answer(client);
        assert!(matches!(moved, Some(Reply::Reorganised { fib }) if fib.mtu == 700), "{moved:?}");
    }
    script.manager.driver_message(LINK, carries(9000));
    script.drain();
    assert!(
        matches!(script.answer(client), Some(Reply::Carries { mtu: 1500, .. })),
        "no more than at first"
    );
}

#[test]
fn what_a_closed_flow_has_is_others_when_its_driver_says_that_it_has_sent_everything() {
    let mut script = Script::with(Policy { default: Rights::ALL, ..Policy::default() });
    let (ours, theirs) = (script.client(1000), script.client(1001));
    let at = Sap::new(OURS.into(), 4000);
    let Some(Reply::Opened { flow, .. }) = script.open(ours, ms(90, 100), at, None) else {
        panic!("not opened");
    };
    assert_eq!(script.ask(ours, Request::Close { flow, time_wait: None }), None);
    let refusal = refused(script.open(theirs, ms(10, 100), Sap::new(OURS.into(), 4001), None));
    assert!(matches!(refusal, Refusal::OverAllocation { .. }), "{refusal}");
    let refusal = refused(script.open(theirs, Contract::BEST_EFFORT, at, None));
    assert!(matches!(refusal, Refusal::InUse { .. }), "{refusal}");
    // Its user has the port at once.
    let again = script.listen(ours, 4000);
    script.ask(ours, Request::Close { flow: again, time_wait: None });
    script.removed();
    assert!(matches!(script.answer(ours), Some(Reply::Closed { .. })));
    script.listen(theirs, 4000);
    assert!(matches!(
        script.open(theirs, ms(90, 100), Sap::new(OURS.into(), 4001), None),
        Some(Reply::Opened { .. })
    ));
}

#[test]
fn what_a_dead_process_still_sends_counts_for_its_user_until_it_has() {
    let rights = Rights { flows_max: 64, guarantee_ppm_max: 300_000, ..Rights::ORDINARY };
    let mut script = Script::with(Policy { default: rights, ..Policy::default() });
    let dead = script.client(1000);
    script.open(dead, ms(30, 100), Sap::new(OURS.into(), 4000), None);
    script.manager.client_left(dead);
    script.drain();
    let next = script.client(1000);
    let open =
        |script: &mut Script| script.open(next, ms(30, 100), Sap::new(OURS.into(), 4001), None);
    assert!(matches!(refused(open(&mut script)), Refusal::OverAllowance { .. }));
    script.removed();
    assert!(matches!(open(&mut script), Some(Reply::Opened { .. })));
}

#[test]
fn of_two_requests_for_a_flows_ends_the_newer_counts_and_the_older_is_told() {
    let mut script = Script::new();
    let (client, other) = (script.client(0), script.client(0));
    let flow = script.listen(client, 4000);
    let ends = |port, remote: [u8; 4]| Endpoints {
        transport: Transport::Udp,
        local: Sap::new(OURS.into(), port),
        remote: Some(Sap::new(remote.into(), 53)),
    };
    let attach = |endpoints| Request::Attach { flow, endpoints, waits: true };
    script.told.clear();
    assert_eq!(script.ask(client, attach(ends(5353, THEIRS.octets()))), None);
    // The second neighbour is silent.
    let first = script.ask(client, attach(ends(5353, [10, 77, 0, 66])));
    assert!(matches!(refused(first), Refusal::Order(_)));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.answer(client), None, "nobody waits for the first any more");
    script.pass(5 * S);
    let silent = Refusal::Unreachable { address: [10, 77, 0, 66].into() };
    assert_eq!(refused(script.answer(client)), silent);
    assert_eq!(script.told, [ToDriver::Detach { flow }], "nothing was attached");
    let bind = Request::Bind { transport: Transport::Udp, local: Sap::new(OURS.into(), 5353) };
    assert!(matches!(script.ask(other, bind), Some(Reply::Bound { .. })));
}

#[test]
fn a_flow_that_turns_to_another_host_never_is_without_ends_whether_that_answers_or_not() {
    let rights = Rights { ports_max: 2, ..Rights::ORDINARY };
    let mut script = Script::with(Policy { default: rights, ..Policy::default() });
    let (client, other) = (script.client(1000), script.client(1000));
    let flow = script.listen(client, 4000);
    script.listen(other, 4001);
    let turn = |local, remote: Option<[u8; 4]>| {
        let remote = remote.map(|address| Sap::new(address.into(), 53));
        let local = Sap::new(OURS.into(), local);
        let endpoints = Endpoints { transport: Transport::Udp, local, remote };
        Request::Attach { flow, endpoints, waits: false }
    };
    let ports = script.status(client).ports;
    script.told.clear();
    for remote in [Some(THEIRS.octets()), Some([10, 77, 0, 66]), Some([10, 77, 0, 66]), None] {
        let Some(Reply::Attached { fib }) = script.ask(client, turn(4000, remote)) else {
            panic!("not at once")
        };
        let ends = fib.endpoints;
        assert_eq!(
            (ends.remote.map(|to| to.address), ends.local.port),
            (remote.map(|address| address.into()), 4000)
        );
        assert_eq!(fib.next_hop_mac, None, "nobody has answered");
        let told = std::mem::take(&mut script.told);
        assert!(told.iter().all(|told| *told == ToDriver::Attach { fib }), "{told:?}");
        assert_eq!(script.status(client).ports, ports);
    }
    // It is answered when the driver knows, and by then for the newest of several requests only.
    script.knows_at_once = false;
    assert_eq!(script.ask(client, turn(4000, Some(THEIRS.octets()))), None);
    assert!(matches!(refused(script.ask(client, turn(4000, None))), Refusal::Order(_)));
    let told = std::mem::take(&mut script.told);
    let pings = told.iter().filter_map(|told| match *told {
        ToDriver::Ping { tag } => Some(tag),
        _ => None,
    });
    let answers: Vec<Option<Reply>> = pings
        .map(|tag| {
            script.manager.driver_message(LINK, FromDriver::Pong { tag });
            script.drain();
            script.answer(client)
        })
        .collect();
    assert!(matches!(answers[..], [None, Some(Reply::Attached { .. })]), "{answers:?}");
    assert!(matches!(told[..], [.., ToDriver::Attach { .. }, ToDriver::Ping { .. }]), "{told:?}");
    script.knows_at_once = true;
    // What cannot be had changes nothing.
    assert!(matches!(refused(script.ask(client, turn(4001, None))), Refusal::InUse { .. }));
    assert!(matches!(
        refused(script.ask(client, turn(4000, Some([0; 4])))),
        Refusal::NoRoute { .. }
    ));
    assert_eq!(script.told, []);
    // Where the neighbour is, is heard by driver and owner when it answers.
    script.ask(client, turn(4000, Some([10, 77, 0, 66])));
    script.pass(5 * S);
    assert_eq!(script.answer(client), None, "a silent host is no reason to take anything away");
    script.told.clear();
    script.hear_arp(&Arp::reply(PEER, [10, 77, 0, 66].into(), US, OURS));
    let Some(Reply::Reorganised { fib }) = script.answer(client) else { panic!("not told") };
    assert_eq!((fib.next_hop_mac, &script.told), (Some(PEER), &vec![ToDriver::Attach { fib }]));
}

/// Every flow has received so many frames.
struct Received(u64);

impl Counters for Received {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill { rx_frames: self.0, ..Bill::default() }
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        Default::default()
    }
}

#[test]
fn what_an_application_threw_away_because_strangers_sent_it_is_in_its_bill_and_in_no_others() {
    let mut script = Script::new();
    let (client, thief) = (script.client(0), script.client(0));
    let flow = script.listen(client, 4000);
    let theirs = Request::Strangers { flow, frames: 1 };
    assert_eq!(refused(script.ask(thief, theirs)), Refusal::UnknownFlow);
    for (frames, shown) in [(3, 3), (2, 5), (u64::MAX, 7), (1, 7)] {
        let said = script.ask(client, Request::Strangers { flow, frames });
        assert_eq!(said, Some(Reply::Done));
        let query = Call { tag: 5, request: Request::Query(Query::Flows { from: 0 }) };
        script.manager.request(script.now, client, query, &Received(7));
        script.drain();
        let Some(Reply::Found(QueryReply::Flows { flows, .. })) = script.answer(client) else {
            panic!("no flows")
        };
        for info in flows {
            let drops = info.bill.unwrap().drops;
            let expected =
                if info.flow == flow { vec![(DropReason::Stranger, shown)] } else { vec![] };
            assert_eq!(drops, expected, "no more than it received, and nobody else");
        }
    }
    script.ask(client, Request::Close { flow, time_wait: None });
    script.removed_after(6);
    let Some(Reply::Closed { bill }) = script.answer(client) else { panic!("not closed") };
    assert_eq!(bill.dropped(DropReason::Stranger), 6);
}

#[test]
fn every_driver_hears_all_addresses_of_the_host_and_which_are_its_links() {
    let link = |dev: &str, addresses: &[&str]| LinkConfig {
        dev: dev.into(),
        addresses: addresses.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        gateway: None,
        rate: None,
        vlan: None,
        probe_wait_ms: 0,
    };
    let of = [["10.77.0.1/24", "10.79.0.1/24"], ["10.78.0.1/24", "10.80.0.1/16"]];
    let links = vec![link("lan", &of[0]), link("wan", &of[1])];
    let mut manager = FlowManager::new(Config { links, ..Config::default() }, [7; 16]);
    // The second one joins first: what is ours is no matter of who drives it.
    for (name, own, others) in [("wan", of[1], of[0]), ("lan", of[0], of[1])] {
        manager.driver_joined(LinkFacts { name: name.into(), ..facts() }).unwrap();
        let told = std::iter::from_fn(|| manager.poll_output()).find_map(|output| match output {
            Output::Driver { message: ToDriver::SetAddresses { addresses, elsewhere }, .. } => {
                Some((addresses, elsewhere))
            }
            _ => None,
        });
        let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(told, Some((prefixes(own), prefixes(others))), "{name}");
    }
}
