//! `plumb soak`: requests without end to a server over Plumb, the same to one over the kernel's stack, and whether
//! anything went wrong or stayed.
//!
//! Clients are a Linux peer's, whose interface is as Linux ships it. The two stacks take turns, so that what the machine
//! does meanwhile meets both alike. Judged are counts: nothing may be reset, wrong, cut short or given up; no more
//! requests may stall than with the kernel; and at the end flows and descriptors of the daemons and the server are as
//! many as before.
//!
//! Memory is used first and then used again: the pages of arenas as far as flows have ever been open at a time, the heap
//! as far as an allocator keeps what it was given back. What leaks goes on growing. So there is a round beforehand that
//! uses as much as any, and then the most that was held in the last third of the rounds is compared with the most of
//! the third before.

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

/// Rounds for each number of connections at a time, at least: two in each third.
const ROUNDS_MIN: u64 = 6;

/// Of the largest answers so many are asked for before anything is judged, of so many connections as there ever are: then
/// the pages of their arenas have been used.
const LARGEST: u64 = 800;

/// By so much may the heap of a process, and what it shares with others, grow in the last third: more flows may be open
/// at a time than ever before. A leak of four bytes for each of ten million requests is more.
const GROWTH_BYTES_MAX: u64 = 12 << 20;

/// What was closed may take so long to be gone: a minute of TIME-WAIT is not part of it.
const SETTLES: Duration = Duration::from_secs(60);

/// What is the same in so many looks, [`LOOK`] apart, is at rest.
const SAME_LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(100);

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
        self.tell(&format!("{at_a_time} {requests} {seed} 0"))
    }

    /// As [`Self::round`], with the largest answers.
    fn round_of_largest(&mut self, at_a_time: u64, requests: u64) -> Result<Tally> {
        self.tell(&format!("{at_a_time} {requests} 0 1"))
    }

    fn tell(&mut self, round: &str) -> Result<Tally> {
        self.clients.tell(round)?;
        serde_json::from_str(&self.clients.line()?).context("the clients' tally makes no sense")
    }

    /// What the daemons and the server hold.
    fn held(&self) -> Result<Held> {
        let mut processes = vec![("the server".to_string(), Holding::of(self.server.pid())?)];
        for (name, pid) in self.lab.daemons() {
            processes.push((name.to_string(), Holding::of(pid)?));
        }
        let flows = Host::connect(self.lab.socket())?.query_status()?.flows;
        Ok(Held { flows, processes })
    }
}

/// What a process holds: descriptors, and bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Holding {
    descriptors: u64,
    heap_bytes: u64,
    /// Pages that others see too: those of arenas.
    shared_bytes: u64,
}

impl Holding {
    fn of(pid: u32) -> Result<Self> {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib: Option<u64> =
                line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kib.map(|kib| kib * 1024).context("a process has no memory")
        };
        Ok(Self { descriptors, heap_bytes: bytes("RssAnon:")?, shared_bytes: bytes("RssShmem:")? })
    }

    fn most(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.max(other.descriptors),
            heap_bytes: self.heap_bytes.max(other.heap_bytes),
            shared_bytes: self.shared_bytes.max(other.shared_bytes),
        }
    }
}

/// What is held at one moment, or at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Held {
    flows: u32,
    /// By process.
    processes: Vec<(String, Holding)>,
}

impl Held {
    /// The most of both.
    fn most(self, other: Self) -> Self {
        if self.processes.is_empty() {
            return other;
        }
        let pairs = self.processes.into_iter().zip(other.processes);
        let processes =
            pairs.map(|((name, ours), (_, theirs))| (name, ours.most(theirs))).collect();
        Self { flows: self.flows.max(other.flows), processes }
    }

    /// Flows, and descriptors of all.
    fn open(&self) -> (u32, u64) {
        (self.flows, self.processes.iter().map(|(_, holding)| holding.descriptors).sum())
    }

    /// What is still open that was not `before`, when all was at rest as well.
    fn left_open(&self, before: &Self) -> Vec<String> {
        let mut leaks = Vec::new();
        if self.flows > before.flows {
            leaks.push(format!("{} flows are open, not {}", self.flows, before.flows));
        }
        for ((name, now), (_, before)) in self.processes.iter().zip(&before.processes) {
            let (now, before) = (now.descriptors, before.descriptors);
            if now > before {
                leaks.push(format!("{name} has {now} descriptors, not {before}"));
            }
        }
        leaks
    }

    /// Memory that went on growing, if this is the most of a third and `before` that of the third before.
    fn growth(&self, before: &Self) -> Vec<String> {
        let mut leaks = Vec::new();
        for ((name, now), (_, before)) in self.processes.iter().zip(&before.processes) {
            let kinds = [
                ("of heap", now.heap_bytes, before.heap_bytes),
                ("shared with others", now.shared_bytes, before.shared_bytes),
            ];
            for (kind, now, before) in kinds {
                if now > before + GROWTH_BYTES_MAX {
                    leaks.push(format!(
                        "{name} has grown to {} MiB {kind}, from {}",
                        now >> 20,
                        before >> 20
                    ));
                }
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
    /// The most in each third of the rounds.
    thirds: [Held; 3],
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

    // Whoever comes first makes a few things that stay, and touches memory that is used again.
    plumb.round_of_largest(AT_A_TIME.into_iter().max().unwrap_or(1), LARGEST)?;
    let before = at_rest(&plumb, &asked, |_| true)?;
    let (mut of_plumb, mut of_kernel) = (Tally::default(), Tally::default());
    let mut thirds = [(); 3].map(|()| Held::default());
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
        let third = &mut thirds[(round * 3 / rounds) as usize];
        *third = std::mem::take(third).most(plumb.held()?);
        if !ours.faults(&Tally::default()).is_empty() || theirs.stalls > 0 {
            tell!(
                "plumb soak: {at_a_time} at a time: Plumb {}; kernel {}",
                text(&ours),
                text(&theirs)
            );
        }
    }
    let after = at_rest(&plumb, &asked, |held| held.left_open(&before).is_empty())?;
    let faults = of_plumb.faults(&of_kernel);
    let leaks = [after.left_open(&before), thirds[2].growth(&thirds[1])].concat();
    let soaked =
        Soaked { plumb: of_plumb, kernel: of_kernel, before, thirds, after, faults, leaks };
    soaked.show(arguments.json)?;
    let right = soaked.faults.is_empty() && soaked.leaks.is_empty();
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is held when nothing has been opened or closed for a while and `enough` says so; or after a long time.
fn at_rest(side: &Side, asked: &Asked, enough: impl Fn(&Held) -> bool) -> Result<Held> {
    let (begun, mut last, mut same) = (Instant::now(), (0, 0), 0);
    loop {
        let held = side.held()?;
        same = if held.open() == last { same + 1 } else { 0 };
        last = held.open();
        let rests = same >= SAME_LOOKS && enough(&held);
        if rests || begun.elapsed() > SETTLES || asked.yet() {
            return Ok(held);
        }
        std::thread::sleep(LOOK);
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
        let [first, second, last] = &self.thirds;
        let moments = [
            ("before", &self.before),
            ("first third", first),
            ("second", second),
            ("last", last),
            ("after", &self.after),
        ];
        for (when, held) in moments {
            let mib = |bytes: u64| bytes as f64 / 1048576.0;
            let all: Vec<String> = held
                .processes
                .iter()
                .map(|(name, Holding { descriptors, heap_bytes, shared_bytes })| {
                    format!(
                        "{name} {descriptors} descriptors, {:.1} MiB, {:.1} shared",
                        mib(*heap_bytes),
                        mib(*shared_bytes)
                    )
                })
                .collect();
            say!("{when:11}: {} flows; {}", held.flows, all.join("; "))?;
        }
        for wrong in self.faults.iter().chain(&self.leaks) {
            say!("wrong:  {wrong}")?;
        }
        Ok(())
    }
}

#[test]
fn what_is_open_after_all_was_closed_is_a_leak_and_memory_if_it_goes_on_growing() {
    let held = |flows, descriptors, heap_mib: u64, shared_mib: u64| {
        let (heap_bytes, shared_bytes) = (heap_mib << 20, shared_mib << 20);
        let holding = Holding { descriptors, heap_bytes, shared_bytes };
        Held { flows, processes: vec![("the driver".into(), holding)] }
    };
    let before = held(6, 20, 1, 1);
    assert!(held(6, 20, 100, 100).left_open(&before).is_empty());
    assert_eq!(held(7, 21, 1, 1).left_open(&before).len(), 2);
    let second = held(0, 0, 30, 100);
    let grown = |heap, shared| held(0, 0, heap, shared).growth(&second).len();
    assert_eq!([grown(42, 112), grown(43, 100), grown(30, 113), grown(43, 113)], [0, 1, 1, 2]);
    let most = Held::default().most(held(7, 19, 30, 9)).most(held(3, 20, 2, 10));
    assert_eq!(most, held(7, 20, 30, 10));
    assert_eq!(most.open(), (7, 20));
}
