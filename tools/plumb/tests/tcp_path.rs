//! TCP over flows against a Linux kernel on bad paths and under odd circumstances, with a checker that
//! looks at every packet.

mod in_lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base_wire::Mac;
use driver_filter::{Pieces, Sums};
use driver_link::Link;
use driver_link::{Arrival, Checksum};
use driver_link_packet::PacketLink;
use in_lab::{OURS, THEIRS, claim_to_be_at, eventually, host, in_lab, on_peer, peer_answers_arp};
use plumb_net::engine::Keepalive;
use plumb_net::{Options, TcpStream};
use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tools_sim::tcp::Checker;

const SOON: Option<Duration> = Some(Duration::from_secs(20));

fn options() -> Options {
    Options::new().host(&host())
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| chance.u8(..)).collect()
}

/// Sets a TCP setting of the peer's kernel.
fn peer_setting(name: &str, value: &str) {
    let file = format!("/proc/sys/net/ipv4/tcp_{name}");
    on_peer(|| std::fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}")));
}

/// A socket of the kernel that uses `congestion`, if it lets others choose that: before there is a connection,
/// for one that began with BBR is paced for ever.
fn kernel_socket(congestion: &str) -> OwnedFd {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if set_tcp_congestion(&socket, congestion).is_err() {
        eprintln!("this kernel lets nobody choose {congestion}; its own choice will do");
    }
    socket
}

/// Both ends of a connection that one of us opened; the kernel's with `congestion`.
fn opened(
    port: u16,
    by_us: bool,
    congestion: &str,
    options: &Options,
) -> (TcpStream, KernelStream) {
    let (ours, kernel) = if by_us {
        let listener: KernelListener = on_peer(|| {
            let socket = kernel_socket(congestion);
            bind(&socket, &SocketAddr::from((THEIRS, port))).unwrap();
            listen(&socket, 1).unwrap();
            socket.into()
        });
        let ours = options.connect_tcp((THEIRS, port)).unwrap();
        (ours, listener.accept().unwrap().0)
    } else {
        let listener = options.listen((OURS, port)).unwrap();
        let kernel: KernelStream = on_peer(|| {
            let socket = kernel_socket(congestion);
            connect(&socket, &SocketAddr::from((OURS, port))).unwrap();
            socket.into()
        });
        (listener.accept().unwrap().0, kernel)
    };
    ours.set_read_timeout(SOON).unwrap();
    kernel.set_read_timeout(SOON).unwrap();
    (ours, kernel)
}

/// Both send at the same time, and each gets what the other sent.
fn exchange(ours: &TcpStream, kernel: &KernelStream, there: &[u8], back: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&mut &*ours).write_all(there).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            (&mut &*kernel).write_all(back).unwrap();
            kernel.shutdown(Shutdown::Write).unwrap();
        });
        let received = scope.spawn(|| {
            let mut received = Vec::new();
            (&mut &*kernel).read_to_end(&mut received).unwrap();
            received
        });
        let mut answer = Vec::new();
        (&mut &*ours).read_to_end(&mut answer).unwrap();
        assert!(answer == back, "what came back is not what was sent");
        assert!(received.join().unwrap() == there, "what arrived there is not what was sent");
    });
}

/// The frames that a wire would have carried.
fn frames(arrival: &Arrival<'_>) -> Vec<Vec<u8>> {
    let pieces = match (arrival.merged, arrival.checksum) {
        (Some(merged), _) => {
            let merged = (merged.protocol, merged.piece_bytes);
            Some(Pieces::merged(arrival.frame, merged, 1500, Sums::Whole).unwrap())
        }
        (None, Checksum::Partial { .. }) => Pieces::whole(arrival.frame, Sums::Whole),
        _ => None,
    };
    let Some(mut pieces) = pieces else { return vec![arrival.frame.to_vec()] };
    let mut all = Vec::new();
    while let Some((head, rest)) = pieces.next_frame() {
        all.push([head, rest].concat());
    }
    all
}

/// Does `work` while every packet is captured where it arrives, and checks what was captured.
fn checked(work: impl FnOnce()) {
    const SLOTS: usize = 1 << 15;
    let open = |dev: &str| PacketLink::open_with_ring(dev, None, SLOTS).unwrap();
    let mut links = [open("plumb0"), on_peer(|| open("plumb1"))];
    let done = AtomicBool::new(false);
    let mut captured = thread::scope(|scope| {
        let capture = scope.spawn(|| {
            let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
            loop {
                let last = done.load(Ordering::Acquire);
                let mut seen = 0;
                for link in &mut links {
                    seen += link.poll_stamped(256, &mut |arrival, at_ns| {
                        all.extend(frames(&arrival).into_iter().map(|frame| (at_ns, frame)));
                    });
                    assert_eq!(link.take_overflow(), 0, "the capture lost packets");
                }
                if seen == 0 {
                    if last {
                        return all;
                    }
                    thread::yield_now();
                }
            }
        });
        work();
        done.store(true, Ordering::Release);
        capture.join().unwrap()
    });
    captured.sort_by_key(|(at_ns, _)| *at_ns);
    let mut checker = Checker::beside(OURS);
    for (at_ns, frame) in &captured {
        // IPv4 and TCP.
        if frame.get(12..14) == Some(&[8, 0][..]) && frame.get(23) == Some(&6) {
            checker.packet(*at_ns, &frame[14..]).unwrap_or_else(|rule| panic!("{rule}"));
        }
    }
    assert!(checker.segments > 100, "{} segments", checker.segments);
}

const BAD: [&str; 10] =
    ["--rate", "1gbit", "--delay", "3ms", "--loss", "1%", "--reorder", "2%", "--duplicate", "1%"];

#[test]
fn on_a_path_that_loses_doubles_and_reorders_everything_arrives_whoever_opens() {
    let name = "on_a_path_that_loses_doubles_and_reorders_everything_arrives_whoever_opens";
    in_lab(name, &BAD, || {
        checked(|| {
            let (there, back) = (bytes(1, 1 << 20), bytes(2, 1 << 20));
            for (port, by_us, congestion) in
                [(7000, true, "cubic"), (7001, false, "reno"), (7002, true, "reno")]
            {
                let (ours, kernel) = opened(port, by_us, congestion, &options());
                exchange(&ours, &kernel, &there, &back);
                assert!(ours.counts().retransmissions > 0, "{:?}", ours.counts());
            }
        });
    });
}

#[test]
fn whatever_the_kernel_offers_and_leaves_out_streams_are_whole() {
    in_lab(
        "whatever_the_kernel_offers_and_leaves_out_streams_are_whole",
        &["--rate", "1gbit"],
        || {
            let (there, back) = (bytes(3, 2 << 20), bytes(4, 2 << 20));
            checked(|| {
                for without in 0..16u16 {
                    let on = |bit: u16| if without & 1 << bit == 0 { "1" } else { "0" };
                    for (bit, name) in ["timestamps", "sack", "window_scaling"].iter().enumerate() {
                        peer_setting(name, on(bit as u16));
                    }
                    peer_setting("ecn", on(3));
                    let port = 7000 + without;
                    let with_ecn = options().ecn(true);
                    let (ours, kernel) = opened(port, without % 2 == 0, "reno", &with_ecn);
                    exchange(&ours, &kernel, &there, &back);
                    let info = ours.info();
                    assert_eq!((info.timestamps, info.sack), (on(0) == "1", on(1) == "1"));
                    assert_eq!(info.window_shifts != (0, 0), on(2) == "1");
                    // A kernel that only accepts it offers nothing itself.
                    assert_eq!(info.ecn, on(3) == "1", "{without}");
                }
            });
        },
    );
}

#[test]
fn tiny_windows_on_both_sides_stop_nothing_for_ever() {
    in_lab("tiny_windows_on_both_sides_stop_nothing_for_ever", &["--rate", "1gbit"], || {
        peer_setting("rmem", "2304 2304 2304");
        let small = options().receive_bytes(4096).receive_buffers(8);
        checked(|| {
            let (ours, kernel) = opened(7000, true, "reno", &small);
            exchange(&ours, &kernel, &bytes(5, 60_000), &bytes(6, 60_000));
        });
    });
}

#[test]
fn a_peer_that_says_nothing_ends_what_was_begun_in_its_time() {
    in_lab(
        "a_peer_that_says_nothing_ends_what_was_begun_in_its_time",
        &["--rate", "1gbit"],
        || {
            let (ours, kernel) = opened(7000, true, "reno", &options());
            // From now on the peer's kernel is deaf: it has lost its address.
            let gone = on_peer(|| {
                let netlink = driver_netlink::Netlink::open().unwrap();
                netlink.set_down(netlink.interface("plumb1").unwrap().index)
            });
            gone.unwrap();
            ours.set_user_timeout(Duration::from_millis(700));
            ours.set_read_timeout(SOON).unwrap();
            (&mut &ours).write_all(b"is anybody there?").unwrap();
            let error = (&mut &ours).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(ours.counts().timeouts > 0);
            drop(kernel);
            let soon = Duration::from_millis(300);
            let error = options().connect_tcp_timeout(&(THEIRS, 7001).into(), soon).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable),
                "{error:?}"
            );
        },
    );
}

#[test]
fn both_can_close_at_the_same_time_and_thousands_of_times() {
    let name = "both_can_close_at_the_same_time_and_thousands_of_times";
    in_lab(name, &["--rate", "1gbit", "--spin", "50us"], || {
        let flows = || host().query_flows().unwrap().len();
        let before = flows();
        let listener = on_peer(|| KernelListener::bind((THEIRS, 7000)).unwrap());
        let kernel = thread::spawn(move || {
            for _ in 0..2000 {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"bye").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                assert_eq!(all, b"bye");
            }
        });
        let options = options();
        for _ in 0..2000 {
            let mut ours = options.connect_tcp((THEIRS, 7000)).unwrap();
            ours.write_all(b"bye").unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            ours.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"bye");
        }
        kernel.join().unwrap();
        eventually("all flows are closed", || flows() == before);
    });
}

/// What stands at word `index` of a stream that is too long to be kept.
const fn word(stream: u64, index: u64) -> u64 {
    (index ^ stream << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Bytes of a piece of such a stream.
const PIECE: usize = 1 << 18;

/// Fills `piece` with what stands from word `from` on.
fn fill(stream: u64, from: u64, piece: &mut [u8]) {
    for (index, bytes) in (from..).zip(piece.as_chunks_mut::<8>().0) {
        *bytes = word(stream, index).to_ne_bytes();
    }
}

fn send_stream(stream: u64, pieces: u64, mut to: impl Write) {
    let mut piece = vec![0; PIECE];
    for number in 0..pieces {
        fill(stream, number * (PIECE as u64 / 8), &mut piece);
        to.write_all(&piece).unwrap();
    }
}

fn expect_stream(stream: u64, pieces: u64, mut from: impl Read) {
    let (mut piece, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    for number in 0..pieces {
        from.read_exact(&mut piece).unwrap();
        fill(stream, number * (PIECE as u64 / 8), &mut expected);
        assert!(piece == expected, "piece {number} is not what was sent");
    }
    assert_eq!(from.read(&mut piece).unwrap(), 0, "nothing follows");
}

#[test]
fn a_gigabyte_each_way_arrives_as_it_was_sent() {
    const PIECES: u64 = (1 << 30) / PIECE as u64;
    let name = "a_gigabyte_each_way_arrives_as_it_was_sent";
    in_lab(name, &["--rate", "20gbit", "--spin", "50us"], || {
        let large = options().send_bytes(4 << 20).receive_bytes(4 << 20);
        let (ours, kernel) = opened(7000, true, "cubic", &large);
        thread::scope(|scope| {
            scope.spawn(|| {
                send_stream(1, PIECES, &ours);
                ours.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                send_stream(2, PIECES, &kernel);
                kernel.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| expect_stream(1, PIECES, &kernel));
            expect_stream(2, PIECES, &ours);
        });
    });
}

#[test]
fn who_says_nothing_is_left_waiting_and_a_window_is_as_narrow_as_it_was_told() {
    let name = "who_says_nothing_is_left_waiting_and_a_window_is_as_narrow_as_it_was_told";
    in_lab(name, &[], || {
        let listener =
            options().defer_accept(Duration::from_secs(3600)).listen((OURS, 7000)).unwrap();
        let call = || on_peer(|| KernelStream::connect((OURS, 7000)).unwrap());
        let mut silent = call();
        let mut speaks = call();
        speaks.write_all(b"first").unwrap();
        let (mut ours, from) = listener.accept().unwrap();
        assert_eq!(from, speaks.local_addr().unwrap(), "the other one came before");
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        silent.write_all(b"second").unwrap();
        eventually("it says something", || listener.accept().is_ok());

        ours.set_window_clamp(5000);
        let writer = thread::spawn(move || speaks.write_all(&[7; 300_000]));
        let mut all = vec![0; 300_005];
        ours.read_exact(&mut all).unwrap();
        writer.join().unwrap().unwrap();
        assert!(ours.info().receive_window_bytes <= 5000, "{:?}", ours.info());
    });
}

#[test]
fn a_peer_that_forgot_the_connection_resets_what_is_said_to_it() {
    let name = "a_peer_that_forgot_the_connection_resets_what_is_said_to_it";
    in_lab(name, &["--rate", "1gbit"], || {
        let (ours, kernel) = opened(7000, true, "reno", &options());
        let (other, other_kernel) = opened(7001, true, "reno", &options());
        // The peer's reset cannot leave: we go on with half a connection.
        on_peer(|| {
            let netlink = driver_netlink::Netlink::open().unwrap();
            let index = netlink.interface("plumb1").unwrap().index;
            netlink.set_down(index).unwrap();
            for lost in [kernel, other_kernel] {
                rustix::net::sockopt::set_socket_linger(&lost, Some(Duration::ZERO)).unwrap();
                drop(lost);
            }
            netlink.set_up(index).unwrap();
        });
        (&mut &ours).write_all(b"are you still there?").unwrap();
        assert_eq!((&mut &ours).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        // Who says nothing learns it by asking.
        let second = Duration::from_secs(1);
        other.set_keepalive(Some(Keepalive {
            idle_ns: 1,
            interval_ns: second.as_nanos() as u64,
            probes: 5,
        }));
        assert_eq!((&mut &other).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn several_threads_accept_and_each_connection_is_had_once() {
    let name = "several_threads_accept_and_each_connection_is_had_once";
    in_lab(name, &["--rate", "1gbit"], || {
        const CONNECTIONS: usize = 300;
        let listener = options().listen((OURS, 7000)).unwrap();
        let left = AtomicUsize::new(CONNECTIONS);
        let mut seen: Vec<u32> = thread::scope(|scope| {
            let servers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = Vec::new();
                        while left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                                left.checked_sub(1)
                            })
                            .is_ok()
                        {
                            let (mut stream, _) = listener.accept().unwrap();
                            let mut number = [0; 4];
                            stream.read_exact(&mut number).unwrap();
                            stream.write_all(&number).unwrap();
                            seen.push(u32::from_be_bytes(number));
                        }
                        seen
                    })
                })
                .collect();
            for first in 0..3u32 {
                scope.spawn(move || {
                    let to = SocketAddr::from((OURS, 7000));
                    for number in (first..CONNECTIONS as u32).step_by(3) {
                        let mut stream =
                            on_peer(|| KernelStream::connect_timeout(&to, SOON.unwrap()).unwrap());
                        stream.set_read_timeout(SOON).unwrap();
                        // It opens first, and speaks when it likes.
                        stream.write_all(&number.to_be_bytes()).unwrap();
                        let mut echo = Vec::new();
                        stream.read_to_end(&mut echo).unwrap();
                        assert_eq!(echo, number.to_be_bytes());
                    }
                });
            }
            servers.into_iter().flat_map(|server| server.join().unwrap()).collect()
        });
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..CONNECTIONS as u32));
    });
}

#[test]
fn a_stream_follows_its_peer_to_another_station_and_back() {
    let name = "a_stream_follows_its_peer_to_another_station_and_back";
    in_lab(name, &["--rate", "1gbit"], || {
        let (ours, kernel) = opened(7000, true, "reno", &options());
        let mut wire = on_peer(|| PacketLink::open("plumb1", None).unwrap());
        let home = wire.facts().station;
        let elsewhere = Mac([2, 0, 0, 0, 0, 99]);
        peer_answers_arp(false);
        claim_to_be_at(&mut wire, elsewhere);
        // What still reaches the kernel is answered, and something more is said.
        let mut said = 0;
        eventually("segments go to the other station", || {
            if ours.info().in_flight_bytes == 0 {
                (&mut &ours).write_all(b"?").unwrap();
                said += 1;
            }
            let mut there = false;
            wire.poll_rx(64, &mut |arrival| there |= arrival.frame[..6] == elsewhere.0);
            there
        });
        // The kernel did not take that. It is sent again, until the peer is back.
        peer_answers_arp(true);
        claim_to_be_at(&mut wire, home);
        let mut heard = vec![0; said];
        (&mut &kernel).read_exact(&mut heard).unwrap();
        assert!(heard.iter().all(|byte| *byte == b'?'));
        assert!(ours.counts().retransmitted_bytes > 0);
    });
}
