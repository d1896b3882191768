//! Carousel (Saeed et al., SIGCOMM '17): a frame is stamped with the earliest time at which its
//! flow's rate lets it go, waits in a timing wheel until then, and leaves first in, first out.
//!
//! Rates are precise, and nothing says whose frame is urgent: when several are due they queue, and a
//! flow without a rate is stamped with the present and queues with them.

use std::collections::BTreeMap;

use driver_atropos::{Line, Next};

use super::baseline::{Baseline, Rule, Wire, stretch_ns};

/// A timing wheel of departure times.
pub type Carousel = Baseline<Wheel>;

/// Width of the wheel's slots.
const SLOT_NS: i64 = 2_000;

/// Flows by slot and order of arrival. A flow keeps the time from which its rate lets its next frame go.
#[derive(Debug, Default)]
pub struct Wheel {
    slots: BTreeMap<(i64, u64), u32>,
    order: u64,
}

impl Rule for Wheel {
    type Own = i64;

    fn own(_line: &Line) -> i64 {
        0
    }

    fn woken(&mut self, wire: &mut Wire<i64>, index: u32, now_ns: i64) {
        let flow = wire.get_mut(index);
        let at = flow.own.max(now_ns);
        flow.own = at + stretch_ns(&flow.contract, flow.head_ns.unwrap_or(0));
        self.order += 1;
        self.slots.insert((at.div_euclid(SLOT_NS), self.order), index);
    }

    fn choose(&mut self, wire: &mut Wire<i64>, now_ns: i64) -> Next {
        match self.slots.first_key_value() {
            None => wire.sleep(None),
            Some((&(slot, _), &flow)) if slot * SLOT_NS <= now_ns => {
                Next::Serve { flow, slack: false, key_ns: i64::MAX }
            }
            Some((&(slot, _), _)) => wire.sleep(Some(slot * SLOT_NS)),
        }
    }

    fn paid(&mut self, wire: &mut Wire<i64>, index: u32, _: bool, _: u64, now_ns: i64) {
        self.slots.pop_first();
        if wire.get_mut(index).head_ns.is_some() {
            self.woken(wire, index, now_ns);
        }
    }

    fn left(&mut self, index: u32) {
        self.slots.retain(|_, flow| *flow != index);
    }
}
