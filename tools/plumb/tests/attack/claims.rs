//! Work that is made for the trusted side: packets that cannot be, and requests without end.

use std::ops::Range;

use base_flow::Contract;
use base_rpc::{Call, Query, Reply, Request, encode};
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::{Domain, Shape};
use rbuf_shm::Connection;

use crate::ground::{Ground, holds, row, say};
use crate::raw::{RawFlow, call, greet, join};
use crate::used::{bounded, used_by};

/// Where packets come from that cannot be.
const PORT: u16 = 6200;

/// The shortest frame's time of the lab's line.
const SHORTEST_NS: u64 = 6_720;

/// Puts without end what `rec` makes for a slot into a flow that takes slack.
fn put_for_ever(rec: impl Fn(&RawFlow, u16) -> IoRec) {
    let connection = greet();
    let domain = Domain::new(4, join(&connection, 4)).unwrap();
    let contract = Contract::BEST_EFFORT.with_slack(true);
    let mut flow = RawFlow::open(&connection, &domain, PORT, contract);
    say("at work");
    loop {
        flow.reap();
        for slot in 0..64 {
            let rec = rec(&flow, slot);
            let _ = flow.ends.tx.put(&rec);
        }
        if flow.ends.tx.notice().post {
            domain.post(flow.layout.slot);
        }
    }
}

/// Others hardly notice, and refusing takes no more of the line than sending the shortest frames would.
fn refused(ground: &Ground) {
    for used in used_by(ground, PORT..PORT + 1) {
        let most = used.elapsed_ns / SHORTEST_NS;
        assert!((1_000..most).contains(&used.refused), "{used:?}: {most} at most");
    }
}

#[test]
fn packets_that_claim_all_their_memory_cost_others_nothing() {
    let endless = |flow: &RawFlow, slot| {
        IoRec::single(slot, Pair { offset: 0, len: flow.layout.tx_data.bytes })
    };
    let name = "claims::packets_that_claim_all_their_memory_cost_others_nothing";
    row(name, || put_for_ever(endless), refused);
}

#[test]
fn packets_that_are_refused_cost_others_nothing() {
    let forged = |flow: &RawFlow, slot: u16| {
        let offset = u32::from(slot) * 2048;
        flow.ends.tx_data.write(offset, &[0xee; 60]);
        IoRec::single(slot, Pair { offset, len: 60 })
    };
    let name = "claims::packets_that_are_refused_cost_others_nothing";
    row(name, || put_for_ever(forged), refused);
}

/// Connections that ask without end.
const ASKERS: usize = 16;

#[test]
fn requests_without_end_keep_nobody_else_from_opening_flows() {
    let attack = || {
        let connections: Vec<Connection> = (0..ASKERS).map(|_| greet()).collect();
        let question = encode(&Call { tag: 1, request: Request::Query(Query::Status) });
        say("at work");
        std::thread::scope(|scope| {
            for connection in &connections {
                scope.spawn(|| {
                    while connection.send(&question, &[]).is_ok()
                        && connection.receive(base_rpc::MESSAGE_BYTES_MAX).is_ok()
                    {
                    }
                });
            }
        });
        // Sent away: it has asked too much.
        std::thread::park();
    };
    let name = "claims::requests_without_end_keep_nobody_else_from_opening_flows";
    row(name, attack, |ground| {
        // An application has its turn among those that ask: one of seventeen.
        let start = || ground.attacker_that_says("at work");
        ground.compare_with(
            || ground.busy(),
            start,
            |control, attacked| holds(control.opens, attacked.opens, 40),
        );
    });
}

/// Flows that stay, each of a connection that opens and closes others.
const STAYING: Range<u16> = 6300..6304;

/// Most of the driver's time that a user gets by his account is a quarter; what was saved up comes to that.
const PART_PPM_MAX: u64 = 300_000;

/// The ring of a flow that is closed as soon as it is full. What is in there the driver counts.
const FULL_WORDS: u32 = 4096;

#[test]
fn flows_that_are_closed_with_full_rings_cost_others_nothing() {
    let attack = || {
        let open = |port| {
            let connection = greet();
            let domain = Domain::new(4, join(&connection, 4)).unwrap();
            // It is billed for what no single flow has caused.
            RawFlow::open(&connection, &domain, port, Contract::BEST_EFFORT);
            (connection, domain)
        };
        let all: Vec<_> = STAYING.map(open).collect();
        say("at work");
        std::thread::scope(|scope| {
            for (connection, domain) in &all {
                scope.spawn(|| {
                    loop {
                        close_when_full(connection, domain);
                    }
                });
            }
        });
    };
    let name = "claims::flows_that_are_closed_with_full_rings_cost_others_nothing";
    row(name, attack, |ground| bounded(ground, STAYING, PART_PPM_MAX));
}

/// Opens a flow that may not send, fills its ring, and closes it.
fn close_when_full(connection: &Connection, domain: &Domain) {
    let shape = Shape { tx_words: FULL_WORDS, rx_words: 64, tx_bytes: 4096, rx_bytes: 4096 };
    let layout = domain.lay_out(&shape).unwrap();
    let mut ends = domain.ends(&layout).unwrap();
    let contract = Contract::BEST_EFFORT;
    let open = Request::Open { link: 0, contract, layout, endpoints: None };
    let (Reply::Opened { flow, .. }, _) = call(connection, open) else { panic!("not opened") };
    let rec = IoRec::single(0, Pair { offset: 0, len: 60 });
    while ends.tx.put(&rec) == Ok(true) {}
    let (reply, _) = call(connection, Request::Close { flow, time_wait: None });
    assert!(matches!(reply, Reply::Closed { .. }), "{reply:?}");
    drop(ends);
    domain.give_back(&layout);
}
