//! What the scheduler keeps of a flow: one cache line.

use base_flow::Contract;

use crate::buckets::{Member, NONE};

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Not a flow, or closed.
    Vacant = 0,
    /// Has nothing to send.
    Idle = 1,
    /// Has a frame and a claim on the wire: in the run queue, by key.
    Run = 2,
    /// Has used its slice: in the wait queue, by next period. Best-effort flows with a frame are
    /// here too, without being in the queue.
    Wait = 3,
    /// Has a frame, but its owner does not take buffers back.
    Suspended = 4,
}

/// Scheduling state of a flow.
///
/// `T` is `next_period`, `r` is `budget`, `F` is `fluid` (in ns and 2⁻³² ns), `c` is `cost`.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Flow {
    pub(crate) budget: i64,
    pub(crate) next_period: i64,
    fluid_ns: i64,
    /// `deadline / slice` as 32.32 fixed point, rounded up; 0 for best effort.
    ratio: u64,
    fluid_fraction: u32,
    pub(crate) slice: u32,
    pub(crate) period: u32,
    deadline: u32,
    /// Cost of the next frame; 0 if there is none.
    pub(crate) cost: u32,
    next: u32,
    prev: u32,
    /// `place:24 | state:3 | slack:1 | missed:1` from the lowest bit.
    packed: u32,
}

const _: () = assert!(size_of::<Flow>() == 64);

const PLACE: u32 = (1 << 24) - 1;
const STATE_SHIFT: u32 = 24;
const SLACK: u32 = 1 << 27;
const MISSED: u32 = 1 << 28;

impl Flow {
    pub(crate) const VACANT: Self = Self {
        budget: 0,
        next_period: 0,
        fluid_ns: 0,
        ratio: 0,
        fluid_fraction: 0,
        slice: 0,
        period: 0,
        deadline: 0,
        cost: 0,
        next: NONE,
        prev: NONE,
        packed: 0,
    };

    /// A flow that starts its first period when it first has something to send, but not before `begin`.
    pub(crate) fn new(contract: &Contract, begin: i64) -> Self {
        let slice = contract.slice_ns as u32;
        let deadline = contract.deadline_ns as u32;
        let ratio = match slice {
            0 => 0,
            slice => (u128::from(deadline) << 32).div_ceil(u128::from(slice)) as u64,
        };
        let mut flow = Self {
            next_period: begin,
            fluid_ns: begin,
            ratio,
            slice,
            period: contract.period_ns as u32,
            deadline,
            packed: if contract.slack { SLACK } else { 0 },
            ..Self::VACANT
        };
        flow.set_state(State::Idle);
        flow
    }

    /// When everything it has sent is paid for: `F`, rounded up. Best effort pays nothing.
    pub(crate) fn end(&self) -> i64 {
        if !self.is_guaranteed() {
            return i64::MIN;
        }
        // Budgets are converted in steps of 2⁻³² ns, rounded down by less than two.
        self.fluid() + 2
    }

    pub(crate) fn state(&self) -> State {
        match self.packed >> STATE_SHIFT & 7 {
            1 => State::Idle,
            2 => State::Run,
            3 => State::Wait,
            4 => State::Suspended,
            _ => State::Vacant,
        }
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.packed = self.packed & !(7 << STATE_SHIFT) | (state as u32) << STATE_SHIFT;
    }

    pub(crate) const fn takes_slack(&self) -> bool {
        self.packed & SLACK != 0
    }

    /// Notes that a frame of this period was too late; `true` if it is the first.
    #[cold]
    pub(crate) fn miss(&mut self) -> bool {
        let first = self.packed & MISSED == 0;
        self.packed |= MISSED;
        first
    }

    pub(crate) const fn is_guaranteed(&self) -> bool {
        self.slice > 0
    }

    /// Whether deadline and period coincide, so that `F` follows from budget and period without
    /// rounding.
    const fn is_implicit(&self) -> bool {
        self.deadline == self.period
    }

    /// `F`, rounded down.
    fn fluid(&self) -> i64 {
        if self.is_implicit() {
            self.next_period - self.stretch(self.budget)
        } else {
            self.fluid_ns
        }
    }

    /// `work · l/s`, rounded up.
    fn stretch(&self, work: i64) -> i64 {
        let product = i128::from(work) * i128::from(self.ratio);
        ((product + i128::from(u32::MAX)) >> 32) as i64
    }

    /// `F = max(F, t)`.
    fn raise_fluid(&mut self, t: i64) {
        if self.fluid_ns < t {
            (self.fluid_ns, self.fluid_fraction) = (t, 0);
        }
    }

    /// When the next frame should have left the wire: what the run queue is ordered by.
    pub(crate) fn key(&self) -> i64 {
        let cost = i64::from(self.cost);
        if cost > self.budget {
            return if self.is_implicit() {
                self.next_period + self.stretch(cost - self.budget)
            } else {
                self.fluid_ns + self.stretch(cost)
            };
        }
        if self.is_implicit() {
            self.next_period
        } else {
            self.fluid_ns + self.stretch(self.budget)
        }
    }

    /// Whether a flow that wakes at `t` begins a new period rather than continuing the old one.
    fn begins_period(&self, t: i64) -> bool {
        t >= self.next_period || (self.is_implicit() && self.fluid() < t)
    }

    /// The flow was idle and has a frame again: new period, or what is left of the old one.
    pub(crate) fn wake(&mut self, t: i64) {
        if self.begins_period(t) {
            self.packed &= !MISSED;
            let behind = self.fluid() < t;
            let period = i64::from(self.period);
            if behind {
                self.budget = i64::from(self.slice);
                self.next_period = t + period;
            } else {
                self.budget = i64::from(self.slice) + self.budget.min(0);
                let from = if self.is_implicit() { self.next_period } else { t };
                self.next_period = from + period;
            }
        }
        self.raise_fluid(t);
    }

    /// A period begins with something to send.
    pub(crate) fn replenish(&mut self) {
        self.packed &= !MISSED;
        self.budget += i64::from(self.slice);
        self.raise_fluid(self.next_period);
        self.next_period += i64::from(self.period);
    }

    /// Pays for a frame.
    pub(crate) fn charge(&mut self, cost: i64) {
        self.budget -= cost;
        if !self.is_implicit() {
            let advance = (cost as u128) * u128::from(self.ratio) + u128::from(self.fluid_fraction);
            self.fluid_ns += (advance >> 32) as i64;
            self.fluid_fraction = advance as u32;
        }
    }
}

impl Member for Flow {
    fn next(&self) -> u32 {
        self.next
    }

    fn prev(&self) -> u32 {
        self.prev
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }

    fn set_prev(&mut self, prev: u32) {
        self.prev = prev;
    }

    fn place(&self) -> u32 {
        self.packed & PLACE
    }

    fn set_place(&mut self, place: u32) {
        self.packed = self.packed & !PLACE | place;
    }

    fn key_ns(&self) -> i64 {
        if self.state() == State::Run { self.key() } else { self.next_period }
    }
}
