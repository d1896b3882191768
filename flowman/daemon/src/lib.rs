//! The flow manager process: one per host, or per network namespace.
//!
//! Two sockets: one for applications, which anybody may connect to and where the kernel says who
//! did; one for drivers, which only the user who started the system may open. All policy is in
//! `flowman-core`; this is its shell: it reads messages, carries out what the core decides, and
//! sends and receives the frames nobody owns through flows of its own.
//!
//! # Invariants
//!
//! 1. Clients are served in turn, one message each, and one that does not read its answers is sent
//!    away: whoever floods the flow manager delays himself.
//! 2. A descriptor lives as long as the message it came with, unless it was passed on.

#![forbid(unsafe_code)]

mod identity;
mod line;
mod own;
mod serve;

pub use identity::{Identity, IdentityError, USER};
pub use serve::{Daemon, ServeError, driver_socket};
