//! Streams from the peer through ordinary kernel sockets: steady ones, driven by the kernel's timer, and
//! it is said how late they were; and floods.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rbuf_shm::monotonic_ns;
use serde::{Deserialize, Serialize};
use tools_experiments::measure::Quantiles;

use super::{STAMP_BYTES, stamp};
use crate::cli;
use crate::daemons::die_with_parent;
use crate::output::say;
use crate::process;

/// What a source did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams sent on each stream.
    pub sent: Vec<u64>,
    /// How late the steady datagrams were sent, in nanoseconds.
    pub late_p50_ns: u64,
    /// The same, in 99 of 100 cases at most.
    pub late_p99_ns: u64,
    /// Once.
    pub late_max_ns: u64,
}

struct Stream {
    socket: UdpSocket,
    payload: Vec<u8>,
    every_ns: u64,
    sent: u64,
}

impl Stream {
    fn open(to: SocketAddr, bytes: usize, every_ns: u64) -> Result<Self> {
        // From the port it goes to: connected flows expect that.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, to.port()))
            .with_context(|| format!("cannot bind port {}", to.port()))?;
        socket.connect(to)?;
        Ok(Self { socket, payload: vec![0; bytes.max(STAMP_BYTES)], every_ns, sent: 0 })
    }

    fn send(&mut self) {
        stamp(&mut self.payload, self.sent, monotonic_ns());
        // What the kernel does not take was not sent.
        if self.socket.send(&self.payload).is_ok() {
            self.sent += 1;
        }
    }
}

/// Sends until it is told to end.
pub fn run(arguments: &cli::Source) -> Result<ExitCode> {
    die_with_parent()?;
    let open = |stream: &cli::StreamOption| {
        let to = SocketAddr::from((arguments.to, stream.port));
        Stream::open(to, stream.bytes, stream.every_ns)
    };
    // Sleeps end when they should, not up to 50 µs later.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut streams = arguments.stream.iter().map(open).collect::<Result<Vec<Stream>>>()?;
    process::ready()?;
    let told = process::told_to_end();
    let begun = monotonic_ns();
    // One allocation, so that noting down how late it is makes no datagram late.
    let mut late = Vec::with_capacity(1 << 21);
    let floods = streams.iter().any(|stream| stream.every_ns == 0);
    while !told.load(Ordering::Relaxed) {
        if !floods {
            let due = streams.iter().map(|stream| begun + stream.sent * stream.every_ns).min();
            let left = due.unwrap_or(begun).saturating_sub(monotonic_ns());
            std::thread::sleep(Duration::from_nanos(left));
        }
        for stream in &mut streams {
            if stream.every_ns == 0 {
                for _ in 0..16 {
                    stream.send();
                }
                continue;
            }
            let due = begun + stream.sent * stream.every_ns;
            let now = monotonic_ns();
            if now >= due {
                stream.send();
                if late.len() < late.capacity() {
                    late.push(now - due);
                }
            }
        }
    }
    let late = Quantiles::of(late);
    let sent = Sent {
        sent: streams.iter().map(|stream| stream.sent).collect(),
        late_p50_ns: late.at(0.5),
        late_p99_ns: late.at(0.99),
        late_max_ns: late.max(),
    };
    say!("{}", serde_json::to_string(&sent)?)?;
    Ok(ExitCode::SUCCESS)
}
