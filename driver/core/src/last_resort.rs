//! Who takes the frames that no flow claims: by kind, and so many of each as are heard at all.

use base_flow::{Limiter, Pace, Stray};

use crate::flow::NO_FLOW;

/// What becomes of a frame that no flow claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// The flow with this number takes it.
    To(u32),
    /// The flow with this number would, but has been given enough.
    TooMany(u32),
    /// Nobody wants it.
    Nowhere,
}

/// The flows that take what no other flow claims.
#[derive(Debug)]
pub(crate) struct LastResort {
    kinds: [(u32, Limiter); Stray::COUNT],
    secret: [u64; 2],
}

impl LastResort {
    /// Nobody takes anything; `secret` is random.
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        let none = (NO_FLOW, Limiter::new(Pace { per_s: 0, burst: 0 }, 0));
        Self { kinds: [none; Stray::COUNT], secret }
    }

    /// Flow `index` takes frames of this kind, at this pace.
    pub(crate) fn set(&mut self, stray: Stray, index: u32, pace: Pace) {
        let lot = self.secret[0].rotate_left(stray.index() as u32) ^ self.secret[1];
        self.kinds[stray.index()] = (index, Limiter::new(pace, lot));
    }

    /// Whether flow `index` takes any.
    pub(crate) fn is_by(&self, index: u32) -> bool {
        self.kinds.iter().any(|(flow, _)| *flow == index)
    }

    /// Flow `index` takes nothing any more.
    pub(crate) fn forget(&mut self, index: u32) {
        for (flow, _) in &mut self.kinds {
            if *flow == index {
                *flow = NO_FLOW;
            }
        }
    }

    /// The flow that takes frames of this kind; [`NO_FLOW`] if none does.
    pub(crate) const fn of(&self, stray: Stray) -> u32 {
        self.kinds[stray.index()].0
    }

    /// Who takes a frame of this kind.
    pub(crate) fn pass(&mut self, stray: Stray, now_ns: u64) -> Pass {
        let (flow, limiter) = &mut self.kinds[stray.index()];
        match *flow {
            NO_FLOW => Pass::Nowhere,
            flow if limiter.take(now_ns) => Pass::To(flow),
            flow => Pass::TooMany(flow),
        }
    }
}
