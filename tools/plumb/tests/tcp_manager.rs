//! What the flow manager does for connections: it tells them what the link carries, waits in their place,
//! and speaks for those whose application has died.

mod in_lab;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener as KernelListener, TcpStream as KernelStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base_flow::{DropReason, Stray};
use base_wire::Mac;
use driver_link::Link;
use driver_link_packet::PacketLink;
use driver_netlink::Netlink;
use in_lab::wires::{Wire, Wires};
use in_lab::{
    OURS, THEIRS, claim_to_be_at, eventually, host, in_lab, kernel_socket, on_peer,
    peer_answers_arp, program,
};
use plumb_net::{Contract, Error, Host, Options, Refusal, TcpStream, Udp};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{
    AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, connect, socket_with,
};
use rustix::process::{Pid, Signal, kill_process};

const RATE: [&str; 2] = ["--rate", "1gbit"];
const SOON: Option<Duration> = Some(Duration::from_secs(20));

fn options() -> Options {
    Options::new().host(&host())
}

fn kernel_listener(port: u16) -> KernelListener {
    on_peer(|| KernelListener::bind((THEIRS, port)).unwrap())
}

/// Our end and the kernel's of a connection that we opened.
fn opened(port: u16, options: &Options) -> (TcpStream, KernelStream) {
    let listener = kernel_listener(port);
    let ours = options.connect_tcp((THEIRS, port)).unwrap();
    let (kernel, _) = listener.accept().unwrap();
    ours.set_read_timeout(SOON).unwrap();
    kernel.set_read_timeout(SOON).unwrap();
    (ours, kernel)
}

/// Lets both ends of the wire carry packets of up to `mtu` bytes.
fn set_mtu(mtu: u32) {
    let set = |dev: &str| {
        let netlink = Netlink::open().unwrap();
        netlink.set_mtu(netlink.interface(dev).unwrap().index, mtu).unwrap();
    };
    set("plumb0");
    on_peer(|| set("plumb1"));
}

/// Sends `count` bytes in each direction at the same time, and checks that they arrive.
fn exchange(ours: &TcpStream, kernel: &KernelStream, count: usize, meanwhile: impl FnOnce()) {
    let bytes = |seed: u64| -> Vec<u8> {
        let mut chance = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| chance.u8(..)).collect()
    };
    let (there, back) = (bytes(1), bytes(2));
    thread::scope(|scope| {
        scope.spawn(|| (&mut &*ours).write_all(&there).unwrap());
        scope.spawn(|| (&mut &*kernel).write_all(&back).unwrap());
        let arrived = scope.spawn(|| {
            let mut received = vec![0; count];
            (&mut &*kernel).read_exact(&mut received).unwrap();
            received
        });
        let received = scope.spawn(|| {
            let mut received = vec![0; count];
            (&mut &*ours).read_exact(&mut received).unwrap();
            received
        });
        meanwhile();
        assert!(arrived.join().unwrap() == there, "what arrived there is not what was sent");
        assert!(received.join().unwrap() == back, "what came back is not what was sent");
    });
}

/// Sends much in each direction, and hardly anything of it twice: neither driver nor wire refuses any of it.
fn unlossy(ours: &TcpStream, kernel: &KernelStream) {
    const BYTES: usize = 4 << 20;
    let refused = || {
        let flows = host().query_flows().unwrap();
        let found = flows.iter().find(|info| info.flow == ours.flow_id()).unwrap();
        let bill = found.bill.as_ref().unwrap();
        let reasons = [DropReason::TooLong, DropReason::Segmentation, DropReason::LinkRefused];
        reasons.map(|reason| bill.dropped(reason))
    };
    let before = (refused(), ours.counts().retransmitted_bytes);
    exchange(ours, kernel, BYTES, || ());
    assert_eq!(refused(), before.0);
    let again = ours.counts().retransmitted_bytes - before.1;
    // A machine that has other things to do makes a probe look necessary now and then.
    assert!(again < BYTES as u64 / 50, "{again} bytes were sent again");
}

#[test]
fn a_stream_goes_on_whatever_its_link_carries_and_loses_nothing_once_it_knows() {
    let name = "a_stream_goes_on_whatever_its_link_carries_and_loses_nothing_once_it_knows";
    in_lab(name, &RATE, || {
        let (ours, kernel) = opened(7000, &options());
        let listener = options().listen((OURS, 7001)).unwrap();
        assert_eq!(ours.info().mtu, 1500);
        exchange(&ours, &kernel, 16 << 20, || set_mtu(700));
        eventually("it knows", || ours.info().mtu == 700);
        unlossy(&ours, &kernel);
        // Who comes only now, over an old listener or as a new application.
        let (late, late_kernel) = opened(7002, &options());
        let called = on_peer(|| KernelStream::connect((OURS, 7001)).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        for (ours, kernel) in [(&late, &late_kernel), (&accepted, &called)] {
            assert_eq!(ours.info().mtu, 700);
            unlossy(ours, kernel);
        }
        let all = [(&ours, &kernel), (&late, &late_kernel), (&accepted, &called)];
        for (mtu, carried) in [(1200, 1200), (1500, 1500), (4000, 1500)] {
            set_mtu(mtu);
            for (ours, kernel) in all {
                eventually("it knows", || ours.info().mtu == carried);
                unlossy(ours, kernel);
            }
        }
        let links = host().query_links().unwrap();
        assert_eq!((links[0].facts.mtu, links[0].facts.mtu_max), (1500, 1500));
    });
}

#[test]
fn a_stream_at_rest_hears_what_its_link_carries() {
    in_lab("a_stream_at_rest_hears_what_its_link_carries", &RATE, || {
        let (ours, kernel) = opened(7000, &options());
        set_mtu(600);
        // Nobody is in a call: the service thread is told.
        eventually("it knows", || ours.info().mtu == 600);
        unlossy(&ours, &kernel);
    });
}

#[test]
fn a_datagram_that_the_link_does_not_carry_any_more_is_refused_with_what_it_does() {
    let name = "a_datagram_that_the_link_does_not_carry_any_more_is_refused_with_what_it_does";
    in_lab(name, &RATE, || {
        let kernel = kernel_socket(9000);
        kernel.set_read_timeout(SOON).unwrap();
        let ours = options().connect((THEIRS, 9000)).unwrap();
        let arrives = |bytes: usize| {
            ours.send(&vec![7; bytes]).unwrap();
            let mut got = [0; 2000];
            assert_eq!(kernel.recv(&mut got).unwrap(), bytes);
        };
        arrives(1472);
        set_mtu(700);
        // Before it has heard of it, the driver refuses them.
        let mut error = None;
        eventually("it is refused", || {
            error = ours.send(&[7; 673]).err();
            error.is_some()
        });
        assert_eq!(error.unwrap().raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()));
        assert_eq!(ours.payload_bytes_max(), 672);
        arrives(672);
        set_mtu(1500);
        eventually("it is sent again", || ours.send(&[7; 1472]).is_ok());
        let mut got = [0; 2000];
        assert_eq!(kernel.recv(&mut got).unwrap(), 1472);
    });
}

/// Sequence number and flags of our segments that have arrived there, and payload bytes.
fn segments(wire: &mut PacketLink) -> Vec<(u32, u8, u32)> {
    let mut all = Vec::new();
    loop {
        let seen = wire.poll_rx(256, &mut |arrival| {
            let frame = arrival.frame;
            if frame.get(12..14) == Some(&[8, 0][..]) && frame.get(23) == Some(&6) {
                let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
                let total = u32::from(u16::from_be_bytes(frame[16..18].try_into().unwrap()));
                all.push((sequence, frame[47], total - 20 - u32::from(frame[46] >> 4) * 4));
            }
        });
        if seen == 0 {
            return all;
        }
    }
}

#[test]
fn a_connection_that_is_opened_anew_begins_above_the_old_one_whoever_listens() {
    let name = "a_connection_that_is_opened_anew_begins_above_the_old_one_whoever_listens";
    in_lab(name, &RATE, || {
        const BYTES: u32 = 4 << 20;
        for (port, accepts) in [(7000, true), (7001, false)] {
            let mut wire = on_peer(|| PacketLink::open("plumb1", None).unwrap());
            let listener = kernel_listener(port);
            let ours = options().local((OURS, port + 100).into()).connect_tcp((THEIRS, port));
            let mut ours = ours.unwrap();
            let (mut kernel, _) = listener.accept().unwrap();
            // Far more than the clock of initial numbers counts meanwhile.
            thread::scope(|scope| {
                scope.spawn(|| {
                    ours.write_all(&vec![0; BYTES as usize]).unwrap();
                    ours.shutdown(Shutdown::Write).unwrap();
                });
                let mut all = Vec::new();
                kernel.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), BYTES as usize);
            });
            drop(kernel);
            drop(listener);
            assert_eq!(ours.read(&mut [0]).unwrap(), 0);
            drop(ours);
            let mut ends = segments(&mut wire).into_iter().filter(|(_, flags, _)| flags & 1 != 0);
            let (sequence, _, bytes) = ends.next_back().unwrap();
            let last = sequence.wrapping_add(bytes);

            // Its flow is closed in the background.
            let mut listener = None;
            eventually("its port is free", || {
                listener = options().listen((OURS, port + 100)).ok();
                listener.is_some()
            });
            let listener = listener.unwrap();
            let caller = on_peer(|| {
                let stream = SocketType::STREAM;
                let socket = socket_with(AddressFamily::INET, stream, SocketFlags::empty(), None);
                let socket = socket.unwrap();
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
                bind(&socket, &SocketAddrV4::new(THEIRS, port)).unwrap();
                connect(&socket, &SocketAddrV4::new(OURS, port + 100)).unwrap();
                KernelStream::from(socket)
            });
            // Whether a thread of the application waits for it, or the service thread looks after it.
            if accepts {
                let (ours, from) = listener.accept().unwrap();
                assert_eq!(from, caller.local_addr().unwrap());
                exchange(&ours, &caller, 100_000, || ());
            }
            let answers = segments(&mut wire).into_iter().filter(|(_, flags, _)| *flags == 0x12);
            let numbers: Vec<i32> =
                answers.map(|(number, ..)| number.wrapping_sub(last).cast_signed()).collect();
            assert!(!numbers.is_empty() && numbers.iter().all(|above| *above > 0), "{numbers:?}");
        }
    });
}

const HOLDER: &str = "PLUMB_TEST_HOLDER";

#[test]
fn each_of_hundreds_of_peers_hears_that_the_application_was_killed_and_none_is_held_back() {
    let name =
        "each_of_hundreds_of_peers_hears_that_the_application_was_killed_and_none_is_held_back";
    const CONNECTIONS: usize = 300;
    in_lab(name, &RATE, || {
        if std::env::var_os(HOLDER).is_some() {
            // The application: it is there until it is killed.
            let open = |_| options_once().connect_tcp((THEIRS, 7000)).unwrap();
            let held: Vec<TcpStream> = (0..CONNECTIONS).map(open).collect();
            println!("{} connections are open", held.len());
            let _ = std::io::stdin().read(&mut [0]);
            return;
        }
        let listener = kernel_listener(7000);
        let mut application = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(HOLDER, "yes")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let peers: Vec<KernelStream> =
            (0..CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();
        for mut peer in &peers {
            peer.set_read_timeout(SOON).unwrap();
            peer.write_all(b"!").unwrap();
        }
        application.kill().unwrap();
        application.wait().unwrap();
        let held_back = || host().query_status().unwrap().replies_suppressed;
        let before = held_back();
        for mut peer in &peers {
            assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(held_back(), before, "none had to wait for what strangers are allowed");
    });
}

#[test]
fn an_application_with_hundreds_of_flows_may_hear_late_that_a_neighbour_has_moved() {
    let name = "an_application_with_hundreds_of_flows_may_hear_late_that_a_neighbour_has_moved";
    in_lab(name, &RATE, || {
        let (busy, watcher) = (host(), host());
        let small = Options::new().host(&busy).send_buffers(2).receive_buffers(2);
        let flows: Vec<_> = (0..1000).map(|_| small.connect((THEIRS, 9000)).unwrap()).collect();
        let mut wire = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let elsewhere = Mac([2, 0, 0, 0, 0, 99]);
        peer_answers_arp(false);
        claim_to_be_at(&mut wire, elsewhere);
        eventually("it has moved", || {
            let neighbours = watcher.query_neighbours().unwrap();
            neighbours.iter().any(|neighbour| neighbour.mac == Some(elsewhere))
        });
        // It has read none of it so far, and is still somebody.
        assert_eq!(busy.query_flows().unwrap().len(), flows.len() + Stray::COUNT);
        eventually("packets go to the other station", || {
            flows[999].send(b"?").unwrap();
            let mut there = false;
            wire.poll_rx(64, &mut |arrival| there |= arrival.frame[..6] == elsewhere.0);
            there
        });
    });
}

/// One connection to the flow manager for all, as an application has.
fn options_once() -> Options {
    static HOST: std::sync::OnceLock<plumb_net::Host> = std::sync::OnceLock::new();
    Options::new().host(HOST.get_or_init(host))
}

#[test]
fn no_client_is_reset_that_calls_from_where_another_called_a_server_that_closes_first() {
    let name = "no_client_is_reset_that_calls_from_where_another_called_a_server_that_closes_first";
    in_lab(name, &RATE, || {
        const AT_ONCE: usize = 120;
        const EACH: usize = 90;
        rbuf_shm::raise_descriptor_limit();
        // So few that each is used again while its last connection still waits here, or is being closed.
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        on_peer(|| std::fs::write(range, "40000 40499").unwrap());
        let listener = options().backlog(1024).listen((OURS, 7000)).unwrap();
        let over = AtomicBool::new(false);
        let ask = || -> std::io::Result<()> {
            let mut stream = KernelStream::connect((OURS, 7000))?;
            // Longer than a SYN that is lost takes, shorter than TIME-WAIT.
            stream.set_read_timeout(SOON)?;
            stream.write_all(b"ask.")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            assert_eq!(answer, [7; 100]);
            Ok(())
        };
        let ask_often = || (0..EACH).filter_map(|_| ask().err()).collect::<Vec<_>>();
        let before = on_peer(syns_sent_again);
        let failed = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let (mut stream, _) = listener.accept().unwrap();
                        // Who was reset says so at the other end.
                        if stream.read_exact(&mut [0; 4]).is_ok() {
                            let _ = stream.write_all(&[7; 100]);
                        }
                    }
                });
            }
            on_peer(|| {
                let failed: Vec<_> = thread::scope(|scope| {
                    let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(ask_often)).collect();
                    clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
                });
                // Whoever waits for one more connection has it.
                over.store(true, Ordering::Relaxed);
                (0..4).for_each(|_| drop(ask()));
                failed
            })
        });
        let turned_away = listener.turned_away();
        assert!(failed.is_empty(), "{} failed: {:?}; {turned_away:?}", failed.len(), failed[0]);
        assert_eq!(turned_away.0, 0, "{turned_away:?}");
        // But for what a busy machine does to one or the other.
        let again = on_peer(syns_sent_again) - before;
        assert!(again <= (AT_ONCE * EACH / 1000) as u64, "{again} called twice");
    });
}

const BESIDE: Wire<'_> = Wire { number: 2, ours: &["192.0.2.1/24"], theirs: &["192.0.2.2/24"] };

/// Somebody's connection to our `port` on that wire, which may not be answered before it is returned.
fn caller(port: u16) -> KernelStream {
    on_peer(|| {
        let (stream, flags) = (SocketType::STREAM, SocketFlags::NONBLOCK);
        let socket = socket_with(AddressFamily::INET, stream, flags, None).unwrap();
        let begun = connect(&socket, &SocketAddrV4::new([192, 0, 2, 1].into(), port));
        assert_eq!(begun, Err(rustix::io::Errno::INPROGRESS));
        let stream = KernelStream::from(socket);
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(SOON).unwrap();
        stream
    })
}

/// Every flow that the user may have besides those that are open.
fn all_flows(host: &Host) -> Vec<Udp> {
    let small = || Udp::options().host(host).send_buffers(2).receive_buffers(2);
    let mut all = Vec::new();
    loop {
        match small().bind(("192.0.2.1", 0)) {
            Ok(flow) => all.push(flow),
            Err(Error::Refused(Refusal::Quota(_))) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_connection_for_which_there_is_no_flow_waits_for_one_and_if_there_never_is_it_is_reset_with_the_reason()
 {
    let name = "a_connection_for_which_there_is_no_flow_waits_for_one_and_if_there_never_is_it_is_reset_with_the_reason";
    in_lab(name, &RATE, || {
        let user = rustix::process::getuid().as_raw();
        let policy = format!("[policy.user.{user}]\nflows_max = 50\n");
        let wires = Wires::lay_under(&policy, &[BESIDE]);
        let (options, other) = (|| Options::new().host(&wires.host), wires.another());
        // What is closed here would be free for others at its own time.
        let mut kept = Vec::new();
        // Whether a thread waits to accept it, or the service thread looks after it.
        for (port, accepts) in [(7000, true), (7001, false)] {
            let listener = options().listen(("192.0.2.1", port)).unwrap();
            let all = all_flows(&other);
            let accepted = accepts.then(|| {
                let listener = listener.try_clone().unwrap();
                thread::spawn(move || listener.accept().unwrap())
            });
            let mut callers = Vec::new();
            // While somebody who was there first waits for a flow, nobody else is let in.
            while listener.counts().put_off == 0 {
                assert!(callers.len() < 10, "somebody waits");
                callers.push(caller(port));
                let called = callers.len() as u64;
                eventually("it is heard", || listener.counts().syns >= called);
            }
            assert_eq!(listener.turned_away(), (0, None));
            drop(all);
            let first = accepted.map(|thread| thread.join().unwrap());
            let rest = (first.iter().len()..callers.len()).map(|_| listener.accept().unwrap());
            let ours: Vec<_> = first.into_iter().chain(rest).collect();
            for mut stream in ours.iter().map(|(stream, _)| stream) {
                stream.write_all(b"hello").unwrap();
            }
            for mut caller in callers {
                caller.read_exact(&mut [0; 5]).unwrap();
            }
            assert_eq!(listener.turned_away(), (0, None));
            kept.push((listener, ours));
        }
        let reset = |mut caller: KernelStream| {
            let error = caller.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        };
        let listener = options().listen(("192.0.2.1", 7002)).unwrap();
        let all = all_flows(&other);
        reset(caller(7002));
        let (count, reason) = listener.turned_away();
        assert_eq!(count, 1);
        assert!(reason.as_ref().is_some_and(|why| why.contains("flows open")), "{reason:?}");
        drop(all);
        // What does not pass is not waited for.
        let most = Contract::guaranteed(40_000_000, 100_000_000).unwrap();
        let _other = Udp::options().host(&other).contract(most).bind(("192.0.2.1", 0)).unwrap();
        let mut listener = None;
        eventually("other flows are closed", || {
            listener = options().contract(most).listen(("192.0.2.1", 7003)).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        reset(caller(7003));
        let (count, reason) = listener.turned_away();
        assert_eq!((count, listener.counts().put_off), (1, 0));
        assert!(reason.as_ref().is_some_and(|why| why.contains("guarantee")), "{reason:?}");
    });
}

/// SYNs that the kernel of this thread's side has sent a second time.
fn syns_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "TCPSynRetrans").unwrap();
    counts.split_whitespace().nth(at).unwrap().parse().unwrap()
}

#[test]
fn who_calls_while_a_server_does_not_run_need_not_call_twice() {
    /// Fewer than the buffers of the flow that takes what is for connections that are over.
    const CALLERS: u16 = 240;
    /// Nothing but a timer takes so long where somebody else is answered within [`SOMEBODY`].
    const AGAIN: Duration = Duration::from_millis(900);
    const SOMEBODY: Duration = Duration::from_millis(300);
    in_lab("who_calls_while_a_server_does_not_run_need_not_call_twice", &RATE, || {
        rbuf_shm::raise_descriptor_limit();
        let host = host();
        let mut server = Command::new(program())
            .args(["__soak-server", "--stack", "plumb", "--at", "10.77.0.1:8080"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = server.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut String::new()).unwrap();
        let pid = Pid::from_raw(server.id() as i32).unwrap();
        let received = || -> u64 {
            let flows = host.query_flows().unwrap();
            flows.iter().filter_map(|flow| flow.bill.as_ref()).map(|bill| bill.rx_frames).sum()
        };
        let at_rest = host.query_status().unwrap().flows;
        // All at once, so that all of them are there when the server runs again; and then each is answered. How
        // long the first of them waited, and the last.
        let call = |first: u16| {
            let before = received();
            kill_process(pid, Signal::STOP).unwrap();
            let begun = Instant::now();
            let callers: Vec<KernelStream> =
                on_peer(|| (first..first + CALLERS).map(calling).collect());
            eventually("all calls have come", || received() >= before + u64::from(CALLERS));
            // What came to the flow manager is with the server, or on its way, when it has answered so often.
            (0..20).for_each(|_| assert!(host.query_status().is_ok()));
            kill_process(pid, Signal::CONT).unwrap();
            let mut watched: Vec<_> =
                callers.iter().map(|caller| PollFd::new(caller, PollFlags::OUT)).collect();
            poll(&mut watched, None).unwrap();
            let first = begun.elapsed();
            for one in watched {
                poll(&mut [one], None).unwrap();
            }
            let last = begun.elapsed();
            for mut caller in callers {
                caller.set_nonblocking(false).unwrap();
                caller.set_read_timeout(SOON).unwrap();
                caller.write_all(b"GET /0 HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                caller.read_to_end(&mut answer).unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200"));
            }
            eventually("all is closed", || host.query_status().unwrap().flows == at_rest);
            (first, last)
        };
        // From ports that nobody has called from, and from those of connections that the server has closed. On a
        // machine that answers nobody in time it says nothing how long the others waited.
        let (mut right, mut wrong) = (0, 0);
        for first in (20_000..).step_by(CALLERS.into()).take(20) {
            let before = on_peer(syns_sent_again);
            let waited = [call(first), call(first)];
            let again = on_peer(syns_sent_again) - before;
            println!("{again} called twice; the first and the last waited {waited:?}");
            if again == 0 && waited.iter().all(|(_, last)| *last < AGAIN) {
                right += 1;
            } else if waited.iter().all(|(first, _)| *first < SOMEBODY) {
                wrong += 1;
            }
            if right == 3 || wrong == 2 {
                break;
            }
        }
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(
            right == 3 && wrong < 2,
            "{right} times all were answered at once, {wrong} times not"
        );
    });
}

/// A socket of this thread's kernel, at `port`, that calls the server.
fn calling(port: u16) -> KernelStream {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddrV4::new(THEIRS, port)).unwrap();
    let called = connect(&socket, &SocketAddrV4::new(OURS, 8080));
    assert!(matches!(called, Ok(()) | Err(Errno::INPROGRESS)), "{called:?}");
    socket.into()
}
