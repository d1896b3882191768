//! `plumb trace --tcp`: what connections that met trouble did last.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use plumb_net::Dump;
use plumb_net::engine::{Event, Record};
use serde::Serialize;

use crate::cli;
use crate::output::say;

/// Prints all dumps of all files.
pub fn run(arguments: &cli::Trace) -> Result<ExitCode> {
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, &mut files)?;
    }
    for path in &files {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut reader = BufReader::new(file);
        let dumps = std::iter::from_fn(|| Dump::read(&mut reader).transpose());
        for dump in dumps {
            let dump = dump.with_context(|| format!("cannot read {}", path.display()))?;
            if arguments.json {
                for record in &dump.records {
                    say!("{}", serde_json::to_string(&Line::of(&dump, record))?)?;
                }
            } else {
                show(&dump)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let entries = path.read_dir().with_context(|| format!("cannot read {}", path.display()))?;
    let mut inside: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    inside.retain(|file| file.extension().is_some_and(|extension| extension == "trace"));
    inside.sort();
    files.extend(inside);
    Ok(())
}

#[derive(Serialize)]
struct Line {
    local: String,
    remote: String,
    at_us: u32,
    event: String,
    flags: String,
    a: u32,
    b: u32,
}

impl Line {
    fn of(dump: &Dump, record: &Record) -> Self {
        Self {
            local: dump.local.to_string(),
            remote: dump.remote.to_string(),
            at_us: record.at_us,
            event: name(record),
            flags: flags(record.flags),
            a: record.a,
            b: record.b,
        }
    }
}

fn name(record: &Record) -> String {
    Event::from_number(record.event)
        .map_or_else(|| format!("event {}", record.event), |event| format!("{event:?}"))
}

/// Control bits, as scripts write them.
fn flags(bits: u8) -> String {
    "FSRP.UEW"
        .chars()
        .enumerate()
        .filter_map(|(bit, letter)| (bits & 1 << bit != 0).then_some(letter))
        .collect()
}

fn show(dump: &Dump) -> Result<()> {
    let end = if dump.error.is_empty() { String::new() } else { format!(", {}", dump.error) };
    say!(
        "{} to {}: {} time-outs, {} bytes sent again{end}",
        dump.local,
        dump.remote,
        dump.timeouts,
        dump.retransmitted_bytes
    )?;
    let Some(first) = dump.records.first() else { return Ok(()) };
    // Numbers of each direction count from the first that is seen.
    let base = |kind: Event| {
        dump.records.iter().find(|record| record.event == kind as u8).map_or(0, |record| record.a)
    };
    let (ours, theirs) = (base(Event::Sent), base(Event::Received));
    for record in &dump.records {
        let since_us = record.at_us.wrapping_sub(first.at_us);
        let (a, b) = (record.a, record.b);
        let from = |base: u32| a.wrapping_sub(base).cast_signed();
        let what = match Event::from_number(record.event) {
            Some(Event::Sent) => {
                format!("> {:<4} {} +{b}", flags(record.flags), from(ours))
            }
            Some(Event::Received) => {
                let ack = b.wrapping_sub(ours).cast_signed();
                format!("< {:<4} {} ack {ack}", flags(record.flags), from(theirs))
            }
            Some(Event::SentAgain) => format!("  sent again {} +{b}", from(ours)),
            Some(Event::State) => format!("  state {a}"),
            Some(Event::TimedOut) => {
                format!("  time-out of {:.1} ms at {}", f64::from(b) / 1e3, from(ours))
            }
            Some(Event::Lost) => format!("  {a} bytes lost, window {b}"),
            Some(Event::RecoveryBegan) => {
                format!("  recovery up to {}, threshold {b}", from(ours))
            }
            Some(Event::RecoveryEnded) => format!("  recovered, window {b}"),
            Some(Event::Undone) => format!("  not lost after all, window {b}"),
            Some(Event::Probed) => format!("  probe {} +{b}", from(ours)),
            Some(Event::PeerWindow) => format!("  peer's window {a}"),
            Some(Event::Marked) => format!("  mark, window {b}"),
            Some(Event::Mtu) => format!("  MTU {a}, was {b}"),
            Some(Event::Refused) => format!("  refused {} for reason {b}", from(theirs)),
            None => format!("  {} {a} {b}", name(record)),
        };
        say!("{:>12.3} ms  {what}", f64::from(since_us) / 1e3)?;
    }
    Ok(())
}
