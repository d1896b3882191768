//! Flows that are being closed: what was handed over before that leaves first.
//!
//! Closing a flow and the death of its process are the same here: the driver has the memory mapped, and
//! what lies in the channel is sent as it would have been. The flow is deaf from then on.
//!
//! # Invariants
//!
//! 1. A flow that is being closed sends under its template and its contract, and is billed.
//! 2. It sends what was in its channel when it was closed and not a word more, whatever its owner, who may
//!    still live, puts there. Its buffers are not returned: nobody has to be there to take them.
//! 3. After [`DRAIN_NS_MAX`] it is removed with what is left, which is counted.
//! 4. What has arrived for it and was not read is lost, as on a wire, and comes again; but for a segment that opens a
//!    connection. Its sender does not know the flow, only that its ends are free, and would wait for a second: such a
//!    segment is treated as if it had arrived when the flow was deaf.
//!
//! # Cost
//!
//! Nothing for flows that are not being closed.

use std::collections::VecDeque;

use base_flow::{Endpoints, FlowId};
use base_rpc::{DomainId, FromDriver};
use driver_atropos::Scheduler;
use driver_filter::{Verdict, opens_connection};
use driver_link::{Checksum, Link};
use rbuf_channel::{Data, Words, flag};

use crate::arenas::Arenas;
use crate::driver::Driver;

/// Longest that a flow is kept for what it has not sent. A full channel of a line of 64 kbit/s needs less
/// than half of it.
pub const DRAIN_NS_MAX: u64 = 30_000_000_000;

/// Frames that lie unread in a flow's channel that are looked at when it is closed.
const UNREAD_MAX: usize = 64;

/// Those that are being closed, in order of their last moments.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    until: VecDeque<(u64, FlowId)>,
    /// How many of these are not gone yet.
    count: usize,
    /// What the flow manager is to be told.
    removed: Vec<FromDriver>,
}

impl<L: Link, A: Arenas, W: Words, S: Scheduler> Driver<L, A, W, S> {
    /// Closes a flow: it receives nothing any more, and is removed when what it handed over has left, or
    /// after [`DRAIN_NS_MAX`]. [`Self::take_removed`] says when.
    pub fn remove_flow(&mut self, id: FlowId, now_ns: u64) {
        self.remove_connection(id, None, now_ns);
    }

    /// As [`Self::remove_flow`], and [parks](Self::park) ends in the same moment: no frame finds them free.
    pub fn remove_connection(&mut self, id: FlowId, parks: Option<&Endpoints>, now_ns: u64) {
        let unread = self.find(id).map(|index| self.unread_calls(index)).unwrap_or_default();
        self.make_deaf(id, now_ns);
        parks.iter().for_each(|endpoints| self.park(endpoints));
        for (frame, checksum) in unread {
            let verdict = self.classify_again(&frame);
            self.deliver(&frame, checksum, verdict, now_ns);
        }
    }

    /// Segments that open a connection between the ends of a flow, and that it has not read. They are copied, as its
    /// owner could change them.
    fn unread_calls(&mut self, index: u32) -> Vec<(Vec<u8>, Checksum)> {
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return Vec::new() };
        if flow.faulted || flow.drain_words.is_some() {
            return Vec::new();
        }
        let rx_data = &flow.rx_data;
        let copied = |rec: rbuf_channel::IoRec| {
            let mut frame = Vec::new();
            for pair in rec.pairs() {
                let at = frame.len();
                frame.resize(at + pair.len as usize, 0);
                rx_data.read(pair.offset, &mut frame[at..]).then_some(())?;
            }
            let (start, field) = opens_connection(&frame)?;
            let checksum = match rec.flags {
                0 => Checksum::Verified,
                flags if flags & flag::CHECKSUM_PARTIAL != 0 => Checksum::Partial { start, field },
                _ => Checksum::Unverified,
            };
            Some((frame, checksum))
        };
        // A lie about the channel is of no use any more.
        let Ok(untaken) = flow.rx.untaken() else { return Vec::new() };
        let mut calls: Vec<_> = untaken.take(UNREAD_MAX).filter_map(copied).collect();
        let is_its_own = |frame: &[u8]| matches!(self.classify_again(frame), Verdict::Flow { flow, .. } if flow == index);
        calls.retain(|(frame, _)| is_its_own(frame));
        calls
    }

    fn make_deaf(&mut self, id: FlowId, now_ns: u64) {
        match self.find(id) {
            Some(index) => self.drain(index, now_ns),
            None => {
                let bill = base_flow::Bill::default();
                let removed = FromDriver::FlowRemoved { flow: id, bill, settled: true };
                self.draining.removed.push(removed);
            }
        }
    }

    /// Closes a domain's flows, and removes it when the last of them is gone. Nothing of its memory is used
    /// afterwards, except by frames that the link has not completed.
    pub fn remove_domain(&mut self, id: DomainId, now_ns: u64) {
        let Some(index) = self.domain_index(id) else {
            return self.draining.removed.push(FromDriver::DomainRemoved { domain: id });
        };
        let Some(domain) = &mut self.domains[index] else { return };
        domain.leaving = true;
        let flows: Vec<u32> = domain.open_flows().collect();
        for flow in flows {
            self.drain(flow, now_ns);
        }
        self.let_domain_go(index);
    }

    /// Flows and domains that are gone since the last call, in order.
    pub fn take_removed(&mut self) -> Vec<FromDriver> {
        std::mem::take(&mut self.draining.removed)
    }

    /// Whether [`Self::take_removed`] has something to tell.
    pub const fn has_removed(&self) -> bool {
        !self.draining.removed.is_empty()
    }

    /// How many flows are kept for what they have not sent yet.
    pub const fn draining(&self) -> usize {
        self.draining.count
    }

    fn drain(&mut self, index: u32, now_ns: u64) {
        let is_last_resort = self.last_resort.is_by(index);
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        if flow.drain_words.is_some() {
            return;
        }
        let id = flow.id;
        let words = flow.tx.available().unwrap_or(0);
        let is_over = words == 0 && flow.head.is_empty();
        if flow.faulted || flow.template.is_none() || is_last_resort || is_over {
            return self.finish(index);
        }
        flow.drain_words = Some(words);
        if let Some(endpoints) = flow.endpoints.take() {
            self.demux.remove(&endpoints, index);
        }
        let Draining { until, count, .. } = &mut self.draining;
        if until.len() > 2 * *count + 64 {
            let flows = &self.flows;
            until.retain(|(_, id)| {
                let found = flows.get(id.index as usize).and_then(Option::as_ref);
                found.is_some_and(|flow| flow.id == *id)
            });
        }
        *count += 1;
        until.push_back((now_ns + DRAIN_NS_MAX, id));
        self.activate(index, now_ns);
    }

    /// Removes flow `index`, which has sent what it is to send, and says so.
    pub(crate) fn finish(&mut self, index: u32) {
        let Some(Some(flow)) = self.flows.get(index as usize) else { return };
        let (flow, domain, drained) = (flow.id, flow.domain, flow.drain_words.is_some());
        self.draining.count -= usize::from(drained);
        let bill = self.remove(index);
        let settled = !self.scheduler.binds(index);
        self.draining.removed.push(FromDriver::FlowRemoved { flow, bill, settled });
        self.let_domain_go(domain as usize);
    }

    /// Removes flow `index` if it is being closed: its channel is empty.
    pub(crate) fn finish_drained(&mut self, index: u32) {
        if self.flow_mut(index).is_some_and(|flow| flow.drain_words.is_some()) {
            self.finish(index);
        }
    }

    /// Removes a domain that leaves and has no flows.
    fn let_domain_go(&mut self, index: usize) {
        if let Some(place) = self.domains.get_mut(index)
            && let Some(domain) = place.take_if(|domain| domain.leaving && domain.flows == 0)
        {
            self.accounts.close(&domain.account);
            self.domain_at.remove(&domain.id);
            self.bills.forget_domain(index as u32);
            self.draining.removed.push(FromDriver::DomainRemoved { domain: domain.id });
        }
    }

    /// Removes those whose time is over. Returns when to look again, if there are others.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<u64> {
        while let Some(&(until_ns, id)) = self.draining.until.front() {
            let index = self.find(id);
            if let Some(index) = index {
                if until_ns > now_ns {
                    return Some(until_ns);
                }
                self.finish(index);
            }
            self.draining.until.pop_front();
        }
        None
    }
}
