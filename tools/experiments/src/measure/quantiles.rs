//! Quantiles of latencies: exact, by nearest rank.

/// Sorted values.
#[derive(Debug, Clone, Default)]
pub struct Quantiles(Vec<u64>);

impl Quantiles {
    /// Of `values`, in any order.
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        Self(values)
    }

    /// The smallest value that at least a share `q` of all values do not exceed; 0 of nothing.
    pub fn at(&self, q: f64) -> u64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(0)
    }

    /// The largest; 0 of nothing.
    pub fn max(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The distribution as up to `points` points: value, and share of values that do not exceed it.
    pub fn cdf(&self, points: usize) -> Vec<(u64, f64)> {
        let n = self.0.len();
        let step = n.div_ceil(points.max(1)).max(1);
        let mut all: Vec<(u64, f64)> =
            (step - 1..n).step_by(step).map(|i| (self.0[i], (i + 1) as f64 / n as f64)).collect();
        // The tail is what people look for.
        let tail =
            (n.saturating_sub(step.min(64))..n).map(|i| (self.0[i], (i + 1) as f64 / n as f64));
        all.retain(|&(_, share)| share < (n.saturating_sub(step.min(64)) + 1) as f64 / n as f64);
        all.extend(tail);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let quantiles = Quantiles::of((1..=100).rev().collect());
        assert_eq!([0.5, 0.99, 0.999, 1.0, 0.0].map(|q| quantiles.at(q)), [50, 99, 100, 100, 1]);
        assert_eq!(Quantiles::of(vec![7]).at(0.5), 7);
        assert_eq!(Quantiles::default().at(0.99), 0);
    }

    #[test]
    fn a_distribution_rises_to_one() {
        let cdf = Quantiles::of((1..=10_000).collect()).cdf(100);
        assert!(cdf.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1));
        assert_eq!(cdf.last(), Some(&(10_000, 1.0)));
        assert_eq!(Quantiles::default().cdf(10), []);
    }
}
