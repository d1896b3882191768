//! Memory that users share with drivers: laid out for flows, held in pages, and bounded for all their applications
//! together.

mod script;

use base_flow::{Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::{
    FlowLayout, FromDriver, InstallError, JoinOffer, Query, QueryReply, Refusal, Region, Reply,
    Request, ToDriver, UserInfo,
};
use flowman_core::{ClientId, Policy, Rights};
use script::{LINK, OURS, Script, layout, refused};

const MIB: u64 = 1 << 20;

/// Each of `user`'s applications may have all flows; together they have `memory_bytes`.
fn script(memory_bytes: u64) -> Script {
    let rights = Rights { memory_bytes, ..Rights::ORDINARY };
    Script::with(Policy { default: rights, ..Policy::default() })
}

/// Opens a flow with data areas of this size; what comes of it.
fn open(script: &mut Script, client: ClientId, port: u16, data_bytes: u64) -> Option<Reply> {
    let area = Region { offset: 0, bytes: (data_bytes / 2) as u32 };
    let layout = FlowLayout { tx_data: area, rx_data: area, ..layout() };
    let local = Sap::new(OURS.into(), port);
    let endpoints = Some(Endpoints { transport: Transport::Udp, local, remote: None });
    script
        .ask(client, Request::Open { link: 0, contract: Contract::BEST_EFFORT, layout, endpoints })
}

fn opened(reply: Option<Reply>) -> FlowId {
    match reply {
        Some(Reply::Opened { flow, .. }) => flow,
        other => panic!("{other:?}"),
    }
}

fn close(script: &mut Script, client: ClientId, flow: FlowId) {
    script.ask(client, Request::Close { flow, time_wait: None });
    script.removed();
    script.answers.clear();
}

fn users(script: &mut Script, client: ClientId) -> Vec<UserInfo> {
    match script.ask(client, Request::Query(Query::Users { from: 0 })) {
        Some(Reply::Found(QueryReply::Users { users, next: None })) => users,
        other => panic!("{other:?}"),
    }
}

fn quota(reply: Option<Reply>) -> String {
    match refused(reply) {
        Refusal::Quota(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_of_many_connections_has_the_memory_of_one_and_another_user_is_served() {
    let mut script = script(10 * MIB);
    let clients = [(); 6].map(|()| script.client(1000));
    assert_eq!(script.shares, clients.map(|client| (client, LINK)), "all are to be counted");
    let flows: Vec<_> = (0..4)
        .map(|at| opened(open(&mut script, clients[at], 2000 + at as u16, 2 * MIB)))
        .collect();
    let text = quota(open(&mut script, clients[4], 3000, 2 * MIB));
    assert!(text.contains("user 1000") && text.contains("`memory_bytes`"), "{text}");
    assert!(text.contains("close flows, or give them smaller buffers"), "{text}");
    let other = script.client(1001);
    opened(open(&mut script, other, 3001, 8 * MIB));
    // What it says would be admitted is, and not a byte more.
    let offer = text.split(' ').rev().skip_while(|word| *word != "would").nth(1).unwrap();
    let left: u64 = offer.parse().unwrap();
    let info = users(&mut script, clients[0])[0];
    assert_eq!(left, 10 * MIB - info.laid_out_bytes);
    let control = opened(open(&mut script, clients[4], 3002, 0));
    let control_bytes = users(&mut script, clients[0])[0].laid_out_bytes - info.laid_out_bytes;
    close(&mut script, clients[4], control);
    quota(open(&mut script, clients[4], 3002, left - control_bytes + 2));
    opened(open(&mut script, clients[4], 3002, left - control_bytes));
    // Nothing is left, also for who would join.
    let late = ClientId(77);
    script.manager.client_joined(late, 1, 1000).unwrap();
    script.ask(late, Request::Hello);
    quota(script.ask(late, Request::Join(JoinOffer { link: 0, flows_max: 1 })));
    // Closing gives it back, when the driver has let go and not before.
    script.ask(clients[0], Request::Close { flow: flows[0], time_wait: None });
    quota(open(&mut script, clients[5], 3003, 2 * MIB));
    script.removed();
    script.answers.clear();
    opened(open(&mut script, clients[5], 3003, 2 * MIB));
    // So does leaving.
    script.manager.client_left(clients[4]);
    script.drain();
    script.removed();
    opened(open(&mut script, clients[5], 3002, left - control_bytes));
}

#[test]
fn pages_that_closed_flows_have_left_count_until_their_application_is_gone() {
    let mut script = script(10 * MIB);
    let (first, second) = (script.client(1000), script.client(1000));
    let flow = opened(open(&mut script, first, 2000, 6 * MIB));
    script.held.0.insert(first, 7 * MIB);
    close(&mut script, first, flow);
    let text = quota(open(&mut script, second, 2001, 4 * MIB));
    assert!(text.contains(&format!("hold {} bytes", 7 * MIB)), "{text}");
    assert!(text.contains("end one of them") && text.contains("user 1000"), "{text}");
    opened(open(&mut script, second, 2001, 2 * MIB));
    // The kernel has all of it back with the application.
    script.manager.client_left(first);
    script.drain();
    opened(open(&mut script, second, 2002, 4 * MIB));
}

#[test]
fn what_a_flow_has_written_is_not_counted_beside_what_it_may_write() {
    let mut script = script(10 * MIB);
    let client = script.client(1000);
    opened(open(&mut script, client, 2000, 6 * MIB));
    script.held.0.insert(client, 6 * MIB);
    opened(open(&mut script, client, 2001, 3 * MIB));
    // Nobody asks who writes where no flow is, but who does opens no other.
    script.held.0.insert(client, 10 * MIB);
    quota(open(&mut script, client, 2002, 0));
}

#[test]
fn memory_that_a_driver_could_not_make_or_took_with_it_is_not_counted() {
    let mut script = script(10 * MIB);
    let watcher = script.client(1000);
    let before = users(&mut script, watcher);
    let client = ClientId(77);
    script.manager.client_joined(client, 1, 1000).unwrap();
    script.ask(client, Request::Hello);
    script.told.clear();
    script.ask(client, Request::Join(JoinOffer { link: 0, flows_max: 64 }));
    let Some(ToDriver::AddDomain { domain, .. }) = script.told.pop() else { panic!("not told") };
    let during = users(&mut script, watcher);
    assert!(during[0].laid_out_bytes > before[0].laid_out_bytes);
    let result = Err(InstallError::Full);
    script.manager.driver_message(LINK, FromDriver::DomainAdded { domain, result });
    script.manager.client_left(client);
    script.drain();
    script.answers.clear();
    assert_eq!(users(&mut script, watcher), before);
    opened(open(&mut script, watcher, 2000, 8 * MIB));
    script.held.0.insert(watcher, 8 * MIB);
    script.manager.driver_left(LINK);
    script.drain();
    script.answers.clear();
    let after = users(&mut script, watcher);
    assert_eq!((after[0].laid_out_bytes, after[0].held_bytes, after[0].flows), (0, 0, 0));
}

#[test]
fn what_users_have_is_shown_to_who_may_see_it() {
    let mut script = script(10 * MIB);
    let (user, other, root) = (script.client(1000), script.client(1001), script.client(0));
    opened(open(&mut script, user, 2000, 2 * MIB));
    script.held.0 = [(user, 3 * MIB), (other, 4096)].into();
    let own = users(&mut script, user);
    assert_eq!(own.len(), 1);
    let UserInfo { uid, connections, flows, held_bytes, memory_bytes, .. } = own[0];
    assert_eq!((uid, connections, flows), (1000, 1, 1));
    assert_eq!((held_bytes, memory_bytes), (3 * MIB, 10 * MIB), "as it is now");
    let all = users(&mut script, root);
    assert_eq!(all.iter().map(|info| info.uid).collect::<Vec<_>>(), [0, 1000, 1001]);
    assert_eq!((all[1], all[2].held_bytes), (own[0], 4096));
}

#[test]
fn more_users_than_an_answer_holds_are_shown_page_by_page() {
    let mut script = script(10 * MIB);
    let root = script.client(0);
    for uid in 1..=300 {
        script.client(uid);
    }
    let (mut seen, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let Some(Reply::Found(QueryReply::Users { users, next })) =
            script.ask(root, Request::Query(Query::Users { from: at }))
        else {
            panic!("not users")
        };
        assert!(users.len() <= 256);
        seen.extend(users.iter().map(|info| info.uid));
        from = next;
    }
    assert!(seen.iter().copied().eq(0..=300));
}
