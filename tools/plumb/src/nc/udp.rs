//! Datagrams: one for what each read of standard input gives.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use plumb_net::{Options, Udp};

use crate::output;

/// Talks over a UDP flow until standard input ends and nothing more comes.
pub(super) fn run(
    options: &Options,
    place: SocketAddr,
    listen: bool,
    wait: Duration,
) -> Result<ExitCode> {
    let (socket, first) = if listen {
        let socket = options.bind(place)?;
        // Whoever speaks first is talked to.
        let mut buffer = vec![0; 65_536];
        let (bytes, from) = socket.recv_from(&mut buffer)?;
        socket.connect(from)?;
        (socket, buffer[..bytes].to_vec())
    } else {
        (options.connect(place)?, Vec::new())
    };
    output::bytes(&first)?;
    let socket = Arc::new(socket);
    let ended = Arc::new(AtomicBool::new(false));
    let sender = {
        let (socket, ended) = (Arc::clone(&socket), Arc::clone(&ended));
        std::thread::spawn(move || {
            let result = pump(&socket);
            ended.store(true, Ordering::Release);
            result
        })
    };
    receive(&socket, &ended, wait)?;
    sender.join().map_err(|_| anyhow::anyhow!("the sending thread failed"))??;
    Ok(ExitCode::SUCCESS)
}

/// Sends standard input, a datagram for what each read gives.
fn pump(socket: &Udp) -> Result<()> {
    let mut buffer = vec![0; socket.payload_bytes_max()];
    let mut input = std::io::stdin().lock();
    loop {
        let bytes = input.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        socket.send(&buffer[..bytes])?;
    }
}

/// Writes what comes to standard output, until `wait` after standard input ended.
fn receive(socket: &Udp, ended: &AtomicBool, wait: Duration) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = vec![0; 65_536];
    let mut quiet_since = None;
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => {
                output::bytes(&buffer[..bytes])?;
                quiet_since = None;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if ended.load(Ordering::Acquire) {
                    let since = *quiet_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= wait {
                        return Ok(());
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
