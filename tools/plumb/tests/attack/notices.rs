//! Notices that mean nothing: events, and rings of the driver's bell.

use std::ops::Range;
use std::os::fd::OwnedFd;

use base_flow::Contract;
use rbuf_domain::Domain;
use rbuf_shm::{Connection, DriverBell};

use crate::ground::{row, say};
use crate::raw::{RawFlow, greet, join};
use crate::used::bounded;

/// Connections that post events, and flows of each.
const CONNECTIONS: u16 = 100;
const FLOWS: u16 = 4;
const FIRST_PORT: u16 = 8000;

/// Connections that ring, and how often each does in its turn.
const RINGERS: u16 = 8;
const RINGS: usize = 64;

/// A connection with flows that have nothing to send, and the driver's bell.
struct Idle {
    _connection: Connection,
    domain: Domain,
    flows: Vec<RawFlow>,
    bell: DriverBell,
}

fn idle(number: u16) -> Idle {
    let connection = greet();
    let descriptors = join(&connection, FLOWS.into());
    let bell: OwnedFd = descriptors.last().unwrap().try_clone().unwrap();
    let domain = Domain::new(FLOWS.into(), descriptors).unwrap();
    let contract = Contract::BEST_EFFORT.with_slack(true);
    let port = FIRST_PORT + number * FLOWS;
    let open = |flow| RawFlow::open(&connection, &domain, port + flow, contract);
    let flows = (0..FLOWS).map(open).collect();
    Idle { _connection: connection, domain, flows, bell: bell.into() }
}

/// Most of the driver's time that a user gets by his account is a quarter; what was saved up comes to that.
const PART_PPM_MAX: u64 = 350_000;

/// Where the flows of all are.
const PORTS: Range<u16> = FIRST_PORT..FIRST_PORT + CONNECTIONS * FLOWS;

#[test]
fn full_event_fifos_of_a_hundred_connections_cost_others_nothing() {
    let attack = || {
        let mut all: Vec<Idle> = (0..CONNECTIONS).map(idle).collect();
        say("at work");
        loop {
            for (number, idle) in all.iter_mut().enumerate() {
                for flow in &mut idle.flows {
                    // Every other one keeps to what was asked for; the others lie until nobody listens.
                    if number % 2 == 1 || flow.is_awaited() {
                        idle.domain.post(flow.layout.slot);
                    }
                }
            }
        }
    };
    let name = "notices::full_event_fifos_of_a_hundred_connections_cost_others_nothing";
    row(name, attack, |ground| bounded(ground, PORTS, PART_PPM_MAX));
}

#[test]
fn rings_without_end_for_flows_that_have_nothing_cost_others_nothing() {
    let attack = || {
        let all: Vec<Idle> = (0..RINGERS).map(idle).collect();
        say("at work");
        loop {
            for idle in &all {
                (0..RINGS).for_each(|_| idle.bell.ring());
            }
        }
    };
    let name = "notices::rings_without_end_for_flows_that_have_nothing_cost_others_nothing";
    row(name, attack, |ground| bounded(ground, PORTS, PART_PPM_MAX));
}
