//! Neighbours: which station has which address (RFC 826, RFC 1122 §2.3.2).
//!
//! An entry is asked for, answered, becomes stale and is asked for again while it is in use: when it is
//! looked up, and as long as a flow sends to it, for nothing else tells the flow manager whether a next hop
//! still hears (RFC 1122 §2.3.2.1). It is asked at the station that had it last, and then everywhere.
//! Asking is retried with pauses; who waits for an answer hears of failure after the last try, and an
//! entry that flows use is asked for again after a pause, for as long as they do.
//!
//! Whoever says that a neighbour is at another station is not believed before the old station was asked and
//! did not answer, and no more than once a second: a station that has to be silenced first cannot be
//! replaced by shouting.
//!
//! # Cost
//!
//! An entry is looked at when it is heard of, when its time has come, and when it makes room: who makes the
//! table full makes nothing slower.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use base_flow::FlowId;
use base_rpc::NeighbourState;
use base_wire::Mac;

use crate::manager::LinkId;

/// Most entries; the least recently confirmed one that nobody waits for or uses makes room.
const ENTRIES_MAX: usize = 4096;
/// How long an answer is believed.
const REACHABLE_NS: u64 = 30_000_000_000;
/// How long a failure is remembered, so that a dead host is not asked for on every packet.
const FAILED_NS: u64 = 3_000_000_000;
/// Pauses after each try.
const PAUSES_NS: [u64; 4] = [250_000_000, 750_000_000, 1_000_000_000, 1_000_000_000];
/// How long the old station has to answer, which is asked twice, before it is believed that a neighbour
/// moved; and how often that may be.
const DOUBT_NS: u64 = 500_000_000;
const MOVE_NS: u64 = 1_000_000_000;

/// Where a neighbour is.
pub(crate) type Place = (LinkId, IpAddr);

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    state: NeighbourState,
    /// When the state began.
    since: u64,
    /// Tries made, and when the next one is due.
    tries: usize,
    due: Option<u64>,
    used_at: u64,
    /// Where it is said to be by now, and until when the old station may say otherwise.
    claim: Option<Claim>,
    /// When it moved last.
    moved_at: Option<u64>,
    /// Where it stands in the queues: by its deadline, and by its last use if it could make room.
    queued: Option<u64>,
    idle: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    mac: Mac,
    /// When the old station is asked once more; then it was.
    again: Option<u64>,
    until: u64,
}

impl Entry {
    const fn new(now: u64) -> Self {
        Self {
            mac: None,
            state: NeighbourState::Failed,
            since: now.wrapping_sub(FAILED_NS),
            tries: 0,
            due: None,
            used_at: now,
            claim: None,
            moved_at: None,
            queued: None,
            idle: None,
        }
    }

    /// It is at `mac`, which was just heard.
    const fn confirm(&mut self, mac: Mac, now: u64) {
        self.mac = Some(mac);
        (self.state, self.since) = (NeighbourState::Reachable, now);
        (self.tries, self.due, self.claim) = (0, None, None);
        self.used_at = now;
    }

    /// Begins to ask.
    const fn ask(&mut self, now: u64) {
        self.tries = 1;
        self.due = Some(now + PAUSES_NS[0]);
    }

    /// When something is to be done, if flows use the entry or not.
    fn deadline(&self, in_use: bool) -> Option<u64> {
        let aging = match self.state {
            _ if self.due.is_some() => None,
            NeighbourState::Reachable => Some(self.since + REACHABLE_NS),
            NeighbourState::Failed if in_use => Some(self.since + FAILED_NS),
            NeighbourState::Stale if in_use => Some(self.since),
            _ => None,
        };
        let claim = self.claim.map(|claim| claim.again.unwrap_or(claim.until));
        [aging, self.due, claim].into_iter().flatten().min()
    }
}

/// The neighbour cache of all links.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    entries: HashMap<Place, Entry>,
    /// Which flows send to a neighbour.
    users: HashMap<Place, BTreeSet<FlowId>>,
    /// By when something is to be done.
    queue: BTreeSet<(u64, Place)>,
    /// Those that nobody waits for or uses, by their last use.
    idle: BTreeSet<(u64, Place)>,
    /// Entries looked at, of those that are not the one that is spoken of.
    #[cfg(test)]
    looks: usize,
}

/// What is known of a neighbour when it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Its station.
    Known(Mac),
    /// It is being asked for; an [`Event`] will tell.
    Asked,
    /// It did not answer just now.
    Failed,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Send a request: to everyone, or to the station that had it last.
    Ask(Place, Option<Mac>),
    /// The station is known now, and was not.
    Found(Place, Mac),
    /// The station is another one now.
    Moved(Place, Mac),
    /// Nobody answered.
    Lost(Place),
}

impl Neighbours {
    /// Looks `place` up, and asks for it if need be; `events` hears of requests to send.
    pub(crate) fn look_up(&mut self, place: Place, now: u64, events: &mut Vec<Event>) -> Lookup {
        self.make_room(place);
        let found = self.entry(place, now).look_up(place, now, events);
        self.requeue(place);
        found
    }

    fn entry(&mut self, place: Place, now: u64) -> &mut Entry {
        self.entries.entry(place).or_insert(Entry::new(now))
    }

    /// Keeps the queues right for an entry that may have changed.
    fn requeue(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        let in_use = self.users.contains_key(&place);
        let due = entry.deadline(in_use);
        let idle = (entry.due.is_none() && !in_use).then_some(entry.used_at);
        for (queue, is, was) in [
            (&mut self.queue, due, std::mem::replace(&mut entry.queued, due)),
            (&mut self.idle, idle, std::mem::replace(&mut entry.idle, idle)),
        ] {
            if is != was {
                if let Some(was) = was {
                    queue.remove(&(was, place));
                }
                queue.extend(is.map(|is| (is, place)));
            }
        }
    }

    /// A flow sends to `place` from now on, or no longer.
    pub(crate) fn used(&mut self, place: Place, by: FlowId, begins: bool) {
        let users = self.users.entry(place).or_default();
        if begins {
            users.insert(by);
        } else {
            users.remove(&by);
        }
        if users.is_empty() {
            self.users.remove(&place);
        }
        self.requeue(place);
    }

    /// The flows that send to `place`.
    pub(crate) fn users_of(&self, place: Place) -> impl Iterator<Item = FlowId> {
        self.users.get(&place).into_iter().flatten().copied()
    }

    /// A neighbour said where it is. `solicited` if it spoke to us; otherwise only what is known
    /// already is updated, so that nobody can fill the table by shouting. `events` hears what follows.
    pub(crate) fn heard(
        &mut self,
        place: Place,
        mac: Mac,
        solicited: bool,
        now: u64,
        events: &mut Vec<Event>,
    ) {
        if !solicited && !self.entries.contains_key(&place) {
            return;
        }
        self.make_room(place);
        self.entry(place, now).heard(place, mac, solicited, now, events);
        self.requeue(place);
    }

    /// Ages entries and repeats requests.
    pub(crate) fn tick(&mut self, now: u64, events: &mut Vec<Event>) {
        let due: Vec<Place> =
            self.queue.iter().take_while(|(at, _)| *at <= now).map(|(_, place)| *place).collect();
        #[cfg(test)]
        {
            self.looks += due.len();
        }
        for place in due {
            let in_use = self.users.contains_key(&place);
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.tick(place, in_use, now, events);
            }
            self.requeue(place);
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.queue.first().map(|(due, _)| *due)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries: place, station, state, nanoseconds since it began.
    pub(crate) fn iter(
        &self,
        now: u64,
    ) -> impl Iterator<Item = (Place, Option<Mac>, NeighbourState, u64)> {
        self.entries.iter().map(move |(&place, entry)| {
            (place, entry.mac, entry.state, now.wrapping_sub(entry.since))
        })
    }

    fn make_room(&mut self, place: Place) {
        if self.entries.len() < ENTRIES_MAX || self.entries.contains_key(&place) {
            return;
        }
        #[cfg(test)]
        {
            self.looks += 1;
        }
        // With all in use the table grows, as far as there are flows.
        let Some((_, oldest)) = self.idle.pop_first() else { return };
        if let Some(gone) = self.entries.remove(&oldest)
            && let Some(due) = gone.queued
        {
            self.queue.remove(&(due, oldest));
        }
    }
}

impl Entry {
    fn look_up(&mut self, place: Place, now: u64, events: &mut Vec<Event>) -> Lookup {
        self.used_at = now;
        let age = now.wrapping_sub(self.since);
        match (self.state, self.mac) {
            (NeighbourState::Reachable | NeighbourState::Stale, Some(mac)) => {
                if self.state == NeighbourState::Stale && self.due.is_none() {
                    self.ask(now);
                    events.push(Event::Ask(place, Some(mac)));
                }
                Lookup::Known(mac)
            }
            _ if self.due.is_some() => Lookup::Asked,
            _ if age < FAILED_NS => Lookup::Failed,
            _ => {
                (self.state, self.since) = (NeighbourState::Incomplete, now);
                self.ask(now);
                events.push(Event::Ask(place, None));
                Lookup::Asked
            }
        }
    }

    fn heard(
        &mut self,
        place: Place,
        mac: Mac,
        solicited: bool,
        now: u64,
        events: &mut Vec<Event>,
    ) {
        match self.mac {
            None => {
                self.confirm(mac, now);
                events.push(Event::Found(place, mac));
            }
            Some(old) if old == mac => self.confirm(mac, now),
            // The old station was asked before all were, and was silent: longer after it moved than [`MOVE_NS`].
            Some(_) if self.tries > 1 && solicited => {
                self.move_to(mac, now);
                events.push(Event::Moved(place, mac));
            }
            Some(old) => match &mut self.claim {
                Some(claim) => claim.mac = mac,
                None => {
                    // Not before the last move is a while ago.
                    let earliest = self.moved_at.map_or(0, |at| at + MOVE_NS);
                    let until = (now + DOUBT_NS).max(earliest);
                    self.claim = Some(Claim { mac, again: Some(now + DOUBT_NS / 2), until });
                    events.push(Event::Ask(place, Some(old)));
                }
            },
        }
    }

    const fn move_to(&mut self, mac: Mac, now: u64) {
        self.confirm(mac, now);
        self.moved_at = Some(now);
    }

    fn tick(&mut self, place: Place, in_use: bool, now: u64, events: &mut Vec<Event>) {
        if let Some(claim) = &mut self.claim {
            if claim.until <= now {
                let mac = claim.mac;
                self.move_to(mac, now);
                events.push(Event::Moved(place, mac));
                return;
            }
            if claim.again.is_some_and(|at| at <= now) {
                claim.again = None;
                events.push(Event::Ask(place, self.mac));
            }
        }
        if self.due.is_none() {
            if self.state == NeighbourState::Reachable
                && now.wrapping_sub(self.since) >= REACHABLE_NS
            {
                (self.state, self.since) = (NeighbourState::Stale, now);
            }
            let failed_for = now.wrapping_sub(self.since);
            match self.state {
                NeighbourState::Stale if in_use => {
                    self.ask(now);
                    events.push(Event::Ask(place, self.mac));
                }
                NeighbourState::Failed if in_use && failed_for >= FAILED_NS => {
                    // As long as it fails: whoever wants to open a flow to it hears so at once.
                    self.since = now;
                    events.push(Event::Ask(place, None));
                }
                _ => {}
            }
        } else if self.due.is_some_and(|due| due <= now) {
            if self.tries < PAUSES_NS.len() {
                // A station that does not answer any more may have been replaced: ask everyone.
                events.push(Event::Ask(place, None));
                self.due = Some(now + PAUSES_NS[self.tries]);
                self.tries += 1;
            } else {
                let lost = self.state == NeighbourState::Incomplete;
                (self.state, self.since) = (NeighbourState::Failed, now);
                (self.tries, self.due, self.mac, self.claim) = (0, None, None, None);
                if lost {
                    events.push(Event::Lost(place));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const FLOW: FlowId = FlowId { index: 0, generation: 0 };
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

    fn place() -> Place {
        (LinkId(0), "10.0.0.2".parse().unwrap())
    }

    /// Hears of a station; what follows.
    fn heard(cache: &mut Neighbours, mac: Mac, solicited: bool, now: u64) -> Vec<Event> {
        let mut events = Vec::new();
        cache.heard(place(), mac, solicited, now, &mut events);
        events
    }

    /// What happens up to `end`.
    fn pass(cache: &mut Neighbours, end: u64) -> Vec<(u64, Event)> {
        let mut all = Vec::new();
        while let Some(due) = cache.next_deadline().filter(|&due| due <= end) {
            let mut events = Vec::new();
            cache.tick(due, &mut events);
            all.extend(events.into_iter().map(|event| (due, event)));
        }
        all
    }

    #[test]
    fn an_answer_is_believed_for_a_while_and_then_asked_for_again() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        assert_eq!(cache.look_up(place(), 0, &mut events), Lookup::Asked);
        assert_eq!(cache.look_up(place(), 1, &mut events), Lookup::Asked);
        assert_eq!(events, [Event::Ask(place(), None)], "one question for two who ask");
        assert_eq!(heard(&mut cache, MAC, true, 2), [Event::Found(place(), MAC)]);
        assert_eq!(cache.look_up(place(), S, &mut events), Lookup::Known(MAC));
        events.clear();
        assert_eq!(pass(&mut cache, 61 * S), [], "an unused entry is not asked for");
        assert_eq!(cache.look_up(place(), 61 * S, &mut events), Lookup::Known(MAC));
        assert_eq!(events, [Event::Ask(place(), Some(MAC))]);
    }

    #[test]
    fn a_next_hop_that_was_replaced_in_silence_is_found_again_while_a_flow_sends_to_it() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        cache.used(place(), FLOW, true);
        let happened = pass(&mut cache, 30 * S + S / 2);
        let asked = [Some(MAC), None].map(|mac| Event::Ask(place(), mac));
        assert_eq!(happened.iter().map(|(_, event)| *event).collect::<Vec<_>>(), asked);
        assert!(happened[0].0 <= 30 * S, "asked where it was, and then everywhere");
        let mut events = Vec::new();
        assert_eq!(cache.look_up(place(), 31 * S, &mut events), Lookup::Known(MAC));
        assert_eq!(heard(&mut cache, OTHER, true, 31 * S), [Event::Moved(place(), OTHER)]);
        cache.used(place(), FLOW, false);
        assert_eq!(pass(&mut cache, 1000 * S), [], "nobody uses it any more");
    }

    #[test]
    fn a_next_hop_that_is_silent_is_asked_for_until_it_is_back_or_nobody_sends_to_it() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        cache.used(place(), FLOW, true);
        let asked = pass(&mut cache, 600 * S).len();
        assert!((150..=220).contains(&asked), "{asked} times in ten minutes");
        let mut events = Vec::new();
        assert_eq!(cache.look_up(place(), 600 * S, &mut events), Lookup::Failed);
        assert_eq!(events, [], "whoever opens a flow now hears at once that it is not there");
        assert_eq!(heard(&mut cache, OTHER, true, 601 * S), [Event::Found(place(), OTHER)]);
    }

    #[test]
    fn a_station_that_still_answers_cannot_be_replaced_by_shouting() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        let mut moves = 0;
        for at in 0..400u64 {
            let now = S + at * 50_000_000;
            let mut events = heard(&mut cache, Mac([2, 0, 0, 0, 1, at as u8]), false, now);
            events.extend(pass(&mut cache, now).into_iter().map(|(_, event)| event));
            moves += events.iter().filter(|event| matches!(event, Event::Moved(..))).count();
            if events.contains(&Event::Ask(place(), Some(MAC))) {
                heard(&mut cache, MAC, true, now);
            }
        }
        assert_eq!(moves, 0);
    }

    #[test]
    fn a_silent_station_is_replaced_after_it_was_asked_and_once_a_second_at_most() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        assert_eq!(heard(&mut cache, OTHER, false, S), [Event::Ask(place(), Some(MAC))]);
        let moved = [
            (S + DOUBT_NS / 2, Event::Ask(place(), Some(MAC))),
            (S + DOUBT_NS, Event::Moved(place(), OTHER)),
        ];
        assert_eq!(pass(&mut cache, 2 * S), moved);
        let mut moves = 0;
        for at in 0..200u64 {
            let now = 2 * S + at * 50_000_000;
            heard(&mut cache, Mac([2, 0, 0, 0, 1, at as u8]), at % 2 == 0, now);
            let happened = pass(&mut cache, now);
            moves += happened.iter().filter(|(_, event)| matches!(event, Event::Moved(..))).count();
        }
        assert!((5..=10).contains(&moves), "{moves} moves in ten seconds");
    }

    #[test]
    fn a_flow_that_begins_to_use_an_old_entry_has_it_asked_for_at_once() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        assert_eq!(pass(&mut cache, 100 * S), []);
        cache.used(place(), FLOW, true);
        let due = cache.next_deadline().unwrap();
        assert!(due <= 100 * S, "{due}");
        let mut events = Vec::new();
        cache.tick(100 * S, &mut events);
        assert_eq!(events, [Event::Ask(place(), Some(MAC))]);
    }

    #[test]
    fn a_station_that_was_only_just_asked_is_given_time_to_answer() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        heard(&mut cache, MAC, true, 0);
        pass(&mut cache, 40 * S);
        assert_eq!(cache.look_up(place(), 40 * S, &mut events), Lookup::Known(MAC));
        assert_eq!(events, [Event::Ask(place(), Some(MAC))]);
        let hasty = heard(&mut cache, OTHER, true, 40 * S + 1);
        assert!(!hasty.contains(&Event::Moved(place(), OTHER)), "{hasty:?}");
        assert_eq!(heard(&mut cache, MAC, true, 40 * S + 2), []);
        assert_eq!(cache.look_up(place(), 41 * S, &mut events), Lookup::Known(MAC));
    }

    #[test]
    fn what_is_claimed_of_a_neighbour_ages_nothing_that_is_known_of_it() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        cache.used(place(), FLOW, true);
        assert_eq!(heard(&mut cache, OTHER, false, S), [Event::Ask(place(), Some(MAC))]);
        let doubts = pass(&mut cache, S + DOUBT_NS / 2);
        assert_eq!(doubts, [(S + DOUBT_NS / 2, Event::Ask(place(), Some(MAC)))]);
        let (_, mac, state, _) = cache.iter(2 * S).next().unwrap();
        assert_eq!((mac, state), (Some(MAC), NeighbourState::Reachable));
    }

    #[test]
    fn a_station_can_be_replaced_in_silence_again_and_again() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        cache.used(place(), FLOW, true);
        for round in 1..4u64 {
            // It was asked where it is, and then all were.
            let now = 30 * S * round + S / 2 + round * S;
            pass(&mut cache, now);
            let mac = if round % 2 == 1 { OTHER } else { MAC };
            assert_eq!(heard(&mut cache, mac, true, now), [Event::Moved(place(), mac)], "{round}");
        }
    }

    #[test]
    fn silence_is_failure_after_the_last_try_and_is_remembered() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        cache.look_up(place(), 0, &mut events);
        let happened = pass(&mut cache, 100 * S);
        let asked = happened.iter().filter(|(_, event)| matches!(event, Event::Ask(..))).count();
        assert_eq!((asked + 1, happened.last()), (4, Some(&(3 * S, Event::Lost(place())))));
        let now = 3 * S;
        assert_eq!(cache.look_up(place(), now + S, &mut events), Lookup::Failed);
        assert_eq!(cache.look_up(place(), now + 3 * S, &mut events), Lookup::Asked);
    }

    #[test]
    fn shouting_fills_no_table() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        assert_eq!(heard(&mut cache, MAC, false, 0), []);
        assert_eq!(cache.len(), 0);
        for host in 0..10_000u32 {
            let place = (LinkId(0), std::net::Ipv4Addr::from_bits(0x0a00_0000 + host).into());
            cache.heard(place, MAC, true, u64::from(host), &mut events);
            cache.look_up(place, u64::from(host), &mut events);
        }
        assert_eq!(cache.len(), ENTRIES_MAX);
    }

    #[test]
    fn a_full_table_costs_no_look_at_those_that_nothing_is_to_be_done_for() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        let place = |host: u32| (LinkId(0), std::net::Ipv4Addr::from_bits(host).into());
        for host in 0..2 * ENTRIES_MAX as u32 {
            cache.heard(place(host), MAC, true, u64::from(host), &mut events);
        }
        assert_eq!(cache.looks, ENTRIES_MAX, "one makes room for each that is too many");
        // The table is in use, and everybody has been silent for a while.
        for host in ENTRIES_MAX as u32..2 * ENTRIES_MAX as u32 {
            cache.used(place(host), FlowId { index: host, ..FLOW }, true);
        }
        cache.looks = 0;
        let first = cache.next_deadline().unwrap();
        for now in first..first + 100 {
            cache.tick(now, &mut events);
        }
        assert_eq!(cache.looks, 100, "those whose time has come, one in each nanosecond");
        assert_eq!(cache.queue.len(), cache.len());
        assert!(cache.idle.is_empty());
    }

    #[test]
    fn who_sends_to_a_neighbour_is_known_without_a_look_at_the_others() {
        let mut cache = Neighbours::default();
        let flow = |index| FlowId { index, ..FLOW };
        let elsewhere = (LinkId(1), place().1);
        for index in 0..10 {
            let to = if index % 3 == 0 { place() } else { elsewhere };
            cache.used(to, flow(index), true);
        }
        cache.used(place(), flow(3), false);
        assert!(cache.users_of(place()).eq([0, 6, 9].map(flow)));
        for index in [0, 6, 9] {
            cache.used(place(), flow(index), false);
        }
        assert_eq!(cache.users_of(place()).count(), 0);
        assert!(!cache.users.contains_key(&place()), "nothing is kept of whom nobody sends to");
    }
}
