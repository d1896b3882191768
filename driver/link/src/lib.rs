//! Network interfaces as the driver sees them (paper §3.1).
//!
//! | Link | For |
//! |---|---|
//! | [`sim`] | an exact wire in virtual time, with every misbehaviour of real ones, seeded |
//! | [`null`] | benches: swallows what is sent, repeats what is to be received |
//! | `driver-link-packet` | any Linux interface |
//!
//! A link moves bytes and decides nothing: what may be sent was decided by a template
//! ([`Checked`] is the proof), and when, by the scheduler.

#![forbid(unsafe_code)]

pub mod null;
pub mod sim;

use std::os::fd::BorrowedFd;

use base_wire::{Mac, Protocol};
use driver_filter::{Checked, PIECES_MAX};
use rbuf_channel::Data;

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Our address on it.
    pub station: Mac,
    /// Largest IP packet it carries, in bytes.
    pub mtu: u16,
    /// Largest IP packet it takes, in bytes: a longer TCP segment it cuts into frames. The MTU if it
    /// cuts nothing.
    pub unit_bytes: u16,
    /// The VLAN that is ours, or untagged.
    pub vlan: Option<u16>,
}

impl Facts {
    /// Longest frame, without check sequence.
    pub const fn frame_bytes_max(&self) -> usize {
        let tag = if self.vlan.is_some() { base_wire::VLAN_TAG_BYTES } else { 0 };
        self.mtu as usize + base_wire::ETHERNET_BYTES + tag
    }
}

/// What a link knows about the checksum of a frame's transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It was verified.
    Verified,
    /// It was not looked at.
    Unverified,
    /// It was never filled in, because the frame comes from this machine and was on no wire: it would cover
    /// the frame from `start` on, and its field is `field` bytes behind that.
    Partial {
        /// Where what it covers begins.
        start: u16,
        /// Where it would stand.
        field: u16,
    },
}

/// How frames became one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// What has merged them: TCP or UDP.
    pub protocol: Protocol,
    /// Payload of each but the last.
    pub piece_bytes: u16,
}

/// A frame that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The frame, without check sequence.
    pub frame: &'a [u8],
    /// Control field of an 802.1Q tag that the link has removed from the frame.
    pub vlan: Option<u16>,
    /// What is known about its checksum.
    pub checksum: Checksum,
    /// If it is several frames that the kernel has merged, or has not cut yet: which.
    pub merged: Option<Merged>,
    /// Bytes of it that are not here, for it was longer than what the link keeps.
    pub missing: u32,
}

impl Arrival<'_> {
    /// How many frames it is, about: what a budget of frames is charged for it.
    pub fn frames(&self) -> usize {
        self.merged.map_or(1, |merged| {
            self.frame.len().div_ceil(usize::from(merged.piece_bytes.max(1))).clamp(1, PIECES_MAX)
        })
    }
}

/// A network interface.
pub trait Link {
    /// What it is.
    fn facts(&self) -> Facts;

    /// Hands up to `budget` arrived frames to `sink`, in order; returns how many. Never waits. Merged ones
    /// count for what they were merged from; only the last may be more than was left.
    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize;

    /// How many frames [`Self::transmit`] will accept now.
    fn room(&self) -> usize;

    /// Accepts a frame; `false` if there is no room. The frame leaves at the next [`Self::flush`]
    /// at the latest; its payload is read from the sender's memory until it is complete.
    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool;

    /// Hands accepted frames to the device. Never waits.
    fn flush(&mut self);

    /// Calls `done` for every accepted frame that the device is done with, in the order in which
    /// they were accepted: with `false` if the device refused it.
    fn complete(&mut self, done: &mut impl FnMut(bool));

    /// Whether accepted frames wait because the device had no room at the last [`Self::flush`]: flush
    /// again soon.
    fn is_congested(&self) -> bool;

    /// Frames lost since the last call because nobody polled.
    fn take_overflow(&mut self) -> u64;
}

/// A link that can be waited for.
pub trait Polled: Link {
    /// What becomes readable when a frame has arrived.
    fn descriptors(&self) -> [BorrowedFd<'_>; 2];
}
