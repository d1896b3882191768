//! The table of flows.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use base_flow::{Bill, Contract, DropReason, Endpoints, Fib, FlowId, Sap, Transport};

use crate::manager::{ClientId, LinkId};
use crate::neighbours::Place;

/// Most flows at a time.
pub(crate) const FLOWS_MAX: usize = 65_536;

/// A flow's ends, and what the driver lets it do with them. Changed in one place only, by
/// `FlowManager::change_ends`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// It has none: it neither sends nor receives.
    Detached,
    /// They are reserved, and the station of its next hop is being asked for: the driver knows nothing
    /// of them.
    Asking(Asking),
    /// The driver lets it send and receive what this says, and its owner was told.
    Attached {
        /// How its packets are formatted.
        fib: Fib,
        /// Whom they are handed to, if that is a neighbour.
        place: Option<Place>,
    },
}

/// A request for ends that waits for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The ends, with the reserved port.
    pub(crate) endpoints: Endpoints,
    /// Our address on the way.
    pub(crate) source: IpAddr,
    /// Who is asked for.
    pub(crate) place: Place,
    /// The request to answer.
    pub(crate) tag: u32,
    /// Whether it is the one that opens the flow: that has not been opened before it is answered.
    pub(crate) opens: bool,
}

impl Attachment {
    /// The ends, with the reserved port.
    pub(crate) const fn endpoints(&self) -> Option<Endpoints> {
        match self {
            Self::Detached => None,
            Self::Asking(asking) => Some(asking.endpoints),
            Self::Attached { fib, .. } => Some(fib.endpoints),
        }
    }

    /// How packets are formatted, once that is settled.
    pub(crate) const fn fib(&self) -> Option<&Fib> {
        match self {
            Self::Attached { fib, .. } => Some(fib),
            _ => None,
        }
    }
}

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
    /// What its channels come to.
    pub(crate) bytes: u64,
    pub(crate) attachment: Attachment,
    /// Its owner listens at its port, so its first segments may have come to the listener's flow.
    pub(crate) accepted: bool,
    /// The ends that are kept from others when it is gone.
    pub(crate) left: Option<(Sap, Sap)>,
    /// The request to answer when the driver knows of the ends that it has, and the question to the driver.
    pub(crate) turning: Option<Turning>,
    /// Frames that its owner says it threw away, for they were from strangers.
    pub(crate) strangers: u64,
    /// It is closing: its driver sends what it had accepted.
    pub(crate) closing: Option<Closing>,
}

/// A flow was turned to other ends, and its driver asked to say when it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turning {
    /// The request.
    pub(crate) tag: u32,
    /// The question.
    pub(crate) ping: u64,
}

impl Flow {
    /// Its whole bill: what its driver counted, and what its owner says it threw away of what it received.
    pub(crate) fn bill(&self, drivers: Bill) -> Bill {
        let strangers = self.strangers.min(drivers.rx_frames);
        drivers.with_dropped(DropReason::Stranger, strangers)
    }
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
            bytes: 0,
            attachment: Attachment::Detached,
            accepted: false,
            left: None,
            turning: None,
            strangers: 0,
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

    /// Puts `attachment` in place of a flow's, and returns that; `None`, and nothing is changed, if there
    /// is no such flow or another one has these ends.
    pub(crate) fn attach(&mut self, id: FlowId, attachment: Attachment) -> Option<Attachment> {
        let link = self.get(id)?.link;
        let endpoints = attachment.endpoints();
        let owner = endpoints.and_then(|endpoints| self.by_endpoints.get(&(link, endpoints)));
        if owner.is_some_and(|&owner| owner != id) {
            return None;
        }
        let before = std::mem::replace(&mut self.get_mut(id)?.attachment, attachment);
        if let Some(before) = before.endpoints() {
            self.by_endpoints.remove(&(link, before));
        }
        if let Some(endpoints) = endpoints {
            self.by_endpoints.insert((link, endpoints), id);
        }
        Some(before)
    }

    /// The flow of a link that has exactly these ends.
    pub(crate) fn with(&self, link: LinkId, endpoints: &Endpoints) -> Option<&Flow> {
        self.get(*self.by_endpoints.get(&(link, *endpoints))?)
    }

    /// The owner of a flow listens at its port.
    pub(crate) fn accept(&mut self, id: FlowId) {
        if let Some(flow) = self.get_mut(id) {
            flow.accepted = true;
        }
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.retire(id)?;
        self.give_place(id);
        Some(flow)
    }

    /// Removes a flow whose place is not free yet: [`Self::give_place`] frees it.
    pub(crate) fn retire(&mut self, id: FlowId) -> Option<Flow> {
        self.attach(id, Attachment::Detached)?;
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
        let fib = |flow| match flow {
            &mut Flow { attachment: Attachment::Attached { ref mut fib, .. }, .. } => Some(fib),
            _ => None,
        };
        flows.filter(move |flow| flow.link == link).filter_map(fib)
    }

    /// All flows from index `from` on, in order.
    pub(crate) fn iter_from(&self, from: u32) -> impl Iterator<Item = &Flow> {
        self.places.iter().skip(from as usize).filter_map(|(_, flow)| flow.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_has_room_again_when_a_place_is_given_back_and_not_before() {
        let mut flows = Flows::default();
        let add = |flows: &mut Flows| flows.add(None, 0, LinkId(0), Contract::BEST_EFFORT);
        let first = add(&mut flows).unwrap();
        let added = std::iter::from_fn(|| add(&mut flows)).count();
        assert_eq!((added + 1, flows.len()), (FLOWS_MAX, FLOWS_MAX));
        flows.retire(first).unwrap();
        assert_eq!((add(&mut flows), flows.len()), (None, FLOWS_MAX - 1), "its place is kept");
        flows.give_place(first);
        let next = add(&mut flows).unwrap();
        assert_eq!((next.index, next == first), (first.index, false));
        assert!(flows.get(first).is_none() && flows.get(next).is_some());
    }
}
