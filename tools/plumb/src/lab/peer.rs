//! The Linux peer of a lab: a process that holds a network namespace of its own.

use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use driver_netlink::Netlink;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::cli;
use crate::daemons::die_with_parent;
use crate::lab::namespace::leave;
use crate::output::say;

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
    let index = netlink.interface(&arguments.dev)?.index;
    netlink.add_address(index, arguments.addr)?;
    netlink.set_up(index)?;
    Ok(())
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
