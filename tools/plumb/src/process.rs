//! Processes that a demo or an experiment is made of, and what they say to each other: a line
//! `ready` when they are, then what they found; they begin at a line and end when nobody speaks to
//! them any more.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output::say;
use anyhow::{Context, Result, ensure};

/// A process and what it prints. Killed when dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let input = child.stdin.take();
        Ok(Self { child, input, output })
    }

    /// Starts `command` and waits until it is ready.
    pub fn start_ready(command: &mut Command) -> Result<Self> {
        let mut process = Self::start(command)?;
        let line = process.line()?;
        ensure!(line.starts_with("ready"), "a process said `{}`, not `ready`", line.trim());
        Ok(process)
    }

    /// The next line it prints.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line)?;
        ensure!(bytes > 0, "a process ended; its message is above");
        Ok(line)
    }

    /// Lets it begin.
    pub fn begin(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the process was told to end")?;
        writeln!(input, "{line}").context("a process ended; its message is above")
    }

    /// Its process identifier.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and returns the last line it prints.
    pub fn end(&mut self) -> Result<String> {
        self.input = None;
        self.line()
    }

    /// Tells it to end.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// The line it printed at its end, if it has printed one; waits for a moment.
    pub fn ended(&mut self) -> Result<Option<String>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let mut pipe = [PollFd::new(self.output.get_ref(), PollFlags::IN)];
        match poll(&mut pipe, Some(&moment)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            _ => self.line().map(Some),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says that this process is ready, and waits to be told to begin.
pub fn ready() -> Result<()> {
    say!("ready")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// A flag that is set when nobody speaks to this process any more.
pub fn told_to_end() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&told);
    std::thread::spawn(move || {
        let mut line = String::new();
        while matches!(std::io::stdin().read_line(&mut line), Ok(1..)) {
            line.clear();
        }
        flag.store(true, Ordering::Release);
    });
    told
}
