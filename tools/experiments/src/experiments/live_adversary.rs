//! Senders that try to break the bound and can be processes: bursts of a whole slice as soon as a new
//! one is due, or just before; frames that leave an odd rest of it; the smallest there are; slack
//! taken all the time; 95 % of the line promised.
//!
//! The book says from contract and sending times when each frame must be out.

use base_flow::{Contract, Rate};

use super::book::Book;
use super::{MS, guaranteed};
use crate::measure::ExactLine;
use crate::outcome::{Band, Metric, Part};
use crate::policy::Policy;
use crate::trace::{Lane, Trace};
use crate::transmit::{FRAME_BYTES, Load, Sender};

/// The line.
pub const RATE: Rate = Rate::mbit(100);

/// A driver hears of a frame this much after it was sent, at most, on a machine of its own; what it
/// hears later was not yet there for it.
const NOTICE_NS: u64 = 250_000;

/// The senders.
pub fn senders() -> Vec<Sender> {
    // Slice and period in microseconds, frame, and how much later than a period the next burst is.
    let habits = [
        (4_000, 20_000, 1_514, 1),
        (5_000, 50_000, 700, 1_000),
        (1_000, 10_000, 60, 1),
        (20_000, 100_000, 1_514, 3),
        (3_000, 15_000, 333, 7_000),
        (6_000, 40_000, 1_000, 1),
    ];
    let mut all: Vec<Sender> = habits
        .into_iter()
        .enumerate()
        .map(|(index, (slice_us, period_us, bytes, late_us))| {
            let contract = guaranteed(slice_us * 1_000, period_us * 1_000);
            let burst = (contract.slice_ns / RATE.wire_ns(bytes.into())) as u16;
            let every_ns = (period_us + late_us) * 1_000;
            Sender {
                name: format!("{} ms in {} ms, {bytes} bytes", slice_us / 1_000, period_us / 1_000),
                contract,
                load: Load::Steady { bytes, every_ns, burst },
                from_ns: index as u64 * 3 * MS,
            }
        })
        .collect();
    let load = Load::Flood { bytes: FRAME_BYTES as u16 };
    all.push(Sender { name: "slack".into(), contract: Contract::BEST_EFFORT, load, from_ns: 0 });
    all
}

/// By how much each frame of a lane was later than the book says it had to be; negative if earlier.
fn lateness_ns(lane: &Lane, line: &ExactLine) -> Vec<i128> {
    let mut book = Book::new(&lane.contract, super::book::NEVER);
    let mut all = Vec::with_capacity(lane.frames.len());
    let mut out_ns = 0;
    for frame in &lane.frames {
        let cost = line.frame_ns(frame.bytes.into()).round() as i128;
        let sent = i128::from(frame.sent_ns);
        if frame.sent_ns >= out_ns {
            // It had nothing else to send: if it was waiting for a period that has begun, no more.
            book.replenish(sent, false);
            if !book.waiting {
                book.wake(sent);
            }
        }
        while book.waiting {
            book.replenish(book.next_period, true);
        }
        all.push(i128::from(frame.done_ns) - book.key(cost).div_euclid(book.s));
        book.serve(cost, true);
        out_ns = frame.seen_ns;
    }
    all
}

/// Judges a run. Time in which the line stood still does not count.
pub fn judge(trace: &Trace, live: bool) -> Part {
    let subject = Policy::Atx.name();
    let cut = trace.without_stalls();
    let line = ExactLine::new(cut.rate);
    let limit = i128::from(cut.tardiness_ns + if live { NOTICE_NS } else { 0 });
    let (mut violations, mut frames, mut metrics) = (0, 0, Vec::new());
    for lane in cut.lanes.iter().filter(|lane| lane.contract.is_guaranteed()) {
        let late = lateness_ns(lane, &line);
        violations += late.iter().filter(|&&late| late > limit).count();
        frames += late.len();
        let worst = late.into_iter().max().unwrap_or(0) as f64 / 1e3;
        metrics.push(Metric::new(subject, &lane.name, "worst lateness", worst, "µs"));
    }
    let all = |name: &str, value: f64, unit| Metric::new(subject, "processes", name, value, unit);
    metrics
        .push(all("bound violations", violations as f64, "frames").within(Some(Band::AtMost(0.0))));
    metrics.push(all("bound", limit as f64 / 1e3, "µs"));
    metrics.push(all("seen", frames as f64, "frames").within(Some(Band::AtLeast(1.0))));
    Part { metrics, ..Part::default() }
}
