//! Carousel (Saeed et al., SIGCOMM '17): a frame is stamped with the earliest time at which its
//! flow's rate lets it go, waits in a timing wheel until then, and leaves first in, first out.
//!
//! Rates are precise, and nothing says whose frame is urgent: when several are due they queue, and a
//! flow without a rate is stamped with the present and queues with them.

use std::collections::BTreeMap;

use base_flow::Contract;
use driver_atropos::{Head, Line, Next, Scheduler};

use super::wire::{Wire, stretch_ns};

/// Width of the wheel's slots.
const SLOT_NS: i64 = 2_000;

/// When the flow's rate lets its next frame go.
#[derive(Debug, Clone, Copy)]
struct Pace {
    next_ns: i64,
}

/// A timing wheel of departure times.
#[derive(Debug)]
pub struct Carousel {
    wire: Wire<Pace>,
    /// Flows by slot and order of arrival.
    wheel: BTreeMap<(i64, u64), u32>,
    order: u64,
}

impl Carousel {
    /// A scheduler for `line`, which is free from `now_ns` on.
    pub const fn new(line: Line, now_ns: i64) -> Self {
        Self { wire: Wire::new(line, now_ns), wheel: BTreeMap::new(), order: 0 }
    }

    fn stamp(&mut self, index: u32, now_ns: i64) {
        let flow = self.wire.get_mut(index);
        let at = flow.own.next_ns.max(now_ns);
        flow.own.next_ns = at + stretch_ns(&flow.contract, flow.head_ns.unwrap_or(0));
        self.order += 1;
        self.wheel.insert((at.div_euclid(SLOT_NS), self.order), index);
    }
}

impl Scheduler for Carousel {
    fn line(&self) -> &Line {
        &self.wire.line
    }

    fn stall_ns(&self) -> i64 {
        0
    }

    fn add(&mut self, index: u32, contract: &Contract) {
        self.wire.add(index, contract, Pace { next_ns: 0 });
    }

    fn remove(&mut self, index: u32) {
        self.wire.remove(index);
        self.wheel.retain(|_, flow| *flow != index);
    }

    fn set_contract(&mut self, index: u32, contract: &Contract) {
        self.wire.set_contract(index, contract);
    }

    fn wants_wake(&self, index: u32) -> bool {
        self.wire.wants_wake(index)
    }

    fn wake(&mut self, index: u32, cost_ns: u64, now_ns: i64) {
        if self.wants_wake(index) {
            self.wire.get_mut(index).head_ns = Some(cost_ns as i64);
            self.stamp(index, now_ns);
        }
    }

    fn next(&mut self, now_ns: i64) -> Next {
        if let Some(committed) = self.wire.committed(now_ns) {
            return committed;
        }
        match self.wheel.first_key_value() {
            None => self.wire.sleep(None),
            Some((&(slot, _), &flow)) if slot * SLOT_NS <= now_ns => {
                Next::Serve { flow, slack: false, key_ns: i64::MAX }
            }
            Some((&(slot, _), _)) => self.wire.sleep(Some(slot * SLOT_NS)),
        }
    }

    fn served(
        &mut self,
        index: u32,
        _slack: bool,
        cost_ns: u64,
        sent: bool,
        head: Head,
        now_ns: i64,
    ) -> bool {
        self.wheel.pop_first();
        self.wire.served(index, cost_ns, sent, head, now_ns);
        if self.wire.get_mut(index).head_ns.is_some() {
            self.stamp(index, now_ns);
        }
        false
    }
}
