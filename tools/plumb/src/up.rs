//! `plumb up`: the flow manager and a driver for each link, on real interfaces.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use base_flow::Rate;
use driver_netlink::Netlink;
use flowman_core::{Config, LinkConfig};

use crate::cli;
use crate::daemons::read_config;
use crate::output::tell;
use crate::signals::Asked;
use crate::supervise::{Daemons, Sockets};

/// Rate of a link whose configuration names none.
const RATE: Rate = Rate::mbit(1000);

/// Runs the daemons until it is asked to end, or one of them ends.
pub fn run(arguments: &cli::Up) -> Result<ExitCode> {
    let config = configuration(arguments)?;
    // What is not there is said before anything is started.
    let netlink = Netlink::open()?;
    for link in &config.links {
        netlink.interface(&link.dev)?;
    }
    let asked = Asked::listen_as_daemon()?;
    let socket = &arguments.socket.socket;
    // Dropped last: when the daemons are gone.
    let _sockets = Sockets(socket);
    let mut daemons = Daemons::default();
    daemons.start_flowman(socket, &asked, |flowman| {
        if let Some(user) = &arguments.user {
            flowman.args(["--user", user]);
        }
        match &arguments.config {
            Some(file) => {
                flowman.arg("--config").arg(file);
            }
            None => {
                let link = &config.links[0];
                flowman.args(["--dev", &link.dev, "--addr", &link.addresses[0].to_string()]);
                if let Some(gateway) = link.gateway {
                    flowman.args(["--gateway", &gateway.to_string()]);
                }
                flowman.args(arguments.probing.arguments());
            }
        }
    })?;
    for link in &config.links {
        daemons.start_driver(socket, &link.dev, |driver| {
            driver.args(["--rate", &link.rate.unwrap_or(RATE).to_string()]);
            driver.args(arguments.pace.arguments());
            if let Some(vlan) = link.vlan {
                driver.args(["--vlan", &vlan.to_string()]);
            }
        })?;
    }
    if let Some(ms) = config.links.iter().map(|link| link.probe_wait_ms).max().filter(|&ms| ms > 0)
    {
        // RFC 5227 §1.1: PROBE_WAIT, two pauses of PROBE_MAX, and ANNOUNCE_WAIT.
        tell!("plumb up: asking for up to {} ms whether somebody has the addresses", 7 * ms);
    }
    daemons.wait_for_links(socket, config.links.len(), &asked)?;
    tell!("plumb up: applications connect at {} (Ctrl-C ends)", socket.display());
    while !asked.yet() {
        daemons.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(ExitCode::SUCCESS)
}

fn configuration(arguments: &cli::Up) -> Result<Config> {
    if let Some(file) = &arguments.config {
        let config = read_config(file)?;
        if config.links.is_empty() {
            bail!("{} has no [[link]]", file.display());
        }
        return Ok(config);
    }
    let (Some(dev), Some(addr)) = (&arguments.dev, arguments.addr) else {
        bail!("give --config, or --dev and --addr")
    };
    let link = LinkConfig {
        dev: dev.clone(),
        addresses: vec![addr],
        gateway: arguments.gateway,
        rate: Some(arguments.rate),
        vlan: None,
        probe_wait_ms: arguments.probing.probe_wait,
    };
    Ok(Config { links: vec![link], ..Config::default() }.validated()?)
}
