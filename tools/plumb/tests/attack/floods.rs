//! More frames than anybody wants, from the peer and from a user of this host.

use std::cell::Cell;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base_flow::{Contract, DropReason};
use plumb_net::Udp;

use crate::ground::{Attacker, row, say};
use crate::in_lab::questions::{ask, our_station};
use crate::in_lab::{OURS, THEIRS, host, on_peer};
use crate::used::Over;

/// Flows of one user, and where the first of them receives.
const FLOWS: u16 = 64;
const FIRST_PORT: u16 = 6500;

#[test]
fn floods_of_sixty_four_flows_of_a_user_cost_others_no_more_than_a_flood_of_one() {
    let attack = || {
        let host = host();
        let open = |flow| Udp::options().host(&host).bind((OURS, FIRST_PORT + flow)).unwrap();
        let _flows: Vec<Udp> = (0..FLOWS).map(open).collect();
        say("at work");
        std::thread::park();
    };
    let name =
        "floods::floods_of_sixty_four_flows_of_a_user_cost_others_no_more_than_a_flood_of_one";
    row(name, attack, |ground| {
        let (flooded, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let peer = on_peer(|| UdpSocket::bind((THEIRS, 0)).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    match flooded.load(Ordering::Relaxed) {
                        0 => std::thread::yield_now(),
                        ports => {
                            number += 1;
                            let port = FIRST_PORT + (number % ports) as u16;
                            let _ = peer.send_to(&[0x33; 18], (OURS, port));
                        }
                    }
                }
            });
            let (one, all) = (Taken::default(), Taken::default());
            let start = |ports, taken| {
                let attacker = ground.attacker_that_says("at work");
                flooded.store(ports, Ordering::Relaxed);
                Flood { flooded: &flooded, taken, _attacker: attacker }
            };
            // What is judged may fail, and the flood has to end also then.
            let _over = Over(&over);
            ground.compare_with(|| start(1, &one), || start(FLOWS.into(), &all), |_, _| true);
            println!("{one:?} by one, {all:?} by {FLOWS}");
            assert!(one.cut_ppm() > 0, "{one:?}: too little a flood");
            // How much is cut depends on what a frame costs in that moment; without a budget of the user nothing is.
            // A flood that hardly exceeds what one may have, for want of a processor, says nothing of many.
            let no_more = all.frames.get() <= one.frames.get() * 11 / 10;
            assert!(all.cut_ppm() > 0 || no_more, "{one:?} by one, {all:?} by {FLOWS}");
        });
    });
}

/// Frames for flooded flows for which the driver has worked, and such that their budget has cut.
///
/// If each of many flows could use the budget that one has, nothing would be cut.
#[derive(Debug, Default)]
struct Taken {
    frames: Cell<u64>,
    cut: Cell<u64>,
}

impl Taken {
    /// The part that was cut.
    const fn cut_ppm(&self) -> u64 {
        let (frames, cut) = (self.frames.get(), self.cut.get());
        cut * 1_000_000 / if cut + frames > 0 { cut + frames } else { 1 }
    }

    /// Adds what is on the bills of the flooded flows.
    fn add(&self) {
        let flows = host().query_flows().unwrap();
        let ports = FIRST_PORT..FIRST_PORT + FLOWS;
        let flooded = flows
            .iter()
            .filter(|flow| flow.endpoints.is_some_and(|ends| ports.contains(&ends.local.port)));
        for bill in flooded.filter_map(|flow| flow.bill.as_ref()) {
            let cut = bill.dropped(DropReason::RxBudget);
            self.frames.set(self.frames.get() + bill.rx_offered - cut);
            self.cut.set(self.cut.get() + cut);
        }
    }
}

/// A flood, which ends, and is counted, when dropped.
struct Flood<'a> {
    flooded: &'a AtomicU64,
    taken: &'a Taken,
    _attacker: Attacker,
}

impl Drop for Flood<'_> {
    fn drop(&mut self) {
        self.flooded.store(0, Ordering::Relaxed);
        if !std::thread::panicking() {
            self.taken.add();
        }
    }
}

/// How often the peer asks for our station, and for an echo.
const QUESTIONS: usize = 100;

#[test]
fn a_user_who_floods_closed_ports_of_this_host_leaves_arp_and_echo_answered() {
    let attack = || {
        let contract = Contract::BEST_EFFORT.with_slack(true);
        let flow = Udp::options().host(&host()).contract(contract).bind((OURS, 0)).unwrap();
        let mut number = 0u32;
        loop {
            number += 1;
            let _ = flow.send_to(&[0x33; 18], (OURS, 10_000 + (number % 50_000) as u16));
            if number == 20_000 {
                say("at work");
            }
        }
    };
    let name = "floods::a_user_who_floods_closed_ports_of_this_host_leaves_arp_and_echo_answered";
    row(name, attack, |ground| {
        let _attacker = ground.attacker_that_says("at work");
        let us = our_station();
        let answered = on_peer(|| ask(us, QUESTIONS));
        let status = host().query_status().unwrap();
        println!("{answered:?}: {status:?}");
        assert!(answered.is_enough(), "{answered:?}: {status:?}");
        assert!(status.unreachable_sent > 0, "nobody was flooded: {status:?}");
    });
}
