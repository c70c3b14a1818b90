//! Steps of supervised training: cross-entropy on the scored tokens. Knows not where batches come
//! from.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::learner::{Learner, StepReport};
use crate::trainable::Sequence;
use crate::training_run::{Curve, LogLine};

/// What is logged of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LossLine {
    /// Steps of the optimiser so far.
    pub step: u64,
    /// Mean surprise of a scored token, in nats.
    pub loss: f64,
    /// What the step was multiplied by.
    pub learning_rate: f64,
    /// Length of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// Tokens of the batch, prompts included.
    pub tokens: usize,
    /// Of this step, drawing the batch included.
    pub tokens_per_s: f64,
}

impl LogLine for LossLine {
    const CURVES: &'static [Curve<Self>] =
        &[Curve { file: "curve.svg", axis: "loss (nats)", value: |line| line.loss }];

    fn step(&self) -> u64 {
        self.step
    }

    fn loss(&self) -> f64 {
        self.loss
    }

    fn summary(&self) -> String {
        format!("loss {:.3}  {:.0} tok/s", self.loss, self.tokens_per_s)
    }
}

/// A stage's steps, of so many in all. `draw` gives the next batch and moves the state behind it.
pub fn supervised<State>(
    steps: u64,
    mut draw: impl FnMut(&mut State) -> anyhow::Result<Vec<Sequence>>,
) -> impl FnMut(&mut Learner, &mut State) -> anyhow::Result<LossLine> {
    move |learner, state| {
        let began = Instant::now();
        let batch = draw(state)?;
        let report = learner.step(&batch, &cross_entropy(&batch), steps)?;
        Ok(log_line(learner.optimiser.steps, &batch, &report, began))
    }
}

/// Slopes of the mean surprise of all scored tokens.
#[expect(clippy::cast_precision_loss, reason = "batches have far less than 2^24 tokens")]
fn cross_entropy(batch: &[Sequence]) -> impl Fn(usize, &[f32]) -> Vec<f32> + Sync + use<> {
    let scored: usize = batch.iter().map(|sequence| sequence.scored().len()).sum();
    let slope = -1.0 / scored.max(1) as f32;
    move |_, log_probabilities| vec![slope; log_probabilities.len()]
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn log_line(step: u64, batch: &[Sequence], report: &StepReport, began: Instant) -> LossLine {
    let scored = report.log_probabilities.iter().flatten();
    let count = scored.clone().count().max(1);
    let tokens = batch.iter().map(|sequence| sequence.ids.len()).sum();
    LossLine {
        step,
        loss: -scored.map(|log| f64::from(*log)).sum::<f64>() / count as f64,
        learning_rate: report.learning_rate,
        gradient_norm: report.gradient_norm,
        tokens,
        tokens_per_s: (tokens as f64 / began.elapsed().as_secs_f64().max(1e-9)).round(),
    }
}
