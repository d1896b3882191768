//! The nouns every domain shares: flows, access points, contracts, bills.
//!
//! | Noun | Paper | Here |
//! |---|---|---|
//! | Service Access Point, local and remote | §3.2 | [`Sap`], [`Endpoints`] |
//! | flow | §3.2 | [`FlowId`] |
//! | Flow Information Block | §4.1 | [`Fib`] |
//! | QoS guarantee: slice, period, slack | §4.4 | [`Contract`] |
//! | why a frame was not passed on | §3.4 | [`DropReason`] |
//! | what a flow used | §6 | [`Bill`] |
//! | kind of a frame that nobody claims | §3.2 | [`Stray`] |
//!
//! Times are nanoseconds in `u64` or `i64`, on a clock that never runs backwards. Nothing here
//! reads a clock, allocates on a data path or does I/O.

#![forbid(unsafe_code)]

mod admission;
mod bill;
mod contract;
mod drop;
mod fib;
mod flow;
mod rate;
mod shares;
mod stray;

pub use admission::{Admission, Reason, Refused};
pub use bill::{BILL_WORDS, Bill, bill_word};
pub use contract::{Contract, InvalidContract, Ms};
pub use drop::DropReason;
pub use fib::{Fib, InvalidPrefix, LinkFacts, Prefix};
pub use flow::{Endpoints, FlowId, Sap, Transport, canonical};
pub use rate::{InvalidRate, Rate};
pub use shares::{Begin, Shares};
pub use stray::{Limiter, Pace, Stray};
