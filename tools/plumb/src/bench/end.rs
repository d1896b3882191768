//! One end of a measured stream: the same work over either stack.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use plumb_net::{Options, TcpListener, TcpStream};
use rustix::net::sockopt::{set_socket_reuseaddr, set_tcp_congestion};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use crate::cli::{self, BenchDoes, Stack};
use crate::daemons::die_with_parent;
use crate::output::say;

/// Bytes written and read at a time.
const CHUNK: usize = 1 << 18;

/// Connections that may wait at a kernel's listener.
const BACKLOG: i32 = 128;

/// Does what it is told, and prints one number when that is done: bits a second received, connections
/// a second, or bytes of memory for a connection.
pub fn run(arguments: &cli::BenchEnd) -> Result<ExitCode> {
    die_with_parent()?;
    let number = match arguments.stack {
        Stack::Plumb => work::<TcpStream>(arguments),
        Stack::Kernel => work::<KernelStream>(arguments),
    }?;
    say!("{number}")?;
    Ok(ExitCode::SUCCESS)
}

/// A socket of the kernel whose congestion control is ours, CUBIC; the defaults of hosts differ. It is
/// chosen before there is a connection: one that began with BBR is paced for ever. Who has the network
/// namespace may choose what the host allows nobody else.
fn cubic_socket() -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_tcp_congestion(&socket, "cubic").context("this kernel has no CUBIC to compare with")?;
    Ok(socket)
}

/// A stream of either stack.
trait Stream: Sized + Send {
    type Listener;
    fn listen(at: SocketAddr, bulk: bool) -> Result<Self::Listener>;
    fn accept(listener: &Self::Listener) -> Result<Self>;
    fn connect(to: SocketAddr, bulk: bool) -> Result<Self>;
    fn write(&self, bytes: &[u8]) -> std::io::Result<()>;
    fn read(&self, out: &mut [u8]) -> std::io::Result<usize>;
    fn shut_down(&self) -> std::io::Result<()>;
    /// Before the process ends.
    fn finish(&self) -> Result<()>;
}

impl Stream for KernelStream {
    type Listener = KernelListener;

    fn listen(at: SocketAddr, _bulk: bool) -> Result<KernelListener> {
        let socket = cubic_socket()?;
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &at)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }

    fn accept(listener: &KernelListener) -> Result<Self> {
        Ok(listener.accept()?.0)
    }

    fn connect(to: SocketAddr, _bulk: bool) -> Result<Self> {
        let socket = cubic_socket()?;
        connect(&socket, &to)?;
        Ok(socket.into())
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&mut &*self).write_all(bytes)
    }

    fn read(&self, out: &mut [u8]) -> std::io::Result<usize> {
        (&mut &*self).read(out)
    }

    fn shut_down(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl Stream for TcpStream {
    type Listener = TcpListener;

    fn listen(at: SocketAddr, bulk: bool) -> Result<TcpListener> {
        Ok(options(bulk).listen(at)?)
    }

    fn accept(listener: &TcpListener) -> Result<Self> {
        Ok(listener.accept()?.0)
    }

    fn connect(to: SocketAddr, bulk: bool) -> Result<Self> {
        Ok(options(bulk).connect_tcp(to)?)
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        (&mut &*self).write_all(bytes)
    }

    fn read(&self, out: &mut [u8]) -> std::io::Result<usize> {
        (&mut &*self).read(out)
    }

    fn shut_down(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn finish(&self) -> Result<()> {
        Ok(TcpStream::finish(self, Duration::from_secs(60))?)
    }
}

/// The kernel's buffers grow by themselves, to as much.
const BUFFER_BYTES: u32 = 4 << 20;

fn options(bulk: bool) -> Options {
    match bulk {
        true => Options::new().send_bytes(BUFFER_BYTES).receive_bytes(BUFFER_BYTES),
        false => Options::new(),
    }
}

fn work<S: Stream>(arguments: &cli::BenchEnd) -> Result<f64> {
    let (at, count, callers) = (arguments.at, arguments.count, arguments.callers);
    let begun = Instant::now();
    match arguments.does {
        BenchDoes::Send => {
            let stream = S::connect(at, true).with_context(|| format!("cannot connect to {at}"))?;
            let (chunk, begun) = (vec![0x5a; CHUNK], Instant::now());
            let mut sent = 0;
            while begun.elapsed().as_secs() < u64::from(arguments.seconds) {
                stream.write(&chunk)?;
                sent += chunk.len();
            }
            stream.shut_down()?;
            stream.finish()?;
            Ok(sent as f64 * 8.0 / begun.elapsed().as_secs_f64())
        }
        BenchDoes::Receive => {
            let listener = S::listen(at, true)?;
            say!("ready")?;
            let stream = S::accept(&listener)?;
            let mut chunk = vec![0; CHUNK];
            // From the first byte on.
            let first = stream.read(&mut chunk)?;
            let (begun, mut received) = (Instant::now(), first);
            loop {
                match stream.read(&mut chunk)? {
                    0 => break,
                    bytes => received += bytes,
                }
            }
            Ok(received as f64 * 8.0 / begun.elapsed().as_secs_f64())
        }
        BenchDoes::Connect => {
            let some = || -> Result<()> {
                for _ in 0..count / callers {
                    let stream = S::connect(at, false)?;
                    stream.shut_down()?;
                    // The end of the other's stream: both have closed.
                    stream.read(&mut [0])?;
                }
                Ok(())
            };
            std::thread::scope(|scope| -> Result<()> {
                let all: Vec<_> = (0..callers).map(|_| scope.spawn(some)).collect();
                all.into_iter().try_for_each(|caller| {
                    caller.join().map_err(|_| anyhow::anyhow!("a caller failed"))?
                })
            })?;
            Ok(f64::from(count) / begun.elapsed().as_secs_f64())
        }
        BenchDoes::Accept => {
            let listener = S::listen(at, false)?;
            say!("ready")?;
            for _ in 0..count / callers * callers {
                let stream = S::accept(&listener)?;
                stream.read(&mut [0])?;
            }
            Ok(f64::from(count) / begun.elapsed().as_secs_f64())
        }
        BenchDoes::Hold => hold::<S>(at, count),
        BenchDoes::AcceptAndHold => {
            let listener = S::listen(at, false)?;
            say!("ready")?;
            let mut held = Vec::new();
            loop {
                held.push(S::accept(&listener)?);
            }
        }
    }
}

/// Bytes of this process that a held connection costs. The other end may be anybody.
fn hold<S: Stream>(at: SocketAddr, count: u32) -> Result<f64> {
    // What the first costs, the others share.
    let mut held = vec![S::connect(at, false)?];
    let before = private_bytes();
    for _ in 0..count {
        held.push(S::connect(at, false)?);
    }
    let bytes = private_bytes().saturating_sub(before) as f64 / f64::from(count);
    say!("{bytes}")?;
    let _ = std::io::stdin().lock().read_line(&mut String::new());
    drop(held);
    Ok(bytes)
}

/// Anonymous memory of this process; channels are shared and not among it.
fn private_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok());
    kib.unwrap_or(0u64) * 1024
}
