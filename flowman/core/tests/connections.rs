//! The flow manager and TCP connections: those that wait, and those whose application has died.

mod script;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use base_flow::{Contract, Endpoints, Sap, Stray, Transport};
use base_rpc::{Refusal, Reply, Request, TimeWait, ToDriver};
use base_wire::Arp;
use script::{LINK, OURS, PEER, S, Script, THEIRS, US, facts, layout, peer, refused};

#[test]
fn the_peer_of_a_connection_whose_application_died_is_asked_and_then_reset() {
    let mut script = Script::new();
    let client = script.client(0);
    let endpoints = Some(Endpoints {
        transport: Transport::Tcp,
        local: Sap::new(OURS.into(), 4000),
        remote: Some(peer(80)),
    });
    let contract = Contract::BEST_EFFORT;
    let open = Request::Open { link: 0, contract, layout: layout(), endpoints };
    assert_eq!(script.ask(client, open), None);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.answer(client), Some(Reply::Opened { .. })));
    script.frames.clear();

    script.manager.client_left(client);
    script.drain();
    script.removed();
    script.pass(100_000_000);
    let parts = |frame: &[u8]| {
        let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("not TCP")
        };
        tcp.to_header()
    };
    let asked = std::mem::take(&mut script.frames);
    let question = parts(&asked[0]);
    assert_eq!((question.source_port, question.destination_port), (4000, 80));
    assert!(question.ack && !question.rst && !question.syn);

    // It says where it is.
    let mut answer = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .tcp(80, 4000, 1234, 500)
        .ack(987_654)
        .write(&mut answer, &[])
        .unwrap();
    script.manager.frame(script.now, LINK, &answer);
    script.drain();
    let reset = parts(&script.frames.pop().unwrap());
    assert_eq!((reset.rst, reset.sequence_number), (true, 987_654));
    // That may have been lost.
    script.pass(250_000_000);
    let again = parts(&script.frames.pop().unwrap());
    assert_eq!((again.destination_port, again.rst), (80, false));
    assert!(script.hear_reset(80, 4000).is_empty());
    script.pass(S);
    assert!(script.frames.is_empty(), "it knows nothing of a connection any more");
}

#[test]
fn every_peer_of_hundreds_of_connections_is_reset_within_a_second_whatever_strangers_do() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    const CONNECTIONS: u16 = 600;
    for port in 0..CONNECTIONS {
        assert!(matches!(script.connect(client, 4000 + port, 80), Some(Reply::Opened { .. })));
    }
    script.frames.clear();
    script.manager.client_left(client);
    script.drain();
    script.removed();
    let (mut reset, mut lost, mut over) = (BTreeSet::new(), BTreeSet::new(), 0);
    let end = script.now + S;
    while let Some(at) = script.manager.next_deadline().filter(|&at| at <= end) {
        script.now = at.max(script.now);
        script.manager.tick(script.now);
        script.drain();
        let asked = std::mem::take(&mut script.frames);
        assert!(asked.len() <= 32, "{} frames for the few buffers there are", asked.len());
        for question in asked {
            let port = u16::from_be_bytes([question[34], question[35]]);
            if reset.contains(&port) {
                assert!(script.hear_reset(80, port).is_empty());
                over += 1;
                continue;
            }
            // Strangers use up what they are allowed.
            script.hear_from(9, 9, 1);
            script.hear_from(80, port, u32::from(port));
            let answers = std::mem::take(&mut script.frames);
            let to_it = |frame: &&Vec<u8>| frame[34..36] == port.to_be_bytes();
            let answer = answers.iter().find(to_it).expect("its peer is answered");
            assert_eq!((answer[47], &answer[38..42]), (4, &u32::from(port).to_be_bytes()[..]));
            // Every third reset is lost at first.
            if port % 3 > 0 || !lost.insert(port) {
                reset.insert(port);
            }
        }
    }
    assert_eq!((reset.len(), over), (CONNECTIONS.into(), CONNECTIONS), "and each asked no more");
    // Whoever speaks in the name of one of them is a stranger in the end.
    script.ways.clear();
    for _ in 0..1000 {
        assert_eq!(script.hear_from(80, 4000, 1).len(), 1);
    }
    let known = script.ways.iter().filter(|way| **way == Stray::Parked).count();
    assert!(known <= 50, "{known} resets for one connection by the way that is kept for these");
}

#[test]
fn a_peer_that_never_answers_is_not_asked_for_ever() {
    let mut script = Script::new();
    let client = script.client(0);
    let local = Sap::new(OURS.into(), 4000);
    let endpoints = Some(Endpoints { transport: Transport::Tcp, local, remote: Some(peer(80)) });
    let contract = Contract::BEST_EFFORT;
    script.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints });
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.manager.client_left(client);
    script.drain();
    script.frames.clear();
    script.pass(20 * S);
    assert_eq!(script.frames.len(), 4);
}

#[test]
fn a_fin_that_comes_again_after_the_flow_was_closed_is_acknowledged_for_a_minute() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.wait(client, 4000, 80), None);
    script.pass(50 * S);
    let answers = script.hear_segment(4999, |tcp| tcp.fin().ack(1000), Some(300));
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(answer.ack && !answer.rst);
    assert_eq!((answer.sequence_number, answer.acknowledgment_number), (1000, 5000));
    let clocks = etherparse::TcpOptionElement::Timestamp(7 + 50_000, 300);
    assert!(answer.options_iterator().any(|option| option == Ok(clocks.clone())));
    assert!(script.hear_segment(5000, |tcp| tcp.ack(1000), Some(300)).is_empty());
    assert!(script.hear_segment(5000, |tcp| tcp.rst(), None).is_empty(), "RFC 1337");
    let [answer] = &script.hear_segment(6000, |tcp| tcp.ack(1000), Some(300))[..] else { panic!() };
    assert_eq!(answer.acknowledgment_number, 5000, "the peer is not where both have ended");
    assert!(script.hear_segment(9000, |tcp| tcp.syn().fin(), Some(400)).iter().all(|tcp| !tcp.syn));

    script.pass(59 * S);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 0, "it began anew");
    script.pass(2 * S);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 1);
    let [reset] = &script.hear_segment(4999, |tcp| tcp.fin().ack(1000), None)[..] else { panic!() };
    assert!(reset.rst, "nobody knows it any more");
}

#[test]
fn what_a_connection_found_out_of_a_path_the_next_of_its_user_begins_with() {
    let mut script = Script::new();
    let (one, same, other) = (script.client(1000), script.client(1000), script.client(1001));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let known = |script: &mut Script, client, port| match script.connect(client, port, 80) {
        Some(Reply::Opened { flow, fib: Some(fib), .. }) => (flow, fib.path_mtu),
        other => panic!("{other:?}"),
    };
    let (flow, nothing) = known(&mut script, one, 4000);
    assert_eq!(nothing, None);
    let says = Request::PathCarries { flow, remote: THEIRS.into(), mtu: 1400 };
    assert!(matches!(script.ask(same, says.clone()), Some(Reply::Refused(_))), "not its flow");
    assert_eq!(script.ask(one, says), Some(Reply::Done));
    assert_eq!(known(&mut script, same, 4001).1, Some(1400));
    assert_eq!(known(&mut script, other, 4002).1, None);
    script.pass(600 * S);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(known(&mut script, same, 4003).1, None, "RFC 1191: ten minutes");
}

#[test]
fn what_a_socket_heard_of_a_path_all_of_its_user_that_send_there_begin_with() {
    let mut script = Script::new();
    let (one, same, other) = (script.client(1000), script.client(1000), script.client(1001));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let socket = script.listen(one, 7007);
    let says =
        |flow, remote: [u8; 4], mtu| Request::PathCarries { flow, remote: remote.into(), mtu };
    let there = THEIRS.octets();
    let resolved = |script: &mut Script, client| match script
        .ask(client, Request::Resolve { remote: THEIRS.into() })
    {
        Some(Reply::Resolved { path_mtu, .. }) => path_mtu,
        other => panic!("{other:?}"),
    };
    assert_eq!(resolved(&mut script, same), None);
    assert_eq!(script.ask(one, says(socket, there, 1400)), Some(Reply::Done));
    assert_eq!((resolved(&mut script, same), resolved(&mut script, other)), (Some(1400), None));
    let Some(Reply::Opened { flow, fib: Some(fib), .. }) = script.connect(same, 4001, 80) else {
        panic!()
    };
    assert_eq!(fib.path_mtu, Some(1400));
    // What is connected speaks of its own path only.
    assert_eq!(script.ask(same, says(flow, [10, 77, 0, 3], 1300)), Some(Reply::Done));
    script.hear_arp(&Arp::reply(PEER, [10, 77, 0, 3].into(), US, OURS));
    let elsewhere = script.ask(same, Request::Resolve { remote: [10, 77, 0, 3].into() });
    assert!(matches!(elsewhere, Some(Reply::Resolved { path_mtu: None, .. })), "{elsewhere:?}");
    // Who has to wait for the neighbour hears it, too.
    assert_eq!(script.ask(one, says(socket, [10, 77, 0, 4], 1200)), Some(Reply::Done));
    assert_eq!(script.ask(same, Request::Resolve { remote: [10, 77, 0, 4].into() }), None);
    script.hear_arp(&Arp::reply(PEER, [10, 77, 0, 4].into(), US, OURS));
    let waited = script.answer(same);
    assert!(matches!(waited, Some(Reply::Resolved { path_mtu: Some(1200), .. })), "{waited:?}");
}

#[test]
fn the_ends_of_a_connection_that_waits_are_given_to_no_other_of_its_user() {
    let mut script = Script::new();
    let (client, other) = (script.client(1000), script.client(1000));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    assert!(matches!(refused(script.connect(other, 4000, 80)), Refusal::InUse { .. }));
    assert!(matches!(script.connect(other, 4000, 81), Some(Reply::Opened { .. })));
    // The first port of all would be this one.
    script.wait(client, 49_152, 80);
    for _ in 0..3 {
        let Some(Reply::Opened { fib: Some(fib), .. }) = script.connect(client, 0, 80) else {
            panic!()
        };
        assert_ne!(fib.endpoints.local.port, 49_152);
    }
    script.pass(61 * S);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.connect(other, 4000, 80), Some(Reply::Opened { .. })));
}

#[test]
fn only_a_syn_that_is_newer_than_the_connection_that_waits_reaches_a_listener() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    script.connect(client, 4000, 0);
    let injected = |told: &ToDriver| matches!(told, ToDriver::Inject { .. });
    let [answer] = &script.hear_segment(9000, |tcp| tcp.syn(), Some(299))[..] else { panic!() };
    assert_eq!((answer.ack, answer.rst, script.told(injected)), (true, false, 0), "an old one");
    assert!(script.hear_segment(100, |tcp| tcp.syn(), Some(301)).is_empty());
    let free = |told: &ToDriver| matches!(told, ToDriver::Unpark { .. });
    let Some(Reply::Reopened { remote, station, header, above, .. }) = script.answer(client) else {
        panic!("the listener does not hear of it")
    };
    assert_eq!((remote, station), (peer(80), PEER));
    assert_eq!(header[4..8], 100u32.to_be_bytes(), "the whole header, with its clock");
    assert_eq!(header.len(), 32);
    // RFC 9293 MAY-2: beyond the last number of the old connection.
    assert!(above.wrapping_sub(1000).cast_signed() > 0);
    script.hear_segment(100, |tcp| tcp.syn(), Some(301));
    let told = (script.told(free), script.told(injected), script.answer(client));
    assert_eq!(told, (0, 0, None), "a copy does not reach the listener before the message");
    script.told.clear();
    assert!(script.hear_segment(101, |tcp| tcp.ack(above), Some(302)).is_empty());
    assert!(free(&script.told[0]) && injected(&script.told[1]), "what follows does");
}

#[test]
fn a_syn_that_a_listener_did_not_answer_comes_to_it_as_any_other_does() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    script.connect(client, 4000, 0);
    let injected = |told: &ToDriver| matches!(told, ToDriver::Inject { .. });
    script.hear_segment(100, |tcp| tcp.syn(), Some(301));
    script.pass(S);
    script.hear_segment(100, |tcp| tcp.syn(), Some(301));
    assert_eq!(script.told(injected), 1);
}

#[test]
fn a_newer_syn_is_reset_where_nobody_listens() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    let [reset] = &script.hear_segment(100, |tcp| tcp.syn(), Some(301))[..] else { panic!() };
    assert_eq!((reset.rst, reset.acknowledgment_number), (true, 101));
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 1);
}

#[test]
fn a_syn_for_the_ends_of_a_dead_application_is_any_listeners_for_nobody_knows_its_numbers() {
    let mut script = Script::new();
    let (client, other) = (script.client(0), script.client(0));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.connect(client, 4000, 80);
    script.manager.client_left(client);
    script.drain();
    script.removed();
    script.connect(other, 4000, 0);
    script.answers.clear();
    script.hear_segment(100, |tcp| tcp.syn(), Some(301));
    assert_eq!(script.told(|told| matches!(told, ToDriver::Inject { .. })), 1);
    assert!(script.answer(other).is_none());
    script.pass(S);
    assert!(script.frames.is_empty(), "a peer that calls again is not asked where it is");
}

#[test]
fn nobody_is_connected_to_many_at_once() {
    let mut script = Script::new();
    let client = script.client(0);
    for many in [[10, 77, 0, 255], [255, 255, 255, 255], [224, 0, 0, 1]] {
        let endpoints = Some(Endpoints {
            transport: Transport::Tcp,
            local: Sap::any_v4(0),
            remote: Some(Sap::new(Ipv4Addr::from(many).into(), 80)),
        });
        let contract = Contract::BEST_EFFORT;
        let open = Request::Open { link: 0, contract, layout: layout(), endpoints };
        assert!(matches!(refused(script.ask(client, open)), Refusal::ForMany { .. }));
    }
}

#[test]
fn a_port_of_the_other_end_must_be_named() {
    let mut script = Script::new();
    let client = script.client(0);
    for transport in [Transport::Tcp, Transport::Udp] {
        let endpoints = Some(Endpoints { transport, local: Sap::any_v4(0), remote: Some(peer(0)) });
        let contract = Contract::BEST_EFFORT;
        let open = Request::Open { link: 0, contract, layout: layout(), endpoints };
        assert_eq!(refused(script.ask(client, open)), Refusal::NoRemotePort { transport });
    }
}

#[test]
fn a_damaged_segment_to_nobody_is_not_answered() {
    let mut script = Script::new();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .tcp(80, 4000, 1234, 500)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert_eq!(script.frames.len(), 2, "the announcement of our address, and a reset");
    let last = frame.len() - 1;
    frame[last] ^= 1;
    script.frames.clear();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert!(script.frames.is_empty());
}

#[test]
fn a_port_that_calls_can_be_listened_at() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.connect(client, 4000, 80), Some(Reply::Opened { .. })));
    assert!(matches!(script.connect(client, 4000, 0), Some(Reply::Opened { .. })), "MUST-42");
    assert!(matches!(script.connect(client, 4000, 81), Some(Reply::Opened { .. })));
    assert!(matches!(refused(script.connect(client, 4000, 0)), Refusal::InUse { .. }));
}

#[test]
fn a_new_driver_hears_which_connections_are_not_over() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.wait(client, 4000, 80), None);
    script.manager.driver_left(LINK);
    script.drain();
    script.told.clear();
    assert_eq!(script.manager.driver_joined(facts()), Ok(LINK));
    script.drain();
    assert_eq!(script.told(|told| matches!(told, ToDriver::Park { .. })), 1);
}

#[test]
fn a_connection_that_received_nothing_leaves_its_ends_to_anybody() {
    let mut script = Script::new();
    let (client, other) = (script.client(1000), script.client(1001));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let time_wait = TimeWait { sequence: 1000, acknowledgment: 5000, clocks: None };
    let Some(Reply::Opened { flow, .. }) = script.connect(client, 4000, 80) else {
        panic!("not opened")
    };
    script.ask(client, Request::Close { flow, time_wait: Some(time_wait) });
    script.removed_after(0);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 1);
    script.answers.clear();
    assert!(matches!(script.connect(other, 4000, 80), Some(Reply::Opened { .. })));
    assert!(matches!(script.connect(client, 4001, 80), Some(Reply::Opened { .. })));
}

#[test]
fn a_connection_whose_segments_came_to_its_listener_keeps_its_ends() {
    let mut script = Script::new();
    let client = script.client(1000);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    for remote in [0, 80] {
        assert!(matches!(script.connect(client, 4000, remote), Some(Reply::Opened { .. })));
    }
    script.told.clear();
    script.manager.client_left(client);
    script.drain();
    let parks = |told: &ToDriver| matches!(told, ToDriver::RemoveFlow { parks: Some(_), .. });
    assert_eq!(script.told(parks), 1);
    script.removed_after(0);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 0);
}

#[test]
fn ends_in_time_wait_belong_to_the_holder_of_the_port() {
    let mut script = Script::new();
    let (client, same, other) = (script.client(1000), script.client(1000), script.client(1001));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.wait(client, 4000, 80), None);
    assert_eq!(script.wait(client, 4000, 81), None);
    let refusal = refused(script.connect(same, 4000, 80));
    assert!(matches!(refusal, Refusal::InUse { .. }), "the user's own connection is not over");
    script.told.clear();
    assert!(matches!(script.connect(other, 4000, 80), Some(Reply::Opened { .. })));
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 2, "of this port");
}

#[test]
fn a_user_whose_connections_wait_at_every_dynamic_port_takes_none_from_others() {
    let mut script = Script::new();
    let (client, other, root) = (script.client(1000), script.client(1001), script.client(0));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    for port in 49_152..=u16::MAX {
        assert_eq!(script.wait(client, port, 80), None);
    }
    assert!(matches!(refused(script.connect(client, 0, 80)), Refusal::NoFreePort { .. }));
    let given = |script: &mut Script, reply| match reply {
        Some(Reply::Opened { fib: Some(fib), .. }) => fib.endpoints.local.port,
        Some(Reply::Bound { local }) => local.port,
        other => panic!("{other:?} {:?}", script.told),
    };
    let bind = Request::Bind { transport: Transport::Tcp, local: Sap::any_v4(0) };
    let mut ports = BTreeSet::new();
    for who in [other, root] {
        for remote in [80, 81] {
            script.told.clear();
            let reply = script.connect(who, 0, remote);
            ports.insert(given(&mut script, reply));
            let free = script.told(|told| matches!(told, ToDriver::Unpark { .. }));
            assert_eq!(free, 1, "what waits at the port that is given is forgotten, nothing else");
        }
        let reply = script.ask(who, bind.clone());
        ports.insert(given(&mut script, reply));
    }
    assert_eq!(ports.len(), 6);
    assert!(matches!(script.connect(client, 0, 81), Some(Reply::Opened { .. })));
}

#[test]
fn what_waits_of_another_user_is_spared_as_long_as_there_are_other_ports() {
    let mut script = Script::new();
    let (client, other) = (script.client(1000), script.client(1001));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let waits = 49_152..=u16::MAX - 1000;
    for port in waits.clone() {
        assert_eq!(script.wait(client, port, 80), None);
    }
    script.told.clear();
    for _ in 0..8 {
        let Some(Reply::Opened { flow, fib: Some(fib), .. }) = script.connect(other, 0, 80) else {
            panic!("no port")
        };
        assert!(!waits.contains(&fib.endpoints.local.port), "{fib:?}");
        script.ask(other, Request::Close { flow, time_wait: None });
    }
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 0);
}
