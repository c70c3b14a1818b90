//! Bootstrap intervals: how far a mean may be off, from the sample alone. Seeded, so that the same
//! answers give the same interval.

use crate::chance::Chance;

/// Means of resamples that an interval is read from.
const RESAMPLES: usize = 10_000;

/// A mean with its percentile interval of 95 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The 2.5th percentile of the resamples' means.
    pub low: f64,
    /// The 97.5th.
    pub high: f64,
}

/// The mean of yes and no, and its interval. All 0 for nothing.
pub fn share_interval(values: &[bool], seed: u64) -> Interval {
    if values.is_empty() {
        return Interval::default();
    }
    let mut stream = Stream::new(seed);
    let mut counts: Vec<usize> = (0..RESAMPLES)
        .map(|_| (0..values.len()).filter(|_| values[stream.below(values.len())]).count())
        .collect();
    counts.sort_unstable();
    let share = |count: usize| as_float(count) / as_float(values.len());
    let at = |rank: usize| share(counts[rank.min(RESAMPLES - 1)]);
    Interval {
        mean: share(values.iter().filter(|value| **value).count()),
        low: at(RESAMPLES * 25 / 1000),
        high: at(RESAMPLES * 975 / 1000),
    }
}

/// Many cheap choices: the `SplitMix64` generator, begun from a seed of [`Chance`].
struct Stream(u64);

impl Stream {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed, "bootstrap", 0);
        Self(chance.below(usize::MAX) as u64)
    }

    /// Each index as likely, to one part in 2^32 for small counts.
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let high = (u128::from(x ^ (x >> 31)) * count as u128) >> 64;
        usize::try_from(high).unwrap_or(0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of answers are far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_theory_has_it() {
        let values: Vec<bool> = (0..400).map(|index| index % 4 == 0).collect();
        let found = share_interval(&values, 1);
        // 1.96 · sqrt(0.25 · 0.75 / 400) = 0.0424
        assert!((found.mean - 0.25).abs() < 1e-12, "{found:?}");
        assert!((found.high - found.mean - 0.0424).abs() < 0.005, "{found:?}");
        assert!((found.mean - found.low - 0.0424).abs() < 0.005, "{found:?}");
        assert_eq!(found, share_interval(&values, 1), "the same seed gives the same interval");
    }

    #[test]
    fn certain_and_empty_samples_have_no_width() {
        for (values, mean) in [(vec![true; 30], 1.0), (vec![false; 3], 0.0), (vec![], 0.0)] {
            assert_eq!(share_interval(&values, 2), Interval { mean, low: mean, high: mean });
        }
    }
}
