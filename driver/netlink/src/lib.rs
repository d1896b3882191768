//! What the kernel knows about interfaces, and the few things Plumb asks of it.
//!
//! A dozen requests over `AF_NETLINK`, built and read by hand: the general crates for this bring an
//! asynchronous runtime or change with every release, and this is used only at set-up and when an
//! interface changes.
//!
//! | Used by | For |
//! |---|---|
//! | driver | an interface's index, address and MTU, and the addresses the kernel owns; word of what becomes of them |
//! | lab | veth pairs, namespaces, addresses, offload settings, the rate of an interface |

#![forbid(unsafe_code)]

mod ethtool;
mod message;
mod queue;
mod route;
mod watch;

pub use message::NetlinkError;
pub use route::{Interface, Netlink, Owned};
pub use watch::{News, Watch};
