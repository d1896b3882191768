//! Tests that cannot fail: changes the code line by line and sees whether a test notices.
//!
//! `cargo-mutants` makes the changes, in a copy of the tree, and runs the tests of the changed crate. What no test
//! noticed must stand in `tools/xtask/mutants.txt`, by file and change, and nothing else may: so the list can only
//! become shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// The version whose changes the list names: another one makes others.
const VERSION: &str = "27.1.0";

/// Properties draw the same lots in every run, so that what is noticed once is noticed again; a counterexample
/// need be neither small nor kept. Debuggers look at none of these builds.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PROPTEST_RNG_SEED", "1"),
    ("PROPTEST_MAX_SHRINK_ITERS", "0"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"),
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_PROFILE_TEST_DEBUG", "0"),
];

/// Changes that no test may notice, by how often they stand in a file.
type Survivors = BTreeMap<String, usize>;

/// Which changes to try: all of them, unless something is said.
#[derive(Debug, Default, clap::Args)]
pub struct Which {
    /// The crates to try, by name.
    #[arg(long)]
    package: Vec<String>,
    /// The files to try, as globs: `driver/filter/src/key.rs`.
    #[arg(long)]
    file: Vec<String>,
    /// Which part of how many to try, as in `0/8`.
    #[arg(long)]
    shard: Option<String>,
    /// Only what has changed since this commit.
    #[arg(long)]
    since: Option<String>,
}

impl Which {
    /// Whether every change of the crates that were named is tried.
    const fn is_whole(&self) -> bool {
        self.file.is_empty() && self.shard.is_none() && self.since.is_none()
    }

    fn arguments(&self, root: &Path, folder: &Path) -> Result<Vec<OsString>> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        self.package.iter().for_each(|package| add("--package", package.into()));
        self.file.iter().for_each(|file| add("--file", file.into()));
        if let Some(shard) = &self.shard {
            add("--shard", shard.into());
            // One part as good as another: a crate's changes are dealt like cards.
            add("--sharding", "round-robin".into());
        }
        if let Some(commit) = &self.since {
            let output = Command::new("git").current_dir(root).args(["diff", commit]).output()?;
            ensure!(output.status.success(), "git knows no difference to {commit}");
            let diff = folder.join("since.diff");
            std::fs::write(&diff, output.stdout)?;
            add("--in-diff", diff.into());
        }
        Ok(arguments)
    }
}

/// Tries changes, and compares what no test noticed with what is accepted.
pub fn run(root: &Path, which: &Which) -> Result<ExitCode> {
    let output = Command::new("cargo").args(["mutants", "--version"]).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let found = version.unwrap_or_default();
    ensure!(
        found.trim().ends_with(VERSION),
        "cargo-mutants {VERSION} is needed: cargo install --locked cargo-mutants@{VERSION}"
    );
    let folder = root.join("target/mutants");
    std::fs::create_dir_all(&folder)?;
    let mut tried = Command::new("cargo");
    tried.current_dir(root).args(["mutants", "--no-shuffle", "--output"]).arg(&folder);
    tried.args(which.arguments(root, &folder)?);
    // A change that makes a test endless is noticed, but must not take the night.
    tried.args(["--minimum-test-timeout", "10", "--build-timeout", "600"]);
    // Documentation is compiled example by example, and shows more than it tests.
    tried.args(["--", "--locked", "--tests"]);
    tried.env("CARGO_TARGET_DIR", folder.join("build")).envs(ENVIRONMENT);
    let status = tried.status().context("cannot run cargo mutants")?;
    // All noticed; some not; some noticed by never ending.
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo mutants could not do it");
    let read = |name: &str| std::fs::read_to_string(folder.join("mutants.out").join(name));
    let (missed, caught) = (read("missed.txt")?, read("caught.txt")? + &read("timeout.txt")?);
    let accepted = std::fs::read_to_string(root.join("tools/xtask/mutants.txt"))?;
    let new = unaccepted(&missed, &accepted);
    for change in &new {
        eprintln!("mutants: no test notices {change}");
    }
    let gone = if which.is_whole() { outdated(&missed, &caught, &accepted) } else { Vec::new() };
    for change in &gone {
        eprintln!("mutants: a test notices this by now, so the list can do without: {change}");
    }
    let (missed, caught) = (missed.lines().count(), caught.lines().count());
    println!(
        "mutants: {missed} of {} not noticed ({} ppm), {} of them new",
        missed + caught,
        1_000_000 * missed / (missed + caught).max(1),
        new.len()
    );
    let as_listed = new.is_empty() && gone.is_empty();
    Ok(if as_listed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Changes that are accepted, by how often.
fn list(accepted: &str) -> Survivors {
    let mut list = Survivors::new();
    let lines = accepted.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        *list.entry(line.to_string()).or_default() += 1;
    }
    list
}

/// What is accepted more often than it was missed, of the files that were tried.
fn outdated(missed: &str, caught: &str, accepted: &str) -> Vec<String> {
    let file = |line: &str| line.split(':').next().unwrap_or_default().to_string();
    let tried: BTreeSet<String> = missed.lines().chain(caught.lines()).map(file).collect();
    let mut left = list(accepted);
    left.retain(|change, _| tried.contains(&file(change)));
    for line in missed.lines() {
        left.entry(without_place(line)).and_modify(|count| *count = count.saturating_sub(1));
    }
    left.into_iter().filter(|&(_, count)| count > 0).map(|(change, _)| change).collect()
}

/// What was missed and is not accepted, with its line.
fn unaccepted<'a>(missed: &'a str, accepted: &str) -> Vec<&'a str> {
    let mut left = list(accepted);
    let is_new = |line: &&str| match left.get_mut(&without_place(line)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    missed.lines().filter(is_new).collect()
}

/// `file:line:column: change` as `file: change`: lines move, and what is done to them stays.
fn without_place(line: &str) -> String {
    let mut parts = line.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(change)) => format!("{file}:{change}"),
        _ => line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_list_as_often_as_it_survives_is_new() {
        let missed = "a.rs:1:2: replace + with - in f\na.rs:9:9: replace + with - in f\n\
                      b.rs:3:4: replace <T as U::V>::w -> bool with true";
        let list = "# Equivalent.\n\na.rs: replace + with - in f\n\
                    b.rs: replace <T as U::V>::w -> bool with true\nc.rs: replace g with ()\n";
        assert_eq!(unaccepted(missed, list), ["a.rs:9:9: replace + with - in f"]);
        let twice = format!("{list}a.rs: replace + with - in f\n");
        assert_eq!(unaccepted(missed, &twice), [""; 0]);
    }

    #[test]
    fn what_is_in_the_list_more_often_than_it_survives_is_outdated_if_it_was_tried() {
        let missed = "a.rs:1:2: replace + with - in f";
        let caught = "a.rs:9:9: replace + with - in f\nb.rs:3:4: replace g with ()\n";
        let list = "a.rs: replace + with - in f\nc.rs: replace h with ()\n";
        assert_eq!(outdated(missed, caught, list), [""; 0]);
        let more = format!("{list}a.rs: replace + with - in f\nb.rs: replace g with ()\n");
        let both = ["a.rs: replace + with - in f", "b.rs: replace g with ()"];
        assert_eq!(outdated(missed, caught, &more), both);
    }

    #[test]
    fn the_list_that_is_kept_names_files_that_exist_and_no_lines() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for line in include_str!("../mutants.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (file, change) = line.split_once(": ").expect("a file and a change");
            assert!(root.join(file).is_file(), "{file}");
            assert!(change.starts_with("replace ") || change.starts_with("delete "), "{line}");
        }
    }
}
