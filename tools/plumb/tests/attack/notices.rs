//! Notices that mean nothing: events, and rings of the driver's bell.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use base_flow::Contract;
use rbuf_domain::Domain;
use rbuf_shm::{Connection, DriverBell, monotonic_ns};

use crate::ground::{Attacker, Ground, peer_hears, row, say};
use crate::in_lab::host;
use crate::raw::{RawFlow, greet, join};

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

/// Most of the driver's time that a user gets for notices is a quarter; what was saved up comes to that.
const PART_PPM_MAX: u64 = 350_000;

/// The attack, at work, and since when the driver's time for it is looked at.
struct Working<'a> {
    _attacker: Attacker,
    begun_ns: u64,
    part_ppm: &'a Cell<u64>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let ports = FIRST_PORT..FIRST_PORT + CONNECTIONS * FLOWS;
        let flows = host().query_flows().unwrap();
        let theirs = flows
            .iter()
            .filter(|flow| flow.endpoints.is_some_and(|ends| ports.contains(&ends.local.port)));
        let bills = theirs.filter_map(|flow| flow.bill.as_ref());
        let spent_ns: u64 = bills.map(|bill| bill.tx_cpu_ns + bill.rx_cpu_ns).sum();
        let part_ppm = spent_ns * 1_000_000 / (monotonic_ns() - self.begun_ns);
        self.part_ppm.set(part_ppm.max(self.part_ppm.get()));
    }
}

/// Others hardly notice, and who posts or rings has no more of the driver's time than its account earns.
fn bounded(ground: &Ground) {
    let _peer = peer_hears(7000);
    let part_ppm = Cell::new(0);
    let start = || {
        let begun_ns = monotonic_ns();
        let attacker = ground.attacker_that_says("at work");
        Working { _attacker: attacker, begun_ns, part_ppm: &part_ppm }
    };
    ground.compare_with(|| ground.busy(), start, |_, _| true);
    let part_ppm = part_ppm.get();
    println!("{part_ppm} millionths of the time");
    assert!((1_000..PART_PPM_MAX).contains(&part_ppm), "{part_ppm} millionths of the time");
}

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
    row(name, attack, bounded);
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
    row(name, attack, bounded);
}
