//! The experiments: what each runs, how it is judged, and its simulated run.
//!
//! Workloads are functions, so that a lab can run the same ones; judges see traces and receptions
//! only.

pub mod adversary;
mod book;
pub mod fig5a;
pub mod fig5b;
pub mod fig6;
pub mod latency;
pub mod live_adversary;
pub mod receive;
pub mod scale;

use crate::outcome::Outcome;

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Experiment {
    /// Six guaranteed senders.
    Fig5a,
    /// Slack, and guaranteed senders that join.
    Fig5b,
    /// Two best-effort senders.
    Fig6,
    /// Two receivers, one of which does not keep up.
    Fig7,
    /// A flood of small packets at the neighbour.
    Flood,
    /// A flood at a port that nobody owns.
    Closed,
    /// Who pays for a flood.
    Bill,
    /// Conforming senders among floods.
    Latency,
    /// One flow to a million.
    Scale,
    /// Senders that try to break the bound.
    Adversary,
}

impl Experiment {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Fig5a,
        Self::Fig5b,
        Self::Fig6,
        Self::Fig7,
        Self::Flood,
        Self::Closed,
        Self::Bill,
        Self::Latency,
        Self::Scale,
        Self::Adversary,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fig5a => "fig5a",
            Self::Fig5b => "fig5b",
            Self::Fig6 => "fig6",
            Self::Fig7 => "fig7",
            Self::Flood => "flood",
            Self::Closed => "closed",
            Self::Bill => "bill",
            Self::Latency => "latency",
            Self::Scale => "scale",
            Self::Adversary => "adversary",
        }
    }

    /// What it shows, in a sentence.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Fig5a => {
                "Six senders with guarantees of 4 to 24 ms in 100 ms get them (figure 5a)"
            }
            Self::Fig5b => {
                "Slack takes what is left, and yields to guaranteed senders that join (figure 5b)"
            }
            Self::Fig6 => "Two best-effort senders share the line smoothly (figure 6)",
            Self::Fig7 => "An application that does not keep up hurts nobody else (figure 7)",
            Self::Flood => {
                "A flood of small packets at one application does not reach its neighbour"
            }
            Self::Closed => "A flood at a port that nobody owns does not reach anybody",
            Self::Bill => "Whoever causes work is billed for it",
            Self::Latency => "A sender within its contract does not wait behind floods",
            Self::Scale => "A decision costs little more among a million flows than among a few",
            Self::Adversary => {
                "No pattern of sending makes a guaranteed frame later than the bound"
            }
        }
    }

    /// The experiment called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|experiment| experiment.name() == name)
    }

    /// Runs it in virtual time.
    pub fn simulate(self, seed: u64) -> Outcome {
        let mut outcome = Outcome::new(self.name(), self.title(), "sim");
        match self {
            Self::Fig5a => fig5a::simulate(&mut outcome),
            Self::Fig5b => fig5b::simulate(&mut outcome),
            Self::Fig6 => fig6::simulate(&mut outcome),
            Self::Fig7 => receive::fig7::simulate(&mut outcome, seed),
            Self::Flood => {
                receive::flood::simulate(&mut outcome, seed, receive::flood::Target::Neighbour)
            }
            Self::Closed => {
                receive::flood::simulate(&mut outcome, seed, receive::flood::Target::Nobody)
            }
            Self::Bill => receive::bill::simulate(&mut outcome, seed),
            Self::Latency => latency::simulate(&mut outcome),
            Self::Scale => scale::simulate(&mut outcome),
            Self::Adversary => adversary::simulate(&mut outcome, seed),
        }
        outcome
    }
}

/// How a line is called in tables.
pub fn line_name(rate: base_flow::Rate) -> String {
    let mbit = rate.bits_per_s() / 1_000_000;
    if mbit >= 1_000 { format!("{} Gbit/s", mbit / 1_000) } else { format!("{mbit} Mbit/s") }
}

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// How long the paper's experiments take.
const LENGTH_NS: u64 = 30 * S;
/// What the paper integrates bandwidth over.
const BIN_NS: u64 = 200 * MS;

/// A contract of the experiments, all of which are valid.
const fn guaranteed(slice_ns: u64, period_ns: u64) -> base_flow::Contract {
    match base_flow::Contract::guaranteed(slice_ns, period_ns) {
        Ok(contract) => contract,
        Err(_) => panic!("the experiments' contracts are valid"),
    }
}
