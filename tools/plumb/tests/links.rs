//! Sockets that are on several links.

mod in_lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as KernelStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use base_flow::DropReason;
use driver_link::Link;
use driver_link_packet::PacketLink;
use etherparse::PacketBuilder;
use in_lab::wires::{Wire, Wires};
use in_lab::{eventually, in_lab, on_peer, send_raw};
use plumb_net::{Options, Udp};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::Timespec;

const RATE: [&str; 2] = ["--rate", "1gbit"];
const LONG: Duration = Duration::from_secs(60);

const LEFT: Wire<'_> = Wire { number: 2, ours: &["192.0.2.1/24"], theirs: &["192.0.2.2/24"] };
const RIGHT: Wire<'_> =
    Wire { number: 4, ours: &["198.51.100.1/24"], theirs: &["198.51.100.2/24"] };

/// A kernel socket of the peer's that asks whom it likes.
fn kernel(address: [u8; 4]) -> UdpSocket {
    let socket = on_peer(|| UdpSocket::bind((Ipv4Addr::from(address), 9000)).unwrap());
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// The peer asks `ours` at `there`, which answers from there.
fn exchange(kernel: &UdpSocket, ours: &Udp, there: &str) {
    kernel.send_to(b"hello", there).unwrap();
    let (bytes, from) = ours.recv_from(&mut [0; 100]).unwrap();
    assert_eq!((bytes, from), (5, kernel.local_addr().unwrap()));
    ours.send_to(b"answer", from).unwrap();
    let (bytes, from) = kernel.recv_from(&mut [0; 100]).unwrap();
    assert_eq!((bytes, from), (6, there.parse().unwrap()));
}

#[test]
fn a_socket_at_any_address_has_every_link_and_lives_on_those_that_are_left() {
    let name = "a_socket_at_any_address_has_every_link_and_lives_on_those_that_are_left";
    in_lab(name, &RATE, || {
        let mut wires = Wires::lay(&[LEFT, RIGHT]);
        let any = || Udp::options().host(&wires.host);
        let ours = any().bind(("0.0.0.0", 7)).unwrap();
        assert_eq!(ours.local_addr(), (Ipv4Addr::UNSPECIFIED, 7).into());
        ours.set_read_timeout(Some(LONG));
        let (left, right) = (kernel([192, 0, 2, 2]), kernel([198, 51, 100, 2]));
        for (kernel, there) in
            [(&left, "192.0.2.1:7"), (&right, "198.51.100.1:7"), (&left, "192.0.2.1:7")]
        {
            exchange(kernel, &ours, there);
        }
        // On the left wire nobody has our address on the right one, nor that of everybody there: an answer would
        // come to ourselves, and be answered.
        let link = || wires.host.query_links().unwrap().swap_remove(0);
        let mut wire = on_peer(|| PacketLink::open("far2", None).unwrap());
        let station = wire.facts().station;
        for from in [[198, 51, 100, 1], [198, 51, 100, 255]] {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(station.0, link().facts.mac.0)
                .ipv4(from, [192, 0, 2, 1], 64)
                .udp(7, 7)
                .write(&mut frame, b"round and round")
                .unwrap();
            send_raw(&mut wire, &frame);
        }
        eventually("both are dropped", || link().bill.dropped(DropReason::BadSource) >= 2);
        exchange(&left, &ours, "192.0.2.1:7");
        // Connected, it is on the link that leads there, whichever that is.
        let connected = any().bind(("0.0.0.0", 8)).unwrap();
        for (kernel, there) in [(&right, "198.51.100.1:8"), (&left, "192.0.2.1:8")] {
            connected.connect(kernel.local_addr().unwrap()).unwrap();
            connected.send(b"connected").unwrap();
            let (bytes, from) = kernel.recv_from(&mut [0; 100]).unwrap();
            assert_eq!((bytes, from), (9, there.parse().unwrap()));
            kernel.send_to(b"back", from).unwrap();
            connected.set_read_timeout(Some(LONG));
            assert_eq!(connected.recv(&mut [0; 100]).unwrap(), 4);
        }
        // On the other link it hears nobody meanwhile, and everybody when it is connected to nobody.
        let is_at = |address: &str| connected.local_addr() == address.parse().unwrap();
        eventually("it is on the left link", || is_at("192.0.2.1:8"));
        right.send_to(b"stranger", "198.51.100.1:8").unwrap();
        left.send_to(b"peer", "192.0.2.1:8").unwrap();
        assert_eq!(connected.recv_from(&mut [0; 100]).unwrap().1, left.local_addr().unwrap());
        connected.disconnect().unwrap();
        eventually("it is at any address", || is_at("0.0.0.0:8"));
        connected.set_nonblocking(true);
        for (kernel, there) in [(&right, "198.51.100.1:8"), (&left, "192.0.2.1:8")] {
            eventually("anybody is heard", || {
                kernel.send_to(b"anybody", there).unwrap();
                let heard = connected.recv_from(&mut [0; 100]);
                heard.is_ok_and(|(_, from)| from == kernel.local_addr().unwrap())
            });
        }
        drop(connected);
        // So does one that was opened with one host, and may not wait.
        let opened = any().connect(right.local_addr().unwrap()).unwrap();
        opened.set_nonblocking(true);
        for kernel in [&left, &right, &left] {
            opened.connect(kernel.local_addr().unwrap()).unwrap();
            assert_eq!(opened.send(b"connected").unwrap(), 9);
            assert_eq!(kernel.recv_from(&mut [0; 100]).unwrap().0, 9);
        }
        drop(opened);

        // Asleep at both when one is lost, and afterwards.
        thread::scope(|scope| {
            let asks = scope.spawn(|| exchange(&right, &ours, "198.51.100.1:7"));
            wires.kill_driver(0);
            asks.join().unwrap();
        });
        exchange(&right, &ours, "198.51.100.1:7");
        wires.start_driver(0, &LEFT);
        let again = Udp::options().host(&wires.host).bind(("0.0.0.0", 9)).unwrap();
        again.set_read_timeout(Some(LONG));
        exchange(&left, &again, "192.0.2.1:9");
        wires.kill_driver(0);
        wires.kill_driver(1);
        let error = ours.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    });
}

#[test]
fn a_driver_that_stands_holds_up_no_other_link_of_the_process() {
    in_lab("a_driver_that_stands_holds_up_no_other_link_of_the_process", &RATE, || {
        let wires = Wires::lay(&[LEFT, RIGHT]);
        let stop = |signal| {
            kill_process(Pid::from_raw(wires.driver(0) as i32).unwrap(), signal).unwrap();
        };
        stop(Signal::STOP);
        let bind = |address: &str| Udp::options().host(&wires.host).bind(address).map(drop);
        thread::scope(|scope| {
            let waits = scope.spawn(|| bind("192.0.2.1:7"));
            for _ in 0..50 {
                bind("198.51.100.1:7").unwrap();
            }
            assert!(!waits.is_finished(), "it waits for the driver that stands");
            stop(Signal::CONT);
            waits.join().unwrap().unwrap();
        });
    });
}

fn ready(descriptor: BorrowedFd<'_>) -> bool {
    let limit = Timespec { tv_sec: LONG.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut fds, Some(&limit)).unwrap() == 1
}

#[test]
fn a_listener_at_any_address_answers_from_the_one_that_was_called_and_on_the_links_that_are_left() {
    let name = "a_listener_at_any_address_answers_from_the_one_that_was_called_and_on_the_links_that_are_left";
    in_lab(name, &RATE, || {
        let first = Wire {
            number: 2,
            ours: &["10.78.0.1/24", "10.79.0.1/24"],
            theirs: &["10.78.0.2/24", "10.79.0.2/24"],
        };
        let mut wires = Wires::lay(&[first, RIGHT]);
        let host = wires.host.clone();
        let listener = Options::new().host(&host).listen("0.0.0.0:0").unwrap();
        let local = listener.local_addr().unwrap();
        assert!(local.ip().is_unspecified() && local.port() != 0);
        let call = |address: [u8; 4]| {
            let to = SocketAddr::from((address, local.port()));
            let mut kernel = on_peer(|| KernelStream::connect_timeout(&to, LONG).unwrap());
            kernel.write_all(&address).unwrap();
            kernel
        };
        let (a, b, c) = ([10, 78, 0, 1], [10, 79, 0, 1], [198, 51, 100, 1]);
        // While somebody accepts, and while nobody does.
        let accepts = thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || [listener.accept().unwrap(), listener.accept().unwrap()]
        });
        let mut callers = vec![call(b), call(a)];
        let mut streams = Vec::from(accepts.join().unwrap());
        listener.set_nonblocking(true).unwrap();
        let fd = listener.acceptable_fd().unwrap();
        for address in [b, c] {
            callers.push(call(address));
            assert!(ready(fd));
            streams.push(listener.accept().unwrap());
        }
        for (mut stream, _) in streams {
            let mut address = [0; 4];
            stream.read_exact(&mut address).unwrap();
            let at = SocketAddr::from((address, local.port()));
            assert_eq!(stream.local_addr().unwrap(), at);
        }
        assert_eq!(listener.counts().syns, 4);
        drop(callers);
        // Where connections are accepted is on the first link.
        wires.kill_driver(0);
        let _caller = call(c);
        assert!(ready(fd));
        drop(listener.accept().unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        wires.kill_driver(1);
        assert!(ready(fd), "of its end");
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::NotConnected);
        drop(listener);
        eventually("nothing is left", || host.query_status().unwrap().flows == 0);
    });
}
