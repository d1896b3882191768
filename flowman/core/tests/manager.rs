//! The flow manager by script: what goes in, what comes out, and what is left.

use std::net::{IpAddr, Ipv4Addr};

use base_flow::{Bill, Contract, Endpoints, Fib, FlowId, LinkFacts, Rate, Sap, Transport};
use base_rpc::{
    Answer, Call, DomainId, FlowLayout, FromDriver, InstallError, JoinOffer, Query, QueryReply,
    Refusal, Region, Reply, Request, StatusInfo, TimeWait, ToDriver,
};
use base_wire::{Arp, ArpOperation, EtherType, Ethernet, Header, Mac};
use flowman_core::{
    ClientId, Config, Counters, FlowManager, LinkConfig, LinkId, Output, Policy, Rights,
};
use zerocopy::IntoBytes;

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const LINK: LinkId = LinkId(0);
const S: u64 = 1_000_000_000;

struct NoCounters;

impl Counters for NoCounters {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        (Bill::default(), 0, 0)
    }
}

/// A flow manager with a driver, and what it has said.
struct Script {
    manager: FlowManager,
    now: u64,
    answers: Vec<(ClientId, Answer)>,
    told: Vec<ToDriver>,
    frames: Vec<Vec<u8>>,
    gone: Vec<ClientId>,
    clients: u64,
}

impl Script {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let link = LinkConfig {
            dev: "lan".into(),
            addresses: vec!["10.77.0.1/24".parse().unwrap()],
            gateway: Some(Ipv4Addr::new(10, 77, 0, 254).into()),
            rate: None,
            vlan: None,
        };
        let mut script = Self {
            manager: FlowManager::new(Config { links: vec![link], policy }, [7; 16]),
            now: S,
            answers: Vec::new(),
            told: Vec::new(),
            frames: Vec::new(),
            gone: Vec::new(),
            clients: 0,
        };
        let facts = LinkFacts {
            name: "lan".into(),
            kind: "sim".into(),
            mac: US,
            mtu: 1500,
            unit_bytes: 1500,
            vlan: None,
            rate: Rate::mbit(100),
            tardiness_ns: 1,
        };
        assert_eq!(script.manager.driver_joined(facts), Some(LINK));
        script.drain();
        script
    }

    fn drain(&mut self) {
        while let Some(output) = self.manager.poll_output() {
            match output {
                Output::Answer { client, answer, .. } => self.answers.push((client, answer)),
                Output::Disconnect { client } => self.gone.push(client),
                Output::Driver { message, .. } => self.told.push(message),
                Output::Frame { frame, .. } => self.frames.push(frame),
                Output::OfferOwn { domain, .. } => {
                    let added = FromDriver::DomainAdded { domain, result: Ok(()) };
                    self.manager.driver_message(LINK, added);
                }
                Output::OpenOwn { .. } => {}
            }
        }
    }

    /// A client of user `uid` that has said hello and joined.
    fn client(&mut self, uid: u32) -> ClientId {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.manager.client_joined(client, 100 + self.clients as i32, uid);
        assert!(matches!(self.ask(client, Request::Hello), Some(Reply::Welcome { .. })));
        let join = Call { tag: 9, request: Request::Join(JoinOffer { link: 0, flows_max: 64 }) };
        self.manager.request(self.now, client, join, 4, &NoCounters);
        self.drain();
        let Some(ToDriver::AddDomain { domain, .. }) = self.told.pop() else { panic!("no domain") };
        self.manager.driver_message(LINK, FromDriver::DomainAdded { domain, result: Ok(()) });
        self.drain();
        assert!(matches!(self.answers.pop(), Some((_, Answer { tag: 9, reply: Reply::Joined }))));
        client
    }

    /// Asks, and returns the answer if it comes at once.
    fn ask(&mut self, client: ClientId, request: Request) -> Option<Reply> {
        self.manager.request(self.now, client, Call { tag: 5, request }, 0, &NoCounters);
        self.drain();
        self.answer(client)
    }

    fn answer(&mut self, client: ClientId) -> Option<Reply> {
        let at = self.answers.iter().position(|(to, _)| *to == client)?;
        Some(self.answers.remove(at).1.reply)
    }

    fn open(
        &mut self,
        client: ClientId,
        contract: Contract,
        local: Sap,
        remote: Option<Sap>,
    ) -> Option<Reply> {
        let endpoints = Some(Endpoints { transport: Transport::Udp, local, remote });
        self.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints })
    }

    /// Opens a flow without a remote end, which must be admitted.
    fn listen(&mut self, client: ClientId, port: u16) -> FlowId {
        match self.open(client, Contract::BEST_EFFORT, Sap::new(OURS.into(), port), None) {
            Some(Reply::Opened { flow, .. }) => flow,
            other => panic!("{other:?}"),
        }
    }

    /// The peer answers ARP, or speaks unasked.
    fn hear_arp(&mut self, arp: &Arp) {
        let mut frame = vec![0; 14];
        Ethernet { destination: US, source: arp.sender_mac, ether_type: EtherType::ARP }
            .put(&mut frame)
            .unwrap();
        frame.extend(arp.as_bytes());
        self.manager.frame(self.now, LINK, &frame);
        self.drain();
    }

    /// ARP packets sent since last asked.
    fn arps(&mut self) -> Vec<Arp> {
        let arp = |frame: Vec<u8>| {
            let (ethernet, rest) = Ethernet::split(&frame).unwrap();
            (ethernet.ether_type == EtherType::ARP).then(|| *Arp::split(rest).unwrap().0)
        };
        std::mem::take(&mut self.frames).into_iter().filter_map(arp).collect()
    }

    fn removed(&mut self) {
        for message in std::mem::take(&mut self.told) {
            if let ToDriver::RemoveFlow { flow } = message {
                self.manager
                    .driver_message(LINK, FromDriver::FlowRemoved { flow, bill: Bill::default() });
            }
        }
        self.drain();
    }

    fn status(&mut self, client: ClientId) -> StatusInfo {
        match self.ask(client, Request::Query(Query::Status)) {
            Some(Reply::Found(QueryReply::Status(status))) => status,
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, ns: u64) {
        let end = self.now + ns;
        while let Some(at) = self.manager.next_deadline().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            self.manager.tick(self.now);
            self.drain();
        }
        self.now = end;
    }
}

fn layout() -> FlowLayout {
    let region = Region { offset: 0, bytes: 4096 };
    FlowLayout {
        slot: 0,
        control_offset: 1024,
        tx_words: 16,
        rx_words: 16,
        tx_data: region,
        rx_data: region,
    }
}

fn peer(port: u16) -> Sap {
    Sap::new(THEIRS.into(), port)
}

fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

fn refused(reply: Option<Reply>) -> Refusal {
    match reply {
        Some(Reply::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flow_to_an_unknown_neighbour_opens_when_it_answers() {
    let mut script = Script::new();
    let client = script.client(0);
    script.arps();
    assert_eq!(
        script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5000))),
        None,
        "it must be asked for first"
    );
    let arps = script.arps();
    assert_eq!(
        (arps.len(), arps[0].operation(), arps[0].target()),
        (1, Some(ArpOperation::Request), THEIRS)
    );
    assert!(!script.told.iter().any(|message| matches!(message, ToDriver::Attach { .. })));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let Some(Reply::Opened { fib: Some(fib), contract, .. }) = script.answer(client) else {
        panic!("not opened")
    };
    assert_eq!(
        (fib.next_hop_mac, fib.source, contract),
        (Some(PEER), IpAddr::V4(OURS), ms(4, 100))
    );
    assert!(fib.endpoints.local.port >= 49_152 && fib.endpoints.local.address == IpAddr::V4(OURS));
    assert!(script.told.contains(&ToDriver::Attach { fib }));
    assert!(
        script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5001))).is_some(),
        "now it is known"
    );
}

#[test]
fn a_flow_to_a_silent_neighbour_is_refused_and_leaves_nothing() {
    let mut script = Script::new();
    let client = script.client(0);
    let before = script.status(client);
    assert_eq!(script.open(client, ms(90, 100), Sap::any_v4(0), Some(peer(5000))), None);
    script.pass(5 * S);
    let refusal = refused(script.answer(client));
    assert_eq!(refusal, Refusal::Unreachable { address: THEIRS.into() });
    script.removed();
    let after = script.status(client);
    assert_eq!((after.flows, after.ports), (before.flows, before.ports));
    script
        .open(client, ms(90, 100), Sap::new(OURS.into(), 7), None)
        .expect("its share is free again");
}

#[test]
fn hosts_beyond_the_network_are_reached_over_the_gateway() {
    let mut script = Script::new();
    let client = script.client(0);
    script.arps();
    let far = Sap::new(Ipv4Addr::new(192, 0, 2, 1).into(), 53);
    assert_eq!(script.open(client, Contract::BEST_EFFORT, Sap::any_v4(0), Some(far)), None);
    assert_eq!(script.arps()[0].target(), Ipv4Addr::new(10, 77, 0, 254));
}

#[test]
fn a_neighbour_that_moves_takes_its_flows_along() {
    let mut script = Script::new();
    let client = script.client(0);
    script.open(client, ms(4, 100), Sap::any_v4(0), Some(peer(5000)));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    let Some(Reply::Opened { fib: Some(before), .. }) = script.answer(client) else {
        panic!("not opened")
    };
    let other = Mac([2, 0, 0, 0, 0, 10]);
    script.hear_arp(&Arp::request(other, THEIRS, THEIRS));
    let after = Fib { next_hop_mac: Some(other), ..before };
    assert_eq!(script.answer(client), Some(Reply::Reorganised { fib: after }));
    assert!(script.told.contains(&ToDriver::Attach { fib: after }));
}

#[test]
fn requests_for_our_addresses_are_answered_and_others_are_not() {
    let mut script = Script::new();
    script.arps();
    script.hear_arp(&Arp::request(PEER, THEIRS, OURS));
    let answers = script.arps();
    assert_eq!(answers, [Arp::reply(US, OURS, PEER, THEIRS)]);
    script.hear_arp(&Arp::request(PEER, THEIRS, Ipv4Addr::new(10, 77, 0, 3)));
    assert!(script.arps().is_empty());
}

#[test]
fn our_address_is_announced_and_defended_but_not_for_ever() {
    let mut script = Script::new();
    let announced = script.arps();
    assert_eq!((announced[0].sender(), announced[0].target()), (OURS, OURS));
    let usurper = Arp::request(PEER, OURS, THEIRS);
    for _ in 0..5 {
        script.hear_arp(&usurper);
    }
    assert_eq!(script.arps().len(), 1, "one defence at a time");
    script.pass(11 * S);
    script.hear_arp(&usurper);
    assert_eq!(script.arps().len(), 1);
    let client = script.client(0);
    assert_eq!(script.status(client).conflicts, 6);
}

#[test]
fn whatever_a_client_held_is_free_when_it_is_gone() {
    let mut script = Script::new();
    let watcher = script.client(0);
    let before = script.status(watcher);
    let client = script.client(0);
    let local = Sap::new(OURS.into(), 80);
    assert!(matches!(
        script.ask(client, Request::Bind { transport: Transport::Udp, local }),
        Some(Reply::Bound { .. })
    ));
    assert!(script.open(client, ms(90, 100), Sap::new(OURS.into(), 81), None).is_some());
    assert_eq!(
        script.open(client, ms(1, 100), Sap::any_v4(0), Some(peer(1))),
        None,
        "waits for ARP"
    );
    script.manager.client_left(client);
    script.drain();
    assert!(script.told.iter().any(|message| matches!(message, ToDriver::RemoveDomain { .. })));
    script.removed();
    let after = script.status(watcher);
    assert_eq!(
        (after.clients, after.flows, after.ports),
        (before.clients, before.flows, before.ports)
    );
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(script.answers.is_empty(), "nobody is left to be answered");
    script
        .open(watcher, ms(90, 100), Sap::new(OURS.into(), 80), None)
        .expect("port and share are free");
}

#[test]
fn flows_of_other_clients_cannot_be_touched() {
    let mut script = Script::new();
    let (owner, thief) = (script.client(0), script.client(0));
    let flow = script.listen(owner, 80);
    let endpoints =
        Endpoints { transport: Transport::Udp, local: Sap::new(OURS.into(), 99), remote: None };
    for request in [
        Request::Close { flow, time_wait: None },
        Request::Attach { flow, endpoints },
        Request::Detach { flow },
    ] {
        assert_eq!(refused(script.ask(thief, request)), Refusal::UnknownFlow);
    }
    let stale = FlowId { generation: flow.generation + 1, ..flow };
    assert_eq!(
        refused(script.ask(owner, Request::Close { flow: stale, time_wait: None })),
        Refusal::UnknownFlow
    );
}

#[test]
fn a_closed_flow_is_answered_when_the_driver_has_let_go() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    assert_eq!(script.ask(client, Request::Close { flow, time_wait: None }), None);
    assert_eq!(
        refused(script.ask(client, Request::Close { flow, time_wait: None })),
        Refusal::UnknownFlow,
        "closing already"
    );
    let bill = Bill { tx_frames: 7, ..Bill::default() };
    script.manager.driver_message(LINK, FromDriver::FlowRemoved { flow, bill: bill.clone() });
    script.drain();
    assert_eq!(script.answer(client), Some(Reply::Closed { bill }));
}

#[test]
fn users_have_the_rights_of_the_policy() {
    let rights =
        Rights { flows_max: 2, guarantee_ppm_max: 100_000, ports_max: 3, ..Rights::ORDINARY };
    let mut script = Script::with(Policy { default: rights, ..Policy::default() });
    let join = Request::Join(JoinOffer { link: 0, flows_max: 3 });
    let stranger = ClientId(99);
    script.manager.client_joined(stranger, 1, 1000);
    script.ask(stranger, Request::Hello);
    script.manager.request(script.now, stranger, Call { tag: 1, request: join }, 4, &NoCounters);
    script.drain();
    assert!(matches!(refused(script.answer(stranger)), Refusal::Quota(_)));

    let root = script.client(0);
    assert!(script.open(root, ms(50, 100), Sap::new(OURS.into(), 80), None).is_some());
    let mut user =
        Script::with(Policy { default: Rights { flows_max: 64, ..rights }, ..Policy::default() });
    let client = user.client(1000);
    assert!(matches!(
        refused(user.open(client, ms(1, 100), Sap::new(OURS.into(), 80), None)),
        Refusal::Policy(_)
    ));
    assert!(matches!(
        refused(user.open(client, ms(11, 100), Sap::new(OURS.into(), 8080), None)),
        Refusal::Policy(_)
    ));
    assert!(matches!(
        user.open(client, ms(10, 100), Sap::new(OURS.into(), 8080), None),
        Some(Reply::Opened { .. })
    ));
    let other = user.client(1000);
    let again = user.open(other, ms(1, 100), Sap::new(OURS.into(), 8081), None);
    assert!(matches!(refused(again), Refusal::Policy(_)), "the user's, not the process's");
}

#[test]
fn other_users_bills_are_not_shown() {
    let mut script = Script::new();
    let (root, user) = (script.client(0), script.client(1000));
    script.listen(root, 80);
    script.listen(user, 8080);
    let mut bills = |client| match script.ask(client, Request::Query(Query::Flows { from: 0 })) {
        Some(Reply::Found(QueryReply::Flows { flows, next: None })) => {
            flows.iter().map(|flow| (flow.uid, flow.bill.is_some())).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(bills(user), [(0, false), (0, false), (1000, true)]);
    assert_eq!(bills(root), [(0, true), (0, true), (1000, true)]);
}

#[test]
fn a_change_of_contract_is_admitted_like_a_new_one() {
    let mut script = Script::new();
    let client = script.client(0);
    let Some(Reply::Opened { flow, .. }) =
        script.open(client, ms(60, 100), Sap::new(OURS.into(), 80), None)
    else {
        panic!("not opened")
    };
    let adjust = |contract| Request::AdjustQos { flow, contract };
    assert!(matches!(
        refused(script.ask(client, adjust(ms(96, 100)))),
        Refusal::OverAllocation { .. }
    ));
    assert!(matches!(script.ask(client, adjust(ms(95, 100))), Some(Reply::Adjusted { .. })));
    assert!(script.told.contains(&ToDriver::SetContract { flow, contract: ms(95, 100) }));
    assert!(matches!(script.ask(client, adjust(ms(1, 100))), Some(Reply::Adjusted { .. })));
    script
        .open(client, ms(94, 100), Sap::new(OURS.into(), 81), None)
        .expect("what was given back is free");
}

#[test]
fn a_contract_is_changed_by_its_user_and_by_root_and_its_owner_hears_of_it() {
    let mut script = Script::new();
    let (owner, same, other, root) =
        (script.client(1000), script.client(1000), script.client(1001), script.client(0));
    let Some(Reply::Opened { flow, .. }) =
        script.open(owner, ms(10, 100), Sap::new(OURS.into(), 8080), None)
    else {
        panic!("not opened")
    };
    let adjust = |contract| Request::AdjustQos { flow, contract };
    assert!(matches!(refused(script.ask(other, adjust(ms(20, 100)))), Refusal::Policy(_)));
    assert!(!script.told.contains(&ToDriver::SetContract { flow, contract: ms(20, 100) }));
    for (client, contract) in [(same, ms(30, 100)), (root, ms(40, 100))] {
        assert!(matches!(script.ask(client, adjust(contract)), Some(Reply::Adjusted { .. })));
        assert_eq!(script.answer(owner), Some(Reply::Recontracted { flow, contract }));
    }
    // Half of the line is what an ordinary user may have, whoever asks for it.
    assert!(matches!(refused(script.ask(root, adjust(ms(60, 100)))), Refusal::Policy(_)));
}

#[test]
fn a_driver_that_goes_takes_its_flows_and_a_new_one_starts_clean() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    script.manager.driver_left(LINK);
    script.drain();
    assert!(matches!(script.answer(client), Some(Reply::Lost { flow: lost, .. }) if lost == flow));
    let again = script.open(client, Contract::BEST_EFFORT, Sap::new(OURS.into(), 80), None);
    assert_eq!(refused(again), Refusal::NotJoined { link: 0 });
    let facts = LinkFacts {
        name: "lan".into(),
        kind: "sim".into(),
        mac: US,
        mtu: 1500,
        unit_bytes: 1500,
        vlan: None,
        rate: Rate::mbit(100),
        tardiness_ns: 1,
    };
    assert_eq!(script.manager.driver_joined(facts.clone()), Some(LINK));
    assert_eq!(script.manager.driver_joined(facts.clone()), None, "one driver a link");
    assert_eq!(script.manager.driver_joined(LinkFacts { name: "wan".into(), ..facts }), None);
}

#[test]
fn a_flow_the_driver_refuses_is_lost_with_the_reason() {
    let mut script = Script::new();
    let client = script.client(0);
    let flow = script.listen(client, 80);
    let error = InstallError::Region { region: "transmit data".into() };
    script.manager.driver_message(LINK, FromDriver::FlowFailed { flow, error });
    script.drain();
    let Some(Reply::Lost { reason, .. }) = script.answer(client) else { panic!("not lost") };
    assert!(reason.contains("transmit data"), "{reason}");
    let again = script.listen(client, 80);
    assert_ne!(again, flow, "the port is free, the name is another");
}

#[test]
fn a_frame_for_a_flow_the_driver_does_not_have_yet_is_given_to_it_not_answered() {
    let mut script = Script::new();
    let client = script.client(0);
    script.listen(client, 8080);
    script.frames.clear();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(1, 8080)
        .write(&mut frame, b"early")
        .unwrap();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert!(script.told.contains(&ToDriver::Inject { frame }) && script.frames.is_empty());
}

#[test]
fn answers_to_strangers_are_limited_and_those_held_back_are_counted() {
    let mut script = Script::new();
    script.frames.clear();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .udp(1, 9)
        .write(&mut frame, b"?")
        .unwrap();
    for _ in 0..1_000 {
        script.manager.frame(script.now, LINK, &frame);
    }
    script.drain();
    let client = script.client(0);
    let status = script.status(client);
    assert_eq!(
        (script.frames.len() as u64, status.unreachable_sent + status.replies_suppressed),
        (status.unreachable_sent, 1_000)
    );
    assert!(status.unreachable_sent <= 50);
}

#[test]
fn requests_out_of_order_are_refused_and_their_client_sent_away() {
    let mut script = Script::new();
    let rude = ClientId(50);
    script.manager.client_joined(rude, 1, 0);
    assert!(matches!(refused(script.ask(rude, Request::Query(Query::Links))), Refusal::Order(_)));
    assert_eq!(script.gone, [rude]);
    let _ = DomainId(0);
    let client = script.client(0);
    script.manager.request(
        script.now,
        client,
        Call { tag: 1, request: Request::Hello },
        2,
        &NoCounters,
    );
    script.drain();
    assert!(matches!(refused(script.answer(client)), Refusal::Descriptors(_)));
    assert_eq!(script.gone, [rude, client]);
}

#[test]
fn the_peer_of_a_connection_whose_application_died_is_asked_and_then_reset() {
    let mut script = Script::new();
    let client = script.client(0);
    let endpoints = Some(Endpoints {
        transport: Transport::Tcp,
        local: Sap::new(OURS.into(), 4000),
        remote: Some(peer(80)),
    });
    let contract = Contract::BEST_EFFORT;
    let open = Request::Open { link: 0, contract, layout: layout(), endpoints };
    assert_eq!(script.ask(client, open), None);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.answer(client), Some(Reply::Opened { .. })));
    script.frames.clear();

    script.manager.client_left(client);
    script.drain();
    script.removed();
    script.pass(100_000_000);
    let parts = |frame: &[u8]| {
        let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("not TCP")
        };
        tcp.to_header()
    };
    let asked = std::mem::take(&mut script.frames);
    let question = parts(&asked[0]);
    assert_eq!((question.source_port, question.destination_port), (4000, 80));
    assert!(question.ack && !question.rst && !question.syn);

    // It says where it is.
    let mut answer = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .tcp(80, 4000, 1234, 500)
        .ack(987_654)
        .write(&mut answer, &[])
        .unwrap();
    script.manager.frame(script.now, LINK, &answer);
    script.drain();
    let reset = parts(&script.frames.pop().unwrap());
    assert_eq!((reset.rst, reset.sequence_number), (true, 987_654));
    script.pass(S);
    assert!(script.frames.is_empty(), "it was heard, and is not asked again");
}

#[test]
fn a_peer_that_never_answers_is_not_asked_for_ever() {
    let mut script = Script::new();
    let client = script.client(0);
    let local = Sap::new(OURS.into(), 4000);
    let endpoints = Some(Endpoints { transport: Transport::Tcp, local, remote: Some(peer(80)) });
    let contract = Contract::BEST_EFFORT;
    script.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints });
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.manager.client_left(client);
    script.drain();
    script.frames.clear();
    script.pass(20 * S);
    assert_eq!(script.frames.len(), 4);
}

impl Script {
    /// Opens a connection between these ports, and closes it as the side that waits.
    fn wait(&mut self, client: ClientId, local: u16, remote: u16) -> Option<Reply> {
        let flow = match self.connect(client, local, remote) {
            Some(Reply::Opened { flow, .. }) => flow,
            other => return other,
        };
        let time_wait = TimeWait { sequence: 1000, acknowledgment: 5000, clocks: Some((7, 300)) };
        self.ask(client, Request::Close { flow, time_wait: Some(time_wait) });
        assert!(self.told.iter().any(|told| matches!(told, ToDriver::Park { .. })));
        self.removed();
        self.answers.clear();
        None
    }

    fn connect(&mut self, client: ClientId, local: u16, remote: u16) -> Option<Reply> {
        let endpoints = Some(Endpoints {
            transport: Transport::Tcp,
            local: Sap::new(OURS.into(), local),
            remote: (remote > 0).then(|| peer(remote)),
        });
        let contract = Contract::BEST_EFFORT;
        self.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints })
    }

    /// A segment of the peer's port 80 for our port 4000, with a timestamp or without; what is sent then.
    fn hear_segment(
        &mut self,
        sequence: u32,
        set: impl Fn(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        clock: Option<u32>,
    ) -> Vec<etherparse::TcpHeader> {
        let builder = etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
            .ipv4(THEIRS.octets(), OURS.octets(), 64)
            .tcp(80, 4000, sequence, 500);
        let options: Vec<etherparse::TcpOptionElement> =
            clock.iter().map(|clock| etherparse::TcpOptionElement::Timestamp(*clock, 0)).collect();
        let mut frame = Vec::new();
        set(builder).options(&options).unwrap().write(&mut frame, &[]).unwrap();
        self.frames.clear();
        self.manager.frame(self.now, LINK, &frame);
        self.drain();
        let header = |frame: Vec<u8>| {
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            match packet.transport {
                Some(etherparse::TransportSlice::Tcp(tcp)) => Some(tcp.to_header()),
                _ => None,
            }
        };
        std::mem::take(&mut self.frames).into_iter().filter_map(header).collect()
    }

    fn told(&self, wanted: fn(&ToDriver) -> bool) -> usize {
        self.told.iter().filter(|told| wanted(told)).count()
    }
}

#[test]
fn a_fin_that_comes_again_after_the_flow_was_closed_is_acknowledged_for_a_minute() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert_eq!(script.wait(client, 4000, 80), None);
    script.pass(50 * S);
    let answers = script.hear_segment(4999, |tcp| tcp.fin().ack(1000), Some(300));
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(answer.ack && !answer.rst);
    assert_eq!((answer.sequence_number, answer.acknowledgment_number), (1000, 5000));
    let clocks = etherparse::TcpOptionElement::Timestamp(7 + 50_000, 300);
    assert!(answer.options_iterator().any(|option| option == Ok(clocks.clone())));
    assert!(script.hear_segment(5000, |tcp| tcp.ack(1000), Some(300)).is_empty());
    assert!(script.hear_segment(5000, |tcp| tcp.rst(), None).is_empty(), "RFC 1337");

    script.pass(59 * S);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 0, "it began anew");
    script.pass(2 * S);
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 1);
    let [reset] = &script.hear_segment(4999, |tcp| tcp.fin().ack(1000), None)[..] else { panic!() };
    assert!(reset.rst, "nobody knows it any more");
}

#[test]
fn the_ends_of_a_connection_that_waits_are_given_to_nobody() {
    let mut script = Script::new();
    let (client, other) = (script.client(0), script.client(1000));
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    assert!(matches!(refused(script.connect(other, 4000, 80)), Refusal::InUse { .. }));
    assert!(matches!(script.connect(other, 4000, 81), Some(Reply::Opened { .. })));
    // The first port of all would be this one.
    script.wait(client, 49_152, 80);
    for _ in 0..3 {
        let Some(Reply::Opened { fib: Some(fib), .. }) = script.connect(client, 0, 80) else {
            panic!()
        };
        assert_ne!(fib.endpoints.local.port, 49_152);
    }
    script.pass(61 * S);
    assert!(matches!(script.connect(other, 4000, 80), Some(Reply::Opened { .. })));
}

#[test]
fn only_a_syn_that_is_newer_than_the_connection_that_waits_reaches_a_listener() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    script.wait(client, 4000, 80);
    script.connect(client, 4000, 0);
    let injected = |told: &ToDriver| matches!(told, ToDriver::Inject { .. });
    let [answer] = &script.hear_segment(9000, |tcp| tcp.syn(), Some(299))[..] else { panic!() };
    assert_eq!((answer.ack, answer.rst, script.told(injected)), (true, false, 0), "an old one");
    assert!(script.hear_segment(100, |tcp| tcp.syn(), Some(301)).is_empty());
    assert_eq!(script.told(|told| matches!(told, ToDriver::Unpark { .. })), 1);
    assert_eq!(script.told(injected), 1);
}

#[test]
fn nobody_is_connected_to_many_at_once() {
    let mut script = Script::new();
    let client = script.client(0);
    for many in [[10, 77, 0, 255], [255, 255, 255, 255], [224, 0, 0, 1]] {
        let endpoints = Some(Endpoints {
            transport: Transport::Tcp,
            local: Sap::any_v4(0),
            remote: Some(Sap::new(Ipv4Addr::from(many).into(), 80)),
        });
        let contract = Contract::BEST_EFFORT;
        let open = Request::Open { link: 0, contract, layout: layout(), endpoints };
        assert!(matches!(refused(script.ask(client, open)), Refusal::Unreachable { .. }));
    }
}

#[test]
fn a_damaged_segment_to_nobody_is_not_answered() {
    let mut script = Script::new();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
        .ipv4(THEIRS.octets(), OURS.octets(), 64)
        .tcp(80, 4000, 1234, 500)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert_eq!(script.frames.len(), 2, "the announcement of our address, and a reset");
    let last = frame.len() - 1;
    frame[last] ^= 1;
    script.frames.clear();
    script.manager.frame(script.now, LINK, &frame);
    script.drain();
    assert!(script.frames.is_empty());
}

#[test]
fn a_port_that_calls_can_be_listened_at() {
    let mut script = Script::new();
    let client = script.client(0);
    script.hear_arp(&Arp::reply(PEER, THEIRS, US, OURS));
    assert!(matches!(script.connect(client, 4000, 80), Some(Reply::Opened { .. })));
    assert!(matches!(script.connect(client, 4000, 0), Some(Reply::Opened { .. })), "MUST-42");
    assert!(matches!(script.connect(client, 4000, 81), Some(Reply::Opened { .. })));
    assert!(matches!(refused(script.connect(client, 4000, 0)), Refusal::InUse { .. }));
}
