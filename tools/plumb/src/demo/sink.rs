//! The receiver of the demo: ordinary kernel UDP sockets, and a pinger, on the peer's side.
//!
//! Prints one line of JSON at the end of every bin; counts are per millisecond and flow, by time of
//! arrival on the clock that all processes of the machine share.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use base_wire::{Header, Icmp, IcmpV4Type, checksum};
use rbuf_shm::monotonic_ns;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::daemons::die_with_parent;
use crate::output::say;

/// Length of a bin: what the paper integrates bandwidth over.
pub const BIN_NS: u64 = 200_000_000;
/// Milliseconds in a bin.
pub const BIN_MS: u64 = BIN_NS / 1_000_000;
/// Time between echo requests.
const PING_INTERVAL: Duration = Duration::from_millis(50);

/// One bin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bin {
    /// Its number.
    pub bin: u64,
    /// When it began, in nanoseconds of the monotonic clock.
    pub began_ns: u64,
    /// Frames of each flow that arrived in each of its milliseconds.
    pub frames: Vec<Vec<u32>>,
    /// Datagrams of each flow that are missing so far.
    pub lost: Vec<u64>,
    /// Echo requests sent and answered so far, and round-trip times of this bin in microseconds.
    pub pings: u64,
    pub pongs: u64,
    pub round_trips_us: Vec<u64>,
}

struct Counters {
    frames: Vec<AtomicU32>,
    received: AtomicU64,
    next_number: AtomicU64,
}

#[derive(Default)]
struct Pings {
    sent: AtomicU64,
    answered: AtomicU64,
    times_us: Mutex<Vec<u64>>,
}

/// Receives and pings until the process is killed.
pub fn run(arguments: &cli::Sink) -> Result<ExitCode> {
    die_with_parent()?;
    let begun = monotonic_ns();
    let bins = u64::from(arguments.seconds) * 1_000_000_000 / BIN_NS;
    let mut all = Vec::new();
    for index in 0..arguments.flows {
        let at = SocketAddr::from(([0, 0, 0, 0], arguments.port + index));
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind {at}"))?;
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
        let counters = Arc::new(Counters {
            frames: (0..bins * BIN_MS).map(|_| AtomicU32::new(0)).collect(),
            received: AtomicU64::new(0),
            next_number: AtomicU64::new(0),
        });
        all.push(Arc::clone(&counters));
        std::thread::spawn(move || receive(&socket, &counters, begun));
    }
    let pings = Arc::new(Pings::default());
    {
        let (pings, host) = (Arc::clone(&pings), arguments.ping);
        std::thread::spawn(move || ping(host, &pings));
    }
    say!("ready")?;
    for bin in 0..bins {
        let end = begun + (bin + 1) * BIN_NS;
        std::thread::sleep(Duration::from_nanos(end.saturating_sub(monotonic_ns())));
        let first = (bin * BIN_MS) as usize;
        let counts = |counters: &Arc<Counters>| -> Vec<u32> {
            let bin = &counters.frames[first..first + BIN_MS as usize];
            bin.iter().map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let missing = |counters: &Arc<Counters>| {
            let received = counters.received.load(Ordering::Acquire);
            counters.next_number.load(Ordering::Relaxed).saturating_sub(received)
        };
        let line = Bin {
            bin,
            began_ns: begun + bin * BIN_NS,
            frames: all.iter().map(counts).collect(),
            lost: all.iter().map(missing).collect(),
            pings: pings.sent.load(Ordering::Relaxed),
            pongs: pings.answered.load(Ordering::Relaxed),
            round_trips_us: std::mem::take(
                &mut pings.times_us.lock().expect("no panic while held"),
            ),
        };
        say!("{}", serde_json::to_string(&line)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn receive(socket: &UdpSocket, counters: &Counters, begun: u64) {
    let mut buffer = [0; 65_536];
    while let Ok(bytes) = socket.recv(&mut buffer) {
        let at_ms = ((monotonic_ns() - begun) / 1_000_000) as usize;
        let Some(number) = buffer[..bytes].first_chunk().map(|number| u64::from_be_bytes(*number))
        else {
            continue;
        };
        counters.next_number.fetch_max(number + 1, Ordering::Relaxed);
        counters.received.fetch_add(1, Ordering::Release);
        if let Some(frames) = counters.frames.get(at_ms) {
            frames.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Pings `host` through the kernel's own stack, as `ping` does.
fn ping(host: Ipv4Addr, pings: &Pings) {
    let Ok(raw) = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)) else { return };
    let timeout = Duration::from_millis(500);
    let _ = rustix::net::sockopt::set_socket_timeout(
        &raw,
        rustix::net::sockopt::Timeout::Recv,
        Some(timeout),
    );
    let identifier = std::process::id() as u16;
    for sequence in 0u16.. {
        let mut icmp = Icmp {
            kind: IcmpV4Type::ECHO_REQUEST,
            code: 0,
            checksum: 0.into(),
            id: identifier.into(),
            sequence: sequence.into(),
        };
        let mut message = [0x5a; 64];
        icmp.put(&mut message);
        icmp.checksum = checksum::finish(checksum::sum(&message)).into();
        icmp.put(&mut message);
        let begun = monotonic_ns();
        if sendto(&raw, &message, SendFlags::empty(), &SocketAddr::from((host, 0))).is_ok() {
            pings.sent.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 1500];
            while let Ok((_, bytes)) = recv(&raw, &mut buffer[..], RecvFlags::empty()) {
                // Raw sockets hear every message, with its IP header.
                let Some((reply, _)) = buffer.get(20..bytes).and_then(Icmp::split) else {
                    continue;
                };
                let ours = reply.id.get() == identifier && reply.sequence.get() == sequence;
                if reply.kind == IcmpV4Type::ECHO_REPLY && ours {
                    pings.answered.fetch_add(1, Ordering::Relaxed);
                    pings
                        .times_us
                        .lock()
                        .expect("no panic while held")
                        .push((monotonic_ns() - begun) / 1_000);
                    break;
                }
                if monotonic_ns() - begun > timeout.as_nanos() as u64 {
                    break;
                }
            }
        }
        let next = begun + PING_INTERVAL.as_nanos() as u64;
        std::thread::sleep(Duration::from_nanos(next.saturating_sub(monotonic_ns())));
    }
}
