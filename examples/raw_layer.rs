//! A layer of one's own: it numbers datagrams on the way down, and counts gaps on the way up.
//!
//! A layer is built over anything that is a layer, presents the same two faces, and need not know
//! what is above or below it. Head room for its header is summed when the stack is built.
//!
//! ```text
//! $ cargo run --release -- lab -- cargo run --release -p examples --bin raw_layer
//! ```

use std::io::{self, Write};
use std::time::Duration;

use plumb_net::layer::{
    Buffer, Device, Ether, Fault, Incoming, Ip4, Layer, Outgoing, Protocol, SendError, Udp,
};
use plumb_net::{Endpoints, Fib, Flow, Host, Options, Sap, Transport};

/// Puts a number of eight bytes in front of every packet.
struct Numbered<L> {
    lower: L,
    next: u64,
    expected: u64,
    gaps: u64,
}

const NUMBER_BYTES: usize = 8;

impl<L: Layer> Layer for Numbered<L> {
    type Area = L::Area;
    type Words = L::Words;

    fn device(&mut self) -> &mut Device<L::Words, L::Area> {
        self.lower.device()
    }

    fn head_room(&self) -> usize {
        self.lower.head_room() + NUMBER_BYTES
    }

    fn payload_bytes_max(&self) -> usize {
        self.lower.payload_bytes_max() - NUMBER_BYTES
    }

    fn packet(&mut self) -> Result<Option<Outgoing<L::Area>>, Fault> {
        self.lower.packet()
    }

    fn discard(&mut self, packet: Outgoing<L::Area>) -> Result<(), Fault> {
        self.lower.discard(packet)
    }

    fn send(&mut self, mut packet: Outgoing<L::Area>) -> Result<(), SendError> {
        packet.push_header(&self.next.to_be_bytes());
        self.next += 1;
        self.lower.send(packet)
    }

    fn receive(&mut self) -> Result<Option<Incoming<L::Area>>, Fault> {
        let Some(mut packet) = self.lower.receive()? else { return Ok(None) };
        if let Some(number) = packet.head().first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) {
            self.gaps += number.saturating_sub(self.expected);
            self.expected = number + 1;
            packet.strip(NUMBER_BYTES);
        }
        Ok(Some(packet))
    }

    fn release(&mut self, buffer: Buffer) -> Result<(), Fault> {
        self.lower.release(buffer)
    }

    fn reorganise(&mut self, fib: &Fib) {
        self.lower.reorganise(fib);
    }

    fn damaged(&self) -> u64 {
        self.lower.damaged()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::shared()?;
    let ours = host.links()[0].addresses[0].address();
    // Two flows of this host, so that the example needs no peer; the driver turns frames around.
    let open = |here: u16, there: u16| {
        let endpoints = Endpoints {
            transport: Transport::Udp,
            local: Sap::new(ours, here),
            remote: Some(Sap::new(ours, there)),
        };
        host.open(&Options::new(), endpoints)
    };
    let (mut a, mut b) = (open(9001, 9002)?, open(9002, 9001)?);
    let stack = |flow: &mut Flow| -> Result<_, Box<dyn std::error::Error>> {
        let fib = *flow.fib();
        let device = flow.take_device().ok_or("no device")?;
        let network = Ip4::new(Ether::new(device, &fib), &fib, Protocol::UDP)?;
        let lower = Udp::new(network, &fib);
        Ok(Numbered { lower, next: 0, expected: 0, gaps: 0 })
    };
    let (mut sender, mut receiver) = (stack(&mut a)?, stack(&mut b)?);
    let mut output = io::stdout();
    writeln!(output, "head room: {} bytes", sender.head_room())?;

    for number in 0..20 {
        let mut packet = sender.packet()?.ok_or("no buffer")?;
        packet.write(format!("datagram {number}").as_bytes());
        if number == 7 {
            sender.next += 3;
        }
        sender.send(packet)?;
    }
    a.kick(sender.device());

    let mut received = 0;
    while received < 20 {
        match receiver.receive()? {
            Some(packet) => {
                received += 1;
                receiver.give_back(packet)?;
            }
            None if b.wait(receiver.device(), Duration::from_secs(1))? => {}
            None => break,
        }
    }
    writeln!(output, "{received} received, {} missing", receiver.gaps)?;
    Ok(())
}
