//! Packet scripts: what TCP does, segment by segment, in virtual time.
//!
//! A script, in the language of packetdrill, says what an application calls, which packets arrive, and
//! which must leave, each at its time. [`play`] plays it against the engine: no packet leaves this
//! process, and an hour of a script takes a moment. The scripts of this project are below
//! `tests/packet`.
//!
//! # Parts
//!
//! [`Host`] is a host with the sockets of `stack-socket` in it, seen from both sides: sockets above, packets below. The
//! [`Script`] is what a file says; [`play`] brings both together. Any other driver of a [`Host`], as the
//! plug-in for packetdrill itself, needs no script.
//!
//! # What is different from packetdrill
//!
//! - Time is virtual: only what the engine decides can be late, so the tolerance is for its granularity.
//! - A packet that was sent and that no line expects fails the script, at the next line that is not
//!   its own.
//! - A line may expect one packet with more payload than a frame holds; several frames that left
//!   together and amount to it will do, if all but the last are of one size, for cutting is the link's
//!   affair.
//! - Payload is checked: the byte at offset `n` of a stream is what [`byte_at`] says.
//! - The code between `%{` and `}%` is the part of Python that assertions need.

#![forbid(unsafe_code)]

mod assertion;
mod endpoint;
mod errno;
mod host;
mod info;
mod option;
mod packet;
mod parse;
mod play;
mod script;
mod settings;

pub use errno::Errno;
pub use host::{Fd, Host, LOCAL, Progress, REMOTE, Sent};
pub use info::Information;
pub use option::SocketOption;
pub use parse::ParseError;
pub use play::{Failure, play};
pub use script::Script;
pub use settings::{FastSettings, Settings};
pub use stack_socket::Readiness;

/// The byte at `offset` of every stream that a script's application writes.
pub const fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}
