//! A receiving application: reads one datagram at a time and works on it.

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use plumb_net::{Contract, Host, Udp};
use rbuf_shm::monotonic_ns;
use tools_experiments::experiments::receive::{fig7, flood};
use tools_experiments::reception::Read;

use super::{charged_ns, read_stamp};
use crate::cli::{self, Labour};
use crate::daemons::die_with_parent;
use crate::output::say;
use crate::process::{self, told_to_end};

/// Buffers for what arrives while the application is at work, or not given the processor.
const BUFFERS: u32 = 512;

enum Socket {
    Plumb(Box<Udp>),
    Kernel(UdpSocket),
}

impl Socket {
    fn open(arguments: &cli::Reader) -> Result<Self> {
        let timeout = Some(Duration::from_millis(50));
        if arguments.kernel {
            let socket = UdpSocket::bind(("0.0.0.0", arguments.port))?;
            socket.set_read_timeout(timeout)?;
            return Ok(Self::Kernel(socket));
        }
        let host = Host::connect(&arguments.socket.socket)?;
        let options = Udp::options().host(&host).contract(Contract::BEST_EFFORT);
        let socket = options.receive_buffers(BUFFERS).bind(("0.0.0.0", arguments.port))?;
        socket.set_read_timeout(timeout);
        Ok(Self::Plumb(Box::new(socket)))
    }

    fn read(&self, out: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plumb(socket) => socket.recv(out),
            Self::Kernel(socket) => socket.recv(out),
        }
    }
}

fn spin(for_ns: u64) {
    let until = monotonic_ns() + for_ns;
    while monotonic_ns() < until {
        std::hint::spin_loop();
    }
}

/// Reads until it is told to end and nothing more comes; then writes what it read, and prints how much
/// that was and the processor time charged for it.
pub fn run(arguments: &cli::Reader) -> Result<ExitCode> {
    die_with_parent()?;
    let socket = Socket::open(arguments)?;
    process::ready()?;
    let told = told_to_end();
    let mut payload = vec![0; 65_536];
    let mut reads: Vec<Read> = Vec::with_capacity(1 << 20);
    let (mut total, begun) = (0u64, charged_ns());
    loop {
        match socket.read(&mut payload) {
            Ok(bytes) => {
                let now = monotonic_ns();
                let Some((_, sent_ns)) = read_stamp(&payload[..bytes]) else { continue };
                match arguments.work {
                    Labour::None => {}
                    Labour::Fig7 => spin(fig7::work_ns(total, arguments.slower_after)),
                    Labour::Flood => spin(flood::WORK_NS),
                }
                total += 1;
                if !arguments.count {
                    reads.push(Read { sent_ns, read_ns: now });
                }
            }
            // Nothing came for a while.
            Err(_) if told.load(Ordering::Acquire) => break,
            Err(_) => {}
        }
    }
    let charged = charged_ns() - begun;
    let file = std::fs::File::create(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let mut file = std::io::BufWriter::new(file);
    for read in reads {
        file.write_all(&read.sent_ns.to_le_bytes())?;
        file.write_all(&read.read_ns.to_le_bytes())?;
    }
    file.flush()?;
    say!("{total} {charged}")?;
    Ok(ExitCode::SUCCESS)
}

/// Reads what [`run`] wrote.
pub fn read(file: &Path) -> Result<Vec<Read>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let read = |bytes: &[u8]| Read { sent_ns: word(&bytes[..8]), read_ns: word(&bytes[8..]) };
    Ok(bytes.chunks_exact(16).map(read).collect())
}
