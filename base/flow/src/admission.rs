//! Admission: contracts are admitted before they are given.
//!
//! The test is sufficient and simple: while the densities `slice / deadline` of all contracts sum
//! to at most one, every guaranteed frame finishes by its deadline plus one longest frame, whatever
//! the others do. A part of the line is kept back for the system's own flows and for slack.
//!
//! What is promised already, and until when, is found in [`crate::Shares`].

use core::fmt;

use crate::Contract;

/// Least that a line asks of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Charge of the longest frame, in nanoseconds.
    frame_ns: u64,
    promisable_ppm: u64,
}

/// Why a contract was not admitted, and what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// A contract as near to it as would be admitted now; `None` if only best effort would.
    pub offer: Option<Contract>,
}

/// Why a contract was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A period could pass without a whole frame.
    SliceTooShort {
        /// Charge of the longest frame, in nanoseconds: the shortest slice.
        frame_ns: u64,
    },
    /// The line has promised too much already.
    OverAllocation {
        /// Density asked for, in parts per million.
        needed_ppm: u64,
        /// Density left.
        left_ppm: u64,
    },
    /// The user may not have so much of the line.
    OverAllowance {
        /// Density asked for, in parts per million.
        needed_ppm: u64,
        /// Density that the user may still have guaranteed.
        left_ppm: u64,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::SliceTooShort { frame_ns } => {
                write!(f, "slice is shorter than a full frame of {frame_ns} ns")?;
            }
            Reason::OverAllocation { needed_ppm, left_ppm } => {
                write!(f, "guarantee needs {needed_ppm} ppm of the link, {left_ppm} ppm left")?;
            }
            Reason::OverAllowance { needed_ppm, left_ppm } => {
                write!(
                    f,
                    "guarantee needs {needed_ppm} ppm of the link, the user may have {left_ppm} ppm more"
                )?;
            }
        }
        match self.offer {
            Some(offer) => write!(f, ": {} would be admitted", offer.options()),
            None => f.write_str(": only --slack would be admitted"),
        }
    }
}

impl core::error::Error for Refused {}

impl Admission {
    /// A line whose longest frame is charged `frame_ns`, and which may promise `promisable_ppm`.
    pub const fn new(frame_ns: u64, promisable_ppm: u64) -> Self {
        Self { frame_ns, promisable_ppm }
    }

    /// Density that may be promised, in parts per million.
    pub const fn promisable_ppm(&self) -> u64 {
        self.promisable_ppm
    }

    /// Returns `true` if every period of `contract` holds a whole frame.
    pub(crate) const fn has_room(&self, contract: &Contract) -> bool {
        !contract.is_guaranteed() || contract.slice_ns >= self.frame_ns
    }

    /// The shortest slice.
    pub(crate) const fn frame_ns(&self) -> u64 {
        self.frame_ns
    }

    /// Contract that would be admitted instead of `asked`, of which the line or the user has `left_ppm` left.
    ///
    /// In this order: as much of the share as is left in the same period; that share with whole frames in
    /// a longer period; a frame in the same period; a frame in the longest period there is.
    pub(crate) fn offer(&self, asked: &Contract, left_ppm: u64) -> Option<Contract> {
        let frame_ns = self.frame_ns.max(1);
        let share_ppm = asked.density_ppm().min(left_ppm);
        let slice_ns =
            |deadline_ns: u64| (u128::from(share_ppm) * u128::from(deadline_ns) / 1_000_000) as u64;
        let longest = u128::from(Contract::PERIOD_NS_MAX);
        // Of no share at all nothing passes the last test below.
        let deadline_ns = (u128::from(frame_ns) * 1_000_000).div_ceil(u128::from(share_ppm.max(1)));
        let of_a_frame = |deadline_ns: u64| Contract {
            slice_ns: frame_ns,
            deadline_ns,
            period_ns: asked.period_ns.max(deadline_ns),
            ..*asked
        };
        let candidates = [
            Some(Contract { slice_ns: slice_ns(asked.deadline_ns), ..*asked }),
            (deadline_ns <= longest).then(|| of_a_frame(deadline_ns as u64)),
            Some(of_a_frame(asked.deadline_ns)),
            Some(of_a_frame(Contract::PERIOD_NS_MAX)),
        ];
        candidates.into_iter().flatten().find(|offer| {
            offer.is_guaranteed()
                && self.has_room(offer)
                && offer.validated().is_ok()
                && offer.density_ppm() <= left_ppm
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_why_and_what_would_be_admitted() {
        let line = Admission::new(123_040, 950_000);
        let asked = Contract::guaranteed(20_000_000, 100_000_000).unwrap();
        let offer = line.offer(&asked, 110_000);
        let over_line = Reason::OverAllocation { needed_ppm: 200_000, left_ppm: 110_000 };
        let over_user = Reason::OverAllowance { needed_ppm: 200_000, left_ppm: 0 };
        let short = Reason::SliceTooShort { frame_ns: line.frame_ns() };
        for (reason, offer, text) in [
            (
                over_line,
                offer,
                "guarantee needs 200000 ppm of the link, 110000 ppm left: \
                 --slice 11ms --period 100ms would be admitted",
            ),
            (
                over_user,
                line.offer(&asked, 0),
                "guarantee needs 200000 ppm of the link, the user may have 0 ppm more: \
                 only --slack would be admitted",
            ),
            (
                short,
                None,
                "slice is shorter than a full frame of 123040 ns: only --slack would be admitted",
            ),
        ] {
            assert_eq!(Refused { reason, offer }.to_string(), text);
        }
    }
}
