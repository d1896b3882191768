//! The driver itself: its tables, its loop, its bells.

use std::collections::HashMap;

use base_flow::{Bill, FlowId, LinkFacts, Rate, bill_word};
use base_rpc::{DomainId, FromDriver, Spender};
use driver_atropos::{Atropos, Line, Scheduler};
use driver_filter::{Demux, HEADER_BYTES_MAX};
use driver_link::{Facts, Link};
use rbuf_channel::{AtomicU64, Fault, IoRec, Words};

use crate::account::Accounts;
use crate::arenas::Arenas;
use crate::bills::{Bills, FRAME_NS_MAX, NO_DOMAIN, Side, Work};
use crate::domain::Domain;
use crate::drain::Draining;
use crate::flow::{Flow, NO_FLOW, touched};
use crate::last_resort::LastResort;

/// How much a driver takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows it can have.
    pub flows_max: u32,
    /// Frames received, and frames sent, in one round of the loop.
    pub burst: usize,
    /// Events read in one round of the loop.
    pub events: usize,
    /// Least that a frame is charged, in nanoseconds: the driver's own time for it, so that contracts
    /// hold where that and not the wire is what runs out.
    pub frame_cost_ns: u64,
    /// Whether flows may hand over segments for the link to cut, if it can.
    pub units: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows_max: 65_536, burst: 64, events: 256, frame_cost_ns: 0, units: true }
    }
}

/// Who pays for a control message.
///
/// Asked for before the message is obeyed: afterwards the domain may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The domain it is about.
    pub domain: DomainId,
    /// Whose that is; `None` for the flow manager itself.
    pub uid: Option<u32>,
}

/// Packets that the link has not given back yet, in the order in which it got them.
///
/// A ring of places that are written and read in place: an iorec is large, and seldom full.
#[derive(Debug)]
pub(crate) struct InFlight {
    places: Box<[(FlowId, IoRec)]>,
    pushed: usize,
    popped: usize,
}

impl InFlight {
    /// More than any link accepts at a time.
    const PLACES: usize = 256;

    fn new() -> Self {
        let empty = (FlowId { index: NO_FLOW, generation: 0 }, IoRec::EMPTY);
        Self { places: vec![empty; Self::PLACES].into(), pushed: 0, popped: 0 }
    }

    pub(crate) fn push(&mut self, flow: FlowId, rec: &IoRec) {
        assert!(self.pushed - self.popped < Self::PLACES, "a link accepts fewer frames than that");
        let place = &mut self.places[self.pushed % Self::PLACES];
        place.0 = flow;
        place.1.copy_from(rec);
        self.pushed += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(FlowId, &mut IoRec)> {
        if self.popped == self.pushed {
            return None;
        }
        let place = &mut self.places[self.popped % Self::PLACES];
        self.popped += 1;
        Some((place.0, &mut place.1))
    }
}

/// The data path of one link, scheduled by A-TX unless it is to be compared with something else.
pub struct Driver<L, A: Arenas, W, S = Atropos> {
    pub(crate) link: L,
    pub(crate) limits: Limits,
    pub(crate) demux: Demux,
    pub(crate) scheduler: S,
    pub(crate) flows: Vec<Option<Box<Flow<A>>>>,
    pub(crate) domains: Vec<Option<Domain<A>>>,
    /// Place of each domain in the table.
    pub(crate) domain_at: HashMap<DomainId, u32>,
    /// The domain whose events are read first in the next round.
    pub(crate) cursor: usize,
    /// What domains and users may take of the loop's time.
    pub(crate) accounts: Accounts,
    pub(crate) bills: Bills<W>,
    pub(crate) last_resort: LastResort,
    pub(crate) in_flight: InFlight,
    /// Flows whose owners are to be told of something at the end of the round.
    pub(crate) touched: Vec<u32>,
    /// Who has, or had last, each place of the table, and the number of its contract.
    pub(crate) names: Vec<(FlowId, u32)>,
    /// Flows whose contract was changed, and bound no longer, at once.
    pub(crate) settled: Vec<FromDriver>,
    /// Flows whose owners lied in this round.
    pub(crate) faults: Vec<(FlowId, Fault)>,
    pub(crate) draining: Draining,
    /// A frame on its way from one local flow to another.
    pub(crate) scratch: Vec<u8>,
    /// Whether a frame went out since the last [`Self::handed_over`].
    pub(crate) sent: bool,
    /// The private copy of the header that is being checked.
    pub(crate) header: Box<[u8; HEADER_BYTES_MAX]>,
    /// What the link is now: the largest packets are not always as large as at first.
    pub(crate) facts: Facts,
    /// What it was at first, which everything has room for.
    first: Facts,
    /// Wire time that is kept free for what is handed over at once.
    unit_ns: u64,
}

impl<L: Link, A: Arenas, W: Words> Driver<L, A, W> {
    /// A driver of `link`, scheduled at `rate` and `lead_ns` ahead, which counts in `counters`.
    ///
    /// `secret` must be random. `None` if `counters` has fewer than
    /// [`bill_words`](crate::bill_words) words.
    pub fn new(
        link: L,
        rate: Rate,
        lead_ns: u64,
        limits: Limits,
        counters: W,
        secret: [u64; 2],
        now_ns: u64,
    ) -> Option<Self> {
        let schedule = |line| Atropos::new(line, now_ns as i64);
        Self::scheduled_by(schedule, link, rate, lead_ns, limits, counters, secret)
    }
}

impl<L: Link, A: Arenas, W: Words, S: Scheduler> Driver<L, A, W, S> {
    /// As [`Driver::new`], with the scheduler that `schedule` makes for the line.
    pub fn scheduled_by(
        schedule: impl FnOnce(Line) -> S,
        link: L,
        rate: Rate,
        lead_ns: u64,
        limits: Limits,
        counters: W,
        secret: [u64; 2],
    ) -> Option<Self> {
        let mut facts = link.facts();
        if !limits.units {
            facts.unit_bytes = facts.mtu;
        }
        let first = facts;
        let frame_ns = frame_ns(&facts, rate).max(limits.frame_cost_ns);
        facts.unit_bytes = unit_bytes(&facts, UNIT_NS / frame_ns);
        let unit_ns = match u64::from(facts.unit_bytes / facts.mtu.max(1)) {
            0 | 1 => frame_ns,
            // Each frame of it may be smaller than the longest, and so they may be one more.
            frames => (frames + 1) * frame_ns,
        };
        let line = Line::new(rate, facts.frame_bytes_max(), lead_ns)
            .with_units(unit_ns)
            .with_cost_min(limits.frame_cost_ns);
        Some(Self {
            demux: Demux::new(facts.station, facts.vlan, secret),
            scheduler: schedule(line),
            flows: Vec::new(),
            names: Vec::new(),
            settled: Vec::new(),
            domains: Vec::new(),
            domain_at: HashMap::new(),
            cursor: 0,
            accounts: Accounts::new(rate, limits.frame_cost_ns),
            bills: Bills::new(counters, limits.flows_max)?,
            last_resort: LastResort::new(secret),
            in_flight: InFlight::new(),
            touched: Vec::with_capacity(1024),
            faults: Vec::with_capacity(16),
            draining: Draining::default(),
            scratch: vec![0; facts.frame_bytes_max()],
            sent: false,
            header: Box::new([0; HEADER_BYTES_MAX]),
            link,
            limits,
            facts,
            first,
            unit_ns,
        })
    }

    /// The link.
    pub const fn link(&self) -> &L {
        &self.link
    }

    /// The link, to feed or configure it.
    pub const fn link_mut(&mut self) -> &mut L {
        &mut self.link
    }

    /// Gives the link back.
    pub fn into_link(self) -> L {
        self.link
    }

    /// What to tell the flow manager of the link.
    pub fn facts(&self, name: &str, kind: &str) -> LinkFacts {
        LinkFacts {
            name: name.to_string(),
            kind: kind.to_string(),
            mac: self.facts.station,
            mtu: self.facts.mtu,
            mtu_max: self.first.mtu,
            unit_bytes: self.facts.unit_bytes,
            vlan: self.facts.vlan,
            rate: self.scheduler.line().rate(),
            frame_cost_ns: self.scheduler.line().cost_ns_min(),
            tardiness_ns: self.scheduler.line().tardiness_ns(),
        }
    }

    /// The interface carries packets of up to `mtu` bytes from now on. Longer ones are refused, whoever
    /// has them ready, and longer than at first they never are: rings and buffers are made for that.
    ///
    /// Returns what to tell the flow manager, if it is something new.
    pub fn set_mtu(&mut self, mtu: u16) -> Option<FromDriver> {
        let mtu = mtu.clamp(MTU_MIN, self.first.mtu.max(MTU_MIN));
        if mtu == self.facts.mtu {
            return None;
        }
        self.facts.mtu = mtu;
        let frame_ns = frame_ns(&self.facts, self.scheduler.line().rate());
        let at_once = self.unit_ns / frame_ns.max(self.limits.frame_cost_ns);
        let cuts = self.first.unit_bytes > self.first.mtu;
        let frames = if cuts { at_once.saturating_sub(1) } else { 1 };
        let unit_bytes = unit_bytes(&Facts { mtu, ..self.first }, frames);
        self.facts.unit_bytes = unit_bytes;
        Some(FromDriver::Carries { mtu, unit_bytes })
    }

    /// Number of flows.
    pub fn flows(&self) -> usize {
        self.flows.iter().flatten().count()
    }

    /// The bill of a flow so far.
    pub fn flow_bill(&self, flow: FlowId) -> Option<Bill> {
        self.find(flow).map(|index| self.bills.read(index))
    }

    /// The link's own bill: frames of no flow, and time nobody caused.
    pub fn link_bill(&self) -> Bill {
        self.bills.read(self.bills.link())
    }

    /// The loop's thread has used `used_ns` of processor time until `now_ns`. What the line waits while it works
    /// is no stall: frames are late then.
    pub fn ran(&mut self, now_ns: u64, used_ns: u64) {
        self.scheduler.ran(now_ns as i64, used_ns);
    }

    /// Nanoseconds the line stood still because the loop was kept from running.
    pub fn stall_ns(&self) -> i64 {
        self.scheduler.stall_ns()
    }

    /// The link had everything that the last [`Self::transmit`] sent at `now_ns`.
    pub fn handed_over(&mut self, now_ns: u64) {
        if std::mem::take(&mut self.sent) {
            self.scheduler.handed_over(now_ns as i64);
        }
    }

    /// Shares what the loop's thread has used until `used_ns` and was for no single domain among those for
    /// whom it worked since the last call; `false`, and nothing is billed, if it did not.
    pub fn bill(&mut self, used_ns: u64) -> bool {
        self.settle(used_ns);
        let Self { bills, flows, domains, accounts, .. } = self;
        let worked =
            bills.settle_round(used_ns, |work, ns| charge(flows, domains, accounts, work, ns));
        accounts.next_round();
        worked
    }

    /// Bills a round of the loop in which nothing was done.
    pub fn bill_idle(&mut self, used_ns: u64) {
        let Self { bills, flows, domains, accounts, .. } = self;
        bills.settle_idle(used_ns, |work, ns| {
            // The budgets for receiving have paid for the frames.
            if work.side != Side::Rx {
                charge(flows, domains, accounts, work, ns);
            }
        });
    }

    /// Bills what the loop did until `now_ns` at the word of the flow manager: to the domain for which it spoke, or,
    /// if that is gone, to its user, or to the link. Returns who has nothing left, for the flow manager to know.
    pub fn bill_control(
        &mut self,
        now_ns: u64,
        used_ns: u64,
        payer: Option<Payer>,
    ) -> Option<FromDriver> {
        self.accounts.at(now_ns);
        let index = payer.and_then(|payer| self.domain_index(payer.domain));
        self.note_domain(index.map_or(NO_DOMAIN, |index| index as u32));
        let spent_ns = self.settle(used_ns);
        let Payer { domain: id, uid } = payer?;
        let spent = |(whose, until_ns)| FromDriver::Spent { whose, until_ns };
        if let Some(domain) = index.and_then(|index| self.domains[index].as_mut()) {
            let until_ns = self.accounts.domain_spent(&mut domain.account)?;
            return Some(spent((Spender::Domain(id), until_ns)));
        }
        self.accounts.pay_late(uid?, spent_ns);
        let until_ns = self.accounts.user_spent(uid?)?;
        Some(spent((Spender::User(uid?), until_ns)))
    }

    /// Who pays for what is done at the word of the flow manager for `domain`.
    pub fn payer(&self, domain: DomainId) -> Option<Payer> {
        let index = self.domain_index(domain)?;
        let account = &self.domains[index].as_ref()?.account;
        Some(Payer { domain, uid: self.accounts.uid(account) })
    }

    /// Bills what woke the loop to the `domains` that rang for it, in equal parts.
    pub fn bill_rings(&mut self, used_ns: u64, domains: impl IntoIterator<Item = DomainId>) {
        for domain in domains {
            if let Some(index) = self.domain_index(domain) {
                self.note_domain(index as u32);
            }
        }
        self.settle(used_ns);
    }

    /// The domain that `flow` belongs to.
    pub fn domain_of(&self, flow: FlowId) -> Option<DomainId> {
        let flow = self.flows[self.find(flow)? as usize].as_ref()?;
        Some(self.domains.get(flow.domain as usize)?.as_ref()?.id)
    }

    /// Whether anything is done for `domain` at `now_ns`; if not, its bell need not be heard.
    pub fn is_open(&mut self, domain: DomainId, now_ns: u64) -> bool {
        self.accounts.at(now_ns);
        let Some(index) = self.domain_index(domain) else { return true };
        let Some(Some(domain)) = self.domains.get_mut(index) else { return true };
        self.accounts.is_open(&mut domain.account)
    }

    /// Notes work that was done for a domain and for no single flow of it.
    pub(crate) fn note_domain(&mut self, index: u32) {
        let domain = self.domains.get(index as usize).and_then(Option::as_ref);
        let bearer = domain.map(|domain| domain.bearer).filter(|&flow| flow != NO_FLOW);
        self.bills.note(bearer.unwrap_or(self.bills.link()), index, Side::Tx, 0);
    }

    /// A stretch of work for one domain ends. Returns how long it took.
    pub(crate) fn settle(&mut self, used_ns: u64) -> u64 {
        let Self { bills, flows, domains, accounts, .. } = self;
        let mut spent_ns = 0;
        bills.settle(used_ns, |work, ns| {
            spent_ns += ns;
            charge(flows, domains, accounts, work, ns);
        });
        spent_ns
    }

    /// Publishes what only the loop knows: processor time of its thread.
    pub fn publish(&mut self, thread_ns: u64) {
        self.bills.set_link(bill_word::LINK_THREAD_NS, thread_ns);
        self.bills.set_link(bill_word::LINK_STALL_NS, self.scheduler.stall_ns() as u64);
    }

    /// Announces at `now_ns` that the loop is about to sleep, and returns until when it may, [`u64::MAX`] for
    /// as long as it likes; `None`, and still awake, if a domain has posted an event that is to be read.
    pub fn doze(&mut self, now_ns: u64) -> Option<u64> {
        let Self { domains, accounts, .. } = self;
        accounts.at(now_ns);
        let mut until = u64::MAX;
        for domain in domains.iter_mut().flatten().filter(|domain| domain.is_heard()) {
            if accounts.is_open(&mut domain.account) {
                domain.posts.set_asleep(true);
            } else {
                until = until.min(accounts.opens_at(&domain.account));
            }
        }
        let mut awake =
            domains.iter().flatten().filter(|it| it.is_heard() && !it.account.is_shut());
        if awake.any(|domain| domain.events.has_news()) {
            self.awake();
            return None;
        }
        Some(until)
    }

    /// The loop has slept.
    pub fn awake(&mut self) {
        for domain in self.domains.iter().flatten() {
            domain.posts.set_asleep(false);
        }
    }

    /// Channels that were closed since the last call because their owner lied.
    pub fn take_faults(&mut self) -> Vec<FromDriver> {
        let told =
            |(flow, fault): (FlowId, Fault)| FromDriver::Fault { flow, fault: fault.to_string() };
        self.faults.drain(..).map(told).collect()
    }

    /// Contracts that bind no longer, since the last call; a round's worth, if they are many.
    pub fn take_settled(&mut self, now_ns: u64) -> Vec<FromDriver> {
        let mut all = std::mem::take(&mut self.settled);
        for _ in 0..SETTLED_PER_ROUND {
            let Some(index) = self.scheduler.settled(now_ns as i64) else { break };
            let (flow, change) = self.names[index as usize];
            let change = self.find(flow).map(|_| change);
            all.push(FromDriver::Settled { flow, change });
        }
        all
    }

    /// Whether [`Self::take_faults`] has something to tell.
    pub const fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The places of the flows `after`, whether they are still there or not.
    pub(crate) fn places(&self, after: &[FlowId]) -> Vec<u32> {
        let is =
            |flow: &FlowId| self.names.get(flow.index as usize).is_some_and(|name| name.0 == *flow);
        after.iter().filter(|flow| is(flow)).map(|flow| flow.index).collect()
    }

    /// The table index of `flow`, unless the place has another user by now.
    pub(crate) fn find(&self, flow: FlowId) -> Option<u32> {
        let found = self.flows.get(flow.index as usize)?.as_ref()?;
        (found.id == flow).then_some(flow.index)
    }

    pub(crate) fn flow_mut(&mut self, index: u32) -> Option<&mut Flow<A>> {
        self.flows.get_mut(index as usize)?.as_deref_mut()
    }

    /// Remembers that the owner of flow `index` has buffers to take back.
    pub(crate) fn touch(&mut self, index: u32) {
        if let Some(Some(flow)) = self.flows.get_mut(index as usize) {
            if flow.touched == 0 {
                self.touched.push(index);
            }
            flow.touched |= touched::TX;
        }
    }

    /// Tells owners what they asked to be told: once per flow and round, whatever happened. Who can be told
    /// only with a system call pays for it, and waits if his account is empty.
    pub(crate) fn announce(&mut self, clock: &mut impl FnMut() -> u64) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.retain(|&index| {
            let Self { flows, domains, bills, accounts, .. } = self;
            let Some(Some(flow)) = flows.get_mut(index as usize) else { return false };
            let Some(Some(domain)) = domains.get_mut(flow.domain as usize) else { return false };
            if !domain.leaving && !accounts.is_open(&mut domain.account) {
                return true;
            }
            let moved = std::mem::take(&mut flow.touched);
            let mut woken = false;
            let mut wake = |arenas: &A, bills: &mut Bills<W>, word: Option<&AtomicU64>| {
                if !std::mem::replace(&mut woken, true) {
                    bills.loosen(clock());
                }
                match word {
                    Some(word) => arenas.wake(word),
                    None => arenas.ring(),
                }
            };
            for (bit, end) in [(touched::RX, &mut flow.rx), (touched::TX, &mut flow.tx)] {
                if moved & bit == 0 {
                    continue;
                }
                let notice = end.notice();
                if notice.wake_published {
                    wake(&domain.arenas, bills, Some(end.published_word()));
                }
                if notice.wake_taken {
                    wake(&domain.arenas, bills, Some(end.taken_word()));
                }
                if notice.post {
                    domain.posts.post(flow.slot);
                    domain.posted = true;
                }
            }
            if domain.posted {
                domain.posted = false;
                if domain.events.peer_asleep() {
                    wake(&domain.arenas, bills, None);
                }
            }
            if woken {
                let side = if moved & touched::RX != 0 { Side::Wake } else { Side::Tx };
                bills.note(index, flow.domain, side, 0);
                bills.settle(clock(), |work, ns| charge(flows, domains, accounts, work, ns));
            }
            false
        });
        self.touched = touched;
    }

    /// Closes the channels of flow `index`, whose owner lied. The flow manager removes the flow.
    #[cold]
    pub(crate) fn fault(&mut self, index: u32, fault: Fault) {
        // Of one that is being closed nobody wants to know any more.
        if self.flow_mut(index).is_some_and(|flow| flow.drain_words.is_some()) {
            return self.finish(index);
        }
        self.silence(index);
        if let Some(flow) = self.flow_mut(index)
            && !flow.faulted
        {
            flow.faulted = true;
            flow.head.clear();
            let id = flow.id;
            self.faults.push((id, fault));
        }
    }

    /// Takes flow `index` out of filter and scheduler.
    pub(crate) fn silence(&mut self, index: u32) {
        self.scheduler.remove(index);
        let Some(Some(flow)) = self.flows.get_mut(index as usize) else { return };
        flow.template = None;
        if let Some(endpoints) = flow.endpoints.take() {
            self.demux.remove(&endpoints, index);
        }
        self.last_resort.forget(index);
    }
}

/// Contracts whose end is told in one round: each is a message.
const SETTLED_PER_ROUND: usize = 16;

/// Takes the time that `work` took from what pays for it.
pub(crate) fn charge<A: Arenas>(
    flows: &mut [Option<Box<Flow<A>>>],
    domains: &mut [Option<Domain<A>>],
    accounts: &mut Accounts,
    work: Work,
    spent_ns: u64,
) {
    match work.side {
        Side::Rx => {
            if let Some(Some(flow)) = flows.get_mut(work.flow as usize) {
                accounts.pay_receiver(
                    &mut flow.receiver,
                    spent_ns.min(FRAME_NS_MAX * u64::from(work.frames)),
                );
            }
        }
        Side::Tx | Side::Wake => {
            if let Some(Some(domain)) = domains.get_mut(work.domain as usize) {
                accounts.pay(&mut domain.account, spent_ns);
            }
        }
    }
}

/// The longest that a unit may keep the wire from others: what a flow hands over at once is not
/// interrupted. Slow lines take frames only.
const UNIT_NS: u64 = 250_000;

/// Fewer frames than this are not worth being cut by the link.
const UNIT_FRAMES_MIN: u64 = 4;

/// What every link carries (RFC 791).
const MTU_MIN: u16 = 68;

/// Wire time of the longest frame.
fn frame_ns(facts: &Facts, rate: Rate) -> u64 {
    rate.wire_ns(facts.frame_bytes_max()).max(1)
}

/// The largest IP packet to take at once, of no more than so many frames.
fn unit_bytes(facts: &Facts, frames: u64) -> u16 {
    let frames = frames.min(u64::from(facts.unit_bytes / facts.mtu.max(1)));
    if frames < UNIT_FRAMES_MIN { facts.mtu } else { frames as u16 * facts.mtu }
}

#[cfg(test)]
mod tests {
    use base_wire::Mac;
    use driver_link::null::NullLink;
    use rbuf_channel::HeapWords;

    use super::*;
    use crate::arenas::HeapArenas;

    #[test]
    fn units_are_as_long_as_a_quarter_of_a_millisecond_or_what_the_link_cuts_if_it_may() {
        for (mtu, mbit, cuts, units, unit_bytes, unit_ns) in [
            (1500, 1000, u16::MAX, true, 20 * 1500, 21 * 12_304),
            (1500, 1000, 9000, true, 6 * 1500, 7 * 12_304),
            (1500, 1000, 6000, true, 4 * 1500, 5 * 12_304),
            (1500, 1000, 5999, true, 1500, 12_304),
            (1500, 1000, u16::MAX, false, 1500, 12_304),
            (1500, 100, u16::MAX, true, 1500, 123_040),
            (1500, 20_000, u16::MAX, true, 43 * 1500, 44 * 615),
            (9000, 1000, u16::MAX, true, 9000, 72_304),
        ] {
            let mut link = NullLink::new(Mac([2; 6]), mtu);
            link.set_unit_bytes(cuts);
            let words = HeapWords::new(crate::bill_words(1));
            let limits = Limits { flows_max: 1, units, ..Limits::default() };
            let rate = Rate::mbit(mbit);
            let made = Driver::<_, HeapArenas, _>::new(link, rate, 0, limits, words, [1, 2], 0);
            let driver = made.unwrap();
            let is = (driver.facts.unit_bytes, driver.unit_ns);
            assert_eq!(is, (unit_bytes, unit_ns), "{mtu} {mbit} {cuts} {units}");
        }
    }

    #[test]
    fn a_unit_is_never_longer_on_the_wire_than_it_could_be_at_first() {
        for (first, mbit) in [(1500, 10), (1500, 100), (1500, 1000), (1500, 20_000), (9000, 10_000)]
        {
            let mut link = NullLink::new(Mac([2; 6]), first);
            link.set_unit_bytes(u16::MAX);
            let words = HeapWords::new(crate::bill_words(1));
            let limits = Limits { flows_max: 1, ..Limits::default() };
            let rate = Rate::mbit(mbit);
            let made = Driver::<_, HeapArenas, _>::new(link, rate, 0, limits, words, [1, 2], 0);
            let mut driver = made.unwrap();
            let at_first = driver.facts.unit_bytes;
            for mtu in (68..=first).rev() {
                driver.set_mtu(mtu);
                let Facts { mtu: now, unit_bytes, .. } = driver.facts;
                assert_eq!(now, mtu);
                let frames = u64::from(unit_bytes / mtu) + u64::from(unit_bytes > mtu);
                let wire_ns = frames * frame_ns(&driver.facts, rate);
                assert!(unit_bytes >= mtu && wire_ns <= driver.unit_ns, "{first} {mbit} {mtu}");
            }
            driver.set_mtu(first);
            assert_eq!(driver.facts.unit_bytes, at_first);
        }
    }

    #[test]
    fn only_flows_that_had_their_places_last_are_waited_for() {
        let link = NullLink::new(Mac([2; 6]), 1500);
        let words = HeapWords::new(crate::bill_words(4));
        let limits = Limits { flows_max: 4, ..Limits::default() };
        let made =
            Driver::<_, HeapArenas, _>::new(link, Rate::mbit(100), 0, limits, words, [1, 2], 0);
        let mut driver = made.unwrap();
        let flow = |index, generation| FlowId { index, generation };
        driver.names = (0..4).map(|index| (flow(index, 7), 0)).collect();
        let after = [flow(3, 7), flow(1, 6), flow(2, 7), flow(4, 7), flow(0, 8)];
        assert_eq!(driver.places(&after), [3, 2]);
    }
}
