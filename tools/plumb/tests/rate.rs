//! The wire of a lab has its rate in both directions.

mod in_lab;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use in_lab::{OURS, in_lab, on_peer};
use plumb_net::TcpListener;

const BYTES: usize = 12_500_000;
const PORT: u16 = 5_001;
const RATE: &str = "100mbit";
/// A bucket of tokens may be full when it begins.
const BITS_PER_S_MAX: f64 = 105e6;

/// The peer's kernel sends over TCP to Plumb; how fast that was, from before the first byte left until after the last
/// one was read. A machine with other things to do can only make it less.
fn inward_bits_per_s() -> f64 {
    let listener = TcpListener::bind((OURS, PORT)).unwrap();
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let sender = scope.spawn(|| {
            let mut stream = on_peer(|| TcpStream::connect((OURS, PORT)).unwrap());
            stream.write_all(&vec![7; BYTES]).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
        while bytes < BYTES {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "ended after {bytes} bytes");
            bytes += read;
        }
        let took = begun.elapsed();
        sender.join().unwrap();
        BYTES as f64 * 8.0 / took.as_secs_f64()
    })
}

#[test]
fn a_peer_with_the_kernels_offloads_sends_no_faster_than_the_wire() {
    const NAME: &str = "a_peer_with_the_kernels_offloads_sends_no_faster_than_the_wire";
    in_lab(NAME, &["--rate", RATE], || {
        let rate = inward_bits_per_s();
        println!("{:.1} Mbit/s", rate / 1e6);
        assert!(rate <= BITS_PER_S_MAX, "{rate}");
    });
}

#[test]
fn a_peer_that_sends_frame_by_frame_sends_no_faster_than_the_wire() {
    const NAME: &str = "a_peer_that_sends_frame_by_frame_sends_no_faster_than_the_wire";
    in_lab(NAME, &["--rate", RATE, "--no-offloads"], || {
        let rate = inward_bits_per_s();
        println!("{:.1} Mbit/s", rate / 1e6);
        assert!(rate <= BITS_PER_S_MAX, "{rate}");
    });
}
