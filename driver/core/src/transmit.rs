//! Transmit: whose turn it is, whether the frame is his, and out (paper §3.1.2, §4.3, §4.4).
//!
//! An iorec is taken from its channel once and kept; a header is copied to private memory before it
//! is checked, and the copy is what leaves. A frame for this host itself turns around here, under
//! the same contract.

use base_flow::{DropReason, bill_word};
use base_wire::FRAME_BYTES_MIN;
use driver_atropos::{Head, Line, Next, Scheduler};
use driver_filter::HEADER_BYTES_MAX;
use driver_link::{Facts, Link};
use rbuf_channel::{Data, Fault, IoRec, Words, flag};

use crate::arenas::Arenas;
use crate::bills::{NO_DOMAIN, Side};
use crate::cut::Cut;
use crate::driver::Driver;

/// Events of a domain that are read before it has paid for them.
const EVENTS_AT_ONCE: usize = 16;

/// How soon a device that had no room is tried again.
const CONGESTED_NS: u64 = 100_000;

/// What became of a frame.
enum Fate {
    /// The link has it.
    Sent,
    /// It turned around; so many bytes of it are in the scratch buffer.
    Local(usize),
    Refused(DropReason),
}

impl<L: Link, A: Arenas, W: Words, S: Scheduler> Driver<L, A, W, S> {
    /// Sends until the line is committed beyond its lead, the link is full, or a burst is out.
    ///
    /// Returns when to call again at the latest: `Some(now)` at once, `None` when a domain posts.
    ///
    /// `clock` tells the processor time that the loop's thread has used. It is asked whenever another
    /// domain's frames follow, so that each pays for its own.
    pub fn transmit(&mut self, now_ns: u64, clock: &mut impl FnMut() -> u64) -> Option<u64> {
        self.accounts.at(now_ns);
        self.read_events(now_ns, clock);
        let closing_ns = self.expire(now_ns);
        let mut until = Some(now_ns);
        let mut payer = None;
        for _ in 0..self.limits.burst {
            if self.link.room() == 0 {
                break;
            }
            match self.scheduler.next(now_ns as i64) {
                Next::Serve { flow, slack, .. } => {
                    let whose = self.flows.get(flow as usize).and_then(Option::as_ref);
                    let whose = whose.map_or(NO_DOMAIN, |flow| flow.domain);
                    if payer.replace(whose).is_some_and(|before| before != whose) {
                        self.settle(clock());
                    }
                    self.serve(flow, slack, now_ns, clock);
                }
                Next::Sleep { until_ns, idle_ns } => {
                    // Half of the lead is slept away, so that several frames go out at once; the
                    // other half is there to be late in.
                    let late = idle_ns - self.scheduler.line().lead_ns() as i64 / 2;
                    until = until_ns.map(|at| at.max(late) as u64);
                    break;
                }
            }
        }
        if payer.is_some() {
            self.settle(clock());
        }
        // What a batch costs is for all who are in it.
        self.link.flush();
        self.complete();
        self.announce(clock);
        if self.link.is_congested() {
            let later = now_ns + CONGESTED_NS;
            until = match until {
                Some(at) if self.link.room() > 0 => Some(at.min(later)),
                _ => Some(later),
            };
        }
        until.into_iter().chain(closing_ns).min()
    }

    /// Hears which flows have something to send: domains in turn, a few events at a time, as long as their
    /// accounts pay for it.
    fn read_events(&mut self, now_ns: u64, clock: &mut impl FnMut() -> u64) {
        let domains = self.domains.len();
        let mut left = self.limits.events;
        let (first, mut begun) = (self.cursor, false);
        for step in 0..domains {
            let index = (first + step) % domains;
            while self.has_news(index) {
                if left == 0 {
                    self.cursor = index;
                    return;
                }
                let count = left.min(EVENTS_AT_ONCE);
                left -= count;
                if !std::mem::replace(&mut begun, true) {
                    self.bills.loosen(clock());
                }
                self.read_some(index, count, now_ns);
                self.note_domain(index as u32);
                self.settle(clock());
            }
        }
    }

    /// Whether a domain has posted events, and they are to be read.
    fn has_news(&mut self, index: usize) -> bool {
        let Some(Some(domain)) = self.domains.get_mut(index) else { return false };
        domain.is_heard() && domain.events.has_news() && self.accounts.is_open(&mut domain.account)
    }

    /// Reads up to `count` events of a domain.
    fn read_some(&mut self, index: usize, count: usize, now_ns: u64) {
        for _ in 0..count {
            let Some(Some(domain)) = self.domains.get_mut(index) else { return };
            let heard = match domain.events.read() {
                Ok(None) => return,
                Ok(Some(event)) => match (event.slot(), domain.flow(event.slot())) {
                    (slot, Some(flow)) => {
                        let known = self.flows.get_mut(flow as usize).and_then(Option::as_mut);
                        if known.is_some_and(|flow| flow.tx.heard(event)) {
                            Ok(Some(flow))
                        } else {
                            domain.late_event(slot).map(|()| Some(flow))
                        }
                    }
                    // An event for a flow that was closed meanwhile is late, not a lie.
                    (slot, None) => domain.late_event(slot).map(|()| None),
                },
                Err(fault) => Err(fault),
            };
            match heard {
                Ok(None) => {}
                Ok(Some(flow)) => self.activate(flow, now_ns),
                Err(fault) => {
                    domain.faulted = true;
                    let flows: Vec<u32> = domain.open_flows().collect();
                    for flow in flows {
                        self.fault(flow, fault);
                    }
                    return;
                }
            }
        }
    }

    /// Looks at the channel of a flow that may have something to send.
    pub(crate) fn activate(&mut self, index: u32, now_ns: u64) {
        if !self.scheduler.wants_wake(index) {
            return;
        }
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        if flow.template.is_none() || flow.faulted {
            return;
        }
        match flow.refill(self.scheduler.line(), &self.facts) {
            Ok(Head::Frame { cost_ns }) => self.scheduler.wake(index, cost_ns, now_ns as i64),
            Ok(Head::Empty) if flow.drain_words.is_some() => self.finish(index),
            Ok(Head::Empty | Head::Blocked) => {}
            Err(fault) => self.fault(index, fault),
        }
    }

    /// Sends or refuses the head frame of flow `index`, charges for it and looks at the next one.
    fn serve(&mut self, index: u32, slack: bool, now_ns: u64, clock: &mut impl FnMut() -> u64) {
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else {
            return self.scheduler.remove(index);
        };
        if flow.head.is_empty() {
            self.scheduler.served(index, slack, 0, false, Head::Empty, now_ns as i64);
            return;
        }
        let line = *self.scheduler.line();
        let fate = match flow.cost_ns(&line, &self.facts) {
            Some(_) => flow.emit(&mut self.link, &self.facts, &mut self.scratch, &mut self.header),
            None if flow.head.gso_size > 0 && self.facts.unit_bytes == self.facts.mtu => {
                Fate::Refused(DropReason::Segmentation)
            }
            None => Fate::Refused(DropReason::TooLong),
        };
        let sent = !matches!(fate, Fate::Refused(_));
        let cut = Cut::of(&flow.head);
        let cost = if sent { cut.cost_ns(&line) } else { line.cost_ns(FRAME_BYTES_MIN) };
        self.bills.note(index, flow.domain, Side::Tx, 0);
        if let Some(Some(domain)) = self.domains.get_mut(flow.domain as usize) {
            self.accounts.sent(&mut domain.account, cut.frames());
        }
        if sent {
            self.bills.add(index, bill_word::TX_FRAMES, cut.frames());
            self.bills.add(index, bill_word::TX_BYTES, cut.bytes());
            let wire_ns = cut.ns(|bytes| line.rate().wire_ns(bytes));
            self.bills.add(index, bill_word::TX_WIRE_NS, wire_ns);
            if slack {
                self.bills.add(index, bill_word::TX_SLACK_FRAMES, cut.frames());
                self.bills.add(index, bill_word::TX_SLACK_NS, wire_ns);
            }
        }
        match fate {
            Fate::Sent => {
                self.sent = true;
                flow.owed_words += flow.head.words();
                self.in_flight.push(flow.id, &flow.head);
            }
            Fate::Local(bytes) => {
                self.bills.add(index, bill_word::TX_LOCAL_FRAMES, 1);
                // From here on it is the receiver's.
                self.settle(clock());
                self.turn_around(bytes, now_ns);
                self.settle(clock());
                self.give_head_back(index);
            }
            Fate::Refused(reason) => {
                self.bills.count_drop(index, reason, 1);
                flow.head.flags |= flag::REJECTED;
                self.give_head_back(index);
            }
        }
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        if flow.faulted {
            return;
        }
        flow.head.clear();
        let refilled = flow.refill(&line, &self.facts);
        let head = refilled.unwrap_or(Head::Empty);
        // What is refused takes no line time that others were promised; of what nobody was promised it takes
        // its part as if it were sent, or refusing could go on for ever.
        if self.scheduler.served(index, slack, cost, sent || slack, head, now_ns as i64) {
            self.bills.add(index, bill_word::TX_PERIODS_MISSED, 1);
        }
        match refilled {
            Err(fault) => self.fault(index, fault),
            Ok(Head::Empty) => self.finish_drained(index),
            Ok(_) => {}
        }
    }

    /// Delivers the frame in the scratch buffer to the flow of this host that it is for.
    fn turn_around(&mut self, bytes: usize, now_ns: u64) {
        let scratch = std::mem::take(&mut self.scratch);
        self.inject(&scratch[..bytes], now_ns);
        self.scratch = scratch;
    }

    /// Returns the buffers of frames that the link is done with.
    fn complete(&mut self) {
        let Self { link, in_flight, flows, bills, touched, faults, .. } = self;
        let known = faults.len();
        link.complete(&mut |sent| {
            let Some((id, rec)) = in_flight.pop() else { return };
            let Some(Some(flow)) = flows.get_mut(id.index as usize) else { return };
            // The place may have another user by now.
            if flow.id != id || flow.faulted {
                return;
            }
            flow.owed_words -= rec.words();
            if !sent {
                bills.count_drop(id.index, DropReason::LinkRefused, 1);
                rec.flags |= flag::REJECTED;
            }
            if flow.drain_words.is_some() {
                return;
            }
            if flow.touched == 0 {
                touched.push(id.index);
            }
            flow.touched |= crate::flow::touched::TX;
            if let Err(fault) = flow.tx.put(rec) {
                flow.faulted = true;
                flow.head.clear();
                faults.push((id, fault));
            }
        });
        self.expel(known);
    }

    fn give_head_back(&mut self, index: u32) {
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        if flow.faulted || flow.drain_words.is_some() {
            return;
        }
        match flow.tx.put(&flow.head) {
            Ok(_) => self.touch(index),
            Err(fault) => self.fault(index, fault),
        }
    }
}

/// The longest that a packet may be, before it is cut.
fn longest(facts: &Facts, rec: &IoRec) -> usize {
    let frame_bytes_max = facts.frame_bytes_max();
    match rec.gso_size {
        0 => frame_bytes_max,
        _ => frame_bytes_max - usize::from(facts.mtu) + usize::from(facts.unit_bytes),
    }
}

impl<A: Arenas> crate::flow::Flow<A> {
    /// Takes the next packet from the channel, if its buffers can be returned later. An empty or blocked
    /// channel is armed.
    fn refill(&mut self, line: &Line, facts: &Facts) -> Result<Head, Fault> {
        for _ in 0..2 {
            if self.head.is_empty() && self.drain_words != Some(0) {
                self.tx.take_into(&mut self.head)?;
                let words = self.head.words();
                self.drain_words = self.drain_words.map(|left| left.saturating_sub(words));
            }
            if self.drain_words.is_some() {
                return Ok(self.head_of(line, facts));
            }
            if !self.head.is_empty() {
                let needed = self.owed_words + self.head.words();
                if self.tx.room()? >= needed {
                    return Ok(self.head_of(line, facts));
                }
            }
            // Asks to be told of the next advance. What happened before that was seen is found by
            // looking once more.
            self.tx.arm()?;
        }
        Ok(if self.head.is_empty() { Head::Empty } else { Head::Blocked })
    }

    /// What there is to send.
    fn head_of(&self, line: &Line, facts: &Facts) -> Head {
        if self.head.is_empty() {
            return Head::Empty;
        }
        // What will be refused costs what a refusal costs.
        let refused = || line.cost_ns(FRAME_BYTES_MIN);
        Head::Frame { cost_ns: self.cost_ns(line, facts).unwrap_or_else(refused) }
    }

    /// What the packet at the head costs, unless it is longer than any that may be sent.
    fn cost_ns(&self, line: &Line, facts: &Facts) -> Option<u64> {
        if self.head.bytes() > longest(facts, &self.head) as u64 {
            return None;
        }
        let cost_ns = Cut::of(&self.head).cost_ns(line);
        (cost_ns <= line.unit_ns()).then_some(cost_ns)
    }

    /// Copies, checks, and hands to the link or turns around.
    fn emit(
        &self,
        link: &mut impl Link,
        facts: &Facts,
        scratch: &mut [u8],
        header: &mut [u8; HEADER_BYTES_MAX],
    ) -> Fate {
        let Some(template) = &self.template else { return Fate::Refused(DropReason::NotAttached) };
        let rec = &self.head;
        let (pairs, bytes) = (rec.pairs(), rec.bytes() as usize);
        if !pairs[0].offset.is_multiple_of(2) {
            return Fate::Refused(DropReason::Misaligned);
        }
        let frame_bytes_max = facts.frame_bytes_max();
        if rec.gso_size > 0 && facts.unit_bytes == facts.mtu {
            return Fate::Refused(DropReason::Segmentation);
        }
        // What is behind the first range's bytes is left from other frames: it is neither compared
        // nor sent.
        let first = (pairs[0].len as usize).min(HEADER_BYTES_MAX);
        self.tx_data.read(pairs[0].offset, &mut header[..first]);
        let checked = match rec.gso_size {
            0 => template.check(header, pairs, &self.tx_data, bytes),
            cut => template.check_unit(header, pairs, &self.tx_data, bytes, (cut, frame_bytes_max)),
        };
        match checked {
            Err(reason) => Fate::Refused(reason),
            // Nobody would cut it.
            Ok(checked)
                if checked.segmentation().is_some() && checked.header()[..6] == facts.station.0 =>
            {
                Fate::Refused(DropReason::Segmentation)
            }
            Ok(checked) if checked.header()[..6] == facts.station.0 => {
                Fate::Local(checked.gather(scratch).map_or(0, <[u8]>::len))
            }
            Ok(checked) if link.transmit(&checked) => Fate::Sent,
            Ok(_) => Fate::Refused(DropReason::LinkRefused),
        }
    }
}

#[cfg(test)]
mod tests {
    use base_wire::Mac;

    use super::*;

    #[test]
    fn only_what_the_link_is_asked_to_cut_may_be_longer_than_a_frame() {
        let facts = Facts { station: Mac([2; 6]), mtu: 1500, unit_bytes: 6000, vlan: None };
        let mut rec = IoRec::EMPTY;
        assert_eq!(longest(&facts, &rec), facts.frame_bytes_max());
        rec.gso_size = 1448;
        assert_eq!(longest(&facts, &rec), facts.frame_bytes_max() + 4500);
    }
}
