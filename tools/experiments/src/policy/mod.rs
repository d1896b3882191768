//! Policies that A-TX is compared with, behind the same interface and so with the same I/O.
//!
//! | Policy | What it is |
//! |---|---|
//! | [`Qosentry`] | The rules of the original system's network scheduler, its defects of code removed |
//! | [`TokenBucket`] | Rate and burst per flow, unclaimed time borrowed in turn: what HTB does |
//! | [`Drr`] | Deficit round robin with a flow's share as its weight: fair, and no more |
//! | [`Carousel`] | A departure time per frame and a timing wheel: pacing without priorities |
//!
//! Each costs more per frame than a driver could afford; that is not what they are compared for.

mod baseline;
mod carousel;
mod drr;
mod qosentry;
mod token_bucket;

use driver_atropos::{Atropos, Line, Scheduler};

pub use carousel::Carousel;
pub use drr::Drr;
pub use qosentry::Qosentry;
pub use token_bucket::TokenBucket;

/// A policy by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Ours.
    Atx,
    /// The original's.
    Qosentry,
    /// HTB's.
    TokenBucket,
    /// Deficit round robin.
    Drr,
    /// Timing wheel.
    Carousel,
}

impl Policy {
    /// All of them, ours first.
    pub const ALL: [Self; 5] =
        [Self::Atx, Self::Qosentry, Self::TokenBucket, Self::Drr, Self::Carousel];

    /// As tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Atx => "plumb",
            Self::Qosentry => "qosentry",
            Self::TokenBucket => "token-bucket",
            Self::Drr => "drr",
            Self::Carousel => "carousel",
        }
    }

    /// The policy called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// A scheduler of this policy for `line`, which is free from `now_ns` on.
    pub fn schedule(self, line: Line, now_ns: i64) -> Box<dyn Scheduler> {
        match self {
            Self::Atx => Box::new(Atropos::new(line, now_ns)),
            Self::Qosentry => Box::new(Qosentry::new(line, now_ns)),
            Self::TokenBucket => Box::new(TokenBucket::new(line, now_ns)),
            Self::Drr => Box::new(Drr::new(line, now_ns)),
            Self::Carousel => Box::new(Carousel::new(line, now_ns)),
        }
    }
}

#[cfg(test)]
mod tests;
