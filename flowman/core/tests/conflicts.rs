//! Address conflicts (RFC 5227) by script: an address in use is never announced, and one that is ours is defended,
//! but not for ever.

mod script;

use std::net::Ipv4Addr;

use base_flow::{LinkFacts, Prefix};
use base_rpc::{Call, FromDriver, Query, QueryReply, Refusal, Reply, Request};
use base_wire::{Arp, Mac};
use flowman_core::{ClientId, LinkConfig, Policy};
use proptest::prelude::*;
use script::{LINK, NoCounters, OURS, PEER, S, Script, THEIRS, US, facts, lan};

const MS: u64 = 1_000_000;

fn probing() -> Script {
    Script::probing(Policy::default(), 1_000)
}

fn probe(mac: Mac) -> Arp {
    Arp::request(mac, Ipv4Addr::UNSPECIFIED, OURS)
}

/// An application that has said hello, answered or not.
fn hello(script: &mut Script) -> (ClientId, Option<usize>) {
    script.clients += 1;
    let client = ClientId(script.clients);
    script.manager.client_joined(client, 100, 0).unwrap();
    let links = welcomed(script.ask(client, Request::Hello));
    (client, links)
}

fn welcomed(reply: Option<Reply>) -> Option<usize> {
    match reply {
        Some(Reply::Welcome { links, .. }) => Some(links.len()),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// What is sent within `ns`, and when.
fn sent(script: &mut Script, ns: u64) -> Vec<(u64, Arp)> {
    let end = script.now + ns;
    let mut all = Vec::new();
    while let Some(at) = script.manager.next_deadline().filter(|&at| at <= end) {
        script.pass(at.saturating_sub(script.now));
        all.extend(script.arps().into_iter().map(|arp| (script.now, arp)));
    }
    script.now = end;
    all
}

fn news(address: Ipv4Addr, taken: bool) -> FromDriver {
    let prefix = Prefix::new(address.into(), 28).unwrap();
    FromDriver::KernelAddress { prefix, dev: "lan".into(), taken }
}

fn kernel(script: &mut Script, address: Ipv4Addr, taken: bool) {
    script.manager.driver_message(LINK, news(address, taken));
    script.drain();
}

#[test]
fn an_address_is_probed_for_as_the_rfc_says_and_then_announced_twice() {
    let mut script = probing();
    let begun = script.now;
    let all = sent(&mut script, 20 * S);
    let what: Vec<Arp> = all.iter().map(|(_, arp)| *arp).collect();
    let announcement = Arp::request(US, OURS, OURS);
    assert_eq!(what, [probe(US), probe(US), probe(US), announcement, announcement]);
    let at: Vec<u64> = all.iter().map(|(at, _)| *at).collect();
    assert!(at[0] - begun <= S, "PROBE_WAIT");
    for pause in [at[1] - at[0], at[2] - at[1]] {
        assert!((S..=2 * S).contains(&pause), "PROBE_MIN and PROBE_MAX: {pause} ns");
    }
    assert_eq!([at[3] - at[2], at[4] - at[3]], [2 * S; 2], "ANNOUNCE_WAIT, ANNOUNCE_INTERVAL");
    let client = script.client(0);
    assert_eq!((script.refused.len(), script.status(client).conflicts), (0, 0));
}

#[test]
fn hosts_that_are_switched_on_together_do_not_probe_together() {
    let (mut first, mut pauses) = (Vec::new(), Vec::new());
    for host in 0..16 {
        let mut script = Script::keyed(host, 1_000);
        let begun = script.now;
        let at: Vec<u64> = sent(&mut script, 20 * S).iter().map(|(at, _)| *at).collect();
        assert_eq!(at.len(), 5);
        assert!((begun..=begun + S).contains(&at[0]), "PROBE_WAIT");
        first.push((at[0] - begun) / (S / 8));
        for pause in [at[1] - at[0], at[2] - at[1]] {
            assert!((S..=2 * S).contains(&pause), "PROBE_MIN and PROBE_MAX: {pause} ns");
            pauses.push((pause - S) / (S / 8));
        }
        assert_eq!([at[3] - at[2], at[4] - at[3]], [2 * S; 2]);
    }
    // In eighths of a second.
    for places in [&mut first, &mut pauses] {
        places.sort_unstable();
        places.dedup();
        assert!(places.len() >= 4, "{places:?}");
    }
}

#[test]
fn an_address_in_use_is_refused_with_the_station_that_has_it() {
    for (claim, does) in [
        (Arp::reply(PEER, OURS, US, Ipv4Addr::UNSPECIFIED), "has it"),
        (Arp::request(PEER, OURS, OURS), "has it"),
        (Arp::request(PEER, OURS, THEIRS), "has it"),
        (probe(PEER), "asks for it too"),
    ] {
        let mut script = probing();
        sent(&mut script, 3 * S);
        script.hear_arp(&claim);
        let reason = script.refused.pop().expect("refused");
        for word in ["10.77.0.1", "lan", "02:00:00:00:00:09", does] {
            assert!(reason.contains(word), "{word}: {reason}");
        }
        assert_eq!(sent(&mut script, 60 * S), [], "nothing is sent any more");
        assert_eq!(hello(&mut script).1, Some(0), "and no link is there");
        assert_eq!(script.manager.status().conflicts, 1);
        assert_eq!(script.manager.driver_joined(facts()), Ok(LINK), "another driver may try again");
    }
}

#[test]
fn until_the_probing_is_over_nothing_is_answered_and_applications_wait() {
    let mut script = probing();
    let (client, links) = hello(&mut script);
    assert_eq!(links, None);
    let (gone, _) = hello(&mut script);
    script.manager.client_left(gone);
    script.arps();
    // Our own, come round, and what concerns others.
    script.hear_arp(&probe(US));
    script.hear_arp(&Arp::request(PEER, THEIRS, OURS));
    script.hear_arp(&Arp::request(PEER, THEIRS, THEIRS));
    assert!(script.hear_reset(80, 4000).is_empty() && script.hear_from(80, 4000, 7).is_empty());
    assert_eq!(script.arps(), []);
    assert!(matches!(script.ask(client, Request::Hello), Some(Reply::Refused(_))));
    let links = Call { tag: 7, request: Request::Query(Query::Links) };
    script.manager.request(script.now, client, links, &NoCounters);
    script.drain();
    assert_eq!(script.answer(client), Some(Reply::Found(QueryReply::Links(Vec::new()))));
    assert_eq!(script.refused, [""; 0]);

    sent(&mut script, 7 * S);
    assert_eq!(welcomed(script.answer(client)), Some(1), "one welcome, with the link");
    assert_eq!(script.answers, []);
    assert_eq!(hello(&mut script).1, Some(1));
    script.hear_arp(&Arp::request(PEER, THEIRS, OURS));
    assert_eq!(script.arps(), [Arp::reply(US, OURS, PEER, THEIRS)]);
}

/// Links of these names that probe with these PROBE_WAITs, each with a network of its own.
fn with_links(links: &[(&str, u32)]) -> Script {
    let links = (77..).zip(links).map(|(net, &(dev, probe_wait_ms))| {
        let addresses = vec![format!("10.{net}.0.1/24").parse().unwrap()];
        LinkConfig { dev: dev.into(), addresses, gateway: None, ..lan(probe_wait_ms) }
    });
    Script::of(links.collect(), Policy::default())
}

fn join(script: &mut Script, name: &str) {
    script.manager.driver_joined(LinkFacts { name: name.into(), ..facts() }).unwrap();
    script.drain();
}

#[test]
fn whoever_comes_waits_for_all_links_that_come_first_and_for_none_that_comes_again() {
    let mut script = with_links(&[("lan", 1_000), ("wan", 500), ("man", 0)]);
    for name in ["man", "lan", "wan"] {
        join(&mut script, name);
    }
    let (client, links) = hello(&mut script);
    assert_eq!(links, None, "one is open");
    sent(&mut script, 3_500 * MS);
    assert_eq!(script.answers, [], "two of three are open");
    let (other, links) = hello(&mut script);
    assert_eq!(links, None);
    // Where nobody can be asked for a neighbour, nobody waits for his answer.
    let resolve = Request::Resolve { remote: THEIRS.into() };
    let refused = Reply::Refused(Refusal::NoLink { link: LINK.0 });
    assert_eq!(script.ask(client, resolve.clone()), Some(refused));
    sent(&mut script, 3_500 * MS);
    assert_eq!([client, other].map(|client| welcomed(script.answer(client))), [Some(3); 2]);
    assert_eq!(script.ask(client, resolve), None, "it is asked for, and had not failed before");

    script.manager.driver_left(LINK);
    join(&mut script, "lan");
    assert_eq!(hello(&mut script).1, Some(2));
}

#[test]
fn whoever_comes_is_welcomed_before_he_gives_up_though_links_come_all_the_time() {
    let mut script = with_links(&[("lan", 1_000), ("wan", 1_000), ("man", 1_000)]);
    join(&mut script, "lan");
    let (client, links) = hello(&mut script);
    assert_eq!(links, None);
    sent(&mut script, 3_500 * MS);
    join(&mut script, "wan");
    sent(&mut script, 3_500 * MS);
    join(&mut script, "man");
    assert_eq!(script.answers, []);
    // Applications wait for ten seconds.
    sent(&mut script, 2_900 * MS);
    assert_eq!(welcomed(script.answer(client)), Some(1));
}

#[test]
fn whoever_waits_for_a_link_hears_when_its_driver_goes() {
    let mut script = probing();
    let (client, links) = hello(&mut script);
    assert_eq!(links, None);
    script.manager.driver_left(LINK);
    script.drain();
    assert_eq!(welcomed(script.answer(client)), Some(0));
}

#[test]
fn our_address_is_defended_but_not_for_ever() {
    let mut script = Script::new();
    assert_eq!(script.arps(), [Arp::request(US, OURS, OURS)]);
    let usurper = Arp::request(PEER, OURS, THEIRS);
    for _ in 0..5 {
        script.hear_arp(&usurper);
    }
    assert_eq!(script.arps(), [Arp::request(US, OURS, OURS)], "one defence at a time");
    let said = std::mem::take(&mut script.said);
    assert_eq!(said.len(), 2, "what was done, and once that it was of no use: {said:?}");
    assert!(said[0].contains("02:00:00:00:00:09 claims our address 10.77.0.1 on lan"), "{said:?}");
    assert!(said[1].contains("goes on") && said[1].contains("once in 10 s"), "{said:?}");
    script.pass(9 * S);
    script.hear_arp(&usurper);
    assert_eq!((script.arps().len(), script.said.len()), (0, 0));
    script.pass(S);
    script.hear_arp(&usurper);
    assert_eq!((script.arps().len(), script.said.len()), (1, 1));
    let client = script.client(0);
    assert_eq!(script.status(client).conflicts, 7);
    // Whoever probes for it is answered as anybody who asks.
    script.hear_arp(&probe(PEER));
    assert_eq!(script.arps(), [Arp::reply(US, OURS, PEER, Ipv4Addr::UNSPECIFIED)]);
}

#[test]
fn an_address_that_the_kernel_has_is_refused_and_one_that_it_takes_later_is_said_and_counted() {
    // The driver says so before the link is open, whether it is probed for or not.
    for wait_ms in [0, 1_000] {
        let mut script = Script::unanswered(wait_ms);
        for address in [THEIRS, OURS] {
            script.manager.driver_message(LINK, news(address, true));
        }
        script.drain();
        let reason = script.refused.pop().expect("refused");
        assert!(reason.contains("ip address del 10.77.0.1/28 dev lan"), "{reason}");
    }
    let mut script = Script::new();
    script.arps();
    let client = script.client(0);
    for (taken, conflicts, word) in [
        (true, 1, "the kernel has taken our address 10.77.0.1 on lan (conflict 1)"),
        (false, 1, "given our address 10.77.0.1 back"),
        (true, 2, "conflict 2"),
    ] {
        kernel(&mut script, THEIRS, taken);
        // Whoever is told twice counts once.
        kernel(&mut script, OURS, taken);
        kernel(&mut script, OURS, taken);
        let said = std::mem::take(&mut script.said);
        assert!(said.len() == 1 && said[0].contains(word), "{said:?}");
        assert_eq!(script.status(client).conflicts, conflicts);
    }
    assert_eq!((script.refused.len(), script.arps().len()), (0, 0), "nobody else is to blame");
}

#[test]
fn own_flows_that_are_opened_again_do_not_take_our_address_away() {
    let mut script = probing();
    sent(&mut script, 7 * S);
    script.manager.own_lost(LINK, "a fault".into());
    let all = sent(&mut script, 5 * S);
    assert_eq!(script.opened_own, 2);
    let announcement = Arp::request(US, OURS, OURS);
    assert!(!all.is_empty() && all.iter().all(|(_, arp)| *arp == announcement), "{all:?}");
}

#[test]
fn probing_that_was_interrupted_begins_again() {
    let mut script = probing();
    sent(&mut script, 3 * S);
    let (client, _) = hello(&mut script);
    script.manager.own_lost(LINK, "a fault".into());
    script.drain();
    assert_eq!(welcomed(script.answer(client)), Some(0), "nobody knows how long it will take");
    let all = sent(&mut script, 20 * S);
    let probes = all.iter().filter(|(_, arp)| *arp == probe(US)).count();
    assert_eq!((probes, all.len()), (3, 5), "{all:?}");
}

#[test]
fn an_interface_that_comes_up_again_is_probed_for_again_while_its_flows_go_on() {
    let mut script = probing();
    sent(&mut script, 20 * S);
    let client = script.client(0);
    let flow = script.listen(client, 80);
    for conflict in [false, true] {
        script.manager.driver_message(LINK, FromDriver::CameUp);
        script.drain();
        assert!(hello(&mut script).1.is_some_and(|links| links > 0), "the link is open meanwhile");
        let mut all = sent(&mut script, 4 * S);
        if conflict {
            script.hear_arp(&Arp::reply(PEER, OURS, US, Ipv4Addr::UNSPECIFIED));
            assert_eq!(script.arps(), [Arp::request(US, OURS, OURS)], "he is told otherwise");
            assert!(script.said.pop().is_some_and(|said| said.contains("claims our address")));
        }
        all.extend(sent(&mut script, 20 * S));
        let arps: Vec<Arp> = all.into_iter().map(|(_, arp)| arp).collect();
        let announcement = Arp::request(US, OURS, OURS);
        assert_eq!(arps, [[probe(US); 3].as_slice(), &[announcement; 2]].concat());
    }
    assert_eq!((script.refused.len(), script.lost_own), (0, 0));
    let close = Request::Close { flow, time_wait: None };
    assert_eq!(script.ask(client, close), None, "it was there all the time");
    // What was not yet ours is not ours before it was asked for from the start.
    let mut script = probing();
    let early = sent(&mut script, 4 * S).len();
    assert!(early > 0);
    script.manager.driver_message(LINK, FromDriver::CameUp);
    assert_eq!(hello(&mut script).1, None);
    let all = sent(&mut script, 20 * S);
    assert_eq!(all.iter().filter(|(_, arp)| *arp == probe(US)).count(), 3);
    // Who does not probe says that the address is here.
    let mut script = Script::new();
    script.arps();
    script.manager.driver_message(LINK, FromDriver::CameUp);
    script.drain();
    assert_eq!(script.arps(), [Arp::request(US, OURS, OURS)]);
}

proptest! {
    /// Whatever is heard and whenever: until the probing is over nothing but probes is sent, and if somebody has the
    /// address, nothing ever after.
    #[test]
    fn an_address_in_use_is_never_announced(
        wait_ms in 1..=1_000_u32,
        heard in proptest::collection::vec((0..7_000_u64, any::<bool>(), 0..4_u8, 0..4_u8, 0..3_u8), 0..12),
    ) {
        let mut script = Script::probing(Policy::default(), wait_ms);
        let mut heard = heard;
        heard.sort_unstable();
        let addresses = [OURS, THEIRS, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 77, 0, 9)];
        let macs = [PEER, US, Mac([2, 0, 0, 0, 0, 10])];
        let begun = script.now;
        let (mut probes, mut refused) = (0, false);
        for (at_ms, asks, sender, target, mac) in heard {
            let at = begun + at_ms * u64::from(wait_ms) * MS / 1_000;
            let pause = at.saturating_sub(script.now);
            for (_, arp) in sent(&mut script, pause) {
                prop_assert!(!refused, "{arp:?}");
                probes += usize::from(arp.sender().is_unspecified());
                prop_assert!(probes == 3 || arp.sender().is_unspecified(), "{arp:?}");
            }
            let is_open = hello(&mut script).1.is_some_and(|links| links > 0);
            let (sender, target, mac) =
                (addresses[usize::from(sender)], addresses[usize::from(target)], macs[usize::from(mac)]);
            let arp = match asks {
                true => Arp::request(mac, sender, target),
                false => Arp::reply(mac, sender, mac, target),
            };
            script.hear_arp(&arp);
            let probed = asks && sender.is_unspecified() && target == OURS;
            let in_use = mac != US && (sender == OURS || probed);
            refused |= in_use && !is_open;
            prop_assert_eq!(!script.refused.is_empty(), refused);
            let said = script.arps();
            prop_assert!(is_open || said.is_empty(), "{:?}", said);
        }
        let rest = sent(&mut script, 20 * S);
        prop_assert!(rest.is_empty() || !refused);
    }
}
