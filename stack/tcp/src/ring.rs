//! Buffers in memory of this process: for simulations, scripts, fuzzers, and whoever has no flow.

use crate::receiver::Keep;
use crate::stream::{ReceiveQueue, SendBuffer};

/// A ring of bytes addressed by their place in a stream.
#[derive(Debug, Clone)]
struct Ring {
    bytes: Vec<u8>,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity.max(1)] }
    }

    /// The range `at..at + len` as it lies in memory: in two parts if it wraps.
    fn split(&self, at: u64, len: usize) -> (core::ops::Range<usize>, core::ops::Range<usize>) {
        let capacity = self.bytes.len();
        let len = len.min(capacity);
        let start = (at % capacity as u64) as usize;
        let first = len.min(capacity - start);
        (start..start + first, 0..len - first)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let (first, second) = self.split(at, bytes.len());
        let (head, tail) = bytes.split_at(first.len());
        self.bytes[first].copy_from_slice(head);
        self.bytes[second.clone()].copy_from_slice(&tail[..second.len()]);
    }

    fn get(&self, at: u64, len: usize) -> [&[u8]; 2] {
        let (first, second) = self.split(at, len);
        [&self.bytes[first], &self.bytes[second]]
    }
}

/// What was written and not acknowledged.
#[derive(Debug, Clone)]
pub struct SendRing {
    ring: Ring,
    start: u64,
    end: u64,
}

impl SendRing {
    /// A ring of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { ring: Ring::new(capacity), start: 0, end: 0 }
    }

    /// The bytes from `offset` on, as they lie in memory.
    pub fn parts(&self, offset: u64, bytes: usize) -> [&[u8]; 2] {
        self.ring.get(offset, bytes)
    }
}

impl SendBuffer for SendRing {
    fn room(&self) -> usize {
        self.ring.bytes.len() - (self.end - self.start) as usize
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.ring.put(self.end, &bytes[..taken]);
        self.end += taken as u64;
        taken
    }

    fn release(&mut self, below: u64) {
        self.start = below.clamp(self.start, self.end);
    }
}

/// What was received and not read.
#[derive(Debug, Clone)]
pub struct ReceiveRing {
    ring: Ring,
    read: u64,
    capacity: usize,
    capacity_max: usize,
}

impl ReceiveRing {
    /// A ring of `capacity` bytes that may grow to `capacity_max`.
    pub fn new(capacity: usize, capacity_max: usize) -> Self {
        let capacity_max = capacity_max.max(capacity);
        Self { ring: Ring::new(capacity), read: 0, capacity, capacity_max }
    }

    /// Has room for so many bytes from the next one on that will be read.
    fn reserve(&mut self, bytes: usize) {
        let old = self.ring.bytes.len();
        if bytes > old {
            let mut larger = Ring::new(bytes);
            let mut at = self.read;
            for part in self.ring.get(self.read, old) {
                larger.put(at, part);
                at += part.len() as u64;
            }
            self.ring = larger;
        }
    }

    /// Copies kept bytes out, wherever they are, and does not forget them.
    pub fn copy(&self, offset: u64, out: &mut [u8]) {
        let [first, second] = self.ring.get(offset, out.len());
        let (head, tail) = out.split_at_mut(first.len());
        head.copy_from_slice(first);
        tail[..second.len()].copy_from_slice(second);
    }

    /// Forgets everything below this place in the stream.
    pub fn skip_to(&mut self, offset: u64) {
        self.read = self.read.max(offset);
    }
}

impl ReceiveQueue for ReceiveRing {
    type Payload<'a> = &'a [u8];

    fn keep_part(&mut self, keep: Keep, payload: &&[u8]) {
        self.keep(keep, payload);
    }

    fn keep(&mut self, keep: Keep, payload: &[u8]) {
        let range = keep.skip as usize..(keep.skip + keep.bytes) as usize;
        if let Some(bytes) = payload.get(range) {
            // What was announced is kept, also where that is more than the capacity.
            let ahead = keep.offset.saturating_sub(self.read) as usize + bytes.len();
            let old = self.ring.bytes.len();
            if ahead > old {
                // By a good part, for the next byte may be one further.
                self.reserve(ahead.max(old + old / 8));
            }
            self.ring.put(keep.offset, bytes);
        }
    }

    fn discard(&mut self, _payload: &[u8]) {}

    fn read(&mut self, out: &mut [u8]) {
        self.copy(self.read, out);
        self.read += out.len() as u64;
    }

    fn peek(&self, out: &mut [u8]) {
        self.copy(self.read, out);
    }

    fn skip(&mut self, bytes: u64) {
        self.read += bytes;
    }

    fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    fn grow(&mut self, wanted: u64) {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.capacity_max);
        self.capacity = self.capacity.max(wanted);
        self.reserve(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_comes_beyond_the_capacity_is_kept_and_overwrites_nothing() {
        let mut ring = ReceiveRing::new(64, 64);
        for offset in 0..100 {
            ring.keep(Keep { offset, skip: 0, bytes: 1 }, &[offset as u8]);
        }
        assert_eq!(ring.capacity(), 64);
        let mut out = [0; 100];
        ring.read(&mut out);
        assert!((0..100).eq(out));
    }

    proptest! {
        #[test]
        fn what_was_written_lies_where_its_offset_says_until_it_is_released(
            steps in proptest::collection::vec((any::<bool>(), 0usize..70), 1..50)
        ) {
            let (mut ring, mut oracle, mut start) = (SendRing::new(100), Vec::new(), 0);
            for (write, bytes) in steps {
                if write {
                    let data: Vec<u8> = (0..bytes).map(|n| (oracle.len() + n) as u8).collect();
                    let taken = ring.write(&data);
                    prop_assert_eq!(taken, bytes.min(100 - (oracle.len() - start)));
                    oracle.extend_from_slice(&data[..taken]);
                } else {
                    start = (start + bytes).min(oracle.len());
                    ring.release(start as u64);
                }
                prop_assert_eq!(ring.parts(start as u64, oracle.len() - start).concat(), &oracle[start..]);
            }
        }

        #[test]
        fn growing_keeps_what_was_not_read(first in 0u64..200, at in 0u64..50, larger in 60u64..300) {
            let mut ring = ReceiveRing::new(64, 400);
            ring.skip(first);
            let data: Vec<u8> = (0..10).collect();
            let keep = Keep { offset: first + at, skip: 2, bytes: 8 };
            ring.keep(keep, &data);
            ring.grow(larger);
            prop_assert_eq!(ring.capacity(), larger.max(64));
            ring.skip(at);
            let mut out = [0; 8];
            ring.read(&mut out);
            prop_assert_eq!(&out, &data[2..]);
        }
    }
}
