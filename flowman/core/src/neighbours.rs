//! Neighbours: which station has which address (RFC 826, RFC 1122 §2.3.2).
//!
//! An entry is asked for, answered, becomes stale and is asked for again while it is in use. Asking
//! is retried with pauses; who waits for an answer hears of failure after the last try.

use std::collections::HashMap;
use std::net::IpAddr;

use base_rpc::NeighbourState;
use base_wire::Mac;

use crate::manager::LinkId;

/// Most entries; the least recently confirmed one that nobody waits for makes room.
const ENTRIES_MAX: usize = 4096;
/// How long an answer is believed.
const REACHABLE_NS: u64 = 60_000_000_000;
/// How long a failure is remembered, so that a dead host is not asked for on every packet.
const FAILED_NS: u64 = 3_000_000_000;
/// Pauses after each try.
const PAUSES_NS: [u64; 4] = [250_000_000, 750_000_000, 1_000_000_000, 1_000_000_000];

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
}

/// The neighbour cache of all links.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    entries: HashMap<Place, Entry>,
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
        let entry = self.entries.entry(place).or_insert(Entry {
            mac: None,
            state: NeighbourState::Failed,
            since: now.wrapping_sub(FAILED_NS),
            tries: 0,
            due: None,
            used_at: now,
        });
        entry.used_at = now;
        let age = now.wrapping_sub(entry.since);
        match (entry.state, entry.mac) {
            (NeighbourState::Reachable | NeighbourState::Stale, Some(mac)) => {
                if entry.state == NeighbourState::Stale && entry.due.is_none() {
                    entry.tries = 1;
                    entry.due = Some(now + PAUSES_NS[0]);
                    events.push(Event::Ask(place, Some(mac)));
                }
                Lookup::Known(mac)
            }
            (NeighbourState::Incomplete, _) => Lookup::Asked,
            _ if age < FAILED_NS => Lookup::Failed,
            _ => {
                (entry.state, entry.since) = (NeighbourState::Incomplete, now);
                entry.tries = 1;
                entry.due = Some(now + PAUSES_NS[0]);
                events.push(Event::Ask(place, None));
                Lookup::Asked
            }
        }
    }

    /// A neighbour said where it is. `solicited` if it spoke to us; otherwise only what is known
    /// already is updated, so that nobody can fill the table by shouting.
    pub(crate) fn heard(
        &mut self,
        place: Place,
        mac: Mac,
        solicited: bool,
        now: u64,
    ) -> Option<Event> {
        if !solicited && !self.entries.contains_key(&place) {
            return None;
        }
        self.make_room(place);
        let before = self.entries.insert(
            place,
            Entry {
                mac: Some(mac),
                state: NeighbourState::Reachable,
                since: now,
                tries: 0,
                due: None,
                used_at: now,
            },
        );
        match before.and_then(|entry| entry.mac) {
            Some(old) if old != mac => Some(Event::Moved(place, mac)),
            Some(_) => None,
            None => Some(Event::Found(place, mac)),
        }
    }

    /// Ages entries and repeats requests.
    pub(crate) fn tick(&mut self, now: u64, events: &mut Vec<Event>) {
        for (&place, entry) in &mut self.entries {
            if entry.state == NeighbourState::Reachable
                && now.wrapping_sub(entry.since) >= REACHABLE_NS
            {
                (entry.state, entry.since) = (NeighbourState::Stale, now);
            }
            if entry.due.is_none_or(|due| due > now) {
                continue;
            }
            if entry.tries < PAUSES_NS.len() {
                // A station that does not answer any more may have been replaced: ask everyone.
                events.push(Event::Ask(place, None));
                entry.due = Some(now + PAUSES_NS[entry.tries]);
                entry.tries += 1;
            } else {
                let lost = entry.state == NeighbourState::Incomplete;
                (entry.state, entry.since, entry.due, entry.mac) =
                    (NeighbourState::Failed, now, None, None);
                if lost {
                    events.push(Event::Lost(place));
                }
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let expiry = |entry: &Entry| match entry.state {
            NeighbourState::Reachable => Some(entry.since + REACHABLE_NS),
            _ => None,
        };
        self.entries.values().filter_map(|entry| entry.due.or_else(|| expiry(entry))).min()
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
        let idle = self.entries.iter().filter(|(_, entry)| entry.due.is_none());
        if let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used_at).map(|(&place, _)| place) {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn place() -> Place {
        (LinkId(0), "10.0.0.2".parse().unwrap())
    }

    #[test]
    fn an_answer_is_believed_for_a_while_and_then_asked_for_again() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        assert_eq!(cache.look_up(place(), 0, &mut events), Lookup::Asked);
        assert_eq!(cache.look_up(place(), 1, &mut events), Lookup::Asked);
        assert_eq!(events, [Event::Ask(place(), None)], "one question for two who ask");
        assert_eq!(cache.heard(place(), MAC, true, 2), Some(Event::Found(place(), MAC)));
        assert_eq!(cache.look_up(place(), S, &mut events), Lookup::Known(MAC));
        events.clear();
        cache.tick(61 * S, &mut events);
        assert!(events.is_empty(), "an unused entry is not asked for");
        assert_eq!(cache.look_up(place(), 61 * S, &mut events), Lookup::Known(MAC));
        assert_eq!(events, [Event::Ask(place(), Some(MAC))]);
        let other = Mac([2, 0, 0, 0, 0, 8]);
        assert_eq!(cache.heard(place(), other, false, 62 * S), Some(Event::Moved(place(), other)));
    }

    #[test]
    fn silence_is_failure_after_the_last_try_and_is_remembered() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        cache.look_up(place(), 0, &mut events);
        let mut now = 0;
        while let Some(due) = cache.next_deadline() {
            now = due;
            cache.tick(now, &mut events);
        }
        let asked = events.iter().filter(|event| matches!(event, Event::Ask(..))).count();
        assert_eq!((asked, events.last()), (4, Some(&Event::Lost(place()))));
        assert_eq!(now, 3 * S);
        assert_eq!(cache.look_up(place(), now + S, &mut events), Lookup::Failed);
        assert_eq!(cache.look_up(place(), now + 3 * S, &mut events), Lookup::Asked);
    }

    #[test]
    fn shouting_fills_no_table() {
        let (mut cache, mut events) = (Neighbours::default(), Vec::new());
        assert_eq!(cache.heard(place(), MAC, false, 0), None);
        assert_eq!(cache.len(), 0);
        for host in 0..10_000u32 {
            let place = (LinkId(0), std::net::Ipv4Addr::from_bits(0x0a00_0000 + host).into());
            cache.heard(place, MAC, true, u64::from(host));
            cache.look_up(place, u64::from(host), &mut events);
        }
        assert_eq!(cache.len(), ENTRIES_MAX);
    }
}
