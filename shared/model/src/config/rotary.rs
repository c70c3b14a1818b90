//! Rotary positions: how fast which numbers of a head turn. Knows no file form.

use serde::{Deserialize, Serialize};

use super::narrow;

/// Which numbers of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotaryLayout {
    /// 2i and 2i+1: GGUF files of the Llama family, whose queries and keys are permuted for it.
    Interleaved,
    /// i and i + pairs: all others.
    Halves,
}

/// Rotary positions (Su et al., 2021, arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    pub(crate) layout: RotaryLayout,
    /// Pairs of a head: all of it turns.
    pub(crate) pairs: usize,
    pub(crate) base: f64,
    /// What each pair's frequency is divided by. Empty where there is no scaling.
    pub(crate) frequency_divisors: Vec<f32>,
    /// What they follow from, where that is known.
    pub(crate) scaling: Option<RotaryScaling>,
}

impl Rotary {
    /// Radians by which each pair turns from one position to the next.
    pub(crate) fn frequencies(&self) -> Vec<f64> {
        divided(self.base, self.pairs, &self.frequency_divisors)
    }
}

/// Llama 3's scaling: slow pairs turn slower by a factor, fast ones as they did, and those between
/// by something between.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotaryScaling {
    /// What slow pairs' frequencies are divided by.
    pub factor: f64,
    /// A pair that turns round less often than this within `trained_tokens` is slow.
    pub low_turns: f64,
    /// One that turns round more often is fast.
    pub high_turns: f64,
    /// The context that the model was first trained on.
    pub trained_tokens: usize,
}

impl RotaryScaling {
    /// What each pair's frequency is divided by, rounded as GGUF stores it, so that both file forms
    /// give the same numbers.
    pub(crate) fn divisors(&self, base: f64, pairs: usize) -> Vec<f32> {
        let divisor = |frequency: f64| {
            let turns = float(self.trained_tokens) * frequency / std::f64::consts::TAU;
            if turns > self.high_turns {
                1.0
            } else if turns < self.low_turns {
                self.factor
            } else {
                let share = (turns - self.low_turns) / (self.high_turns - self.low_turns);
                1.0 / ((1.0 - share) / self.factor + share)
            }
        };
        divided(base, pairs, &[]).into_iter().map(|frequency| narrow(divisor(frequency))).collect()
    }

    /// What such divisors follow from, if it is what all published models of Llama 3 have: a GGUF
    /// file keeps the divisors alone.
    pub(crate) fn of_divisors(divisors: &[f32], base: f64) -> Option<Self> {
        let factor = f64::from(divisors.iter().copied().reduce(f32::max)?);
        let scaling = Self { factor, low_turns: 1.0, high_turns: 4.0, trained_tokens: 8192 };
        let expected = scaling.divisors(base, divisors.len());
        let is_near = |(found, expected): (&f32, &f32)| (found / expected - 1.0).abs() < 1e-5;
        divisors.iter().zip(&expected).all(is_near).then_some(scaling)
    }
}

/// Radians by which each pair of a head turns from one position to the next.
pub fn rotary_frequencies(
    base: f64,
    head_width: usize,
    scaling: Option<&RotaryScaling>,
) -> Vec<f64> {
    let pairs = head_width / 2;
    let divisors = scaling.map(|scaling| scaling.divisors(base, pairs)).unwrap_or_default();
    divided(base, pairs, &divisors)
}

/// Frequencies by `divisors`, or as they are where there is none.
fn divided(base: f64, pairs: usize, divisors: &[f32]) -> Vec<f64> {
    let divisors = divisors.iter().copied().map(f64::from).chain(std::iter::repeat(1.0));
    let frequency = |pair: usize| base.powf(-(float(pair) / float(pairs)));
    (0..pairs).zip(divisors).map(|(pair, divisor)| frequency(pair) / divisor).collect()
}

/// Cosine and sine of each position's rotary pairs: `[positions, frequencies.len()]`.
pub(crate) fn rotary_angles(
    positions: impl Iterator<Item = usize>,
    frequencies: &[f64],
) -> Vec<(f32, f32)> {
    let angles = positions.flat_map(|at| frequencies.iter().map(move |f| float(at) * f));
    angles.map(|angle| (narrow(angle.cos()), narrow(angle.sin()))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "pairs and positions are far below 2^52")]
fn float(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaling_is_found_again_from_its_divisors() {
        for factor in [8.0, 32.0] {
            let scaling =
                RotaryScaling { factor, low_turns: 1.0, high_turns: 4.0, trained_tokens: 8192 };
            let divisors = scaling.divisors(5e5, 32);
            assert_eq!(RotaryScaling::of_divisors(&divisors, 5e5), Some(scaling));
            assert_eq!(RotaryScaling::of_divisors(&divisors, 1e4), None);
        }
        assert_eq!(RotaryScaling::of_divisors(&[], 1e4), None);
    }
}
