//! What is logged of a step, and what a run says in the end. Computes shares; decides nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::batch::{Batch, Figures};
use super::update::Update;
use crate::training_run::{Curve, LogLine};

/// Steps at the end of a run that its summary speaks of.
const SUMMARY_STEPS: usize = 10;

/// Where the time of a step went, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the unit is in every name")]
pub(super) struct Times {
    /// All of it.
    pub(super) step_s: f64,
    /// Answering, the exchange of weights included.
    pub(super) rollout_s: f64,
    /// Of that, in the small model's forwards.
    pub(super) student_s: f64,
    /// And in the large one's.
    pub(super) teacher_s: f64,
    /// Grading and paying.
    pub(super) reward_s: f64,
    /// The reference's forward.
    pub(super) reference_s: f64,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GrpoLine {
    /// Steps of the optimiser so far.
    pub(super) step: u64,
    /// The objective: clipped surrogate, and the divergence with its weight.
    pub(super) loss: f64,
    /// Mean reward of an answer.
    pub(super) reward: f64,
    /// Share of answers that are right.
    pub(super) accuracy: f64,
    /// Tokens that the large model delivered, of all.
    pub(super) call_ratio: f64,
    /// Share of answers with a call.
    pub(super) called: f64,
    /// Share of answers with a call that are right.
    pub(super) called_accuracy: f64,
    /// Share of those without.
    pub(super) uncalled_accuracy: f64,
    /// Calls of an answer.
    pub(super) calls_per_answer: f64,
    /// Tokens that a call asked for.
    pub(super) requested_per_call: f64,
    /// Broken commands of an answer.
    pub(super) malformed_per_answer: f64,
    /// Tokens of all answers.
    pub(super) tokens: u64,
    /// Tokens of an answer.
    pub(super) tokens_per_answer: f64,
    /// Groups by scenario: student-solvable, teacher-dependent, teacher-unsolvable.
    pub(super) scenarios: [usize; 3],
    /// Groups whose answers all earned the same.
    pub(super) equal_groups: usize,
    /// Groups in which every answer called.
    pub(super) all_called_groups: usize,
    /// Mean divergence to the reference, in nats a token.
    pub(super) kl: f64,
    /// Share of tokens that a clip stopped.
    pub(super) clip_fraction: f64,
    /// Length of the gradient before it was clipped.
    pub(super) gradient_norm: f64,
    /// What the step was multiplied by.
    pub(super) learning_rate: f64,
    /// Where the time went.
    pub(super) times: Times,
}

#[expect(clippy::cast_precision_loss, reason = "a step has far fewer than 2^52 tokens")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl GrpoLine {
    pub(super) fn of(step: u64, batch: &Batch, update: &Update, times: Times) -> Self {
        let Figures { calls, tokens, student_solvable, teacher_dependent, .. } = batch.figures;
        let Figures { teacher_unsolvable, equal_groups, all_called_groups, .. } = batch.figures;
        let figures = &batch.figures;
        let answers = count(figures.answers);
        Self {
            step,
            loss: update.objective.loss,
            reward: figures.reward_sum * share(1, answers),
            accuracy: share(count(figures.correct), answers),
            call_ratio: share(figures.llm_tokens, tokens),
            called: share(count(figures.called), answers),
            called_accuracy: share(count(figures.called_correct), count(figures.called)),
            uncalled_accuracy: share(
                count(figures.correct - figures.called_correct),
                count(figures.answers - figures.called),
            ),
            calls_per_answer: share(calls, answers),
            requested_per_call: share(figures.requested_tokens, calls),
            malformed_per_answer: share(figures.malformed, answers),
            tokens,
            tokens_per_answer: share(tokens, answers),
            scenarios: [student_solvable, teacher_dependent, teacher_unsolvable],
            equal_groups,
            all_called_groups,
            kl: update.objective.kl_mean(),
            clip_fraction: update.objective.clip_fraction(),
            gradient_norm: update.gradient_norm,
            learning_rate: update.learning_rate,
            times,
        }
    }
}

impl LogLine for GrpoLine {
    const CURVES: &'static [Curve<Self>] = &[
        Curve { file: "accuracy.svg", axis: "accuracy", value: |line| line.accuracy },
        Curve { file: "call_ratio.svg", axis: "call ratio", value: |line| line.call_ratio },
        Curve { file: "kl.svg", axis: "KL (nats a token)", value: |line| line.kl },
    ];

    fn step(&self) -> u64 {
        self.step
    }

    fn loss(&self) -> f64 {
        self.loss
    }

    fn summary(&self) -> String {
        format!(
            "right {:.0} %  call ratio {:.2} %  {:.1} calls of {:.1}",
            100.0 * self.accuracy,
            100.0 * self.call_ratio,
            self.calls_per_answer,
            self.requested_per_call
        )
    }
}

/// How a run went: its last steps, and where all its time went.
pub(super) struct Summary<'a> {
    lines: &'a [GrpoLine],
}

impl<'a> Summary<'a> {
    pub(super) fn of(lines: &'a [GrpoLine]) -> Self {
        Self { lines }
    }

    fn mean(lines: &[GrpoLine], value: fn(&GrpoLine) -> f64) -> f64 {
        lines.iter().map(value).sum::<f64>() * share(1, count(lines.len()))
    }

    /// Tokens per second of rollouts.
    fn rollout_rate(&self) -> f64 {
        let tokens: u64 = self.lines.iter().map(|line| line.tokens).sum();
        let time_s: f64 = self.lines.iter().map(|line| line.times.rollout_s).sum();
        share(tokens, 1) / time_s.max(f64::MIN_POSITIVE)
    }

    fn time_share(&self, part: fn(&Times) -> f64) -> f64 {
        let sum = |part: fn(&Times) -> f64| -> f64 {
            self.lines.iter().map(|line| part(&line.times)).sum()
        };
        100.0 * sum(part) / sum(|times| times.step_s).max(f64::MIN_POSITIVE)
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = &self.lines[self.lines.len().saturating_sub(SUMMARY_STEPS)..];
        let mean = |value| Self::mean(last, value);
        writeln!(
            formatter,
            "last {} steps: {:.1} % right, call ratio {:.2} %, {:.2} calls an answer of {:.1} \
             tokens each, {:.1} % of answers called",
            last.len(),
            100.0 * mean(|line| line.accuracy),
            100.0 * mean(|line| line.call_ratio),
            mean(|line| line.calls_per_answer),
            mean(|line| line.requested_per_call),
            100.0 * mean(|line| line.called),
        )?;
        let shares = [
            ("small model answering", self.time_share(|times| times.student_s)),
            ("large model answering", self.time_share(|times| times.teacher_s)),
            (
                "rest of rollouts",
                self.time_share(|times| times.rollout_s - times.student_s - times.teacher_s),
            ),
            ("rewards", self.time_share(|times| times.reward_s)),
            ("reference", self.time_share(|times| times.reference_s)),
            (
                "learning",
                self.time_share(|times| {
                    times.step_s - times.rollout_s - times.reward_s - times.reference_s
                }),
            ),
        ];
        let step_s = Self::mean(self.lines, |line| line.times.step_s);
        write!(formatter, "{step_s:.1} s a step, rollouts {:.0} tokens/s:", self.rollout_rate())?;
        for (index, (name, percent)) in shares.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma} {name} {percent:.0} %")?;
        }
        writeln!(formatter)
    }
}
