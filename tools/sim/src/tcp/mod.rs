//! TCP over the simulated wire: two hosts, one connection, any misfortune, in virtual time.
//!
//! A [`Run`] is a [`Scenario`] played out. What each side sends is known byte by byte, so a byte that
//! is lost, doubled, moved or changed on the way to the application is found where it is.

mod checker;
mod flow;
mod host;
mod packet;
mod scenario;

pub use checker::Checker;
pub use flow::{HeapFlow, HeapFlowOptions, HeapLayers};
pub use host::{Behaviour, Engine, Host, Progress, RawPacket};
pub use packet::{packet, unwrap};
pub use scenario::{Outcome, Run, Scenario, Stall};

/// The byte at `offset` of the stream that `side` sends.
pub const fn byte_at(side: u8, offset: u64) -> u8 {
    let mixed = (offset ^ ((side as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}
