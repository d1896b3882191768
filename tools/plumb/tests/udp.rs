//! UDP sockets in a lab: what `std::net::UdpSocket` would do, beside a Linux kernel.

mod in_lab;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use driver_link_packet::PacketLink;
use in_lab::{OURS, THEIRS, eventually, host, in_lab, kernel_socket, on_peer, processes, send_raw};
use plumb_net::{ControlError, DropReason, FlowInfo, Udp};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

const LONG: Duration = Duration::from_secs(20);
const RATE: [&str; 2] = ["--rate", "4mbit"];

/// How a process of a test is to end; unset in the test itself.
const END: &str = "PLUMB_TEST_END";

/// Runs the test `name` once more, as a process that ends in the way `end`.
fn process(name: &str, end: &str) -> std::process::ExitStatus {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(END, end);
    command.status().unwrap()
}

#[test]
fn every_datagram_that_a_call_accepted_leaves_however_its_process_ends() {
    let name = "every_datagram_that_a_call_accepted_leaves_however_its_process_ends";
    in_lab(name, &RATE, || {
        if let Ok(end) = std::env::var(END) {
            let socket = Udp::bind("0.0.0.0:0").unwrap();
            for number in 0..100u8 {
                let sent = socket.send_to(&[number; 500], (THEIRS, 5600));
                assert_eq!(sent.unwrap(), 500);
            }
            match end.as_str() {
                "close" => drop(socket.close()),
                "drop" => drop(socket),
                "exit" => std::process::exit(0),
                _ => std::process::abort(),
            }
            return;
        }
        let peer = kernel_socket(5600);
        peer.set_read_timeout(Some(LONG)).unwrap();
        for end in ["close", "drop", "exit", "abort"] {
            let status = process(name, end);
            assert_eq!(status.success(), end != "abort", "{end}: {status}");
            for number in 0..100u8 {
                let mut datagram = [0; 600];
                let (bytes, _) = peer.recv_from(&mut datagram).unwrap();
                assert_eq!((bytes, datagram[0]), (500, number), "after {end}");
            }
        }
    });
}

fn options() -> plumb_net::Options {
    Udp::options().host(&host())
}

/// The next error of a call that is made again and again, and what was done otherwise.
fn error_of(mut call: impl FnMut() -> std::io::Result<usize>) -> std::io::Error {
    let mut error = None;
    eventually("a call fails", || {
        error = call().err();
        error.is_some()
    });
    error.unwrap()
}

#[test]
fn a_connected_socket_is_told_that_nobody_listens_by_whichever_call_is_next() {
    let name = "a_connected_socket_is_told_that_nobody_listens_by_whichever_call_is_next";
    in_lab(name, &RATE, || {
        let ours = options().connect((THEIRS, 9)).unwrap();
        ours.set_read_timeout(Some(LONG));
        ours.send(b"is anybody there?").unwrap();
        assert_eq!(ours.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ours.errors(), (0, 0), "that was no damaged packet");
        // A program that only sends hears of it, too, and the next call succeeds.
        let error = error_of(|| ours.send(b"nor there?"));
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        ours.set_nonblocking(true);
        eventually("it is told once for each", || {
            let error = ours.take_error().unwrap();
            error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
                || ours.send(b"x").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    });
}

#[test]
fn a_socket_that_is_not_connected_goes_on_and_can_ask_what_became_of_its_datagrams() {
    let name = "a_socket_that_is_not_connected_goes_on_and_can_ask_what_became_of_its_datagrams";
    in_lab(name, &RATE, || {
        let (ours, kernel) = (options().bind(("0.0.0.0", 0)).unwrap(), kernel_socket(7000));
        ours.send_to(b"nobody", (THEIRS, 9)).unwrap();
        let mut control = None;
        eventually("the peer says so", || {
            control = ours.take_control().unwrap();
            control.is_some()
        });
        let control = control.unwrap();
        assert_eq!((control.to, control.from), ((THEIRS, 9).into(), THEIRS.into()));
        assert_eq!(control.error, ControlError::PortUnreachable);
        for _ in 0..3 {
            ours.send_to(b"nobody", (THEIRS, 9)).unwrap();
            ours.send_to(b"somebody", (THEIRS, 7000)).unwrap();
            assert_eq!(kernel.recv(&mut [0; 100]).unwrap(), 8);
        }
    });
}

/// A control message of the peer about a datagram of ours between these ports.
fn router_says(
    link: &mut PacketLink,
    (kind, code, mtu): (u8, u8, u16),
    ports: (u16, u16),
    bytes: u16,
) {
    let mut quote = Vec::new();
    etherparse::PacketBuilder::ipv4(OURS.octets(), THEIRS.octets(), 60)
        .udp(ports.0, ports.1)
        .write(&mut quote, &vec![7; usize::from(bytes) - 28])
        .unwrap();
    quote.truncate(28);
    let mut icmp = vec![kind, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quote);
    let sum = base_wire::checksum::finish(base_wire::checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    let station = host().query_links().unwrap()[0].facts.mac;
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 77], station.0)
        .ipv4([10, 77, 0, 254], OURS.octets(), 64)
        .write(&mut frame, etherparse::IpNumber::ICMP, &icmp)
        .unwrap();
    send_raw(link, &frame);
}

#[test]
fn a_path_that_carries_less_is_remembered_and_a_datagram_too_long_for_it_refused() {
    let name = "a_path_that_carries_less_is_remembered_and_a_datagram_too_long_for_it_refused";
    in_lab(name, &RATE, || {
        let mut link = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let kernel = kernel_socket(7000);
        let ours = options().connect((THEIRS, 7000)).unwrap();
        let local = ours.local_addr().port();
        ours.send(&[7; 1472]).unwrap();
        // About what was not sent here: nothing comes of it.
        router_says(&mut link, (3, 4, 600), (local + 1, 7000), 1500);
        router_says(&mut link, (3, 4, 600), (local, 7001), 1500);
        router_says(&mut link, (3, 4, 600), (local, 7000), 600);
        router_says(&mut link, (3, 4, 1400), (local, 7000), 1500);
        let error = error_of(|| ours.send(&[7; 100]));
        assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
        assert_eq!(ours.path_mtu((THEIRS, 7000)).unwrap(), 1400);
        assert_eq!(ours.payload_bytes_max(), 1372);
        let error = ours.send(&[7; 1373]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
        ours.send(&[8; 1372]).unwrap();
        let mut datagram = [0; 2000];
        while kernel.recv(&mut datagram).unwrap() != 1372 {}
        // What may pass is no error of a connected socket, and can be asked for.
        while ours.take_control().unwrap().is_some() {}
        let all = [
            ((3, 1), ControlError::HostUnreachable),
            ((11, 0), ControlError::TimeExceeded),
            ((3, 9), ControlError::NetworkProhibited),
        ];
        all.iter().for_each(|&((kind, code), _)| {
            router_says(&mut link, (kind, code, 0), (local, 7000), 100);
        });
        let error = ours.recv(&mut datagram).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "of those, the hard one");
        for (_, said) in all {
            assert_eq!(ours.take_control().unwrap().unwrap().error, said);
        }
    });
}

#[test]
fn what_one_socket_hears_of_a_path_the_next_socket_and_connection_begin_with() {
    let name = "what_one_socket_hears_of_a_path_the_next_socket_and_connection_begin_with";
    in_lab(name, &RATE, || {
        let mut link = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let kernel = on_peer(|| std::net::TcpListener::bind((THEIRS, 7000)).unwrap());
        let first = options().bind(("0.0.0.0", 0)).unwrap();
        let local = first.local_addr().port();
        first.send_to(&[7; 1472], (THEIRS, 7000)).unwrap();
        router_says(&mut link, (3, 4, 1400), (local, 7000), 1500);
        // It hears, too, that nobody listens.
        eventually("the first has heard it", || {
            let said = first.take_control().unwrap();
            said.is_some_and(|said| said.error == ControlError::TooLarge { mtu: 1400 })
        });
        let is_too_long =
            |error: std::io::Error| error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error());
        let too_long = |result: std::io::Result<usize>| is_too_long(result.unwrap_err());
        assert!(too_long(first.send_to(&[7; 1373], (THEIRS, 7000))), "it does as it has heard");
        let connected = options().connect((THEIRS, 7000)).unwrap();
        assert_eq!(connected.payload_bytes_max(), 1372);
        assert!(too_long(connected.send(&[7; 1373])));
        let later = options().bind(("0.0.0.0", 0)).unwrap();
        later.connect((THEIRS, 7000)).unwrap();
        // What it sends before it has heard of the way is accepted.
        eventually("it has heard of the path", || {
            later
                .send(&[7; 1373])
                .is_err_and(|error| error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()))
        });
        let bound = options().bind(("0.0.0.0", 0)).unwrap();
        assert!(too_long(bound.send_to(&[7; 1373], (THEIRS, 7000))));
        assert_eq!(bound.path_mtu((THEIRS, 7000)).unwrap(), 1400);
        let stream = options().connect_tcp((THEIRS, 7000)).unwrap();
        kernel.accept().unwrap();
        assert_eq!(stream.info().mtu, 1400);
    });
}

#[test]
fn a_neighbour_that_is_switched_off_holds_up_what_is_for_it_and_nothing_else() {
    in_lab(
        "a_neighbour_that_is_switched_off_holds_up_what_is_for_it_and_nothing_else",
        &RATE,
        || {
            let (ours, kernel) = (options().bind(("0.0.0.0", 0)).unwrap(), kernel_socket(7000));
            kernel.set_read_timeout(Some(LONG)).unwrap();
            for (host, nonblocking) in [(98, true), (99, false)] {
                let absent = SocketAddr::from(([10, 77, 0, host], 7000));
                ours.set_nonblocking(nonblocking);
                ours.send_to(b"absent", absent).unwrap();
                ours.send_to(b"present", (THEIRS, 7000)).unwrap();
                assert_eq!(kernel.recv(&mut [0; 100]).unwrap(), 7);
                assert_eq!(ours.take_control().unwrap(), None, "it is still being asked for");
                let mut control = None;
                eventually("it is known to be absent", || {
                    control = ours.take_control().unwrap();
                    control.is_some()
                });
                let control = control.unwrap();
                assert_eq!((control.to, control.error), (absent, ControlError::HostUnreachable));
                let error = ours.send_to(b"absent", absent).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::HostUnreachable);
            }
            // Nowhere is refused at once to who may wait, and told to who may not.
            let nowhere = SocketAddr::from(([203, 0, 113, 9], 7000));
            let error = ours.send_to(b"nowhere", nowhere).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
        },
    );
}

/// What the kernel's socket gets next, as numbers.
fn next_of(kernel: &std::net::UdpSocket) -> u8 {
    let mut datagram = [0; 100];
    assert_eq!(kernel.recv(&mut datagram).unwrap(), 1);
    datagram[0]
}

#[test]
fn connecting_waits_for_no_neighbour_and_one_that_fails_leaves_the_socket_as_it_was() {
    let name = "connecting_waits_for_no_neighbour_and_one_that_fails_leaves_the_socket_as_it_was";
    in_lab(name, &RATE, || {
        let (kernel, other) = (kernel_socket(7000), kernel_socket(7001));
        for socket in [&kernel, &other] {
            socket.set_read_timeout(Some(LONG)).unwrap();
        }
        let (absent, present) = ([10, 77, 0, 99].into(), SocketAddr::from((THEIRS, 7000)));
        let absent = SocketAddr::new(absent, 7000);
        for nonblocking in [true, false] {
            let ours = options().bind(("0.0.0.0", 0)).unwrap();
            let at = (OURS, ours.local_addr().port());
            ours.set_nonblocking(nonblocking);
            ours.set_read_timeout(Some(LONG));
            if nonblocking {
                ours.connect(absent).unwrap();
                assert_eq!(ours.take_control().unwrap(), None, "it is not asked for yet");
                ours.send(&[0]).unwrap();
                assert_eq!(ours.take_control().unwrap(), None, "it is still being asked for");
                // Others are served meanwhile, and the next call says what became of it.
                assert!(ours.send_to(&[0], present).is_err(), "it is connected to another");
                let unreachable = |error: std::io::Error| {
                    assert!(matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::HostUnreachable
                    ));
                    error.kind() == ErrorKind::HostUnreachable
                };
                eventually("a call says so", || ours.send(&[0]).is_err_and(unreachable));
            } else {
                let nowhere = SocketAddr::from(([203, 0, 113, 9], 7000));
                let error = std::io::Error::from(ours.connect(nowhere).unwrap_err());
                assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
                assert!(ours.peer_addr().is_err(), "it is as it was");
                ours.send_to(&[1], present).unwrap();
                assert_eq!(next_of(&kernel), 1);
            }
            ours.connect(present).unwrap();
            assert_eq!(ours.peer_addr().unwrap(), present);
            ours.send(&[2]).unwrap();
            assert_eq!(next_of(&kernel), 2);
            // From others it takes nothing.
            other.send_to(&[3], at).unwrap();
            kernel.send_to(&[4], at).unwrap();
            let mut datagram = [0; 100];
            let mut heard = None;
            eventually("the one it is connected to is heard", || {
                heard = ours.recv_from(&mut datagram).ok();
                heard.is_some()
            });
            assert_eq!((heard.unwrap(), datagram[0]), ((1, present), 4));
            // Nor is a buffer to write in anybody else's.
            let mut buffer = None;
            eventually("one is free", || {
                buffer = ours.buffer().ok();
                buffer.is_some()
            });
            let mut buffer = buffer.unwrap();
            assert!(buffer.write(&[5]));
            buffer.send().unwrap();
            assert_eq!(next_of(&kernel), 5);
        }
    });
}

#[test]
fn a_socket_that_does_not_wait_connects_while_the_flow_manager_stands() {
    let name = "a_socket_that_does_not_wait_connects_while_the_flow_manager_stands";
    in_lab(name, &RATE, || {
        let kernel = kernel_socket(7000);
        kernel.set_read_timeout(Some(LONG)).unwrap();
        let ours = options().bind(("0.0.0.0", 0)).unwrap();
        ours.set_nonblocking(true);
        let flowman = Pid::from_raw(processes()["flowman"] as i32).unwrap();
        kill_process(flowman, Signal::STOP).unwrap();
        let connected = ours.connect((THEIRS, 7000));
        let sent = ours.send(&[7]);
        kill_process(flowman, Signal::CONT).unwrap();
        connected.unwrap();
        assert_eq!(sent.unwrap(), 1);
        assert_eq!(next_of(&kernel), 7);
    });
}

/// What the flow manager says of a socket's flow.
fn flow_of(socket: &Udp) -> FlowInfo {
    let flows = host().query_flows().unwrap();
    flows.into_iter().find(|info| info.flow == socket.flow_id()).unwrap()
}

/// The next datagram, of a socket that may not wait.
fn heard(socket: &Udp) -> (u8, SocketAddr) {
    let (mut datagram, mut heard) = ([0; 100], None);
    eventually("something is heard", || {
        heard = socket.recv_from(&mut datagram).ok();
        heard.is_some()
    });
    (datagram[0], heard.unwrap().1)
}

#[test]
fn a_connected_socket_gets_nothing_from_strangers_and_is_told_what_it_threw_away_itself() {
    let name =
        "a_connected_socket_gets_nothing_from_strangers_and_is_told_what_it_threw_away_itself";
    in_lab(name, &RATE, || {
        let (kernel, other) = (kernel_socket(7000), kernel_socket(7001));
        let [present, stranger] = [7000, 7001].map(|port| SocketAddr::from((THEIRS, port)));
        let ours = options().bind(("0.0.0.0", 0)).unwrap();
        let at = (OURS, ours.local_addr().port());
        other.send_to(&[0], at).unwrap();
        assert_eq!(ours.recv_from(&mut [0; 10]).unwrap(), (1, stranger));
        ours.set_nonblocking(true);
        // Nobody can be told yet.
        let flowman = Pid::from_raw(processes()["flowman"] as i32).unwrap();
        kill_process(flowman, Signal::STOP).unwrap();
        ours.connect(present).unwrap();
        for _ in 0..3 {
            other.send_to(&[1], at).unwrap();
        }
        kernel.send_to(&[2], at).unwrap();
        assert_eq!(heard(&ours), (2, present));
        kill_process(flowman, Signal::CONT).unwrap();
        eventually("the driver knows", || {
            flow_of(&ours).endpoints.is_some_and(|ends| ends.remote == Some(present.into()))
        });
        eventually("this side knows", || {
            let _ = ours.recv(&mut [0]);
            ours.local_addr() == SocketAddr::from(at)
        });
        let drops = || flow_of(&ours).bill.unwrap().drops;
        eventually("what was thrown away is told", || drops() == [(DropReason::Stranger, 3)]);
        let before = flow_of(&ours).bill.unwrap().rx_frames;
        assert_eq!(before, 5);
        let unreachable = || host().query_status().unwrap().unreachable_sent;
        let said = unreachable();
        other.send_to(&[3], at).unwrap();
        kernel.send_to(&[4], at).unwrap();
        assert_eq!(heard(&ours), (4, present));
        eventually("the stranger hears that nobody is there", || unreachable() > said);
        let bill = flow_of(&ours).bill.unwrap();
        assert_eq!((bill.rx_frames, bill.dropped(DropReason::Stranger)), (before + 1, 3));
        // Connected to nobody, it hears everybody, and sends to everybody.
        ours.disconnect().unwrap();
        assert!(ours.peer_addr().is_err());
        eventually("a stranger is heard", || {
            other.send_to(&[5], at).unwrap();
            ours.recv_from(&mut [0; 10]).is_ok_and(|(_, from)| from == stranger)
        });
        ours.send_to(&[6], stranger).unwrap();
        assert_eq!(next_of(&other), 6);
        assert_eq!(ours.close().unwrap().dropped(DropReason::Stranger), 3);
    });
}

#[test]
fn a_socket_connects_to_one_host_after_another_and_to_nobody_however_it_was_opened() {
    let name = "a_socket_connects_to_one_host_after_another_and_to_nobody_however_it_was_opened";
    in_lab(name, &RATE, || {
        let kernels = [7000, 7001].map(kernel_socket);
        let theirs = [7000, 7001].map(|port| SocketAddr::from((THEIRS, port)));
        for kernel in &kernels {
            kernel.set_read_timeout(Some(LONG)).unwrap();
        }
        let absent = SocketAddr::from(([10, 77, 0, 99], 7000));
        for (connected, nonblocking) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let ours = match connected {
                true => options().connect(theirs[1]).unwrap(),
                false => options().bind(("0.0.0.0", 0)).unwrap(),
            };
            let port = ours.local_addr().port();
            ours.set_nonblocking(nonblocking);
            ours.set_read_timeout(Some(LONG));
            for round in 0..20u8 {
                let to = usize::from(round % 2);
                ours.connect(theirs[to]).unwrap();
                assert_eq!(ours.peer_addr().unwrap(), theirs[to]);
                for number in [round, round + 100] {
                    assert_eq!(ours.send(&[number]).unwrap(), 1, "it is accepted at once");
                }
                let mut datagram = [0; 10];
                for number in [round, round + 100] {
                    let (_, from) = kernels[to].recv_from(&mut datagram).unwrap();
                    assert_eq!((datagram[0], from), (number, (OURS, port).into()));
                    kernels[to].send_to(&[number], from).unwrap();
                    assert_eq!(heard(&ours), (number, theirs[to]));
                }
                if round % 3 == 0 {
                    // A host that is switched off is no reason to lose anything, before or after.
                    let silent = ours.connect(absent);
                    assert!(silent.is_ok() || !nonblocking, "{silent:?}");
                    if silent.is_ok() {
                        let _ = ours.send(&[7]);
                    }
                }
                if round % 5 == 0 {
                    ours.disconnect().unwrap();
                    ours.send_to(&[round], theirs[1 - to]).unwrap();
                    assert_eq!(next_of(&kernels[1 - to]), round);
                }
            }
            assert_eq!(ours.errors(), (0, 0), "nothing was refused, and nothing damaged");
        }
    });
}

#[test]
fn what_was_heard_of_a_host_is_told_although_the_socket_is_connected_to_another_by_then() {
    let name =
        "what_was_heard_of_a_host_is_told_although_the_socket_is_connected_to_another_by_then";
    in_lab(name, &RATE, || {
        let kernel = kernel_socket(7000);
        for reconnects in [true, false] {
            let ours = options().connect((THEIRS, 9)).unwrap();
            ours.set_nonblocking(true);
            let before = flow_of(&ours).bill.unwrap().rx_frames;
            ours.send(&[1]).unwrap();
            eventually("the answer is here", || {
                flow_of(&ours).bill.unwrap().rx_frames == before + 1
            });
            let is_refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
            // It is heard, and not told, by a call that returns messages.
            eventually("it is heard", || ours.take_control().unwrap().is_some());
            match reconnects {
                true => ours.connect((THEIRS, 7000)).unwrap(),
                false => ours.disconnect().unwrap(),
            }
            assert!(ours.recv(&mut [0; 10]).is_err_and(is_refused), "as a kernel's socket says");
            ours.send_to(&[2], (THEIRS, 7000)).unwrap();
            assert_eq!(next_of(&kernel), 2);
        }
    });
}

#[test]
fn what_waits_for_a_neighbour_leaves_before_the_socket_and_its_process_end() {
    let name = "what_waits_for_a_neighbour_leaves_before_the_socket_and_its_process_end";
    in_lab(name, &RATE, || {
        if let Ok(end) = std::env::var(END) {
            let socket = Udp::bind("0.0.0.0:0").unwrap();
            socket.set_nonblocking(true);
            for number in 0..10 {
                socket.send_to(&[number; 100], (THEIRS, 5600)).unwrap();
            }
            match end.as_str() {
                "close" => drop(socket.close()),
                "drop" => drop(socket),
                _ => std::process::exit(0),
            }
            return;
        }
        let peer = kernel_socket(5600);
        peer.set_read_timeout(Some(LONG)).unwrap();
        for end in ["close", "drop", "exit"] {
            assert!(process(name, end).success());
            for number in 0..10 {
                let mut datagram = [0; 200];
                let (bytes, _) = peer.recv_from(&mut datagram).unwrap();
                assert_eq!((bytes, datagram[0]), (100, number), "after {end}");
            }
        }
    });
}
