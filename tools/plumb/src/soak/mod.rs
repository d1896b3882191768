//! `plumb soak`: requests without end to a server over Plumb, the same to one over the kernel's stack, and whether
//! anything went wrong or stayed.
//!
//! Clients are a Linux peer's, whose interface is as Linux ships it. The two stacks take turns, so that what the machine
//! does meanwhile meets both alike. Judged are counts: nothing may be reset, wrong, cut short or given up; no more
//! requests may stall than with the kernel; and at the end flows, descriptors and memory of the daemons and the server
//! are what they were when everything had been used once.

pub mod clients;
pub mod server;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base_flow::Rate;
use plumb_net::Host;
use serde::Serialize;
use tally::Tally;

use crate::cli::{self, Pace, Stack, Way};
use crate::lab::{self, Lab, Shape, this_program};
use crate::output::{say, tell};
use crate::process::Process;
use crate::signals::Asked;

/// Fast enough not to be the limit.
const RATE_MBIT: u32 = 40_000;

const AT: &str = "10.77.0.1:8080";

/// Connections at a time, in turn.
const AT_A_TIME: [u64; 5] = [1, 10, 50, 120, 200];

/// Requests of a round: the stacks take turns at least so often.
const ROUND_MAX: u64 = 20_000;

/// Rounds for each number of connections at a time, at least: what is used for the first time is in the first.
const ROUNDS_MIN: u64 = 5;

/// By so much may memory grow after the first rounds: allocators keep some, and ends in TIME-WAIT are remembered for a
/// minute. A leak of a few bytes for each of a million requests is more.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

/// What was closed may take so long to be gone: a minute of TIME-WAIT is not part of it.
const SETTLES: Duration = Duration::from_secs(60);

/// Exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// A stack, its server, and the clients of that; they end in this order.
struct Side {
    clients: Process,
    server: Process,
    lab: Lab,
}

impl Side {
    fn start(lab: Lab, stack: Stack) -> Result<Self> {
        let program = this_program()?;
        let name = if stack == Stack::Plumb { "plumb" } else { "kernel" };
        let mut server = lab.command(&program);
        let server =
            Process::start_ready(server.args(["__soak-server", "--stack", name, "--at", AT]))?;
        let mut clients = lab.peer_command(&program)?;
        let clients = Process::start_ready(clients.args(["__soak-clients", "--to", AT]))?;
        Ok(Self { clients, server, lab })
    }

    fn round(&mut self, at_a_time: u64, requests: u64, seed: u64) -> Result<Tally> {
        self.clients.tell(&format!("{at_a_time} {requests} {seed}"))?;
        serde_json::from_str(&self.clients.line()?).context("the clients' tally makes no sense")
    }

    /// What the daemons and the server hold.
    fn held(&self) -> Result<Held> {
        let mut processes = vec![("the server".to_string(), holding(self.server.pid())?)];
        for (name, pid) in self.lab.daemons() {
            processes.push((name.to_string(), holding(pid)?));
        }
        let flows = Host::connect(self.lab.socket())?.query_status()?.flows;
        Ok(Held { flows, processes })
    }
}

/// Descriptors and bytes of memory of a process.
fn holding(pid: u32) -> Result<(u64, u64)> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok((descriptors, kib.context("a process has no memory")? * 1024))
}

/// What is held at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Held {
    flows: u32,
    /// Descriptors and bytes of memory, by process.
    processes: Vec<(String, (u64, u64))>,
}

impl Held {
    /// The most of both.
    fn most(mut self, other: &Self) -> Self {
        self.flows = self.flows.max(other.flows);
        for ((_, ours), (_, theirs)) in self.processes.iter_mut().zip(&other.processes) {
            *ours = (ours.0.max(theirs.0), ours.1.max(theirs.1));
        }
        self
    }

    /// What is more than there was `before` at rest, and than the memory when everything had been `used`.
    fn leaks(&self, before: &Self, used: &Self) -> Vec<String> {
        let mut leaks = Vec::new();
        if self.flows > before.flows {
            leaks.push(format!("{} flows are open, not {}", self.flows, before.flows));
        }
        let then = before.processes.iter().zip(&used.processes);
        for ((name, now), ((_, before), (_, used))) in self.processes.iter().zip(then) {
            if now.0 > before.0 {
                leaks.push(format!("{name} has {} descriptors, not {}", now.0, before.0));
            }
            if now.1 > used.1 + GROWTH_BYTES_MAX {
                let mib = |bytes| bytes >> 20;
                leaks.push(format!("{name} has {} MiB, not {}", mib(now.1), mib(used.1)));
            }
        }
        leaks
    }
}

/// What came out.
#[derive(Debug, Serialize)]
struct Soaked {
    plumb: Tally,
    kernel: Tally,
    before: Held,
    used: Held,
    after: Held,
    faults: Vec<String>,
    leaks: Vec<String>,
}

/// Runs a soak; the exit code says whether everything was right.
pub fn run(arguments: &cli::Soak) -> Result<ExitCode> {
    lab::enter().map_err(|refused| anyhow::anyhow!("{refused}"))?;
    let asked = Asked::listen()?;
    let shape = Shape {
        rate: Rate::mbit(RATE_MBIT),
        both_ways: false,
        mtu: 1500,
        pace: Pace { spin: Duration::from_micros(50), ..Pace::default() },
        way: Way::default(),
        offloads: true,
        cpu: None,
        policy: None,
    };
    let mut plumb = Side::start(Lab::start(&shape, &asked)?, Stack::Plumb)?;
    lab::another().map_err(|refused| anyhow::anyhow!("{refused}"))?;
    let mut kernel = Side::start(Lab::linux(shape.mtu, shape.way, true)?, Stack::Kernel)?;

    // Whoever comes first makes a few things that stay.
    plumb.round(1, 10, 0)?;
    let before = settled(&plumb, &asked, |_| true)?;
    let (mut used, mut of_plumb, mut of_kernel) =
        (before.clone(), Tally::default(), Tally::default());
    let turns = AT_A_TIME.len() as u64;
    let rounds = turns * ROUNDS_MIN.max(arguments.requests.div_ceil(turns * ROUND_MAX));
    let requests = arguments.requests.div_ceil(rounds);
    for round in 0..rounds {
        if asked.yet() {
            tell!("plumb soak: interrupted after {} requests", of_plumb.requests);
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let at_a_time = AT_A_TIME[(round % turns) as usize];
        let seed = arguments.seed.wrapping_add(round);
        let ours = plumb.round(at_a_time, requests, seed)?;
        let theirs = kernel.round(at_a_time, requests, seed)?;
        of_plumb.add(&ours);
        of_kernel.add(&theirs);
        if round < rounds / ROUNDS_MIN {
            used = used.most(&plumb.held()?);
        }
        if !ours.faults(&Tally::default()).is_empty() || theirs.stalls > 0 {
            tell!(
                "plumb soak: {at_a_time} at a time: Plumb {}; kernel {}",
                text(&ours),
                text(&theirs)
            );
        }
    }
    let after = settled(&plumb, &asked, |held| held.leaks(&before, &used).is_empty())?;
    let faults = of_plumb.faults(&of_kernel);
    let leaks = after.leaks(&before, &used);
    let soaked = Soaked { plumb: of_plumb, kernel: of_kernel, before, used, after, faults, leaks };
    soaked.show(arguments.json)?;
    let right = soaked.faults.is_empty() && soaked.leaks.is_empty();
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is held when nothing of it goes any more, or `enough` says so.
fn settled(side: &Side, asked: &Asked, enough: impl Fn(&Held) -> bool) -> Result<Held> {
    let begun = Instant::now();
    loop {
        let held = side.held()?;
        if enough(&held) || begun.elapsed() > SETTLES || asked.yet() {
            return Ok(held);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn text(tally: &Tally) -> String {
    format!(
        "{} requests on {} connections, {} resets, {} errors, {} cut short, {} wrong, {} given up; {} over {} ms, \
         worst {:.1} ms; sent again: {} segments, {} of them SYNs",
        tally.requests,
        tally.connections,
        tally.resets,
        tally.errors,
        tally.cut_short,
        tally.wrong,
        tally.given_up,
        tally.stalls,
        tally::STALL.as_millis(),
        tally.worst_us as f64 / 1000.0,
        tally.sent_again,
        tally.syns_sent_again,
    )
}

impl Soaked {
    fn show(&self, json: bool) -> Result<()> {
        if json {
            say!("{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        say!("Plumb:  {}", text(&self.plumb))?;
        say!("kernel: {}", text(&self.kernel))?;
        for (when, held) in
            [("before", &self.before), ("in use", &self.used), ("after", &self.after)]
        {
            let all: Vec<String> = held
                .processes
                .iter()
                .map(|(name, (descriptors, bytes))| {
                    format!(
                        "{name} {descriptors} descriptors, {:.1} MiB",
                        *bytes as f64 / 1048576.0
                    )
                })
                .collect();
            say!("{when:6}: {} flows; {}", held.flows, all.join("; "))?;
        }
        for wrong in self.faults.iter().chain(&self.leaks) {
            say!("wrong:  {wrong}")?;
        }
        Ok(())
    }
}

#[test]
fn what_is_open_after_all_was_closed_is_a_leak_and_memory_if_it_goes_on_growing() {
    let held = |flows, descriptors, bytes| Held {
        flows,
        processes: vec![("the driver".into(), (descriptors, bytes))],
    };
    let (before, used) = (held(6, 20, 1 << 20), held(200, 20, 100 << 20));
    assert!(held(6, 20, 110 << 20).leaks(&before, &used).is_empty());
    assert_eq!(held(7, 21, 130 << 20).leaks(&before, &used).len(), 3);
    assert_eq!(before.clone().most(&held(200, 19, 100 << 20)), used);
}
