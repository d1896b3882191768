//! What the peer's side of the wire asks of us, as a frame, and what answers it.

use std::time::{Duration, Instant};

use base_wire::{Arp, EtherType, Ethernet, Mac};
use driver_link::Link;
use driver_link_packet::PacketLink;
use etherparse::PacketBuilder;
use zerocopy::IntoBytes;

use super::{OURS, THEIRS, host, send_raw};

/// How many questions of each kind were asked, and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub asked: usize,
    pub arp: usize,
    pub echo: usize,
}

impl Answered {
    /// Whether at least 99 of 100 were, of each kind.
    pub const fn is_enough(&self) -> bool {
        self.arp * 100 >= self.asked * 99 && self.echo * 100 >= self.asked * 99
    }
}

/// Asks `asked` times for our station and for an echo, from the peer's side of the wire, where this has to run; `us`
/// is [`our_station`].
pub fn ask(us: Mac, asked: usize) -> Answered {
    let mut link = PacketLink::open("plumb1", None).unwrap();
    let station = link.facts().station;
    let head =
        Ethernet { destination: Mac::BROADCAST, source: station, ether_type: EtherType::ARP };
    let request = Arp::request(station, THEIRS, OURS);
    let request = [head.as_bytes(), request.as_bytes()].concat();
    let (mut arp, mut echo) = (0, 0);
    for number in 0..asked as u16 {
        let found = |frame: &[u8]| frame[12..14] == [8, 6] && frame[21] == 2;
        arp += usize::from(is_answered(&mut link, &request, found));
        let mut ping = Vec::new();
        PacketBuilder::ethernet2(station.0, us.0)
            .ipv4(THEIRS.octets(), OURS.octets(), 64)
            .icmpv4_echo_request(4711, number)
            .write(&mut ping, b"still there?")
            .unwrap();
        let pong = |frame: &[u8]| {
            frame[12..14] == [8, 0]
                && frame[23] == 1
                && frame[34] == 0
                && frame[40..42] == number.to_be_bytes()
        };
        echo += usize::from(is_answered(&mut link, &ping, pong));
    }
    Answered { asked, arp, echo }
}

/// The station that the lab's driver has.
pub fn our_station() -> Mac {
    host().query_links().unwrap()[0].facts.mac
}

/// Sends a question, and waits for an answer to it; not for ever.
fn is_answered(link: &mut PacketLink, question: &[u8], answers: impl Fn(&[u8]) -> bool) -> bool {
    send_raw(link, question);
    let asked = Instant::now();
    let mut answered = false;
    while !answered && asked.elapsed() < Duration::from_secs(2) {
        link.poll_rx(256, &mut |arrival| answered |= answers(arrival.frame));
        std::thread::yield_now();
    }
    answered
}
