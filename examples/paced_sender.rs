//! Sends a stream with a guarantee: 2 ms of the wire in every 20 ms, whatever others do.
//!
//! The sender does not pace itself: it writes datagrams where they will be sent from, as fast as
//! buffers come back, and the contract does the rest.
//!
//! ```text
//! $ cargo run --release -- lab -- cargo run --release -p examples --bin paced_sender 10.77.0.2:5000 1000
//! ```

use std::io::{self, Write};
use std::time::Instant;

use plumb_net::{Contract, Udp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: paced_sender ADDRESS:PORT COUNT";
    let destination = arguments.next().ok_or(usage)?;
    let count: u64 = arguments.next().ok_or(usage)?.parse()?;

    let contract = Contract::guaranteed(2_000_000, 20_000_000)?;
    let socket = Udp::options().contract(contract).connect(destination)?;
    let mut output = io::stdout();
    writeln!(output, "admitted: {}", socket.contract())?;

    let begun = Instant::now();
    for number in 0..count {
        let mut datagram = socket.buffer()?;
        datagram.write(&number.to_be_bytes());
        datagram.write(&[0; 1000]);
        datagram.send()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bill = socket.close()?;
    writeln!(
        output,
        "{count} datagrams queued in {seconds:.2} s; {} frames sent, {:.1} ms of the wire, {:.1} ms of the driver's time",
        bill.tx_frames,
        bill.tx_wire_ns as f64 / 1e6,
        bill.tx_cpu_ns as f64 / 1e6,
    )?;
    Ok(())
}
