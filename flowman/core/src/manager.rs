//! The flow manager: its tables, and what it hears from drivers and the wire.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use base_flow::{
    Admission, Bill, Endpoints, Fib, FlowId, LinkFacts, Prefix, Sap, Shares, Stray, Transport,
};
use base_rpc::{
    Answer, DomainId, FromDriver, InstallError, Refusal, Reply, Spender, StatusInfo, TimeWait,
    ToDriver,
};
use base_wire::{Arp, Mac};

use crate::accounts::Accounts;
use crate::config::{Config, LinkConfig, Policy};
use crate::conflicts::{Hellos, Kernels, Possession};
use crate::departed::Departed;
use crate::ends::Why;
use crate::flows::{Attachment, Closing, Flow, Flows};
use crate::last_resort::Station;
use crate::link::{Driver, Link, longest_frame_ns};
use crate::neighbours::{Event, Neighbours, Place};
use crate::own::OwnFlow;
use crate::paths::Paths;
use crate::ports::Ports;
use crate::replies::Replies;
use crate::routes::{Route, Routes};
use crate::segment::{Ends, Words};
use crate::time_wait::TimeWaits;

/// Names a connected application to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Names a link: its index in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// What the daemon is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send an answer to a client.
    Answer {
        /// To whom.
        client: ClientId,
        /// What.
        answer: Answer,
        /// Whether the descriptors of the message just handled go with it.
        with_descriptors: bool,
    },
    /// The driver made arenas for a client, with the descriptors of the message just handled: keep those of the
    /// arenas, and count what they hold ([`Counters::held_bytes`]), until client or driver is gone.
    Shares {
        /// Whose.
        client: ClientId,
        /// Which driver.
        link: LinkId,
    },
    /// Close a client's connection, after everything sent before.
    Disconnect {
        /// Whose.
        client: ClientId,
    },
    /// Send a message to a driver.
    Driver {
        /// Whose.
        link: LinkId,
        /// What.
        message: ToDriver,
    },
    /// Have the driver make arenas for the flow manager's own flows, as `domain`.
    JoinOwn {
        /// Which driver.
        link: LinkId,
        /// The name of the flow manager's domain.
        domain: DomainId,
    },
    /// The driver joined the own domain, with the descriptors of the message just handled: open
    /// these flows, and make each the last resort for its kind of frames.
    OpenOwn {
        /// Which driver.
        link: LinkId,
        /// The domain.
        domain: DomainId,
        /// The flows, as [`Stray::ALL`].
        flows: Box<[OwnFlow; Stray::COUNT]>,
    },
    /// The own flows do not work any more: let go of them, and say why.
    OwnLost {
        /// On which link.
        link: LinkId,
        /// What happened.
        reason: String,
    },
    /// Tell a driver that it is not wanted any more, and why. It has left already.
    RefuseDriver {
        /// Whose.
        link: LinkId,
        /// What to tell it.
        reason: String,
    },
    /// Tell whoever runs the flow manager.
    Say {
        /// What has happened, and what to do.
        words: String,
    },
    /// Send a frame through one of the flow manager's own flows.
    Frame {
        /// On which link.
        link: LinkId,
        /// Which flow: that for this kind of frames.
        stray: Stray,
        /// The frame.
        frame: Vec<u8>,
    },
}

/// Why a driver cannot join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// No link has this name.
    #[error("no link `{name}` is configured at this flow manager, which has {known}")]
    Unknown {
        /// The driver's interface.
        name: String,
        /// Links there are.
        known: String,
    },
    /// Another driver has joined.
    #[error("link {name} has a driver already")]
    Driven {
        /// The link.
        name: String,
    },
    /// There is no room for the flow manager's own flows.
    #[error("there are too many flows")]
    Full,
}

/// The drivers' counters, as the daemon sees them.
pub trait Counters {
    /// The bill of a flow.
    fn bill(&self, link: LinkId, flow: u32) -> Bill;
    /// The link's own bill, the time the line stood still, and the driver's processor time.
    fn link(&self, link: LinkId) -> (Bill, u64, u64);
    /// Real memory of the arenas that a client shares with a driver, in bytes, if somebody counts it.
    fn held_bytes(&self, _client: ClientId, _link: LinkId) -> u64 {
        0
    }
}

/// As if nothing had been counted.
pub(crate) struct NoCounters;

impl Counters for NoCounters {
    fn bill(&self, _link: LinkId, _flow: u32) -> Bill {
        Bill::default()
    }

    fn link(&self, _link: LinkId) -> (Bill, u64, u64) {
        Default::default()
    }
}

/// An application.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) greeted: bool,
    pub(crate) domains: BTreeMap<LinkId, ClientDomain>,
    pub(crate) flows: HashSet<FlowId>,
    pub(crate) waiting: usize,
}

/// An application's domain at a driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientDomain {
    pub(crate) id: DomainId,
    /// The request to answer when the driver has answered.
    pub(crate) joining: Option<u32>,
    /// What it has laid out by joining.
    pub(crate) bytes: u64,
    /// Until when it has no time of the driver left.
    pub(crate) spent_until: u64,
}

/// Who waits for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A flow, for the ends of its [`Asking`](crate::flows::Asking).
    Flow(FlowId),
    /// A client that asked only where it is: answer [`Reply::Resolved`].
    Resolve { client: ClientId, tag: u32, source: IpAddr, remote: IpAddr },
}

/// The flow manager.
pub struct FlowManager {
    pub(crate) policy: Policy,
    pub(crate) links: Vec<Link>,
    pub(crate) clients: HashMap<ClientId, Client>,
    pub(crate) flows: Flows,
    pub(crate) ports: Ports,
    pub(crate) routes: Routes,
    pub(crate) neighbours: Neighbours,
    pub(crate) waiting: HashMap<Place, Vec<Waiter>>,
    /// Until when users have no time of a driver left to join it.
    pub(crate) spent: HashMap<(LinkId, u32), u64>,
    /// Applications that are welcomed when the first link is open.
    pub(crate) waiting_hellos: Hellos,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) status: StatusInfo,
    pub(crate) replies: Replies,
    pub(crate) departed: Departed,
    pub(crate) time_waits: TimeWaits,
    /// What paths carry.
    pub(crate) paths: Paths,
    /// What users have open, for their quotas.
    pub(crate) accounts: Accounts,
    connections_max: u32,
    next_domain: u32,
    /// Flows whose drivers were asked to say that they know of their ends, by question.
    pub(crate) turning: HashMap<u64, FlowId>,
    pub(crate) next_ping: u64,
}

impl FlowManager {
    /// A flow manager for the links and the policy of `config`; `key` is drawn at random, and what
    /// strangers must not guess depends on it.
    pub fn new(config: Config, key: [u8; 16]) -> Self {
        let mut routes = Routes::default();
        for (index, link) in config.links.iter().enumerate() {
            let id = LinkId(index as u16);
            for prefix in &link.addresses {
                routes.add(Route { prefix: *prefix, gateway: None, link: id });
            }
            if let Some(gateway) = link.gateway {
                // Outside of all networks it is on the link all the same.
                let host = Prefix::new(gateway, if gateway.is_ipv4() { 32 } else { 128 });
                if routes.find(gateway).is_none_or(|(on, _)| on != id) {
                    let prefix = host.expect("as long as the address");
                    routes.add(Route { prefix, gateway: None, link: id });
                }
                let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                let prefix = all.parse().expect("a valid prefix");
                routes.add(Route { prefix, gateway: Some(gateway), link: id });
            }
        }
        let links = config
            .links
            .into_iter()
            .map(|config: LinkConfig| Link { config, driver: None, was_open: false })
            .collect();
        Self {
            policy: config.policy,
            links,
            clients: HashMap::new(),
            flows: Flows::default(),
            ports: Ports::new(key),
            routes,
            neighbours: Neighbours::default(),
            waiting: HashMap::new(),
            spent: HashMap::new(),
            waiting_hellos: Hellos::new(),
            outputs: VecDeque::new(),
            status: StatusInfo::default(),
            replies: Replies::new(key),
            departed: Departed::default(),
            time_waits: TimeWaits::default(),
            paths: Paths::default(),
            accounts: Accounts::default(),
            connections_max: u32::MAX,
            next_domain: 0,
            turning: HashMap::new(),
            next_ping: 0,
        }
    }

    /// What was answered so far; the counts of tables are filled in for queries only.
    pub const fn status(&self) -> &StatusInfo {
        &self.status
    }

    /// What the daemon is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// No more applications can be connected than this.
    pub const fn set_connections_max(&mut self, connections_max: u32) {
        self.connections_max = connections_max;
    }

    /// An application connected; the kernel says who it is.
    ///
    /// A user has no more connections than are left for others: so many users as may be, each wanting all there are,
    /// leave a part as large as theirs to the next one.
    ///
    /// # Errors
    ///
    /// Its user has as many as may be: it should be told so and sent away.
    pub fn client_joined(&mut self, client: ClientId, pid: i32, uid: u32) -> Result<(), Refusal> {
        let limit = self.policy.rights(uid).connections_max;
        let count = self.accounts.connections(uid);
        let free = self.connections_max.saturating_sub(self.clients.len() as u32);
        if count >= limit {
            let text = format!("user {uid} has {limit} connections, no more are allowed");
            return Err(Refusal::Quota(text));
        }
        if count >= free {
            return Err(Refusal::Quota(format!(
                "user {uid} has {count} connections, and the {free} that are left are for others: close one, or give the flow manager a higher limit of descriptors (`ulimit -Hn`)"
            )));
        }
        self.accounts.connect(uid);
        let known = Client {
            pid,
            uid,
            greeted: false,
            domains: BTreeMap::new(),
            flows: HashSet::new(),
            waiting: 0,
        };
        self.clients.insert(client, known);
        Ok(())
    }

    /// An application is gone, at whatever moment: everything it held is given back.
    pub fn client_left(&mut self, client: ClientId) {
        let Some(gone) = self.clients.remove(&client) else { return };
        for id in gone.flows {
            let flow = self.flows.get(id).cloned();
            let left = flow.and_then(|flow| self.mourn(&flow));
            self.close_connection(id, None, left.map(|ends| (ends, None)));
        }
        for (link, domain) in gone.domains {
            self.accounts.leave(gone.uid, (client, link), domain.bytes);
            self.tell_driver(link, ToDriver::RemoveDomain { domain: domain.id });
        }
        self.ports.forget(client);
        self.waiting_hellos.remove(&client);
        self.waiting.retain(|_, waiters| {
            waiters.retain(
                |waiter| !matches!(*waiter, Waiter::Resolve { client: of, .. } if of == client),
            );
            !waiters.is_empty()
        });
        self.accounts.disconnect(gone.uid);
    }

    /// The application of a flow has died: if it was a connection, its peer is to hear of it. What the
    /// connection leaves.
    fn mourn(&mut self, flow: &Flow) -> Option<Endpoints> {
        let &Fib { endpoints: ends, source, next_hop_mac, .. } = flow.attachment.fib()?;
        let mac = next_hop_mac?;
        if ends.transport != Transport::Tcp || ends.remote.is_none() {
            return None;
        }
        let ends = Endpoints { local: Sap::new(source, ends.local.port), ..ends };
        self.departed.add(ends, flow.link, mac);
        Some(ends)
    }

    /// The link that a driver of interface `name` would drive.
    pub fn link_named(&self, name: &str) -> Option<LinkId> {
        self.links.iter().position(|link| link.config.dev == name).map(|index| LinkId(index as u16))
    }

    /// A driver connected.
    ///
    /// # Errors
    ///
    /// Why it should be sent away.
    pub fn driver_joined(&mut self, facts: LinkFacts) -> Result<LinkId, Unwelcome> {
        let id = self.link_named(&facts.name).ok_or_else(|| {
            let known: Vec<&str> = self.links.iter().map(|link| link.config.dev.as_str()).collect();
            Unwelcome::Unknown { name: facts.name.clone(), known: known.join(", ") }
        })?;
        if self.links[usize::from(id.0)].driver.is_some() {
            return Err(Unwelcome::Driven { name: facts.name });
        }
        let own = self.new_own(id, &facts).ok_or(Unwelcome::Full)?;
        let admission = Admission::new(longest_frame_ns(&facts), self.policy.promisable_ppm);
        let shares = Shares::new(admission);
        let link = &mut self.links[usize::from(id.0)];
        link.driver = Some(Driver {
            facts,
            shares,
            own,
            possession: Possession::Unasked,
            defences: HashMap::new(),
            kernels: Kernels::new(),
        });
        let addresses = link.config.addresses.clone();
        let others = self.links.iter().enumerate().filter(|(at, _)| *at != usize::from(id.0));
        let elsewhere = others.flat_map(|(_, link)| link.config.addresses.clone()).collect();
        self.tell_driver(id, ToDriver::SetAddresses { addresses, elsewhere });
        // It knows nothing of the connections that the driver before it carried.
        for endpoints in self.time_waits.of(id) {
            self.tell_driver(id, ToDriver::Park { endpoints });
        }
        self.join_own(id, own.domain);
        Ok(id)
    }

    /// Links that no driver has joined.
    pub fn undriven(&self) -> impl Iterator<Item = &str> {
        let undriven = self.links.iter().filter(|link| link.driver.is_none());
        undriven.map(|link| link.config.dev.as_str())
    }

    /// A driver is gone: so are the flows of its link.
    pub fn driver_left(&mut self, link: LinkId) {
        self.settle_all(link);
        self.spent.retain(|(at, _), _| *at != link);
        let lost: Vec<FlowId> =
            self.flows.iter_from(0).filter(|flow| flow.link == link).map(|flow| flow.id).collect();
        for id in lost {
            self.forget_flow(id, "the driver of its link is gone");
        }
        let accounts = &mut self.accounts;
        let joined = |(&id, client): (&ClientId, &mut Client)| {
            let ClientDomain { joining, bytes, .. } = client.domains.remove(&link)?;
            accounts.leave(client.uid, (id, link), bytes);
            Some((id, joining?))
        };
        let joining: Vec<(ClientId, u32)> = self.clients.iter_mut().filter_map(joined).collect();
        for (client, tag) in joining {
            self.tell(client, tag, Reply::Refused(Refusal::NoLink { link: link.0 }));
        }
        self.links[usize::from(link.0)].driver = None;
        self.welcome_waiting();
    }

    /// A driver said something.
    pub fn driver_message(&mut self, link: LinkId, message: FromDriver) {
        match message {
            FromDriver::Hello { .. } | FromDriver::DomainRemoved { .. } => {}
            FromDriver::Pong { tag } => self.answered(link, tag),
            FromDriver::DomainAdded { domain, result } => self.domain_added(link, domain, result),
            FromDriver::FlowFailed { flow, error } if self.is_own(link, flow) => {
                self.own_lost(link, format!("driver: {error}"));
            }
            FromDriver::FlowFailed { flow, error } => {
                let found = self.flows.get(flow).filter(|found| found.closing.is_none());
                if let Some(client) = found.map(|found| found.client) {
                    if let Some(client) = client {
                        let reason = format!("driver: {error}");
                        self.tell(client, 0, Reply::Lost { flow, reason });
                    }
                    self.close(flow, None);
                }
            }
            FromDriver::FlowRemoved { flow, bill, settled } => {
                self.flow_removed(flow, bill, settled);
            }
            FromDriver::Settled { flow, change } => self.settled(flow, link, change),
            FromDriver::Spent { whose, until_ns } => self.spent(link, whose, until_ns),
            FromDriver::Carries { mtu, unit_bytes } => self.carries(link, mtu, unit_bytes),
            FromDriver::CameUp => self.came_up(link),
            FromDriver::KernelAddress { prefix, dev, taken } => {
                self.kernel_address(link, prefix, &dev, taken);
            }
            FromDriver::Fault { flow, fault } if self.is_own(link, flow) => {
                self.own_lost(link, format!("driver: {fault}"));
            }
            FromDriver::Fault { flow, fault } => {
                let reason = format!("the application broke the rules of the channel: {fault}");
                if let Some(found) = self.flows.get(flow)
                    && let Some(client) = found.client
                {
                    self.tell(client, 0, Reply::Lost { flow, reason });
                    self.close(flow, None);
                }
            }
        }
    }

    /// Nothing is asked of the driver for `whose` before `until_ns`.
    fn spent(&mut self, link: LinkId, whose: Spender, until_ns: u64) {
        match whose {
            Spender::User(uid) => {
                // Of others it is over by now.
                self.spent.retain(|_, until| *until + Spender::NS_MAX > until_ns);
                self.spent.insert((link, uid), until_ns);
            }
            Spender::Domain(id) => {
                let domains =
                    self.clients.values_mut().filter_map(|client| client.domains.get_mut(&link));
                domains.filter(|domain| domain.id == id).for_each(|domain| {
                    domain.spent_until = until_ns;
                });
            }
        }
    }

    fn domain_added(&mut self, link: LinkId, domain: DomainId, result: Result<(), InstallError>) {
        if let Some(driver) = &self.links[usize::from(link.0)].driver
            && driver.own.domain == domain
        {
            match result {
                Ok(()) => self.open_own(link),
                Err(error) => self.own_lost(link, format!("driver: {error}")),
            }
            return;
        }
        let owner = self.clients.iter_mut().find_map(|(&id, client)| {
            let found = client.domains.get_mut(&link).filter(|found| found.id == domain)?;
            Some((id, found.joining.take()?))
        });
        // A client that left meanwhile is followed by RemoveDomain.
        let Some((client, tag)) = owner else { return };
        match result {
            Ok(()) => {
                self.outputs.push_back(Output::Shares { client, link });
                self.outputs.push_back(Output::Answer {
                    client,
                    answer: Answer { tag, reply: Reply::Joined },
                    with_descriptors: true,
                });
            }
            Err(error) => {
                if let Some(known) = self.clients.get_mut(&client)
                    && let Some(ClientDomain { bytes, .. }) = known.domains.remove(&link)
                {
                    self.accounts.leave(known.uid, (client, link), bytes);
                }
                self.tell(client, tag, Reply::Refused(Refusal::Driver(error)));
            }
        }
    }

    fn flow_removed(&mut self, id: FlowId, bill: Bill, settled: bool) {
        self.change_ends(id, Attachment::Detached, Why::Closed);
        let Some(flow) = self.flows.retire(id) else { return };
        if let Some(Closing { local: Some((transport, local)), .. }) = flow.closing {
            self.ports.closed(flow.uid, transport, local);
        }
        // A connection of which nothing was ever received, by a listener neither, has left nothing in the
        // network.
        if let Some(ends) = flow.left
            && bill.rx_frames == 0
            && !flow.accepted
            && self.time_waits.is_of(id, ends)
        {
            self.forget_wait(ends);
        }
        // Our own are promised to nobody.
        let Some(owner) = flow.client else { return self.flows.give_place(id) };
        self.accounts.give_back(flow.uid, flow.bytes);
        self.accounts.changed(flow.uid, (owner, flow.link));
        if let Some(Closing { tag: Some(tag), .. }) = flow.closing {
            let bill = flow.bill(bill);
            self.tell(owner, tag, Reply::Closed { bill });
        }
        self.leave(id, flow.link);
        if settled {
            self.settled(id, flow.link, None);
        }
    }

    /// Starts closing a flow: it receives nothing any more, and its ends are free for its user. Its ends
    /// for others are free when it has sent what it had accepted, which its driver sees to, for a while; its
    /// place and its share of the line when that is paid for, too.
    pub(crate) fn close(&mut self, id: FlowId, tag: Option<u32>) {
        self.close_connection(id, tag, None);
    }

    /// As [`Self::close`]; if the flow was a connection that leaves something, its ends are not free yet.
    /// The driver hears both at once: a segment that came in between would reach who listens there, and what
    /// followed it nobody.
    pub(crate) fn close_connection(
        &mut self,
        id: FlowId,
        tag: Option<u32>,
        left: Option<(Endpoints, Option<TimeWait>)>,
    ) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.closing.is_some() {
            return;
        }
        let local = flow.attachment.endpoints().map(|ends| (ends.transport, ends.local));
        let (link, client, uid) = (flow.link, flow.client, flow.uid);
        flow.closing = Some(Closing { tag, local });
        self.change_ends(id, Attachment::Detached, Why::Closed);
        if let Some((transport, local)) = local {
            self.ports.closing(uid, transport, local);
        }
        if let Some(client) = client.and_then(|client| self.clients.get_mut(&client)) {
            client.flows.remove(&id);
        }
        let parks = left.and_then(|(ends, what)| self.wait_between(ends, id, what));
        self.tell_driver(link, ToDriver::RemoveFlow { flow: id, parks });
    }

    /// Removes a flow whose driver is gone from the table, and tells its owner.
    fn forget_flow(&mut self, id: FlowId, reason: &str) {
        self.change_ends(id, Attachment::Detached, Why::Closed);
        let Some(flow) = self.flows.remove(id) else { return };
        if let Some(Closing { local: Some((transport, local)), .. }) = flow.closing {
            self.ports.closed(flow.uid, transport, local);
        }
        let Some(client) = flow.client else { return };
        self.accounts.give_back(flow.uid, flow.bytes);
        self.accounts.settle(flow.uid);
        if let Some(owner) = self.clients.get_mut(&client) {
            owner.flows.remove(&id);
            match flow.closing {
                Some(Closing { tag: Some(tag), .. }) => {
                    self.tell(client, tag, Reply::Closed { bill: Bill::default() });
                }
                Some(_) => {}
                None => {
                    self.tell(client, 0, Reply::Lost { flow: id, reason: reason.to_string() });
                }
            }
        }
    }

    /// A connection's flow goes, and its ends are not free yet: which ends its driver is to park.
    fn wait_between(
        &mut self,
        ends: Endpoints,
        id: FlowId,
        what: Option<TimeWait>,
    ) -> Option<Endpoints> {
        let flow = self.flows.get_mut(id)?;
        let remote = ends.remote.filter(|_| ends.transport == Transport::Tcp)?;
        let waits = self.time_waits.add(ends, flow.link, (flow.uid, id), what);
        flow.left = waits.then_some((ends.local, remote)).or(flow.left);
        waits.then_some(ends)
    }

    /// A user asked for a port and has it: what other users' connections left there is forgotten.
    pub(crate) fn port_given(&mut self, uid: u32, transport: Transport, local: Sap) {
        if transport == Transport::Tcp {
            let left: Vec<Ends> = self.time_waits.others_at(uid, local).collect();
            for ends in left {
                self.forget_wait(ends);
            }
        }
    }

    fn forget_wait(&mut self, ends: Ends) {
        if let Some(link) = self.time_waits.remove(ends) {
            self.let_go(link, ends);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        let mut events = Vec::new();
        self.neighbours.tick(now_ns, &mut events);
        self.neighbour_events(events);
        self.paths.tick(now_ns);
        for (link, endpoints) in self.time_waits.tick(now_ns) {
            self.tell_driver(link, ToDriver::Unpark { endpoints });
        }
        for (link, mac, ends) in self.departed.tick(now_ns) {
            let station = self.station(link);
            let frame = station.and_then(|us| Words::question().frame(us, mac, ends));
            if let Some(frame) = frame {
                self.send(link, Stray::Parked, frame);
            }
        }
        self.reopen_own(now_ns);
        self.tick_possession(now_ns);
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        [
            self.neighbours.next_deadline(),
            self.departed.next_deadline(),
            self.time_waits.next_deadline(),
            self.paths.next_deadline(),
            self.own_deadline(),
            self.possession_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn neighbour_events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ask(place, to) => self.ask(place, to),
                Event::Lost(place) => self.found(place, None),
                // What was lost may be found elsewhere.
                Event::Found(place, mac) | Event::Moved(place, mac) => {
                    self.found(place, Some(mac));
                    self.reorganise(place, mac);
                }
            }
        }
    }

    fn ask(&mut self, (link, address): Place, to: Option<Mac>) {
        let IpAddr::V4(target) = address else { return };
        let (Some(station), Some(IpAddr::V4(source))) =
            (self.station(link), self.links[usize::from(link.0)].source_for(address))
        else {
            return;
        };
        let frame =
            station.arp(to.unwrap_or(Mac::BROADCAST), &Arp::request(station.mac, source, target));
        self.send(link, Stray::Neighbours, frame);
    }

    /// A link carries smaller packets from now on, or as large ones as before: one call-back to each
    /// application, for all its flows there. Templates say nothing about size; the driver sees to it.
    fn carries(&mut self, id: LinkId, mtu: u16, unit_bytes: u16) {
        let Some(driver) = &mut self.links[usize::from(id.0)].driver else { return };
        let mtu = mtu.min(driver.facts.mtu_max);
        (driver.facts.mtu, driver.facts.unit_bytes) = (mtu, unit_bytes);
        for fib in self.flows.fibs_of(id) {
            (fib.mtu, fib.unit_bytes) = (mtu, unit_bytes);
        }
        let mut owners: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.domains.contains_key(&id))
            .map(|(&owner, _)| owner)
            .collect();
        owners.sort_unstable();
        for owner in owners {
            self.tell(owner, 0, Reply::Carries { link: id.0, mtu, unit_bytes });
        }
    }

    pub(crate) fn station(&self, link: LinkId) -> Option<Station> {
        let facts = &self.links.get(usize::from(link.0))?.driver.as_ref()?.facts;
        Some(Station { mac: facts.mac, vlan: facts.vlan })
    }

    pub(crate) fn tell(&mut self, client: ClientId, tag: u32, reply: Reply) {
        let answer = Answer { tag, reply };
        self.outputs.push_back(Output::Answer { client, answer, with_descriptors: false });
    }

    pub(crate) fn tell_driver(&mut self, link: LinkId, message: ToDriver) {
        if self.links.get(usize::from(link.0)).is_none_or(|link| link.driver.is_none()) {
            return;
        }
        self.outputs.push_back(Output::Driver { link, message });
    }

    /// Whether a link can be used.
    pub(crate) fn is_open(&self, link: LinkId) -> bool {
        self.links.get(usize::from(link.0)).is_some_and(Link::is_open)
    }

    /// Sends a frame through the own flow for this kind, unless our addresses are not ours yet.
    pub(crate) fn send(&mut self, link: LinkId, stray: Stray, frame: Vec<u8>) {
        if !self.is_open(link) {
            return;
        }
        self.outputs.push_back(Output::Frame { link, stray, frame });
    }

    pub(crate) fn new_domain(&mut self) -> DomainId {
        self.next_domain = self.next_domain.wrapping_add(1);
        DomainId(self.next_domain)
    }
}
