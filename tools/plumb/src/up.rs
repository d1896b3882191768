//! `plumb up`: the flow manager and a driver for each link, on real interfaces.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base_flow::Rate;
use driver_netlink::Netlink;
use flowman_core::{Config, LinkConfig};

use crate::cli;
use crate::daemons::read_config;
use crate::lab::this_program;
use crate::signals::Asked;

/// Rate of a link whose configuration names none.
const RATE: Rate = Rate::mbit(1000);

/// Runs the daemons until it is asked to end, or one of them ends.
pub fn run(arguments: &cli::Up) -> Result<ExitCode> {
    let config = configuration(arguments)?;
    check_addresses(&config)?;
    warn_of_merging(&config);
    let asked = Asked::listen()?;
    let program = this_program()?;
    let socket = &arguments.socket.socket;
    let mut flowman = Command::new(&program);
    flowman.args(["flowman", "--supervised", "--socket"]).arg(socket);
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
    let mut daemons = Daemons(vec![
        flowman.stdin(Stdio::null()).spawn().context("cannot start the flow manager")?,
    ]);
    let drivers = flowman_daemon::driver_socket(socket);
    for _ in 0..1000 {
        if drivers.exists() {
            break;
        }
        daemons.check()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    for link in &config.links {
        let mut driver = Command::new(&program);
        driver.args(["driver", "--supervised", "--dev", &link.dev]);
        driver.args(["--rate", &link.rate.unwrap_or(RATE).to_string()]);
        driver.args(arguments.pace.arguments());
        if let Some(vlan) = link.vlan {
            driver.args(["--vlan", &vlan.to_string()]);
        }
        let driver = driver.arg("--socket").arg(socket).stdin(Stdio::null()).spawn();
        daemons.0.push(driver.with_context(|| format!("cannot start the driver of {}", link.dev))?);
    }
    eprintln!("plumb up: applications connect at {} (Ctrl-C ends)", socket.display());
    while !asked.yet() {
        daemons.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(daemons);
    for left in [socket, &drivers] {
        let _ = std::fs::remove_file(left);
    }
    Ok(ExitCode::SUCCESS)
}

/// Daemons that end with this value.
struct Daemons(Vec<Child>);

impl Daemons {
    fn check(&mut self) -> Result<()> {
        for daemon in &mut self.0 {
            if let Some(status) = daemon.try_wait()? {
                bail!("a daemon ended ({status}); its message is above");
            }
        }
        Ok(())
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for daemon in self.0.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
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

/// What merges received frames is a feature of the interface, and not ours to change.
fn warn_of_merging(config: &Config) {
    let Ok(netlink) = Netlink::open() else { return };
    for link in &config.links {
        let merging = netlink.active(&link.dev, &["rx-gro", "rx-gro-hw", "rx-lro"]);
        if merging.is_ok_and(|merging| !merging.is_empty()) {
            eprintln!(
                "plumb up: {dev} merges received TCP frames, and merged ones are dropped: `ethtool -K {dev} gro off lro off` ends that",
                dev = link.dev
            );
        }
    }
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
