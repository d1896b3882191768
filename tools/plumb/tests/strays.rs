//! Floods of frames that nobody claims, and who is answered nevertheless.

mod in_lab;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base_flow::DropReason;
use base_wire::{Arp, EtherType, Ethernet, Mac};
use driver_link::Link;
use driver_link_packet::PacketLink;
use etherparse::PacketBuilder;
use in_lab::questions::{Answered, ask, our_station};
use in_lab::{OURS, THEIRS, host, in_lab, on_peer, send_raw};
use zerocopy::IntoBytes;

/// How many frames a second the flood has, if the machine can.
const FLOOD_PER_S: u64 = 100_000;
/// How often is asked, of each kind.
const QUESTIONS: usize = 100;

/// Makes the frames of a flood: its number, who sends it, and who we are.
type Make = fn(u64, Mac, Mac) -> Vec<u8>;

/// Segments and datagrams to closed ports.
fn strangers(number: u64, station: Mac, us: Mac) -> Vec<u8> {
    let port = 1 + (number % 60_000) as u16;
    let packet = PacketBuilder::ethernet2(station.0, us.0).ipv4(THEIRS.octets(), OURS.octets(), 64);
    let mut frame = Vec::new();
    if number.is_multiple_of(2) {
        packet.tcp(port, port, 1, 1000).syn().write(&mut frame, &[]).unwrap();
    } else {
        packet.udp(port, port).write(&mut frame, b"anybody?").unwrap();
    }
    frame
}

/// Questions of IPv6 to everybody.
fn solicitations(number: u64, station: Mac, _us: Mac) -> Vec<u8> {
    let (them, all) = ([0xfe80, 0, 0, 0, 0, 0, 0, 9], [0xff02, 0, 0, 0, 0, 0, 0, 1]);
    let [them, all] = [them, all].map(|words| words.map(u16::to_be_bytes).concat());
    let packet = PacketBuilder::ethernet2(station.0, [0x33, 0x33, 0, 0, 0, 1]).ipv6(
        them.try_into().unwrap(),
        all.try_into().unwrap(),
        255,
    );
    let mut frame = Vec::new();
    packet.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &number.to_be_bytes()).unwrap();
    frame
}

/// Reports of packets that we never sent.
fn reports(number: u64, station: Mac, us: Mac) -> Vec<u8> {
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(OURS.octets(), THEIRS.octets(), 64)
        .udp(number as u16, 9)
        .write(&mut quoted, &[])
        .unwrap();
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(station.0, us.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .write(&mut frame, 1.into(), &message)
        .unwrap();
    frame
}

/// What other stations say to each other.
fn gossip(number: u64, station: Mac, _us: Mac) -> Vec<u8> {
    let host = |number: u64| Ipv4Addr::new(10, 77, 0, 10 + (number % 200) as u8);
    let request = Arp::request(station, host(number), host(number + 7));
    let head =
        Ethernet { destination: Mac::BROADCAST, source: station, ether_type: EtherType::ARP };
    [head.as_bytes(), request.as_bytes()].concat()
}

/// Sends such frames until it is over.
fn flood(make: Make, us: Mac, over: &AtomicBool, sent: &AtomicU64) {
    let mut link = PacketLink::open("plumb1", None).unwrap();
    let station = link.facts().station;
    let begun = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        if u128::from(number) * 1_000_000_000 > begun.elapsed().as_nanos() * u128::from(FLOOD_PER_S)
        {
            thread::yield_now();
            continue;
        }
        for number in number..number + 16 {
            send_raw(&mut link, &make(number, station, us));
        }
        sent.fetch_add(16, Ordering::Relaxed);
    }
}

/// What is answered under such a flood, and how many frames that had.
fn answered(make: Make) -> (Answered, u64) {
    let us = our_station();
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let answered = on_peer(|| {
        thread::scope(|scope| {
            scope.spawn(|| flood(make, us, &over, &sent));
            let begun = Instant::now();
            while sent.load(Ordering::Relaxed) < 20_000 {
                assert!(begun.elapsed() < Duration::from_secs(60), "no flood");
                thread::yield_now();
            }
            let answered = ask(us, QUESTIONS);
            over.store(true, Ordering::Relaxed);
            answered
        })
    });
    (answered, sent.into_inner())
}

/// How many frames the flow manager's own flows did not take.
fn cut() -> u64 {
    let flows = host().query_flows().unwrap();
    let bills = flows.iter().filter_map(|flow| flow.bill.as_ref());
    bills.map(|bill| bill.dropped(DropReason::RxBudget)).sum()
}

#[test]
fn closed_ports_under_a_flood_leave_arp_and_echo_answered() {
    let name = "closed_ports_under_a_flood_leave_arp_and_echo_answered";
    in_lab(name, &["--rate", "1gbit"], || {
        let (answered, sent) = answered(strangers);
        let (status, cut) = (host().query_status().unwrap(), cut());
        eprintln!("{answered:?}; {sent} sent, {cut} cut; {status:?}");
        assert!(answered.is_enough(), "{answered:?}");
        assert_eq!(status.last_resorts_lost, 0);
        // Half of the flood each: only the one kind is limited as ICMP's errors are.
        assert!(status.unreachable_sent > 0, "{status:?}");
        assert!(status.resets_sent > 10 * status.unreachable_sent, "{status:?}");
    });
}

#[test]
fn floods_that_nobody_answers_leave_arp_and_echo_answered() {
    let name = "floods_that_nobody_answers_leave_arp_and_echo_answered";
    in_lab(name, &["--rate", "1gbit"], || {
        let dropped = |reason: Option<DropReason>| match reason {
            Some(reason) => host().query_links().unwrap()[0].bill.dropped(reason),
            None => cut(),
        };
        let floods: [(Make, Option<DropReason>); 3] = [
            (solicitations, Some(DropReason::NotOurAddress)),
            (reports, Some(DropReason::Unclaimed)),
            // Some of it is heard.
            (gossip, None),
        ];
        for (make, reason) in floods {
            let before = dropped(reason);
            let (answered, sent) = answered(make);
            let lost = dropped(reason) - before;
            eprintln!("{answered:?}; {sent} sent, {lost} dropped");
            assert!(answered.is_enough(), "{answered:?}");
            assert!(lost > sent / 10, "{lost} of {sent} are counted as what they were");
        }
    });
}

/// Ports that are scanned, how many of them in a second, and at a time: a stranger's segments have a twentieth of
/// a processor, and may use what that saves up in a pause at once.
const PORTS: u16 = 2_000;
const SCAN_PER_S: u32 = 1_000;
const AT_ONCE: u16 = 200;

#[test]
fn each_syn_of_a_scan_is_answered_by_a_reset() {
    in_lab("each_syn_of_a_scan_is_answered_by_a_reset", &["--rate", "1gbit"], || {
        let us = host().query_links().unwrap()[0].facts.mac;
        let before = host().query_status().unwrap();
        on_peer(|| {
            let mut link = PacketLink::open("plumb1", None).unwrap();
            let (station, begun) = (link.facts().station, Instant::now());
            for first in (1..=PORTS).step_by(AT_ONCE.into()) {
                for port in first..first + AT_ONCE {
                    let mut syn = Vec::new();
                    PacketBuilder::ethernet2(station.0, us.0)
                        .ipv4(THEIRS.octets(), OURS.octets(), 64)
                        .tcp(40_000, port, 1000, 1000)
                        .syn()
                        .write(&mut syn, &[])
                        .unwrap();
                    send_raw(&mut link, &syn);
                }
                // The next ones leave when these are answered, so nobody is too slow; what is not answered by
                // then never will be.
                let mut closed = BTreeSet::new();
                let asked = Instant::now();
                while closed.len() < AT_ONCE.into() {
                    link.poll_rx(256, &mut |arrival| {
                        let frame = arrival.frame;
                        let is_reset = frame[12..14] == [8, 0]
                            && frame[23] == 6
                            && frame[36..38] == 40_000u16.to_be_bytes()
                            && frame[47] == 0x14;
                        if is_reset {
                            closed.insert(u16::from_be_bytes([frame[34], frame[35]]));
                        }
                    });
                    let waited = asked.elapsed() < Duration::from_secs(20);
                    assert!(waited, "of {AT_ONCE} from {first} on, {} answer", closed.len());
                    thread::yield_now();
                }
                assert!(closed.into_iter().eq(first..first + AT_ONCE));
                let due = Duration::from_secs(1) * u32::from(first + AT_ONCE) / SCAN_PER_S;
                while begun.elapsed() < due {
                    thread::yield_now();
                }
            }
        });
        let status = host().query_status().unwrap();
        assert_eq!(status.resets_sent - before.resets_sent, PORTS.into());
    });
}
