//! `plumb up` as an administrator uses it: on an interface beside the lab's own.

mod in_lab;

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use base_wire::{Arp, EtherType, Ethernet, Header, Mac};
use driver_link::Link;
use driver_link_packet::PacketLink;
use driver_netlink::Netlink;
use in_lab::{eventually, in_lab, on_peer, processes, program, send_raw, socket};
use plumb_net::{Host, Udp};
use rustix::process::{Pid, Signal, kill_process};
use zerocopy::IntoBytes;

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
    if !arguments.contains(&"--config") {
        // What RFC 5227 says, but in a hundredth of the time.
        command.args(["--probe-wait", "10ms"]);
    }
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

#[test]
fn an_interface_has_one_driver_and_the_first_is_named_to_the_second() {
    const NAME: &str = "an_interface_has_one_driver_and_the_first_is_named_to_the_second";
    in_lab(NAME, &[], || {
        let lab = in_lab::processes();
        let first = format!("process {} drives it already", lab["driver"]);
        let said = refused(&place("s"), &["--dev", "plumb0", "--addr", "10.78.0.1/24"]);
        assert!(said.contains(&first), "another flow manager's: {said}");
        let driver = |dev: &str| {
            let mut driver = Command::new(program());
            let Output { status, stderr, .. } =
                driver.args(["driver", "--dev", dev]).output().unwrap();
            assert_eq!(status.code(), Some(1));
            String::from_utf8(stderr).unwrap()
        };
        let said = driver("plumb0");
        assert!(said.contains(&first), "of the same flow manager: {said}");
        interface("up0", "up1");
        let said = driver("up0");
        assert!(said.contains("no link `up0` is configured"), "{said}");
        assert_eq!(in_lab::processes(), lab);
    });
}

#[test]
fn a_flow_manager_that_goes_and_one_that_comes_beside_an_old_driver_say_what_to_do() {
    const NAME: &str =
        "a_flow_manager_that_goes_and_one_that_comes_beside_an_old_driver_say_what_to_do";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let socket = place("s");
        let start = |words: &[&str]| {
            let mut command = Command::new(program());
            command.args(words).arg("--socket").arg(&socket);
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let said = BufReader::new(child.stderr.take().unwrap());
            Running { child, said }
        };
        let flowman = || {
            start(&["flowman", "--probe-wait", "10ms", "--dev", "up0", "--addr", "10.78.0.1/24"])
        };
        let first = flowman();
        eventually("it listens", || Host::connect(&socket).is_ok());
        let mut driver = start(&["driver", "--dev", "up0"]);
        eventually("the driver has joined", || Host::connect(&socket).unwrap().links().len() == 1);
        drop(first);
        driver.hear("the flow manager is gone");
        let mut second = flowman();
        let said = second.hear("no driver of up0 has joined");
        assert!(said.contains("start `plumb driver --dev up0`, anew"), "{said}");
        drop(driver);
        let _driver = start(&["driver", "--dev", "up0"]);
        eventually("the new driver has joined", || {
            Host::connect(&socket).unwrap().links().len() == 1
        });
        assert!(ping(&socket));
    });
}

#[test]
fn a_host_alone_in_its_network_reaches_the_world_over_a_gateway_outside_of_it() {
    const NAME: &str = "a_host_alone_in_its_network_reaches_the_world_over_a_gateway_outside_of_it";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let netlink = Netlink::open().unwrap();
        let add = |dev: &str, address: &str| {
            let index = netlink.interface(dev).unwrap().index;
            netlink.add_address(index, address.parse().unwrap()).unwrap();
        };
        // The router, and somebody behind it; the way back is its business.
        add("up1", "198.51.100.1/24");
        add("lo", "203.0.113.9/32");
        let socket = place("s");
        let arguments = ["--dev", "up0", "--addr", "198.51.100.77/32", "--gateway", "198.51.100.1"];
        let _running = Running::start(&socket, &arguments);
        let ping = Command::new(program())
            .args(["ping", "-c", "1", "203.0.113.9", "--socket"])
            .arg(&socket)
            .output()
            .unwrap();
        assert!(ping.status.success(), "{ping:?}");
        let nc = |host: &str| {
            let mut nc = Command::new(program());
            let output = nc.args(["nc", host, "22", "--socket"]).arg(&socket).output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        assert!(nc("127.0.0.1").contains("the kernel's own"), "{}", nc("127.0.0.1"));
        assert!(!nc("127.0.0.1").contains("gateway"));
    });
}

#[test]
fn what_somebody_does_to_the_interface_is_said_and_flows_of_one_that_is_gone_end() {
    const NAME: &str =
        "what_somebody_does_to_the_interface_is_said_and_flows_of_one_that_is_gone_end";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let netlink = Netlink::open().unwrap();
        let index = netlink.interface("up0").unwrap().index;
        let place = place("s");
        let mut running = Running::start(&place, &["--dev", "up0", "--addr", "10.78.0.1/24"]);
        let mut wire = PacketLink::open("up1", None).unwrap();
        let ours = Ipv4Addr::new(10, 78, 0, 1);
        let mut announced = || arps(&mut wire).iter().any(|(sender, _)| *sender == ours);
        netlink.set_down(index).unwrap();
        running.hear("up0 is down");
        announced();
        netlink.set_up(index).unwrap();
        running.hear("up0 is up again");
        eventually("its address is announced again", announced);
        drop(wire);
        let other_end = netlink.interface("up1").unwrap().index;
        netlink.set_down(other_end).unwrap();
        running.hear("up0 has no carrier");
        netlink.set_up(other_end).unwrap();
        running.hear("up0 has a carrier again");
        eventually("the kernel answers again", || ping(&place));

        let host = Host::connect(&place).unwrap();
        let socket = Udp::options().host(&host).connect("10.78.0.2:9").unwrap();
        let waiting = std::thread::spawn(move || {
            let mut buffer = [0; 10];
            loop {
                // The kernel may say first that nobody is at the port.
                match socket.recv(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    other => return other.map(drop),
                }
            }
        });
        // To this namespace it is as if it had been deleted.
        netlink.move_to_namespace(index, processes()["__peer"]).unwrap();
        let said = running.hear("interface up0 is gone");
        assert!(said.contains("start again when it is there"), "{said}");
        assert_eq!(running.child.wait().unwrap().code(), Some(1));
        assert!(waiting.join().unwrap().is_err(), "its flow waits for nobody");
    });
}

#[test]
fn an_interface_without_stations_is_refused_with_the_reason() {
    in_lab("an_interface_without_stations_is_refused_with_the_reason", &[], || {
        let said = refused(&place("s"), &["--dev", "lo", "--addr", "10.78.0.1/24"]);
        assert!(said.contains("lo has no Ethernet frames between stations"), "{said}");
    });
}

#[test]
fn the_flow_manager_becomes_who_is_named_and_its_sockets_go_and_come_and_it_ends_with_who_started_it()
 {
    const NAME: &str = "the_flow_manager_becomes_who_is_named_and_its_sockets_go_and_come_and_it_ends_with_who_started_it";
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // In the namespace of an ordinary user there is nobody else to become.
    let others_exist = map.split_whitespace().last().is_some_and(|count| count != "1");
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let socket = place("s");
        let link = ["--dev", "up0", "--addr", "10.78.0.1/24"];
        let config = place("up.toml");
        let text = "user = '4321'\n[[link]]\ndev = 'up0'\naddresses = ['10.78.0.1/24']\nprobe_wait_ms = 10\n";
        std::fs::write(&config, text).unwrap();
        let option = |user: &'static str| [&link[..], &["--user", user]].concat();
        let file = ["--config", config.to_str().unwrap()];
        for (user, says) in [("nobody of that name", "useradd"), ("root", "not to run as root")] {
            let said = refused(&socket, &option(user));
            assert!(said.contains(says), "{said}");
        }
        if !others_exist {
            assert!(refused(&socket, &file).contains("cannot become user 4321"));
            return;
        }
        // Each on the path of the one before, which left nothing.
        for (arguments, id) in [(&file[..], "4321"), (&option("4322"), "4322"), (&link, "65534")] {
            let running = Running::start(&socket, arguments);
            let flowman = running.children()[0];
            let status = std::fs::read_to_string(format!("/proc/{flowman}/status")).unwrap();
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
            if id != "65534" {
                assert_eq!(uid.split_whitespace().collect::<Vec<_>>(), [id; 4]);
            }
            assert!(uid.split_whitespace().all(|uid| uid != "0"), "{uid}");
            assert!(ping(&socket));
            running.end();
            assert!(!socket.exists() && !place("s.driver").exists());
        }
        let running = Running::start(&socket, &link);
        let flowman = running.children()[0];
        // Which kills it.
        drop(running);
        eventually("the flow manager is gone", || {
            let status = std::fs::read_to_string(format!("/proc/{flowman}/status"));
            status.map_or(true, |status| status.contains("State:\tZ"))
        });
    });
}

/// ARP packets that are heard at `link` and say that 10.78.0.1 has it or ask for it, as (sender, its station).
fn arps(link: &mut PacketLink) -> Vec<(Ipv4Addr, Mac)> {
    let mut all = Vec::new();
    // Among what a driver sends to itself as it starts.
    while link.poll_rx(64, &mut |arrival| {
        if let Some((ethernet, rest)) = Ethernet::split(arrival.frame)
            && ethernet.ether_type == EtherType::ARP
            && let Some((arp, _)) = Arp::split(rest)
            && arp.target() == Ipv4Addr::new(10, 78, 0, 1)
        {
            all.push((arp.sender(), arp.sender_mac));
        }
    }) > 0
    {}
    all
}

#[test]
fn an_address_that_another_host_has_is_refused_with_its_station_after_asking_and_never_announced() {
    const NAME: &str = "an_address_that_another_host_has_is_refused_with_its_station_after_asking_and_never_announced";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let netlink = Netlink::open().unwrap();
        // The kernel of this namespace must not have it, or that would be the reason.
        let peer = processes()["__peer"];
        netlink.move_to_namespace(netlink.interface("up1").unwrap().index, peer).unwrap();
        let mut wire = on_peer(|| {
            let netlink = Netlink::open().unwrap();
            let up1 = netlink.interface("up1").unwrap().index;
            netlink.set_up(up1).unwrap();
            netlink.add_address(up1, "10.78.0.1/24".parse().unwrap()).unwrap();
            PacketLink::open("up1", None).unwrap()
        });
        let said = refused(&place("s"), &["--dev", "up0", "--addr", "10.78.0.1/24"]);
        for words in [
            "address 10.78.0.1 is in use on up0",
            "station 02:00:00:78:03:02 has it",
            "choose another one",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!place("s").exists() && !place("s.driver").exists());
        let heard = arps(&mut wire);
        let unknown = Ipv4Addr::UNSPECIFIED;
        assert!(
            !heard.is_empty() && heard.iter().all(|&(sender, _)| sender == unknown),
            "{heard:?}"
        );

        let other = ["--dev", "up0", "--addr", "10.78.0.3/24"];
        Running::start(&place("s"), &other).end();
    });
}

#[test]
fn an_address_that_somebody_takes_later_is_defended_said_and_counted() {
    const NAME: &str = "an_address_that_somebody_takes_later_is_defended_said_and_counted";
    in_lab(NAME, &[], || {
        interface("up0", "up1");
        let netlink = Netlink::open().unwrap();
        let up0 = netlink.interface("up0").unwrap().index;
        let socket = place("s");
        let arguments = ["--dev", "up0", "--addr", "10.78.0.1/24"];
        let mut running = Running::start(&socket, &arguments);
        let conflicts = || Host::connect(&socket).unwrap().query_status().unwrap().conflicts;
        assert_eq!(conflicts(), 0);

        let mut wire = PacketLink::open("up1", None).unwrap();
        let (us, usurper) = (netlink.interface("up0").unwrap().mac, Mac([2, 0, 0, 0x78, 0, 9]));
        let ours = Ipv4Addr::new(10, 78, 0, 1);
        arps(&mut wire);
        let claim = Arp::request(usurper, ours, ours);
        let to_all =
            Ethernet { destination: Mac::BROADCAST, source: usurper, ether_type: EtherType::ARP };
        for _ in 0..2 {
            send_raw(&mut wire, &[to_all.as_bytes(), claim.as_bytes()].concat());
        }
        let said = running.hear("claims our address 10.78.0.1 on up0");
        assert!(said.contains("02:00:00:78:00:09"), "{said}");
        running.hear("it is kept, and defended once in 10 s");
        let mut heard = Vec::new();
        eventually("it is defended", || {
            heard.extend(arps(&mut wire));
            heard.contains(&(ours, us))
        });
        assert_eq!(conflicts(), 2);

        let prefix = "10.78.0.1/32".parse().unwrap();
        netlink.add_address(up0, prefix).unwrap();
        let said = running.hear("the kernel has taken our address 10.78.0.1 on up0");
        assert!(said.contains("ip address del 10.78.0.1/32 dev up0"), "{said}");
        assert_eq!(conflicts(), 3);
        let doctor = Command::new(program()).args(["doctor", "--socket"]).arg(&socket).output();
        let said = String::from_utf8(doctor.unwrap().stdout).unwrap();
        assert!(said.contains("3 times somebody else had an address of ours"), "{said}");
        running.end();

        let said = refused(&socket, &arguments);
        assert!(said.contains("the kernel owns 10.78.0.1 on up0"), "{said}");
        // It answers for its addresses on every interface.
        let lo = netlink.interface("lo").unwrap().index;
        netlink.add_address(lo, "10.78.0.4/32".parse().unwrap()).unwrap();
        let said = refused(&socket, &["--dev", "up0", "--addr", "10.78.0.4/24"]);
        assert!(said.contains("ip address del 10.78.0.4/32 dev lo"), "{said}");
        assert!(!socket.exists() && !place("s.driver").exists());
    });
}
