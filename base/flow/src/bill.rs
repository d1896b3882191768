//! The bill of a flow: what it used of the wire and of the driver.

use crate::DropReason;

/// Words (`u64`) of one bill in the shared counter area: six cache lines.
pub const BILL_WORDS: usize = 48;

/// Which word of a bill counts what; drops begin at [`bill_word::DROPS`].
///
/// Words 0–7 are written whenever the flow sends, 8–15 when it receives (and, for want of room, when it
/// sends on slack or late), so that either direction touches one cache line.
pub mod bill_word {
    /// Frames handed to the wire.
    pub const TX_FRAMES: usize = 0;
    /// Bytes of those frames, headers included.
    pub const TX_BYTES: usize = 1;
    /// Wire time of those frames.
    pub const TX_WIRE_NS: usize = 2;
    /// Driver time spent on sending them, and on refusing others.
    pub const TX_CPU_NS: usize = 3;
    /// Of the frames, those sent on slack.
    pub const TX_SLACK_FRAMES: usize = 4;
    /// Of the frames, those delivered to a flow of this host.
    pub const TX_LOCAL_FRAMES: usize = 5;
    /// In the link's own bill: time the line stood still because the driver could not run.
    pub const LINK_STALL_NS: usize = 6;
    /// In the link's own bill: processor time of the driver's thread since it started.
    pub const LINK_THREAD_NS: usize = 7;
    /// Frames delivered to the application.
    pub const RX_FRAMES: usize = 8;
    /// Bytes of those frames.
    pub const RX_BYTES: usize = 9;
    /// Driver time spent on receiving them, and on dropping others.
    pub const RX_CPU_NS: usize = 10;
    /// Frames that arrived for the flow, delivered or not.
    pub const RX_OFFERED: usize = 11;
    /// Frames that waited for the application when the last one was delivered, that one included.
    pub const RX_BACKLOG: usize = 12;
    /// Of the wire time, that on slack.
    pub const TX_SLACK_NS: usize = 13;
    /// Periods in which a frame was later than the contract allows, stalls of the line not counted.
    pub const TX_PERIODS_MISSED: usize = 14;
    /// First of the drop counters, in the order of [`crate::DropReason::ALL`].
    pub const DROPS: usize = 16;
}

const _: () = assert!(bill_word::DROPS + DropReason::COUNT <= BILL_WORDS);

/// A snapshot of a bill.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Bill {
    /// Frames handed to the wire.
    pub tx_frames: u64,
    /// Bytes of those frames, headers included.
    pub tx_bytes: u64,
    /// Wire time of those frames.
    pub tx_wire_ns: u64,
    /// Driver time spent on sending.
    pub tx_cpu_ns: u64,
    /// Of the frames, those sent on slack.
    pub tx_slack_frames: u64,
    /// Of the frames, those delivered to a flow of this host.
    pub tx_local_frames: u64,
    /// Of the wire time, that on slack.
    pub tx_slack_ns: u64,
    /// Periods in which a frame was later than the contract allows, stalls of the line not counted.
    pub tx_periods_missed: u64,
    /// Frames delivered to the application.
    pub rx_frames: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
    /// Driver time spent on receiving.
    pub rx_cpu_ns: u64,
    /// Frames that arrived for the flow, delivered or not.
    pub rx_offered: u64,
    /// Frames that waited for the application when the last one was delivered, that one included.
    pub rx_backlog: u64,
    /// Dropped frames by reason; reasons that never occurred are left out.
    pub drops: Vec<(DropReason, u64)>,
}

impl Bill {
    /// Reads a bill from the words of a counter area; missing words count as zero.
    pub fn from_words(word: impl Fn(usize) -> u64) -> Self {
        Self {
            tx_frames: word(bill_word::TX_FRAMES),
            tx_bytes: word(bill_word::TX_BYTES),
            tx_wire_ns: word(bill_word::TX_WIRE_NS),
            tx_cpu_ns: word(bill_word::TX_CPU_NS),
            tx_slack_frames: word(bill_word::TX_SLACK_FRAMES),
            tx_local_frames: word(bill_word::TX_LOCAL_FRAMES),
            tx_slack_ns: word(bill_word::TX_SLACK_NS),
            tx_periods_missed: word(bill_word::TX_PERIODS_MISSED),
            rx_frames: word(bill_word::RX_FRAMES),
            rx_bytes: word(bill_word::RX_BYTES),
            rx_cpu_ns: word(bill_word::RX_CPU_NS),
            rx_offered: word(bill_word::RX_OFFERED),
            rx_backlog: word(bill_word::RX_BACKLOG),
            drops: DropReason::ALL
                .iter()
                .map(|&reason| (reason, word(bill_word::DROPS + reason as usize)))
                .filter(|&(_, count)| count > 0)
                .collect(),
        }
    }

    /// Both together; of frames that waited, the larger number.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |reason| self.dropped(reason) + other.dropped(reason);
        let drops = DropReason::ALL.iter().map(|&reason| (reason, sum(reason)));
        Self {
            tx_frames: self.tx_frames + other.tx_frames,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            tx_wire_ns: self.tx_wire_ns + other.tx_wire_ns,
            tx_cpu_ns: self.tx_cpu_ns + other.tx_cpu_ns,
            tx_slack_frames: self.tx_slack_frames + other.tx_slack_frames,
            tx_local_frames: self.tx_local_frames + other.tx_local_frames,
            tx_slack_ns: self.tx_slack_ns + other.tx_slack_ns,
            tx_periods_missed: self.tx_periods_missed + other.tx_periods_missed,
            rx_frames: self.rx_frames + other.rx_frames,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            rx_cpu_ns: self.rx_cpu_ns + other.rx_cpu_ns,
            rx_offered: self.rx_offered + other.rx_offered,
            rx_backlog: self.rx_backlog.max(other.rx_backlog),
            drops: drops.filter(|&(_, count)| count > 0).collect(),
        }
    }

    /// With so many more frames dropped for `reason`.
    #[must_use]
    pub fn with_dropped(self, reason: DropReason, count: u64) -> Self {
        let drops = if count > 0 { vec![(reason, count)] } else { Vec::new() };
        self.plus(&Self { drops, ..Self::default() })
    }

    /// How often frames were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count)
    }

    /// How many frames were dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word has a number of its own, so that none is taken for another.
    fn word(index: usize) -> u64 {
        1_000 + 7 * index as u64
    }

    #[test]
    fn each_count_is_read_from_its_word() {
        let bill = Bill::from_words(word);
        for (count, index) in [
            (bill.tx_frames, bill_word::TX_FRAMES),
            (bill.tx_bytes, bill_word::TX_BYTES),
            (bill.tx_wire_ns, bill_word::TX_WIRE_NS),
            (bill.tx_cpu_ns, bill_word::TX_CPU_NS),
            (bill.tx_slack_frames, bill_word::TX_SLACK_FRAMES),
            (bill.tx_local_frames, bill_word::TX_LOCAL_FRAMES),
            (bill.tx_slack_ns, bill_word::TX_SLACK_NS),
            (bill.tx_periods_missed, bill_word::TX_PERIODS_MISSED),
            (bill.rx_frames, bill_word::RX_FRAMES),
            (bill.rx_bytes, bill_word::RX_BYTES),
            (bill.rx_cpu_ns, bill_word::RX_CPU_NS),
            (bill.rx_offered, bill_word::RX_OFFERED),
            (bill.rx_backlog, bill_word::RX_BACKLOG),
        ] {
            assert_eq!(count, word(index), "word {index}");
        }
        let mut total = 0;
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            let count = word(bill_word::DROPS + index);
            assert_eq!(bill.dropped(reason), count, "{reason}");
            total += count;
        }
        assert_eq!(bill.dropped_total(), total);
    }

    #[test]
    fn bills_add_up_word_by_word_but_for_what_waits() {
        let (some, more) = (|index: usize| index as u64 * 3 % 11, |index: usize| index as u64 % 5);
        let expected = Bill::from_words(|index| match index {
            bill_word::RX_BACKLOG => some(index).max(more(index)),
            index => some(index) + more(index),
        });
        let (some, more) = (Bill::from_words(some), Bill::from_words(more));
        assert_eq!(some.plus(&more), expected);
        assert_eq!(more.plus(&some), expected);
        assert_eq!(some.plus(&Bill::default()), some, "nothing changes nothing");
    }

    #[test]
    fn a_reason_that_never_occurred_is_left_out() {
        let first = bill_word::DROPS + DropReason::NoFreeBuffer as usize;
        let bill = Bill::from_words(|index| u64::from(index == first));
        assert_eq!(bill.drops, [(DropReason::NoFreeBuffer, 1)]);
        assert_eq!(bill.plus(&bill).drops, [(DropReason::NoFreeBuffer, 2)]);
        assert_eq!(bill.clone().with_dropped(DropReason::Stranger, 0), bill);
        let more = bill.clone().with_dropped(DropReason::Stranger, 3);
        assert_eq!(more.drops, [(DropReason::NoFreeBuffer, 1), (DropReason::Stranger, 3)]);
        assert_eq!((bill.dropped(DropReason::Closed), bill.dropped_total()), (0, 1));
    }
}
