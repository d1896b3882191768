//! The flow manager process: one per host, or per network namespace.
//!
//! Two sockets: one for applications, which anybody may connect to and where the kernel says who
//! did; one for drivers, which only the user who started the system may open. All policy is in
//! `flowman-core`; this is its shell: it reads messages, carries out what the core decides, and
//! sends and receives the frames nobody owns through flows of its own.
//!
//! # Invariants
//!
//! 1. Users are served in turn, one message each, and the clients of a user among themselves: whoever floods
//!    the flow manager, with however many connections, delays himself.
//! 2. Nobody makes it keep what others do not read. A client is read when its answers were taken, and when
//!    the driver that its request is for has room: who asks waits, and memory does not grow.
//! 3. Nothing that an application chose is kept or closed here: where the kernel cannot refuse descriptors,
//!    [`keep`] is a process that does.
//! 4. A descriptor of a driver lives as long as the message it came with, unless it was passed on.

#![forbid(unsafe_code)]

mod door;
mod identity;
mod keeper;
mod line;
mod own;
mod serve;
mod shares;
mod turns;

pub use identity::{Identity, IdentityError, USER};
pub use keeper::keep;
pub use serve::{Daemon, ServeError, driver_socket};
