//! The null link: swallows what is sent and repeats what is to be received, at no cost of its own.

use base_wire::Mac;
use driver_filter::Checked;
use rbuf_channel::Data;

use crate::{Arrival, Checksum, Facts, Link};

/// A link that measures everything but a link.
#[derive(Debug)]
pub struct NullLink {
    facts: Facts,
    arriving: Vec<Vec<u8>>,
    next: usize,
    /// Frames that still arrive; `u64::MAX` for no end.
    left: u64,
    accepted: usize,
    /// Frames sent.
    pub frames: u64,
    /// Bytes sent.
    pub bytes: u64,
}

impl NullLink {
    /// A link with `station`'s address and an MTU of `mtu` bytes.
    pub const fn new(station: Mac, mtu: u16) -> Self {
        let facts = Facts { station, mtu, unit_bytes: mtu, vlan: None };
        Self { facts, arriving: Vec::new(), next: 0, left: 0, accepted: 0, frames: 0, bytes: 0 }
    }

    /// As if it cut segments of up to so many bytes of IP packet.
    pub const fn set_unit_bytes(&mut self, unit_bytes: u16) {
        self.facts.unit_bytes = unit_bytes;
    }

    /// Lets `count` frames arrive, taken from `frames` in turn.
    pub fn arrive(&mut self, frames: Vec<Vec<u8>>, count: u64) {
        self.next = 0;
        self.left = if frames.is_empty() { 0 } else { count };
        self.arriving = frames;
    }
}

impl Link for NullLink {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        let count = budget.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for _ in 0..count {
            sink(Arrival {
                merged: None,
                missing: 0,
                frame: &self.arriving[self.next],
                vlan: None,
                checksum: Checksum::Verified,
            });
            self.next += 1;
            if self.next == self.arriving.len() {
                self.next = 0;
            }
        }
        self.left -= count as u64;
        count
    }

    fn room(&self) -> usize {
        64 - self.accepted
    }

    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.accepted += 1;
        self.frames += 1;
        self.bytes += frame.frame_bytes() as u64;
        true
    }

    fn flush(&mut self) {}

    fn complete(&mut self, done: &mut impl FnMut(bool)) {
        for _ in 0..std::mem::take(&mut self.accepted) {
            done(true);
        }
    }

    fn is_congested(&self) -> bool {
        false
    }

    fn take_overflow(&mut self) -> u64 {
        0
    }
}
