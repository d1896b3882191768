//! The Linux peer of a lab: a process that holds a network namespace of its own.

use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use base_flow::Rate;
use base_wire::ETHERNET_BYTES;
use driver_netlink::{Interface, Netlink, NetlinkError};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::cli;
use crate::daemons::die_with_parent;
use crate::lab::namespace::leave;
use crate::output::{say, tell};

/// Holds the peer's namespace until standard input ends.
pub fn hold(arguments: &cli::Peer) -> Result<ExitCode> {
    die_with_parent()?;
    leave(UnshareFlags::NEWNET).context("the peer gets no network namespace")?;
    say!("ready")?;
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    if line.trim() == "configure" {
        configure(arguments)?;
        say!("configured")?;
    }
    // An interrupt at the keyboard is for the command in the lab; the lab's end closes this.
    let _asked = crate::signals::Asked::listen()?;
    loop {
        line.clear();
        match input.read_line(&mut line) {
            Ok(0) => return Ok(ExitCode::SUCCESS),
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
    }
}

fn configure(arguments: &cli::Peer) -> Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_up(netlink.interface("lo")?.index)?;
    if arguments.no_offloads {
        no_offloads(&netlink, &arguments.dev);
    }
    let interface = netlink.interface(&arguments.dev)?;
    let index = interface.index;
    netlink.add_address(index, arguments.addr)?;
    if let Some(rate) = arguments.rate
        && let Err(error) = limit(&netlink, &interface, rate)
    {
        tell!("plumb lab: {error}; so the peer sends as fast as it can");
    }
    netlink.set_up(index)?;
    Ok(())
}

/// What the kernel leaves to an interface at once: a segment of 64 KiB, and headers for each frame to be made of it.
const UNIT_BYTES_MAX: u32 = 80 * 1024;
/// Frames that wait at an interface, as Linux has it (`txqueuelen`).
const QUEUE_FRAMES: u32 = 1_000;

/// Gives the peer's end of the wire the wire's rate.
fn limit(netlink: &Netlink, interface: &Interface, rate: Rate) -> Result<(), NetlinkError> {
    // A kernel that is woken a millisecond late must not lose what the wire could have carried meanwhile.
    let late_bytes = u32::try_from(rate.bits_per_s() / 8 / 1_000).unwrap_or(u32::MAX);
    netlink.limit(
        interface.index,
        rate,
        late_bytes.max(UNIT_BYTES_MAX),
        QUEUE_FRAMES.saturating_mul(interface.mtu + ETHERNET_BYTES as u32),
    )
}

/// Makes what the kernel sends look as on a wire: whole checksums, frames of at most the MTU. Kernels without this
/// way to say it go on as they are made.
pub fn no_offloads(netlink: &Netlink, dev: &str) {
    for feature in [
        "tx-checksum-ip-generic",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-generic-segmentation",
        "rx-gro",
    ] {
        let _ = netlink.turn(dev, &[feature], false);
    }
}

/// Runs a command in the namespace of process `pid`; does not return.
pub fn enter(pid: u32, command: &[String]) -> Result<ExitCode> {
    let namespace =
        std::fs::File::open(format!("/proc/{pid}/ns/net")).context("the lab is gone")?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(LinkNameSpaceType::Network),
    )
    .context("cannot enter the peer's namespace")?;
    let (program, arguments) = command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run `{program}`"))
}
