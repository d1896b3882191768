//! A socket's error queue: which of its writes have left, have arrived, and need their memory no more.
//!
//! The engine says how far a stream was sent and acknowledged; what an application asked to be told of
//! is found by comparing that with where its writes end.

use std::collections::VecDeque;

use libc::{
    SOF_TIMESTAMPING_OPT_ID, SOF_TIMESTAMPING_SOFTWARE, SOF_TIMESTAMPING_TX_ACK,
    SOF_TIMESTAMPING_TX_SCHED, SOF_TIMESTAMPING_TX_SOFTWARE,
};
use tools_packet::Progress;

/// What an error queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The memory of these writes, both included, is free again.
    Released { first: u32, last: u32 },
    /// The last byte of a write got so far.
    Reached { at_us: i64, stage: u32, key: u32 },
}

/// `SCM_TSTAMP_SND`, `SCM_TSTAMP_SCHED` and `SCM_TSTAMP_ACK`.
const SENT: u32 = 0;
const SCHEDULED: u32 = 1;
const ACKNOWLEDGED: u32 = 2;

/// What one socket wants to be told, and was not told yet.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Whether `MSG_ZEROCOPY` means something.
    pub(crate) zerocopy: bool,
    /// Flags of `SO_TIMESTAMPING`, and the byte from which on keys count.
    stamping: (u32, u64),
    /// Number of the next write whose memory is lent.
    next: u32,
    lent: VecDeque<(u64, u32)>,
    stamped: VecDeque<Stamped>,
    queue: VecDeque<Notice>,
    /// How many there ever were.
    pub(crate) count: u64,
}

#[derive(Debug)]
struct Stamped {
    end: u64,
    key: u32,
    sent: bool,
}

impl Notices {
    /// Those of a socket that comes out of a listener.
    pub(crate) fn inherited(&self) -> Self {
        Self { zerocopy: self.zerocopy, ..Self::default() }
    }

    /// `SO_TIMESTAMPING`.
    pub(crate) fn stamp(&mut self, flags: u32, progress: Progress) {
        if flags & SOF_TIMESTAMPING_OPT_ID & !self.stamping.0 != 0 {
            self.stamping.1 = progress.acknowledged;
        }
        self.stamping.0 = flags;
    }

    /// Bytes up to `end` were written by one call, which lends its memory or not.
    pub(crate) fn wrote(&mut self, end: u64, lends: bool) {
        if lends && self.zerocopy {
            self.lent.push_back((end, self.next));
            self.next = self.next.wrapping_add(1);
        }
        let (flags, from) = self.stamping;
        if flags & SOF_TIMESTAMPING_SOFTWARE != 0 {
            let counted = flags & SOF_TIMESTAMPING_OPT_ID != 0;
            let key = if counted { (end - from) as u32 - 1 } else { 0 };
            self.stamped.push_back(Stamped { end, key, sent: false });
        }
    }

    /// The stream has got so far by now.
    pub(crate) fn observe(&mut self, at_us: i64, progress: Progress) {
        let free_below = if progress.over { u64::MAX } else { progress.acknowledged };
        while let Some((_, number)) = self.lent.pop_front_if(|(end, _)| *end <= free_below) {
            self.count += 1;
            match self.queue.back_mut() {
                Some(Notice::Released { last, .. }) if last.wrapping_add(1) == number => {
                    *last = number;
                }
                _ => self.queue.push_back(Notice::Released { first: number, last: number }),
            }
        }
        let flags = self.stamping.0;
        for write in &mut self.stamped {
            let mut reached = |stage, flag| {
                if flags & flag != 0 {
                    self.queue.push_back(Notice::Reached { at_us, stage, key: write.key });
                    self.count += 1;
                }
            };
            if !write.sent && progress.sent >= write.end {
                write.sent = true;
                // Nothing waits between the engine and the wire.
                reached(SCHEDULED, SOF_TIMESTAMPING_TX_SCHED);
                reached(SENT, SOF_TIMESTAMPING_TX_SOFTWARE);
            }
            if progress.acknowledged >= write.end {
                reached(ACKNOWLEDGED, SOF_TIMESTAMPING_TX_ACK);
            }
        }
        self.stamped.retain(|write| progress.acknowledged < write.end);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The oldest notice.
    pub(crate) fn take(&mut self) -> Option<Notice> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn progress(sent: u64, acknowledged: u64, over: bool) -> Progress {
        Progress { written: 100, sent, acknowledged, over }
    }

    #[test]
    fn memory_is_free_when_it_was_acknowledged_and_neighbours_are_told_together() {
        let mut notices = Notices { zerocopy: true, ..Notices::default() };
        for end in [10, 20, 30] {
            notices.wrote(end, true);
        }
        notices.observe(1, progress(30, 20, false));
        assert_eq!(notices.take(), Some(Notice::Released { first: 0, last: 1 }));
        assert!(notices.is_empty());
        notices.observe(2, progress(30, 20, true));
        assert_eq!(notices.take(), Some(Notice::Released { first: 2, last: 2 }));
    }

    #[test]
    fn the_last_byte_of_a_write_is_stamped_when_it_leaves_and_when_it_arrives() {
        let mut notices = Notices::default();
        let flags = SOF_TIMESTAMPING_SOFTWARE
            | SOF_TIMESTAMPING_TX_SOFTWARE
            | SOF_TIMESTAMPING_TX_ACK
            | SOF_TIMESTAMPING_OPT_ID;
        notices.stamp(flags, progress(0, 0, false));
        notices.wrote(100, false);
        notices.observe(1, progress(99, 0, false));
        assert!(notices.is_empty());
        notices.observe(2, progress(100, 0, false));
        notices.observe(3, progress(100, 100, false));
        let reached = |at_us, stage| Some(Notice::Reached { at_us, stage, key: 99 });
        assert_eq!((notices.take(), notices.take()), (reached(2, SENT), reached(3, ACKNOWLEDGED)));
    }
}
