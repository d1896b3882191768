//! What applications ask for, and what they get.

use std::net::IpAddr;

use base_flow::{Begin, Contract, Endpoints, FlowId, Sap, Transport, canonical};
use base_rpc::{
    Call, DomainUser, FlowInfo, FlowLayout, JoinOffer, LinkInfo, NeighbourInfo, Query, QueryReply,
    Refusal, Reply, Request, RouteInfo, StatusInfo, ToDriver,
};
use base_wire::Mac;

use crate::accounts::{flow_bytes, join_bytes};
use crate::config::Rights;
use crate::conflicts::HELLO_NS;
use crate::ends::Why;
use crate::flows::{Asking, Attachment};
use crate::manager::{
    Client, ClientDomain, ClientId, Counters, FlowManager, LinkId, Output, Waiter,
};
use crate::neighbours::{Lookup, Place};
use crate::ports::Taken;

/// Requests of one client that may wait for neighbours.
const WAITING_MAX: usize = 64;
/// Flows in one page of an answer.
const PAGE: usize = 64;

impl FlowManager {
    /// An application asks.
    pub fn request(&mut self, now_ns: u64, client: ClientId, call: Call, counters: &impl Counters) {
        let Some(known) = self.clients.get(&client) else { return };
        let Call { tag, request } = call;
        let wrong = if !known.greeted && request != Request::Hello {
            Some(Refusal::Order("say hello first".into()))
        } else if tag == 0 {
            Some(Refusal::Order("tag 0 is for call-backs".into()))
        } else {
            None
        };
        if let Some(refusal) = wrong {
            // Whoever cannot get this right will not get the rest right.
            self.tell(client, tag, Reply::Refused(refusal));
            self.outputs.push_back(Output::Disconnect { client });
            return;
        }
        match self.serve(now_ns, client, tag, request, counters) {
            Ok(Some(reply)) => self.tell(client, tag, reply),
            Ok(None) => {}
            Err(refusal) => self.tell(client, tag, Reply::Refused(refusal)),
        }
    }

    /// The link whose driver will have to be told of a request, if there is one.
    pub fn driver_for(&self, request: &Request) -> Option<LinkId> {
        match request {
            Request::Join(JoinOffer { link, .. }) | Request::Open { link, .. } => {
                Some(LinkId(*link))
            }
            Request::Attach { flow, .. }
            | Request::Detach { flow }
            | Request::Close { flow, .. }
            | Request::AdjustQos { flow, .. } => self.flows.get(*flow).map(|flow| flow.link),
            Request::Hello
            | Request::Bind { .. }
            | Request::Unbind { .. }
            | Request::PathCarries { .. }
            | Request::Strangers { .. }
            | Request::Resolve { .. }
            | Request::Query(_) => None,
        }
    }

    /// Until when a request of `client` has to wait, because it, or its user, has no time left of the driver that
    /// would have to be told of it.
    pub fn spent_until(&self, now_ns: u64, client: ClientId, request: &Request) -> Option<u64> {
        let link = self.driver_for(request)?;
        let client = self.clients.get(&client)?;
        let until_ns = match request {
            Request::Join(_) => *self.spent.get(&(link, client.uid))?,
            _ => client.domains.get(&link)?.spent_until,
        };
        (until_ns > now_ns).then_some(until_ns)
    }

    /// A message that could not be read: its sender is told why, and sent away.
    pub fn unreadable(&mut self, client: ClientId, refusal: Refusal) {
        self.tell(client, 0, Reply::Refused(refusal));
        self.outputs.push_back(Output::Disconnect { client });
    }

    /// Does what is asked; `None` if the answer comes later.
    fn serve(
        &mut self,
        now: u64,
        client: ClientId,
        tag: u32,
        request: Request,
        counters: &impl Counters,
    ) -> Result<Option<Reply>, Refusal> {
        match request {
            Request::Hello => {
                self.client(client)?.greeted = true;
                if self.is_about_to_open() {
                    let waits = (tag, now + HELLO_NS);
                    if self.waiting_hellos.insert(client, waits).is_some() {
                        return Err(Refusal::Order("hello was said already".into()));
                    }
                    return Ok(None);
                }
                let flows_max = self.rights(client).flows_max;
                Ok(Some(Reply::Welcome { links: self.link_infos(counters), flows_max }))
            }
            Request::Join(offer) => self.join(client, tag, offer, counters).map(|()| None),
            Request::Bind { transport, local } => {
                let local = self.checked_local(client, transport, local, 0)?;
                let whose = (client, self.client(client)?.uid);
                let bound = self.ports.bind(whose, transport, local, &self.time_waits);
                let bound = bound.map_err(taken(transport, local))?;
                self.port_given(whose.1, transport, bound);
                Ok(Some(Reply::Bound { local: bound }))
            }
            Request::Unbind { transport, local } => {
                let local = Sap::new(canonical(local.address), local.port);
                if self.ports.unbind(client, transport, local) {
                    Ok(Some(Reply::Done))
                } else {
                    Err(Refusal::Order(format!(
                        "{transport} {local} was not bound by this application"
                    )))
                }
            }
            Request::Open { link, contract, layout, endpoints } => {
                self.open(now, client, tag, LinkId(link), contract, layout, endpoints, counters)
            }
            Request::Attach { flow, endpoints, waits } => {
                self.attach(now, client, (tag, waits), flow, endpoints)
            }
            Request::Detach { flow } => {
                self.opened_flow(client, flow)?;
                self.change_ends(flow, Attachment::Detached, Why::Newer);
                Ok(Some(Reply::Done))
            }
            Request::Close { flow, time_wait } => {
                self.opened_flow(client, flow)?;
                let ends = self.flows.get(flow).and_then(|flow| flow.attachment.endpoints());
                let left = ends.zip(time_wait).map(|(ends, time_wait)| (ends, Some(time_wait)));
                self.close_connection(flow, Some(tag), left);
                Ok(None)
            }
            Request::AdjustQos { flow, contract } => self.adjust(client, flow, contract).map(Some),
            Request::PathCarries { flow, remote, mtu } => {
                let (link, remote) = (self.own_flow(client, flow)?, canonical(remote));
                let driver = self.links[usize::from(link.0)].driver.as_ref();
                let link_mtu = driver.map_or(0, |driver| driver.facts.mtu);
                if let Some(found) = self.flows.get(flow)
                    && let Some(ends) = found.attachment.endpoints()
                    && ends.remote.is_none_or(|to| to.address == remote)
                {
                    self.paths.learn(now, found.uid, remote, mtu, link_mtu);
                }
                Ok(Some(Reply::Done))
            }
            Request::Strangers { flow, frames } => {
                self.own_flow(client, flow)?;
                if let Some(found) = self.flows.get_mut(flow) {
                    found.strangers = found.strangers.saturating_add(frames);
                }
                Ok(Some(Reply::Done))
            }
            Request::Resolve { remote } => self.resolve(now, client, tag, canonical(remote)),
            Request::Query(query) => {
                self.query(now, client, query, counters).map(|found| Some(Reply::Found(found)))
            }
        }
    }

    fn client(&mut self, client: ClientId) -> Result<&mut Client, Refusal> {
        self.clients.get_mut(&client).ok_or_else(|| Refusal::Order("not connected".into()))
    }

    fn client_uid(&self, client: ClientId) -> Option<u32> {
        self.clients.get(&client).map(|known| known.uid)
    }

    pub(crate) fn rights(&self, client: ClientId) -> Rights {
        self.clients.get(&client).map_or(Rights::ORDINARY, |known| self.policy.rights(known.uid))
    }

    fn join(
        &mut self,
        client: ClientId,
        tag: u32,
        offer: JoinOffer,
        counters: &impl Counters,
    ) -> Result<(), Refusal> {
        let id = LinkId(offer.link);
        let no_link = Refusal::NoLink { link: offer.link };
        if !self.is_open(id) {
            return Err(no_link);
        }
        let (rights, uid) = (self.rights(client), self.client(client)?.uid);
        let Rights { flows_max, receive_ns_per_s: rx_cpu_ppb, arena_bytes, .. } = rights;
        if offer.flows_max == 0 || offer.flows_max > flows_max {
            return Err(Refusal::Quota(format!(
                "{} flows were asked for, between 1 and {flows_max} are possible",
                offer.flows_max
            )));
        }
        if self.client(client)?.domains.contains_key(&id) {
            return Err(Refusal::Order(format!("link {} was joined already", offer.link)));
        }
        let bytes = join_bytes(offer.flows_max);
        self.accounts.count(uid, |(client, link)| counters.held_bytes(client, link));
        self.accounts.has_room(uid, &rights, bytes, "application's first flow")?;
        self.accounts.join(uid, (client, id), bytes);
        let domain = self.new_domain();
        let joined = ClientDomain { id: domain, joining: Some(tag), bytes, spent_until: 0 };
        self.client(client)?.domains.insert(id, joined);
        // Of all flows together: two that are not flooded do not cut each other short.
        let rx_cpu_ppb = rx_cpu_ppb.saturating_mul(2);
        let user = DomainUser { uid: Some(uid), rx_cpu_ppb, arena_bytes };
        self.tell_driver(id, ToDriver::AddDomain { domain, flows_max: offer.flows_max, user });
        Ok(())
    }

    /// `local` with its address in canonical form, if this client may have it when it has given back so many that
    /// it has.
    ///
    /// RFC 9293 MUST-43: the application chooses.
    fn checked_local(
        &self,
        client: ClientId,
        transport: Transport,
        local: Sap,
        given_back: usize,
    ) -> Result<Sap, Refusal> {
        let local = Sap::new(canonical(local.address), local.port);
        if local.address.is_ipv6() {
            return Err(Refusal::Unsupported("IPv6".into()));
        }
        if !local.is_any_address() && !self.links.iter().any(|link| link.owns(local.address)) {
            return Err(Refusal::NotOurAddress { address: local.address });
        }
        let rights = self.rights(client);
        if transport != Transport::Icmp && (1..1024).contains(&local.port) && !rights.reserved_ports
        {
            return Err(Refusal::Policy(format!(
                "port {} is reserved: give this user `reserved_ports = true`, or use a port from 1024 on",
                local.port
            )));
        }
        let uid = self.client_uid(client);
        let same_user = self.clients.iter().filter(|(_, known)| Some(known.uid) == uid);
        let held: usize = same_user.map(|(&id, _)| self.ports.held_by(id)).sum();
        let allowed = usize::try_from(rights.ports_max).unwrap_or(usize::MAX);
        if held >= allowed.saturating_add(given_back) {
            return Err(Refusal::Quota(format!(
                "{held} access points are held, no more are allowed"
            )));
        }
        Ok(local)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the request, and who asks when")]
    fn open(
        &mut self,
        now: u64,
        client: ClientId,
        tag: u32,
        link: LinkId,
        contract: Contract,
        layout: FlowLayout,
        endpoints: Option<Endpoints>,
        counters: &impl Counters,
    ) -> Result<Option<Reply>, Refusal> {
        let contract = contract.validated().map_err(Refusal::Contract)?;
        let domain = match self.client(client)?.domains.get(&link) {
            Some(ClientDomain { id, joining: None, .. }) => *id,
            _ => return Err(Refusal::NotJoined { link: link.0 }),
        };
        let (rights, uid) = (self.rights(client), self.client(client)?.uid);
        let flows = self.accounts.flows(uid);
        if flows >= rights.flows_max {
            return Err(Refusal::Quota(format!(
                "user {uid} has {flows} flows open, no more are allowed"
            )));
        }
        let bytes = flow_bytes(&layout);
        self.accounts.changed(uid, (client, link));
        self.accounts.count(uid, |(client, link)| counters.held_bytes(client, link));
        self.accounts.has_room(uid, &rights, bytes, "flow")?;
        let Some(flow) = self.flows.add(Some(client), uid, link, contract) else {
            return Err(Refusal::Quota("the flow manager's table is full".into()));
        };
        let after = match self.admit(flow, link, uid, &contract) {
            Ok(Begin { after, .. }) => after,
            Err(refusal) => {
                self.flows.remove(flow);
                return Err(refusal);
            }
        };
        self.accounts.open(uid, bytes);
        if let Some(found) = self.flows.get_mut(flow) {
            found.bytes = bytes;
        }
        self.client(client)?.flows.insert(flow);
        let rx_cpu_ppb = rights.receive_ns_per_s;
        let add = ToDriver::AddFlow { flow, domain, layout, contract, rx_cpu_ppb, after };
        self.tell_driver(link, add);
        let Some(endpoints) = endpoints else {
            self.tell_attached(client, tag, flow, true);
            return Ok(None);
        };
        let asks = Asks { tag, opens: true, waits: true };
        if let Err(refusal) = self.place(now, client, asks, flow, endpoints) {
            self.close(flow, None);
            return Err(refusal);
        }
        Ok(None)
    }

    fn attach(
        &mut self,
        now: u64,
        client: ClientId,
        (tag, waits): (u32, bool),
        flow: FlowId,
        endpoints: Endpoints,
    ) -> Result<Option<Reply>, Refusal> {
        self.opened_flow(client, flow)?;
        if waits {
            // The older ends are gone whatever becomes of this, and so is a request that waits for them.
            self.change_ends(flow, Attachment::Detached, Why::Newer);
        }
        let asks = Asks { tag, opens: false, waits };
        self.place(now, client, asks, flow, endpoints).map(|()| None)
    }

    /// Gives a flow its ends: reserves the local one and finds the way to the remote one. If it had others, it
    /// keeps them if that fails. Who waits is answered now or when the neighbour is found.
    fn place(
        &mut self,
        now: u64,
        client: ClientId,
        Asks { tag, opens, waits }: Asks,
        flow: FlowId,
        ends: Endpoints,
    ) -> Result<(), Refusal> {
        let link = self.own_flow(client, flow)?;
        let transport = ends.transport;
        let before = self.flows.get(flow).and_then(|flow| flow.attachment.endpoints());
        let given_back = usize::from(before.is_some());
        let mut local = self.checked_local(client, transport, ends.local, given_back)?;
        let remote = ends.remote.map(|sap| Sap::new(canonical(sap.address), sap.port));
        let mut hop = Hop::Ready(None);
        let mut place = None;
        if let Some(remote) = remote {
            if remote.address.is_ipv6() {
                return Err(Refusal::Unsupported("IPv6".into()));
            }
            if remote.port == 0 && transport != Transport::Icmp {
                return Err(Refusal::NoRemotePort { transport });
            }
            if remote.address.is_unspecified() {
                return Err(Refusal::NoRoute { address: remote.address });
            }
            if transport == Transport::Tcp && self.is_for_many(link, remote.address) {
                // RFC 9293 MUST-46: nobody can be connected to several.
                return Err(Refusal::ForMany { address: remote.address });
            }
            let (way, source) = self.way(now, remote.address, Some(link))?;
            if local.is_any_address() {
                local.address = source;
            }
            hop = match way.hop {
                Hop::Asked(_) | Hop::Silent(_) if !waits => Hop::Ready(None),
                Hop::Silent(address) => return Err(Refusal::Unreachable { address }),
                hop => hop,
            };
            place = way.place;
        }
        let known = &self.links[usize::from(link.0)];
        if !local.is_any_address() && !known.owns(local.address) {
            return Err(Refusal::NotOurAddress { address: local.address });
        }
        let source = match local.is_any_address() {
            true => known.source_for(local.address),
            false => Some(local.address),
        };
        let source = source.ok_or(Refusal::NoRoute { address: local.address })?;
        if matches!(hop, Hop::Asked(_)) && self.client(client)?.waiting >= WAITING_MAX {
            return Err(too_many_waiting());
        }
        let uid = self.client(client)?.uid;
        let local = self
            .ports
            .use_for_flow((client, uid), transport, local, remote, &self.time_waits)
            .map_err(taken(transport, local))?;
        self.port_given(uid, transport, local);
        let endpoints = Endpoints { transport, local, remote };
        let fib = |mac| self.fib(flow, link, endpoints, source, mac);
        let attachment = match hop {
            Hop::Asked(place) => {
                Some(Attachment::Asking(Asking { endpoints, source, place, tag, opens }))
            }
            Hop::Ready(mac) => fib(mac).map(|fib| Attachment::Attached { fib, place }),
            Hop::Silent(_) => None,
        };
        let is_settled = matches!(attachment, Some(Attachment::Attached { .. }));
        if !attachment.is_some_and(|attachment| self.change_ends(flow, attachment, Why::Newer)) {
            self.ports.release_from_flow(client, transport, local);
            return Err(Refusal::InUse { transport, sap: local });
        }
        if before == Some(endpoints) {
            // It was reserved for the flow before.
            self.ports.release_from_flow(client, transport, local);
        }
        match is_settled {
            true if waits => self.tell_attached(client, tag, flow, opens),
            true => self.turn(flow, link, tag),
            false => {}
        }
        Ok(())
    }

    fn is_for_many(&self, link: LinkId, address: IpAddr) -> bool {
        address.is_multicast()
            || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
            || self.links[usize::from(link.0)].is_broadcast(address)
    }

    /// The way to `remote`, and our address on it; with `link`, it must lead over that link.
    ///
    /// RFC 9293 MUST-44: who names no address of its own has this one, before anything is sent.
    fn way(
        &mut self,
        now: u64,
        remote: IpAddr,
        link: Option<LinkId>,
    ) -> Result<(Way, IpAddr), Refusal> {
        let no_route = || Refusal::NoRoute { address: remote };
        // To ourselves: the driver turns the packet around.
        let own = self.links.iter().position(|link| link.owns(remote));
        let (on, next) = match own {
            Some(index) => (LinkId(index as u16), remote),
            None => self.routes.find(remote).ok_or_else(no_route)?,
        };
        if link.is_some_and(|link| link != on) {
            return Err(Refusal::OtherLink { address: remote, link: on.0 });
        }
        let known = &self.links[usize::from(on.0)];
        // While its addresses are probed for, nobody is asked there: no answer would come.
        let driver = known.driver.as_ref().filter(|_| known.is_open());
        let driver = driver.ok_or(Refusal::NoLink { link: on.0 })?;
        let source =
            if own.is_some() { remote } else { known.source_for(next).ok_or_else(no_route)? };
        let ready = |mac| Way { hop: Hop::Ready(Some(mac)), place: None, link: on };
        if own.is_some() {
            return Ok((ready(driver.facts.mac), source));
        }
        if known.is_broadcast(remote) {
            return Ok((ready(Mac::BROADCAST), source));
        }
        if let IpAddr::V4(group) = remote
            && group.is_multicast()
        {
            let [_, b, c, d] = group.octets();
            return Ok((ready(Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])), source));
        }
        let place = (on, next);
        let mut events = Vec::new();
        let found = self.neighbours.look_up(place, now, &mut events);
        self.neighbour_events(events);
        let hop = match found {
            Lookup::Known(mac) => Hop::Ready(Some(mac)),
            Lookup::Asked => Hop::Asked(place),
            Lookup::Failed => Hop::Silent(next),
        };
        Ok((Way { hop, place: Some(place), link: on }, source))
    }

    fn adjust(
        &mut self,
        client: ClientId,
        flow: FlowId,
        contract: Contract,
    ) -> Result<Reply, Refusal> {
        let contract = contract.validated().map_err(Refusal::Contract)?;
        let (owner, link) = self.adjustable_flow(client, flow)?;
        // It is the owner's share of the line that is used.
        let uid = self.flows.get(flow).map_or(0, |found| found.uid);
        let Begin { change, after } = self.admit(flow, link, uid, &contract)?;
        if let Some(found) = self.flows.get_mut(flow) {
            found.contract = contract;
        }
        self.tell_driver(link, ToDriver::SetContract { flow, contract, change, after });
        if owner != client {
            self.tell(owner, 0, Reply::Recontracted { flow, contract });
        }
        Ok(Reply::Adjusted { contract, tardiness_ns: self.tardiness_ns(link) })
    }

    fn resolve(
        &mut self,
        now: u64,
        client: ClientId,
        tag: u32,
        remote: IpAddr,
    ) -> Result<Option<Reply>, Refusal> {
        if remote.is_ipv6() {
            return Err(Refusal::Unsupported("IPv6".into()));
        }
        let (way, source) = self.way(now, remote, None)?;
        match way.hop {
            Hop::Ready(Some(mac)) => {
                let (link, path_mtu) = (way.link.0, self.path_mtu(client, remote));
                Ok(Some(Reply::Resolved { mac, source, link, path_mtu }))
            }
            Hop::Ready(None) => Err(Refusal::NoRoute { address: remote }),
            Hop::Silent(address) => Err(Refusal::Unreachable { address }),
            Hop::Asked(place) => {
                if self.client(client)?.waiting >= WAITING_MAX {
                    return Err(too_many_waiting());
                }
                self.count_waiting(client, 1);
                let waiter = Waiter::Resolve { client, tag, source, remote };
                self.waiting.entry(place).or_default().push(waiter);
                Ok(None)
            }
        }
    }

    /// Largest packet that is known to get to a host, for a client.
    pub(crate) fn path_mtu(&self, client: ClientId, remote: IpAddr) -> Option<u16> {
        self.paths.mtu(self.client_uid(client)?, remote)
    }

    /// The link of a flow of this client that is not being closed.
    fn own_flow(&self, client: ClientId, flow: FlowId) -> Result<LinkId, Refusal> {
        let found = self
            .flows
            .get(flow)
            .filter(|found| found.client == Some(client) && found.closing.is_none());
        found.map(|found| found.link).ok_or(Refusal::UnknownFlow)
    }

    /// A flow of this client that its owner knows by now: the request that opens it has been answered.
    fn opened_flow(&self, client: ClientId, flow: FlowId) -> Result<LinkId, Refusal> {
        let link = self.own_flow(client, flow)?;
        match self.flows.get(flow).map(|found| found.attachment) {
            Some(Attachment::Asking(Asking { opens: true, .. })) => Err(Refusal::UnknownFlow),
            _ => Ok(link),
        }
    }

    /// The owner and the link of a flow whose contract `client` may change.
    fn adjustable_flow(
        &self,
        client: ClientId,
        flow: FlowId,
    ) -> Result<(ClientId, LinkId), Refusal> {
        let found = self.flows.get(flow).filter(|found| found.closing.is_none());
        let found = found.ok_or(Refusal::UnknownFlow)?;
        let owner = found.client.ok_or_else(|| {
            Refusal::Policy("this is the flow manager's own flow: its contract stays".into())
        })?;
        let same_user = self.client_uid(owner) == self.client_uid(client);
        if owner == client || same_user || self.rights(client).sees_others {
            return Ok((owner, found.link));
        }
        Err(Refusal::Policy("this is another user's flow: only root may change it".into()))
    }

    pub(crate) fn tardiness_ns(&self, link: LinkId) -> u64 {
        let driver = self.links.get(usize::from(link.0)).and_then(|link| link.driver.as_ref());
        driver.map_or(0, |driver| driver.facts.tardiness_ns)
    }

    fn link_name(&self, link: LinkId) -> String {
        self.links.get(usize::from(link.0)).map_or_else(String::new, |link| link.config.dev.clone())
    }

    pub(crate) fn link_infos(&self, counters: &impl Counters) -> Vec<LinkInfo> {
        let infos = self.links.iter().enumerate().filter_map(|(index, link)| {
            let driver = link.driver.as_ref().filter(|_| link.is_open())?;
            let (bill, stall_ns, driver_ns) = counters.link(LinkId(index as u16));
            Some(LinkInfo {
                link: index as u16,
                facts: driver.facts.clone(),
                addresses: link.config.addresses.clone(),
                promised_ppm: driver.shares.promised_ppm(),
                promisable_ppm: driver.shares.promisable_ppm(),
                bill,
                stall_ns,
                driver_ns,
            })
        });
        infos.collect()
    }

    fn query(
        &mut self,
        now: u64,
        client: ClientId,
        query: Query,
        counters: &impl Counters,
    ) -> Result<QueryReply, Refusal> {
        Ok(match query {
            Query::Links => QueryReply::Links(self.link_infos(counters)),
            Query::Routes => QueryReply::Routes(
                self.routes
                    .iter()
                    .map(|route| RouteInfo {
                        prefix: route.prefix,
                        gateway: route.gateway,
                        link: self.link_name(route.link),
                    })
                    .collect(),
            ),
            Query::Neighbours => QueryReply::Neighbours(
                self.neighbours
                    .iter(now)
                    .take(256)
                    .map(|((link, address), mac, state, age_ns)| NeighbourInfo {
                        address,
                        mac,
                        state,
                        age_ms: age_ns / 1_000_000,
                        link: self.link_name(link),
                    })
                    .collect(),
            ),
            Query::Flows { from } => self.flow_page(client, from, counters),
            Query::Users { from } => {
                let (sees_all, own) = (self.rights(client).sees_others, self.client(client)?.uid);
                let Self { accounts, policy, .. } = self;
                let (users, next) = accounts.infos(
                    from,
                    |uid| sees_all || uid == own,
                    |uid| policy.rights(uid),
                    |(client, link)| counters.held_bytes(client, link),
                );
                QueryReply::Users { users, next }
            }
            Query::Status => QueryReply::Status(StatusInfo {
                clients: self.clients.len() as u32,
                flows: self.flows.len() as u32,
                ports: self.ports.len() as u32,
                neighbours: self.neighbours.len() as u32,
                ..self.status
            }),
        })
    }

    fn flow_page(&self, client: ClientId, from: u32, counters: &impl Counters) -> QueryReply {
        let (rights, uid) = (self.rights(client), self.clients.get(&client).map(|known| known.uid));
        let mut page = self.flows.iter_from(from).map(|flow| {
            let owner = flow.client.and_then(|owner| self.clients.get(&owner));
            let visible = rights.sees_others || owner.is_some_and(|owner| Some(owner.uid) == uid);
            FlowInfo {
                flow: flow.id,
                endpoints: flow.attachment.endpoints(),
                contract: flow.contract,
                link: self.link_name(flow.link),
                pid: owner.map_or(0, |owner| owner.pid),
                uid: owner.map_or(0, |owner| owner.uid),
                bill: visible.then(|| flow.bill(counters.bill(flow.link, flow.id.index))),
            }
        });
        let flows: Vec<FlowInfo> = page.by_ref().take(PAGE).collect();
        let next = page.next().map(|info| info.flow.index);
        QueryReply::Flows { flows, next }
    }
}

/// How packets get to a remote host.
struct Way {
    hop: Hop,
    place: Option<Place>,
    link: LinkId,
}

/// The next hop's station, or that it is being asked for, or did not answer just now.
enum Hop {
    Ready(Option<Mac>),
    Asked(Place),
    Silent(IpAddr),
}

/// A request for ends.
struct Asks {
    tag: u32,
    /// Whether it opens the flow.
    opens: bool,
    /// Whether the ends wait for the neighbour.
    waits: bool,
}

fn too_many_waiting() -> Refusal {
    Refusal::Quota(format!("{WAITING_MAX} requests are waiting for neighbours already"))
}

fn taken(transport: Transport, sap: Sap) -> impl Fn(Taken) -> Refusal {
    move |taken| match taken {
        Taken::InUse => Refusal::InUse { transport, sap },
        Taken::NoFreePort => Refusal::NoFreePort { transport },
    }
}
