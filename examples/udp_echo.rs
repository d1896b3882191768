//! Sends every datagram back to whom it came from.
//!
//! Try it in a lab:
//!
//! ```text
//! $ cargo run --release -- lab
//! $ cargo run --release -p examples --bin udp_echo 7 &
//! $ $PLUMB_PEER bash -c 'echo hello > /dev/udp/10.77.0.1/7'
//! ```

use std::io::{self, Write};

use plumb_net::Udp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: udp_echo PORT")?.parse()?;
    let socket = Udp::bind(("0.0.0.0", port))?;
    writeln!(io::stdout(), "echoing at {}", socket.local_addr())?;
    let mut buffer = vec![0; 65_536];
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer)?;
        // Where no way leads back to is the sender's affair, and no reason to leave everybody else.
        if let Err(error) = socket.send_to(&buffer[..bytes], from) {
            let _ = writeln!(io::stderr(), "no answer to {from}: {error}");
        }
    }
}
