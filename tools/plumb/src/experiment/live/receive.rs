//! Receivers in a lab, and streams from the other end of the wire.
//!
//! The sources stand for another machine, but share this one's processors. So a flood runs only when
//! nobody of our side wants the processor, and neither does the application that does not keep up: on
//! the original system a guarantee of processor time would see to that.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base_flow::Rate;
use plumb_net::{Bill, DropReason, Host};
use rbuf_shm::monotonic_ns;
use tools_experiments::experiments::receive::bill::{self, Billed, Work};
use tools_experiments::experiments::receive::flood::{self, Flooding, Target};
use tools_experiments::experiments::receive::{FULL, PORTS, SMALLEST, fig7, interval_ns};
use tools_experiments::outcome::{Outcome, Part};
use tools_experiments::policy::Policy;
use tools_experiments::reception::{Receiver, Reception};

use super::{FIGURE_S, Live, OTHER_S, sleeping, spinning, yielding};
use crate::cli::LinuxPeer;
use crate::lab::{self, Lab};
use crate::process::Process;
use crate::roles::{reader, source::Sent};

/// How often drops are asked for: seldom, for the answer takes the processor from who is measured.
const WATCH: Duration = Duration::from_millis(200);

/// Whose stack the applications use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    Plumb,
    Kernel,
}

impl Stack {
    const fn name(self) -> &'static str {
        match self {
            Self::Plumb => Policy::Atx.name(),
            Self::Kernel => LinuxPeer::Kernel.name(),
        }
    }
}

/// Applications that read, and what is sent to them.
struct Scene<'a> {
    live: &'a Live<'a>,
    lab: Lab,
    host: Option<Host>,
    stack: Stack,
}

/// A reading application.
struct Reading {
    process: Process,
    out: PathBuf,
    port: u16,
    frame_bytes: u16,
    name: &'static str,
}

/// Drops over time: until when, and how many so far.
type Drops = Vec<(u64, u64)>;

impl<'a> Scene<'a> {
    fn new(live: &'a Live<'a>, stack: Stack, spins: bool) -> Result<Self> {
        let pace = if spins { spinning() } else { sleeping() };
        let lab = match stack {
            Stack::Plumb => live.lab(Rate::mbit(1_000), pace)?,
            Stack::Kernel => live.linux_lab()?,
        };
        let host = match stack {
            Stack::Plumb => Some(Host::connect(lab.socket())?),
            Stack::Kernel => None,
        };
        Ok(Self { live, lab, host, stack })
    }

    fn reader(
        &self,
        name: &'static str,
        port: u16,
        frame_bytes: u16,
        work: &str,
        yields: bool,
    ) -> Result<Reading> {
        let out = self.lab.folder().join(format!("read-{port}"));
        let mut command = self.lab.command(lab::this_program()?);
        command.args(["__reader", "--port", &port.to_string(), "--work", work, "--out"]).arg(&out);
        if work == "fig7" {
            // A shorter run than the paper's has shorter stages.
            let seconds = self.live.length_ns(FIGURE_S) / 1_000_000_000;
            let after = fig7::SLOWER_AFTER * seconds / u64::from(FIGURE_S);
            command.args(["--slower-after", &after.to_string()]);
        }
        if self.stack == Stack::Kernel {
            command.arg("--kernel");
        }
        let mut command = if yields { yielding(&command) } else { command };
        let mut process = Process::start_ready(&mut command)?;
        process.begin()?;
        Ok(Reading { process, out, port, frame_bytes, name })
    }

    /// A source of `streams`, each `port:bytes:nanoseconds`.
    fn source(&self, streams: &[String], yields: bool) -> Result<Process> {
        let to = lab::prefix(lab::OUR_ADDRESS).address().to_string();
        let mut command: Command = self.lab.peer_command(&lab::this_program()?)?;
        command.args(["__source", "--to", &to]);
        for stream in streams {
            command.args(["--stream", stream]);
        }
        let mut command = if yields { yielding(&command) } else { command };
        Process::start_ready(&mut command)
    }

    fn bill(&self, port: u16) -> Result<Bill> {
        let Some(host) = &self.host else { return Ok(Bill::default()) };
        let flows = host.query_flows()?;
        let at = |flow: &plumb_net::FlowInfo| {
            flow.endpoints.is_some_and(|endpoints| endpoints.local.port == port)
        };
        Ok(flows.into_iter().find(at).and_then(|flow| flow.bill).unwrap_or_default())
    }

    /// Watches drops of `readers` for `length_ns`.
    fn watch(&self, readers: &[Reading], length_ns: u64) -> Result<Vec<Drops>> {
        let mut drops = vec![Drops::new(); readers.len()];
        let until = monotonic_ns() + length_ns;
        while monotonic_ns() < until {
            self.live.go_on()?;
            for (reading, drops) in readers.iter().zip(&mut drops) {
                drops.push((monotonic_ns(), self.bill(reading.port)?.dropped_total()));
            }
            std::thread::sleep(WATCH);
        }
        Ok(drops)
    }

    /// Ends the readers, once all was read, and accounts for what they were offered.
    fn account(
        &self,
        readers: Vec<Reading>,
        offered: &[u64],
        mut drops: Vec<Drops>,
    ) -> Result<Vec<Receiver>> {
        let mut receivers = Vec::new();
        for (index, mut reading) in readers.into_iter().enumerate() {
            // The flow is gone when its reader is.
            reading.process.end_input();
            let mut bill = self.bill(reading.port)?;
            let total: u64 = loop {
                match reading.process.ended()? {
                    Some(line) => break work_of(&line)?.done,
                    None => bill = self.bill(reading.port)?,
                }
            };
            let reads = reader::read(&reading.out)?;
            let offered = offered.get(index).copied().unwrap_or(0);
            let dropped = match self.stack {
                Stack::Plumb => bill.dropped_total(),
                // The kernel's own count is of sockets that are gone by now: what is missing.
                Stack::Kernel => offered - total.min(offered),
            };
            receivers.push(Receiver {
                name: reading.name.into(),
                frame_bytes: reading.frame_bytes,
                offered,
                dropped,
                waiting: 0,
                reads,
                drops: std::mem::take(&mut drops[index]),
            });
        }
        Ok(receivers)
    }
}

fn steady(port: u16, mbit: u64) -> String {
    format!("{port}:{}:{}", FULL.1, interval_ns(mbit))
}

fn sent(process: &mut Process) -> Result<Sent> {
    serde_json::from_str(&process.end()?).context("a source's account")
}

/// Units of work and processor time charged, as a process prints them.
fn work_of(line: &str) -> Result<Work> {
    let mut words = line.split_whitespace().filter_map(|word| word.parse().ok());
    let (Some(done), Some(charged_ns)) = (words.next(), words.next()) else {
        bail!("a process said `{}`", line.trim())
    };
    Ok(Work { done, charged_ns })
}

fn stacks(live: &Live<'_>) -> Vec<Stack> {
    let mut all = vec![Stack::Plumb];
    if live.has(LinuxPeer::Kernel) {
        all.push(Stack::Kernel);
    }
    all
}

fn note_source(outcome: &mut Outcome, sent: &Sent) {
    outcome.note(format!(
        "The source sends through kernel sockets when the kernel's timer says so; it was late by {:.1} µs in half, {:.1} µs in 99 of 100 cases, {:.1} ms once.",
        sent.late_p50_ns as f64 / 1e3,
        sent.late_p99_ns as f64 / 1e3,
        sent.late_max_ns as f64 / 1e6
    ));
}

pub fn fig7(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    let length_ns = live.length_ns(FIGURE_S);
    for stack in stacks(live) {
        let run = |both: bool, length_ns: u64| -> Result<(Reception, Sent)> {
            let scene = Scene::new(live, stack, false)?;
            let mut readers =
                vec![scene.reader("no-processing", PORTS[0], FULL.0, "none", false)?];
            let mut streams = vec![steady(PORTS[0], fig7::STREAMS[0])];
            if both {
                readers.push(scene.reader("processing", PORTS[1], FULL.0, "fig7", true)?);
                streams.push(steady(PORTS[1], fig7::STREAMS[1]));
            }
            let mut source = scene.source(&streams, false)?;
            let from_ns = monotonic_ns();
            source.begin()?;
            let drops = scene.watch(&readers, length_ns)?;
            let until_ns = monotonic_ns();
            let sent = sent(&mut source)?;
            let receivers = scene.account(readers, &sent.sent, drops)?;
            Ok((Reception { from_ns, until_ns, receivers }, sent))
        };
        let (alone, _) = run(false, length_ns / 3)?;
        let (both, sent) = run(true, length_ns)?;
        outcome.add(fig7::judge(stack.name(), &alone, &both));
        note_source(outcome, &sent);
    }
    outcome.note("The application that does not keep up, like the flood of other experiments, runs when nobody else wants the processor.");
    Ok(())
}

/// A flood at `target` and a victim's stream; the driver's processor time meanwhile, if it is ours.
fn flooded(live: &Live<'_>, outcome: &mut Outcome, stack: Stack, target: Target) -> Result<Billed> {
    let length_ns = live.length_ns(OTHER_S);
    let scene = Scene::new(live, stack, true)?;
    let mut readers = vec![scene.reader("victim", PORTS[0], FULL.0, "none", false)?];
    if target == Target::Neighbour {
        readers.push(scene.reader("flooded", PORTS[1], SMALLEST.0, "flood", true)?);
    }
    let mut source = scene.source(&[steady(PORTS[0], 40)], false)?;
    let mut flood = scene.source(&[format!("{}:{}:0", target.port(), SMALLEST.1)], true)?;
    let counts = || -> Result<[u64; 2]> {
        let Some(host) = &scene.host else { return Ok([0; 2]) };
        let links = host.query_links()?;
        let overrun = links.iter().map(|link| link.bill.dropped(DropReason::RingOverflow)).sum();
        Ok([host.query_status()?.unreachable_sent, overrun])
    };
    let before = (driver_time(&scene)?, counts()?);
    let from_ns = monotonic_ns();
    source.begin()?;
    flood.begin()?;
    let drops = scene.watch(&readers, length_ns)?;
    let until_ns = monotonic_ns();
    let after = (driver_time(&scene)?, counts()?);
    let (steady_sent, flood_sent) = (sent(&mut source)?, sent(&mut flood)?);
    let offered = [steady_sent.sent[0], flood_sent.sent[0]];
    let receivers = scene.account(readers, &offered, drops)?;
    let reception = Reception { from_ns, until_ns, receivers };
    let flooding = Flooding {
        sent: flood_sent.sent[0],
        replies: after.1[0] - before.1[0],
        overrun: after.1[1] - before.1[1],
    };
    outcome.add(flood::judge(stack.name(), target, &reception, &flooding));
    note_source(outcome, &steady_sent);
    Ok(Billed {
        driver_ns: after.0.driver_ns - before.0.driver_ns,
        flows_ns: after.0.flows_ns - before.0.flows_ns,
    })
}

/// What the driver has used, and what flows were billed.
fn driver_time(scene: &Scene<'_>) -> Result<Billed> {
    let Some(host) = &scene.host else { return Ok(Billed::default()) };
    let driver_ns = host.query_links()?.iter().map(|link| link.driver_ns).sum();
    let bills = host.query_flows()?.into_iter().filter_map(|flow| flow.bill);
    Ok(Billed { driver_ns, flows_ns: bills.map(|bill| bill.tx_cpu_ns + bill.rx_cpu_ns).sum() })
}

pub fn flood(live: &Live<'_>, outcome: &mut Outcome, target: Target) -> Result<()> {
    for stack in stacks(live) {
        flooded(live, outcome, stack, target)?;
    }
    outcome.note("The flood comes from a process at the other end of the wire, as fast as it can, when nobody else wants the processor.");
    Ok(())
}

/// A neighbour that only computes, and a victim that reads its own stream, without and under a flood at
/// somebody else: what they get done for the processor time they are charged.
pub fn bill(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    let length_ns = live.length_ns(OTHER_S) / 2;
    for stack in stacks(live) {
        let mut works = Vec::new();
        let mut closures = None;
        for floods in [false, true] {
            live.go_on()?;
            let scene = Scene::new(live, stack, false)?;
            let victim = scene.reader("victim", PORTS[0], FULL.0, "none", false)?;
            let readers = [victim, scene.reader("flooded", PORTS[1], SMALLEST.0, "flood", true)?];
            let mut source = scene.source(&[steady(PORTS[0], 40)], false)?;
            let mut flood = scene.source(&[format!("{}:{}:0", PORTS[1], SMALLEST.1)], true)?;
            let mut neighbour =
                Process::start_ready(scene.lab.command(lab::this_program()?).arg("__work"))?;
            let before = driver_time(&scene)?;
            source.begin()?;
            if floods {
                flood.begin()?;
            }
            neighbour.begin()?;
            scene.watch(&readers, length_ns)?;
            let line = neighbour.end()?;
            let after = driver_time(&scene)?;
            drop(sent(&mut source)?);
            let [mut victim, _] = readers;
            works.push([work_of(&line)?, work_of(&victim.process.end()?)?]);
            closures = Some(Billed {
                driver_ns: after.driver_ns - before.driver_ns,
                flows_ns: after.flows_ns - before.flows_ns,
            });
        }
        let mut part = Part::default();
        for (index, who) in ["neighbour", "victim"].into_iter().enumerate() {
            part.metrics.extend(bill::loss(stack.name(), who, works[0][index], works[1][index]));
        }
        if stack == Stack::Plumb
            && let Some(billed) = closures
        {
            part.metrics.push(bill::closure(stack.name(), billed));
        }
        outcome.add(part);
    }
    outcome.note(
        "The neighbour computes; it is charged by the kernel, interrupts that hit it included.",
    );
    Ok(())
}
