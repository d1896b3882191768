//! The world: a flow manager, a driver, applications, a wire and a peer, and the time they share.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use base_flow::{Bill, Contract, Endpoints, Rate, Sap, Stray, Transport};
use base_rpc::{Answer, Call, DomainId, FromDriver, JoinOffer, Refusal, Reply, Request, ToDriver};
use base_wire::Mac;
use driver_core::{Driver, HeapArenas, Limits, bill_words};
use driver_link::sim::{Impairments, Side, SimLink, Wire};
use flowman_core::{ClientId, Config, Counters, FlowManager, LinkConfig, LinkId, Output, OwnFlow};
use rbuf_channel::HeapWords;

use crate::app::{App, AppId, Consumed, Opening, lay_out};
use crate::own::{self, Own};
use crate::peer::Peer;

/// Plumb's address in a world.
pub const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The peer's address.
pub const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const MTU: u16 = 1500;
const LINK: LinkId = LinkId(0);
/// Applications look after their channels this often; the driver looks when there is something.
const APP_NS: u64 = 500_000;
/// Places in the receive ring of the link, as a packet socket has.
const RING_SLOTS: usize = 1024;

/// What the driver's work costs it in virtual time. All zero: its processor is infinitely fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Costs {
    /// To look at a frame that arrived and decide whose it is.
    pub classify_ns: u64,
    /// To deliver it too: copy, publish, wake the owner.
    pub deliver_ns: u64,
    /// To check and send a frame.
    pub send_ns: u64,
}

/// A whole system in virtual time.
pub struct World {
    now: u64,
    wire: Wire,
    peer: Peer,
    driver: Driver<SimLink, HeapArenas, HeapWords>,
    manager: FlowManager,
    own: Option<Own>,
    apps: Vec<App>,
    openings: HashMap<ClientId, Opening>,
    answers: HashMap<ClientId, Vec<Reply>>,
    own_arenas: Option<HeapArenas>,
    clients: u64,
    costs: Costs,
    /// Until when the driver is busy with what it last took on, and how long it was altogether.
    driver_busy_until: u64,
    driver_ns: u64,
}

struct NoCounters;

impl Counters for NoCounters {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        (Bill::default(), 0, 0)
    }
}

impl World {
    /// A world with a wire of `rate`; whatever is left to chance follows from `seed`.
    ///
    /// # Panics
    ///
    /// Never: all its parts are of the right size.
    pub fn new(rate: Rate, seed: u64) -> Self {
        let wire = Wire::new(rate, seed);
        let limits = Limits { flows_max: 1024, ..Limits::default() };
        let link = wire.link(Side::Left, OUR_MAC, MTU).with_ring(RING_SLOTS);
        let counters = HeapWords::new(bill_words(limits.flows_max));
        let driver = Driver::new(link, rate, 0, limits, counters, [seed, !seed], 0)
            .expect("counters of the right size");
        let config = LinkConfig {
            dev: "sim".into(),
            addresses: vec![format!("{OUR_ADDRESS}/24").parse().expect("a valid prefix")],
            gateway: None,
            rate: None,
            vlan: None,
            probe_wait_ms: 0,
        };
        let manager =
            FlowManager::new(Config { links: vec![config], ..Config::default() }, [7; 16]);
        let peer = Peer::new(wire.clone(), PEER_MAC, PEER_ADDRESS);
        let mut world = Self {
            now: 0,
            wire,
            peer,
            driver,
            manager,
            own: None,
            apps: Vec::new(),
            openings: HashMap::new(),
            answers: HashMap::new(),
            own_arenas: None,
            clients: 0,
            costs: Costs::default(),
            driver_busy_until: 0,
            driver_ns: 0,
        };
        let facts = world.driver.facts("sim", "sim");
        world.manager.driver_joined(facts).expect("its only driver is wanted");
        world.carry_out();
        world
    }

    /// Virtual time, in nanoseconds.
    pub const fn now_ns(&self) -> u64 {
        self.now
    }

    /// The host at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The host at the other end, to configure it.
    pub const fn peer_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Sets what happens to frames that `from` sends.
    pub fn impair(&self, from: Side, impairments: Impairments) {
        self.wire.impair(from, impairments);
    }

    /// An application that opens a UDP flow to `port` of the peer under `contract`.
    ///
    /// # Errors
    ///
    /// What the flow manager says.
    pub fn connect(&mut self, contract: Contract, port: u16) -> Result<AppId, Refusal> {
        self.clients += 1;
        let client = ClientId(self.clients);
        let (arenas, layout) = lay_out(MTU);
        self.manager.client_joined(client, self.clients as i32, 0)?;
        self.openings.insert(client, Opening { arenas, layout, domain: None });
        self.ask(client, Request::Hello);
        self.ask(client, Request::Join(JoinOffer { link: 0, flows_max: 1 }));
        let endpoints = Endpoints {
            transport: Transport::Udp,
            local: Sap::any_v4(port),
            remote: Some(Sap::new(PEER_ADDRESS.into(), port)),
        };
        let open = Request::Open { link: 0, contract, layout, endpoints: Some(endpoints) };
        self.ask(client, open);
        // The answer may wait for ARP, which is retried.
        for _ in 0..100 {
            for reply in self.answers.remove(&client).unwrap_or_default() {
                match reply {
                    Reply::Opened { fib: Some(fib), .. } => {
                        let opening = &self.openings[&client];
                        let app = App::new(&opening.arenas, &opening.layout, &fib);
                        self.apps.push(app.ok_or_else(|| Refusal::Unsupported("layout".into()))?);
                        return Ok(AppId(self.apps.len() - 1));
                    }
                    Reply::Refused(refusal) => return Err(refusal),
                    _ => {}
                }
            }
            self.run_for(100_000_000);
        }
        Err(Refusal::Unreachable { address: PEER_ADDRESS.into() })
    }

    /// From now on the application sends datagrams of `bytes` as fast as it can.
    pub fn saturate(&mut self, app: AppId, bytes: usize) {
        self.apps[app.0].saturate_bytes = bytes;
    }

    /// What the driver's work costs from now on.
    pub const fn charge(&mut self, costs: Costs) {
        self.costs = costs;
    }

    /// Processor time of the driver so far.
    pub const fn driver_ns(&self) -> u64 {
        self.driver_ns
    }

    /// Driver time billed to flows so far, the flow manager's own included.
    pub fn billed_ns(&self) -> u64 {
        let mut flows: Vec<_> = self.apps.iter().map(|app| app.flow).collect();
        flows.extend(self.own.iter().flat_map(Own::ids));
        let bills = flows.into_iter().filter_map(|flow| self.driver.flow_bill(flow));
        bills.map(|bill| bill.tx_cpu_ns + bill.rx_cpu_ns).sum()
    }

    /// The link's own bill: frames of no flow, and time nobody caused.
    pub fn link_bill(&self) -> Bill {
        self.driver.link_bill()
    }

    /// From now on the application reads one datagram at a time, as soon as it has one and is not
    /// busy, and works on it for as long as `work_ns` says of the number it has read before.
    pub fn consume(&mut self, app: AppId, work_ns: impl Fn(u64) -> u64 + 'static) {
        self.apps[app.0].consumer = Some(Box::new(work_ns));
    }

    /// What an application has read one at a time.
    pub fn consumed(&self, app: AppId) -> &[Consumed] {
        &self.apps[app.0].consumed
    }

    /// Sends one datagram; `false` if no buffer is free.
    pub fn send(&mut self, app: AppId, payload: &[u8]) -> bool {
        self.apps[app.0].send(payload)
    }

    /// Takes what the application has received.
    pub fn received(&mut self, app: AppId) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.apps[app.0].received)
    }

    /// The application's bill.
    pub fn bill(&self, app: AppId) -> Bill {
        self.driver.flow_bill(self.apps[app.0].flow).unwrap_or_default()
    }

    /// ARP requests the flow manager has answered.
    pub fn arp_answered(&self) -> u64 {
        self.manager.status().arp_answered
    }

    /// Lets `ns` nanoseconds pass.
    pub fn run_for(&mut self, ns: u64) {
        let end = self.now + ns;
        let mut apps_at = self.now;
        while self.now < end {
            self.wire.advance(self.now);
            self.peer.work(self.now, OUR_ADDRESS);
            self.peer.poll();
            if self.now >= apps_at {
                for app in self.apps.iter_mut().filter(|app| app.consumer.is_none()) {
                    app.work();
                }
                apps_at = self.now + APP_NS;
            }
            self.reveal();
            self.run_consumers();
            let driver = if self.now >= self.driver_busy_until {
                self.drive()
            } else {
                Some(self.driver_busy_until)
            };
            self.reveal();
            let consumer = self.run_consumers();
            let events = [
                driver,
                consumer,
                self.wire.next_arrival(Side::Left).filter(|_| self.now >= self.driver_busy_until),
                self.wire.next_arrival(Side::Right),
                self.peer.next_send(),
                self.manager.next_deadline(),
                Some(apps_at),
            ];
            let next =
                events.into_iter().flatten().filter(|&at| at > self.now).min().unwrap_or(end);
            self.now = if driver == Some(self.now) { self.now + 1 } else { next.min(end) };
        }
    }

    /// One round of the driver and what it makes the flow manager do; returns when it wants the
    /// next one.
    fn drive(&mut self) -> Option<u64> {
        let sent_before = self.tally();
        let mut elapsed = 0;
        loop {
            let before = self.tally();
            let used = self.driver_ns + elapsed;
            let received = self.driver.receive(self.now, &mut || used) as u64;
            let delivered = self.tally().0 - before.0;
            let round = received * self.costs.classify_ns + delivered * self.costs.deliver_ns;
            elapsed += round;
            self.driver.bill(self.driver_ns + elapsed);
            if received == 0 || elapsed > 0 {
                break;
            }
        }
        self.hear_strays();
        self.manager.tick(self.now);
        self.carry_out();
        let used = self.driver_ns + elapsed;
        let until = self.driver.transmit(self.now, &mut || used);
        self.hear_removed();
        for settled in self.driver.take_settled(self.now) {
            self.manager.driver_message(LINK, settled);
        }
        self.carry_out();
        let sending = (self.tally().1 - sent_before.1) * self.costs.send_ns;
        elapsed += sending;
        self.driver_ns += elapsed;
        self.driver.bill(self.driver_ns);
        self.driver_busy_until = self.now + elapsed;
        if elapsed > 0 { Some(self.driver_busy_until) } else { until }
    }

    /// Frames delivered and frames sent so far, of all flows; nothing if they cost nothing.
    fn tally(&self) -> (u64, u64) {
        if self.costs == Costs::default() {
            return (0, 0);
        }
        let mut flows: Vec<_> = self.apps.iter().map(|app| app.flow).collect();
        flows.extend(self.own.iter().flat_map(Own::ids));
        let bills = flows.into_iter().filter_map(|flow| self.driver.flow_bill(flow));
        bills.fold((0, 0), |(rx, tx), bill| (rx + bill.rx_frames, tx + bill.tx_frames))
    }

    /// What the driver has delivered is there when it is done with the round.
    fn reveal(&mut self) {
        if self.now >= self.driver_busy_until {
            for app in self.apps.iter_mut().filter(|app| app.consumer.is_some()) {
                app.delivered = self.driver.flow_bill(app.flow).map_or(0, |bill| bill.rx_frames);
            }
        }
    }

    /// Applications that read one datagram at a time do so, unless they are busy. Returns when one
    /// of them goes on.
    fn run_consumers(&mut self) -> Option<u64> {
        let mut next = None;
        for app in self.apps.iter_mut().filter(|app| app.consumer.is_some()) {
            if app.busy_until <= self.now && app.taken < app.delivered {
                app.consume(self.now);
            }
            if app.taken < app.delivered {
                let at = app.busy_until.max(self.now + 1);
                next = Some(next.map_or(at, |next: u64| next.min(at)));
            }
        }
        next
    }

    fn ask(&mut self, client: ClientId, request: Request) {
        let call = Call { tag: 1, request };
        self.manager.request(self.now, client, call, &NoCounters);
        self.carry_out();
    }

    /// Frames nobody claimed go to the flow manager.
    fn hear_strays(&mut self) {
        let frames = self.own.as_mut().map(Own::receive).unwrap_or_default();
        for frame in frames {
            self.manager.frame(self.now, LINK, &frame);
        }
    }

    /// Does what the flow manager decided.
    fn carry_out(&mut self) {
        while let Some(output) = self.manager.poll_output() {
            match output {
                Output::Answer { client, answer: Answer { reply, .. }, .. } => {
                    self.answers.entry(client).or_default().push(reply);
                }
                // Its memory is this process's.
                Output::Shares { .. } => {}
                Output::Disconnect { client } => self.manager.client_left(client),
                Output::Driver { message, .. } => self.tell_driver(message),
                Output::JoinOwn { domain, .. } => self.join_own(domain),
                Output::OpenOwn { domain, flows, .. } => self.open_own(domain, &flows),
                Output::OwnLost { .. } => self.own = None,
                Output::RefuseDriver { reason, .. } => {
                    unreachable!("nobody has its address: {reason}")
                }
                Output::Say { .. } => {}
                Output::Frame { stray, frame, .. } => {
                    if let Some(own) = &mut self.own {
                        own.send(stray, &frame);
                    }
                }
            }
        }
    }

    fn tell_driver(&mut self, message: ToDriver) {
        let failed = match message {
            ToDriver::Refused { reason } => unreachable!("its only driver is wanted: {reason}"),
            ToDriver::AddDomain { domain, flows_max, user } => {
                let opening = self.openings.values_mut().find(|opening| opening.domain.is_none());
                if let Some(opening) = opening {
                    opening.domain = Some(domain);
                    let arenas = opening.arenas.clone();
                    let result = self.driver.add_domain(domain, arenas, flows_max, user);
                    self.manager.driver_message(LINK, FromDriver::DomainAdded { domain, result });
                }
                None
            }
            ToDriver::RemoveDomain { domain } => {
                self.driver.remove_domain(domain, self.now);
                None
            }
            ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb, after } => self
                .driver
                .add_flow(flow, domain, &layout, &contract, rx_cpu_ppb, &after)
                .err()
                .map(|error| (flow, error)),
            ToDriver::Attach { fib } => {
                self.driver.attach(&fib, self.now).err().map(|error| (fib.flow, error))
            }
            ToDriver::Detach { flow } => {
                self.driver.detach(flow);
                None
            }
            ToDriver::RemoveFlow { flow, parks } => {
                self.driver.remove_connection(flow, parks.as_ref(), self.now);
                None
            }
            ToDriver::SetContract { flow, contract, change, after } => {
                self.driver.set_contract(flow, &contract, change, &after, self.now);
                None
            }
            ToDriver::SetAddresses { addresses, elsewhere } => {
                self.driver.set_addresses(&addresses);
                self.driver.set_elsewhere(&elsewhere);
                None
            }
            ToDriver::SetLastResort { stray, flow, pace } => {
                let set = self.driver.set_last_resort(stray, flow, pace, self.now);
                set.err().map(|error| (flow, error))
            }
            ToDriver::Park { endpoints } => {
                self.driver.park(&endpoints);
                None
            }
            ToDriver::Unpark { endpoints } => {
                self.driver.unpark(&endpoints);
                None
            }
            ToDriver::Inject { frame } => {
                self.driver.inject_frame(&frame, self.now);
                None
            }
            ToDriver::Ping { .. } => None,
        };
        if let Some((flow, error)) = failed {
            self.manager.driver_message(LINK, FromDriver::FlowFailed { flow, error });
        }
        self.hear_removed();
    }

    /// Flows that are closed are gone when what they had to send has left.
    fn hear_removed(&mut self) {
        for removed in self.driver.take_removed() {
            self.manager.driver_message(LINK, removed);
        }
    }

    fn join_own(&mut self, domain: DomainId) {
        let (arenas, flows_max) = own::arenas();
        let user = base_rpc::DomainUser::FLOW_MANAGER;
        let result = self.driver.add_domain(domain, arenas.clone(), flows_max, user);
        self.own_arenas = Some(arenas);
        self.manager.driver_message(LINK, FromDriver::DomainAdded { domain, result });
    }

    fn open_own(&mut self, domain: DomainId, flows: &[OwnFlow; Stray::COUNT]) {
        let Some(arenas) = self.own_arenas.take() else { return };
        let Some((own, messages)) = Own::open(&arenas, domain, flows) else { return };
        self.own = Some(own);
        for message in messages {
            self.tell_driver(message);
        }
    }
}
