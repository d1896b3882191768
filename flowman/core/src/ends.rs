//! The ends of flows: who gets which, who waits for them, and what the driver and the owner are told.
//!
//! # Invariants
//!
//! 1. The ends of a flow, its entry in the table by ends, its share of the port, the request that waits
//!    for its neighbour and what the driver lets it do change together, in [`FlowManager::change_ends`]
//!    and nowhere else. So flow manager and driver never disagree about whose a frame is.
//! 2. The driver lets a flow send and receive if and only if the flow is [`Attachment::Attached`].
//!    It may not know yet to which station, if its owner did not want to wait for that.
//! 3. At most one request of a flow waits, and for the ends that the flow has reserved: a newer request
//!    answers the older one.

use std::net::IpAddr;

use base_flow::{Endpoints, Fib, FlowId, Sap};
use base_rpc::{Refusal, Reply, ToDriver};
use base_wire::Mac;

use crate::flows::{Asking, Attachment, Turning};
use crate::manager::{ClientId, FlowManager, LinkId, Waiter};
use crate::neighbours::Place;

/// Why a request that waits is not granted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Why {
    /// A newer one takes its place.
    Newer,
    /// Its flow is closed.
    Closed,
    /// Its neighbour does not answer.
    Silent,
}

impl Why {
    fn refusal(self, asking: &Asking) -> Refusal {
        match self {
            Self::Silent => Refusal::Unreachable { address: asking.place.1 },
            why => why.of_turning(),
        }
    }

    /// Of a request for ends that were there already.
    fn of_turning(self) -> Refusal {
        match self {
            Self::Newer => {
                Refusal::Order("a later request has changed the ends of this flow".into())
            }
            Self::Closed | Self::Silent => Refusal::UnknownFlow,
        }
    }
}

impl FlowManager {
    /// Changes the ends of a flow, and all that hangs on them. The port of new ends must have been
    /// reserved for the flow, that of the old ones is given back unless the ends are the same. A request
    /// that waits and does not get what it waits for is told `why`.
    ///
    /// `false`, and nothing is changed, if there is no such flow or another one has these ends.
    pub(crate) fn change_ends(&mut self, id: FlowId, to: Attachment, why: Why) -> bool {
        let Some(before) = self.flows.attach(id, to) else { return false };
        let Some(flow) = self.flows.get(id) else { return false };
        let (client, link, closing) = (flow.client, flow.link, flow.closing.is_some());
        let Some(client) = client else { return true };
        if to.endpoints().is_some_and(|ends| self.listens(client, link, ends)) {
            self.flows.accept(id);
        }
        if before.endpoints() != to.endpoints() {
            self.stop_turning(id, why);
        }
        if let Some(ends) = before.endpoints()
            && to.endpoints() != Some(ends)
        {
            self.ports.release_from_flow(client, ends.transport, ends.local);
        }
        for (attachment, begins) in [(before, false), (to, true)] {
            if let Attachment::Attached { place: Some(place), .. } = attachment {
                self.neighbours.used(place, id, begins);
            }
        }
        match (before.fib(), to.fib()) {
            // A flow that closes is removed next, which says it too.
            (Some(_), None) if !closing => self.tell_driver(link, ToDriver::Detach { flow: id }),
            (before, Some(fib)) if before != Some(fib) => {
                self.tell_driver(link, ToDriver::Attach { fib: *fib });
            }
            _ => {}
        }
        if let Attachment::Asking(asking) = before {
            self.count_waiting(client, -1);
            if let Some(waiters) = self.waiting.get_mut(&asking.place) {
                waiters.retain(|waiter| *waiter != Waiter::Flow(id));
            }
            if to.endpoints() != Some(asking.endpoints) && self.clients.contains_key(&client) {
                self.tell(client, asking.tag, Reply::Refused(why.refusal(&asking)));
            }
        }
        if let Attachment::Asking(asking) = to {
            self.count_waiting(client, 1);
            self.waiting.entry(asking.place).or_default().push(Waiter::Flow(id));
        }
        true
    }

    /// The owner of a flow that has its ends hears so when the driver knows of them: what it sends then is not
    /// refused.
    pub(crate) fn turn(&mut self, id: FlowId, link: LinkId, tag: u32) {
        self.stop_turning(id, Why::Newer);
        let ping = self.next_ping;
        self.next_ping += 1;
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.turning = Some(Turning { tag, ping });
        self.turning.insert(ping, id);
        self.tell_driver(link, ToDriver::Ping { tag: ping });
    }

    /// A driver has heard what it was told before this question.
    pub(crate) fn answered(&mut self, link: LinkId, ping: u64) {
        let Some(id) = self.turning.get(&ping).copied() else { return };
        let Some(flow) = self.flows.get_mut(id).filter(|flow| flow.link == link) else { return };
        self.turning.remove(&ping);
        if let (Some(Turning { tag, .. }), Some(client)) = (flow.turning.take(), flow.client) {
            self.tell_attached(client, tag, id, false);
        }
    }

    fn stop_turning(&mut self, id: FlowId, why: Why) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let (Some(Turning { tag, ping }), client) = (flow.turning.take(), flow.client) else {
            return;
        };
        self.turning.remove(&ping);
        if let Some(client) = client.filter(|client| self.clients.contains_key(client)) {
            self.tell(client, tag, Reply::Refused(why.of_turning()));
        }
    }

    /// Whether a flow of this client takes what is for the local end, whoever sends it.
    fn listens(&self, client: ClientId, link: LinkId, ends: Endpoints) -> bool {
        let any = Sap::any_v4(ends.local.port);
        ends.remote.is_some()
            && [ends.local, any].into_iter().any(|local| {
                let listener = self.flows.with(link, &Endpoints { local, remote: None, ..ends });
                listener.is_some_and(|flow| flow.client == Some(client))
            })
    }

    pub(crate) fn count_waiting(&mut self, client: ClientId, change: isize) {
        if let Some(known) = self.clients.get_mut(&client) {
            known.waiting = known.waiting.saturating_add_signed(change);
        }
    }

    /// How packets between `endpoints` are formatted on a link with a driver.
    pub(crate) fn fib(
        &self,
        flow: FlowId,
        link: LinkId,
        endpoints: Endpoints,
        source: IpAddr,
        next_hop_mac: Option<Mac>,
    ) -> Option<Fib> {
        let facts = &self.links.get(usize::from(link.0))?.driver.as_ref()?.facts;
        let uid = self.flows.get(flow)?.uid;
        Some(Fib {
            flow,
            endpoints,
            source,
            source_mac: facts.mac,
            next_hop_mac,
            mtu: facts.mtu,
            unit_bytes: facts.unit_bytes,
            path_mtu: endpoints.remote.and_then(|remote| self.paths.mtu(uid, remote.address)),
            vlan: facts.vlan,
        })
    }

    /// Those who waited for a neighbour hear of it.
    pub(crate) fn found(&mut self, place: Place, mac: Option<Mac>) {
        for waiter in self.waiting.remove(&place).unwrap_or_default() {
            match (waiter, mac) {
                (Waiter::Flow(flow), mac) => self.hop_found(flow, mac),
                (Waiter::Resolve { client, tag, source, remote }, mac) => {
                    self.count_waiting(client, -1);
                    let absent = Reply::Refused(Refusal::Unreachable { address: place.1 });
                    let (link, path_mtu) = (place.0.0, self.path_mtu(client, remote));
                    let found = mac.map(|mac| Reply::Resolved { mac, source, link, path_mtu });
                    self.tell(client, tag, found.unwrap_or(absent));
                }
            }
        }
    }

    /// The next hop of a flow that waits for it answered, or did not.
    fn hop_found(&mut self, id: FlowId, mac: Option<Mac>) {
        let Some(flow) = self.flows.get(id) else { return };
        let (Attachment::Asking(asking), Some(client)) = (flow.attachment, flow.client) else {
            return;
        };
        let Asking { endpoints, source, place, tag, opens } = asking;
        let fib = mac.and_then(|mac| self.fib(id, flow.link, endpoints, source, Some(mac)));
        if let Some(fib) = fib {
            let attached = Attachment::Attached { fib, place: Some(place) };
            self.change_ends(id, attached, Why::Newer);
            return self.tell_attached(client, tag, id, opens);
        }
        self.change_ends(id, Attachment::Detached, Why::Silent);
        if opens {
            self.close(id, None);
        }
    }

    /// A flow has all it needs, and its owner may start.
    pub(crate) fn tell_attached(&mut self, client: ClientId, tag: u32, id: FlowId, opens: bool) {
        let Some(flow) = self.flows.get(id) else { return };
        let (fib, contract) = (flow.attachment.fib().copied(), flow.contract);
        let tardiness_ns = self.tardiness_ns(flow.link);
        let reply = match (opens, fib) {
            (true, fib) => Reply::Opened { flow: id, fib, contract, tardiness_ns },
            (false, Some(fib)) => Reply::Attached { fib },
            (false, None) => Reply::Refused(Refusal::UnknownFlow),
        };
        self.tell(client, tag, reply);
    }

    /// A neighbour moved to another station: flows to it get a new template and their owners a
    /// call-back (paper §3.2).
    pub(crate) fn reorganise(&mut self, place: Place, mac: Mac) {
        let moved = |attachment: &Attachment| match *attachment {
            Attachment::Attached { fib, place: Some(at) } if at == place => {
                (fib.next_hop_mac != Some(mac)).then_some(Fib { next_hop_mac: Some(mac), ..fib })
            }
            _ => None,
        };
        let flows = self.neighbours.users_of(place).filter_map(|id| self.flows.get(id));
        let moving: Vec<(Fib, Option<ClientId>)> =
            flows.filter_map(|flow| Some((moved(&flow.attachment)?, flow.client))).collect();
        for (fib, client) in moving {
            let attached = Attachment::Attached { fib, place: Some(place) };
            self.change_ends(fib.flow, attached, Why::Newer);
            if let Some(client) = client {
                self.tell(client, 0, Reply::Reorganised { fib });
            }
        }
    }
}
