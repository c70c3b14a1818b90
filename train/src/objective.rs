//! GRPO's objective per token, as plain arithmetic: from log-probabilities and advantages to the
//! loss and its derivative. Knows no model and no tensors, so that every branch can be worked out
//! by hand.
//!
//! For a token with ratio r = exp(new − old) and advantage A the surrogate loss is
//! max(−A·r, −A·clip(r, 1 − low, 1 + high)); where A < 0 it is at most −A·dual (the dual clip).
//! To it comes β times the k3 estimate of the KL divergence to the reference, exp(d) − d − 1 with
//! d = reference − new. The loss is the mean over the policy's tokens of the whole batch.
//!
//! Two masks: every token of a sequence is attended to (that is the learner's business), but only
//! those the student chose itself count here. Tokens of the teacher and of the prompt have no part
//! in loss, KL or advantage, and derivative 0.

use std::fmt;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::optimiser::LOWER_RATE;

/// Farther apart than this, two log-probabilities count as this far, in nats.
const LOG_RATIO_MAX: f64 = 20.0;
/// A token's KL estimate counts as at most this.
const KL_MAX: f64 = 10.0;

/// The numbers of the objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// How far below 1 a ratio still counts.
    pub clip_low: f64,
    /// How far above 1.
    pub clip_high: f64,
    /// A token with negative advantage costs at most so many times its advantage.
    pub clip_dual: f64,
    /// β: the weight of the KL divergence to the reference.
    pub kl_weight: f64,
    /// The same for the lengths that commands ask for, where it is another. While a policy learns
    /// where to call, the first length that pays wins for good, unless something holds several
    /// alive.
    pub length_kl_weight: Option<f64>,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.3,
            clip_dual: 3.0,
            kl_weight: 0.01,
            length_kl_weight: None,
        }
    }
}

impl ObjectiveSettings {
    /// Refuses figures that no objective can have.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!((0.0..1.0).contains(&self.clip_low), "clip_low must be from 0 to below 1");
        let is_positive = |value: f64| value.is_finite() && value >= 0.0;
        ensure!(is_positive(self.clip_high), "clip_high must be 0 or more");
        ensure!(is_positive(self.clip_dual - 1.0), "clip_dual must be 1 or more");
        ensure!(is_positive(self.kl_weight), "kl_weight must be 0 or more");
        ensure!(
            is_positive(self.length_kl_weight.unwrap_or_default()),
            "length_kl_weight must be 0 or more"
        );
        Ok(())
    }

    fn kl_weight_of(&self, is_length: bool) -> f64 {
        let of_length = self.length_kl_weight.filter(|_| is_length);
        of_length.unwrap_or(self.kl_weight)
    }
}

/// One answer. All slices have an entry for each token, in order; log-probabilities are the
/// student's, at temperature 1, in nats.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// By the weights that are being trained.
    pub new: &'a [f32],
    /// By the weights that sampled the answer.
    pub old: &'a [f32],
    /// By the weights that training began with.
    pub reference: &'a [f32],
    /// Whether the student chose the token. False for the teacher's and the prompt's: what stands
    /// at these places of the other slices is not looked at.
    pub is_policy: &'a [bool],
    /// Whether the token is of the length that a command asks for.
    pub is_length: &'a [bool],
    /// How much better the answer was than its group.
    pub advantage: f64,
}

impl Sequence<'_> {
    /// Tokens that count.
    pub fn policy_tokens(&self) -> usize {
        self.is_policy.iter().filter(|is_policy| **is_policy).count()
    }
}

/// What a part of a batch adds to the loss, and how it was clipped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objective {
    /// The part's share of the loss: those of all parts add up to the batch's.
    pub loss: f64,
    /// dLoss/dnew of each token of each sequence; 0 where the student did not choose.
    pub gradients: Vec<Vec<f64>>,
    /// Tokens that count.
    pub policy_tokens: usize,
    /// Those with A > 0 whose ratio was over the clip.
    pub clipped_high_tokens: usize,
    /// Those with A < 0 whose ratio was under the clip.
    pub clipped_low_tokens: usize,
    /// Those with A < 0 that the dual clip stopped.
    pub clipped_dual_tokens: usize,
    /// The k3 estimates, added up; over `policy_tokens` it is their mean.
    pub kl_sum: f64,
}

impl Objective {
    /// Mean KL estimate of the counted tokens, in nats; 0 without any.
    pub fn kl_mean(&self) -> f64 {
        self.share(self.kl_sum)
    }

    /// Share of the counted tokens that some clip stopped; 0 without any.
    pub fn clip_fraction(&self) -> f64 {
        let tokens = self.clipped_high_tokens + self.clipped_low_tokens + self.clipped_dual_tokens;
        self.share(count(tokens))
    }

    /// Puts the figures of another part of the same batch to these.
    pub fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.gradients.extend(other.gradients);
        self.policy_tokens += other.policy_tokens;
        self.clipped_high_tokens += other.clipped_high_tokens;
        self.clipped_low_tokens += other.clipped_low_tokens;
        self.clipped_dual_tokens += other.clipped_dual_tokens;
        self.kl_sum += other.kl_sum;
    }

    fn share(&self, of: f64) -> f64 {
        if self.policy_tokens == 0 { 0.0 } else { of / count(self.policy_tokens) }
    }
}

/// Why there is no objective. The step is not to be made; what was saved before it is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectiveError {
    /// There is no sequence.
    EmptyBatch,
    /// A sequence has no token.
    EmptyAnswer {
        /// Which one.
        sequence: usize,
    },
    /// Its slices differ in length.
    Ragged {
        /// Which one.
        sequence: usize,
    },
    /// The student chose none of the tokens, so that there is nothing to learn from.
    NothingChosen,
    /// A number that a token counts with is infinite or none.
    NotFinite {
        /// The sequence.
        sequence: usize,
        /// The token in it.
        token: usize,
        /// Which number: `new`, `old`, `reference` or `advantage`.
        what: &'static str,
    },
}

impl fmt::Display for ObjectiveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyBatch => write!(formatter, "a batch without answers: sample at least one"),
            Self::EmptyAnswer { sequence } => {
                write!(formatter, "answer {sequence} has no token: leave it out of the batch")
            }
            Self::Ragged { sequence } => write!(
                formatter,
                "answer {sequence} has not one number for each token: this is a defect"
            ),
            Self::NothingChosen => write!(
                formatter,
                "the student chose no token of this batch: is the policy `learned`?"
            ),
            Self::NotFinite { sequence, token, what } => write!(
                formatter,
                "answer {sequence}, token {token}: `{what}` is no finite number: {LOWER_RATE}"
            ),
        }
    }
}

impl std::error::Error for ObjectiveError {}

/// The objective of a part of a batch that has `batch_tokens` policy tokens in all its parts.
///
/// # Errors
/// [`ObjectiveError`] for a batch nothing can be learned from, or with a number that is none.
pub fn objective(
    settings: &ObjectiveSettings,
    sequences: &[Sequence<'_>],
    batch_tokens: usize,
) -> Result<Objective, ObjectiveError> {
    if sequences.is_empty() {
        return Err(ObjectiveError::EmptyBatch);
    }
    if batch_tokens == 0 {
        return Err(ObjectiveError::NothingChosen);
    }
    let mut objective = Objective::default();
    for (index, sequence) in sequences.iter().enumerate() {
        check(index, sequence)?;
        let gradients = (0..sequence.new.len()).map(|token| {
            if !sequence.is_policy[token] {
                return 0.0;
            }
            let numbers = Numbers {
                new: sequence.new[token].into(),
                old: sequence.old[token].into(),
                reference: sequence.reference[token].into(),
                advantage: sequence.advantage,
                kl_weight: settings.kl_weight_of(sequence.is_length[token]),
            };
            objective.count_token(settings, numbers) / count(batch_tokens)
        });
        let gradients = gradients.collect();
        objective.gradients.push(gradients);
    }
    objective.loss /= count(batch_tokens);
    Ok(objective)
}

/// What one token counts with.
#[derive(Clone, Copy)]
struct Numbers {
    new: f64,
    old: f64,
    reference: f64,
    advantage: f64,
    kl_weight: f64,
}

impl Objective {
    /// Adds a token's loss and gives its derivative.
    fn count_token(&mut self, settings: &ObjectiveSettings, numbers: Numbers) -> f64 {
        let (surrogate, surrogate_slope) = self.surrogate(settings, numbers);
        let (kl, kl_slope) = kl(numbers);
        self.policy_tokens += 1;
        self.kl_sum += kl;
        self.loss += surrogate + numbers.kl_weight * kl;
        surrogate_slope + numbers.kl_weight * kl_slope
    }

    fn surrogate(&mut self, settings: &ObjectiveSettings, numbers: Numbers) -> (f64, f64) {
        let Numbers { new, old, advantage, .. } = numbers;
        let ratio = (new - old).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp();
        let clipped = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high);
        let free = -advantage * ratio;
        let ceiling = -advantage * settings.clip_dual;
        if advantage < 0.0 && free > ceiling {
            self.clipped_dual_tokens += 1;
            return (ceiling, 0.0);
        }
        if free >= -advantage * clipped {
            return (free, free);
        }
        let tokens = if advantage > 0.0 {
            &mut self.clipped_high_tokens
        } else {
            &mut self.clipped_low_tokens
        };
        *tokens += 1;
        (-advantage * clipped, 0.0)
    }
}

/// The k3 estimate and its derivative by `new`.
fn kl(numbers: Numbers) -> (f64, f64) {
    let apart = (numbers.reference - numbers.new).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX);
    let estimate = apart.exp() - apart - 1.0;
    if estimate > KL_MAX { (KL_MAX, 0.0) } else { (estimate, 1.0 - apart.exp()) }
}

fn check(index: usize, sequence: &Sequence<'_>) -> Result<(), ObjectiveError> {
    let Sequence { new, old, reference, is_policy, is_length, advantage } = sequence;
    if new.is_empty() {
        return Err(ObjectiveError::EmptyAnswer { sequence: index });
    }
    let lengths = [old.len(), reference.len(), is_policy.len(), is_length.len()];
    if lengths.iter().any(|length| *length != new.len()) {
        return Err(ObjectiveError::Ragged { sequence: index });
    }
    for (token, _) in is_policy.iter().enumerate().filter(|(_, is_policy)| **is_policy) {
        let numbers = [("new", new[token]), ("old", old[token]), ("reference", reference[token])];
        let bad = numbers.iter().find(|(_, number)| !number.is_finite()).map(|(what, _)| *what);
        let what = if advantage.is_finite() { bad } else { Some("advantage") };
        if let Some(what) = what {
            return Err(ObjectiveError::NotFinite { sequence: index, token, what });
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 tokens")]
fn count(tokens: usize) -> f64 {
    tokens as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_KL: ObjectiveSettings = ObjectiveSettings {
        clip_low: 0.2,
        clip_high: 0.3,
        clip_dual: 3.0,
        kl_weight: 0.0,
        length_kl_weight: None,
    };

    /// One token whose ratio is as given.
    fn one(settings: &ObjectiveSettings, ratio: f32, advantage: f64) -> Objective {
        let (new, old) = ([ratio.ln() - 2.0], [-2.0]);
        let sequence = Sequence {
            new: &new,
            old: &old,
            reference: &new,
            is_policy: &[true],
            is_length: &[false],
            advantage,
        };
        objective(settings, &[sequence], 1).unwrap()
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-5
    }

    #[test]
    fn each_branch_is_as_worked_out_by_hand() {
        // ratio, advantage; loss, derivative, clipped high, low, dual
        for (ratio, advantage, loss, slope, high, low, dual) in [
            (1.0, 2.0, -2.0, -2.0, 0, 0, 0),
            (1.2, 2.0, -2.4, -2.4, 0, 0, 0),
            (1.5, 2.0, -2.6, 0.0, 1, 0, 0),  // 1.3 · 2
            (0.5, 2.0, -1.0, -1.0, 0, 0, 0), // going down is never clipped for A > 0
            (1.0, -2.0, 2.0, 2.0, 0, 0, 0),
            (0.9, -2.0, 1.8, 1.8, 0, 0, 0),
            (0.5, -2.0, 1.6, 0.0, 0, 1, 0), // 0.8 · 2
            (2.0, -2.0, 4.0, 4.0, 0, 0, 0), // going up is not clipped for A < 0 …
            (4.0, -2.0, 6.0, 0.0, 0, 0, 1), // … until three times
            (4.0, 0.0, 0.0, 0.0, 0, 0, 0),
        ] {
            let found = one(&NO_KL, ratio, advantage);
            assert!(close(found.loss, loss), "{ratio} {advantage}: {found:?}");
            assert!(close(found.gradients[0][0], slope), "{ratio} {advantage}: {found:?}");
            let clipped =
                (found.clipped_high_tokens, found.clipped_low_tokens, found.clipped_dual_tokens);
            assert_eq!(clipped, (high, low, dual), "{ratio} {advantage}");
        }
    }

    #[test]
    fn the_divergence_is_as_worked_out_by_hand() {
        // reference − new; e^d − d − 1, and 1 − e^d
        for (apart, kl, slope) in [
            (0.0, 0.0, 0.0),
            (1.0, 0.718_282, -1.718_282),
            (-1.0, 0.367_879, 0.632_121),
            (0.5, 0.148_721, -0.648_721),
            (5.0, 10.0, 0.0), // e^5 − 6 is over the limit of 10
        ] {
            let (new, reference) = ([-3.0], [-3.0 + apart]);
            let sequence = Sequence {
                new: &new,
                old: &new,
                reference: &reference,
                is_policy: &[true],
                is_length: &[false],
                advantage: 0.0,
            };
            let found = objective(&ObjectiveSettings::default(), &[sequence], 1).unwrap();
            assert!(close(found.kl_mean(), kl), "{apart}: {found:?}");
            assert!(close(found.loss, 0.01 * kl), "{apart}: {found:?}");
            assert!(close(found.gradients[0][0], 0.01 * slope), "{apart}: {found:?}");
        }
    }

    #[test]
    fn lengths_are_pulled_by_a_weight_of_their_own() {
        // Two tokens a nat from their reference, k3 0.718282 each; the second is of a length.
        let (new, reference) = ([-3.0, -3.0], [-2.0, -2.0]);
        let sequence = Sequence {
            new: &new,
            old: &new,
            reference: &reference,
            is_policy: &[true, true],
            is_length: &[false, true],
            advantage: 0.0,
        };
        for (of_length, loss) in [(None, 0.007_183), (Some(1.0), 0.362_732), (Some(0.0), 0.003_591)]
        {
            let settings =
                ObjectiveSettings { length_kl_weight: of_length, ..ObjectiveSettings::default() };
            let found = objective(&settings, &[sequence], 2).unwrap();
            assert!(close(found.loss, loss), "{of_length:?}: {found:?}");
        }
    }

    #[test]
    fn what_the_student_did_not_choose_counts_nowhere() {
        // Two of its own tokens around one of the teacher's, which would be clipped and diverge.
        let new = [-1.0, -0.1, -1.0];
        let old = [-1.0, -9.0, -1.0];
        let reference = [-1.0, f32::NAN, -1.0];
        let masked = [true, false, true];
        let sequence = Sequence {
            new: &new,
            old: &old,
            reference: &reference,
            is_policy: &masked,
            is_length: &[false; 3],
            advantage: 1.0,
        };
        let found = objective(&ObjectiveSettings::default(), &[sequence], 2).unwrap();
        assert_eq!(found.gradients, [[-0.5, 0.0, -0.5]]);
        assert!(close(found.loss, -1.0), "{found:?}");
        assert_eq!((found.policy_tokens, found.clipped_high_tokens), (2, 0));
        assert!(found.kl_mean().abs() < 1e-12 && found.clip_fraction().abs() < 1e-12);
    }

    #[test]
    fn the_mean_is_over_tokens_and_not_over_answers() {
        let long = [-1.0; 3];
        let sequence = |length: usize, advantage| Sequence {
            new: &long[..length],
            old: &long[..length],
            reference: &long[..length],
            is_policy: &[true; 3][..length],
            is_length: &[false; 3][..length],
            advantage,
        };
        // −(3 · 1 + 1 · (−1)) / 4, not the mean of −1 and 1.
        let batch = [sequence(3, 1.0), sequence(1, -1.0)];
        let whole = objective(&NO_KL, &batch, 4).unwrap();
        assert!(close(whole.loss, -0.5), "{whole:?}");
        let mut parts = objective(&NO_KL, &batch[..1], 4).unwrap();
        parts.add(objective(&NO_KL, &batch[1..], 4).unwrap());
        assert_eq!(parts, whole, "parts add up");
    }

    #[test]
    fn the_derivative_is_that_of_the_loss() {
        let settings = ObjectiveSettings {
            kl_weight: 0.1,
            length_kl_weight: Some(0.4),
            ..ObjectiveSettings::default()
        };
        let old = [-1.0, -2.0, -0.5, -1.5, -3.0, -2.2];
        let reference = [-1.1, -1.0, -0.7, -2.5, -3.0, -2.0];
        let start = [-0.9, -2.5, -0.4, -1.4, -1.2, -2.25];
        for advantage in [1.3, -0.7] {
            let at = |new: &[f32]| {
                let sequence = Sequence {
                    new,
                    old: &old,
                    reference: &reference,
                    is_policy: &[true; 6],
                    is_length: &[false, true, false, true, false, false],
                    advantage,
                };
                objective(&settings, &[sequence], 6).unwrap()
            };
            let found = at(&start);
            for token in 0..start.len() {
                let moved = |by: f32| {
                    let mut new = start;
                    new[token] += by;
                    (at(&new).loss, f64::from(new[token]))
                };
                let ((above, right), (below, left)) = (moved(1e-3), moved(-1e-3));
                let slope = (above - below) / (right - left);
                let gradient = found.gradients[0][token];
                assert!((slope - gradient).abs() < 1e-4, "{advantage} {token}: {slope} {gradient}");
            }
        }
    }

    #[test]
    fn extreme_ratios_stay_finite() {
        for (ratio, advantage) in [(1e30, 1.0), (1e30, -1.0), (1e-30, 1.0), (1e-30, -1.0)] {
            let found = one(&NO_KL, ratio, advantage);
            assert!(found.loss.is_finite() && found.gradients[0][0].is_finite(), "{ratio}");
        }
    }

    #[test]
    fn bad_batches_are_faults_that_say_where() {
        let settings = ObjectiveSettings::default();
        let sound = Sequence {
            new: &[-1.0],
            old: &[-1.0],
            reference: &[-1.0],
            is_policy: &[true],
            is_length: &[false],
            advantage: 0.0,
        };
        let empty = Sequence {
            new: &[],
            old: &[],
            reference: &[],
            is_policy: &[],
            is_length: &[],
            ..sound
        };
        let not_finite = |token, what| ObjectiveError::NotFinite { sequence: 1, token, what };
        for (batch, expected) in [
            (vec![], ObjectiveError::EmptyBatch),
            (vec![sound, empty], ObjectiveError::EmptyAnswer { sequence: 1 }),
            (vec![Sequence { old: &[], ..sound }], ObjectiveError::Ragged { sequence: 0 }),
            (vec![sound, Sequence { new: &[f32::NAN], ..sound }], not_finite(0, "new")),
            (vec![sound, Sequence { old: &[f32::NEG_INFINITY], ..sound }], not_finite(0, "old")),
            (vec![sound, Sequence { advantage: f64::NAN, ..sound }], not_finite(0, "advantage")),
        ] {
            assert_eq!(objective(&settings, &batch, 2), Err(expected));
        }
        assert_eq!(objective(&settings, &[sound], 0), Err(ObjectiveError::NothingChosen));
    }
}
