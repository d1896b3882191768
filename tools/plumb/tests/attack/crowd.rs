//! Many connections, and many requests.

use std::path::PathBuf;

use base_flow::{Contract, Endpoints, Sap, Transport};
use base_rpc::{Answer, Call, MESSAGE_BYTES_MAX, Refusal, Reply, Request, decode, encode};
use plumb_net::{Error, Host, Udp};
use rbuf_domain::Domain;
use rbuf_shm::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{Got, can_be_a_stranger, holds, peer_hears, row, say};
use crate::in_lab::{OURS, THEIRS, eventually, host, processes, socket};
use crate::raw::{RawFlow, greet, join, meeting_place};

/// Connections of the stranger that ask all the time.
const CROWD: u16 = 48;

/// What the flow manager may need more when they do, in KiB. If it kept what they ask for, it would need as much
/// for each thousand requests.
const GROWTH_KIB_MAX: u64 = 2_000;

/// Requests of the administrator meanwhile.
const LOOKS: u32 = 20_000;

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Is there when the attack is to begin.
fn beginning() -> PathBuf {
    meeting_place().with_file_name("begin")
}

/// Asks for something of which the driver has to be told, again and again, and takes every answer.
fn ask_without_end(port: u16) {
    let connection = greet();
    let domain = Domain::new(4, join(&connection, 4)).unwrap();
    let contract = Contract::BEST_EFFORT.with_slack(true);
    let flow = RawFlow::open(&connection, &domain, port, contract).id;
    let endpoints = Endpoints {
        transport: Transport::Udp,
        local: Sap::new(OURS.into(), port),
        remote: Some(Sap::new(THEIRS.into(), 7000)),
    };
    let request =
        encode(&Call { tag: 1, request: Request::Attach { flow, endpoints, waits: true } });
    say("ready");
    eventually("it is to begin", || beginning().exists());
    connection.set_nonblocking().unwrap();
    loop {
        let mut worked = connection.send(&request, &[]).is_ok();
        while connection.try_receive(MESSAGE_BYTES_MAX).is_ok() {
            worked = true;
        }
        if !worked {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
    }
}

#[test]
fn whatever_is_asked_of_a_driver_that_stands_the_flow_manager_does_not_keep_it() {
    let attack = || {
        std::thread::scope(|scope| {
            (0..CROWD).for_each(|number| drop(scope.spawn(move || ask_without_end(6400 + number))));
        });
    };
    let name = "crowd::whatever_is_asked_of_a_driver_that_stands_the_flow_manager_does_not_keep_it";
    row(name, attack, |ground| {
        let _peer = peer_hears(7000);
        let host = host();
        let (driver, flowman) = (processes()["driver"], processes()["flowman"]);
        let mut attacker = ground.attacker();
        (0..CROWD).for_each(|_| attacker.wait_until("ready"));
        let signal = |signal| {
            let pid = Pid::from_raw(driver as i32).unwrap();
            kill_process(pid, signal).unwrap();
        };
        let before = resident_kib(flowman);
        signal(Signal::STOP);
        std::fs::write(beginning(), "").unwrap();
        // What needs no driver is answered all the time.
        for _ in 0..LOOKS {
            host.query_status().unwrap();
        }
        let grown = resident_kib(flowman).saturating_sub(before);
        signal(Signal::CONT);
        println!("grown by {grown} KiB");
        assert!(grown < GROWTH_KIB_MAX, "grown by {grown} KiB");
        // And what was kept waiting is done.
        let socket = Udp::options().host(&host).connect((THEIRS, 7000)).unwrap();
        socket.send(b"at last").unwrap();
    });
}

#[test]
fn who_connects_and_goes_without_end_keeps_nobody_from_opening_flows() {
    let attack = || {
        say("begun");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let _ = Connection::connect(&socket());
                    }
                });
            }
        });
    };
    let name = "crowd::who_connects_and_goes_without_end_keeps_nobody_from_opening_flows";
    row(name, attack, |ground| {
        let start = || {
            let mut attacker = ground.attacker();
            attacker.wait_until("begun");
            attacker
        };
        let fair = |control: Got, attacked: Got| holds(control.opens, attacked.opens, 500);
        ground.compare_with(|| ground.busy(), start, fair);
    });
}

#[test]
fn one_connection_too_many_is_told_why_and_keeps_nobody_else_out() {
    let attack = || {
        let mut held: Vec<Connection> = Vec::new();
        let refusal = loop {
            let connection = Connection::connect(&socket()).unwrap();
            let hello = encode(&Call { tag: 1, request: Request::Hello });
            // Who is refused at once may be before it has asked.
            let _ = connection.send(&hello, &[]);
            let received = connection.receive(MESSAGE_BYTES_MAX).unwrap();
            match decode::<Answer>(&received.bytes).unwrap().reply {
                Reply::Welcome { .. } => held.push(connection),
                other => break other,
            }
        };
        println!("{} connections", held.len());
        assert!(matches!(refusal, Reply::Refused(Refusal::Quota(_))), "{refusal:?}");
        let error = Host::connect(&socket()).unwrap_err();
        assert!(matches!(error, Error::Refused(Refusal::Quota(_))), "{error:?}");
        say("refused");
        std::thread::park();
    };
    let name = "crowd::one_connection_too_many_is_told_why_and_keeps_nobody_else_out";
    row(name, attack, |ground| {
        // Root has no such limit in a lab of few descriptors.
        if can_be_a_stranger() {
            let mut attacker = ground.attacker();
            attacker.wait_until("refused");
            assert!(host().query_status().unwrap().clients > 200);
        }
    });
}
