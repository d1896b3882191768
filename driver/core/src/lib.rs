//! The driver's data path: channels × filters × scheduler over a link, sans I/O.
//!
//! The driver does the minimum that securely multiplexes a real resource (paper §2.1): it checks
//! headers, decides whose frame it is, and schedules the wire. It does no protocol work for anyone.
//!
//! A loop, in the daemon or in the simulator, drives it:
//!
//! ```text
//! receive(now, clock)  at most a budget of arrived frames, each to the flow that owns it
//! transmit(now, clock) until the line is committed beyond its lead
//! bill(used)           what was spent on no single domain, shared among those worked for in the
//!                      round; of a round in which nothing was done: bill_idle(used)
//! doze(now)            none if a domain posted something meanwhile, else until when to sleep
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
//! 6. What a domain makes the driver do is measured and paid for by that domain, from what it was
//!    promised or from its account, before the next piece of work (`account.rs` has the rule). The clock
//!    is an argument: it is read between stretches of work for different domains, not for each frame.
//!
//! # Elsewhere
//!
//! What is installed, and for whom: the flow manager. Memory, sockets and privileges: the daemon.

#![forbid(unsafe_code)]

mod account;
mod arenas;
mod bills;
mod control;
mod cut;
mod domain;
mod drain;
mod driver;
mod flow;
mod last_resort;
mod receive;
mod transmit;

pub use arenas::{Arenas, HeapArenas};
pub use bills::bill_words;
pub use drain::DRAIN_NS_MAX;
pub use driver::{Driver, Limits, Payer};
