//! A sender application of the demo: datagrams as fast as its contract lets them out.

use std::process::ExitCode;

use anyhow::Result;
use plumb_net::{Host, Udp};

use crate::cli;
use crate::daemons::die_with_parent;

/// Sends numbered datagrams until the process is killed.
pub fn run(arguments: &cli::Sender) -> Result<ExitCode> {
    die_with_parent()?;
    let host = Host::connect(&arguments.socket.socket)?;
    // Enough for the longest slice of the demo, so that a sender that is not given the processor in
    // time loses nothing of its contract.
    let options = Udp::options().host(&host).contract(arguments.contract).send_buffers(256);
    let socket = options.connect(arguments.to)?;
    let mut payload = vec![0; arguments.bytes.max(8)];
    println!("ready {}", socket.flow_id().index);
    for number in 0u64.. {
        payload[..8].copy_from_slice(&number.to_be_bytes());
        socket.send(&payload)?;
    }
    Ok(ExitCode::SUCCESS)
}
