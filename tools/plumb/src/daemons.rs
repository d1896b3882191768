//! The daemons as subcommands.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use base_flow::Rate;
use driver_core::Limits;
use driver_daemon::{Claim, Options};
use driver_link_packet::PacketLink;
use driver_netlink::{Netlink, Watch};
use flowman_core::{Config, LinkConfig};
use flowman_daemon::Identity;
use rbuf_shm::{Connection, monotonic_ns};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use tools_experiments::policy::Policy;

use crate::lab::this_program;
use crate::output::tell;
use crate::{cli, signals};

/// Ends with the process that started this one.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("prctl(PR_SET_PDEATHSIG)")?;
    Ok(())
}

/// Begins as a process that goes on when its terminal is lost; a supervised one ends with its parent.
pub fn be_a_daemon(supervised: bool) -> Result<()> {
    if supervised {
        die_with_parent()?;
    }
    signals::be_a_daemon(supervised).context("cannot handle signals")
}

/// Runs the flow manager.
pub fn flowman(arguments: &cli::Flowman) -> Result<ExitCode> {
    be_a_daemon(arguments.supervised)?;
    let config = match (&arguments.config, &arguments.dev, arguments.addr) {
        (Some(file), ..) => read_config(file)?,
        (None, Some(dev), Some(addr)) => {
            let link = LinkConfig {
                dev: dev.clone(),
                addresses: vec![addr],
                gateway: arguments.gateway,
                rate: None,
                vlan: None,
                probe_wait_ms: arguments.probing.probe_wait,
            };
            Config { links: vec![link], ..Config::default() }.validated()?
        }
        _ => bail!("give --config, or --dev and --addr"),
    };
    let user = arguments.user.clone().or(config.user.clone());
    let identity = Identity::of(user.as_deref())?;
    let socket = &arguments.socket.socket;
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let start_keeper = || start_keeper(user.as_deref());
    let mut daemon = flowman_daemon::Daemon::new(config, socket, start_keeper)?;
    if let Some(refused) = identity.assume()? {
        tell!(
            "plumb flowman: there is nobody else to become here ({refused}): it stays the user that it is, without capabilities"
        );
    }
    daemon.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the keeper of this flow manager, which becomes the same `user`.
fn start_keeper(user: Option<&str>) -> io::Result<Connection> {
    let (ours, theirs) = Connection::pair()?;
    let program = this_program().map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.arg("__keeper").args(user.map(|user| format!("--user={user}")));
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn()?;
    Ok(ours)
}

/// Runs the keeper of the flow manager at the other end of standard input, until that is gone.
pub fn keeper(arguments: &cli::Keeper) -> Result<ExitCode> {
    // Ctrl-C is for the flow manager.
    signals::be_a_daemon(true).context("cannot handle signals")?;
    let connection = Connection::from(io::stdin().as_fd().try_clone_to_owned()?);
    Identity::of(arguments.user.as_deref())?.assume()?;
    // If it stands one day, it is not to have anything that others wait for.
    let nothing = std::fs::File::open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    flowman_daemon::keep(connection, true)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a driver.
pub fn driver(arguments: &cli::Driver) -> Result<ExitCode> {
    be_a_daemon(arguments.supervised)?;
    if let Some(cpu) = arguments.cpu {
        stay_on(&[cpu]).with_context(|| format!("cannot run on processor {cpu}"))?;
    }
    let policy = arguments.policy.as_deref().map(policy).transpose()?;
    let index = Netlink::open()?.interface(&arguments.dev)?.index;
    let _claim = Claim::take(index).with_context(|| format!("interface {}", arguments.dev))?;
    let watch = Some(Watch::open(&arguments.dev)?);
    // Later than that, so that no change is missed.
    let link = PacketLink::open(&arguments.dev, arguments.vlan)?;
    let socket = flowman_daemon::driver_socket(&arguments.socket.socket);
    let connection = Connection::connect(&socket).with_context(|| {
        format!(
            "no flow manager listens for drivers at {}; start `plumb flowman` first",
            socket.display()
        )
    })?;
    let kind = if link.sends_in_bulk() { "packet, in bulk" } else { "packet" };
    let options = options(&arguments.dev, kind, arguments.rate, &arguments.pace);
    match policy {
        None => driver_daemon::serve(link, watch, connection, &options)?,
        Some(policy) => {
            let schedule = |line| policy.schedule(line, monotonic_ns() as i64);
            driver_daemon::serve_by(schedule, link, watch, connection, &options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The policy called `name`.
pub fn policy(name: &str) -> Result<Policy> {
    let known = || Policy::ALL.map(Policy::name).join(", ");
    Policy::named(name)
        .with_context(|| format!("there is no policy `{name}`: choose from {}", known()))
}

/// Runs on these processors only, this thread and what it starts.
pub fn stay_on(cpus: &[usize]) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    sched_setaffinity(None, &set)
}

fn options(dev: &str, kind: &str, rate: Rate, pace: &cli::Pace) -> Options {
    Options {
        name: dev.to_string(),
        kind: kind.to_string(),
        rate,
        lead_ns: pace.lead.map(|lead| lead.as_nanos() as u64),
        spin_ns: pace.spin.as_nanos() as u64,
        frame_cost_ns: pace.frame_cost.map(|cost| cost.as_nanos() as u64),
        limits: Limits { units: !pace.frame_by_frame, ..Limits::default() },
        confine: true,
    }
}

/// Reads a configuration file.
pub fn read_config(file: &Path) -> Result<Config> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Config::parse(&text).with_context(|| format!("in {}", file.display()))
}
