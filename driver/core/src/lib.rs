//! The driver's data path: channels × filters × scheduler over a link, sans I/O.
//!
//! The driver does the minimum that securely multiplexes a real resource (paper §2.1): it checks
//! headers, decides whose frame it is, and schedules the wire. It does no protocol work for anyone.
//!
//! A loop, in the daemon or in the simulator, drives it:
//!
//! ```text
//! receive(now)  at most a budget of arrived frames, each to the flow that owns it
//! transmit(now) until the line is committed beyond its lead
//! bill(elapsed) processor time of the phase just done, shared among the flows it was spent on;
//!               of a round in which nothing was done: bill_idle(elapsed)
//! doze()        false if a domain posted something meanwhile
//! ```
//!
//! # Invariants
//!
//! 1. After set-up nothing on the data path allocates (`tests/allocation.rs` counts).
//! 2. Cost per call grows with active flows and, by a look at one word each, with domains; never
//!    with idle flows.
//! 3. A lie of a domain closes the channel it was told in; a lie in its event FIFO, all channels of
//!    that domain. Nothing else happens.
//! 4. Every frame is delivered, sent, or counted under one [`base_flow::DropReason`].
//! 5. The bills close: what they sum to is what the loop spent.
//!
//! # Elsewhere
//!
//! What is installed, and for whom: the flow manager. Memory, sockets and privileges: the daemon.

#![forbid(unsafe_code)]

mod arenas;
mod bills;
mod control;
mod cut;
mod domain;
mod drain;
mod driver;
mod flow;
mod receive;
mod transmit;

pub use arenas::{Arenas, HeapArenas};
pub use bills::bill_words;
pub use drain::DRAIN_NS_MAX;
pub use driver::{Driver, Limits};
