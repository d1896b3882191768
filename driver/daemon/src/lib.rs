//! The driver process: one link, one loop, one control connection.
//!
//! What it holds when it begins to serve is all it will ever need: the link's socket, one that says when
//! somebody changes the interface, and the connection to the flow manager. [`serve`] then gives up every capability and confines itself to
//! the system calls of its loop, and only then listens to anyone.
//!
//! # Elsewhere
//!
//! The data path: `driver-core`. Who may do what: the flow manager, whom this process obeys.

#![forbid(unsafe_code)]

mod arenas;
mod bells;
mod claim;
mod confine;
mod control;
mod frame_cost;
mod reaper;
mod serve;
mod thread_clock;

pub use arenas::{Joined, ShmArenas};
pub use claim::{Claim, ClaimError};
pub use rbuf_shm::ConfineError;
pub use reaper::Reaper;
pub use serve::{Options, ServeError, serve, serve_by};
