//! The contract between a flow and the wire (paper §4.4).

use core::fmt;

/// A share of link time: `slice` in every `period`, and optionally slack.
///
/// Link time is what a frame occupies on the wire, check sequence, preamble and gap included. The
/// contract is of access to the interface, not of delivery by the network. The period bounds
/// burstiness: a flow may send its slice back to back, and then waits for the next period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Contract {
    /// Link time guaranteed in every period, in nanoseconds; 0 for a best-effort flow.
    pub slice_ns: u64,
    /// The interval the guarantee holds over, in nanoseconds.
    pub period_ns: u64,
    /// Deadline hint: how soon after becoming ready the slice is wanted, in nanoseconds.
    ///
    /// At most the period, which is the default. A shorter one costs more of the line's density
    /// at admission (`slice / deadline`) and buys proportionally lower latency.
    pub deadline_ns: u64,
    /// Whether the flow may also use link time nobody has claimed.
    pub slack: bool,
    /// Share of slack relative to other flows, 1 to 255.
    pub weight: u8,
}

impl Contract {
    /// Longest period that can be scheduled: 1 s.
    pub const PERIOD_NS_MAX: u64 = 1_000_000_000;

    /// No guarantee: only slack, over a nominal period of 100 ms.
    pub const BEST_EFFORT: Self = Self {
        slice_ns: 0,
        period_ns: 100_000_000,
        deadline_ns: 100_000_000,
        slack: true,
        weight: 1,
    };

    /// Guarantees `slice_ns` in every `period_ns`, without slack.
    ///
    /// # Errors
    ///
    /// [`InvalidContract`] unless `0 < slice <= period <= 1 s`. Whether a link can honour it is
    /// another question, which admission answers when the flow is opened.
    pub const fn guaranteed(slice_ns: u64, period_ns: u64) -> Result<Self, InvalidContract> {
        Self { slice_ns, period_ns, deadline_ns: period_ns, slack: false, weight: 1 }.validated()
    }

    /// The same contract, with or without a share of slack.
    #[must_use]
    pub const fn with_slack(self, slack: bool) -> Self {
        Self { slack, ..self }
    }

    /// The same contract, with a deadline hint shorter than the period.
    ///
    /// # Errors
    ///
    /// [`InvalidContract::Deadline`] unless `slice <= deadline <= period`.
    pub const fn with_deadline(self, deadline_ns: u64) -> Result<Self, InvalidContract> {
        Self { deadline_ns, ..self }.validated()
    }

    /// This contract if it makes sense; contracts that arrive in messages go through here.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub const fn validated(self) -> Result<Self, InvalidContract> {
        if self.period_ns == 0 || self.period_ns > Self::PERIOD_NS_MAX {
            return Err(InvalidContract::Period { period_ns: self.period_ns });
        }
        if self.slice_ns > self.period_ns {
            return Err(InvalidContract::Slice {
                slice_ns: self.slice_ns,
                period_ns: self.period_ns,
            });
        }
        if self.deadline_ns > self.period_ns
            || self.deadline_ns < self.slice_ns
            || self.deadline_ns == 0
        {
            return Err(InvalidContract::Deadline {
                deadline_ns: self.deadline_ns,
                slice_ns: self.slice_ns,
                period_ns: self.period_ns,
            });
        }
        if self.slice_ns == 0 && !self.slack {
            return Err(InvalidContract::Nothing);
        }
        if self.weight == 0 {
            return Err(InvalidContract::Weight);
        }
        Ok(self)
    }

    /// Whether the flow has any guarantee.
    pub const fn is_guaranteed(&self) -> bool {
        self.slice_ns > 0
    }

    /// This contract as the options of `plumb nc` and `plumb flows set` say it: `--slice 6ms --period 100ms`.
    pub const fn options(&self) -> impl fmt::Display {
        Options(*self)
    }

    /// Density `slice / deadline` in parts per million of the line, rounded up.
    ///
    /// What admission adds up; for a contract without a deadline hint it is the share of the line.
    pub const fn density_ppm(&self) -> u64 {
        (self.slice_ns as u128 * 1_000_000).div_ceil(self.deadline_ns as u128) as u64
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_guaranteed() {
            write!(f, "{} in {}", Ms(self.slice_ns), Ms(self.period_ns))?;
            if self.deadline_ns != self.period_ns {
                write!(f, " by {}", Ms(self.deadline_ns))?;
            }
            f.write_str(if self.slack { " + slack" } else { "" })?;
        } else {
            f.write_str("best effort")?;
        }
        match self.weight {
            1 => Ok(()),
            weight => write!(f, ", weight {weight}"),
        }
    }
}

/// A contract in the notation one types.
struct Options(Contract);

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(contract) = self;
        if contract.is_guaranteed() {
            write!(f, "--slice {} --period {}", Ms(contract.slice_ns), Ms(contract.period_ns))?;
            if contract.deadline_ns != contract.period_ns {
                write!(f, " --deadline {}", Ms(contract.deadline_ns))?;
            }
        }
        if contract.slack {
            f.write_str(if contract.is_guaranteed() { " --slack" } else { "--slack" })?;
        }
        match contract.weight {
            1 => Ok(()),
            weight => write!(f, " --weight {weight}"),
        }
    }
}

/// Nanoseconds shown as milliseconds with as many decimals as they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ms(pub u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if rest == 0 {
            write!(f, "{whole}ms")
        } else {
            write!(f, "{whole}.{}ms", format!("{rest:06}").trim_end_matches('0'))
        }
    }
}

/// A contract that no link could be asked to honour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum InvalidContract {
    /// The period is zero or longer than [`Contract::PERIOD_NS_MAX`].
    Period {
        /// What was asked for.
        period_ns: u64,
    },
    /// The slice is longer than the period.
    Slice {
        /// What was asked for.
        slice_ns: u64,
        /// What it must fit in.
        period_ns: u64,
    },
    /// The deadline hint is shorter than the slice or longer than the period.
    Deadline {
        /// What was asked for.
        deadline_ns: u64,
        /// What must fit in it.
        slice_ns: u64,
        /// What it must fit in.
        period_ns: u64,
    },
    /// Neither a slice nor slack: the flow could never send.
    Nothing,
    /// The slack weight is zero.
    Weight,
}

impl fmt::Display for InvalidContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Period { period_ns } => {
                write!(f, "period of {} is not between 1 ns and 1 s", Ms(period_ns))
            }
            Self::Slice { slice_ns, period_ns } => {
                write!(
                    f,
                    "slice of {} is longer than its period of {}",
                    Ms(slice_ns),
                    Ms(period_ns)
                )
            }
            Self::Deadline { deadline_ns, slice_ns, period_ns } => write!(
                f,
                "deadline of {} is not between the slice of {} and the period of {}",
                Ms(deadline_ns),
                Ms(slice_ns),
                Ms(period_ns)
            ),
            Self::Nothing => {
                f.write_str(
                "contract has neither a slice nor slack, so nothing could be sent: give it a slice, or --slack",
            )
            }
            Self::Weight => f.write_str("slack weight is zero"),
        }
    }
}

impl core::error::Error for InvalidContract {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn contracts_without_meaning_are_refused() {
        assert!(Contract::guaranteed(4 * MS, 100 * MS).is_ok());
        assert!(Contract::guaranteed(100 * MS, 100 * MS).is_ok());
        assert!(matches!(Contract::guaranteed(5, 4), Err(InvalidContract::Slice { .. })));
        assert!(matches!(Contract::guaranteed(1, 0), Err(InvalidContract::Period { .. })));
        assert!(matches!(
            Contract::guaranteed(1, 1_000 * MS + 1),
            Err(InvalidContract::Period { .. })
        ));
        assert_eq!(Contract::guaranteed(0, 100 * MS), Err(InvalidContract::Nothing));
        let contract = Contract::guaranteed(4 * MS, 100 * MS).unwrap();
        assert!(contract.with_deadline(4 * MS).is_ok());
        assert!(contract.with_deadline(4 * MS - 1).is_err());
        assert!(contract.with_deadline(101 * MS).is_err());
        assert_eq!(Contract { weight: 0, ..contract }.validated(), Err(InvalidContract::Weight));
    }

    #[test]
    fn density_rounds_up_so_that_sums_never_promise_too_much() {
        assert_eq!(Contract::guaranteed(1, 3).unwrap().density_ppm(), 333_334);
        assert_eq!(Contract::guaranteed(4 * MS, 100 * MS).unwrap().density_ppm(), 40_000);
    }

    #[test]
    fn a_contract_reads_as_one_would_say_it() {
        let contract = Contract::guaranteed(4 * MS, 100 * MS).unwrap();
        assert_eq!(contract.to_string(), "4ms in 100ms");
        assert_eq!(contract.with_slack(true).to_string(), "4ms in 100ms + slack");
        assert_eq!(Contract::BEST_EFFORT.to_string(), "best effort");
        assert_eq!(Contract::guaranteed(1_500_000, 20 * MS).unwrap().to_string(), "1.5ms in 20ms");
    }

    #[test]
    fn a_contract_is_offered_in_the_notation_one_types() {
        let contract = Contract::guaranteed(1_500_000, 100 * MS).unwrap();
        assert_eq!(contract.options().to_string(), "--slice 1.5ms --period 100ms");
        let hint = contract.with_deadline(20 * MS).unwrap().with_slack(true);
        let text = "--slice 1.5ms --period 100ms --deadline 20ms --slack";
        assert_eq!(hint.options().to_string(), text);
        let heavy = Contract { weight: 3, ..hint };
        assert_eq!(heavy.options().to_string(), text.to_owned() + " --weight 3");
        assert_eq!(Contract::BEST_EFFORT.options().to_string(), "--slack");
    }

    #[test]
    fn a_contract_makes_sense_up_to_its_bounds_and_not_beyond() {
        let good = Contract { slice_ns: 5, period_ns: 10, deadline_ns: 7, slack: false, weight: 1 };
        let second = Contract::PERIOD_NS_MAX;
        for (contract, makes_sense) in [
            (good, true),
            (Contract { period_ns: second, ..good }, true),
            (Contract { period_ns: second + 1, ..good }, false),
            (Contract { period_ns: 7, ..good }, true),
            (Contract { period_ns: 6, ..good }, false),
            (Contract { period_ns: 0, deadline_ns: 0, slice_ns: 0, slack: true, ..good }, false),
            (Contract { deadline_ns: 5, ..good }, true),
            (Contract { deadline_ns: 4, ..good }, false),
            (Contract { deadline_ns: 10, ..good }, true),
            (Contract { deadline_ns: 11, ..good }, false),
            (Contract { slice_ns: 0, ..good }, false),
            (Contract { slice_ns: 0, slack: true, ..good }, true),
            (Contract { slice_ns: 0, deadline_ns: 0, slack: true, ..good }, false),
            (Contract { weight: 0, ..good }, false),
        ] {
            assert_eq!(contract.validated().is_ok(), makes_sense, "{contract:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_contract_is_said_with_its_times() {
        let contract = Contract::guaranteed(4 * MS, 100 * MS).unwrap();
        for (wrong, text) in [
            (
                Contract { period_ns: 2_000 * MS, ..contract },
                "period of 2000ms is not between 1 ns and 1 s",
            ),
            (
                Contract { slice_ns: 101 * MS, ..contract },
                "slice of 101ms is longer than its period of 100ms",
            ),
            (
                Contract { deadline_ns: 3 * MS, ..contract },
                "deadline of 3ms is not between the slice of 4ms and the period of 100ms",
            ),
            (Contract { weight: 0, ..contract }, "slack weight is zero"),
        ] {
            assert_eq!(wrong.validated().unwrap_err().to_string(), text);
        }
        assert!(InvalidContract::Nothing.to_string().contains("--slack"));
        let hint = contract.with_deadline(20 * MS).unwrap();
        assert_eq!(hint.to_string(), "4ms in 100ms by 20ms");
        assert_eq!(Contract { weight: 3, ..hint }.to_string(), "4ms in 100ms by 20ms, weight 3");
        assert_eq!(Ms(1_000_001).to_string(), "1.000001ms");
    }
}
