//! The daemons that `plumb up` and labs are made of: started in order, watched, and ended with who started them.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flowman_daemon::driver_socket;
use plumb_net::Host;
use rbuf_shm::{Connection, Listener};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::this_program;
use crate::signals::Asked;

/// How long daemons may take to be ready, on a machine that has other things to do too.
const READY: Duration = Duration::from_secs(60);

/// How long the keeper of a flow manager that was killed may take to notice, and to listen no more in its place.
const PARTING: Duration = Duration::from_millis(200);

/// Between two looks at whether something has happened.
const LOOK: Duration = Duration::from_millis(2);

/// Processes that end with this value.
#[derive(Debug, Default)]
pub struct Daemons {
    /// With what people call each.
    running: Vec<(String, Child)>,
}

impl Daemons {
    /// Takes a process over.
    pub fn add(&mut self, name: &str, child: Child) {
        self.running.push((name.to_string(), child));
    }

    fn start(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        self.add(name, child);
        Ok(pid)
    }

    /// Starts a flow manager with `arguments`, and waits until it listens at `socket`.
    pub fn start_flowman(
        &mut self,
        socket: &Path,
        asked: &Asked,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<()> {
        let mut command = Command::new(this_program()?);
        command.args(["flowman", "--supervised", "--socket"]).arg(socket);
        arguments(&mut command);
        let pid = self.start("the flow manager", &mut command)?;
        // Whoever else listens there is not ours.
        let drivers = driver_socket(socket);
        self.wait_until("the flow manager listens", asked, || {
            let peer = Connection::connect(&drivers).and_then(|connection| connection.peer());
            peer.is_ok_and(|peer| peer.pid as u32 == pid)
        })
    }

    /// Starts the driver of interface `dev` with `arguments`.
    pub fn start_driver(
        &mut self,
        socket: &Path,
        dev: &str,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<()> {
        let mut command = Command::new(this_program()?);
        command.args(["driver", "--supervised", "--dev", dev, "--socket"]).arg(socket);
        arguments(&mut command);
        self.start(&format!("the driver of {dev}"), &mut command).map(|_| ())
    }

    /// Waits until applications can use `links` links.
    pub fn wait_for_links(&mut self, socket: &Path, links: usize, asked: &Asked) -> Result<()> {
        // The flow manager answers when the addresses are ours. That takes seconds, in which somebody may ask to end.
        let mut asking: Option<JoinHandle<bool>> = None;
        self.wait_until("every driver has joined, and nobody else has its addresses", asked, || {
            let is_answered = asking.get_or_insert_with(|| {
                let socket = socket.to_path_buf();
                std::thread::spawn(move || {
                    Host::connect(&socket).is_ok_and(|host| host.links().len() == links)
                })
            });
            is_answered.is_finished()
                && asking.take().is_some_and(|answer| answer.join().unwrap_or(false))
        })
    }

    fn wait_until(
        &mut self,
        what: &str,
        asked: &Asked,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        while !ready() {
            ensure!(!asked.yet(), "interrupted before {what}");
            self.check()?;
            ensure!(begun.elapsed() < READY, "waited {} s in vain until {what}", READY.as_secs());
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether all of them still run.
    ///
    /// # Errors
    ///
    /// Which does not.
    pub fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended ({status}); its message is above");
            }
        }
        Ok(())
    }

    /// Their process identifiers.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.named().map(|(_, pid)| pid)
    }

    /// What people call each, and its process identifier.
    pub fn named(&self) -> impl Iterator<Item = (&str, u32)> {
        self.running.iter().map(|(name, child)| (&**name, child.id()))
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        // All stand still before any is gone: or those that are left would say that the others are.
        for (_, child) in &self.running {
            let _ = kill_process(Pid::from_child(child), Signal::STOP);
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
        }
        for (_, child) in &mut self.running {
            let _ = child.wait();
        }
    }
}

/// Removes, when dropped, the sockets that a flow manager which was killed leaves at this path.
#[derive(Debug)]
pub struct Sockets<'a>(pub &'a Path);

impl Drop for Sockets<'_> {
    fn drop(&mut self) {
        let begun = Instant::now();
        for path in [self.0, &driver_socket(self.0)] {
            // What is alive, or not ours, stays.
            while let Err(error) = Listener::clear(path)
                && error.kind() == io::ErrorKind::AddrInUse
                && begun.elapsed() < PARTING
            {
                std::thread::sleep(LOOK);
            }
        }
    }
}
