//! UDP sockets in a lab: what `std::net::UdpSocket` would do, beside a Linux kernel.

mod in_lab;

use std::process::Command;
use std::time::Duration;

use in_lab::{THEIRS, in_lab, kernel_socket};
use plumb_net::Udp;

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
