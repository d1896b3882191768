//! What was seen on the wire in one run: the same whether a simulator, our driver or Linux sent it.

use base_flow::{Contract, Rate};

use crate::measure::ExactLine;

/// A frame that was sent. Times in nanoseconds of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// When the application had it ready.
    pub sent_ns: u64,
    /// When it was seen to leave: handed to the wire in virtual time, stamped by the receiving
    /// kernel in a lab.
    pub seen_ns: u64,
    /// When its last bit leaves an exact line on which it was put when it was seen.
    pub done_ns: u64,
    /// Its length, without check sequence.
    pub bytes: u16,
}

/// The frames of one sender, in order.
#[derive(Debug, Clone)]
pub struct Lane {
    /// What it is called in tables and pictures.
    pub name: String,
    /// What it was promised.
    pub contract: Contract,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// When it had its first frame ready.
    pub from_ns: u64,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The line that the run was scheduled for and is replayed over.
    pub rate: Rate,
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub until_ns: u64,
    /// Times at which the line stood still because the scheduler could not run, and for how long;
    /// in order.
    pub stalls: Vec<(u64, u64)>,
    /// The senders.
    pub lanes: Vec<Lane>,
    /// The scheduler's tardiness bound.
    pub tardiness_ns: u64,
    /// How long it took, stalls included.
    pub wall_ns: u64,
}

impl Trace {
    /// Replays all frames, in the order in which they were seen, over an exact line.
    pub fn replay(&mut self) {
        let mut order: Vec<(u64, u32, u32)> = Vec::new();
        for (lane, Lane { frames, .. }) in self.lanes.iter().enumerate() {
            let seen = frames.iter().enumerate();
            order.extend(seen.map(|(i, frame)| (frame.seen_ns, lane as u32, i as u32)));
        }
        order.sort_unstable();
        let mut line = ExactLine::new(self.rate);
        for (at, lane, index) in order {
            let frame = &mut self.lanes[lane as usize].frames[index as usize];
            frame.done_ns = line.send(at, frame.bytes.into());
        }
    }

    /// Time the line stood still within the run.
    pub fn stalled_ns(&self) -> u64 {
        self.stalls.iter().map(|(_, ns)| ns).sum()
    }

    /// The same run in the time in which the line could run: what it stood still is cut out.
    #[must_use]
    pub fn without_stalls(&self) -> Self {
        let mut cut = self.clone();
        // What was reported of two stalls may overlap by as much as they were looked for apart.
        let mut stalls = Vec::with_capacity(self.stalls.len());
        let mut end = 0;
        for &(from, ns) in &self.stalls {
            let from = from.max(end);
            stalls.push((from, ns));
            end = from + ns;
        }
        let shift = |at: u64| {
            let behind = stalls.partition_point(|&(from, _)| from < at);
            let gone = stalls[..behind].iter().map(|&(from, ns)| ns.min(at - from)).sum::<u64>();
            at - gone
        };
        if self.stalls.is_empty() {
            return cut;
        }
        for lane in &mut cut.lanes {
            lane.from_ns = shift(lane.from_ns);
            for frame in &mut lane.frames {
                for at in [&mut frame.sent_ns, &mut frame.seen_ns, &mut frame.done_ns] {
                    *at = shift(*at);
                }
            }
        }
        (cut.from_ns, cut.until_ns) = (shift(self.from_ns), shift(self.until_ns));
        cut.stalls = Vec::new();
        cut
    }

    /// Every frame in the order in which it was seen: when, and how long it is.
    pub fn seen(&self) -> Vec<(u64, usize)> {
        let all = self.lanes.iter().flat_map(|lane| &lane.frames);
        let mut all: Vec<_> = all.map(|frame| (frame.seen_ns, usize::from(frame.bytes))).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_cut_out_of_time() {
        let at = |at| Frame { sent_ns: at, seen_ns: at, done_ns: at, bytes: 60 };
        let lane = Lane {
            name: String::new(),
            contract: Contract::BEST_EFFORT,
            frames: [10, 150, 250].map(at).to_vec(),
            from_ns: 0,
        };
        let trace = Trace {
            rate: Rate::mbit(100),
            from_ns: 0,
            until_ns: 300,
            stalls: vec![(100, 40), (200, 30)],
            lanes: vec![lane],
            tardiness_ns: 0,
            wall_ns: 300,
        };
        let cut = trace.without_stalls();
        let done: Vec<u64> = cut.lanes[0].frames.iter().map(|frame| frame.done_ns).collect();
        assert_eq!((done, cut.until_ns), (vec![10, 110, 180], 230));
        assert_eq!(trace.stalled_ns(), 70);
        let overlapping = Trace { stalls: vec![(100, 40), (120, 30)], ..trace };
        let cut = overlapping.without_stalls();
        let done: Vec<u64> = cut.lanes[0].frames.iter().map(|frame| frame.done_ns).collect();
        assert_eq!((done, cut.until_ns), (vec![10, 100, 180], 230), "time never runs back");
    }
}
