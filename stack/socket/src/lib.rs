//! Sockets without threads, clocks or system calls (paper §3.3).
//!
//! A socket is a state machine over the layers of a flow. Calls of its application, frames in the flow's channels, word
//! of the flow manager and the time go in; frames, deadlines and readiness come out. Nothing here waits: a call that
//! would have to fails with [`Error::WouldBlock`], and whoever drives the socket asks again when its
//! [`Readiness`] has changed.
//!
//! * **A turn** is [`TcpSocket::receive`], then calls, then [`TcpSocket::transmit`]: so an acknowledgment follows a batch of
//!   segments, and not each (RFC 9293 MUST-59). Between turns there is something to do at
//!   [`TcpSocket::next_deadline`] only, or when a frame has arrived.
//! * **Whose it is.** The channels' memory is shared with a driver, which is believed nothing: a fault ends the socket.
//!   Everything else is the socket's own.
//! * **Cost.** A turn costs what arrived and what leaves; nothing is allocated for a segment.
//!
//! `plumb-net` adds threads that wait, memory and the flow manager. The packet scripts, the plug-in for packetdrill, the
//! simulator and the fuzzers drive the same sockets in virtual time.

#![forbid(unsafe_code)]

mod accept;
mod error;
mod listen;
mod memory;
mod readiness;
mod tcp;

pub use accept::{AcceptQueue, AcceptSlot};
pub use error::{Error, FlowEnd};
pub use listen::{Complete, ListenSocket, Target};
pub use memory::{FrameQueue, LENT_MAX, Payload, Place, SendArea};
pub use readiness::Readiness;
pub use tcp::{
    Layers, QUEUED_BYTES_MAX, ReopenRequest, SUPER_SEGMENT_BYTES, TTL, TcpMemory, TcpSocket,
    receive_buffers,
};
