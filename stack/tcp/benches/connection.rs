//! What the state machine costs: a pair in memory, a pure acknowledgment, a data segment.
//!
//! Reported are medians over batches. The pair copies every byte three times: into the send buffer, from
//! there into the receive queue, and out of it.

use std::hint::black_box;
use std::time::Instant;

use stack_tcp::{
    Config, Connection, Identity, ReceiveRing, Segment, SendRing, State, Stream, Transmit,
};

type Host = Stream<SendRing, ReceiveRing>;

fn main() {
    for (name, unit) in [("64 KiB units", 65_160), ("MTU units", 0)] {
        println!("in-memory pair, {name}: {:.1} Gbit/s", throughput(unit));
    }
    println!("pure ACK received: {:.0} ns", pure_ack());
    println!("data segment received and acknowledged at once: {:.0} ns", data_segment());
    println!("data segment sent: {:.0} ns", data_sent());
    let bytes = size_of::<Connection>();
    println!("a connection: {bytes} bytes, and up to {} of trace", 128 * stack_tcp::RECORD_BYTES);
}

fn identity(number: u32) -> Identity {
    Identity { initial_sequence: number, timestamp_offset: number }
}

fn pair(config: &Config) -> (Host, Host) {
    let mut client = Connection::connect(1, config.clone(), identity(1));
    let syn = client.poll_transmit(1).expect("a SYN").segment;
    let mut server =
        Connection::accept(1, config.clone(), identity(2), &syn).expect("it was a SYN");
    let syn_ack = server.poll_transmit(1).expect("a SYN-ACK").segment;
    client.on_segment(10_001, &syn_ack);
    let ack = client.poll_transmit(10_001).expect("an ACK").segment;
    server.on_segment(20_001, &ack);
    assert_eq!((client.state(), server.state()), (State::Established, State::Established));
    let host = |connection| {
        let receive = ReceiveRing::new(1 << 18, 1 << 18);
        Stream::new(connection, SendRing::new(1 << 18), receive)
    };
    (host(client), host(server))
}

fn config(super_segment_bytes: u32) -> Config {
    Config {
        super_segment_bytes,
        receive_bytes: 1 << 18,
        receive_bytes_max: 1 << 18,
        ..Config::default()
    }
}

/// Gigabits a second of payload from one application to the other.
fn throughput(super_segment_bytes: u32) -> f64 {
    let (mut client, mut server) = pair(&config(super_segment_bytes));
    let chunk = vec![7; 65_536];
    let mut out = vec![0; 65_536];
    let mut wire = Vec::with_capacity(65_536);
    let mut now_ns = 100_000;
    let mut times = Vec::new();
    for _ in 0..60 {
        const BATCH: usize = 64 << 20;
        let (begun, mut read) = (Instant::now(), 0);
        while read < BATCH {
            now_ns += 10_000;
            let _ = client.write(&chunk, false);
            while let Some(transmit) = client.poll_transmit(now_ns) {
                let payload = carried(&client, &transmit, &mut wire);
                server.on_segment(now_ns + 5_000, &transmit.segment, payload);
            }
            loop {
                let bytes = server.read(now_ns + 5_000, &mut out);
                read += bytes;
                if bytes == 0 {
                    break;
                }
            }
            while let Some(transmit) = server.poll_transmit(now_ns + 5_000) {
                client.on_segment(now_ns + 10_000, &transmit.segment, &[]);
            }
        }
        times.push(begun.elapsed().as_secs_f64() / read as f64);
    }
    8e-9 / median(times)
}

/// The payload as it lies in the sender's ring; put together if it wraps.
fn carried<'a>(host: &'a Host, transmit: &Transmit, wire: &'a mut Vec<u8>) -> &'a [u8] {
    match host.send.parts(transmit.offset, transmit.segment.payload_bytes as usize) {
        [whole, []] => whole,
        parts => {
            wire.clear();
            parts.iter().for_each(|part| wire.extend_from_slice(part));
            wire
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

const ROUNDS: usize = 2000;
const BATCH: usize = 64;

/// Nanoseconds for an acknowledgment of two segments while many are in flight.
fn pure_ack() -> f64 {
    let (mut client, mut server) = pair(&config(0));
    let mut now_ns = 100_000;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let acks = acknowledgments(&mut client, &mut server, &mut now_ns);
        let begun = Instant::now();
        for ack in &acks {
            now_ns += 100;
            client.connection.on_segment(now_ns, black_box(ack));
        }
        times.push(begun.elapsed().as_nanos() as f64 / acks.len().max(1) as f64);
        client.send_all();
    }
    median(times)
}

/// Sends a batch and returns what acknowledges it, a segment for each two.
fn acknowledgments(client: &mut Host, server: &mut Host, now_ns: &mut u64) -> Vec<Segment> {
    let chunk = [7; 2 * 1448];
    let mut acks = Vec::new();
    for _ in 0..BATCH {
        *now_ns += 1000;
        let _ = client.write(&chunk, false);
        while let Some(transmit) = client.poll_transmit(*now_ns) {
            server.connection.on_segment(*now_ns, &transmit.segment);
        }
        let readable = server.connection.readable();
        server.skip(*now_ns, readable);
        acks.extend(std::iter::from_fn(|| server.poll_transmit(*now_ns)).map(|ack| ack.segment));
    }
    acks
}

trait SendAll {
    fn send_all(&mut self);
}

impl SendAll for Host {
    /// What was acknowledged is free again.
    fn send_all(&mut self) {
        use stack_tcp::SendBuffer;
        self.send.release(self.connection.acknowledged());
    }
}

/// Nanoseconds for a full segment in order, and the acknowledgment of every second.
fn data_segment() -> f64 {
    let (mut client, mut server) = pair(&config(0));
    let chunk = [7; 1448];
    let mut now_ns = 100_000;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut segments = Vec::new();
        for _ in 0..BATCH {
            now_ns += 1000;
            let _ = client.write(&chunk, false);
            segments.extend(std::iter::from_fn(|| client.poll_transmit(now_ns)));
        }
        let mut acks = Vec::new();
        let begun = Instant::now();
        for transmit in &segments {
            server.connection.on_segment(now_ns, black_box(&transmit.segment));
            let readable = server.connection.readable();
            server.connection.consume(now_ns, readable);
            acks.extend(server.connection.poll_transmit(now_ns));
        }
        times.push(begun.elapsed().as_nanos() as f64 / segments.len().max(1) as f64);
        for ack in acks {
            client.on_segment(now_ns, &ack.segment, &[]);
        }
    }
    median(times)
}

/// Nanoseconds to decide on and form a full segment.
fn data_sent() -> f64 {
    let (mut client, mut server) = pair(&config(0));
    let chunk = [7; 1448];
    let mut now_ns = 100_000;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        for _ in 0..BATCH {
            now_ns += 1000;
            let _ = client.write(&chunk, false);
        }
        let mut segments = Vec::with_capacity(2 * BATCH);
        let begun = Instant::now();
        while let Some(transmit) = client.connection.poll_transmit(now_ns) {
            segments.push(black_box(transmit));
        }
        times.push(begun.elapsed().as_nanos() as f64 / segments.len().max(1) as f64);
        for transmit in segments {
            server.connection.on_segment(now_ns, &transmit.segment);
            let readable = server.connection.readable();
            server.skip(now_ns, readable);
            while let Some(ack) = server.poll_transmit(now_ns) {
                client.on_segment(now_ns, &ack.segment, &[]);
            }
        }
    }
    median(times)
}
