//! A TCP listener to which strangers send what they like.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use stack_tcp::{Config, Ecn, Error, FastOpening, Listener, RouterError, Secret, Segment, State};

use crate::script::{Script, options};

/// Room for half-open connections; small, so that cookies come soon.
const BACKLOG: usize = 3;

/// Segments that may leave at one time, for each that arrived or waited.
const ANSWERS_MAX: usize = 2 * BACKLOG + 8;

/// Strangers at some addresses, possible ones and not, send segments to a listener as `bytes` say, while
/// time goes by. Whoever is given a connection has acknowledged a SYN-ACK that was sent to him, there are
/// never more half-open connections than there is room for, nobody is answered who cannot be there, no
/// reset answers a reset, and the listener is either at rest or knows when it will act.
pub fn listener(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut victim = Victim::new(&mut script);
    while !script.0.is_empty() {
        victim.step(&mut script);
        victim.poll(ANSWERS_MAX);
    }
}

struct Victim {
    listener: Listener,
    now_ns: u64,
    /// What SYN-ACKs told each stranger, without the bits that a cookie leaves to him.
    told: HashMap<SocketAddr, HashSet<u32>>,
    /// The last of them, and the SYN's number it answers.
    last: HashMap<SocketAddr, Segment>,
}

fn stranger(number: u8) -> SocketAddr {
    match number % 8 {
        0 => ([0, 0, 0, 0], 7).into(),
        1 => ([224, 0, 0, 1], 7).into(),
        2 => ([10, 0, 0, 1], 0).into(),
        number => ([10, 0, 0, 1], u16::from(number)).into(),
    }
}

const fn told(acknowledgment: u32) -> u32 {
    acknowledgment.wrapping_sub(1) & !7
}

impl Victim {
    fn new(script: &mut Script<'_>) -> Self {
        let config = Config {
            timestamps: script.bit(),
            sack: script.bit(),
            window_scaling: script.bit(),
            ecn: script.bit(),
            ..Config::default()
        };
        let local = ([10, 0, 0, 2], 80).into();
        let mut listener = Listener::new(local, config, Secret::new([3; 16]), BACKLOG);
        let opening = FastOpening { pending_max: 3, needs_cookie: script.bit() };
        listener.set_fast_open(script.bit().then_some(opening), None);
        Self { listener, now_ns: 0, told: HashMap::new(), last: HashMap::new() }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let remote = stranger(script.byte());
        match script.byte() % 8 {
            0..=4 => self.segment(remote, script),
            5 => self.now_ns += (u64::from(script.word()) * 1000) << (script.byte() % 24),
            6 => {
                let deadline_ns = self.listener.next_deadline().unwrap_or(self.now_ns);
                self.now_ns = deadline_ns.max(self.now_ns);
            }
            _ => {
                let quoted = self.last.get(&remote).map_or(0, |syn_ack| syn_ack.sequence);
                let error = match script.byte() % 3 {
                    0 => RouterError::Undelivered(Error::HostUnreachable),
                    1 => RouterError::Undelivered(Error::Refused),
                    _ => RouterError::TooBig(script.word()),
                };
                let quoted = quoted.wrapping_add(u32::from(script.byte() / 128));
                self.listener.on_router_error(self.now_ns, remote, quoted, error);
            }
        }
    }

    /// A segment that answers the last SYN-ACK, nearly, or is of nothing that the listener knows.
    fn segment(&mut self, remote: SocketAddr, script: &mut Script<'_>) {
        let last = self.last.get(&remote).copied().unwrap_or_default();
        let near = |script: &mut Script<'_>| match script.byte() % 4 {
            0 | 1 => 0,
            2 => i32::from(script.byte() as i8),
            _ => i32::from(script.word()) << 16,
        };
        let flags =
            [0x02, 0x10, 0x02, 0x18, 0x11, 0x12, 0x04, 0x14][usize::from(script.byte() % 8)];
        let segment = Segment {
            sequence: last.acknowledgment.wrapping_add_signed(near(script)),
            acknowledgment: last.sequence.wrapping_add(1).wrapping_add_signed(near(script)),
            flags: flags | script.byte() & 0xe0,
            window: script.word(),
            urgent: script.word(),
            options: options(script),
            payload_bytes: u32::from(script.byte()),
            ecn: Ecn::from_tos(script.byte()),
        };
        let (full, reopens) = (script.byte().is_multiple_of(8), script.byte().is_multiple_of(8));
        // What was due is out of the way: what leaves next is an answer.
        self.poll(ANSWERS_MAX);
        let before = (self.listener.half_open(), *self.listener.counts());
        if reopens && segment.has(0x02) && !segment.has(0x10) {
            let number = u32::from(script.word());
            self.listener.reopen(self.now_ns, (remote, ()), &segment, full, number);
            return;
        }
        let given = self.listener.on_segment(self.now_ns, (remote, ()), &segment, full);
        if let Some(mut connection) = given {
            assert!(!full && !segment.has(0x04), "{segment:?}");
            if connection.state() == State::SynReceived {
                // Data on a SYN counts.
                assert!(segment.opens() && connection.is_open());
            } else {
                assert_eq!(connection.state(), State::Established);
                assert!(segment.has(0x10));
                let known = self.told.get(&remote);
                assert!(known.is_some_and(|all| all.contains(&told(segment.acknowledgment))));
            }
            let kept = connection.on_segment(self.now_ns, &segment).keep;
            assert!(kept.is_none_or(|keep| keep.bytes <= segment.payload_bytes));
            while connection.poll_transmit(self.now_ns).is_some() {}
        }
        let stranger =
            remote.ip().is_unspecified() || remote.ip().is_multicast() || remote.port() == 0;
        if stranger {
            assert_eq!(before, (self.listener.half_open(), *self.listener.counts()));
        }
        let answers = self.poll(ANSWERS_MAX);
        assert!(!stranger || answers.is_empty(), "{answers:?}");
        if segment.has(0x04) {
            // RFC 5961 §3.2: it may be questioned.
            assert!(answers.len() <= 1 && answers.iter().all(|answer| !answer.has(0x04)));
        }
    }

    /// Takes what leaves, at most so much.
    fn poll(&mut self, most: usize) -> Vec<Segment> {
        let mut sent = Vec::new();
        while let Some((remote, (), segment)) = self.listener.poll_transmit(self.now_ns) {
            sent.push(segment);
            assert!(sent.len() <= most, "{sent:?}");
            if segment.has(0x12) {
                self.told.entry(remote).or_default().insert(segment.sequence & !7);
                self.last.insert(remote, segment);
            }
        }
        assert!(self.listener.half_open() <= BACKLOG);
        let deadline = self.listener.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now_ns), "{deadline:?} at {}", self.now_ns);
        sent
    }
}
