//! Live runs: in a lab, with real daemons and processes, and a Linux kernel at the other end.
//!
//! Every subject of every run has a lab of its own. The order is run by run, so that what the machine
//! does meanwhile meets all subjects alike.

mod linux;
mod receive;
mod transmit;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base_flow::Rate;
use tools_experiments::experiments::receive::flood::Target;
use tools_experiments::experiments::{Experiment, fig6, scale};
use tools_experiments::outcome::{Outcome, Part};

use crate::cli::{self, LinuxPeer};
use crate::daemons::stay_on;
use crate::lab::{self, Lab, Shape};
use crate::output::tell;
use crate::signals::Asked;

/// How long live runs take unless told otherwise: the paper's figures, and the rest.
const FIGURE_S: u32 = 30;
const OTHER_S: u32 = 10;

/// What a run is made with.
pub struct Live<'a> {
    arguments: &'a cli::Experiment,
    asked: &'a Asked,
    cpus: Vec<usize>,
    labs: std::cell::Cell<u32>,
}

/// Runs experiments live. What is there when the user loses patience is returned all the same.
pub fn run(
    experiments: &[Experiment],
    arguments: &cli::Experiment,
    asked: &Asked,
) -> Result<Vec<Outcome>> {
    lab::enter().map_err(|refused| anyhow::anyhow!("{refused}; or try --sim"))?;
    let cpus = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
    let live = Live { arguments, asked, cpus, labs: std::cell::Cell::new(0) };
    let mut outcomes = Vec::new();
    for &experiment in experiments {
        let mut runs = Vec::new();
        for run in 1..=arguments.runs {
            if asked.yet() {
                break;
            }
            tell!("plumb experiment: {}, run {run} of {}", experiment.name(), arguments.runs);
            let mut outcome = Outcome::new(experiment.name(), experiment.title(), "live");
            let result = live.one(experiment, &mut outcome);
            if let Some(policy) = &arguments.policy {
                outcome.note(format!("Our wire was scheduled by {policy}."));
            }
            if asked.yet() {
                outcome.interrupt("interrupted");
            } else if let Err(error) = result {
                tell!("plumb experiment: {} failed: {error:#}", experiment.name());
                outcome.interrupt(&format!("{error:#}"));
            }
            runs.push(outcome);
        }
        if !runs.is_empty() {
            let mut outcome = Outcome::of_runs(runs);
            if experiment == Experiment::Fig6 && live.has(LinuxPeer::Kernel) {
                fig6::compare(&mut outcome, LinuxPeer::Kernel.name());
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

impl Live<'_> {
    fn one(&self, experiment: Experiment, outcome: &mut Outcome) -> Result<()> {
        match experiment {
            Experiment::Fig5a => transmit::fig5a(self, outcome),
            Experiment::Fig5b => transmit::fig5b(self, outcome),
            Experiment::Fig6 => transmit::fig6(self, outcome),
            Experiment::Latency => transmit::latency(self, outcome),
            Experiment::Adversary => transmit::adversary(self, outcome),
            Experiment::Fig7 => receive::fig7(self, outcome),
            Experiment::Flood => receive::flood(self, outcome, Target::Neighbour),
            Experiment::Closed => receive::flood(self, outcome, Target::Nobody),
            Experiment::Bill => receive::bill(self, outcome),
            Experiment::Scale => self.scale(outcome),
        }
    }

    fn scale(&self, outcome: &mut Outcome) -> Result<()> {
        let mut costs = Vec::new();
        for frames in scale::FRAMES {
            for flows in scale::FLOWS {
                self.go_on()?;
                costs.push(scale::measure(flows, frames));
            }
        }
        outcome.add(scale::report(&costs));
        let memory = scale::measure_memory(resident_bytes);
        outcome.add(Part { metrics: vec![memory], ..Part::default() });
        outcome.note(
            "Decisions are timed in this process, on the machine's clock; no frames are moved.",
        );
        if self.has(LinuxPeer::Htb) {
            linux::scale(self, outcome)?;
        }
        Ok(())
    }

    /// How long a run takes, in nanoseconds.
    fn length_ns(&self, seconds: u32) -> u64 {
        u64::from(self.arguments.seconds.unwrap_or(seconds)) * 1_000_000_000
    }

    fn has(&self, peer: LinuxPeer) -> bool {
        self.arguments.peer.contains(&peer)
    }

    /// Fails if the user has lost patience.
    fn go_on(&self) -> Result<()> {
        if self.asked.yet() { bail!("interrupted") } else { Ok(()) }
    }

    fn fresh_namespaces(&self) -> Result<()> {
        if self.labs.replace(self.labs.get() + 1) > 0 {
            lab::another().map_err(|refused| anyhow::anyhow!("{refused}"))?;
        }
        Ok(())
    }

    /// A lab with Plumb in it. A driver that spins has a processor for itself, if there is another
    /// one for everybody else.
    fn lab(&self, rate: Rate, pace: cli::Pace) -> Result<Lab> {
        self.fresh_namespaces()?;
        let alone = pace.spin > Duration::ZERO && self.cpus.len() > 1;
        let cpu = alone.then(|| self.cpus[self.cpus.len() - 1]);
        let _ = stay_on(&self.cpus);
        let policy = self.arguments.policy.clone();
        let shape = Shape {
            rate,
            // The load that is offered to a receiver is what an experiment says.
            both_ways: false,
            mtu: 1500,
            pace,
            way: cli::Way::default(),
            offloads: false,
            cpu,
            policy,
        };
        let lab = Lab::start(&shape, self.asked)?;
        if alone {
            let _ = stay_on(self.others());
        }
        Ok(lab)
    }

    /// A lab without Plumb.
    fn linux_lab(&self) -> Result<Lab> {
        self.fresh_namespaces()?;
        let _ = stay_on(&self.cpus);
        Lab::linux(1500, cli::Way::default(), false)
    }

    /// Processors that a spinning driver leaves for everybody else.
    fn others(&self) -> &[usize] {
        &self.cpus[..self.cpus.len().max(2) - 1]
    }
}

/// How a driver is paced that has a processor for itself: it hands frames over just in time.
fn spinning() -> cli::Pace {
    let lead = Some(Duration::from_micros(5));
    cli::Pace { lead, spin: Duration::from_millis(500), ..cli::Pace::default() }
}

/// How a driver is paced that shares the machine and may be late.
fn sleeping() -> cli::Pace {
    let lead = Some(Duration::from_millis(4));
    cli::Pace { lead, ..cli::Pace::default() }
}

/// Memory this process has.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The same command, run only when nobody else wants the processor: for what stands for another
/// machine, or for somebody whom nobody promised anything.
fn yielding(command: &Command) -> Command {
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => idle.env(name, value),
            None => idle.env_remove(name),
        };
    }
    idle
}

/// Runs a command of the system that must succeed.
fn must(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("`{}` said: {}", command.get_program().display(), said.trim())
}
