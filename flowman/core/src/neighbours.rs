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

use std::collections::HashMap;
use std::net::IpAddr;

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
    /// How many flows send to a neighbour.
    users: HashMap<Place, u32>,
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
        let entry = self.entries.entry(place).or_insert(Entry::new(now));
        entry.used_at = now;
        let age = now.wrapping_sub(entry.since);
        match (entry.state, entry.mac) {
            (NeighbourState::Reachable | NeighbourState::Stale, Some(mac)) => {
                if entry.state == NeighbourState::Stale && entry.due.is_none() {
                    entry.ask(now);
                    events.push(Event::Ask(place, Some(mac)));
                }
                Lookup::Known(mac)
            }
            (NeighbourState::Incomplete, _) => Lookup::Asked,
            _ if entry.due.is_some() => Lookup::Asked,
            _ if age < FAILED_NS => Lookup::Failed,
            _ => {
                (entry.state, entry.since) = (NeighbourState::Incomplete, now);
                entry.ask(now);
                events.push(Event::Ask(place, None));
                Lookup::Asked
            }
        }
    }

    /// A flow sends to `place` from now on, or no longer.
    pub(crate) fn used(&mut self, place: Place, by_one_more: bool) {
        let users = self.users.entry(place).or_default();
        *users = if by_one_more { *users + 1 } else { users.saturating_sub(1) };
        if *users == 0 {
            self.users.remove(&place);
        }
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
        let entry = self.entries.entry(place).or_insert(Entry::new(now));
        match entry.mac {
            None => {
                entry.confirm(mac, now);
                events.push(Event::Found(place, mac));
            }
            Some(old) if old == mac => entry.confirm(mac, now),
            // The old station was asked before all were, and was silent.
            Some(_) if entry.tries > 1 && solicited && entry.may_move(now) => {
                entry.move_to(mac, now);
                events.push(Event::Moved(place, mac));
            }
            Some(old) => match &mut entry.claim {
                Some(claim) => claim.mac = mac,
                None => {
                    // Not before the last move is a while ago.
                    let earliest = entry.moved_at.map_or(0, |at| at + MOVE_NS);
                    let until = (now + DOUBT_NS).max(earliest);
                    entry.claim = Some(Claim { mac, again: Some(now + DOUBT_NS / 2), until });
                    events.push(Event::Ask(place, Some(old)));
                }
            },
        }
    }

    /// Ages entries and repeats requests.
    pub(crate) fn tick(&mut self, now: u64, events: &mut Vec<Event>) {
        let Self { entries, users } = self;
        for (&place, entry) in entries {
            let in_use = users.contains_key(&place);
            if entry.deadline(in_use).is_some_and(|due| due <= now) {
                entry.tick(place, in_use, now, events);
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let in_use = |place| self.users.contains_key(place);
        self.entries.iter().filter_map(|(place, entry)| entry.deadline(in_use(place))).min()
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
        let users = &self.users;
        let idle =
            |&(place, entry): &(&Place, &Entry)| entry.due.is_none() && !users.contains_key(place);
        let oldest = self.entries.iter().filter(idle).min_by_key(|(_, entry)| entry.used_at);
        // With all in use the table grows, as far as there are flows.
        if let Some(oldest) = oldest.map(|(&place, _)| place) {
            self.entries.remove(&oldest);
        }
    }
}

impl Entry {
    const fn may_move(&self, now: u64) -> bool {
        match self.moved_at {
            Some(at) => now.saturating_sub(at) >= MOVE_NS,
            None => true,
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
        cache.used(place(), true);
        let happened = pass(&mut cache, 30 * S + S / 2);
        let asked = [Some(MAC), None].map(|mac| Event::Ask(place(), mac));
        assert_eq!(happened.iter().map(|(_, event)| *event).collect::<Vec<_>>(), asked);
        assert!(happened[0].0 <= 30 * S, "asked where it was, and then everywhere");
        let mut events = Vec::new();
        assert_eq!(cache.look_up(place(), 31 * S, &mut events), Lookup::Known(MAC));
        assert_eq!(heard(&mut cache, OTHER, true, 31 * S), [Event::Moved(place(), OTHER)]);
        cache.used(place(), false);
        assert_eq!(pass(&mut cache, 1000 * S), [], "nobody uses it any more");
    }

    #[test]
    fn a_next_hop_that_is_silent_is_asked_for_until_it_is_back_or_nobody_sends_to_it() {
        let mut cache = Neighbours::default();
        heard(&mut cache, MAC, true, 0);
        cache.used(place(), true);
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
}
