//! `plumb demo`: the paper's figure 5(a), live, in a lab.
//!
//! Six sender applications saturate their contracts of 4, 8, … 24 ms in every 100 ms; ordinary kernel
//! sockets on the other side of the wire count what arrives, and ping meanwhile. What is reported
//! was counted by the receiver.

mod report;
pub mod sink;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use base_flow::Rate;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use plumb_net::{Contract, Host};

use crate::cli::{self, contract_argument};
use crate::demo::report::{Before, Report};
use crate::demo::sink::{BIN_NS, Bin};
use crate::lab::{self, Lab, Shape};
use crate::output::{say, tell};
use crate::process::Process;
use crate::signals::Asked;

/// The wire of the demo.
const RATE: Rate = Rate::mbit(100);
/// First port of the receiver.
const PORT: u16 = 5000;
/// Payload of a datagram that fills a frame.
const PAYLOAD_BYTES: usize = 1472;
/// Frames are handed to the kernel this far ahead of the wire, so that a machine that does other
/// things meanwhile seldom lets the wire stand still.
const LEAD: Duration = Duration::from_millis(4);
/// Time the receiver counts beyond what is measured: warm-up, and time the line stood still.
const SPARE_S: u32 = 60;
/// Bins before the measurement begins: several whole periods.
const WARM_UP_BINS: u64 = 3;

/// The contracts of the paper's figure 5(a).
fn contracts() -> Vec<Contract> {
    let ms = 1_000_000;
    (1..=6).map(|i| Contract::guaranteed(4 * i * ms, 100 * ms).expect("a valid contract")).collect()
}

/// Runs the demo.
pub fn run(arguments: &cli::Demo) -> Result<ExitCode> {
    let contracts = contracts();
    let refused = if arguments.sim { None } else { lab::enter().err() };
    if let Some(refused) = &refused {
        tell!("plumb demo: {refused}; running on the simulated link instead");
    }
    if arguments.sim || refused.is_some() {
        let report = report::simulated(&contracts, RATE, arguments.seconds)?;
        return finish(&report, arguments.json);
    }
    let asked = Asked::listen()?;
    let pace = cli::Pace { lead: Some(LEAD), ..cli::Pace::default() };
    let shape = Shape {
        rate: RATE,
        both_ways: true,
        mtu: 1500,
        pace,
        way: cli::Way::default(),
        offloads: true,
        cpu: None,
        policy: None,
    };
    let lab = Lab::start(&shape, &asked)?;
    let host = Host::connect(lab.socket())?;
    let program = lab::this_program()?;
    let mut sink = Process::start_ready(
        lab.peer_command(&program)?
            .arg("__sink")
            .args(["--port", &PORT.to_string(), "--flows", &contracts.len().to_string()])
            .args(["--seconds", &(arguments.seconds + SPARE_S).to_string()])
            .args(["--ping", &lab::prefix(lab::OUR_ADDRESS).address().to_string()]),
    )?;
    let peer = lab::prefix(lab::PEER_ADDRESS).address();
    let mut senders = Vec::new();
    for (index, contract) in contracts.iter().enumerate() {
        senders.push(Process::start_ready(
            lab.command(&program)
                .arg("__sender")
                .args(["--to", &format!("{peer}:{}", PORT + index as u16)])
                .args([
                    "--contract",
                    &contract_argument(contract),
                    "--bytes",
                    &PAYLOAD_BYTES.to_string(),
                ]),
        )?);
    }
    let report = watch(&host, &mut sink, &contracts, arguments, &asked);
    drop((senders, sink, lab));
    match report {
        // An interrupt at the keyboard also ends the processes that are watched.
        _ if asked.yet() => bail!("interrupted"),
        Ok(Some(report)) => finish(&report, arguments.json),
        Ok(None) => bail!("interrupted"),
        Err(error) => Err(error),
    }
}

fn finish(report: &Report, json: bool) -> Result<ExitCode> {
    if json {
        say!("{}", serde_json::to_string(report)?)?;
    } else {
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows the receiver's bins until the measurement is complete; `None` if interrupted.
///
/// What is measured is time in which the line could run: the measurement is longer than was asked
/// for by the time the line stood still, so that it holds a whole number of the scheduler's periods.
fn watch(
    host: &Host,
    sink: &mut Process,
    contracts: &[Contract],
    arguments: &cli::Demo,
    asked: &Asked,
) -> Result<Option<Report>> {
    let display = Display::new(contracts, arguments);
    let first = next_bin(sink)?.bin + WARM_UP_BINS;
    let mut before = None;
    let mut bins: Vec<Bin> = Vec::new();
    loop {
        if asked.yet() {
            return Ok(None);
        }
        let bin = next_bin(sink)?;
        if bin.bin + 1 == first {
            before = Some(Before::new(host, &bin)?);
        }
        if bin.bin < first {
            continue;
        }
        bins.push(bin);
        display.show(&bins, arguments.seconds)?;
        let Some(before) = &before else { bail!("the measurement began too early") };
        let available_ns = u64::from(arguments.seconds) * 1_000_000_000;
        let needed_ns = available_ns + before.stall_since(host)?;
        if bins.len() as u64 * BIN_NS >= needed_ns + BIN_NS {
            display.finish();
            return Ok(Some(Report::new(contracts, RATE, before, &bins, needed_ns, host)?));
        }
    }
}

/// The next bin of the receiver.
fn next_bin(sink: &mut Process) -> Result<Bin> {
    Ok(serde_json::from_str(&sink.line()?)?)
}

/// Bars on a terminal, plain lines otherwise.
struct Display {
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
    contracts: Vec<Contract>,
    quiet: bool,
}

impl Display {
    fn new(contracts: &[Contract], arguments: &cli::Demo) -> Self {
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{prefix:>16} [{bar:40}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bars = contracts.iter().map(|contract| {
                let share = contract.slice_ns * 1_000_000 / contract.period_ns;
                let bar = all.add(ProgressBar::new(share * RATE.bits_per_s() / 1_000_000 / 1_000));
                bar.set_style(style.clone());
                bar.set_prefix(contract.to_string());
                bar
            });
            let bars = bars.collect();
            (all, bars)
        });
        Self { bars, contracts: contracts.to_vec(), quiet: arguments.json }
    }

    /// Shows the last second.
    fn show(&self, bins: &[Bin], seconds: u32) -> Result<()> {
        let last = &bins[bins.len().saturating_sub(5)..];
        let mbit = |flow: usize| {
            let frames =
                last.iter().flat_map(|bin| &bin.frames[flow]).map(|&count| u64::from(count)).sum();
            report::wire_mbit(frames, last.len() as u64 * BIN_NS)
        };
        let second = bins.len() as u64 * BIN_NS / 1_000_000_000;
        if let Some((_, bars)) = &self.bars {
            for (flow, bar) in bars.iter().enumerate() {
                let expected = report::expected_mbit(&self.contracts[flow], RATE);
                bar.set_position((mbit(flow) * 1_000.0) as u64);
                bar.set_message(format!(
                    "{:6.2} of {expected:5.2} Mbit/s   {second}/{seconds} s",
                    mbit(flow)
                ));
            }
        } else if bins.len().is_multiple_of(5) {
            let rates: Vec<String> =
                (0..self.contracts.len()).map(|flow| format!("{:.2}", mbit(flow))).collect();
            let line = format!("{second:3} s: {} Mbit/s", rates.join("  "));
            if self.quiet { tell!("{line}") } else { say!("{line}")? }
        }
        Ok(())
    }

    fn finish(&self) {
        if let Some((all, _)) = &self.bars {
            let _ = all.clear();
        }
    }
}
