//! Shares of the wire over time: bins, deviation, fairness.

use crate::trace::Frame;

/// Sums of occupied bytes in consecutive bins of `bin_ns` from `from_ns` on, as far as whole bins go.
pub fn bins(frames: &[Frame], from_ns: u64, until_ns: u64, bin_ns: u64) -> Vec<u64> {
    let mut sums = vec![0; (until_ns.saturating_sub(from_ns) / bin_ns) as usize];
    for frame in frames {
        if let Some(since) = frame.done_ns.checked_sub(from_ns)
            && let Some(sum) = sums.get_mut((since / bin_ns) as usize)
        {
            *sum += super::line::occupied_bytes(frame.bytes.into());
        }
    }
    sums
}

/// Standard deviation relative to the mean; 0 of nothing.
pub fn relative_sd(values: &[u64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<u64>() as f64 / n;
    if mean == 0.0 {
        return 0.0;
    }
    let variance = values.iter().map(|&value| (value as f64 - mean).powi(2)).sum::<f64>() / n;
    variance.sqrt() / mean
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has everything.
pub fn jain(values: &[f64]) -> f64 {
    let (sum, squares) = values
        .iter()
        .fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    if squares == 0.0 { 1.0 } else { sum * sum / (values.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: impl IntoIterator<Item = u64>) -> Vec<Frame> {
        times
            .into_iter()
            .map(|at| Frame { sent_ns: at, seen_ns: at, done_ns: at, bytes: 1514 })
            .collect()
    }

    #[test]
    fn bins_count_what_ended_in_them() {
        let frames = at([0, 99, 100, 250, 399]);
        assert_eq!(bins(&frames, 0, 400, 100), [2 * 1538, 1538, 1538, 1538]);
        assert_eq!(bins(&frames, 100, 350, 100), [1538, 1538], "only whole bins");
    }

    #[test]
    fn deviation_and_fairness_of_known_cases() {
        assert_eq!(relative_sd(&[5, 5, 5]), 0.0);
        assert_eq!(relative_sd(&[1, 3]), 0.5);
        assert_eq!(relative_sd(&[]), 0.0);
        assert_eq!(jain(&[1.0, 1.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0]), 0.5);
        assert_eq!(jain(&[1.0, 3.0]), 0.8);
    }
}
