//! Tests that cannot fail: changes the code line by line and sees whether a test notices.
//!
//! `cargo-mutants` makes the changes and runs the tests of the changed crate. What no test noticed must
//! stand in `tools/xtask/mutants.txt`, by file and change: so the list can only become shorter.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// The version whose changes the list names: another one makes others.
const VERSION: &str = "27.1.0";

/// Changes that no test may notice, by how often they stand in a file.
type Survivors = BTreeMap<String, usize>;

/// Tries the changes of `packages`, or of all, or the part `shard` of them.
pub fn run(root: &Path, packages: &[String], shard: Option<&str>) -> Result<ExitCode> {
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
    tried.args(packages.iter().flat_map(|package| ["--package", package]));
    tried.args(shard.into_iter().flat_map(|shard| ["--shard", shard]));
    let status = tried.status().context("cannot run cargo mutants")?;
    // All noticed; some not; some noticed by never ending.
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo mutants could not do it");
    let missed = std::fs::read_to_string(folder.join("mutants.out/missed.txt"))?;
    let accepted = std::fs::read_to_string(root.join("tools/xtask/mutants.txt"))?;
    let new = unaccepted(&missed, &accepted);
    for change in &new {
        eprintln!("mutants: no test notices {change}");
    }
    println!("mutants: {} not noticed, {} of them new", missed.lines().count(), new.len());
    Ok(if new.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was missed and is not accepted, with its line.
fn unaccepted<'a>(missed: &'a str, accepted: &str) -> Vec<&'a str> {
    let mut left = Survivors::new();
    let lines = accepted.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        *left.entry(line.to_string()).or_default() += 1;
    }
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
