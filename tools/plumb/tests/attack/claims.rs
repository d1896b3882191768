//! Work that is made for the trusted side: packets that cannot be, and requests without end.

use base_flow::Contract;
use base_rpc::{Call, Query, Request, encode};
use rbuf_channel::{Data, IoRec, Pair};
use rbuf_domain::Domain;
use rbuf_shm::Connection;

use crate::ground::{Ground, holds, peer_hears, row, say};
use crate::raw::{RawFlow, greet, join};

/// Puts without end what `rec` makes for a slot into a flow that takes slack.
fn put_for_ever(rec: impl Fn(&RawFlow, u16) -> IoRec) {
    let connection = greet();
    let domain = Domain::new(4, join(&connection, 4)).unwrap();
    let contract = Contract::BEST_EFFORT.with_slack(true);
    let mut flow = RawFlow::open(&connection, &domain, 6200, contract);
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

fn hardly_noticed(ground: &Ground) {
    let _peer = peer_hears(7000);
    ground.compare_with(|| ground.busy(), || ground.attacker_that_says("at work"), |_, _| true);
}

#[test]
fn packets_that_claim_four_gigabytes_cost_others_nothing() {
    let endless = |_: &RawFlow, slot| IoRec::single(slot, Pair { offset: 0, len: u32::MAX });
    let name = "claims::packets_that_claim_four_gigabytes_cost_others_nothing";
    row(name, || put_for_ever(endless), hardly_noticed);
}

#[test]
fn packets_that_are_refused_cost_others_nothing() {
    let forged = |flow: &RawFlow, slot: u16| {
        let offset = u32::from(slot) * 2048;
        flow.ends.tx_data.write(offset, &[0xee; 60]);
        IoRec::single(slot, Pair { offset, len: 60 })
    };
    let name = "claims::packets_that_are_refused_cost_others_nothing";
    row(name, || put_for_ever(forged), hardly_noticed);
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
