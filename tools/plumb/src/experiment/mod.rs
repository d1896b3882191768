//! `plumb experiment`: the paper's evaluation and its modern counterparts, in virtual time or live.
//!
//! What is run and how it is judged: `tools/experiments`. Here: which ones, with which peers, how often,
//! and what becomes of the results, also when somebody loses patience.

mod live;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tools_experiments::experiments::Experiment;
use tools_experiments::outcome::Outcome;
use tools_experiments::report;

use crate::cli;
use crate::daemons::policy;
use crate::output::{say, tell};
use crate::signals::Asked;

/// Exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Runs experiments; the exit code says whether all bands were held.
pub fn run(arguments: &cli::Experiment) -> Result<ExitCode> {
    let experiments = chosen(&arguments.names)?;
    // What is wrong is better said before a long run than after it.
    arguments.policy.as_deref().map(policy).transpose()?;
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot write results to {}", folder.display()))?;
    }
    let asked = Asked::listen()?;
    let mut outcomes = if arguments.live {
        live::run(&experiments, arguments, &asked)?
    } else {
        simulate(&experiments, arguments, &asked)
    };
    for outcome in &mut outcomes {
        outcome.widen(arguments.widen);
        if arguments.json {
            say!("{}", serde_json::to_string(outcome)?)?;
        } else {
            say!("{}", report::text(outcome))?;
        }
    }
    if let Some(folder) = &arguments.out {
        let written = report::write(folder, &outcomes, &command(arguments));
        written.map_err(|error| anyhow::anyhow!("cannot write results: {error}"))?;
        tell!("plumb experiment: see {}", folder.join("report.html").display());
    }
    if asked.yet() {
        tell!(
            "plumb experiment: interrupted; {} of {} are here",
            outcomes.len(),
            experiments.len()
        );
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if outcomes.len() < experiments.len() {
        let there = |experiment: &&Experiment| {
            outcomes.iter().any(|outcome| outcome.experiment == experiment.name())
        };
        let missing = experiments.iter().find(|experiment| !there(experiment));
        bail!("{} broke down; its message is above", missing.map_or("one", |one| one.name()));
    }
    Ok(verdict(&outcomes))
}

fn verdict(outcomes: &[Outcome]) -> ExitCode {
    let mut good = true;
    for outcome in outcomes.iter().filter(|outcome| !outcome.pass) {
        good = false;
        tell!("plumb experiment: {} ({}) missed its bands:", outcome.experiment, outcome.mode);
        for metric in outcome.missed() {
            let band = metric.band.map_or_else(String::new, |band| band.to_string());
            tell!(
                "  {} {}, {}: {} {}, not {band}",
                metric.subject,
                metric.item,
                metric.name,
                metric.value,
                metric.unit
            );
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The experiments that were named, each once, in their own order.
fn chosen(names: &[String]) -> Result<Vec<Experiment>> {
    let mut all = Vec::new();
    for name in names {
        if name == "all" {
            all.extend(Experiment::ALL);
        } else if let Some(experiment) = Experiment::named(name) {
            all.push(experiment);
        } else {
            let known: Vec<&str> = Experiment::ALL.iter().map(|one| one.name()).collect();
            bail!("there is no experiment `{name}`: choose from {}, or all", known.join(", "));
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The command that makes the same results.
fn command(arguments: &cli::Experiment) -> String {
    let mut text = format!("plumb experiment {}", arguments.names.join(" "));
    text += if arguments.live { " --live" } else { " --sim" };
    if !arguments.peer.is_empty() {
        let peers: Vec<&str> = arguments.peer.iter().map(|peer| peer.name()).collect();
        text += &format!(" --peer {}", peers.join(","));
    }
    if arguments.runs > 1 {
        text += &format!(" --runs {}", arguments.runs);
    }
    if let Some(seconds) = arguments.seconds {
        text += &format!(" --seconds {seconds}");
    }
    if let Some(policy) = &arguments.policy {
        text += &format!(" --policy {policy}");
    }
    if arguments.widen > 1.0 {
        text += &format!(" --widen {}", arguments.widen);
    }
    if !arguments.live && arguments.seed != 1 {
        text += &format!(" --seed {}", arguments.seed);
    }
    text
}

/// Runs experiments in virtual time, as many at once as there are processors; those that are done
/// when the user loses patience.
fn simulate(
    experiments: &[Experiment],
    arguments: &cli::Experiment,
    asked: &Asked,
) -> Vec<Outcome> {
    // The longest first, so that none is waited for alone at the end.
    let mut order = experiments.to_vec();
    order.sort_by_key(|experiment| match experiment {
        Experiment::Scale => 0,
        Experiment::Flood | Experiment::Closed | Experiment::Fig5a => 1,
        _ => 2,
    });
    let queue = Arc::new(Mutex::new(VecDeque::from(order)));
    let (done, results) = mpsc::channel();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..workers.min(experiments.len()) {
        let (queue, done, seed) = (Arc::clone(&queue), done.clone(), arguments.seed);
        std::thread::spawn(move || {
            let next = || queue.lock().ok()?.pop_front();
            while let Some(experiment) = next() {
                let begun = Instant::now();
                let outcome = experiment.simulate(seed);
                if done.send((outcome, begun.elapsed())).is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    let mut outcomes: Vec<Outcome> = Vec::new();
    while !asked.yet() {
        match results.recv_timeout(Duration::from_millis(100)) {
            Ok((outcome, took)) => {
                tell!(
                    "plumb experiment: {:<9} {} after {:.1} s",
                    outcome.experiment,
                    if outcome.pass { "held" } else { "missed" },
                    took.as_secs_f64()
                );
                outcomes.push(outcome);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let place = |outcome: &Outcome| {
        experiments.iter().position(|experiment| experiment.name() == outcome.experiment)
    };
    outcomes.sort_by_key(place);
    outcomes
}
