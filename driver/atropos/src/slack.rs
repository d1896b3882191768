//! Slack: deficit round robin over the flows that take it, one frame per decision, so that a
//! guaranteed frame that becomes ready waits for at most one.

use crate::buckets::NONE;

#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    prev: u32,
    deficit: i64,
    weight: u8,
}

/// A ring of flows with a frame and no claim.
#[derive(Debug)]
pub(crate) struct Slack {
    nodes: Vec<Node>,
    /// Whose turn it is.
    cursor: u32,
    /// Whether its quantum for this turn was added.
    served: bool,
    quantum: i64,
}

impl Slack {
    pub(crate) fn new(quantum_ns: u64) -> Self {
        Self { nodes: Vec::new(), cursor: NONE, served: false, quantum: quantum_ns as i64 }
    }

    pub(crate) fn resize(&mut self, flows: usize) {
        self.nodes.resize(flows, Node { next: NONE, prev: NONE, deficit: 0, weight: 1 });
    }

    pub(crate) fn set_weight(&mut self, index: u32, weight: u8) {
        self.nodes[index as usize].weight = weight.max(1);
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        self.nodes[index as usize].next != NONE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cursor == NONE
    }

    /// Adds a flow at the end of the round; no effect if it is there.
    pub(crate) fn insert(&mut self, index: u32) {
        if self.contains(index) {
            return;
        }
        self.nodes[index as usize].deficit = 0;
        if self.cursor == NONE {
            let node = &mut self.nodes[index as usize];
            (node.next, node.prev) = (index, index);
            self.cursor = index;
            self.served = false;
            return;
        }
        let next = self.cursor;
        let prev = self.nodes[next as usize].prev;
        self.nodes[index as usize].next = next;
        self.nodes[index as usize].prev = prev;
        self.nodes[next as usize].prev = index;
        self.nodes[prev as usize].next = index;
    }

    /// Removes a flow; no effect if it is not there.
    pub(crate) fn remove(&mut self, index: u32) {
        if !self.contains(index) {
            return;
        }
        let Node { next, prev, .. } = self.nodes[index as usize];
        self.nodes[index as usize].next = NONE;
        if next == index {
            self.cursor = NONE;
            return;
        }
        self.nodes[next as usize].prev = prev;
        self.nodes[prev as usize].next = next;
        if self.cursor == index {
            self.cursor = next;
            self.served = false;
        }
    }

    /// Whose frame is next, given what each flow's next frame costs.
    ///
    /// Nothing costs more than a quantum, and nobody owes anything, so who begins a turn can send: it takes
    /// two steps, whatever the flows have sent or claimed.
    pub(crate) fn next(&mut self, cost: impl Fn(u32) -> i64) -> Option<u32> {
        if self.cursor == NONE {
            return None;
        }
        loop {
            let node = &mut self.nodes[self.cursor as usize];
            if !self.served {
                node.deficit += self.quantum * i64::from(node.weight);
                self.served = true;
            }
            if cost(self.cursor) <= node.deficit {
                return Some(self.cursor);
            }
            // What is left over is less than a frame that may be sent; more would be a claim on later turns.
            node.deficit = node.deficit.min(self.quantum);
            self.cursor = node.next;
            self.served = false;
        }
    }

    /// Pays for a frame that [`Self::next`] chose.
    pub(crate) fn charge(&mut self, index: u32, cost: i64) {
        let node = &mut self.nodes[index as usize];
        node.deficit = (node.deficit - cost).max(0);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const QUANTUM: u64 = 100_000;

    proptest! {
        /// Counted, not timed: flows come and go, of any weight, with frames of any length.
        #[test]
        fn a_pick_takes_two_steps_and_no_turn_is_longer_than_weight_and_a_frame_allow(
            weights in proptest::collection::vec(1u8..=8, 1..12),
            picks in proptest::collection::vec((any::<u32>(), 0u32..12, 0u8..10), 1..300),
        ) {
            let mut slack = Slack::new(QUANTUM);
            slack.resize(weights.len());
            for (index, &weight) in weights.iter().enumerate() {
                slack.set_weight(index as u32, weight);
                slack.insert(index as u32);
            }
            let mut costs = vec![QUANTUM as i64; weights.len()];
            let (mut last, mut turn) = (NONE, 0);
            for (cost, other, what) in picks {
                let other = other % weights.len() as u32;
                match what {
                    0 => slack.remove(other),
                    1 => slack.insert(other),
                    _ => {}
                }
                let steps = Cell::new(0);
                let picked = slack.next(|index| {
                    steps.set(steps.get() + 1);
                    costs[index as usize]
                });
                prop_assert!(steps.get() <= 2, "{} steps", steps.get());
                let Some(picked) = picked else { continue };
                turn = if picked == last { turn } else { 0 };
                turn += costs[picked as usize];
                let others = (0..weights.len() as u32).any(|index| index != picked && slack.contains(index));
                let most = i64::from(weights[picked as usize]) * QUANTUM as i64 + QUANTUM as i64;
                prop_assert!(!others || turn <= most, "{} ns in one turn", turn);
                last = if others && what > 1 { picked } else { NONE };
                slack.charge(picked, costs[picked as usize]);
                costs[picked as usize] = 1 + i64::from(cost) % QUANTUM as i64;
            }
        }

        /// The round as a row of flows, the one whose turn it is in front.
        #[test]
        fn picks_are_those_of_deficit_round_robin(
            weights in proptest::collection::vec(1u8..=8, 1..8),
            steps in proptest::collection::vec((0u32..8, 1..=QUANTUM as i64, 0u8..6), 1..400),
        ) {
            let flows = weights.len();
            let mut slack = Slack::new(QUANTUM);
            slack.resize(flows);
            for (index, &weight) in weights.iter().enumerate() {
                slack.set_weight(index as u32, weight);
            }
            let (mut row, mut begun) = (VecDeque::new(), false);
            let (mut deficits, mut costs) = (vec![0; flows], vec![QUANTUM as i64; flows]);
            for (index, cost, what) in steps {
                let index = index % flows as u32;
                let place = row.iter().position(|&other| other == index);
                match (what, place) {
                    (0, Some(place)) => {
                        row.remove(place);
                        begun &= place > 0;
                    }
                    (1, None) => {
                        row.push_back(index);
                        deficits[index as usize] = 0;
                        begun &= row.len() > 1;
                    }
                    _ => {}
                }
                match what {
                    0 => slack.remove(index),
                    1 => slack.insert(index),
                    _ => {}
                }
                let expected = (!row.is_empty()).then(|| loop {
                    let first = row[0];
                    let deficit = &mut deficits[first as usize];
                    if !begun {
                        *deficit += QUANTUM as i64 * i64::from(weights[first as usize]);
                        begun = true;
                    }
                    if costs[first as usize] <= *deficit {
                        break first;
                    }
                    *deficit = (*deficit).min(QUANTUM as i64);
                    row.rotate_left(1);
                    begun = false;
                });
                prop_assert_eq!(slack.next(|index| costs[index as usize]), expected);
                prop_assert_eq!(slack.is_empty(), row.is_empty());
                prop_assert_eq!(slack.contains(index), row.contains(&index));
                if let Some(picked) = expected {
                    let deficit = &mut deficits[picked as usize];
                    *deficit = (*deficit - costs[picked as usize]).max(0);
                    slack.charge(picked, costs[picked as usize]);
                    costs[picked as usize] = cost;
                }
            }
        }
    }

    #[test]
    fn a_weight_of_nothing_is_one() {
        let mut slack = Slack::new(QUANTUM);
        slack.resize(1);
        slack.set_weight(0, 0);
        slack.insert(0);
        assert_eq!(slack.next(|_| QUANTUM as i64), Some(0));
    }
}
