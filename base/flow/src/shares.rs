//! What a line has promised, to whom, and until when.
//!
//! A contract is not over when its flow is closed or its contract changed: a flow that has just sent its
//! slice has used its share of the line up to the end of the period. If that share were given to others
//! at once, a close and an open in every period would send a slice each time. So:
//!
//! * **what was promised stays promised until the driver says that it is settled**, which it does when the
//!   budget that the flow has used has run out: when a fluid line serving it at its rate would have
//!   finished what it has sent (`driver-atropos`, rule *end*). A flow that was within its rate is settled at
//!   once;
//! * a contract that is changed is charged the larger of the two until the earlier one is settled;
//! * who needs a share that he himself still uses up need not wait for it: his next contract is admitted
//!   **after** his earlier ones, takes their share over when they are settled, and the scheduler starts its
//!   first budget no sooner ([`Begin::after`]). Nobody else can have that share, and it is never counted
//!   twice.
//!
//! # Invariants
//!
//! 1. At every moment the densities of the contracts that the scheduler serves, and of those that it has
//!    served and that are not settled, sum to at most [`Shares::promised_ppm`].
//! 2. That is at most [`Admission::promisable_ppm`], and of no user more than the limit given when it
//!    last grew.

use std::collections::{BTreeSet, HashMap};

use crate::admission::{Admission, Reason, Refused};
use crate::{Contract, FlowId};

/// Earlier contracts that one can be admitted after: more would only be a long message.
const AFTER_MAX: usize = 64;

/// How an admitted contract begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Begin {
    /// The number of this contract among those of its flow: settlements are told by it.
    pub change: u32,
    /// Flows whose earlier contracts must be settled before its first budget begins.
    pub after: Vec<FlowId>,
}

/// What is promised to one flow. All densities are in parts per million.
#[derive(Debug, Default)]
struct Entry {
    user: u32,
    /// Of its present contract; 0 when it is closed.
    own: u64,
    /// All that it may use until it is settled, `own` included.
    gross: u64,
    change: u32,
    /// Whether its flow is closed.
    gone: bool,
    /// Of whose unsettled shares it takes over how much.
    after: Vec<(FlowId, u64)>,
    /// Who takes over how much of its unsettled share.
    heirs: Vec<(FlowId, u64)>,
}

impl Entry {
    /// What nobody can have as long as it is not settled, and nobody waits for.
    fn loose(&self) -> u64 {
        self.gross - self.own - self.kept()
    }

    /// What others take over.
    fn kept(&self) -> u64 {
        self.heirs.iter().map(|(_, ppm)| ppm).sum()
    }

    /// What it takes over.
    fn taken(&self) -> u64 {
        self.after.iter().map(|(_, ppm)| ppm).sum()
    }

    /// What it adds to the sums.
    fn net(&self) -> u64 {
        self.gross - self.taken()
    }
}

fn add(list: &mut Vec<(FlowId, u64)>, flow: FlowId, ppm: u64) {
    match list.iter_mut().find(|(of, _)| *of == flow) {
        Some((_, sum)) => *sum += ppm,
        None => list.push((flow, ppm)),
    }
}

fn subtract(list: &mut Vec<(FlowId, u64)>, flow: FlowId, ppm: u64) {
    for (_, sum) in list.iter_mut().filter(|(of, _)| *of == flow) {
        *sum = sum.saturating_sub(ppm);
    }
    list.retain(|(_, ppm)| *ppm > 0);
}

/// The account of one line.
#[derive(Debug)]
pub struct Shares {
    admission: Admission,
    entries: HashMap<FlowId, Entry>,
    promised: u64,
    users: HashMap<u32, u64>,
    /// Flows with something loose, by user.
    loose: BTreeSet<(u32, FlowId)>,
}

impl Shares {
    /// A line that has promised nothing yet.
    pub fn new(admission: Admission) -> Self {
        Self {
            admission,
            entries: HashMap::new(),
            promised: 0,
            users: HashMap::new(),
            loose: BTreeSet::new(),
        }
    }

    /// Density promised, in parts per million.
    pub const fn promised_ppm(&self) -> u64 {
        self.promised
    }

    /// Density that may be promised, in parts per million.
    pub const fn promisable_ppm(&self) -> u64 {
        self.admission.promisable_ppm()
    }

    /// Density promised to `user`.
    pub fn of_user_ppm(&self, user: u32) -> u64 {
        self.users.get(&user).copied().unwrap_or(0)
    }

    /// Flows that are closed and not settled, and whose they were.
    pub fn unsettled(&self) -> impl Iterator<Item = (FlowId, u32)> {
        self.entries.iter().filter(|(_, entry)| entry.gone).map(|(&flow, entry)| (flow, entry.user))
    }

    /// Promises `contract` to `flow` of `user`, in place of what it has if it has one; the user may have
    /// up to `limit_ppm` of the line.
    ///
    /// # Errors
    ///
    /// [`Refused`], with what would be admitted; nothing has changed then.
    pub fn admit(
        &mut self,
        flow: FlowId,
        user: u32,
        contract: &Contract,
        limit_ppm: Option<u64>,
    ) -> Result<Begin, Refused> {
        let needed = contract.density_ppm();
        let (gross, kept) =
            self.entries.get(&flow).map_or((0, 0), |entry| (entry.gross, entry.kept()));
        let line_left = self.promisable_ppm().saturating_sub(self.promised);
        let user_left =
            limit_ppm.map_or(u64::MAX, |limit| limit.saturating_sub(self.of_user_ppm(user)));
        let left = line_left.min(user_left);
        // What it has is its own to use again; what is his and not settled it can wait for.
        let enough = (needed + kept).max(gross) - gross;
        let take = self.take(user, flow, enough.saturating_sub(left));
        let taken: u64 = take.iter().map(|(_, ppm)| ppm).sum();
        let fits = enough <= left.saturating_add(taken);
        if contract.is_guaranteed() && !(fits && self.admission.has_room(contract)) {
            let all = if fits { self.take(user, flow, u64::MAX) } else { take };
            let waited: u64 = all.iter().map(|(_, ppm)| ppm).sum();
            let left_ppm = (gross - kept).saturating_add(left).saturating_add(waited);
            let reason = if !self.admission.has_room(contract) {
                Reason::SliceTooShort { frame_ns: self.admission.frame_ns() }
            } else if user_left < line_left {
                Reason::OverAllowance { needed_ppm: needed, left_ppm }
            } else {
                Reason::OverAllocation { needed_ppm: needed, left_ppm }
            };
            return Err(Refused { reason, offer: self.admission.offer(contract, left_ppm) });
        }
        let entry = self.entries.entry(flow).or_insert_with(|| Entry { user, ..Entry::default() });
        let before = entry.net();
        entry.own = needed;
        entry.gross = entry.gross.max(needed + kept);
        entry.change = entry.change.wrapping_add(1);
        for &(from, ppm) in &take {
            add(&mut entry.after, from, ppm);
        }
        let (change, after) = (entry.change, entry.net());
        for (from, ppm) in &take {
            if let Some(from) = self.entries.get_mut(from) {
                add(&mut from.heirs, flow, *ppm);
            }
        }
        self.count(user, before, after);
        for flow in take.iter().map(|(from, _)| *from).chain([flow]) {
            self.index(flow);
        }
        Ok(Begin { change, after: take.into_iter().map(|(flow, _)| flow).collect() })
    }

    /// What is loose of a user's other flows, up to `wanted_ppm` in all.
    fn take(&self, user: u32, flow: FlowId, wanted_ppm: u64) -> Vec<(FlowId, u64)> {
        let mut wanted = wanted_ppm;
        let mut taken = Vec::new();
        let first = FlowId { index: 0, generation: 0 };
        for &(owner, from) in self.loose.range((user, first)..) {
            if owner != user || wanted == 0 || taken.len() == AFTER_MAX {
                break;
            }
            if from != flow {
                let ppm = self.entries[&from].loose().min(wanted);
                wanted -= ppm;
                taken.push((from, ppm));
            }
        }
        taken
    }

    /// `flow` is closed. What it was promised stays so until it is settled.
    pub fn leave(&mut self, flow: FlowId) {
        if let Some(entry) = self.entries.get_mut(&flow) {
            (entry.own, entry.gone) = (0, true);
            self.index(flow);
        }
    }

    /// The driver says that of `flow` nothing binds any more but its contract number `change`; or that
    /// nothing at all does, if it is closed: then the flow is forgotten, and whose it was is returned.
    pub fn settled(&mut self, flow: FlowId, change: Option<u32>) -> Option<u32> {
        let entry = self.entries.get_mut(&flow)?;
        // What is said of an earlier contract is overtaken.
        let current = match change {
            Some(change) => entry.change == change && !entry.gone,
            None => entry.gone,
        };
        if !current {
            return None;
        }
        let (user, before) = (entry.user, entry.net());
        let over = std::mem::take(&mut entry.after);
        let heirs = std::mem::take(&mut entry.heirs);
        entry.gross = entry.own;
        let (now, gone) = (entry.net(), entry.gone);
        self.count(user, before, now);
        self.loose.remove(&(user, flow));
        if gone {
            self.entries.remove(&flow);
        }
        for (heir, ppm) in heirs {
            self.change(heir, |entry| subtract(&mut entry.after, flow, ppm));
        }
        // Its budget began when theirs had run out, so those have, and what they had waited for.
        let mut over: Vec<_> = over.into_iter().map(|(from, ppm)| (from, flow, ppm)).collect();
        while let Some((from, heir, ppm)) = over.pop() {
            self.change(from, |entry| {
                subtract(&mut entry.heirs, heir, ppm);
                entry.gross -= ppm;
                let mut more = entry.taken().saturating_sub(entry.gross);
                while let Some(&(first, ppm)) = entry.after.first().filter(|_| more > 0) {
                    let part = ppm.min(more);
                    subtract(&mut entry.after, first, part);
                    over.push((first, from, part));
                    more -= part;
                }
            });
        }
        gone.then_some(user)
    }

    fn change(&mut self, flow: FlowId, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(&flow) else { return };
        let (user, before) = (entry.user, entry.net());
        change(entry);
        let after = entry.net();
        self.count(user, before, after);
        self.index(flow);
    }

    /// Keeps the sums.
    fn count(&mut self, user: u32, before: u64, after: u64) {
        self.promised = self.promised - before + after;
        let of_user = self.users.entry(user).or_default();
        *of_user = *of_user - before + after;
        if *of_user == 0 {
            self.users.remove(&user);
        }
    }

    /// Keeps the list of what is loose.
    fn index(&mut self, flow: FlowId) {
        let Some(entry) = self.entries.get(&flow) else { return };
        if entry.loose() > 0 {
            self.loose.insert((entry.user, flow));
        } else {
            self.loose.remove(&(entry.user, flow));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn line() -> Shares {
        Shares::new(Admission::new(123_040, 950_000))
    }

    fn ms(slice: u64, period: u64) -> Contract {
        Contract::guaranteed(slice * MS, period * MS).unwrap()
    }

    const fn flow(index: u32) -> FlowId {
        FlowId { index, generation: 0 }
    }

    fn offer(result: Result<Begin, Refused>) -> Option<Contract> {
        result.expect_err("refused").offer
    }

    #[test]
    fn as_much_as_is_left_is_offered() {
        let mut line = line();
        line.admit(flow(0), 1, &ms(84, 100), None).unwrap();
        let refused = line.admit(flow(1), 1, &ms(20, 100), None).unwrap_err();
        let reason = Reason::OverAllocation { needed_ppm: 200_000, left_ppm: 110_000 };
        assert_eq!(refused, Refused { reason, offer: Some(ms(11, 100)) });
        line.admit(flow(1), 1, &ms(11, 100), None).unwrap();
        assert_eq!(line.promised_ppm(), 950_000);
        assert_eq!(offer(line.admit(flow(2), 1, &ms(1, 100), None)), None, "nothing is left");
        line.admit(flow(2), 1, &Contract::BEST_EFFORT, None).expect("best effort costs nothing");
    }

    #[test]
    fn a_slice_shorter_than_a_frame_is_offered_a_longer_period_or_a_whole_frame() {
        let mut line = line();
        let short = Contract::guaranteed(100_000, MS).unwrap();
        let offered = offer(line.admit(flow(0), 1, &short, None)).unwrap();
        assert_eq!((offered.slice_ns, offered.period_ns), (123_040, 1_230_400));
        // The same share would take more than a second.
        let tiny = Contract::guaranteed(10_000, 100 * MS).unwrap();
        let offered = offer(line.admit(flow(0), 1, &tiny, None)).unwrap();
        assert_eq!((offered.slice_ns, offered.period_ns), (123_040, 100 * MS));
    }

    #[test]
    fn what_a_user_may_have_is_offered_to_him() {
        let mut line = line();
        let refused = line.admit(flow(0), 1, &ms(30, 100), Some(200_000)).unwrap_err();
        let reason = Reason::OverAllowance { needed_ppm: 300_000, left_ppm: 200_000 };
        assert_eq!(refused, Refused { reason, offer: Some(ms(20, 100)) });
    }

    #[test]
    fn the_share_of_a_closed_flow_is_free_for_others_when_it_is_settled() {
        let mut line = line();
        line.admit(flow(0), 1, &ms(90, 100), None).unwrap();
        line.leave(flow(0));
        assert!(line.admit(flow(1), 2, &ms(90, 100), None).is_err());
        assert_eq!(line.settled(flow(0), None), Some(1));
        line.admit(flow(1), 2, &ms(90, 100), None).unwrap();
    }

    #[test]
    fn the_user_of_a_share_that_is_used_up_is_admitted_after_it_and_only_then() {
        let mut line = line();
        line.admit(flow(0), 1, &ms(90, 100), None).unwrap();
        line.leave(flow(0));
        let begin = line.admit(flow(1), 1, &ms(90, 100), None).unwrap();
        assert_eq!(begin.after, [flow(0)]);
        assert_eq!(
            line.promised_ppm(),
            950_000,
            "what is left, and the rest of the share once more"
        );
        assert!(line.admit(flow(2), 1, &ms(90, 100), None).is_err(), "and inherited once");
        line.settled(flow(0), None);
        assert_eq!((line.promised_ppm(), line.of_user_ppm(1)), (900_000, 900_000));
    }

    #[test]
    fn a_changed_contract_costs_the_larger_of_the_two_until_the_earlier_is_settled() {
        let mut line = line();
        line.admit(flow(0), 1, &ms(60, 100), None).unwrap();
        let smaller = line.admit(flow(0), 1, &ms(10, 100), None).unwrap();
        assert_eq!(line.promised_ppm(), 600_000);
        let larger = line.admit(flow(0), 1, &ms(20, 100), None).unwrap();
        assert_eq!(line.settled(flow(0), Some(smaller.change)), None);
        assert_eq!(line.promised_ppm(), 600_000, "an answer to an earlier change says nothing");
        line.settled(flow(0), Some(larger.change));
        assert_eq!(line.promised_ppm(), 200_000);
        assert!(line.admit(flow(0), 1, &ms(96, 100), None).is_err());
        assert_eq!(line.promised_ppm(), 200_000, "a refused change changes nothing");
    }

    #[test]
    fn of_what_was_waited_for_as_much_is_over_as_its_heir_needed_and_the_first_first() {
        let mut line = line();
        for (index, slice) in [(0, 30), (1, 30), (2, 35)] {
            line.admit(flow(index), 1, &ms(slice, 100), None).unwrap();
            line.leave(flow(index));
        }
        let heir = line.admit(flow(3), 1, &ms(90, 100), None).unwrap();
        assert_eq!(heir.after, [flow(0), flow(1), flow(2)]);
        line.leave(flow(3));
        let second = line.admit(flow(4), 1, &ms(45, 100), None).unwrap();
        assert_eq!(second.after, [flow(2), flow(3)]);
        // Its budget began: 40 of the 90 that the flow before it had waited for are over.
        line.settled(flow(4), Some(second.change));
        let left = |index: u32| line.entries[&flow(index)].gross;
        assert_eq!([0, 1, 2, 3, 4].map(left), [0, 200_000, 300_000, 500_000, 450_000]);
        assert_eq!(line.promised_ppm(), 950_000);
    }

    proptest! {
        /// Whatever is asked, every counter-offer is admitted, no limit is passed, and when all are gone
        /// and settled nothing is left.
        #[test]
        fn every_offer_is_admitted_and_nothing_is_promised_twice_or_for_ever(
            frame_ns in 1u64..3_000_000,
            limit in proptest::option::of(0u64..950_000),
            steps in proptest::collection::vec(
                (0u32..12, 0u32..3, 0u64..200_000_000, 1u64..1_000_000_000, 1u64..=4, 0u8..8),
                1..60,
            ),
        ) {
            let mut line = Shares::new(Admission::new(frame_ns, 950_000));
            let mut changes: HashMap<FlowId, u32> = HashMap::new();
            for (index, user, slice_ns, period_ns, hint, what) in steps {
                let flow = FlowId { index, generation: user };
                match what {
                    0 if changes.contains_key(&flow) => line.leave(flow),
                    1 => {
                        if line.settled(flow, None).is_some() {
                            changes.remove(&flow);
                        } else {
                            line.settled(flow, changes.get(&flow).copied());
                        }
                    }
                    _ if line.entries.get(&flow).is_some_and(|entry| entry.gone) => {}
                    _ => {
                        let contract = Contract {
                            slice_ns: slice_ns.min(period_ns / hint),
                            period_ns,
                            deadline_ns: (period_ns / hint).max(1),
                            slack: true,
                            weight: 3,
                        };
                        let Ok(contract) = contract.validated() else { continue };
                        let before = (line.promised_ppm(), line.of_user_ppm(user));
                        let begin = match line.admit(flow, user, &contract, limit) {
                            Ok(begin) => begin,
                            Err(refused) => {
                                let unchanged = (line.promised_ppm(), line.of_user_ppm(user));
                                prop_assert_eq!(before, unchanged);
                                let Some(offer) = refused.offer else { continue };
                                prop_assert!(offer.slack && offer.weight == 3);
                                let admitted = line.admit(flow, user, &offer, limit);
                                prop_assert!(admitted.is_ok(), "{} for {}: {:?}", offer, contract, admitted);
                                admitted.unwrap()
                            }
                        };
                        changes.insert(flow, begin.change);
                    }
                }
                prop_assert!(line.promised_ppm() <= 950_000);
                let sum: u64 = (0..3).map(|user| line.of_user_ppm(user)).sum();
                prop_assert_eq!(sum, line.promised_ppm());
                prop_assert!((0..3).all(|user| limit.is_none_or(|limit| line.of_user_ppm(user) <= limit)));
                // What is there at present is always covered.
                let present: u64 = line.entries.values().map(|entry| entry.own).sum();
                let waits = line.entries.values().any(|entry| !entry.after.is_empty());
                prop_assert!(waits || present <= line.promised_ppm());
            }
            for flow in changes.into_keys() {
                line.leave(flow);
                line.settled(flow, None);
            }
            prop_assert_eq!((line.promised_ppm(), line.entries.len(), line.loose.len()), (0, 0, 0));
        }
    }
}
