//! Wires beside the lab's, with a flow manager of their own and a driver for each.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base_wire::Mac;
use driver_netlink::Netlink;
use plumb_net::Host;

use super::{eventually, on_peer, processes, program, socket};

/// A wire: the interface `plumb<number>` here, `far<number>` on the peer's side, and their addresses with prefixes.
pub struct Wire<'a> {
    pub number: u8,
    pub ours: &'a [&'a str],
    pub theirs: &'a [&'a str],
}

/// Daemons of wires, which end with this.
pub struct Wires {
    pub host: Host,
    socket: PathBuf,
    /// The flow manager, and then the drivers in the order of the wires.
    daemons: Vec<Child>,
}

impl Wires {
    /// Lays `wires` and waits until each has a driver.
    pub fn lay(wires: &[Wire<'_>]) -> Self {
        Self::lay_under("", wires)
    }

    /// As [`Self::lay`], with more lines of the configuration.
    pub fn lay_under(policy: &str, wires: &[Wire<'_>]) -> Self {
        let folder = socket().parent().unwrap().to_path_buf();
        let (config, socket) = (folder.join("wires.toml"), folder.join("wires.sock"));
        wires.iter().for_each(Wire::lay);
        let text: String = wires.iter().map(Wire::config).chain([policy.into()]).collect();
        std::fs::write(&config, text).unwrap();
        let flowman = start(&socket, &["flowman", "--config", config.to_str().unwrap()]);
        let drivers = folder.join("wires.sock.driver");
        eventually("the flow manager listens", || drivers.exists());
        let drives = wires.iter().map(|wire| start(&socket, &["driver", "--dev", &wire.name()]));
        let daemons: Vec<Child> = [flowman].into_iter().chain(drives).collect();
        let mut host = None;
        eventually("every wire has a driver", || {
            host = Host::connect(&socket).ok().filter(|host| host.links().len() == wires.len());
            host.is_some()
        });
        Self { host: host.unwrap(), socket, daemons }
    }

    /// Another application.
    pub fn another(&self) -> Host {
        Host::connect(&self.socket).unwrap()
    }

    /// Kills the driver of the wire at this place.
    pub fn kill_driver(&mut self, place: usize) {
        let driver = &mut self.daemons[1 + place];
        driver.kill().unwrap();
        driver.wait().unwrap();
    }

    /// Starts one in its place, and waits until it has joined.
    pub fn start_driver(&mut self, place: usize, wire: &Wire<'_>) {
        self.daemons[1 + place] = start(&self.socket, &["driver", "--dev", &wire.name()]);
        eventually("it has joined", || {
            let links = self.host.query_links().unwrap();
            links.iter().any(|link| link.facts.name == wire.name())
        });
    }

    /// The process of the driver of the wire at this place.
    pub fn driver(&self, place: usize) -> u32 {
        self.daemons[1 + place].id()
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Wire<'_> {
    fn name(&self) -> String {
        format!("plumb{}", self.number)
    }

    fn config(&self) -> String {
        let (name, ours) = (self.name(), self.ours);
        format!("[[link]]\ndev = '{name}'\naddresses = {ours:?}\nprobe_wait_ms = 10\n")
    }

    fn lay(&self) {
        let (ours, theirs) = (self.name(), format!("far{}", self.number));
        let netlink = Netlink::open().unwrap();
        let mac = |last| Mac([2, 0, 0, 0, self.number, last]);
        netlink.add_veth(&ours, mac(1), &theirs, mac(2), 1500).unwrap();
        let index = netlink.interface(&theirs).unwrap().index;
        netlink.move_to_namespace(index, processes()["__peer"]).unwrap();
        netlink.set_up(netlink.interface(&ours).unwrap().index).unwrap();
        on_peer(|| {
            let netlink = Netlink::open().unwrap();
            let index = netlink.interface(&theirs).unwrap().index;
            for address in self.theirs {
                netlink.add_address(index, address.parse().unwrap()).unwrap();
            }
            netlink.set_up(index).unwrap();
        });
    }
}

fn start(socket: &PathBuf, arguments: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.args(arguments).arg("--supervised").arg("--socket").arg(socket);
    command.stdin(Stdio::null()).spawn().unwrap()
}
