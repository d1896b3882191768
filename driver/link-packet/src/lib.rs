//! A link over a packet socket: any Linux interface, no special hardware (`packet(7)`).
//!
//! Received frames appear in rings that the kernel shares with the driver: one for frames as a wire carries them,
//! one for those that the kernel has merged, or not cut, into up to 64 KiB. Frames to send go out in batches
//! of one system call: as messages of the socket, each scattered over the driver's private header and the
//! sender's own memory; or, on an interface without a queue, through a program in the kernel, which lets the
//! receiver look at them only when all are there.
//!
//! # Choices
//!
//! * Ring version 2, a slot per frame. Version 3 packs frames into blocks and hands a block over
//!   when it is full or its timer expires, which adds up to that timer (1 ms at least) to the
//!   latency of every frame that does not fill a block.
//! * Two sockets for receiving, each with a filter by length: slots of 64 KiB for all frames would be 270 MB of the
//!   kernel's memory, and what does not fit a slot would have to be read by a system call, from a queue whose
//!   limit is four such frames for who has no privilege. Frames keep their order, by the kernel's time stamps.
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
mod vnet;

pub use socket::{OpenError, PacketLink, bulk_is_possible};
