//! Flow manager and driver never disagree about whose a frame is, whatever clients ask for and in
//! whatever order: random requests, frames, time and failures against a driver that obeys.

mod script;

use std::collections::{HashMap, HashSet};

use base_flow::{Bill, Contract, Endpoints, FlowId, Sap, Transport};
use base_rpc::{
    Call, FromDriver, InstallError, Query, QueryReply, Reply, Request, TimeWait, ToDriver,
};
use base_wire::{Arp, Mac};
use flowman_core::{ClientId, Output};
use proptest::prelude::*;
use script::{LINK, NoCounters, OURS, S, Script, THEIRS, US, layout};

/// A driver's tables, kept as `driver/core` keeps them.
#[derive(Default)]
struct Model {
    /// Flows, and the ends between which they send and receive.
    flows: HashMap<FlowId, Option<Endpoints>>,
    parked: HashSet<Endpoints>,
    /// What was said and not heard yet.
    unheard: Vec<ToDriver>,
}

impl Model {
    /// Obeys; what it answers. With `fails`, ends are not installed.
    fn obey(&mut self, message: ToDriver, fails: bool) -> Option<FromDriver> {
        match message {
            ToDriver::AddFlow { flow, .. } => {
                assert!(self.flows.keys().all(|known| known.index != flow.index), "place in use");
                self.flows.insert(flow, None);
            }
            ToDriver::Attach { fib } => {
                let ends = fib.endpoints;
                let taken =
                    self.flows.iter().any(|(&of, &has)| of != fib.flow && has == Some(ends));
                match self.flows.get_mut(&fib.flow) {
                    Some(has) if !taken && !fails => {
                        *has = Some(ends);
                        self.parked.remove(&ends);
                    }
                    _ => {
                        let error = InstallError::InUse("by the model".into());
                        return Some(FromDriver::FlowFailed { flow: fib.flow, error });
                    }
                }
            }
            ToDriver::Detach { flow } => {
                if let Some(has) = self.flows.get_mut(&flow) {
                    *has = None;
                }
            }
            ToDriver::RemoveFlow { flow, parks } => {
                self.flows.remove(&flow);
                self.parked.extend(parks);
                let bill = Bill { rx_frames: u64::from(flow.index % 2), ..Bill::default() };
                return Some(FromDriver::FlowRemoved { flow, bill, settled: true });
            }
            ToDriver::Ping { tag } => return Some(FromDriver::Pong { tag }),
            ToDriver::Park { endpoints }
                if self.flows.values().all(|has| *has != Some(endpoints)) =>
            {
                self.parked.insert(endpoints);
            }
            ToDriver::Unpark { endpoints } => {
                self.parked.remove(&endpoints);
            }
            _ => {}
        }
        None
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Client, local port (of few), remote host (of few; 0 for none), whether TCP.
    Open(usize, u16, u8, bool),
    /// Client, which of its flows, and as above, and whether it waits for the neighbour.
    Attach(usize, usize, u16, u8, bool, bool),
    Detach(usize, usize),
    Close(usize, usize, bool),
    Bind(usize, u16, bool),
    Unbind(usize, u16, bool),
    Resolve(usize, u8),
    /// A client dies and another comes.
    Leave(usize),
    /// A host answers, from one of its stations.
    Answers(u8, u8),
    /// A segment or datagram for a port from a host.
    Frame(u16, u8, bool),
    /// The driver hears so many messages; whether it fails to attach.
    Obey(usize, bool),
    /// Milliseconds pass.
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (client, port, host, flow) = (0..3usize, 0..4u16, 0..5u8, 0..4usize);
    let step = prop_oneof![
        3 => (client.clone(), port.clone(), host.clone(), any::<bool>())
            .prop_map(|(a, b, c, d)| Step::Open(a, b, c, d)),
        6 => (client.clone(), flow.clone(), port.clone(), host.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(a, b, c, d, e, f)| Step::Attach(a, b, c, d, e, f)),
        1 => (client.clone(), flow.clone()).prop_map(|(a, b)| Step::Detach(a, b)),
        2 => (client.clone(), flow, any::<bool>()).prop_map(|(a, b, c)| Step::Close(a, b, c)),
        1 => (client.clone(), port.clone(), any::<bool>()).prop_map(|(a, b, c)| Step::Bind(a, b, c)),
        1 => (client.clone(), port.clone(), any::<bool>()).prop_map(|(a, b, c)| Step::Unbind(a, b, c)),
        1 => (client.clone(), 1..5u8).prop_map(|(a, b)| Step::Resolve(a, b)),
        1 => client.prop_map(Step::Leave),
        3 => (1..5u8, 0..2u8).prop_map(|(a, b)| Step::Answers(a, b)),
        1 => (port, 1..5u8, any::<bool>()).prop_map(|(a, b, c)| Step::Frame(a, b, c)),
        3 => (1..6usize, prop::bool::weighted(0.05)).prop_map(|(a, b)| Step::Obey(a, b)),
        2 => (0..2_000u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// Hosts that a random answer speaks for: 4 never answers.
fn host(number: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(THEIRS.to_bits() + u32::from(number) - 1)
}

struct Game {
    script: Script,
    driver: Model,
    clients: Vec<ClientId>,
    root: ClientId,
    /// What clients were told they have, and have not given back.
    bound: Vec<(ClientId, Transport, Sap)>,
    flows: Vec<(ClientId, FlowId)>,
}

impl Game {
    fn new() -> Self {
        let mut script = Script::new();
        let root = script.client(0);
        let clients = (0..3).map(|_| script.client(0)).collect();
        script.told.clear();
        script.knows_at_once = false;
        let driver = Model::default();
        Self { script, driver, clients, root, bound: Vec::new(), flows: Vec::new() }
    }

    fn flow(&self, client: usize, which: usize) -> FlowId {
        let mut of = self.flows.iter().filter(|(owner, _)| *owner == self.clients[client]);
        let none = FlowId { index: 77, generation: 0 };
        of.nth(which).map_or(none, |(_, flow)| *flow)
    }

    fn ends(port: u16, remote: u8, tcp: bool) -> Endpoints {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let remote = (remote > 0).then(|| Sap::new(host(remote).into(), 80));
        Endpoints { transport, local: Sap::new(OURS.into(), 4000 + port), remote }
    }

    fn ask(&mut self, client: usize, request: Request) {
        let call = Call { tag: 5, request };
        self.script.manager.request(self.script.now, self.clients[client], call, &NoCounters);
        self.hear();
    }

    /// Takes what the flow manager says: to clients at once, to the driver in order.
    fn hear(&mut self) {
        self.script.drain();
        for (client, answer) in std::mem::take(&mut self.script.answers) {
            match answer.reply {
                Reply::Opened { flow, .. } => self.flows.push((client, flow)),
                Reply::Lost { flow, .. } => self.flows.retain(|(_, known)| *known != flow),
                _ => {}
            }
        }
        self.driver.unheard.append(&mut self.script.told);
    }

    fn obey(&mut self, count: usize, mut fails: bool) {
        for _ in 0..count {
            if self.driver.unheard.is_empty() {
                return;
            }
            let message = self.driver.unheard.remove(0);
            fails &= matches!(message, ToDriver::Attach { .. });
            if let Some(answer) = self.driver.obey(message, fails) {
                self.script.manager.driver_message(LINK, answer);
                self.hear();
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open(client, port, remote, tcp) => {
                let endpoints = Some(Self::ends(port, remote, tcp));
                let contract = Contract::BEST_EFFORT;
                self.ask(client, Request::Open { link: 0, contract, layout: layout(), endpoints });
            }
            Step::Attach(client, which, port, remote, tcp, waits) => {
                let (flow, endpoints) = (self.flow(client, which), Self::ends(port, remote, tcp));
                self.ask(client, Request::Attach { flow, endpoints, waits });
            }
            Step::Detach(client, which) => {
                let flow = self.flow(client, which);
                self.ask(client, Request::Detach { flow });
            }
            Step::Close(client, which, waits) => {
                let flow = self.flow(client, which);
                self.flows.retain(|(_, known)| *known != flow);
                let time_wait =
                    waits.then_some(TimeWait { sequence: 1, acknowledgment: 1, clocks: None });
                self.ask(client, Request::Close { flow, time_wait });
            }
            Step::Bind(client, port, tcp) => {
                let Endpoints { transport, local, .. } = Self::ends(port, 0, tcp);
                let call = Call { tag: 5, request: Request::Bind { transport, local } };
                let id = self.clients[client];
                self.script.manager.request(self.script.now, id, call, &NoCounters);
                self.script.drain();
                if self
                    .script
                    .answers
                    .iter()
                    .any(|(_, answer)| matches!(answer.reply, Reply::Bound { .. }))
                {
                    self.bound.push((id, transport, local));
                }
                self.hear();
            }
            Step::Unbind(client, port, tcp) => {
                let Endpoints { transport, local, .. } = Self::ends(port, 0, tcp);
                let id = self.clients[client];
                self.bound.retain(|bound| *bound != (id, transport, local));
                self.ask(client, Request::Unbind { transport, local });
            }
            Step::Resolve(client, remote) => {
                self.ask(client, Request::Resolve { remote: host(remote).into() });
            }
            Step::Leave(client) => {
                let gone = self.clients[client];
                self.script.manager.client_left(gone);
                self.hear();
                self.flows.retain(|(owner, _)| *owner != gone);
                self.bound.retain(|(owner, ..)| *owner != gone);
                // What a client joins with is said to a driver that has heard everything.
                self.obey(usize::MAX, false);
                self.clients[client] = self.script.client(0);
            }
            Step::Answers(remote, station) => {
                if remote < 4 {
                    let mac = Mac([2, 0, 0, 0, remote, station]);
                    self.script.hear_arp(&Arp::reply(mac, host(remote), US, OURS));
                    self.hear();
                }
            }
            Step::Frame(port, remote, tcp) => {
                let mut frame = Vec::new();
                let to = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, remote, 0], US.0).ipv4(
                    host(remote).octets(),
                    OURS.octets(),
                    64,
                );
                if tcp {
                    to.tcp(80, 4000 + port, 1, 1000).syn().write(&mut frame, &[]).unwrap();
                } else {
                    to.udp(80, 4000 + port).write(&mut frame, &[]).unwrap();
                }
                self.script.manager.frame(self.script.now, LINK, &frame);
                self.hear();
            }
            Step::Obey(count, fails) => self.obey(count, fails),
            Step::Pass(ms) => {
                self.script.pass(ms * 1_000_000);
                self.hear();
            }
        }
    }

    /// What the flow manager says of every flow of a client, to anybody who may know.
    fn table(&mut self) -> HashMap<FlowId, Option<Endpoints>> {
        let query = Request::Query(Query::Flows { from: 0 });
        let call = Call { tag: 6, request: query };
        self.script.manager.request(self.script.now, self.root, call, &NoCounters);
        let Some(Output::Answer { answer, .. }) = self.script.manager.poll_output() else {
            panic!("no answer")
        };
        let Reply::Found(QueryReply::Flows { flows, next: None }) = answer.reply else {
            panic!("{answer:?}")
        };
        flows
            .into_iter()
            .filter(|info| info.pid != 0)
            .map(|info| (info.flow, info.endpoints))
            .collect()
    }

    /// Both tables, when the driver has heard everything. `settled` if no neighbour is being asked for.
    fn compare(&mut self, settled: bool) {
        let table = self.table();
        for (flow, has) in &self.driver.flows {
            let known = table.get(flow);
            assert!(known.is_some(), "the driver has a flow {flow} that nobody has");
            if let Some(ends) = has {
                assert_eq!(
                    known,
                    Some(&Some(*ends)),
                    "the driver lets {flow} speak for these ends"
                );
            }
        }
        for (flow, known) in &table {
            let has = self.driver.flows.get(flow);
            assert!(has.is_some(), "the driver has not heard of {flow}");
            if settled {
                assert_eq!(has, Some(known), "{flow} has its ends");
            }
        }
        let owner = |flow: FlowId| self.flows.iter().find(|(_, known)| *known == flow);
        for (&flow, has) in &self.driver.flows {
            let Some(ends) = has else { continue };
            let Some((owner, _)) = owner(flow) else { continue };
            let others = self.bound.iter().filter(|(of, ..)| of != owner);
            for (of, transport, sap) in others {
                assert!(
                    (ends.transport, ends.local) != (*transport, *sap),
                    "{flow} of {owner:?} speaks for what {of:?} has bound"
                );
            }
        }
        for ends in self.driver.flows.values().flatten() {
            assert!(!self.driver.parked.contains(ends), "what is parked belongs to nobody");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flow_manager_and_driver_agree_after_every_step(steps in steps()) {
        let mut game = Game::new();
        for step in steps {
            game.take(step);
            if game.driver.unheard.is_empty() {
                game.compare(false);
            }
        }
        // Nobody is asked for any more, and TIME-WAIT is over.
        game.script.pass(200 * S);
        game.hear();
        game.obey(usize::MAX, false);
        game.compare(true);
        prop_assert!(game.driver.parked.is_empty(), "{:?}", game.driver.parked);
    }
}
