//! A flow manager with a driver, by script: what goes in, what comes out, and what is left.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::net::Ipv4Addr;

use base_flow::{Bill, Contract, Endpoints, FlowId, LinkFacts, Rate, Sap, Stray, Transport};
use base_rpc::{
    Answer, Call, FlowLayout, FromDriver, JoinOffer, Query, QueryReply, Refusal, Region, Reply,
    Request, StatusInfo, TimeWait, ToDriver,
};
use base_wire::{Arp, EtherType, Ethernet, Header, Mac};
use flowman_core::{ClientId, Config, Counters, FlowManager, LinkConfig, LinkId, Output, Policy};
use zerocopy::IntoBytes;

pub const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const PEER: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const LINK: LinkId = LinkId(0);
pub const S: u64 = 1_000_000_000;

pub struct NoCounters;

impl Counters for NoCounters {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        (Bill::default(), 0, 0)
    }
}

/// Counters that know only how much memory is held.
#[derive(Default, Clone)]
pub struct Held(pub HashMap<ClientId, u64>);

impl Counters for Held {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        (Bill::default(), 0, 0)
    }

    fn held_bytes(&self, client: ClientId, _link: LinkId) -> u64 {
        self.0.get(&client).copied().unwrap_or(0)
    }
}

/// What the driver says of its link.
/// The link that scripts have, with this PROBE_WAIT.
pub fn lan(probe_wait_ms: u32) -> LinkConfig {
    LinkConfig {
        dev: "lan".into(),
        addresses: vec!["10.77.0.1/24".parse().unwrap()],
        gateway: Some(Ipv4Addr::new(10, 77, 0, 254).into()),
        rate: None,
        vlan: None,
        probe_wait_ms,
    }
}

pub fn facts() -> LinkFacts {
    LinkFacts {
        name: "lan".into(),
        kind: "sim".into(),
        mac: US,
        mtu: 1500,
        mtu_max: 1500,
        unit_bytes: 1500,
        vlan: None,
        rate: Rate::mbit(100),
        frame_cost_ns: 0,
        tardiness_ns: 1_700,
    }
}

/// A flow manager with a driver, and what it has said.
pub struct Script {
    pub manager: FlowManager,
    pub now: u64,
    pub answers: Vec<(ClientId, Answer)>,
    pub told: Vec<ToDriver>,
    pub frames: Vec<Vec<u8>>,
    /// By which of our own flows they were.
    pub ways: Vec<Stray>,
    pub gone: Vec<ClientId>,
    pub clients: u64,
    /// How often our own flows were opened, and lost.
    pub opened_own: usize,
    pub lost_own: usize,
    /// Whether the driver answers when it has heard everything, which is at once.
    pub knows_at_once: bool,
    /// What the flow manager says, and why it refused its driver.
    pub said: Vec<String>,
    pub refused: Vec<String>,
    /// What is shared, and what of it is held.
    pub shares: Vec<(ClientId, LinkId)>,
    pub held: Held,
}

impl Script {
    pub fn new() -> Self {
        Self::with(Policy::default())
    }

    pub fn with(policy: Policy) -> Self {
        Self::probing(policy, 0)
    }

    /// One that probes for its address, with this PROBE_WAIT.
    pub fn probing(policy: Policy, probe_wait_ms: u32) -> Self {
        let mut script = Self::configured(policy, probe_wait_ms);
        script.drain();
        script
    }

    /// As [`Self::probing`], one of many hosts, each with a key of its own.
    pub fn keyed(host: u8, probe_wait_ms: u32) -> Self {
        let mut script = Self::configured(Policy::default(), probe_wait_ms);
        let config = Config { links: vec![lan(probe_wait_ms)], ..Config::default() };
        script.manager = FlowManager::new(config, [host; 16]);
        assert_eq!(script.manager.driver_joined(facts()), Ok(LINK));
        script.drain();
        script
    }

    /// One whose driver has joined, and has not answered yet.
    pub fn unanswered(probe_wait_ms: u32) -> Self {
        Self::configured(Policy::default(), probe_wait_ms)
    }

    fn configured(policy: Policy, probe_wait_ms: u32) -> Self {
        let mut script = Self::of(vec![lan(probe_wait_ms)], policy);
        assert_eq!(script.manager.driver_joined(facts()), Ok(LINK));
        script
    }

    /// One with these links, whose drivers have not joined.
    pub fn of(links: Vec<LinkConfig>, policy: Policy) -> Self {
        Self {
            manager: FlowManager::new(Config { links, policy, ..Config::default() }, [7; 16]),
            now: S,
            answers: Vec::new(),
            told: Vec::new(),
            frames: Vec::new(),
            ways: Vec::new(),
            gone: Vec::new(),
            clients: 0,
            opened_own: 0,
            lost_own: 0,
            knows_at_once: true,
            said: Vec::new(),
            refused: Vec::new(),
            shares: Vec::new(),
            held: Held::default(),
        }
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.manager.poll_output() {
            match output {
                Output::Answer { client, answer, .. } => self.answers.push((client, answer)),
                Output::Shares { client, link } => self.shares.push((client, link)),
                Output::Disconnect { client } => self.gone.push(client),
                Output::Driver { message: ToDriver::Ping { tag }, .. } if self.knows_at_once => {
                    self.manager.driver_message(LINK, FromDriver::Pong { tag });
                }
                Output::Driver { message, .. } => self.told.push(message),
                Output::Frame { stray, frame, .. } => {
                    self.frames.push(frame);
                    self.ways.push(stray);
                }
                Output::JoinOwn { link, domain } => {
                    let added = FromDriver::DomainAdded { domain, result: Ok(()) };
                    self.manager.driver_message(link, added);
                }
                Output::OpenOwn { .. } => self.opened_own += 1,
                Output::OwnLost { .. } => self.lost_own += 1,
                Output::Say { words } => self.said.push(words),
                Output::RefuseDriver { reason, .. } => self.refused.push(reason),
            }
        }
    }

    /// A client of user `uid` that has said hello and joined.
    pub fn client(&mut self, uid: u32) -> ClientId {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.manager.client_joined(client, 100 + self.clients as i32, uid).unwrap();
        assert!(matches!(self.ask(client, Request::Hello), Some(Reply::Welcome { .. })));
        let join = Call { tag: 9, request: Request::Join(JoinOffer { link: 0, flows_max: 64 }) };
        self.manager.request(self.now, client, join, &NoCounters);
        self.drain();
        let Some(ToDriver::AddDomain { domain, .. }) = self.told.pop() else { panic!("no domain") };
        self.manager.driver_message(LINK, FromDriver::DomainAdded { domain, result: Ok(()) });
        self.drain();
        assert!(matches!(self.answers.pop(), Some((_, Answer { tag: 9, reply: Reply::Joined }))));
        client
    }

    /// Asks, and returns the answer if it comes at once.
    pub fn ask(&mut self, client: ClientId, request: Request) -> Option<Reply> {
        self.manager.request(self.now, client, Call { tag: 5, request }, &self.held);
        self.drain();
        self.answer(client)
    }

    pub fn answer(&mut self, client: ClientId) -> Option<Reply> {
        let at = self.answers.iter().position(|(to, _)| *to == client)?;
        Some(self.answers.remove(at).1.reply)
    }

    pub fn open(
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
    pub fn listen(&mut self, client: ClientId, port: u16) -> FlowId {
        match self.open(client, Contract::BEST_EFFORT, Sap::new(OURS.into(), port), None) {
            Some(Reply::Opened { flow, .. }) => flow,
            other => panic!("{other:?}"),
        }
    }

    /// The peer answers ARP, or speaks unasked.
    pub fn hear_arp(&mut self, arp: &Arp) {
        let mut frame = vec![0; 14];
        Ethernet { destination: US, source: arp.sender_mac, ether_type: EtherType::ARP }
            .put(&mut frame)
            .unwrap();
        frame.extend(arp.as_bytes());
        self.manager.frame(self.now, LINK, &frame);
        self.drain();
    }

    /// ARP packets sent since last asked.
    pub fn arps(&mut self) -> Vec<Arp> {
        let arp = |frame: Vec<u8>| {
            let (ethernet, rest) = Ethernet::split(&frame).unwrap();
            (ethernet.ether_type == EtherType::ARP).then(|| *Arp::split(rest).unwrap().0)
        };
        std::mem::take(&mut self.frames).into_iter().filter_map(arp).collect()
    }

    /// The driver has removed what it was told to, of which something was received.
    pub fn removed(&mut self) {
        self.removed_after(1);
    }

    /// As [`Self::removed`], after so many frames were received.
    pub fn removed_after(&mut self, rx_frames: u64) {
        for message in std::mem::take(&mut self.told) {
            if let ToDriver::RemoveFlow { flow, .. } = message {
                let bill = Bill { rx_frames, ..Bill::default() };
                let removed = FromDriver::FlowRemoved { flow, bill, settled: true };
                self.manager.driver_message(LINK, removed);
            }
        }
        self.drain();
    }

    pub fn status(&mut self, client: ClientId) -> StatusInfo {
        match self.ask(client, Request::Query(Query::Status)) {
            Some(Reply::Found(QueryReply::Status(status))) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn pass(&mut self, ns: u64) {
        let end = self.now + ns;
        while let Some(at) = self.manager.next_deadline().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            self.manager.tick(self.now);
            self.drain();
        }
        self.now = end;
    }
}

pub fn layout() -> FlowLayout {
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

pub fn peer(port: u16) -> Sap {
    Sap::new(THEIRS.into(), port)
}

pub fn ms(slice: u64, period: u64) -> Contract {
    Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
}

pub fn refused(reply: Option<Reply>) -> Refusal {
    match reply {
        Some(Reply::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

impl Script {
    /// Opens a connection between these ports, and closes it as the side that waits.
    pub fn wait(&mut self, client: ClientId, local: u16, remote: u16) -> Option<Reply> {
        let flow = match self.connect(client, local, remote) {
            Some(Reply::Opened { flow, .. }) => flow,
            other => return other,
        };
        let time_wait = TimeWait { sequence: 1000, acknowledgment: 5000, clocks: Some((7, 300)) };
        self.ask(client, Request::Close { flow, time_wait: Some(time_wait) });
        let parks = |told: &ToDriver| matches!(told, ToDriver::RemoveFlow { parks: Some(_), .. });
        assert_eq!(self.told(parks), 1);
        self.removed();
        self.answers.clear();
        None
    }

    pub fn connect(&mut self, client: ClientId, local: u16, remote: u16) -> Option<Reply> {
        let endpoints = Some(Endpoints {
            transport: Transport::Tcp,
            local: Sap::new(OURS.into(), local),
            remote: (remote > 0).then(|| peer(remote)),
        });
        let contract = Contract::BEST_EFFORT;
        self.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints })
    }

    /// A segment of the peer's port 80 for our port 4000, with a timestamp or without; what is sent then.
    pub fn hear_segment(
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

    /// The peer acknowledges `number` from one port to another; what is sent then.
    pub fn hear_from(&mut self, from: u16, to: u16, number: u32) -> Vec<Vec<u8>> {
        self.hear_between((from, to), |tcp| tcp.ack(number))
    }

    /// The peer knows nothing of a connection; what is sent then.
    pub fn hear_reset(&mut self, from: u16, to: u16) -> Vec<Vec<u8>> {
        self.hear_between((from, to), |tcp| tcp.rst())
    }

    fn hear_between(
        &mut self,
        (from, to): (u16, u16),
        set: impl Fn(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    ) -> Vec<Vec<u8>> {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(PEER.0, US.0)
            .ipv4(THEIRS.octets(), OURS.octets(), 64)
            .tcp(from, to, 1234, 500);
        set(builder).write(&mut frame, &[]).unwrap();
        let before = self.frames.len();
        self.manager.frame(self.now, LINK, &frame);
        self.drain();
        self.frames[before..].to_vec()
    }

    pub fn told(&self, wanted: fn(&ToDriver) -> bool) -> usize {
        self.told.iter().filter(|told| wanted(told)).count()
    }
}
