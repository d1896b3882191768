//! More frames than anybody wants, from the peer and from a user of this host.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base_flow::Contract;
use base_wire::{Arp, EtherType, Ethernet, Mac};
use driver_link::Link;
use driver_link_packet::PacketLink;
use plumb_net::Udp;
use zerocopy::IntoBytes;

use crate::ground::{row, say};
use crate::in_lab::{OURS, THEIRS, host, on_peer, send_raw};

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
            let start = |ports| {
                let attacker = ground.attacker_that_says("at work");
                flooded.store(ports, Ordering::Relaxed);
                (attacker, Quiet(&flooded))
            };
            // What is judged may fail, and the flood has to end also then.
            let _over = Over(&over);
            ground.compare_with(|| start(1), || start(FLOWS.into()), |_, _| true);
        });
    });
}

/// Ends a flood when dropped.
struct Quiet<'a>(&'a AtomicU64);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the peer asks for our station.
const QUESTIONS: usize = 100;

#[test]
fn a_user_who_floods_closed_ports_of_this_host_leaves_arp_answered() {
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
    let name = "floods::a_user_who_floods_closed_ports_of_this_host_leaves_arp_answered";
    row(name, attack, |ground| {
        let _attacker = ground.attacker_that_says("at work");
        let answered = on_peer(|| {
            let mut link = PacketLink::open("plumb1", None).unwrap();
            let station = link.facts().station;
            let head = Ethernet {
                destination: Mac::BROADCAST,
                source: station,
                ether_type: EtherType::ARP,
            };
            let request = Arp::request(station, THEIRS, OURS);
            let request = [head.as_bytes(), request.as_bytes()].concat();
            let is_answered = |_: &usize| {
                send_raw(&mut link, &request);
                let (asked, mut answered) = (Instant::now(), false);
                while !answered && asked.elapsed() < Duration::from_secs(2) {
                    link.poll_rx(256, &mut |arrival| {
                        answered |= arrival.frame[12..14] == [8, 6] && arrival.frame[21] == 2;
                    });
                    std::thread::yield_now();
                }
                answered
            };
            (0..QUESTIONS).filter(is_answered).count()
        });
        let status = host().query_status().unwrap();
        println!("{answered} of {QUESTIONS}: {status:?}");
        assert!(answered * 100 >= QUESTIONS * 99, "{answered} of {QUESTIONS}: {status:?}");
        assert!(status.unreachable_sent > 0, "nobody was flooded: {status:?}");
    });
}
