//! What a client, a user or a stranger cannot have, see or do.

mod script;

use base_flow::{Bill, Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::{
    FromDriver, JoinOffer, NeighbourState, Query, QueryReply, Refusal, Reply, Request, ToDriver,
};
use base_wire::{Arp, Mac};
use flowman_core::{ClientId, Policy, Rights};
use script::{LINK, OURS, PEER, S, Script, THEIRS, US, facts, layout, peer, refused};

fn udp(local: Sap, remote: Option<Sap>) -> Request {
    let endpoints = Some(Endpoints { transport: Transport::Udp, local, remote });
    Request::Open { link: 0, contract: Contract::BEST_EFFORT, layout: layout(), endpoints }
}

fn ours(port: u16) -> Sap {
    Sap::new(OURS.into(), port)
}

fn bind(script: &mut Script, client: ClientId, local: Sap) -> Option<Reply> {
    script.ask(client, Request::Bind { transport: Transport::Udp, local })
}

fn is_quota(reply: Option<Reply>) -> bool {
    matches!(refused(reply), Refusal::Quota(_))
}

#[test]
fn so_many_requests_of_a_client_wait_for_neighbours_at_a_time_and_others_have_their_own() {
    let mut script = Script::new();
    let (client, other) = (script.client(1000), script.client(1000));
    let host = |number: u8| Sap::new([10, 77, 0, number].into(), 9);
    let resolve = |number| Request::Resolve { remote: host(number).address };
    // Half of them flows, and half questions.
    for round in 0..3 {
        let base = 10 + 65 * round;
        for number in 0..32 {
            assert_eq!(script.ask(client, udp(ours(0), Some(host(base + number)))), None);
            assert_eq!(script.ask(client, resolve(base + 32 + number)), None);
        }
        assert!(is_quota(script.ask(client, resolve(base + 64))));
        assert!(is_quota(script.ask(client, udp(ours(0), Some(host(base + 64))))));
        assert_eq!(script.ask(other, resolve(base + 64)), None);
        // Nobody answers, and all are told.
        script.pass(4 * S);
        script.removed();
        script.answers.clear();
    }
}

#[test]
fn all_clients_of_a_user_share_how_many_flows_and_access_points_the_user_may_have() {
    let rights = Rights { flows_max: 64, ports_max: 3, ..Rights::ORDINARY };
    let few = Rights { flows_max: 64, ports_max: 65, ..Rights::ORDINARY };
    let user = [(flowman_core::Uid(1001), few)].into();
    let mut script = Script::with(Policy { default: rights, user, ..Policy::default() });
    let (one, same, other) = (script.client(1000), script.client(1000), script.client(1001));
    for (client, port) in [(one, 2000), (one, 2001), (same, 2002)] {
        assert!(matches!(bind(&mut script, client, ours(port)), Some(Reply::Bound { .. })));
    }
    assert!(is_quota(bind(&mut script, one, ours(2003))));
    assert!(is_quota(bind(&mut script, same, ours(2003))));
    assert!(matches!(bind(&mut script, other, ours(2003)), Some(Reply::Bound { .. })));
    let unbind = Request::Unbind { transport: Transport::Udp, local: ours(2000) };
    assert_eq!(script.ask(one, unbind), Some(Reply::Done));
    assert!(matches!(bind(&mut script, same, ours(2004)), Some(Reply::Bound { .. })));
    for port in 0..64 {
        script.listen(other, 3000 + port);
    }
    assert!(is_quota(script.ask(other, udp(ours(4000), None))), "flows");
}

#[test]
fn a_port_at_any_address_and_at_one_are_two_holdings_of_whoever_has_both() {
    let mut script = Script::new();
    let (one, other) = (script.client(0), script.client(0));
    let before = script.status(one).ports;
    assert!(matches!(bind(&mut script, one, Sap::any_v4(2000)), Some(Reply::Bound { .. })));
    assert!(matches!(bind(&mut script, one, ours(2000)), Some(Reply::Bound { .. })));
    assert_eq!(script.status(one).ports, before + 2);
    assert!(matches!(refused(bind(&mut script, one, ours(2000))), Refusal::InUse { .. }));
    script.listen(one, 2000);
    // At any address it answers from the first of them.
    let Some(Reply::Opened { fib: Some(fib), .. }) = script.ask(one, udp(Sap::any_v4(2000), None))
    else {
        panic!("not opened")
    };
    assert_eq!((fib.source, fib.endpoints.local), (OURS.into(), Sap::any_v4(2000)));
    assert_eq!(script.status(one).ports, before + 2, "its flow has no port of its own");
    let unbind = Request::Unbind { transport: Transport::Udp, local: Sap::any_v4(2000) };
    assert_eq!(script.ask(one, unbind), Some(Reply::Done));
    assert!(matches!(refused(bind(&mut script, other, ours(2000))), Refusal::InUse { .. }));
    assert_eq!(script.status(one).ports, before + 2, "its flow at any address holds it still");
}

#[test]
fn flows_that_a_driver_takes_along_unsettled_are_not_counted_for_ever() {
    let rights = Rights { flows_max: 64, ..Rights::ORDINARY };
    let mut script = Script::with(Policy { default: rights, ..Policy::default() });
    let client = script.client(1000);
    for port in 0..64 {
        let flow = script.listen(client, 2000 + port);
        script.ask(client, Request::Close { flow, time_wait: None });
        let (bill, settled) = (Bill::default(), false);
        script.manager.driver_message(LINK, FromDriver::FlowRemoved { flow, bill, settled });
        script.drain();
        script.answers.clear();
    }
    assert!(is_quota(script.ask(client, udp(ours(3000), None))), "none is paid for");
    script.manager.driver_left(LINK);
    assert_eq!(script.manager.driver_joined(facts()), Ok(LINK));
    script.drain();
    let again = script.client(1000);
    for port in 0..64 {
        script.listen(again, 2000 + port);
    }
}

#[test]
fn a_flow_that_is_not_open_yet_can_be_neither_closed_nor_given_other_ends() {
    let mut script = Script::new();
    let client = script.client(0);
    assert_eq!(script.ask(client, udp(ours(2000), Some(peer(9)))), None, "who is asked for first");
    let added = script.told.iter().find_map(|told| match told {
        ToDriver::AddFlow { flow, .. } => Some(*flow),
        _ => None,
    });
    let flow = added.expect("the driver has it");
    let endpoints = Endpoints { transport: Transport::Udp, local: ours(2001), remote: None };
    for request in [
        Request::Close { flow, time_wait: None },
        Request::Detach { flow },
        Request::Attach { flow, endpoints, waits: true },
    ] {
        assert_eq!(refused(script.ask(client, request)), Refusal::UnknownFlow);
    }
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.answer(client), Some(Reply::Opened { .. })));
    script.told.clear();
    assert_eq!(script.ask(client, Request::Close { flow, time_wait: None }), None);
    assert!(
        matches!(script.told[..], [ToDriver::RemoveFlow { .. }]),
        "nothing else is said of what is removed: {:?}",
        script.told
    );
}

#[test]
fn what_cannot_be_read_is_told_to_its_sender_who_is_sent_away() {
    let mut script = Script::new();
    let client = script.client(0);
    script.manager.unreadable(client, Refusal::Message("seven bytes".into()));
    script.drain();
    assert_eq!(refused(script.answer(client)), Refusal::Message("seven bytes".into()));
    assert_eq!(script.gone, [client]);
}

#[test]
fn every_request_that_makes_a_message_for_a_driver_is_known_to() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 2000);
    let endpoints = Endpoints { transport: Transport::Udp, local: ours(2001), remote: None };
    let contract = Contract::BEST_EFFORT;
    for request in [
        Request::Join(JoinOffer { link: 0, flows_max: 1 }),
        udp(ours(2002), None),
        Request::Detach { flow },
        Request::Attach { flow, endpoints, waits: true },
        Request::AdjustQos { flow, contract },
        Request::Close { flow, time_wait: None },
    ] {
        assert_eq!(script.manager.driver_for(&request), Some(LINK), "{request:?}");
    }
    let transport = Transport::Udp;
    let local = ours(2003);
    for request in [
        Request::Hello,
        Request::Bind { transport, local },
        Request::Unbind { transport, local },
        Request::Resolve { remote: THEIRS.into() },
        Request::PathCarries { flow, remote: THEIRS.into(), mtu: 1400 },
        Request::Query(Query::Status),
    ] {
        assert_eq!(script.manager.driver_for(&request), None, "{request:?}");
        let told = script.told.len();
        script.ask(client, request);
        assert_eq!(script.told.len(), told);
    }
}

#[test]
fn what_is_told_of_links_flows_and_neighbours_is_what_there_is() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::request(PEER, THEIRS, OURS));
    assert_eq!(script.manager.status().arp_answered, 1);
    script.pass(5 * S);
    let mut found = |query| match script.ask(client, Request::Query(query)) {
        Some(Reply::Found(found)) => found,
        other => panic!("{other:?}"),
    };
    let QueryReply::Neighbours(neighbours) = found(Query::Neighbours) else { panic!() };
    let [neighbour] = &neighbours[..] else { panic!("{neighbours:?}") };
    assert_eq!((neighbour.address, neighbour.mac), (THEIRS.into(), Some(PEER)));
    assert_eq!((neighbour.state, neighbour.age_ms), (NeighbourState::Reachable, 5_000));
    assert_eq!(neighbour.link, "lan");
    let QueryReply::Routes(routes) = found(Query::Routes) else { panic!() };
    let routes: Vec<_> = routes.iter().map(|route| (&*route.link, route.gateway)).collect();
    assert_eq!(routes, [("lan", None), ("lan", Some([10, 77, 0, 254].into()))]);
    let QueryReply::Flows { flows, .. } = found(Query::Flows { from: 0 }) else { panic!() };
    assert!(!flows.is_empty() && flows.iter().all(|flow| flow.link == "lan"));
    let mut opened = |port| match script.ask(client, udp(ours(port), None)) {
        Some(Reply::Opened { tardiness_ns, .. }) => tardiness_ns,
        other => panic!("{other:?}"),
    };
    assert_eq!(opened(2000), facts().tardiness_ns);
}

#[test]
fn who_is_beyond_a_router_is_no_neighbour_whatever_he_says() {
    let mut script = Script::new();
    let client = script.client(0);
    let far = [192, 0, 2, 1].into();
    script.hear_arp(&Arp::request(PEER, far, OURS));
    script.hear_arp(&Arp::reply(PEER, far, US, OURS));
    let loud = Mac([3, 0, 0, 0, 0, 1]);
    for mac in [loud, US] {
        script.hear_arp(&Arp::reply(mac, THEIRS, US, OURS));
    }
    assert_eq!(script.status(client).neighbours, 0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.status(client).neighbours, 1);
}

#[test]
fn a_datagram_to_a_group_goes_to_its_station_and_asks_nobody() {
    let mut script = Script::new();
    let client = script.client(0);
    script.arps();
    let group = Sap::new([239, 255, 129, 7].into(), 9);
    let Some(Reply::Opened { fib: Some(fib), .. }) = script.ask(client, udp(ours(0), Some(group)))
    else {
        panic!("not opened")
    };
    // RFC 1112 §6.4: the lower 23 bits.
    assert_eq!(fib.next_hop_mac, Some(Mac([0x01, 0x00, 0x5e, 0x7f, 0x81, 0x07])));
    assert_eq!(script.arps(), []);
}

#[test]
fn our_own_flows_are_opened_again_when_the_driver_has_lost_one_and_a_clients_fault_is_his_own() {
    for lost in [
        FromDriver::FlowFailed {
            flow: FlowId { index: 0, generation: 0 },
            error: base_rpc::InstallError::Full,
        },
        FromDriver::Fault { flow: FlowId { index: 0, generation: 0 }, fault: "lies".into() },
    ] {
        let mut script = Script::new();
        let client = script.client(0);
        let flow = script.listen(client, 2000);
        let fault = FromDriver::Fault { flow, fault: "a length of nought".into() };
        script.manager.driver_message(LINK, fault);
        script.drain();
        let Some(Reply::Lost { reason, .. }) = script.answer(client) else { panic!("not told") };
        assert!(reason.contains("a length of nought"), "{reason}");
        assert_eq!((script.lost_own, script.opened_own), (0, 1));
        script.manager.driver_message(LINK, lost.clone());
        script.manager.driver_message(LINK, lost);
        script.drain();
        assert_eq!((script.lost_own, script.opened_own), (1, 1), "said once");
        script.removed();
        script.pass(2 * S);
        assert_eq!((script.lost_own, script.opened_own), (1, 2));
    }
}

#[test]
fn only_connections_have_peers_that_hear_of_the_death_of_an_application() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(
        script.ask(client, udp(ours(2000), Some(peer(9)))),
        Some(Reply::Opened { .. })
    ));
    assert!(matches!(script.connect(client, 4000, 0), Some(Reply::Opened { .. })), "listens");
    script.frames.clear();
    script.manager.client_left(client);
    script.drain();
    script.removed();
    script.pass(2 * S);
    assert!(script.frames.is_empty(), "{} frames", script.frames.len());
}
