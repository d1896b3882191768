//! Which parts of an arena are in use.
//!
//! Flows of an application come in few shapes, so a region that is given back is kept for the next
//! one of its size: constant time, and no fragmentation among equals.

use std::collections::HashMap;

#[derive(Debug)]
pub(crate) struct Regions {
    end: u64,
    limit: u64,
    used: u64,
    free: HashMap<u64, Vec<u64>>,
}

impl Regions {
    /// Everything from `start` to `limit` is free.
    pub(crate) fn new(start: u64, limit: u64) -> Self {
        Self { end: start, limit, used: 0, free: HashMap::new() }
    }

    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(64);
        let offset = match self.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(offset) => offset,
            None => {
                let offset = self.end;
                let end = offset.checked_add(bytes)?;
                if end > self.limit {
                    return None;
                }
                self.end = end;
                offset
            }
        };
        self.used += bytes;
        Some(offset)
    }

    pub(crate) fn give(&mut self, offset: u64, bytes: u64) {
        let bytes = bytes.next_multiple_of(64);
        self.used -= bytes;
        self.free.entry(bytes).or_default().push(offset);
    }

    pub(crate) const fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_never_overlap_and_are_used_again() {
        let mut regions = Regions::new(128, 1024);
        let (a, b) = (regions.take(100).unwrap(), regions.take(64).unwrap());
        assert_eq!((a, b), (128, 256));
        regions.give(a, 100);
        assert_eq!(regions.take(128), Some(a));
        assert_eq!(regions.take(1024), None);
        assert_eq!(regions.used(), 192);
    }
}
