//! Ends of records: a segment with the last byte of one has nothing behind it.

use std::collections::VecDeque;

use crate::Position;

#[derive(Debug, Default)]
pub(crate) struct Records {
    /// In order; above what is acknowledged.
    ends: VecDeque<Position>,
}

impl Records {
    /// More at a time are not told apart.
    const MAX: usize = 4096;

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A record ends here, above all others.
    pub(crate) fn end(&mut self, at: Position) {
        if self.ends.len() < Self::MAX && self.ends.back().is_none_or(|last| *last < at) {
            self.ends.push_back(at);
        }
    }

    /// The first end above `at`.
    pub(crate) fn next_after(&self, at: Position) -> Option<Position> {
        self.ends.get(self.ends.partition_point(|end| *end <= at)).copied()
    }

    /// Whether a record ends at `at`.
    pub(crate) fn is_end(&self, at: Position) -> bool {
        self.ends.binary_search(&at).is_ok()
    }

    /// Everything below is acknowledged.
    pub(crate) fn forget(&mut self, below: Position) {
        while self.ends.pop_front_if(|end| *end < below).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use base_wire::tcp_flag;

    use crate::{Config, Connection, Identity};

    #[test]
    fn nothing_follows_the_end_of_a_record_in_its_segment() {
        let config = Config { super_segment_bytes: 65_000, ..Config::default() };
        let identity = |number| Identity { initial_sequence: number, timestamp_offset: 0 };
        let mut ours = Connection::connect(1, config.clone(), identity(1));
        let syn = ours.poll_transmit(1).unwrap().segment;
        let mut peer = Connection::accept(1, config, identity(2), &syn).unwrap();
        ours.on_segment(2, &peer.poll_transmit(2).unwrap().segment);
        ours.set_no_delay(true);
        ours.write(300, false).unwrap();
        ours.end_record();
        ours.write(100, false).unwrap();
        ours.write(300, false).unwrap();
        ours.end_record();
        let sent: Vec<_> = std::iter::from_fn(|| ours.poll_transmit(3)).collect();
        let parts: Vec<_> =
            sent.iter().map(|part| (part.offset, part.segment.payload_bytes)).collect();
        assert_eq!(parts, [(0, 300), (300, 400)]);
        assert!(sent.iter().all(|part| part.segment.has(tcp_flag::PSH)));

        // And what is sent again is not joined.
        let due_ns = 3_000_000_000;
        ours.poll_transmit(due_ns);
        assert_eq!(ours.poll_transmit(2 * due_ns).unwrap().segment.payload_bytes, 300);
    }
}
