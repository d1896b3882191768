//! A TCP connection whose peer, routers and application are all adversaries.

use std::collections::BTreeSet;

use stack_tcp::{
    Algorithm, Arrival, Config, Connection, Ecn, Error, Identity, Keepalive, Opening, RouterError,
    Segment, State, Transmit,
};

use crate::script::{Script, options};

const ISN: u32 = u32::MAX - 3000;
const PEER_ISN: u32 = u32::MAX - 1000;

/// The adversaries act as `bytes` say. Whatever they do, every byte of the stream is kept once,
/// acknowledgments and the window's edge never go back, nothing is sent that was not written, the
/// books balance, memory stays within its bounds, and the connection is either at rest or knows when it
/// will act.
pub fn tcp(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut victim = Victim::new(&mut script);
    victim.poll();
    while !script.0.is_empty() {
        victim.step(&mut script);
        victim.poll();
    }
}

struct Victim {
    connection: Connection,
    now_ns: u64,
    written: u64,
    kept: BTreeSet<u64>,
    consumed: u64,
    /// Newest acknowledgment and edge that were sent.
    told: Option<(u32, u32)>,
    /// The peer's SYN, and the number it would send next.
    initial: u32,
    sequence: u32,
    shift: u8,
}

impl Victim {
    fn new(script: &mut Script<'_>) -> Self {
        let receive_bytes = 64 << (script.byte() % 12);
        let config = Config {
            mtu: [1500, 576, 9000, 68][usize::from(script.byte() % 4)],
            receive_bytes,
            receive_bytes_max: receive_bytes,
            timestamps: script.bit(),
            sack: script.bit(),
            window_scaling: script.bit(),
            ecn: script.bit(),
            super_segment_bytes: u32::from(script.word()),
            congestion: if script.bit() { Algorithm::Reno } else { Algorithm::Cubic },
            keepalive: script.bit().then_some(Keepalive {
                idle_ns: 1_000_000_000,
                interval_ns: 1_000_000_000,
                probes: 3,
            }),
            pacing_bytes_per_second: script.bit().then_some(100_000),
            ..Config::default()
        };
        let identity = Identity { initial_sequence: ISN, timestamp_offset: 7 };
        let options = options(script);
        let syn = Segment {
            sequence: PEER_ISN,
            flags: 0x02,
            window: script.word(),
            options,
            ..Segment::default()
        };
        let connection = if script.bit() {
            let mut connection = Connection::connect(0, config, identity);
            if script.bit() {
                connection.open_fast(Opening::Bare, script.bit().then(|| script.word()));
            }
            connection
        } else {
            Connection::accept(0, config, identity, &syn).expect("a SYN opens a connection")
        };
        Self {
            connection,
            now_ns: 0,
            written: 0,
            kept: BTreeSet::new(),
            consumed: 0,
            told: None,
            initial: PEER_ISN,
            sequence: PEER_ISN.wrapping_add(1),
            shift: 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 12 {
            0..=4 => self.segment(script),
            5 => {
                let bytes = u64::from(script.word());
                if self.connection.write(bytes, script.bit()).is_ok() {
                    self.written += bytes;
                }
            }
            6 => {
                let bytes = u64::from(script.word()).min(self.connection.readable());
                self.connection.consume(self.now_ns, bytes);
                self.consumed += bytes;
            }
            7 => self.now_ns += (u64::from(script.word()) * 1000) << (script.byte() % 24),
            8 => {
                self.now_ns =
                    self.connection.next_deadline().unwrap_or(self.now_ns).max(self.now_ns)
            }
            9 => match script.byte() % 8 {
                0 => self.connection.shut_down(self.now_ns),
                1 => self.connection.close(self.now_ns),
                2 => self.connection.abort(self.now_ns),
                3 => self.connection.mark_urgent(),
                4 => self.connection.set_cork(script.bit()),
                5 => self.connection.set_no_delay(script.bit()),
                6 => self.connection.on_route(self.now_ns, script.word()),
                _ => self.connection.set_departed(u64::from(script.word())),
            },
            10 => {
                let error = match script.byte() % 3 {
                    0 => RouterError::Undelivered(Error::HostUnreachable),
                    1 => RouterError::Undelivered(Error::Refused),
                    _ => RouterError::TooBig(script.word()),
                };
                let quoted = ISN.wrapping_add(u32::from(script.word()));
                self.connection.on_router_error(self.now_ns, quoted, error);
            }
            _ => self.now_ns += 1_000_000,
        }
    }

    /// A segment near what the connection expects, or not so near.
    fn segment(&mut self, script: &mut Script<'_>) {
        let acknowledged = ISN.wrapping_add(1 + self.connection.acknowledged() as u32);
        let near = |script: &mut Script<'_>| match script.byte() % 4 {
            0 => 0,
            1 => i32::from(script.byte() as i8),
            2 => i32::from(script.word() as i16),
            _ => i32::from(script.word()) << 16 | i32::from(script.word()),
        };
        let flags =
            [0x10, 0x18, 0x11, 0x12, 0x02, 0x04, 0x14, 0x50][usize::from(script.byte() % 8)];
        let payload_bytes = u32::from(script.word() % 3000) * u32::from(script.bit());
        let segment = Segment {
            sequence: self.sequence.wrapping_add_signed(near(script)),
            acknowledgment: acknowledged.wrapping_add_signed(near(script)),
            flags: flags | script.byte() & 0xa0,
            window: script.word(),
            urgent: script.word(),
            options: options(script),
            payload_bytes,
            ecn: Ecn::from_tos(script.byte()),
        };
        let opening = self.connection.state() == State::SynSent;
        let Arrival { keep, .. } = self.connection.on_segment(self.now_ns, &segment);
        if opening && self.connection.state() != State::SynSent {
            self.initial = segment.sequence;
            self.sequence = segment.sequence.wrapping_add(1);
        }
        if let Some(keep) = keep {
            assert!(keep.skip + keep.bytes <= payload_bytes, "{keep:?}");
            // What comes with a SYN begins behind it.
            let first = segment.sequence.wrapping_add(u32::from(opening));
            assert_eq!(
                self.initial.wrapping_add(1 + keep.offset as u32),
                first.wrapping_add(keep.skip),
            );
            for offset in keep.offset..keep.offset + u64::from(keep.bytes) {
                assert!(self.kept.insert(offset), "byte {offset} was kept twice");
            }
        }
        if script.bit() && !opening {
            self.sequence = self.sequence.wrapping_add(payload_bytes);
        }
    }

    fn poll(&mut self) {
        for count in 0.. {
            let Some(transmit) = self.connection.poll_transmit(self.now_ns) else { break };
            self.check_sent(&transmit);
            assert!(count < 200_000, "it sends without end");
        }
        let deadline = self.connection.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now_ns), "{deadline:?} at {}", self.now_ns);
        self.check_books();
    }

    fn check_sent(&mut self, transmit: &Transmit) {
        let segment = &transmit.segment;
        let bytes = u64::from(segment.payload_bytes);
        assert!(bytes == 0 || transmit.offset + bytes <= self.written, "{transmit:?}");
        assert!(transmit.segment_bytes > 0);
        check_frames(transmit);
        if segment.has(0x04) || !segment.has(0x10) {
            return;
        }
        if segment.has(0x02) {
            self.shift = segment.options.window_shift.unwrap_or(0);
        }
        let shift = if segment.has(0x02) { 0 } else { self.shift };
        let ack = segment.acknowledgment;
        let edge = ack.wrapping_add(u32::from(segment.window) << shift);
        if let Some((last_ack, last_edge)) = self.told {
            assert!(ack.wrapping_sub(last_ack) as i32 >= 0, "an acknowledgment went back");
            // RFC 7323 §2.2: the window of a repeated SYN-ACK is not shifted, and cannot tell more.
            let cannot_tell = segment.has(0x02) && segment.window == u16::MAX;
            let back = edge.wrapping_sub(last_edge).cast_signed() < 0;
            assert!(!back || cannot_tell, "the edge went back");
            self.told = Some((ack, if back { last_edge } else { edge }));
        } else {
            self.told = Some((ack, edge));
        }
    }

    fn check_books(&self) {
        let (connection, info) = (&self.connection, self.connection.info());
        let outstanding = connection.unacknowledged() - connection.unsent();
        let counted = info.in_flight_bytes + info.sacked_bytes + info.lost_bytes;
        assert!((outstanding..=outstanding + 2).contains(&counted), "{outstanding} {info:?}");
        assert!(info.held_stretches <= 1024 && info.map_entries <= 4096, "{info:?}");
        assert!(info.window_bytes > 0 && info.segment_bytes > 0);
        let in_order = (0..).take_while(|offset| self.kept.contains(offset)).count() as u64;
        if connection.state() != State::Closed {
            assert_eq!(connection.readable() + self.consumed, in_order);
        }
    }
}

/// What a link that cannot cut is given says the same as the whole: the same bytes in the same places, FIN
/// and PSH with the last, CWR with the first, and the same end of what is urgent.
fn check_frames(whole: &Transmit) {
    let (mut at, last) = (0, whole.frames().count() - 1);
    for (index, frame) in whole.frames().enumerate() {
        let (part, all) = (&frame.segment, &whole.segment);
        assert_eq!(frame.offset, whole.offset + u64::from(at));
        assert_eq!(part.sequence, all.sequence.wrapping_add(at));
        assert!(part.payload_bytes <= frame.segment_bytes);
        assert!(part.payload_bytes == frame.segment_bytes || index == last, "{whole:?}");
        let both = |flag: u8, here: bool| part.has(flag) == (all.has(flag) && here);
        assert!(both(0x01, index == last) && both(0x08, index == last) && both(0x80, index == 0));
        let urgent = all.has(0x20) && (index == 0 || u32::from(all.urgent) > at);
        assert_eq!(part.has(0x20), urgent, "{whole:?}");
        if urgent {
            assert_eq!(u32::from(part.urgent) + at, u32::from(all.urgent), "{whole:?}");
        }
        at += part.payload_bytes;
    }
    assert_eq!(at, whole.segment.payload_bytes);
}
