//! Tail loss probes: if the answer to the last segments is lost, a probe gets one (RFC 8985 §7).

use crate::Position;
use crate::Segment;
use crate::connection::Connection;
use crate::detection::News;
use crate::recovery::Phase;

/// A segment sent for its acknowledgment's sake (RFC 8985 §7).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailProbe {
    pub(crate) end: Position,
    /// Whether it was old data.
    pub(crate) again: bool,
}

/// Worst delay of an acknowledgment to expect (RFC 8985 §7.2).
const ACK_DELAY_MAX_NS: u64 = 200_000_000;

impl Connection {
    /// Whether the last segments should be probed for (RFC 8985 §7.2).
    pub(crate) fn wants_tail_probe(&self) -> bool {
        self.send.sack
            && self.recovery.phase() == Phase::Open
            && self.map.sacked() == 0
            && self.map.lost() == 0
            && !self.map.is_empty()
            && self.recovery.tail.is_none()
            && self.state.is_synchronised()
    }

    /// When (§7.2): two round trips, and the peer's delay if there is one segment only.
    pub(crate) fn tail_probe_after_ns(&self) -> u64 {
        let Some(smoothed_ns) = self.rtt.smoothed_ns() else { return 1_000_000_000 };
        let single = self.map.in_flight() <= self.window.segment;
        2 * smoothed_ns + if single { ACK_DELAY_MAX_NS } else { 2_000_000 }
    }

    /// RFC 8985 §7.4: what became of the probe.
    pub(crate) fn end_tail_probe(
        &mut self,
        now_ns: u64,
        news: &News,
        segment: &Segment,
        same: bool,
    ) {
        let Some(tail) = self.recovery.tail else { return };
        let una = self.map.start();
        if una < tail.end {
            return;
        }
        let reports = !segment.options.sack.as_slice().is_empty();
        let unanswered = tail.again && !news.duplicate;
        if unanswered && una == tail.end && !(same && news.acked == 0 && !reports) {
            // A report of the duplicate may still come, if there was one.
            return;
        }
        if unanswered && una > tail.end && self.recovery.phase() == Phase::Open {
            // The probe repaired a loss, and a loss is congestion.
            self.begin(now_ns, Phase::Reduced);
            self.end_phase(now_ns);
            self.recovery.undo = None;
        }
        self.recovery.tail = None;
    }
}
