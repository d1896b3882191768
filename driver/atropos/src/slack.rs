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
    /// Passes every flow at most as often as its frame is longer than its quantum; with frames of
    /// at most a quantum, that is one step per flow that just had its turn.
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
            self.cursor = node.next;
            self.served = false;
        }
    }

    /// Pays for a frame that [`Self::next`] chose.
    pub(crate) fn charge(&mut self, index: u32, cost: i64) {
        self.nodes[index as usize].deficit -= cost;
    }
}
