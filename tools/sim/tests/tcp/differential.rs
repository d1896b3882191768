//! The same segments to two implementations: what is read, and whether it ends by a reset, must be the same.
//!
//! Both are given a stream in pieces: in order and not, twice, overlapping, damaged, outside the window, with
//! resets and SYNs that must not count. In the end everything comes once more in order, and then a FIN
//! or a reset. What one of them does not keep meanwhile (the other one holds few gaps) does not
//! matter; what it takes for data does.

use std::net::Ipv4Addr;

use base_wire::tcp_flag;
use stack_tcp::{Config, Options, Segment};
use tools_sim::tcp::{Behaviour, Engine, Host, RawPacket, byte_at, packet, unwrap};

use crate::peer::Smoltcp;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORTS: (u16, u16) = (4000, 4001);

/// Somebody who sends whatever the lot says.
struct Sender<'a> {
    host: &'a mut dyn Host,
    lot: fastrand::Rng,
    now_ns: u64,
    /// Our SYN, and the number after the host's.
    initial: u32,
    acknowledgment: u32,
}

impl Sender<'_> {
    fn say(&mut self, segment: &Segment, payload: &[u8], damaged: bool) {
        let mut bytes = packet((US, HOST), PORTS, segment, &[payload]);
        if damaged {
            let at = self.lot.usize(20..bytes.len());
            bytes[at] ^= 1 << self.lot.u8(0..8);
        }
        self.host.arrive(self.now_ns, &bytes);
        self.listen();
    }

    fn listen(&mut self) -> Vec<RawPacket> {
        let mut said = Vec::new();
        self.host.poll(self.now_ns, &mut |packet| said.push(packet));
        said
    }

    fn segment(&self, offset: u64, flags: u8, payload_bytes: u32) -> Segment {
        Segment {
            sequence: self.initial.wrapping_add(1 + offset as u32),
            acknowledgment: self.acknowledgment,
            flags: flags | tcp_flag::ACK,
            window: 60_000,
            payload_bytes,
            ..Segment::default()
        }
    }

    fn open(&mut self) {
        let options = Options { mss: Some(1460), ..Options::default() };
        let flags = tcp_flag::SYN;
        let syn = Segment {
            sequence: self.initial,
            flags,
            window: 60_000,
            options,
            ..Segment::default()
        };
        self.host.arrive(self.now_ns, &packet((US, HOST), PORTS, &syn, &[]));
        let answer = self.listen();
        let (_, syn_ack, _) = unwrap(answer.first().expect("a SYN-ACK")).unwrap();
        assert!(syn_ack.has(tcp_flag::SYN | tcp_flag::ACK));
        self.acknowledgment = syn_ack.sequence.wrapping_add(1);
        self.say(&self.segment(0, 0, 0), &[], false);
    }

    fn data(&mut self, from: u64, to: u64, damaged: bool) {
        let payload: Vec<u8> = (from..to).map(|offset| byte_at(0, offset)).collect();
        self.say(&self.segment(from, tcp_flag::PSH, payload.len() as u32), &payload, damaged);
    }

    /// Something that may happen to a stream of `bytes`.
    fn happens(&mut self, bytes: u64) {
        let from = self.lot.u64(0..bytes);
        let to = (from + self.lot.u64(1..1460)).min(bytes);
        match self.lot.u8(0..10) {
            0..=5 => self.data(from, to, false),
            6 => self.data(from, to, true),
            // Beyond any window.
            7 => {
                let far = self.segment(from + 1_000_000, tcp_flag::PSH, 4);
                self.say(&far, b"evil", false);
            }
            // A reset and a SYN from far away, or long ago.
            8 => {
                let reset = Segment { flags: tcp_flag::RST, ..self.segment(bytes + 500_000, 0, 0) };
                self.say(&reset, &[], false);
            }
            _ => self.now_ns += self.lot.u64(0..20_000_000),
        }
    }

    /// The whole story; what was read, whether it ended, and whether it failed.
    fn tell(mut self, bytes: u64, resets: bool) -> (u64, Option<u64>, bool, bool) {
        self.open();
        for _ in 0..60 {
            self.happens(bytes);
        }
        for _ in 0..2 {
            for from in (0..bytes).step_by(1000) {
                self.data(from, (from + 1000).min(bytes), false);
            }
        }
        if resets {
            let reset =
                Segment { flags: tcp_flag::RST | tcp_flag::ACK, ..self.segment(bytes, 0, 0) };
            self.say(&reset, &[], false);
        } else {
            self.say(&self.segment(bytes, tcp_flag::FIN, 0), &[], false);
        }
        self.listen();
        let progress = self.host.progress();
        let reset = self.host.failure().is_some() && !progress.ended;
        (progress.read, progress.wrong, progress.ended && !reset, reset)
    }
}

fn story(seed: u64, host: &mut dyn Host) -> (u64, Option<u64>, bool, bool) {
    let mut lot = fastrand::Rng::with_seed(seed);
    let (initial, bytes, resets) = (lot.u32(..), lot.u64(1..20_000), lot.bool());
    Sender { host, lot, now_ns: 1_000_000, initial, acknowledgment: 0 }.tell(bytes, resets)
}

#[test]
fn two_implementations_read_the_same_and_end_the_same() {
    // It writes later than all of this.
    let silent = || Behaviour { writes: 1, write_every_ns: 0, ..Behaviour::sends(1) };
    for seed in crate::seeds() {
        let config =
            Config { receive_bytes: 32_768, receive_bytes_max: 32_768, ..Config::default() };
        let mut ours = Engine::new(1, config, silent(), 77);
        let mut theirs = Smoltcp::new(1, silent(), 32_768, false);
        let one = story(seed, &mut ours);
        let other = story(seed, &mut theirs);
        assert_eq!(one.1, None, "seed {seed}: a wrong byte");
        assert_eq!(
            (one.0, one.1, one.2),
            (other.0, other.1, other.2),
            "seed {seed}: {one:?} {other:?}"
        );
    }
}
