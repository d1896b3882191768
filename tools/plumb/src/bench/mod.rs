//! `plumb bench`: Plumb beside the kernel, on the same kind of wire, in the same run.
//!
//! Both stacks do the same work against a Linux kernel at the other end of a veth pair. Nothing is
//! offloaded at either end, so every frame is at most an MTU long and every checksum is computed. They take
//! turns, so that what the machine does meanwhile meets both alike; medians are compared.

pub mod end;

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base_flow::Rate;
use serde::Serialize;

use crate::cli::{self, Pace, Stack, Way};
use crate::lab::{self, Lab, Shape, this_program};
use crate::output::{say, tell};
use crate::signals::Asked;

/// Fast enough not to be the limit.
const RATE_MBIT: u32 = 40_000;

const PORT: u16 = 5001;

/// Exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Something to measure.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// By how much the number that an end prints is divided.
    scale: f64,
    /// Who does what: ours, and at the peer.
    ours: &'static str,
    theirs: &'static str,
    /// Whether our end listens.
    passive: bool,
    way: Way,
    count: u32,
    callers: u32,
    /// Whether no segments are left for the kernel to cut.
    frame_by_frame: bool,
    /// Whether the kernel does the same.
    compared: bool,
    /// Whether the number is our end's.
    by_us: bool,
}

const PLAIN: Way = Way { delay: Duration::ZERO, loss: 0, reorder: 0, duplicate: 0 };

const FIGURES: [Figure; 10] = [
    Figure {
        name: "sends",
        unit: "Gbit/s",
        scale: 1e9,
        ours: "send",
        theirs: "receive",
        passive: false,
        way: PLAIN,
        count: 1,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "sends, frame by frame",
        unit: "Gbit/s",
        scale: 1e9,
        ours: "send",
        theirs: "receive",
        passive: false,
        way: PLAIN,
        count: 1,
        callers: 1,
        frame_by_frame: true,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "receives",
        unit: "Gbit/s",
        scale: 1e9,
        ours: "receive",
        theirs: "send",
        passive: true,
        way: PLAIN,
        count: 1,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: true,
    },
    Figure {
        name: "sends, 20 ms round trip",
        unit: "Mbit/s",
        scale: 1e6,
        ours: "send",
        theirs: "receive",
        passive: false,
        way: Way { delay: Duration::from_millis(10), ..PLAIN },
        count: 1,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "sends, 20 ms round trip, 1 % lost",
        unit: "Mbit/s",
        scale: 1e6,
        ours: "send",
        theirs: "receive",
        passive: false,
        way: Way { delay: Duration::from_millis(10), loss: 10_000, ..PLAIN },
        count: 1,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "connects and closes",
        unit: "a second",
        scale: 1.0,
        ours: "connect",
        theirs: "accept",
        passive: false,
        way: PLAIN,
        count: 3_000,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: true,
    },
    Figure {
        name: "accepts and closes",
        unit: "a second",
        scale: 1.0,
        ours: "accept",
        theirs: "connect",
        passive: true,
        way: PLAIN,
        count: 3_000,
        callers: 1,
        frame_by_frame: false,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "connects and closes, 4 at a time",
        unit: "a second",
        scale: 1.0,
        ours: "connect",
        theirs: "accept",
        passive: false,
        way: PLAIN,
        count: 3_000,
        callers: 4,
        frame_by_frame: false,
        compared: true,
        by_us: true,
    },
    Figure {
        name: "accepts and closes, 4 at a time",
        unit: "a second",
        scale: 1.0,
        ours: "accept",
        theirs: "connect",
        passive: true,
        way: PLAIN,
        count: 3_000,
        callers: 4,
        frame_by_frame: false,
        compared: true,
        by_us: false,
    },
    Figure {
        name: "memory of an idle connection",
        unit: "KiB",
        scale: 1024.0,
        ours: "hold",
        theirs: "accept-and-hold",
        passive: false,
        way: PLAIN,
        count: 500,
        callers: 1,
        frame_by_frame: false,
        compared: false,
        by_us: true,
    },
];

/// What came out.
#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    unit: &'static str,
    plumb: Vec<f64>,
    kernel: Vec<f64>,
}

/// Measures everything, and prints a line for each figure as it is known.
pub fn run(arguments: &cli::Bench) -> Result<ExitCode> {
    match arguments.what {
        cli::BenchWhat::Tcp => {}
    }
    let only = arguments.only.as_deref().unwrap_or_default();
    let figures: Vec<_> = FIGURES.iter().filter(|figure| figure.name.contains(only)).collect();
    if figures.is_empty() {
        let names: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        bail!("no figure is called `{only}`; there are: {}", names.join("; "));
    }
    lab::enter().map_err(|refused| anyhow::anyhow!("{refused}"))?;
    let asked = Asked::listen()?;
    if !arguments.json {
        say!(
            "Plumb and the kernel against a Linux peer over veth, MTU 1500, no offloads at either end,\n\
             CUBIC, medians of {} runs (least to most), transfers of {} s",
            arguments.runs,
            arguments.seconds
        )?;
    }
    for figure in figures {
        let (name, unit) = (figure.name, figure.unit);
        let mut measured = Measured { name, unit, plumb: Vec::new(), kernel: Vec::new() };
        for _ in 0..arguments.runs {
            for stack in [Stack::Plumb, Stack::Kernel] {
                if asked.yet() {
                    tell!("plumb bench: interrupted");
                    return Ok(ExitCode::from(INTERRUPTED));
                }
                if stack == Stack::Kernel && !figure.compared {
                    continue;
                }
                let number = figure
                    .measure(stack, arguments.seconds, &asked)
                    .with_context(|| format!("{name} ({stack:?})"))?;
                match stack {
                    Stack::Plumb => measured.plumb.push(number),
                    Stack::Kernel => measured.kernel.push(number),
                }
            }
        }
        measured.show(arguments.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Measured {
    fn show(&mut self, json: bool) -> Result<()> {
        self.plumb.sort_by(f64::total_cmp);
        self.kernel.sort_by(f64::total_cmp);
        if json {
            say!("{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        let median = |all: &[f64]| all.get(all.len() / 2).copied();
        let text = |all: &[f64]| match (median(all), all.first(), all.last()) {
            (Some(median), Some(least), Some(most)) => {
                format!("{median:.1} ({least:.1} to {most:.1})")
            }
            _ => "-".to_string(),
        };
        let ratio = match (median(&self.plumb), median(&self.kernel)) {
            (Some(plumb), Some(kernel)) if kernel > 0.0 => format!("{:.2}", plumb / kernel),
            _ => String::new(),
        };
        say!(
            "{:36} {:>9}   Plumb {:24} kernel {:24} {ratio}",
            self.name,
            self.unit,
            text(&self.plumb),
            text(&self.kernel)
        )?;
        Ok(())
    }
}

impl Figure {
    fn measure(&self, stack: Stack, seconds: u32, asked: &Asked) -> Result<f64> {
        lab::another().map_err(|refused| anyhow::anyhow!("{refused}"))?;
        let spin = Duration::from_micros(50);
        let pace = Pace { spin, frame_by_frame: self.frame_by_frame, ..Pace::default() };
        let lab = match stack {
            Stack::Plumb => {
                let rate = Rate::mbit(RATE_MBIT);
                let shape = Shape {
                    rate,
                    both_ways: false,
                    mtu: 1500,
                    pace,
                    way: self.way,
                    offloads: false,
                    cpu: None,
                    policy: None,
                };
                Lab::start(&shape, asked)?
            }
            Stack::Kernel => Lab::linux(1500, self.way, false)?,
        };
        let program = this_program()?;
        let words = |does: &str, stack: Stack, at: &str| -> Vec<String> {
            let stack = if stack == Stack::Plumb { "plumb" } else { "kernel" };
            let number = |number: u32| number.to_string();
            ["__bench-end", "--stack", stack, "--does", does, "--at", at]
                .map(str::to_string)
                .into_iter()
                .chain(["--seconds".into(), number(seconds), "--count".into(), number(self.count)])
                .chain(["--callers".into(), number(self.callers)])
                .collect()
        };
        let us = format!("10.77.0.1:{PORT}");
        let them = format!("10.77.0.2:{PORT}");
        let ours = |at: &str| {
            let mut command = lab.command(&program);
            command.args(words(self.ours, stack, at));
            command
        };
        let theirs = |at: &str| -> Result<Command> {
            let mut command = lab.peer_command(&program)?;
            command.args(words(self.theirs, Stack::Kernel, at));
            Ok(command)
        };
        let (listening, connecting) = match self.passive {
            true => (ours(&us), theirs(&us)?),
            false => (theirs(&them)?, ours(&them)),
        };
        let mut listener = End::start(listening)?;
        listener.expect_ready()?;
        let mut opener = End::start(connecting)?;
        // The number is the end's that can tell it.
        let of_listener = self.passive == self.by_us;
        let number = if of_listener { listener.number()? } else { opener.number()? };
        Ok(number / self.scale)
    }
}

/// A process at one end.
struct End {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl End {
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an end")?;
        let output = BufReader::new(process.stdout.take().context("no pipe from the end")?);
        Ok(Self { process, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("an end failed ({}); its message is above", self.process.wait()?);
        }
        Ok(line.trim().to_string())
    }

    fn expect_ready(&mut self) -> Result<()> {
        match self.line()?.as_str() {
            "ready" => Ok(()),
            other => bail!("an end says `{other}`"),
        }
    }

    fn number(&mut self) -> Result<f64> {
        Ok(self.line()?.parse()?)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
