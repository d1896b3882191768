//! Plays packet scripts: `cargo run -p tools-packet -- tests/packet/tcp`.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tools_packet::{Script, play};

/// Plays packet scripts against the TCP engine, in virtual time.
#[derive(Parser)]
struct Arguments {
    /// Scripts, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Name those that pass, too.
    #[arg(short, long)]
    verbose: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut files = Vec::new();
    for path in &arguments.paths {
        collect(path, &mut files)?;
    }
    let (mut output, mut failed) = (std::io::stdout(), 0);
    for file in &files {
        match run(file) {
            Ok(()) if arguments.verbose => writeln!(output, "{}: passed", file.display())?,
            Ok(()) => {}
            Err(problem) => {
                failed += 1;
                writeln!(output, "{}: {problem:#}", file.display())?;
            }
        }
    }
    writeln!(output, "{} scripts, {failed} failed", files.len())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).context("cannot be read")?;
    play(&Script::parse(&text)?).map_err(anyhow::Error::msg)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let entries = path.read_dir().with_context(|| format!("cannot read {}", path.display()))?;
    let mut below: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    below.sort();
    for path in below {
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "pkt") {
            collect(&path, files)?;
        }
    }
    Ok(())
}
