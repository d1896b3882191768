//! The rules of `driver-atropos` by the book: in rational arithmetic, for one flow at a time, without
//! queues. It says when a frame must have left the wire.

use base_flow::Contract;

/// Long ago.
pub(super) const NEVER: i128 = -(1 << 62);

/// One flow. Times are multiplied by `s` where `F` is concerned, so all is exact.
pub(super) struct Book {
    pub(super) s: i128,
    pub(super) p: i128,
    pub(super) l: i128,
    pub(super) r: i128,
    /// `F · s`.
    pub(super) fluid: i128,
    pub(super) next_period: i128,
    pub(super) ready: bool,
    pub(super) waiting: bool,
}

impl Book {
    /// The contract's first budget begins at `begin` or later.
    pub(super) fn new(contract: &Contract, begin: i128) -> Self {
        let (s, p, l): (i128, i128, i128) =
            (contract.slice_ns.into(), contract.period_ns.into(), contract.deadline_ns.into());
        Self { s, p, l, r: 0, fluid: begin * s, next_period: begin, ready: false, waiting: false }
    }

    /// When what was sent is paid for, exactly, and as the scheduler rounds it: never down.
    pub(super) fn end(&self) -> (i128, i128) {
        if self.s == 0 {
            return (NEVER, NEVER);
        }
        let exact = self.fluid.div_euclid(self.s);
        if self.l != self.p {
            return (exact, exact + 2);
        }
        let ratio = ((self.l << 32) + self.s - 1).div_euclid(self.s);
        (exact, self.next_period - (self.r * ratio + u32::MAX as i128).div_euclid(1 << 32) + 2)
    }

    /// `key · s` of a frame of cost `c`.
    pub(super) fn key(&self, c: i128) -> i128 {
        let d = if self.l == self.p {
            self.next_period * self.s
        } else {
            self.fluid + self.r.max(0) * self.l
        };
        if c <= self.r { d } else { self.fluid + c * self.l }
    }

    pub(super) fn wake(&mut self, t: i128) {
        let t_s = t * self.s;
        let behind = self.fluid < t_s;
        if t >= self.next_period || (self.l == self.p && behind) {
            if behind {
                (self.r, self.next_period) = (self.s, t + self.p);
            } else {
                self.r = self.s + self.r.min(0);
                self.next_period = if self.l == self.p { self.next_period } else { t } + self.p;
            }
        }
        self.fluid = self.fluid.max(t_s);
        self.ready = self.r > 0;
        self.waiting = !self.ready;
    }

    pub(super) fn serve(&mut self, c: i128, more: bool) {
        self.r -= c;
        self.fluid += c * self.l;
        self.waiting = self.r <= 0;
        self.ready = !self.waiting && more;
    }

    pub(super) fn replenish(&mut self, t: i128, backlogged: bool) {
        if !self.waiting || self.next_period > t {
            return;
        }
        if !backlogged {
            self.waiting = false;
            return;
        }
        self.r += self.s;
        self.fluid = self.fluid.max(self.next_period * self.s);
        self.next_period += self.p;
        self.ready = self.r > 0;
        self.waiting = !self.ready;
    }
}
