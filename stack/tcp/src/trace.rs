//! What a connection did last: an always-on ring of small binary records.
//!
//! Recording is a store of 16 bytes; nothing is formatted before somebody asks. The ring of a
//! connection that died is the first thing to look at (`plumb trace --tcp`).

/// Records kept.
const RECORDS: usize = 128;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 16;

/// What happened; `a` and `b` are what the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// Segment received: sequence, acknowledgment.
    Received = 1,
    /// Segment sent: sequence, payload bytes.
    Sent = 2,
    /// Payload sent again: sequence, bytes.
    SentAgain = 3,
    /// State entered: its number in [`State`](crate::State)'s order, 0.
    State = 4,
    /// Time-out expired: first unacknowledged number, time-out in µs.
    TimedOut = 5,
    /// Losses found: bytes, congestion window.
    Lost = 6,
    /// Recovery began: recovery point, new threshold.
    RecoveryBegan = 7,
    /// Recovery ended: first unacknowledged number, congestion window.
    RecoveryEnded = 8,
    /// Recovery was for nothing: first unacknowledged number, congestion window.
    Undone = 9,
    /// Tail loss probe: sequence, bytes.
    Probed = 10,
    /// Peer's window: bytes, 0.
    PeerWindow = 11,
    /// Congestion mark echoed by the peer: first unacknowledged number, congestion window.
    Marked = 12,
    /// Path's MTU: bytes, bytes before.
    Mtu = 13,
    /// Segment refused: sequence, [`Refused`].
    Refused = 14,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Received,
        Self::Sent,
        Self::SentAgain,
        Self::State,
        Self::TimedOut,
        Self::Lost,
        Self::RecoveryBegan,
        Self::RecoveryEnded,
        Self::Undone,
        Self::Probed,
        Self::PeerWindow,
        Self::Marked,
        Self::Mtu,
        Self::Refused,
    ];

    /// The event of a [`Record`], by its number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as u8 == number)
    }
}

/// Why an arrived segment was not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Refused {
    /// Outside the window.
    Outside = 1,
    /// Old timestamp.
    OldTimestamp = 2,
    /// A reset that does not hit the next byte.
    InexactReset = 3,
    /// A SYN on a connection.
    Syn = 4,
    /// Acknowledges what was never sent, or too long ago.
    Acknowledgment = 5,
    /// No ACK bit.
    NoAcknowledgment = 6,
    /// The connection is closed.
    Closed = 7,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When, in µs of the connection's clock, modulo 2³².
    pub at_us: u32,
    /// What: a number of [`Event`].
    pub event: u8,
    /// Control bits, for segments.
    pub flags: u8,
    /// First fact.
    pub a: u32,
    /// Second fact.
    pub b: u32,
}

impl Record {
    /// As it is written to a file.
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..4].copy_from_slice(&self.at_us.to_le_bytes());
        bytes[4] = self.event;
        bytes[5] = self.flags;
        bytes[8..12].copy_from_slice(&self.a.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.b.to_le_bytes());
        bytes
    }

    /// As it was written.
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self { at_us: number(0), event: bytes[4], flags: bytes[5], a: number(8), b: number(12) }
    }
}

/// The ring. It grows to its size with what happens: many connections are short, or idle.
#[derive(Debug, Default)]
pub struct Trace {
    records: Vec<Record>,
    count: u64,
}

impl Trace {
    pub(crate) fn record(&mut self, now_ns: u64, event: Event, a: u32, b: u32) {
        self.segment(now_ns, event, 0, a, b);
    }

    pub(crate) fn segment(&mut self, now_ns: u64, event: Event, flags: u8, a: u32, b: u32) {
        let at_us = (now_ns / 1000) as u32;
        let record = Record { at_us, event: event as u8, flags, a, b };
        if self.records.len() < RECORDS {
            self.records.push(record);
        } else {
            self.records[(self.count % RECORDS as u64) as usize] = record;
        }
        self.count += 1;
    }

    /// The records that are left, oldest first.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let kept = self.count.min(RECORDS as u64);
        (self.count - kept..self.count).map(|n| self.records[(n % RECORDS as u64) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest_in_order() {
        let mut trace = Trace::default();
        for n in 0..RECORDS as u32 + 5 {
            trace.record(u64::from(n) * 1000, Event::Sent, n, 0);
        }
        let kept: Vec<u32> = trace.records().map(|record| record.a).collect();
        assert_eq!(kept, (5..RECORDS as u32 + 5).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record { at_us: 0x1234_5678, event: 3, flags: 0x18, a: u32::MAX, b: 7 };
        assert_eq!(Record::from_bytes(&record.to_bytes()), record);
    }
}
