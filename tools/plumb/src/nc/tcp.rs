//! A stream: standard input there, what comes back to standard output.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use plumb_net::{Options, TcpStream};

use crate::output;

/// For so long the peer may take to acknowledge the last bytes.
const FINISH: Duration = Duration::from_secs(60);

/// Talks over a TCP stream until both directions have ended.
pub(super) fn run(options: &Options, place: SocketAddr, listen: bool) -> Result<ExitCode> {
    let stream = if listen {
        options.listen(place)?.accept()?.0
    } else {
        options.connect_tcp(place).with_context(|| format!("cannot connect to {place}"))?
    };
    let sender = {
        let stream = stream.try_clone()?;
        thread::spawn(move || send(&stream))
    };
    receive(&stream)?;
    sender.join().map_err(|_| anyhow!("the sending thread failed"))??;
    // This process is the stack: what it has sent is delivered before it ends.
    stream.finish(FINISH).context("the peer did not take everything")?;
    Ok(ExitCode::SUCCESS)
}

fn send(mut stream: &TcpStream) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let bytes = input.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(stream.shutdown(Shutdown::Write)?);
        }
        stream.write_all(&buffer[..bytes])?;
    }
}

fn receive(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        output::bytes(&buffer[..bytes])?;
    }
}
