//! What applications link: sockets with their own stack and their own contract (paper §3.3).
//!
//! ```no_run
//! use plumb_net::{Contract, Udp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 4 ms of the wire in every 100 ms, whatever the others do.
//! let contract = Contract::guaranteed(4_000_000, 100_000_000)?;
//! let socket = Udp::options().contract(contract).connect("10.77.0.2:5000")?;
//! socket.send(b"hello")?;
//! # Ok(())
//! # }
//! ```
//!
//! [`TcpStream`] and [`TcpListener`] are those of `std::net`, each connection a state machine of its own
//! ([`engine`]) in this process. [`Udp`] has the feel of `std::net::UdpSocket`. Everything it does is done here, in the calling
//! thread: headers, checksums, buffers; the driver only checks and copies. [`Flow`] is the same one
//! layer down: a flow's channels, over which any [`Layer`](stack_layer::Layer) can be built.
//!
//! The flow manager is found at `$PLUMB_SOCKET`, or at [`DEFAULT_SOCKET`]; an application talks to
//! one through one [`Host`], shared by all its sockets. When the flow manager goes away, open flows
//! go on.

#![forbid(unsafe_code)]

mod common;
mod error;
mod flow;
mod host;
mod joins;
mod options;
mod rpc;
mod sleep;
mod tcp;
#[cfg(feature = "tokio")]
pub mod tokio;
mod udp;

pub use base_flow::{
    Bill, Contract, DropReason, Endpoints, Fib, FlowId, InvalidContract, Rate, Sap, Transport,
};
pub use base_rpc::{
    FlowInfo, LinkInfo, NeighbourInfo, NeighbourState, Refusal, RouteInfo, StatusInfo, UserInfo,
};
pub use error::Error;
pub use flow::{Flow, FlowDevice};
pub use host::{DEFAULT_SOCKET, Host, SOCKET_VARIABLE};
pub use options::Options;
pub use rbuf_channel::Wait;
pub use stack_layer as layer;
pub use stack_layer::{Control, ControlError};
pub use stack_tcp as engine;
pub use tcp::{DUMP_VARIABLE, Dump, Incoming, Received, Room, TcpListener, TcpStream};
pub use udp::{Datagram, SendBuffer, Udp};
