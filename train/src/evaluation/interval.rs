//! Bootstrap intervals: how far figures may be off, from the sample alone. Seeded, so that the same
//! answers give the same interval. Knows no figure.

use crate::chance::Chance;

/// Resamples that an interval is read from.
const RESAMPLES: usize = 10_000;

/// A percentile interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The 2.5th percentile of the resamples' figures.
    pub low: f64,
    /// The 97.5th.
    pub high: f64,
}

/// The intervals of several figures of one sample of so many problems. `figures` gets how often a
/// resample has each problem, and gives its figures, always as many. A figure that more than one of
/// forty resamples lack has no interval.
pub fn intervals(
    problems: usize,
    seed: u64,
    mut figures: impl FnMut(&[u32]) -> Vec<Option<f64>>,
) -> Vec<Option<Interval>> {
    let mut stream = Stream::new(seed);
    let mut times = vec![0; problems];
    let mut found: Vec<Vec<f64>> = Vec::new();
    for _ in 0..RESAMPLES {
        times.fill(0);
        for _ in 0..problems {
            times[stream.below(problems)] += 1;
        }
        let values = figures(&times);
        found.resize(values.len(), Vec::new());
        for (list, value) in found.iter_mut().zip(values) {
            list.extend(value);
        }
    }
    found.into_iter().map(interval).collect()
}

fn interval(mut values: Vec<f64>) -> Option<Interval> {
    if values.len() < RESAMPLES - RESAMPLES / 40 {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |permille: usize| values.get(values.len() * permille / 1000).copied();
    Some(Interval { low: at(25)?, high: at(975)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of problems whose place is a multiple of `period`.
    fn shares(times: &[u32], period: usize) -> f64 {
        let drawn: u32 = times.iter().step_by(period).sum();
        f64::from(drawn) / f64::from(times.iter().sum::<u32>())
    }

    #[test]
    fn an_interval_is_as_wide_as_theory_has_it() {
        let of = |seed| {
            intervals(400, seed, |times| vec![Some(shares(times, 4)), Some(shares(times, 1))])
        };
        let found = of(1);
        // 1.96 · sqrt(0.25 · 0.75 / 400) = 0.0424
        let quarter = found[0].unwrap();
        assert!((quarter.high - 0.2924).abs() < 0.005, "{quarter:?}");
        assert!((quarter.low - 0.2076).abs() < 0.005, "{quarter:?}");
        assert_eq!(
            found[1],
            Some(Interval { low: 1.0, high: 1.0 }),
            "what is certain has no width"
        );
        assert_eq!(found, of(1), "the same seed gives the same intervals");
    }

    #[test]
    fn what_is_often_lacking_has_no_interval() {
        let mut resample = 0;
        let found = intervals(3, 2, |_| {
            resample += 1;
            let every = |period| (resample % period != 0).then_some(1.0);
            vec![every(2), every(100), None]
        });
        assert_eq!(found, [None, Some(Interval { low: 1.0, high: 1.0 }), None]);
    }
}
