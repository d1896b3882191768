//! The three domains in one process, in virtual time: seeded and replayable.
//!
//! A [`World`] runs the same cores as the daemons (flow manager, driver, layers) over memory of this
//! process and a simulated wire, with a scripted [`Peer`] at its other end. Nothing here reads a
//! clock or sleeps: time jumps to the next thing that happens, so a run takes as long as its work,
//! and two runs with the same seed are the same to the byte.
//!
//! ```
//! use tools_sim::World;
//! use base_flow::{Contract, Rate};
//!
//! let mut world = World::new(Rate::mbit(100), 7);
//! let flow = world.connect(Contract::guaranteed(4_000_000, 100_000_000).unwrap(), 5000).unwrap();
//! world.saturate(flow, 1472);
//! world.run_for(1_000_000_000);
//! assert!(world.peer().received(5000).len().abs_diff(325) <= 1);
//! ```

#![forbid(unsafe_code)]

mod app;
mod own;
mod peer;
pub mod tcp;
mod world;

pub use app::{AppId, Consumed};
pub use peer::{Arrived, Peer, Stream};
pub use world::{Costs, OUR_ADDRESS, PEER_ADDRESS, World};
