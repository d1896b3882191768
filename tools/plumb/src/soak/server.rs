//! The server of a soak: the same over either stack. It answers each request with as many bytes as were asked for,
//! and closes first, as servers of HTTP do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener as KernelListener};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use plumb_net::Options;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::cli::{self, Stack};
use crate::daemons::die_with_parent;
use crate::output::{say, tell};

/// Connections that may wait, at either stack: more than clients come at a time.
const BACKLOG: u32 = 1024;

/// The longest answer.
pub const ANSWER_BYTES_MAX: usize = 100_000;

/// A connection's thread needs little.
const STACK_BYTES: usize = 64 << 10;

/// What answers consist of.
pub fn body() -> Vec<u8> {
    (0..ANSWER_BYTES_MAX).map(|at| (at % 251) as u8).collect()
}

/// The head of an answer of so many bytes.
pub fn head(bytes: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")
}

/// Serves until it is killed.
pub fn run(arguments: &cli::SoakServer) -> Result<ExitCode> {
    die_with_parent()?;
    let body: &'static [u8] = body().leak();
    match arguments.stack {
        Stack::Plumb => {
            let listener = Options::new().backlog(BACKLOG).listen(arguments.at)?;
            say!("ready")?;
            let mut known = 0;
            loop {
                take(listener.accept(), body);
                let (count, reason) = listener.turned_away();
                if count > known {
                    known = count;
                    let reason = reason.unwrap_or_default();
                    tell!(
                        "plumb soak: {count} connections could have no flow, the first one because of this: {reason}"
                    );
                }
            }
        }
        Stack::Kernel => {
            let listener = kernel_listener(arguments.at)?;
            say!("ready")?;
            loop {
                take(listener.accept(), body);
            }
        }
    }
}

fn kernel_listener(at: SocketAddr) -> Result<KernelListener> {
    let socket: OwnedFd =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, BACKLOG as i32)?;
    Ok(socket.into())
}

/// Serves a connection on a thread of its own. The clients count what goes wrong; the reason is said here.
fn take<S>(accepted: io::Result<(S, SocketAddr)>, body: &'static [u8])
where
    S: Send + 'static,
    for<'a> &'a S: Read + Write,
{
    let serve = |stream: S| {
        let answer = move || {
            if let Err(error) = answer(&stream, body) {
                tell!("plumb soak: the server had an error with a connection: {error}");
            }
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(answer).map(|_| ())
    };
    if let Err(error) = accepted.and_then(|(stream, _)| serve(stream)) {
        tell!("plumb soak: the server did not serve a connection: {error}");
    }
}

/// Answers requests until one asks to close.
fn answer<S>(stream: &S, body: &[u8]) -> io::Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut out = stream;
    let mut input = BufReader::with_capacity(1024, stream);
    let mut answer = Vec::new();
    let mut closing = false;
    while !closing {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let bytes =
            line.split(' ').nth(1).and_then(|path| path.trim_start_matches('/').parse().ok());
        let bytes: usize = bytes.filter(|bytes| *bytes <= body.len()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` is no request", line.trim_end()),
            )
        })?;
        while line != "\r\n" {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            closing |= line.starts_with("Connection: close");
        }
        answer.clear();
        answer.extend_from_slice(head(bytes).as_bytes());
        answer.extend_from_slice(&body[..bytes]);
        out.write_all(&answer)?;
    }
    Ok(())
}
