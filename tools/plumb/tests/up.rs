//! `plumb up` as an administrator uses it: on an interface beside the lab's own.

mod in_lab;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use base_wire::Mac;
use driver_netlink::Netlink;
use in_lab::{eventually, in_lab, program, socket};
use plumb_net::Host;
use rustix::process::{Pid, Signal, kill_process};

/// Where the kernel, at the other end of our interface, is.
const KERNEL: &str = "10.78.0.2/24";

/// Makes an interface for `plumb up`, with the kernel at its other end.
fn interface(ours: &str, theirs: &str) {
    let netlink = Netlink::open().unwrap();
    let mac = |last: u8| Mac([2, 0, 0, 0x78, ours.len() as u8, last]);
    netlink.add_veth(ours, mac(1), theirs, mac(2), 1500).unwrap();
    for dev in [ours, theirs] {
        netlink.turn(dev, &["tx-checksum-ip-generic", "rx-gro"], false).unwrap();
        netlink.set_up(netlink.interface(dev).unwrap().index).unwrap();
    }
    netlink.add_address(netlink.interface(theirs).unwrap().index, KERNEL.parse().unwrap()).unwrap();
}

/// A place for a socket, in the lab's folder.
fn place(name: &str) -> PathBuf {
    socket().with_file_name(name)
}

fn up(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("up").arg("--socket").arg(socket).args(arguments);
    command
}

fn refused(socket: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = up(socket, arguments).output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

/// A running `plumb up`.
struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it, and returns when it has said that applications can connect.
    fn start(socket: &Path, arguments: &[&str]) -> Self {
        let mut child = up(socket, arguments).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, said };
        running.hear("applications connect at");
        running
    }

    /// Waits until a line with `words` is said.
    fn hear(&mut self, words: &str) -> String {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(
                self.said.read_line(&mut line).unwrap(),
                0,
                "ended before it said `{words}`"
            );
        }
        line
    }

    fn children(&self) -> Vec<u32> {
        let file = format!("/proc/{pid}/task/{pid}/children", pid = self.child.id());
        let text = std::fs::read_to_string(file).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    fn end(mut self) {
        signal(self.child.id(), Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn ping(socket: &Path) -> bool {
    let ping = Command::new(program())
        .args(["ping", "-c", "1", "10.78.0.2", "--socket"])
        .arg(socket)
        .output();
    ping.unwrap().status.success()
}

#[test]
fn what_stands_where_the_sockets_are_to_be_is_left_alone_and_a_failure_leaves_none() {
    const NAME: &str =
        "what_stands_where_the_sockets_are_to_be_is_left_alone_and_a_failure_leaves_none";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let arguments = ["--dev", "up0", "--addr", "10.78.0.1/24"];
        for name in ["s", "s.driver"] {
            let precious = place(name);
            std::fs::write(&precious, "precious").unwrap();
            let said = refused(&place("s"), &arguments);
            assert!(said.contains("is left alone"), "{said}");
            assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
            std::fs::remove_file(&precious).unwrap();
            assert!(!place("s").exists() && !place("s.driver").exists());
        }
        // The flow manager listens when the driver finds out.
        refused(&place("s"), &["--dev", "lo", "--addr", "10.78.0.1/24"]);
        assert!(!place("s").exists() && !place("s.driver").exists());

        let said = refused(&socket(), &arguments);
        assert!(said.contains("listens there already"), "{said}");
        assert!(Host::connect(&socket()).is_ok(), "the lab's own flow manager is still there");
    });
}

#[test]
fn up_says_that_applications_connect_when_they_can_and_outlives_its_terminal() {
    const NAME: &str = "up_says_that_applications_connect_when_they_can_and_outlives_its_terminal";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let socket = place("s");
        let running = Running::start(&socket, &["--dev", "up0", "--addr", "10.78.0.1/24"]);
        assert_eq!(Host::connect(&socket).unwrap().links().len(), 1);
        assert!(ping(&socket), "the first ping is answered");

        let daemons = running.children();
        assert_eq!(daemons.len(), 2);
        for &pid in daemons.iter().chain([&running.child.id()]) {
            signal(pid, Signal::HUP);
        }
        // Ctrl-C is for who supervises them.
        daemons.iter().for_each(|&pid| signal(pid, Signal::INT));
        eventually("all have heard it", || {
            daemons.iter().chain([&running.child.id()]).all(|pid| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
                u64::from_str_radix(pending.unwrap().trim(), 16) == Ok(0)
            })
        });
        assert!(ping(&socket));
        assert_eq!(running.children(), daemons);
        running.end();
        assert!(!socket.exists() && !place("s.driver").exists());
    });
}
