//! The flow manager, sans I/O: requests, frames and time in; replies, frames and installs out.
//!
//! It sets flows up and takes them down and is never on the data path (paper §3.2, §4.1). It alone
//! knows which access points are taken, what each line has promised, who is at which station and
//! where packets go; it answers for the host where no flow does.
//!
//! The daemon feeds a [`FlowManager`] and carries out its [`Output`]s in order:
//!
//! | In | |
//! |---|---|
//! | [`FlowManager::client_joined`], [`client_left`](FlowManager::client_left) | an application connected, or died at whatever moment |
//! | [`FlowManager::request`] | an application asks |
//! | [`FlowManager::driver_joined`], [`driver_message`](FlowManager::driver_message), [`driver_left`](FlowManager::driver_left) | a driver speaks |
//! | [`FlowManager::frame`] | a frame nobody claimed |
//! | [`FlowManager::tick`] | time passed, at the latest by [`FlowManager::next_deadline`] |
//!
//! # Invariants
//!
//! 1. Of the flows that match a frame exactly one is most specific: access points are reserved to
//!    one client, and no two flows have equal ends.
//! 2. A contract is admitted before it is given, and its share is free again when the flow is gone and has
//!    paid for what it sent (`base_flow::Shares`).
//! 3. Whatever a client held is given back when it leaves: ports, flows, shares, waiting requests.
//! 4. What a client or the wire says is an allegation; nothing they say makes this code panic, and
//!    every table it can fill has a limit.

#![forbid(unsafe_code)]

mod accounts;
mod config;
mod conflicts;
mod departed;
mod dynamic_ports;
mod ends;
mod flows;
mod last_resort;
mod left_ports;
mod link;
mod manager;
mod neighbours;
mod own;
mod paths;
mod port_set;
mod ports;
mod promises;
mod replies;
mod requests;
mod routes;
mod segment;
mod strays;
mod time_wait;

pub use config::{Config, ConfigError, LinkConfig, Policy, Rights, Uid};
pub use manager::{ClientId, Counters, FlowManager, LinkId, Output, Unwelcome};
pub use own::OwnFlow;
