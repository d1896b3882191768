//! TCP as a state machine: segments and time in, segments and a deadline out (RFC 9293).
//!
//! Nothing here reads a clock, does I/O, or touches payload. A [`Connection`] knows which bytes were
//! written, sent, acknowledged, received and read, by their place in the stream; the bytes themselves
//! stay in the buffers of whoever drives it. So a retransmission copies nothing, a received frame stays
//! where the driver put it until it is read, and the same code runs over a flow, in a simulation in
//! virtual time, under a fuzzer and behind a packet script.
//!
//! # Driving a connection
//!
//! 1. *Something happens*: [`Connection::on_segment`] for each segment of a batch,
//!    [`Connection::write`], [`Connection::consume`], [`Connection::close`], a router's word, or
//!    nothing until [`Connection::next_deadline`].
//! 2. *Then* [`Connection::poll_transmit`], until it returns `None`. Asking after the batch and not
//!    after each segment is what aggregates acknowledgments (RFC 9293 MUST-58).
//! 3. *Then look*: [`Connection::readable`], [`Connection::acknowledged`] (below it the send buffer is
//!    free), [`Connection::state`], [`Connection::error`].
//!
//! Time is nanoseconds of any clock that does not go backwards.
//!
//! A transmission is timed from [`Connection::poll_transmit`] on, so what it waits in this host's own queue, and
//! a small contract makes that long, is part of the round trip. It should be: that queue is the narrowest
//! of the path, and a time-out or a slow start that knew nothing of it would end too early or too late.
//!
//! ```
//! use stack_tcp::{Config, Connection, Identity, State};
//!
//! let number = |initial_sequence| Identity { initial_sequence, timestamp_offset: 0 };
//! let mut client = Connection::connect(0, Config::default(), number(1));
//! let syn = client.poll_transmit(0).unwrap().segment;
//! let mut server = Connection::accept(0, Config::default(), number(2), &syn).unwrap();
//! let syn_ack = server.poll_transmit(0).unwrap().segment;
//! client.on_segment(0, &syn_ack);
//! server.on_segment(0, &client.poll_transmit(0).unwrap().segment);
//! assert_eq!((client.state(), server.state()), (State::Established, State::Established));
//!
//! client.write(5, false).unwrap();
//! let data = client.poll_transmit(0).unwrap();
//! assert_eq!((data.offset, data.segment.payload_bytes), (0, 5));
//! let kept = server.on_segment(0, &data.segment).keep.unwrap();
//! assert_eq!((kept.offset, kept.skip, kept.bytes), (0, 0, 5));
//! assert_eq!(server.readable(), 5);
//! ```
//!
//! # Invariants
//!
//! 1. Every byte of a stream is kept once, in its place, whatever arrives ([`Arrival::keep`]).
//! 2. Memory is bounded: entries of the send map, stretches out of order, records of the trace.
//! 3. Nothing a peer sends makes it panic or loop; numbers are 64 bits wide inside and cannot wrap
//!    ([`Position`]).
//!
//! # Cost
//!
//! A segment costs no allocation once the maps have grown to what the path needs.
//!
//! # Standards
//!
//! | RFC | What | Where |
//! |---|---|---|
//! | 9293 | the protocol; each MUST with its place and its test in `specs/rfc9293.md` | `arrive` in the order of §3.10.7, `transmit`, `timers`, `application`, [`Listener`] |
//! | 5961, 1337, 2525 | forged resets, SYNs and data; TIME-WAIT; data that nobody will read | `arrive` |
//! | 7413 | data on SYNs | `fast_open`, [`Listener`] |
//! | 6191, 6528 | TIME-WAIT and a new SYN; initial numbers | `arrive`, [`Secret`] |
//! | 4987 | floods of SYNs | [`Listener`] |
//! | 7323 | timestamps, old segments, windows beyond 64 KiB | `arrive`, `rtt`, `receiver`, `options` |
//! | 2018, 2883 | what arrived out of order, and twice | `receiver`, `held`, `send_map` |
//! | 8985, 6582, 3042 | what is lost, and what leaves meanwhile | `detection`, `tail`, `recovery` |
//! | 6937, 5682, 3522, 3708 | repair in proportion, and second thoughts | `recovery` |
//! | 6298 | the time-out | `rtt`, `timers` |
//! | 5681, 6928, 7661 | windows: initial, after idleness, and not without use | `congestion`, `transmit` |
//! | 9438, 9406 | CUBIC and HyStart++ | [`Cubic`] |
//! | 3168 | marks instead of losses | `arrive`, `transmit`, `recovery` |
//! | 1191, 8201, 4821, 5461, 5927 | what the path carries, and whom to believe about it | `path`, `application` |
//! | 6056 | local ports: the flow manager's affair | – |
//!
//! # Deviations
//!
//! | RFC | What it asks | What is done, and why |
//! |---|---|---|
//! | 6298 §2.4 | a time-out of 1 s at least | 200 ms above the round-trip time, as Linux: clocks are fine now, and TLP and F-RTO mend what is too early ([`Config::rto_min_ns`]) |
//! | 9293 §3.4.2 | an MSL of 2 minutes | 30 s, as Linux: nothing lives for minutes in today's networks ([`Config::msl_ns`]) |
//! | 9293 §3.8.6.1 | probes of a closed window carry a byte | they carry an old number and no byte; every peer answers what it cannot accept, and no byte has to be taken back |
//! | 9293 §3.10.7.4 | empty segments left of the window are not acceptable | those down to our last acknowledgment are, as Linux does: data may overtake acknowledgments |
//! | 9293 §3.7.1 | segments no larger than the MSS that the peer announces | one below 48 is taken for 48: CVE-2019-11479 made senders work for nothing |
//! | 9293 §3.9.2.2 | "unreachable" ends no attempt to connect | it does, at once (RFC 5461 §4.1), with the error that Linux has for each code |
//! | 9293 §3.10.7.2 | a FIN beside a SYN is ignored in LISTEN | the segment is dropped, as Linux does: it is a scanner's |
//! | 6298 §5.5 | each time-out doubles the next | not the first four of a SYN, as Linux since 6.5 ([`Config::syn_linear_timeouts`]) |
//! | 9438 §4.6 | a time-out leaves 0.7 of what was in flight | of the window, which does not grow unused: what was in flight may have been one segment |
//! | 9293 §3.6 | a connection of which a FIN is awaited that a duplicate SYN has reopened goes back to TIME-WAIT | it ends: RFC 6191 makes such a duplicate unlikely, and no host is known that goes back |
//! | 9293 §3.8.6.2.1 | a segment as large as the window allows | none larger than half of the largest window: two can then be under way, and none waits for a delayed acknowledgment |
//! | 9293 §3.10.4 | a CLOSE in SYN-RECEIVED sends a FIN at once | the FIN waits for the handshake, as data does |
//! | 9293 §3.10.7.4 | a RST ends TIME-WAIT | it is ignored, as RFC 1337 recommends |
//! | 5681 §4.1 | idle for a time-out, the window is the initial one | it halves for each time-out that passed, as RFC 2861 has it |
//! | 1191 §6.4 | after a router's word one segment is sent again at a time | all that was too large, as far as the window allows |
//! | 1191 §3 | any MTU down to 68 bytes | none below 552: every path carries that, and smaller ones are an attack |
//! | 7323 §3.2 | a segment without timestamps is dropped once they were agreed on | it is processed: peers are known that forget them on the ACK of the handshake |
//! | 5681 §3.1 | slow start grows by one segment for each acknowledgment | by all that was acknowledged, as CUBIC and HyStart++ assume: acknowledgments are few |
//! | 6298 §5.3 | – | data that is still in this host's own queue neither times out nor is sent again ([`Connection::set_departed`]) |

#![forbid(unsafe_code)]

mod amount;
mod application;
mod arrive;
mod config;
mod congestion;
mod connection;
mod detection;
mod fast_cache;
mod fast_open;
mod held;
mod listener;
mod options;
mod path;
mod position;
mod receiver;
mod records;
mod recovery;
mod ring;
mod rtt;
mod secret;
mod segment;
mod send_map;
mod stream;
mod tail;
mod timers;
mod trace;
mod transmit;
mod waiting;

pub use application::{RouterError, WriteError};
pub use arrive::Arrival;
pub use config::{Algorithm, Config, Keepalive};
pub use congestion::{Acked, Congestion, Cubic, Guaranteed, Reno, Window};
pub use connection::{Connection, Counts, Error, Identity, Info, State, TimeWait};
pub use fast_cache::FastCache;
pub use fast_open::{Cookie, FastOpen, FastOpening, Learned, Opening};
pub use listener::{ListenCounts, Listener};
pub use options::{Options, SACK_BLOCKS_MAX, SackBlocks, Timestamps};
pub use position::Position;
pub use receiver::Keep;
pub use recovery::Phase;
pub use ring::{ReceiveRing, SendRing};
pub use secret::Secret;
pub use segment::{Ecn, HEADER_BYTES_MAX, Malformed, Segment};
pub use stream::{ReceiveQueue, SendBuffer, Stream};
pub use trace::{Event, RECORD_BYTES, Record, Refused, Trace};
pub use transmit::{Transmit, reset_for};
