//! A sender application: datagrams as fast as its contract lets them out, or at a steady rate; over
//! Plumb, or over the kernel's sockets where Linux is to be compared.

use std::net::UdpSocket;
use std::process::ExitCode;

use anyhow::Result;
use plumb_net::{Host, Udp};
use rbuf_shm::monotonic_ns;

use super::{STAMP_BYTES, stamp, wait_until};
use crate::cli;
use crate::daemons::die_with_parent;
use crate::output::say;
use crate::process;

/// Whose stack it uses.
enum Socket {
    Plumb(Box<Udp>),
    Kernel(UdpSocket),
}

impl Socket {
    fn send(&self, payload: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plumb(socket) => socket.send(payload),
            Self::Kernel(socket) => socket.send(payload),
        }
    }
}

/// Sends numbered datagrams until the process is killed.
pub fn run(arguments: &cli::Sender) -> Result<ExitCode> {
    die_with_parent()?;
    let socket = if arguments.kernel {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(arguments.to)?;
        Socket::Kernel(socket)
    } else {
        let host = Host::connect(&arguments.socket.socket)?;
        // Enough that a sender that is not given the processor in time loses nothing of its contract.
        let options = Udp::options().host(&host).contract(arguments.contract);
        Socket::Plumb(Box::new(options.send_buffers(arguments.buffers).connect(arguments.to)?))
    };
    if arguments.hold {
        process::ready()?;
    } else {
        say!("ready")?;
    }
    let mut payload = vec![0; arguments.bytes.max(STAMP_BYTES)];
    let every_ns = arguments.every.map(|every| every.as_nanos() as u64);
    let (begun, burst) = (monotonic_ns(), u64::from(arguments.burst.max(1)));
    for number in 0u64.. {
        if let Some(every_ns) = every_ns {
            wait_until(begun + number / burst * every_ns);
        }
        stamp(&mut payload, number, monotonic_ns());
        match socket.send(&payload) {
            Ok(_) => {}
            // The kernel's queue is full, or nobody listens: what a flood does about that is to go on.
            Err(_) if arguments.kernel => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}
