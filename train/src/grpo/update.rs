//! From a batch to steps of the learner, by GRPO's objective. Each step takes its share of the
//! groups; `old` are the weights before the first of them. Knows neither answers nor rewards.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::settings::GrpoSettings;
use crate::learner::Learner;
use crate::objective::{self, Objective, ObjectiveError, objective};
use crate::trainable::Sequence;

/// The weights that training began with.
pub(super) enum Reference {
    /// They never learn; only their log-probabilities are asked for.
    Before(Box<Learner>),
    /// Nothing pulls to them.
    Unused,
}

/// What the steps of one batch did.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Loss, clips and divergence, over all steps; the loss is the sum of theirs.
    pub(super) objective: Objective,
    /// Steps of the optimiser.
    steps: u32,
    /// Of the last step, before it was clipped.
    pub(super) gradient_norm: f64,
    /// Of the last step.
    pub(super) learning_rate: f64,
    /// Time in the reference's forward.
    pub(super) reference: Duration,
}

/// Learns from a batch; a run takes `steps` of the optimiser in all.
pub(super) fn update(
    learner: &mut Learner,
    reference: &mut Reference,
    batch: &Batch,
    settings: &GrpoSettings,
    steps: u64,
) -> anyhow::Result<Update> {
    let sequences: Vec<Sequence> =
        batch.lessons.iter().map(|lesson| lesson.sequence.clone()).collect();
    let began = Instant::now();
    let reference = match reference {
        Reference::Before(reference) => Some(reference.log_probabilities(&sequences)?),
        Reference::Unused => None,
    };
    let mut done = Update { reference: began.elapsed(), ..Update::default() };
    // With a single step the weights that answered are those that learn.
    let old = match settings.updates {
        1 => None,
        _ => Some(learner.log_probabilities(&sequences)?),
    };
    let views = Views { batch, old: old.as_deref(), reference: reference.as_deref() };
    for share in shares(&batch.group_lessons, settings.updates) {
        if share.is_empty() {
            continue;
        }
        done.step(learner, &views, &sequences[share.clone()], share, (settings, steps))?;
    }
    Ok(done)
}

/// What the objective takes of each lesson.
struct Views<'a> {
    batch: &'a Batch,
    old: Option<&'a [Vec<f32>]>,
    reference: Option<&'a [Vec<f32>]>,
}

impl<'a> Views<'a> {
    fn of<'b>(&'b self, lesson: usize, new: &'b [f32]) -> objective::Sequence<'b>
    where
        'a: 'b,
    {
        let of = |rows: Option<&'b [Vec<f32>]>| rows.map_or(new, |rows| &rows[lesson]);
        let (old, reference) = (of(self.old), of(self.reference));
        let lesson = &self.batch.lessons[lesson];
        let (is_policy, advantage) = (&lesson.is_policy[..], lesson.advantage);
        let is_length = &lesson.is_length[..];
        objective::Sequence { new, old, reference, is_policy, is_length, advantage }
    }
}

impl Update {
    /// Mean loss of a step.
    pub(super) fn loss(&self) -> f64 {
        self.objective.loss / f64::from(self.steps.max(1))
    }

    fn step(
        &mut self,
        learner: &mut Learner,
        views: &Views<'_>,
        sequences: &[Sequence],
        share: Range<usize>,
        (settings, steps): (&GrpoSettings, u64),
    ) -> anyhow::Result<()> {
        let lessons = &views.batch.lessons[share.clone()];
        let is_policy = lessons.iter().flat_map(|lesson| &lesson.is_policy);
        let policy_tokens = is_policy.filter(|is_policy| **is_policy).count();
        let fault: Mutex<Option<ObjectiveError>> = Mutex::new(None);
        let slopes = |index: usize, new: &[f32]| {
            let view = views.of(share.start + index, new);
            match objective(&settings.objective, &[view], policy_tokens) {
                Ok(part) => part.gradients.into_iter().flatten().map(narrow).collect(),
                Err(error) => {
                    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    // The learner takes no step along such a slope.
                    vec![f32::NAN; new.len()]
                }
            }
        };
        let stepped = learner.step(sequences, &slopes, steps);
        if let Some(error) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let report = stepped?;
        for (lesson, new) in share.zip(&report.log_probabilities) {
            let view = views.of(lesson, new);
            self.objective.add(objective(&settings.objective, &[view], policy_tokens)?);
        }
        self.steps += 1;
        self.gradient_norm = report.gradient_norm;
        self.learning_rate = report.learning_rate;
        Ok(())
    }
}

/// Lessons of each step: an equal number of groups.
fn shares(group_lessons: &[usize], updates: u64) -> Vec<Range<usize>> {
    let updates = usize::try_from(updates).unwrap_or(usize::MAX).max(1);
    let groups = group_lessons.len().div_ceil(updates).max(1);
    let mut begin = 0;
    let share = |groups: &[usize]| {
        let end = begin + groups.iter().sum::<usize>();
        std::mem::replace(&mut begin, end)..end
    };
    group_lessons.chunks(groups).map(share).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "slopes of a loss are far from f32's limits")]
fn narrow(slope: f64) -> f32 {
    slope as f32
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Figures, Lesson};
    use super::*;
    use crate::optimiser::{AdamW, OptimiserSettings, Schedule, test_settings};
    use crate::trainable::{Weights, test_architecture};

    fn learner() -> Learner {
        let weights = Weights::draw(&test_architecture(), 4).unwrap();
        let adam = AdamW::new(weights.values.len());
        let settings = OptimiserSettings {
            learning_rate: 1e-3,
            warm_up_steps: 0,
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            ..test_settings()
        };
        Learner::new(weights, adam, settings, 2).unwrap()
    }

    fn lesson(from: u32, is_policy: &[bool], advantage: f64) -> Lesson {
        let ids = (0..8).map(|index| (from * 5 + index * index) % 11).collect();
        let sequence = Sequence { ids, scored_from: 8 - is_policy.len() };
        let is_length = vec![false; is_policy.len()];
        Lesson { sequence, is_policy: is_policy.to_vec(), is_length, advantage }
    }

    fn batch(lessons: Vec<Lesson>) -> Batch {
        let group_lessons = vec![2; lessons.len() / 2];
        Batch { lessons, group_lessons, figures: Figures::default() }
    }

    fn settings(updates: u64, kl_weight: f64) -> GrpoSettings {
        let text = "seed = 1\nsteps = 1\ncheckpoint_steps = 1\ngroups = 2\ngroup_size = 2";
        let mut settings: GrpoSettings = toml::from_str(text).unwrap();
        settings.updates = updates;
        settings.objective.kl_weight = kl_weight;
        settings
    }

    fn sum(log_probabilities: &[f32]) -> f32 {
        log_probabilities.iter().sum()
    }

    #[test]
    fn better_answers_become_likelier_and_worse_ones_less_so() {
        let mut learner = learner();
        let batch = batch(vec![lesson(1, &[true; 5], 1.0), lesson(2, &[true; 5], -1.0)]);
        let sequences: Vec<Sequence> =
            batch.lessons.iter().map(|lesson| lesson.sequence.clone()).collect();
        let before = learner.log_probabilities(&sequences).unwrap();
        update(&mut learner, &mut Reference::Unused, &batch, &settings(1, 0.0), 10).unwrap();
        let after = learner.log_probabilities(&sequences).unwrap();
        assert!(sum(&after[0]) > sum(&before[0]), "{before:?} {after:?}");
        assert!(sum(&after[1]) < sum(&before[1]), "{before:?} {after:?}");
    }

    #[test]
    fn what_the_teacher_wrote_moves_no_weight() {
        let mut learner = learner();
        let weights = learner.weights.values.clone();
        // Were the mask not there, the first lesson would move them: it alone has an advantage.
        let batch = batch(vec![lesson(1, &[false; 3], 5.0), lesson(2, &[true; 2], 0.0)]);
        let done =
            update(&mut learner, &mut Reference::Unused, &batch, &settings(1, 0.0), 10).unwrap();
        assert_eq!(done.objective.policy_tokens, 2);
        assert_eq!(learner.weights.values, weights);
    }

    #[test]
    fn updates_take_their_share_of_the_groups() {
        assert_eq!(shares(&[2, 2, 1, 2], 2), [0..4, 4..7]);
        assert_eq!(shares(&[2, 2, 2, 2], 2), [0..4, 4..8]);
        assert_eq!(shares(&[0, 2], 2), [0..0, 0..2]);
        let mut learner = learner();
        let lessons = (0..4).map(|from| lesson(from, &[true; 4], f64::from(from) - 1.5));
        let batch = batch(lessons.collect());
        let done =
            update(&mut learner, &mut Reference::Unused, &batch, &settings(2, 0.0), 10).unwrap();
        assert_eq!(learner.optimiser.steps, 2);
        assert_eq!(done.objective.policy_tokens, 16);
    }

    #[test]
    fn the_loss_of_a_batch_is_the_mean_of_its_steps() {
        let mut learner = learner();
        // At ratios of about 1 a step's loss is less its advantage: -1, then -3.
        let lessons = [1.0, 1.0, 3.0, 3.0].map(|advantage| lesson(1, &[true; 5], advantage));
        let batch = batch(lessons.into());
        let done =
            update(&mut learner, &mut Reference::Unused, &batch, &settings(2, 0.0), 10).unwrap();
        assert!((done.loss() + 2.0).abs() < 0.5, "{done:?}");
    }

    #[test]
    fn the_reference_pulls_back() {
        let mut learner = learner();
        let mut reference = Reference::Before(Box::new(self::learner()));
        let lessons = || vec![lesson(1, &[true; 5], 2.0), lesson(2, &[true; 5], -2.0)];
        let settings = settings(1, 0.1);
        let first = update(&mut learner, &mut reference, &batch(lessons()), &settings, 10).unwrap();
        assert!(first.objective.kl_mean() < 1e-9, "{first:?}");
        let second =
            update(&mut learner, &mut reference, &batch(lessons()), &settings, 10).unwrap();
        assert!(second.objective.kl_mean() > 1e-9, "{second:?}");
    }

    #[test]
    fn a_number_that_is_none_stops_before_the_step() {
        let mut learner = learner();
        let weights = learner.weights.values.clone();
        let batch = batch(vec![lesson(1, &[true; 5], f64::NAN), lesson(2, &[true; 5], 0.0)]);
        let error = update(&mut learner, &mut Reference::Unused, &batch, &settings(1, 0.0), 10);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`advantage` is no finite number"), "{error}");
        assert_eq!(learner.weights.values, weights);
    }
}
