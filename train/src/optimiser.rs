//! From slopes to better weights: clipping by the global norm, a schedule of the learning rate, and
//! `AdamW` (Loshchilov and Hutter, 2019, arXiv 1711.05101). Knows no model beyond which of its numbers
//! are matrices.

use std::ops::Range;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// What to do about a loss or a slope that is no finite number.
pub(crate) const LOWER_RATE: &str = "lower learning_rate in the settings and run the same command: \
                                     it goes on from the last checkpoint";

/// How the learning rate goes down after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It does not.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a wave of the cosine.
    Cosine,
}

/// All figures of an optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSettings {
    /// The highest learning rate.
    pub learning_rate: f64,
    /// What is left of it at the end.
    pub final_share: f64,
    /// Steps of the optimiser over which it rises from 0; GRPO takes `updates` of them with each of
    /// its batches.
    pub warm_up_steps: u64,
    /// How it goes down.
    pub schedule: Schedule,
    /// Decay of the mean of slopes.
    pub beta_1: f32,
    /// Decay of the mean of their squares.
    pub beta_2: f32,
    /// What keeps a step from dividing by zero.
    pub epsilon: f32,
    /// Pull of matrices towards zero, times the learning rate.
    pub weight_decay: f64,
    /// The longest gradient; longer ones are shortened to it.
    pub gradient_norm_max: f64,
}

impl OptimiserSettings {
    /// Refuses figures that no optimiser can have.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_share = |value: f64| (0.0..=1.0).contains(&value);
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        ensure!(is_positive(self.learning_rate), "learning_rate must be above 0");
        ensure!(is_share(self.final_share), "final_share must be between 0 and 1");
        for beta in [self.beta_1, self.beta_2] {
            ensure!((0.0..1.0).contains(&beta), "beta_1 and beta_2 must be from 0 to below 1");
        }
        ensure!(is_positive(f64::from(self.epsilon)), "epsilon must be above 0");
        ensure!(is_share(self.weight_decay), "weight_decay must be between 0 and 1");
        ensure!(is_positive(self.gradient_norm_max), "gradient_norm_max must be above 0");
        Ok(())
    }

    /// The learning rate of a step, counted from 0, of a run of `steps`.
    #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        let rise = ((step + 1) as f64 / self.warm_up_steps.max(1) as f64).min(1.0);
        let after = step.saturating_sub(self.warm_up_steps) as f64;
        let done = after / (steps.saturating_sub(self.warm_up_steps).max(1) as f64);
        let left = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => f64::midpoint((done * std::f64::consts::PI).cos(), 1.0),
        };
        self.learning_rate * rise * (self.final_share + (1.0 - self.final_share) * left)
    }
}

/// `AdamW` with its running means.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Mean of slopes, a number a weight.
    pub first: Vec<f32>,
    /// Mean of their squares.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl AdamW {
    /// For so many weights, no step taken yet.
    pub fn new(weights: usize) -> Self {
        Self { first: vec![0.0; weights], second: vec![0.0; weights], steps: 0 }
    }

    /// Moves the weights one step against the gradient; those in `decayed` are pulled to zero, too.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    pub fn step(
        &mut self,
        settings: &OptimiserSettings,
        learning_rate: f64,
        decayed: &[Range<usize>],
        gradient: &[f32],
        weights: &mut [f32],
    ) {
        self.steps += 1;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let OptimiserSettings { beta_1, beta_2, epsilon, .. } = *settings;
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(power);
        let step = (learning_rate / correction(beta_1)) as f32;
        let second_share = (1.0 / correction(beta_2)) as f32;
        let kept = (1.0 - learning_rate * settings.weight_decay) as f32;
        for range in decayed {
            for weight in &mut weights[range.clone()] {
                *weight *= kept;
            }
        }
        let means = self.first.iter_mut().zip(&mut self.second);
        for ((weight, slope), (first, second)) in weights.iter_mut().zip(gradient).zip(means) {
            *first = beta_1 * *first + (1.0 - beta_1) * slope;
            *second = beta_2 * *second + (1.0 - beta_2) * slope * slope;
            *weight -= step * *first / ((*second * second_share).sqrt() + epsilon);
        }
    }
}

/// Shortens a gradient to `norm_max` if it is longer; gives the norm it had.
#[expect(clippy::cast_possible_truncation, reason = "slopes are f32")]
pub fn clip(gradient: &mut [f32], norm_max: f64) -> f64 {
    let square: f64 = gradient.iter().map(|slope| f64::from(*slope) * f64::from(*slope)).sum();
    let norm = square.sqrt();
    if norm > norm_max {
        let share = (norm_max / norm) as f32;
        for slope in gradient.iter_mut() {
            *slope *= share;
        }
    }
    norm
}

#[cfg(test)]
pub(crate) fn test_settings() -> OptimiserSettings {
    OptimiserSettings {
        learning_rate: 0.1,
        final_share: 0.1,
        warm_up_steps: 4,
        schedule: Schedule::Cosine,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.5,
        gradient_norm_max: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = test_settings();
        for (schedule, step, expected) in [
            (Schedule::Cosine, 0, 0.025),
            (Schedule::Cosine, 3, 0.1),
            (Schedule::Cosine, 4, 0.1),
            (Schedule::Cosine, 52, 0.055),
            (Schedule::Cosine, 100, 0.01),
            (Schedule::Linear, 28, 0.0775),
            (Schedule::Constant, 99, 0.1),
        ] {
            let settings = OptimiserSettings { schedule, ..settings.clone() };
            let rate = settings.learning_rate_at(step, 100);
            assert!((rate - expected).abs() < 1e-9, "{schedule:?} {step}: {rate}");
        }
    }

    #[test]
    fn a_step_is_the_one_by_hand() {
        // First step: means corrected to the slope itself, so the step is the rate's length.
        let (mut adam, settings) = (AdamW::new(2), test_settings());
        let mut weights = [1.0, 1.0];
        let decayed = std::slice::from_ref(&(0..1));
        adam.step(&settings, 0.1, decayed, &[0.5, -0.5], &mut weights);
        assert!((weights[0] - (0.95 - 0.1)).abs() < 1e-6 && (weights[1] - 1.1).abs() < 1e-6);
        // Second, with no slope: m = 0.9 · 0.05, v = 0.99 · 0.0025.
        adam.step(&settings, 0.1, &[], &[0.0, 0.0], &mut weights);
        let (mean, square) = (0.045 / (1.0 - 0.81), 0.002_475 / (1.0 - 0.9801));
        let expected = 1.1 + 0.1 * mean / f64::sqrt(square);
        assert!((f64::from(weights[1]) - expected).abs() < 1e-6, "{} {expected}", weights[1]);
    }

    #[test]
    fn long_gradients_are_shortened() {
        let mut gradient = [3.0, 4.0];
        assert!((clip(&mut gradient, 10.0) - 5.0).abs() < 1e-9);
        assert!(gradient.iter().zip([3.0, 4.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
        clip(&mut gradient, 1.0);
        assert!(gradient.iter().zip([0.6, 0.8]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn impossible_figures_are_refused() {
        assert!(test_settings().check().is_ok());
        let base = test_settings;
        for (bad, named) in [
            (OptimiserSettings { learning_rate: f64::NAN, ..base() }, "learning_rate"),
            (OptimiserSettings { final_share: 1.5, ..base() }, "final_share"),
            (OptimiserSettings { beta_2: 1.0, ..base() }, "beta_2"),
            (OptimiserSettings { epsilon: 0.0, ..base() }, "epsilon"),
            (OptimiserSettings { weight_decay: -0.1, ..base() }, "weight_decay"),
            (OptimiserSettings { gradient_norm_max: 0.0, ..base() }, "gradient_norm_max"),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
