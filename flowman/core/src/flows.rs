//! The table of flows.

use std::collections::{HashMap, VecDeque};

use base_flow::{Contract, Endpoints, Fib, FlowId, Sap, Transport};

use crate::manager::{ClientId, LinkId};
use crate::neighbours::Place;

/// Most flows at a time.
pub(crate) const FLOWS_MAX: usize = 65_536;

/// What the flow manager keeps of a flow.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    /// Its owner; `None` for the flow manager itself.
    pub(crate) client: Option<ClientId>,
    /// The user its share and its place are counted for.
    pub(crate) uid: u32,
    pub(crate) link: LinkId,
    pub(crate) contract: Contract,
    /// Its ends, with the reserved port.
    pub(crate) endpoints: Option<Endpoints>,
    /// Whom its packets are handed to.
    pub(crate) hop: Option<Place>,
    /// What its owner was told of how to format its packets; `None` without ends, or as long as its
    /// neighbour is not known.
    pub(crate) fib: Option<Fib>,
    /// It is closing: its driver sends what it had accepted.
    pub(crate) closing: Option<Closing>,
}

/// What is still to be done for a flow that is closing, when its driver has removed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closing {
    /// The request to answer.
    pub(crate) tag: Option<u32>,
    /// From where it may still send.
    pub(crate) local: Option<(Transport, Sap)>,
}

/// All flows, by number and by ends.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    places: Vec<(u32, Option<Flow>)>,
    free: VecDeque<u32>,
    /// The same port at any address can be used on several links.
    by_endpoints: HashMap<(LinkId, Endpoints), FlowId>,
    count: usize,
}

impl Flows {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Takes a place; `None` if the table is full. The place that was free longest comes first.
    pub(crate) fn add(
        &mut self,
        client: Option<ClientId>,
        uid: u32,
        link: LinkId,
        contract: Contract,
    ) -> Option<FlowId> {
        let index = match self.free.pop_front() {
            Some(index) => index,
            None if self.places.len() < FLOWS_MAX => {
                self.places.push((0, None));
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        let (generation, place) = &mut self.places[index as usize];
        let id = FlowId { index, generation: *generation };
        *place = Some(Flow {
            id,
            client,
            uid,
            link,
            contract,
            endpoints: None,
            hop: None,
            fib: None,
            closing: None,
        });
        self.count += 1;
        Some(id)
    }

    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.places.get(id.index as usize)?.1.as_ref().filter(|flow| flow.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.places.get_mut(id.index as usize)?.1.as_mut().filter(|flow| flow.id == id)
    }

    /// Gives a flow its ends; `false` if another flow has them.
    pub(crate) fn set_endpoints(&mut self, id: FlowId, endpoints: Option<Endpoints>) -> bool {
        let Some(link) = self.get(id).map(|flow| flow.link) else { return false };
        if let Some(endpoints) = endpoints
            && self.by_endpoints.get(&(link, endpoints)).is_some_and(|&owner| owner != id)
        {
            return false;
        }
        let Some(flow) = self.get_mut(id) else { return false };
        let before = std::mem::replace(&mut flow.endpoints, endpoints);
        if let Some(before) = before {
            self.by_endpoints.remove(&(link, before));
        }
        if let Some(endpoints) = endpoints {
            self.by_endpoints.insert((link, endpoints), id);
        }
        true
    }

    /// The flow of a link that has exactly these ends.
    pub(crate) fn with(&self, link: LinkId, endpoints: &Endpoints) -> Option<&Flow> {
        self.get(*self.by_endpoints.get(&(link, *endpoints))?)
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.retire(id)?;
        self.give_place(id);
        Some(flow)
    }

    /// Removes a flow whose place is not free yet: [`Self::give_place`] frees it.
    pub(crate) fn retire(&mut self, id: FlowId) -> Option<Flow> {
        self.set_endpoints(id, None);
        let (generation, place) = self.places.get_mut(id.index as usize)?;
        if place.as_ref().is_none_or(|flow| flow.id != id) {
            return None;
        }
        let flow = place.take();
        *generation = generation.wrapping_add(1);
        self.count -= 1;
        flow
    }

    /// Others may have the place of a flow that was retired.
    pub(crate) fn give_place(&mut self, id: FlowId) {
        self.free.push_back(id.index);
    }

    /// How packets of the flows of a link are formatted.
    pub(crate) fn fibs_of(&mut self, link: LinkId) -> impl Iterator<Item = &mut Fib> {
        let flows = self.places.iter_mut().filter_map(|(_, flow)| flow.as_mut());
        flows.filter(move |flow| flow.link == link).filter_map(|flow| flow.fib.as_mut())
    }

    /// All flows from index `from` on, in order.
    pub(crate) fn iter_from(&self, from: u32) -> impl Iterator<Item = &Flow> {
        self.places.iter().skip(from as usize).filter_map(|(_, flow)| flow.as_ref())
    }
}
