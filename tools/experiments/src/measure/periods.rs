//! Period accounting: what a flow was given in each of its periods, against its contract.

use base_flow::Contract;

use super::line::ExactLine;
use crate::trace::Frame;

/// Wire time of the frames that ended in each of the flow's periods; the first begins at `from_ns`.
pub fn service_by_period(
    frames: &[Frame],
    line: &ExactLine,
    period_ns: u64,
    from_ns: u64,
    until_ns: u64,
) -> Vec<f64> {
    let mut service = vec![0.0; (until_ns.saturating_sub(from_ns) / period_ns) as usize];
    for frame in frames {
        // A frame that ends with its period was given in it.
        if let Some(since) = frame.done_ns.checked_sub(from_ns + 1)
            && let Some(sum) = service.get_mut((since / period_ns) as usize)
        {
            *sum += line.frame_ns(frame.bytes.into());
        }
    }
    service
}

/// How a contract was kept, period by period, with a flow that always had something to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Fulfilment {
    /// What was given in each period as a share of the slice.
    pub shares: Vec<f64>,
    /// Periods at whose end less had been given altogether than was due, by more than a frame and
    /// what a frame may be late.
    pub missed: usize,
}

/// Accounts for the periods of `contract` from `from_ns` on. `late_ns` is the tardiness bound: frames
/// that were due may end that much after the period.
pub fn fulfilment(
    frames: &[Frame],
    line: &ExactLine,
    contract: &Contract,
    late_ns: u64,
    from_ns: u64,
    until_ns: u64,
) -> Fulfilment {
    let (s, p) = (contract.slice_ns as f64, contract.period_ns);
    let service = service_by_period(frames, line, p, from_ns, until_ns);
    // What is due by the end of a period may end up to the bound later.
    let by_bound = service_by_period(frames, line, p, from_ns + late_ns, until_ns + late_ns);
    let before: f64 = frames
        .iter()
        .filter(|frame| (from_ns..=from_ns + late_ns).contains(&frame.done_ns))
        .map(|frame| line.frame_ns(frame.bytes.into()))
        .sum();
    let longest = frames.iter().map(|frame| line.frame_ns(frame.bytes.into())).fold(0.0, f64::max);
    let (mut given, mut missed) = (before, 0);
    for (index, share) in by_bound.iter().enumerate() {
        given += share;
        let due = (index + 1) as f64 * s;
        if given + longest < due {
            missed += 1;
        }
    }
    Fulfilment { shares: service.into_iter().map(|given| given / s).collect(), missed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_flow::Rate;

    const MS: u64 = 1_000_000;

    fn frames(times: &[u64]) -> Vec<Frame> {
        let one = |&at: &u64| Frame { sent_ns: at, seen_ns: at, done_ns: at, bytes: 1514 };
        times.iter().map(one).collect()
    }

    #[test]
    fn a_frame_belongs_to_the_period_it_ends_in() {
        let line = ExactLine::new(Rate::mbit(100));
        let service = service_by_period(&frames(&[1, 100, 101, 200, 300]), &line, 100, 0, 300);
        assert_eq!(service, [2.0 * 123_040.0, 2.0 * 123_040.0, 123_040.0]);
    }

    #[test]
    fn a_period_without_its_slice_is_missed() {
        let line = ExactLine::new(Rate::mbit(100));
        // Four frames in every 10 ms: 492,160 ns.
        let contract = Contract::guaranteed(4 * 123_040, 10 * MS).unwrap();
        let every = |skip: u64| -> Vec<u64> {
            (0..10)
                .filter(|&k| k != skip)
                .flat_map(|k| (1..=4).map(move |i| k * 10 * MS + i * 123_040))
                .collect()
        };
        let kept = fulfilment(&frames(&every(99)), &line, &contract, 0, 0, 100 * MS);
        assert_eq!((kept.missed, kept.shares.len()), (0, 10));
        assert!(kept.shares.iter().all(|&share| (share - 1.0).abs() < 1e-9));
        let broken = fulfilment(&frames(&every(4)), &line, &contract, 0, 0, 100 * MS);
        assert_eq!(broken.missed, 6, "and what was lost was never given back");
        assert_eq!(broken.shares[4], 0.0);
    }

    #[test]
    fn what_is_late_within_the_bound_is_not_missed() {
        let line = ExactLine::new(Rate::mbit(100));
        let contract = Contract::guaranteed(2 * 123_040, 10 * MS).unwrap();
        let late: Vec<u64> =
            (1..=10).flat_map(|k| [k * 10 * MS + 1, k * 10 * MS + 200_000]).collect();
        assert_eq!(fulfilment(&frames(&late), &line, &contract, 200_000, 0, 100 * MS).missed, 0);
        assert!(fulfilment(&frames(&late), &line, &contract, 0, 0, 100 * MS).missed > 0);
    }
}
