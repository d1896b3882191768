//! Admission: contracts are admitted before they are given.
//!
//! The test is sufficient and simple: while the densities `slice / deadline` of all contracts sum
//! to at most one, every guaranteed frame finishes by its deadline plus one longest frame, whatever
//! the others do. A part of the line is kept back for the system's own flows and for slack.

use core::fmt;

use crate::Contract;

/// What a line has promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Wire time of the longest frame.
    frame_ns: u64,
    promisable_ppm: u64,
    promised_ppm: u64,
}

/// Why a contract was not admitted, and what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A period could pass without a whole frame.
    SliceTooShort {
        /// Wire time of the longest frame: the shortest slice.
        frame_ns: u64,
        /// Slice that would do, in `counter_period_ns`, for the same share of the line.
        counter_slice_ns: u64,
        /// Its period; 0 if it would be longer than any that can be scheduled.
        counter_period_ns: u64,
    },
    /// The line has promised too much already.
    OverAllocation {
        /// Density asked for, in parts per million.
        needed_ppm: u64,
        /// Density left.
        left_ppm: u64,
        /// Longest slice that would be admitted with the same deadline and period; 0 if none.
        counter_slice_ns: u64,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SliceTooShort { frame_ns, .. } => {
                write!(f, "slice is shorter than a full frame of {frame_ns} ns")
            }
            Self::OverAllocation { needed_ppm, left_ppm, .. } => {
                write!(f, "guarantee needs {needed_ppm} ppm of the link, {left_ppm} ppm left")
            }
        }
    }
}

impl core::error::Error for Refused {}

impl Admission {
    /// A line whose longest frame takes `frame_ns`, and which may promise `promisable_ppm`.
    pub const fn new(frame_ns: u64, promisable_ppm: u64) -> Self {
        Self { frame_ns, promisable_ppm, promised_ppm: 0 }
    }

    /// Promises `contract`, in place of `instead_of` if given.
    ///
    /// # Errors
    ///
    /// [`Refused`], with a counter-offer; nothing has changed then.
    pub fn admit(
        &mut self,
        contract: &Contract,
        instead_of: Option<&Contract>,
    ) -> Result<(), Refused> {
        let released = instead_of.map_or(0, Contract::density_ppm);
        if contract.is_guaranteed() {
            self.test(contract, released)?;
        }
        self.promised_ppm = self.promised_ppm - released + contract.density_ppm();
        Ok(())
    }

    fn test(&self, contract: &Contract, released: u64) -> Result<(), Refused> {
        if contract.slice_ns < self.frame_ns {
            let stretched = u128::from(contract.period_ns) * u128::from(self.frame_ns);
            let period = stretched.div_ceil(u128::from(contract.slice_ns)) as u64;
            let fits = period <= Contract::PERIOD_NS_MAX;
            return Err(Refused::SliceTooShort {
                frame_ns: self.frame_ns,
                counter_slice_ns: self.frame_ns,
                counter_period_ns: if fits { period } else { 0 },
            });
        }
        let needed_ppm = contract.density_ppm();
        let left_ppm = self.promisable_ppm.saturating_sub(self.promised_ppm - released);
        if needed_ppm > left_ppm {
            let longest =
                (u128::from(left_ppm) * u128::from(contract.deadline_ns) / 1_000_000) as u64;
            let counter_slice_ns = if longest < self.frame_ns { 0 } else { longest };
            return Err(Refused::OverAllocation { needed_ppm, left_ppm, counter_slice_ns });
        }
        Ok(())
    }

    /// Takes a promise back.
    pub fn release(&mut self, contract: &Contract) {
        self.promised_ppm -= contract.density_ppm();
    }

    /// Density promised, in parts per million.
    pub const fn promised_ppm(&self) -> u64 {
        self.promised_ppm
    }

    /// Density that may be promised, in parts per million.
    pub const fn promisable_ppm(&self) -> u64 {
        self.promisable_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn line() -> Admission {
        Admission::new(123_040, 950_000)
    }

    fn ms(slice: u64, period: u64) -> Contract {
        Contract::guaranteed(slice * MS, period * MS).unwrap()
    }

    #[test]
    fn the_counter_offer_is_admitted() {
        let mut line = line();
        line.admit(&ms(84, 100), None).unwrap();
        let refused = line.admit(&ms(20, 100), None).unwrap_err();
        let Refused::OverAllocation { needed_ppm, left_ppm, counter_slice_ns } = refused else {
            panic!("{refused}")
        };
        assert_eq!((needed_ppm, left_ppm, counter_slice_ns), (200_000, 110_000, 11 * MS));
        line.admit(&Contract::guaranteed(counter_slice_ns, 100 * MS).unwrap(), None).unwrap();
        assert_eq!(line.promised_ppm(), 950_000);
        assert!(matches!(
            line.admit(&ms(1, 100), None),
            Err(Refused::OverAllocation { counter_slice_ns: 0, .. })
        ));
    }

    #[test]
    fn a_slice_shorter_than_a_frame_is_offered_a_longer_period() {
        let mut line = line();
        let refused = line.admit(&Contract::guaranteed(100_000, MS).unwrap(), None).unwrap_err();
        let Refused::SliceTooShort { counter_slice_ns, counter_period_ns, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!((counter_slice_ns, counter_period_ns), (123_040, 1_230_400));
        line.admit(&Contract::guaranteed(counter_slice_ns, counter_period_ns).unwrap(), None)
            .unwrap();
    }

    #[test]
    fn a_change_of_contract_releases_the_old_one() {
        let mut line = line();
        line.admit(&ms(80, 100), None).unwrap();
        line.admit(&ms(90, 100), Some(&ms(80, 100))).unwrap();
        assert!(line.admit(&ms(96, 100), Some(&ms(90, 100))).is_err());
        assert_eq!(line.promised_ppm(), 900_000, "a refused change changes nothing");
        line.release(&ms(90, 100));
        assert_eq!(line.promised_ppm(), 0);
    }

    #[test]
    fn best_effort_costs_nothing() {
        let mut line = line();
        line.admit(&ms(95, 100), None).unwrap();
        line.admit(&Contract::BEST_EFFORT, None).unwrap();
    }
}
