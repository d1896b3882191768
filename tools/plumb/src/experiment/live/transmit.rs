//! Senders in a lab, and what arrives at the other end of the wire.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use base_flow::Rate;
use plumb_net::Host;
use rbuf_shm::monotonic_ns;
use tools_experiments::experiments::{fig5a, fig5b, fig6, latency, live_adversary};
use tools_experiments::outcome::{Outcome, Part};
use tools_experiments::policy::Policy;
use tools_experiments::trace::{Frame, Lane, Trace};
use tools_experiments::transmit::{Load, Sender};

use super::{FIGURE_S, Live, OTHER_S, linux, sleeping, spinning};
use crate::cli::{self, LinuxPeer, contract_argument};
use crate::lab::{self, Lab, PEER_DEV};
use crate::process::Process;
use crate::roles::capture::{self, Seen};

/// First port of the receiver.
pub const PORT: u16 = 5_000;
/// How often the time that the line stood still is asked for.
const WATCH: Duration = Duration::from_millis(5);
const BOTH: [LinuxPeer; 2] = [LinuxPeer::Htb, LinuxPeer::Kernel];

/// Headers of a datagram's frame.
const HEADER_BYTES: u16 = 42;

/// Senders on a line.
pub struct Workload {
    pub rate: Rate,
    pub senders: Vec<Sender>,
    pub length_ns: u64,
}

impl Workload {
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        PORT..PORT + self.senders.len() as u16
    }
}

/// The command that is `sender`, which waits to be told to begin.
fn sender_command(lab: &Lab, sender: &Sender, port: u16, kernel: bool) -> Result<Command> {
    let peer = lab::prefix(lab::PEER_ADDRESS).address();
    let mut command = lab.command(lab::this_program()?);
    let (bytes, steady) = match sender.load {
        Load::Flood { bytes } => (bytes, None),
        Load::Steady { bytes, every_ns, burst } => (bytes, Some((every_ns, burst))),
    };
    command
        .args(["__sender", "--hold", "--to", &format!("{peer}:{port}")])
        .args(["--contract", &contract_argument(&sender.contract)])
        .args(["--bytes", &(bytes - HEADER_BYTES).to_string(), "--buffers", "2048"]);
    if let Some((every_ns, burst)) = steady {
        command.args(["--every", &format!("{every_ns}ns"), "--burst", &burst.to_string()]);
    }
    if kernel {
        command.arg("--kernel");
    }
    Ok(command)
}

/// Runs `workload` in `lab` and returns what arrived. `stalled_ns` says how long the line has stood
/// still so far.
pub fn observe(
    live: &Live<'_>,
    lab: &Lab,
    workload: &Workload,
    kernel: bool,
    stalled_ns: &mut dyn FnMut() -> Result<u64>,
    tardiness_ns: u64,
) -> Result<(Trace, u64)> {
    let program = lab::this_program()?;
    let out = lab.folder().join("seen");
    let ports: Vec<String> = workload.ports().map(|port| port.to_string()).collect();
    let mut capture = Process::start_ready(
        lab.peer_command(&program)?
            .args(["__capture", "--dev", PEER_DEV, "--ports", &ports.join(","), "--out"])
            .arg(&out),
    )?;
    let mut senders = Vec::new();
    for (sender, port) in workload.senders.iter().zip(workload.ports()) {
        senders.push(Process::start_ready(&mut sender_command(lab, sender, port, kernel)?)?);
    }
    let from_ns = monotonic_ns();
    let until_ns = from_ns + workload.length_ns;
    let mut begun = vec![false; senders.len()];
    let mut stalls: Vec<(u64, u64)> = Vec::new();
    let mut stalled = stalled_ns()?;
    loop {
        live.go_on()?;
        let now = monotonic_ns();
        for (index, sender) in workload.senders.iter().enumerate() {
            if !begun[index] && now >= from_ns + sender.from_ns {
                senders[index].begin()?;
                begun[index] = true;
            }
        }
        let total = stalled_ns()?;
        if total > stalled {
            stalls.push((now - (total - stalled), total - stalled));
            stalled = total;
        }
        if now >= until_ns {
            break;
        }
        std::thread::sleep(WATCH);
    }
    let lost: u64 = capture.end()?.trim().parse().unwrap_or(0);
    drop(senders);
    let seen = capture::read(&out)?;
    let mut trace = Trace {
        rate: workload.rate,
        from_ns,
        until_ns,
        stalls,
        lanes: workload
            .senders
            .iter()
            .zip(workload.ports())
            .map(|(sender, port)| lane(sender, port, &seen, until_ns))
            .collect(),
        tardiness_ns,
        wall_ns: until_ns - from_ns,
    };
    trace.replay();
    Ok((trace, lost))
}

fn lane(sender: &Sender, port: u16, seen: &[Seen], until_ns: u64) -> Lane {
    let mine = seen.iter().filter(|seen| seen.port == port && seen.seen_ns <= until_ns);
    let frame = |seen: &Seen| Frame {
        sent_ns: seen.sent_ns,
        seen_ns: seen.seen_ns,
        done_ns: 0,
        bytes: seen.bytes,
    };
    let mut frames: Vec<Frame> = mine.map(frame).collect();
    frames.sort_by_key(|frame| frame.seen_ns);
    let from_ns = frames.first().map_or(until_ns, |frame| frame.sent_ns);
    Lane { name: sender.name.clone(), contract: sender.contract, frames, from_ns }
}

/// Runs `workload` over Plumb.
fn over_plumb(
    live: &Live<'_>,
    outcome: &mut Outcome,
    workload: &Workload,
    pace: cli::Pace,
) -> Result<Trace> {
    let lab = live.lab(workload.rate, pace)?;
    let host = Host::connect(lab.socket())?;
    let tardiness_ns = host.links().first().map_or(0, |link| link.facts.tardiness_ns);
    let mut stalled = || Ok(host.query_links()?.iter().map(|link| link.stall_ns).sum());
    let (trace, lost) = observe(live, &lab, workload, false, &mut stalled, tardiness_ns)?;
    if lost > 0 {
        outcome.note(format!("The receiver's kernel could not show {lost} frames."));
    }
    Ok(trace)
}

/// Those of `peers` that were asked for run `workload`; `judge` gets what they sent.
fn over_linux(
    live: &Live<'_>,
    outcome: &mut Outcome,
    workload: &Workload,
    peers: &[LinuxPeer],
    spare: bool,
    mut judge: impl FnMut(&mut Outcome, &str, &Trace),
) -> Result<()> {
    for &peer in peers.iter().filter(|&&peer| live.has(peer)) {
        for shaper in linux::shapers(peer, workload, spare) {
            live.go_on()?;
            match linux::run(live, &shaper, workload)? {
                Ok(trace) => judge(outcome, &shaper.name, &trace),
                Err(reason) => {
                    outcome.note(format!("{} left out: {reason}", shaper.name));
                }
            }
        }
    }
    Ok(())
}

pub fn fig5a(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    for rate in fig5a::LINES {
        let workload =
            Workload { rate, senders: fig5a::senders(), length_ns: live.length_ns(FIGURE_S) };
        // A line of 1 Gbit/s asks for a driver that is always there.
        let pace = if rate == fig5a::LINES[0] { sleeping() } else { spinning() };
        let trace = over_plumb(live, outcome, &workload, pace)?;
        outcome.add(fig5a::judge(Policy::Atx.name(), &trace, true));
        over_linux(live, outcome, &workload, &[LinuxPeer::Htb], false, |outcome, name, trace| {
            outcome.add(fig5a::judge(name, trace, true));
        })?;
    }
    Ok(())
}

pub fn fig5b(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    let length_ns = live.length_ns(FIGURE_S);
    let senders = fig5b::senders(length_ns / 6);
    let workload = Workload { rate: fig5b::RATE, senders, length_ns };
    let trace = over_plumb(live, outcome, &workload, spinning())?;
    outcome.add(fig5b::judge(Policy::Atx.name(), &trace, true));
    over_linux(live, outcome, &workload, &[LinuxPeer::Htb], false, |outcome, name, trace| {
        outcome.add(fig5b::judge(name, trace, true));
    })
}

pub fn fig6(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    let workload = Workload {
        rate: fig6::RATE,
        senders: fig6::senders(),
        length_ns: live.length_ns(FIGURE_S),
    };
    let trace = over_plumb(live, outcome, &workload, spinning())?;
    outcome.add(fig6::judge(Policy::Atx.name(), &trace));
    over_linux(live, outcome, &workload, &BOTH, false, |outcome, name, trace| {
        outcome.add(fig6::judge(name, trace));
    })?;
    if !live.has(LinuxPeer::Kernel) {
        fig6::demand_fairness(outcome);
        outcome.note("Smoother than whom? Give --peer kernel.");
    }
    Ok(())
}

pub fn latency(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    for (rate, _) in latency::LINES {
        let workload =
            Workload { rate, senders: latency::senders(rate), length_ns: live.length_ns(OTHER_S) };
        let mut all = Vec::new();
        let trace = over_plumb(live, outcome, &workload, spinning())?;
        let (part, distributions) = latency::judge(Policy::Atx.name(), &trace);
        outcome.add(part);
        all.extend(distributions);
        over_linux(live, outcome, &workload, &[LinuxPeer::Htb], true, |outcome, name, trace| {
            let (part, distributions) = latency::judge(name, trace);
            outcome.add(part);
            all.extend(distributions);
        })?;
        outcome.add(Part { pictures: latency::pictures(rate, &all), ..Part::default() });
    }
    outcome.note("Latency is from the sender's call to the end of the frame on an exact line on which it was put when the receiving kernel saw it.");
    Ok(())
}

pub fn adversary(live: &Live<'_>, outcome: &mut Outcome) -> Result<()> {
    let workload = Workload {
        rate: live_adversary::RATE,
        senders: live_adversary::senders(),
        length_ns: live.length_ns(OTHER_S),
    };
    let trace = over_plumb(live, outcome, &workload, spinning())?;
    outcome.add(live_adversary::judge(&trace, true));
    Ok(())
}
