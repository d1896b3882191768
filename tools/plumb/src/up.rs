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
    check_addresses(&config)?;
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
    };
    Ok(Config { links: vec![link], ..Config::default() }.validated()?)
}

/// Refuses addresses that the kernel owns on the same interface: both stacks would answer.
fn check_addresses(config: &Config) -> Result<()> {
    let netlink = Netlink::open()?;
    for link in &config.links {
        let index = netlink.interface(&link.dev)?.index;
        let kernels = netlink.addresses(index)?;
        for ours in &link.addresses {
            if kernels.iter().any(|theirs| theirs.address() == ours.address()) {
                bail!(
                    "the kernel owns {} on {}, and both would answer: choose another address, or take it from the kernel with `ip address del {ours} dev {}`",
                    ours.address(),
                    link.dev,
                    link.dev
                );
            }
        }
    }
    Ok(())
}
