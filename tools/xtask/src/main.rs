//! Chores of the workspace: `cargo run -p xtask -- tidy | bench | fuzz`.

#![forbid(unsafe_code)]

mod tidy;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Chores of the workspace.
#[derive(Debug, Parser)]
enum Chore {
    /// Check that the tree shows the design: dependencies point one way, `unsafe` is where it may be,
    /// ARCHITECTURE.md names every crate, every promise is cited.
    Tidy,
    /// Run the benches.
    Bench,
    /// Fuzz a target with a coverage-guided engine; needs `cargo fuzz` and a nightly toolchain.
    Fuzz {
        /// Name of the target, as in `fuzz/engine/fuzz_targets`.
        target: String,
        /// For how many seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> Result<ExitCode> {
    match Chore::parse() {
        Chore::Tidy => return tidy::run(),
        Chore::Bench => run("cargo", &["bench", "--workspace"])?,
        Chore::Fuzz { target, seconds } => {
            let (corpus, limit) =
                (format!("fuzz/corpus/{target}"), format!("-max_total_time={seconds}"));
            let arguments = [
                "+nightly",
                "fuzz",
                "run",
                "--fuzz-dir",
                "fuzz/engine",
                &target,
                &corpus,
                "--",
                &limit,
            ];
            run("cargo", &arguments)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} {} failed", arguments.join(" "));
    Ok(())
}
