//! A simulated wire: exact in virtual time, and as unreliable as it is told to be.
//!
//! Two ends share a full-duplex wire. A frame occupies its direction for its wire time; whether it
//! then arrives, when, how often and how damaged is decided by [`Impairments`] and a seeded source of
//! chance, so a run is replayed by its seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

use base_flow::Rate;
use base_wire::{ETHERNET_BYTES, EtherType, Ethernet, Header, Ipv4, Mac};
use driver_filter::Checked;
use rbuf_channel::Data;

use crate::{Arrival, Checksum, Facts, Link};

/// What can happen to frames in one direction; chances in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Impairments {
    /// Frame never arrives.
    pub loss_ppm: u32,
    /// Frame arrives twice.
    pub duplicate_ppm: u32,
    /// One bit of the frame is flipped, and the check sequence does not notice.
    pub corrupt_ppm: u32,
    /// Frame is held back by `reorder_ns`, so that later ones overtake it.
    pub reorder_ppm: u32,
    /// How long it is held back.
    pub reorder_ns: u64,
    /// Propagation delay.
    pub delay_ns: u64,
    /// Largest random addition to the delay.
    pub jitter_ns: u64,
    /// Longest queue in front of the wire: what would wait longer is lost. `None` for no limit.
    pub queue_ns: Option<u64>,
    /// What waits longer is marked, if its sender reacts to that (RFC 3168). `None` for never.
    pub mark_ns: Option<u64>,
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Frames put on the wire.
    pub sent: u64,
    /// Frames lost on it.
    pub lost: u64,
    /// Copies made by it.
    pub duplicated: u64,
    /// Frames damaged by it.
    pub corrupted: u64,
    /// Frames held back by it.
    pub reordered: u64,
    /// Frames for which there was no place in front of it.
    pub overflowed: u64,
    /// Frames that got a congestion mark.
    pub marked: u64,
    /// Nanoseconds the direction was busy.
    pub busy_ns: u64,
}

#[derive(Debug)]
struct Direction {
    impairments: Impairments,
    free_at: u64,
    /// Frames under way, by time of arrival and order of sending.
    under_way: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    tally: Tally,
}

#[derive(Debug)]
struct Inner {
    rate: Rate,
    now: u64,
    sequence: u64,
    chance: u64,
    directions: [Direction; 2],
}

/// A wire; clones are the same wire.
#[derive(Debug, Clone)]
pub struct Wire {
    inner: Rc<RefCell<Inner>>,
}

/// An end of a wire: 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// One end.
    Left,
    /// The other.
    Right,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl Wire {
    /// A perfect wire of `rate` whose misfortunes, once configured, follow from `seed`.
    pub fn new(rate: Rate, seed: u64) -> Self {
        let direction = || Direction {
            impairments: Impairments::default(),
            free_at: 0,
            under_way: BinaryHeap::new(),
            tally: Tally::default(),
        };
        let inner = Inner {
            rate,
            now: 0,
            sequence: 0,
            chance: seed,
            directions: [direction(), direction()],
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Sets what happens to frames that `from` sends from now on.
    pub fn impair(&self, from: Side, impairments: Impairments) {
        self.inner.borrow_mut().directions[from as usize].impairments = impairments;
    }

    /// What became of the frames that `from` sent.
    pub fn tally(&self, from: Side) -> Tally {
        self.inner.borrow().directions[from as usize].tally
    }

    /// Moves the wire's clock; it never goes back.
    pub fn advance(&self, now_ns: u64) {
        let mut inner = self.inner.borrow_mut();
        inner.now = inner.now.max(now_ns);
    }

    /// When the next frame arrives at `at`, if one is under way.
    pub fn next_arrival(&self, at: Side) -> Option<u64> {
        let inner = self.inner.borrow();
        inner.directions[at.other() as usize].under_way.peek().map(|Reverse((time, ..))| *time)
    }

    /// Puts a frame on the wire as `from`; it leaves when the direction is free.
    pub fn send(&self, from: Side, frame: Vec<u8>) {
        self.inner.borrow_mut().send(from, frame);
    }

    /// When the last bit of a frame of `frame_bytes` would be on the wire if `from` sent it now.
    pub fn would_be_out(&self, from: Side, frame_bytes: usize) -> u64 {
        let inner = self.inner.borrow();
        inner.directions[from as usize].free_at.max(inner.now) + inner.rate.wire_ns(frame_bytes)
    }

    /// Takes a frame that has arrived at `at`, with its time of arrival.
    pub fn receive(&self, at: Side) -> Option<(u64, Vec<u8>)> {
        let mut inner = self.inner.borrow_mut();
        let now = inner.now;
        let under_way = &mut inner.directions[at.other() as usize].under_way;
        if under_way.peek().is_none_or(|Reverse((time, ..))| *time > now) {
            return None;
        }
        under_way.pop().map(|Reverse((time, _, frame))| (time, frame))
    }

    /// The driver's link at one end.
    pub fn link(&self, side: Side, station: Mac, mtu: u16) -> SimLink {
        SimLink {
            wire: self.clone(),
            side,
            facts: Facts { station, mtu, unit_bytes: mtu, vlan: None },
            accepted: 0,
            slots: usize::MAX,
            ring: VecDeque::new(),
            overflow: 0,
        }
    }
}

impl Inner {
    fn send(&mut self, from: Side, mut frame: Vec<u8>) {
        let wire_ns = self.rate.wire_ns(frame.len());
        let now = self.now;
        let direction = &mut self.directions[from as usize];
        let rules = direction.impairments;
        let wait_ns = direction.free_at.saturating_sub(now);
        direction.tally.sent += 1;
        if rules.queue_ns.is_some_and(|queue_ns| wait_ns > queue_ns) {
            direction.tally.overflowed += 1;
            return;
        }
        if rules.mark_ns.is_some_and(|mark_ns| wait_ns > mark_ns) && mark(&mut frame) {
            direction.tally.marked += 1;
        }
        let free_at = direction.free_at.max(now) + wire_ns;
        direction.free_at = free_at;
        direction.tally.busy_ns += wire_ns;
        if self.happens(rules.loss_ppm) {
            self.directions[from as usize].tally.lost += 1;
            return;
        }
        if self.happens(rules.corrupt_ppm) {
            self.directions[from as usize].tally.corrupted += 1;
            let bit = self.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let mut arrival = free_at + rules.delay_ns + self.below(rules.jitter_ns + 1);
        if self.happens(rules.reorder_ppm) {
            self.directions[from as usize].tally.reordered += 1;
            arrival += rules.reorder_ns;
        }
        if self.happens(rules.duplicate_ppm) {
            self.directions[from as usize].tally.duplicated += 1;
            self.put(from, arrival, frame.clone());
        }
        self.put(from, arrival, frame);
    }

    fn put(&mut self, from: Side, arrival: u64, frame: Vec<u8>) {
        self.sequence += 1;
        let entry = Reverse((arrival, self.sequence, frame));
        self.directions[from as usize].under_way.push(entry);
    }

    fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// SplitMix64.
    fn below(&mut self, n: u64) -> u64 {
        if n <= 1 {
            return 0;
        }
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Puts a congestion mark on an IPv4 packet whose sender reacts to it; whether it was one.
fn mark(frame: &mut [u8]) -> bool {
    let ip = Ethernet::split(frame)
        .filter(|(ethernet, _)| ethernet.ether_type == EtherType::IPV4)
        .and_then(|(_, rest)| Ipv4::split(rest).map(|(ip, _)| *ip));
    let Some(mut ip) = ip else { return false };
    if ip.tos & 3 == 0 || ip.header_bytes() != base_wire::IPV4_BYTES {
        return false;
    }
    ip.tos |= 3;
    ip.fill_checksum();
    ip.put(&mut frame[ETHERNET_BYTES..]).is_some()
}

/// One end of a [`Wire`] as a driver's link.
#[derive(Debug)]
pub struct SimLink {
    wire: Wire,
    side: Side,
    facts: Facts,
    accepted: usize,
    slots: usize,
    ring: VecDeque<Vec<u8>>,
    overflow: u64,
}

impl SimLink {
    /// The same link with a receive ring of `slots`: what arrives while it is full is lost.
    #[must_use]
    pub fn with_ring(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    /// Moves what has arrived since the last look into the ring. Nobody has taken anything out of it
    /// meanwhile, so what does not fit would not have fitted when it arrived either.
    fn fill(&mut self) {
        while let Some((_, frame)) = self.wire.receive(self.side) {
            if self.ring.len() < self.slots {
                self.ring.push_back(frame);
            } else {
                self.overflow += 1;
            }
        }
    }
}

impl Link for SimLink {
    fn facts(&self) -> Facts {
        self.facts
    }

    fn poll_rx(&mut self, budget: usize, sink: &mut impl FnMut(Arrival<'_>)) -> usize {
        self.fill();
        for count in 0..budget {
            let Some(frame) = self.ring.pop_front() else { return count };
            let checksum = Checksum::Unverified;
            sink(Arrival { frame: &frame, vlan: None, checksum, merged: None, missing: 0 });
        }
        budget
    }

    fn room(&self) -> usize {
        64 - self.accepted
    }

    fn transmit<D: Data>(&mut self, frame: &Checked<'_, D>) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mut bytes = vec![0; frame.frame_bytes()];
        let whole = frame.gather(&mut bytes).is_some();
        debug_assert!(whole, "the buffer has the size of the frame");
        self.accepted += 1;
        self.wire.send(self.side, bytes);
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
        std::mem::take(&mut self.overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(wire: &Wire, until: u64) -> Vec<(u64, Vec<u8>)> {
        wire.advance(until);
        std::iter::from_fn(|| wire.receive(Side::Right)).collect()
    }

    #[test]
    fn frames_arrive_exactly_one_wire_time_apart() {
        let wire = Wire::new(Rate::mbit(100), 1);
        for _ in 0..3 {
            wire.send(Side::Left, vec![0; 1514]);
        }
        assert_eq!(wire.next_arrival(Side::Right), Some(123_040));
        let times: Vec<u64> = arrivals(&wire, 1_000_000).iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [123_040, 246_080, 369_120]);
        assert_eq!(wire.tally(Side::Left).busy_ns, 369_120);
    }

    #[test]
    fn a_frame_does_not_arrive_before_its_time() {
        let wire = Wire::new(Rate::mbit(100), 1);
        wire.send(Side::Left, vec![0; 1514]);
        assert!(arrivals(&wire, 123_039).is_empty());
        assert_eq!(arrivals(&wire, 123_040).len(), 1);
    }

    #[test]
    fn a_full_receive_ring_loses_what_comes_and_counts_it() {
        let wire = Wire::new(Rate::mbit(100), 1);
        let mut link = wire.link(Side::Right, Mac([2; 6]), 1500).with_ring(4);
        for i in 0..10u8 {
            wire.send(Side::Left, vec![i; 100]);
        }
        wire.advance(1_000_000);
        let mut seen = Vec::new();
        assert_eq!(link.poll_rx(3, &mut |arrival| seen.push(arrival.frame[0])), 3);
        assert_eq!(link.take_overflow(), 6);
        assert_eq!(link.poll_rx(3, &mut |arrival| seen.push(arrival.frame[0])), 1);
        assert_eq!((seen, link.take_overflow()), (vec![0, 1, 2, 3], 0));
    }

    #[test]
    fn a_queue_loses_what_would_wait_too_long_and_marks_before() {
        let wire = Wire::new(Rate::mbit(100), 1);
        let (queue_ns, mark_ns) = (Some(300_000), Some(200_000));
        wire.impair(Side::Left, Impairments { queue_ns, mark_ns, ..Impairments::default() });
        let address = [10, 0, 0, 1].into();
        let mut ip = Ipv4::new(address, address, base_wire::Protocol::TCP, 1480);
        ip.tos = 2;
        ip.fill_checksum();
        let mut frame = vec![0; 1514];
        let ethernet =
            Ethernet { ether_type: EtherType::IPV4, ..*Ethernet::split(&frame).unwrap().0 };
        ethernet.put(&mut frame).unwrap();
        ip.put(&mut frame[14..]).unwrap();
        for _ in 0..6 {
            wire.send(Side::Left, frame.clone());
        }
        let tally = wire.tally(Side::Left);
        assert_eq!((tally.sent, tally.overflowed, tally.marked), (6, 3, 1));
        let marks: Vec<u8> = arrivals(&wire, 1_000_000).iter().map(|(_, f)| f[15] & 3).collect();
        assert_eq!(marks, [2, 2, 3]);
    }

    #[test]
    fn every_impairment_happens_as_often_as_it_should_and_the_same_way_for_a_seed() {
        let impairments = Impairments {
            loss_ppm: 100_000,
            duplicate_ppm: 50_000,
            corrupt_ppm: 30_000,
            reorder_ppm: 20_000,
            reorder_ns: 1_000_000,
            delay_ns: 5_000,
            jitter_ns: 100,
            ..Impairments::default()
        };
        let run = |seed| {
            let wire = Wire::new(Rate::mbit(1000), seed);
            wire.impair(Side::Left, impairments);
            for i in 0..10_000u32 {
                wire.send(Side::Left, i.to_be_bytes().repeat(15));
            }
            (arrivals(&wire, u64::MAX), wire.tally(Side::Left))
        };
        let (frames, tally) = run(7);
        for (count, ppm) in [
            (tally.lost, 100_000u64),
            (tally.duplicated, 45_000),
            (tally.corrupted, 27_000),
            (tally.reordered, 18_000),
        ] {
            let expected = ppm / 100;
            assert!(count.abs_diff(expected) < expected / 5, "{tally:?}");
        }
        assert_eq!(frames.len() as u64, 10_000 - tally.lost + tally.duplicated);
        assert_eq!((frames, tally), run(7));
        assert_ne!(tally, run(8).1);
    }
}
