//! What is logged of a step, and what a run says in the end. Computes shares; decides nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::batch::{Batch, Figures};
use super::update::Update;
use crate::training_run::{Curve, LogLine};

/// Batches at the beginning and at the end of a run that its check is of.
const CHECK_STEPS: usize = 10;

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
    /// The objective, clipped surrogate and weighted divergence: the mean of the batch's steps.
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
            loss: update.loss(),
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

/// How a run went: its first and last steps, and where all its time went. Kept as `check.json`.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// Batches of answers.
    steps: usize,
    /// The first of them.
    first: Means,
    /// The last.
    last: Means,
    /// Seconds of a batch, answering and learning.
    step_s: f64,
    /// Tokens of all authors while answers are written.
    rollout_tokens_per_s: f64,
    /// Where the time went, in percent.
    time_percent: TimeShares,
}

/// Means over some batches.
#[derive(Debug, Serialize)]
struct Means {
    steps: usize,
    reward: f64,
    accuracy: f64,
    call_ratio: f64,
    /// Share of answers with a call.
    called: f64,
    calls_per_answer: f64,
    requested_per_call: f64,
}

#[derive(Debug, Serialize)]
struct TimeShares {
    student: f64,
    teacher: f64,
    rest_of_rollouts: f64,
    rewards: f64,
    reference: f64,
    learning: f64,
}

impl Check {
    pub(super) fn of(lines: &[GrpoLine]) -> Self {
        let rollout_s: f64 = lines.iter().map(|line| line.times.rollout_s).sum();
        let tokens: u64 = lines.iter().map(|line| line.tokens).sum();
        let head = lines.len().min(CHECK_STEPS);
        Self {
            steps: lines.len(),
            first: Means::of(&lines[..head]),
            last: Means::of(&lines[lines.len() - head..]),
            step_s: mean(lines, |line| line.times.step_s),
            rollout_tokens_per_s: share(tokens, 1) / rollout_s.max(f64::MIN_POSITIVE),
            time_percent: TimeShares::of(lines),
        }
    }
}

impl Means {
    fn of(lines: &[GrpoLine]) -> Self {
        Self {
            steps: lines.len(),
            reward: mean(lines, |line| line.reward),
            accuracy: mean(lines, |line| line.accuracy),
            call_ratio: mean(lines, |line| line.call_ratio),
            called: mean(lines, |line| line.called),
            calls_per_answer: mean(lines, |line| line.calls_per_answer),
            requested_per_call: mean(lines, |line| line.requested_per_call),
        }
    }
}

impl TimeShares {
    fn of(lines: &[GrpoLine]) -> Self {
        let sum =
            |part: fn(&Times) -> f64| -> f64 { lines.iter().map(|line| part(&line.times)).sum() };
        let all = sum(|times| times.step_s).max(f64::MIN_POSITIVE);
        let percent = |part| 100.0 * sum(part) / all;
        Self {
            student: percent(|times| times.student_s),
            teacher: percent(|times| times.teacher_s),
            rest_of_rollouts: percent(|times| times.rollout_s - times.student_s - times.teacher_s),
            rewards: percent(|times| times.reward_s),
            reference: percent(|times| times.reference_s),
            learning: percent(|times| {
                times.step_s - times.rollout_s - times.reward_s - times.reference_s
            }),
        }
    }
}

fn mean(lines: &[GrpoLine], value: fn(&GrpoLine) -> f64) -> f64 {
    lines.iter().map(value).sum::<f64>() * share(1, count(lines.len()))
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "first {}\nlast {}", self.first, self.last)?;
        let TimeShares { student, teacher, rest_of_rollouts, rewards, reference, learning } =
            &self.time_percent;
        writeln!(
            formatter,
            "{:.1} s a step, rollouts {:.0} tokens/s: small model answering {student:.0} %, large \
             model answering {teacher:.0} %, rest of rollouts {rest_of_rollouts:.0} %, rewards \
             {rewards:.0} %, reference {reference:.0} %, learning {learning:.0} %",
            self.step_s, self.rollout_tokens_per_s
        )
    }
}

impl fmt::Display for Means {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} steps: {:.1} % right, call ratio {:.2} %, {:.2} calls an answer of {:.1} tokens \
             each, {:.1} % of answers called",
            self.steps,
            100.0 * self.accuracy,
            100.0 * self.call_ratio,
            self.calls_per_answer,
            self.requested_per_call,
            100.0 * self.called,
        )
    }
}
