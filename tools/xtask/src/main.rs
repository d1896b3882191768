//! Chores of the workspace: `cargo run -p xtask -- tidy | bench | simulate | fuzz | mutants`.

#![forbid(unsafe_code)]

mod mutants;
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
    /// Two TCP stacks over wires that are as bad as it gets, in virtual time; prints the seeds that fail.
    Simulate {
        /// How many seeds to try.
        #[arg(long, default_value_t = 10_000)]
        seeds: u32,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Fuzz a target with a coverage-guided engine; needs `cargo fuzz` and a nightly toolchain.
    Fuzz {
        /// Name of the target, as in `fuzz/engine/fuzz_targets`.
        target: String,
        /// For how many seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Change the code line by line and say which changes no test notices, beyond those in
    /// `tools/xtask/mutants.txt`; needs `cargo-mutants`, and a night.
    Mutants(mutants::Which),
}

fn main() -> Result<ExitCode> {
    match Chore::parse() {
        Chore::Tidy => return tidy::run(),
        Chore::Mutants(which) => return mutants::run(&tidy::root()?, &which),
        Chore::Bench => run("cargo", &["bench", "--workspace"])?,
        Chore::Simulate { seeds, seed } => {
            let status = Command::new("cargo")
                .args(["test", "--release", "-p", "tools-sim", "--test", "tcp", "every_byte"])
                .args(["--", "--nocapture"])
                .env("PLUMB_SEEDS", seeds.to_string())
                .env("PLUMB_SEED", seed.to_string())
                .status()
                .context("cannot run cargo")?;
            ensure!(status.success(), "some seeds failed; they are printed above");
        }
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
