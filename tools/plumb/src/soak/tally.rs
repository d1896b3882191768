//! What clients count, and what is held against a stack.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A request that took longer has stalled: nothing on an idle wire takes so long but a retransmission.
pub const STALL: Duration = Duration::from_millis(100);

/// What became of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that were answered, and those that were not.
    pub requests: u64,
    /// Connections that were asked for.
    pub connections: u64,
    /// Connections that were reset, by a peer that had taken them or had not.
    pub resets: u64,
    /// Other errors of a call.
    pub errors: u64,
    /// Answers that ended early, and those that had other bytes or more of them.
    pub cut_short: u64,
    pub wrong: u64,
    /// Requests that were given up.
    pub given_up: u64,
    /// Requests that took longer than [`STALL`].
    pub stalls: u64,
    /// The longest that a request took.
    pub worst_us: u64,
    /// Segments that the clients' kernel sent again, and SYNs among them.
    pub sent_again: u64,
    pub syns_sent_again: u64,
}

impl Tally {
    /// Counts what `other` counted too.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.connections += other.connections;
        self.resets += other.resets;
        self.errors += other.errors;
        self.cut_short += other.cut_short;
        self.wrong += other.wrong;
        self.given_up += other.given_up;
        self.stalls += other.stalls;
        self.worst_us = self.worst_us.max(other.worst_us);
        self.sent_again += other.sent_again;
        self.syns_sent_again += other.syns_sent_again;
    }

    /// A request was answered after so long.
    pub fn answered(&mut self, took: Duration) {
        self.requests += 1;
        self.stalls += u64::from(took > STALL);
        self.worst_us = self.worst_us.max(took.as_micros() as u64);
    }

    /// What is wrong with this, whatever another stack does, and with more stalls than `kernel` has.
    pub fn faults(&self, kernel: &Self) -> Vec<String> {
        let all = [
            (self.resets, 0, "connections reset"),
            (self.errors, 0, "errors of calls"),
            (self.cut_short, 0, "answers cut short"),
            (self.wrong, 0, "wrong answers"),
            (self.given_up, 0, "requests given up"),
            (self.stalls, kernel.stalls, "requests that stalled"),
        ];
        let beyond = all.into_iter().filter(|(count, most, _)| count > most);
        beyond.map(|(count, most, what)| format!("{count} {what}, not {most}")).collect()
    }
}

#[test]
fn stalls_are_held_against_the_kernels_and_everything_else_against_none() {
    let kernel = Tally { stalls: 2, resets: 5, ..Tally::default() };
    assert!(Tally { stalls: 2, ..Tally::default() }.faults(&kernel).is_empty());
    let faulty =
        Tally { stalls: 3, resets: 1, errors: 1, cut_short: 1, wrong: 1, given_up: 1, ..kernel };
    assert_eq!(faulty.faults(&kernel).len(), 6);
    let mut tally = Tally::default();
    tally.answered(STALL);
    assert_eq!((tally.requests, tally.stalls), (1, 0));
    tally.answered(2 * STALL);
    assert_eq!((tally.requests, tally.stalls, tally.worst_us), (2, 1, 200_000));
}
