//! A link over a packet socket: any Linux interface, no special hardware (`packet(7)`).
//!
//! Received frames appear in a ring that the kernel shares with the driver. Frames to send go out in batches
//! of one system call: as messages of the socket, each scattered over the driver's private header and the
//! sender's own memory; or, on an interface without a queue, through a program in the kernel, which lets the
//! receiver look at them only when all are there.
//!
//! # Choices
//!
//! * Ring version 2, a slot per frame. Version 3 packs frames into blocks and hands a block over
//!   when it is full or its timer expires, which adds up to that timer (1 ms at least) to the
//!   latency of every frame that does not fill a block.
//! * `PACKET_IGNORE_OUTGOING`, or the driver would receive what it sends.
//! * No sending through XDP: `BPF_F_TEST_XDP_LIVE_FRAMES` would send without a buffer of the kernel's for each
//!   frame, but makes a page pool for every call, which stays as long as a receiver holds one page of it.
//! * The kernel's queueing discipline is not bypassed: an interface that is shared with the kernel
//!   keeps what its administrator configured.
//!
//! # Elsewhere
//!
//! `packet` needs `CAP_NET_RAW` in the user namespace that owns the network namespace, which an
//! ordinary user has in a lab.

#![cfg(target_os = "linux")]

mod bulk;
mod program;
mod ring;
mod send;
mod socket;

pub use socket::{OpenError, PacketLink, bulk_is_possible};
