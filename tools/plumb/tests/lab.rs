//! Applications with their own stacks against a Linux kernel.

mod in_lab;

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use base_flow::Stray;
use base_wire::{EtherType, Ethernet, Ipv4, Mac, Protocol};
use driver_link::{Arrival, Checksum, Link};
use driver_link_packet::PacketLink;
use driver_netlink::Netlink;
use in_lab::{
    Account, OURS, THEIRS, eventually, host, in_lab, kernel_socket, on_peer, processes, program,
};
use plumb_net::{Contract, DropReason, Refusal, Udp, Wait};
use rustix::process::{Pid, Signal, kill_process};
use zerocopy::IntoBytes;

#[test]
fn datagrams_of_every_size_go_there_and_come_back() {
    in_lab("datagrams_of_every_size_go_there_and_come_back", &[], || {
        let kernel = kernel_socket(7000);
        kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ours = Udp::options().host(&host()).connect((THEIRS, 7000)).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(5)));
        let mut buffer = [0; 2000];
        for bytes in [0, 1, 2, 17, 18, 19, 511, 512, 1000, 1471, 1472] {
            let sent: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
            assert_eq!(ours.send(&sent).unwrap(), bytes);
            let (received, from) = kernel.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..received], sent, "{bytes} bytes there");
            kernel.send_to(&sent, from).unwrap();
            let received = ours.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..received], sent, "{bytes} bytes back");
        }
        let too_long = ours.send(&[0; 1473]).unwrap_err();
        assert_eq!(too_long.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()));
        assert_eq!(ours.errors(), (0, 0));
    });
}

#[test]
fn a_socket_that_never_sleeps_still_knows_when_its_time_is_up() {
    in_lab("a_socket_that_never_sleeps_still_knows_when_its_time_is_up", &[], || {
        let ours = Udp::options().host(&host()).wait(Wait::Spin).connect((THEIRS, 7002)).unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(50)));
        assert_eq!(ours.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_bound_socket_talks_to_everybody() {
    in_lab("a_bound_socket_talks_to_everybody", &[], || {
        let ours = Udp::options().host(&host()).bind(("0.0.0.0", 7001)).unwrap();
        let (a, b) = (kernel_socket(8001), kernel_socket(8002));
        let mut buffer = [0; 100];
        for kernel in [&a, &b] {
            kernel.send_to(b"who are you?", (OURS, 7001)).unwrap();
            let (bytes, from) = ours.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..bytes], from),
                (&b"who are you?"[..], kernel.local_addr().unwrap())
            );
            ours.send_to(b"plumb", from).unwrap();
            let (bytes, from) = kernel.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..bytes], from), (&b"plumb"[..], SocketAddr::from((OURS, 7001))));
        }
        ours.connect(a.local_addr().unwrap()).unwrap();
        ours.send(b"only you").unwrap();
        assert_eq!(a.recv(&mut buffer).unwrap(), 8);
        b.send_to(b"and me?", (OURS, 7001)).unwrap();
        a.send_to(b"yes", (OURS, 7001)).unwrap();
        assert_eq!(ours.recv(&mut buffer).unwrap(), 3, "a connected socket hears only its peer");
    });
}

#[test]
fn two_applications_of_this_host_talk_without_the_wire() {
    in_lab("two_applications_of_this_host_talk_without_the_wire", &[], || {
        let host = host();
        let server = Udp::options().host(&host).bind((OURS, 7002)).unwrap();
        let client = Udp::options().host(&host).connect((OURS, 7002)).unwrap();
        client.send(b"hello").unwrap();
        let mut buffer = [0; 100];
        let (bytes, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from), (&b"hello"[..], client.local_addr()));
        server.send_to(b"hello yourself", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 14);
        assert_eq!(client.close().unwrap().tx_local_frames, 1);
    });
}

#[test]
fn what_nobody_owns_is_answered_as_hosts_do() {
    in_lab("what_nobody_owns_is_answered_as_hosts_do", &[], || {
        on_peer(|| {
            let refused =
                TcpStream::connect_timeout(&SocketAddr::from((OURS, 9999)), Duration::from_secs(5));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "a reset");
            let udp = UdpSocket::bind((THEIRS, 0)).unwrap();
            udp.connect((OURS, 9999)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            udp.send(b"anybody?").unwrap();
            let error = udp.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "port unreachable");
        });
        let status = host().query_status().unwrap();
        assert!(
            status.resets_sent >= 1 && status.unreachable_sent == 1 && status.arp_answered >= 1,
            "{status:?}"
        );
    });
}

#[test]
fn frames_in_our_own_name_or_to_everybody_reach_nobody() {
    in_lab("frames_in_our_own_name_or_to_everybody_reach_nobody", &[], || {
        let host = host();
        let echo = Udp::options().host(&host).bind((OURS, 7007)).unwrap();
        let wire = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let ours = Netlink::open().unwrap().interface("plumb0").unwrap().mac;
        let send = |to: Mac, from: Ipv4Addr| {
            let bytes = 8 + 4;
            let ethernet = Ethernet {
                destination: to,
                source: wire.facts().station,
                ether_type: EtherType::IPV4,
            };
            let ip = Ipv4::new(from, OURS, Protocol::UDP, bytes);
            // From the port of the echo server, without a checksum.
            let udp = [7007_u16.to_be_bytes(), 7007_u16.to_be_bytes(), bytes.to_be_bytes(), [0; 2]];
            let frame = [ethernet.as_bytes(), ip.as_bytes(), &udp.concat(), b"echo"].concat();
            let checksum = Checksum::Unverified;
            let frame = &frame[..];
            let arrival = Arrival { frame, vlan: None, checksum, merged: None, missing: 0 };
            wire.forward(&arrival).unwrap();
        };
        send(ours, OURS);
        send(ours, Ipv4Addr::LOCALHOST);
        send(Mac::BROADCAST, THEIRS);
        send(ours, THEIRS);
        let mut buffer = [0; 10];
        let (bytes, from) = echo.recv_from(&mut buffer).unwrap();
        assert_eq!((bytes, from), (4, SocketAddr::from((THEIRS, 7007))), "the last one only");
        let bill = &host.query_links().unwrap()[0].bill;
        let dropped = [DropReason::BadSource, DropReason::SentToMany].map(|it| bill.dropped(it));
        assert_eq!(dropped, [2, 1]);
    });
}

#[test]
fn refusals_say_what_would_be_possible() {
    in_lab("refusals_say_what_would_be_possible", &[], || {
        let host = host();
        let options = || Udp::options().host(&host);
        let ms = |slice: u64, period: u64| {
            Contract::guaranteed(slice * 1_000_000, period * 1_000_000).unwrap()
        };
        let _most = options().contract(ms(90, 100)).bind((OURS, 7100)).unwrap();
        let refusal = |result: Result<Udp, plumb_net::Error>| match result {
            Err(plumb_net::Error::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        let over = refusal(options().contract(ms(20, 100)).bind((OURS, 7101)));
        let Refusal::OverAllocation { offer, .. } = over else { panic!("{over}") };
        assert_eq!(offer, Some(ms(5, 100)));
        let short = Contract::guaranteed(10_000, 1_000_000).unwrap();
        let short = refusal(options().contract(short).bind((OURS, 7101)));
        let Refusal::SliceTooShort { offer: Some(counter), .. } = short else { panic!("{short}") };
        options().contract(counter).bind((OURS, 7101)).unwrap();
        assert!(matches!(refusal(options().bind((OURS, 7100))), Refusal::InUse { .. }));
        assert!(matches!(
            refusal(options().bind(("10.77.0.9", 7102))),
            Refusal::NotOurAddress { .. }
        ));
        assert!(matches!(refusal(options().connect("192.0.2.1:9")), Refusal::NoRoute { .. }));
        assert!(matches!(refusal(options().connect("10.77.0.99:9")), Refusal::Unreachable { .. }));
        assert!(matches!(refusal(options().bind("[::]:7103")), Refusal::Unsupported(_)));
        eventually("refusals have left nothing behind", || {
            let status = host.query_status().unwrap();
            (status.flows as usize, status.ports) == (Stray::COUNT + 1, 1)
        });
    });
}

#[test]
fn an_application_that_does_not_read_loses_only_its_own_frames_and_all_are_counted() {
    in_lab(
        "an_application_that_does_not_read_loses_only_its_own_frames_and_all_are_counted",
        &[],
        || {
            let host = host();
            let deaf = Udp::options().host(&host).receive_buffers(16).bind((OURS, 7200)).unwrap();
            let good = Udp::options().host(&host).receive_buffers(512).bind((OURS, 7201)).unwrap();
            let kernel = kernel_socket(8200);
            const COUNT: u64 = 2_000;
            let mut buffer = [0; 100];
            for number in 0..COUNT {
                kernel.send_to(b"to the deaf one", (OURS, 7200)).unwrap();
                kernel.send_to(&number.to_be_bytes(), (OURS, 7201)).unwrap();
                assert_eq!(good.recv(&mut buffer).unwrap(), 8);
                assert_eq!(buffer[..8], number.to_be_bytes(), "in order, none lost");
            }
            deaf.set_nonblocking(true);
            let mut delivered = 0;
            while deaf.recv(&mut buffer).is_ok() {
                delivered += 1;
            }
            let bill = deaf.close().unwrap();
            assert_eq!(delivered, 16, "as many as it had buffers for");
            assert_eq!((bill.rx_offered, bill.rx_frames), (COUNT, delivered));
            assert_eq!(bill.dropped(DropReason::NoFreeBuffer), COUNT - delivered);
            assert_eq!(good.close().unwrap().dropped_total(), 0);
        },
    );
}

#[test]
fn flows_go_on_without_the_flow_manager() {
    in_lab("flows_go_on_without_the_flow_manager", &[], || {
        let kernel = kernel_socket(7300);
        let host = host();
        let ours = Udp::options().host(&host).connect((THEIRS, 7300)).unwrap();
        let mut buffer = [0; 100];
        let mut echo = || {
            ours.send(b"still there?").unwrap();
            let (bytes, from) = kernel.recv_from(&mut buffer).unwrap();
            kernel.send_to(&buffer[..bytes], from).unwrap();
            assert_eq!(ours.recv(&mut buffer).unwrap(), 12);
        };
        echo();
        let manager = rustix::process::Pid::from_raw(processes()["flowman"] as i32).unwrap();
        rustix::process::kill_process(manager, rustix::process::Signal::KILL).unwrap();
        eventually("the flow manager is gone", || host.query_status().is_err());
        for _ in 0..100 {
            echo();
        }
    });
}

#[test]
fn the_kernel_and_plumb_ping_each_other() {
    in_lab("the_kernel_and_plumb_ping_each_other", &["--rate", "1gbit"], || {
        let output = Command::new(program())
            .args(["ping", "-c", "20", "-i", "5ms", "--json", "10.77.0.2"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("\"answered\":20"), "{text}");
        // More than are on their way at a time wait for each other.
        let flood = ["ping", "-c", "500", "-i", "0s", "--json", "10.77.0.2"];
        let output = Command::new(program()).args(flood).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("\"sent\":500"), "{text}");
        let lost =
            Command::new(program()).args(["ping", "-c", "1", "10.77.0.77"]).output().unwrap();
        assert!(!lost.status.success());
        assert!(String::from_utf8_lossy(&lost.stderr).contains("does not answer"), "{lost:?}");
    });
}

#[test]
fn a_labs_exit_status_is_the_commands_and_nothing_is_left() {
    let run = |command: &str| {
        Command::new(program()).args(["lab", "--", "sh", "-c", command]).output().unwrap()
    };
    assert_eq!(run("exit 7").status.code(), Some(7));
    let output =
        run("echo $PPID; echo $PLUMB_SOCKET; sleep 1000 & (setsid sleep 1000 &) ; kill -9 $$");
    assert_eq!(output.status.code(), Some(128 + 9));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let (lab, socket) = (lines.next().unwrap(), lines.next().unwrap());
    assert!(!std::path::Path::new(socket).exists(), "the folder is gone");
    let ours = |pid: &std::fs::DirEntry| {
        let environment = std::fs::read(pid.path().join("environ")).unwrap_or_default();
        environment.windows(socket.len()).any(|window| window == socket.as_bytes())
    };
    let left: Vec<_> = std::fs::read_dir("/proc").unwrap().flatten().filter(ours).collect();
    assert!(left.is_empty(), "processes of lab {lab} are left: {left:?}");
}

#[test]
fn a_lab_that_is_told_to_end_ends_what_runs_in_it_and_says_nothing_of_its_daemons() {
    for (signal, command, code) in [
        (Signal::TERM, "trap 'exit 3' TERM; echo ready; sleep 20 & wait", 3),
        (Signal::HUP, "trap 'exit 4' HUP; echo ready; sleep 20 & wait", 4),
        (Signal::TERM, "trap '' TERM; echo ready; sleep 20", 128 + 9),
    ] {
        let mut lab = Command::new(program())
            .args(["lab", "--", "sh", "-c", command])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        lab.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        kill_process(Pid::from_child(&lab), signal).unwrap();
        let output = lab.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*said), (Some(code), ""), "{command}");
    }
}

#[test]
fn the_daemons_serve_without_privileges() {
    in_lab("the_daemons_serve_without_privileges", &[], || {
        let processes = processes();
        for name in ["driver", "flowman"] {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", processes[name])).unwrap();
            let field = |field: &str| {
                status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_string()
            };
            assert_eq!(u64::from_str_radix(&field("CapEff:"), 16), Ok(0), "{name}");
            assert_eq!(u64::from_str_radix(&field("CapPrm:"), 16), Ok(0), "{name}");
            assert_eq!(
                (field("NoNewPrivs:"), field("Seccomp:")),
                ("1".into(), "2".into()),
                "{name}"
            );
        }
    });
}

#[test]
fn nc_carries_standard_input_there_and_what_comes_back_to_standard_output() {
    in_lab("nc_carries_standard_input_there_and_what_comes_back_to_standard_output", &[], || {
        use std::io::Write;
        let kernel = kernel_socket(7400);
        let mut nc = Command::new(program())
            .args(["nc", "-u", "10.77.0.2:7400"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        nc.stdin.take().unwrap().write_all(b"a question\n").unwrap();
        let mut buffer = [0; 100];
        let (bytes, from) = kernel.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"a question\n");
        kernel.send_to(b"an answer\n", from).unwrap();
        let output = nc.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"an answer\n");
    });
}

#[test]
fn up_refuses_what_it_cannot_use_and_names_what_would_do() {
    in_lab("up_refuses_what_it_cannot_use_and_names_what_would_do", &[], || {
        let up = |arguments: &[&str]| {
            let output = Command::new(program()).arg("up").args(arguments).output().unwrap();
            assert!(!output.status.success());
            String::from_utf8(output.stderr).unwrap()
        };
        assert!(up(&[]).contains("--config"), "what would do");
        assert!(
            up(&["--dev", "lo", "--addr", "10.79.0.255/24"]).contains("link lo: 10.79.0.255 is")
        );
        assert!(up(&["--dev", "nosuch0", "--addr", "10.0.0.1/8"]).contains("nosuch0"));
        assert!(
            up(&["--dev", "lo", "--addr", "10.0.0.1"]).contains("10.77.0.1/24"),
            "what an address looks like"
        );
        assert!(up(&["--config", "/nonexistent.toml"]).contains("/nonexistent.toml"));
    });
}

#[test]
fn a_contract_changed_from_outside_is_what_the_flow_gets_and_what_top_shows() {
    in_lab("a_contract_changed_from_outside_is_what_the_flow_gets_and_what_top_shows", &[], || {
        let _kernel = kernel_socket(7100);
        let contract = Contract::guaranteed(4_000_000, 100_000_000).unwrap();
        let host = host();
        // Enough for several seconds: it always has something to send.
        let options = Udp::options().host(&host).contract(contract).send_buffers(16_384);
        let ours = options.connect((THEIRS, 7100)).unwrap();
        let flow = ours.flow_id().to_string();
        let set = |slice: &str| {
            let slice = ["--slice", slice, "--period", "100ms"];
            Command::new(program()).args(["flows", "set", &flow]).args(slice).output().unwrap()
        };
        assert!(set("30ms").status.success());
        eventually("the owner hears of it", || {
            ours.send(b"x").unwrap();
            ours.contract().slice_ns == 30_000_000
        });
        let refused = set("96ms");
        assert!(!refused.status.success());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        let would = "--slice 95ms --period 100ms would be admitted";
        assert!(said.contains(would), "says what would be admitted: {said}");
        // As fast as it can, for as long as it takes to look.
        let sending = std::sync::atomic::AtomicBool::new(true);
        let (top, used_ns) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while sending.load(std::sync::atomic::Ordering::Relaxed) {
                    ours.send(&[0; 1472]).unwrap();
                }
            });
            let account = || Account::of(&host, ours.flow_id());
            eventually("the new period has begun", || account().wire_ns() > 90_000_000);
            let before = account();
            let top = Command::new(program()).args(["top", "--json"]).output().unwrap();
            let after = account();
            before.assert_kept(&after, &ours.contract());
            sending.store(false, std::sync::atomic::Ordering::Relaxed);
            (top, after.wire_ns() - before.wire_ns())
        });
        assert!(top.status.success());
        let report: serde_json::Value = serde_json::from_slice(&top.stdout).unwrap();
        let rows = report["flows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["flow"] == flow.as_str()).unwrap();
        assert_eq!(
            (&row["promised_mbit"], &row["contract"]),
            (&30.0.into(), &"30ms in 100ms".into())
        );
        assert_eq!(row["pid"], std::process::id());
        let seconds = report["seconds"].as_f64().unwrap();
        let shown_ns = row["sent_mbit"].as_f64().unwrap() * seconds / 100.0 * 1e9;
        // What was looked at lies between our own looks.
        assert!(shown_ns > 0.0 && shown_ns <= used_ns as f64 * 1.001, "{shown_ns} of {used_ns} ns");
    });
}
