//! How much better an answer is than its group: what GRPO weighs its tokens with. Pure; knows
//! numbers only, not what they were paid for.

use std::error::Error;
use std::fmt;

/// Added to the deviation, so that equal rewards divide by something.
const DEVIATION_FLOOR: f64 = 1e-6;
/// Rewards that differ by less are the same: what they differ by is rounding.
const EQUAL: f64 = 1e-12;

/// Why a group has no advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvantageError {
    /// There is no reward in it.
    EmptyGroup,
    /// The reward with this index is infinite or no number.
    NotFinite {
        /// Its place in the group.
        index: usize,
    },
}

impl fmt::Display for AdvantageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyGroup => write!(formatter, "a group without rewards: sample at least one"),
            Self::NotFinite { index } => {
                write!(formatter, "reward {index} is no finite number: look at how it was paid")
            }
        }
    }
}

impl Error for AdvantageError {}

/// The advantages of one group, in its order: (reward − mean) / (deviation + 1e-6), with the
/// unbiased deviation. Equal rewards, and a group of one, have no better and no worse: all 0.
///
/// # Errors
/// [`AdvantageError`] for an empty group or a reward that is no finite number.
pub fn advantages(rewards: &[f64]) -> Result<Vec<f64>, AdvantageError> {
    if rewards.is_empty() {
        return Err(AdvantageError::EmptyGroup);
    }
    if let Some(index) = rewards.iter().position(|reward| !reward.is_finite()) {
        return Err(AdvantageError::NotFinite { index });
    }
    if rewards.iter().all(|reward| (reward - rewards[0]).abs() < EQUAL) {
        return Ok(vec![0.0; rewards.len()]);
    }
    let count: f64 = rewards.iter().map(|_| 1.0).sum();
    let mean = rewards.iter().sum::<f64>() / count;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    Ok(rewards.iter().map(|reward| (reward - mean) / (deviation + DEVIATION_FLOOR)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_as_worked_out_by_hand() {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        for (rewards, expected) in [
            // mean 1/2, deviation sqrt(1/2)
            (&[0.0, 1.0][..], &[-half, half][..]),
            // mean 1/4, deviation sqrt((9/16 + 3/16) / 3) = 1/2
            (&[1.0, 0.0, 0.0, 0.0], &[1.5, -0.5, -0.5, -0.5]),
            // mean 0, deviation sqrt((9/4 + 1/4 + 1 + 1) / 3) = sqrt(3/2)
            (&[1.5, 0.5, -1.0, -1.0], &[1.224_745, 0.408_248, -0.816_497, -0.816_497]),
            (&[0.3, 0.3, 0.3], &[0.0, 0.0, 0.0]),
            (&[0.7], &[0.0]),
        ] {
            let found = advantages(rewards).unwrap();
            let is_close = |(found, expected): (&f64, &f64)| (found - expected).abs() < 1e-5;
            assert!(found.iter().zip(expected).all(is_close), "{rewards:?}: {found:?}");
            assert_eq!(found.len(), expected.len());
        }
    }

    #[test]
    fn groups_without_a_sound_reward_are_faults() {
        assert_eq!(advantages(&[]), Err(AdvantageError::EmptyGroup));
        for bad in [f64::NAN, f64::INFINITY] {
            assert_eq!(advantages(&[0.0, bad]), Err(AdvantageError::NotFinite { index: 1 }));
        }
    }
}
