//! A model that learns: slopes of a whole batch on several threads, and steps of the optimiser. The
//! batch is cut into a fixed number of shards whose slopes are summed in a fixed order, so that the
//! bits of a run do not depend on how many threads it had. Knows no objective: the caller says how
//! the loss changes with each token's log-probability. Knows no file.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};

use crate::optimiser::{AdamW, LOWER_RATE, OptimiserSettings, clip};
use crate::trainable::{Pass, Sequence, TensorPlace, Weights};

/// As many threads as there are cores this process may use, as far as a learner has work for them:
/// more would wait for each other.
pub fn default_threads() -> usize {
    relay_model::physical_cores().min(limits::THREADS_MAX)
}

mod limits {
    /// Parts of a batch. More even out the threads' work, and each has slopes of its own.
    pub(super) const SHARDS: usize = 8;
    /// The most threads: there is no more work than shards.
    pub(super) const THREADS_MAX: usize = SHARDS;
    /// Steps after which every tensor must have had a slope; adapters that begin at nothing leave
    /// their first step to the other half.
    pub(super) const FLAT_STEPS: u32 = 3;
}

/// How the loss changes with each scored log-probability of the sequence of this index, given these
/// log-probabilities. A token whose slope is 0 is attended to, and nothing more.
pub type Slopes<'a> = dyn Fn(usize, &[f32]) -> Vec<f32> + Sync + 'a;

/// What one step did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Log-probabilities of each sequence's scored ids before the step, in nats.
    pub log_probabilities: Vec<Vec<f32>>,
    /// Length of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// What the step was multiplied by.
    pub learning_rate: f64,
}

/// What came of one shard.
#[derive(Debug, Default)]
struct Shard {
    gradient: Vec<f32>,
    /// By index of the sequence.
    log_probabilities: Vec<(usize, Vec<f32>)>,
}

/// A model, its optimiser, and buffers.
#[derive(Debug)]
pub struct Learner {
    /// What is learned.
    pub weights: Weights,
    /// The optimiser's state.
    pub optimiser: AdamW,
    settings: OptimiserSettings,
    decayed: Vec<Range<usize>>,
    /// Buffers of each thread.
    passes: Vec<Pass>,
    shards: Vec<Shard>,
    /// Tensors that no step had a slope for yet.
    without_slope: Vec<TensorPlace>,
    /// Steps with slopes.
    sloped_steps: u32,
}

impl Learner {
    /// A learner that computes on so many threads.
    pub fn new(
        weights: Weights,
        optimiser: AdamW,
        settings: OptimiserSettings,
        threads: usize,
    ) -> anyhow::Result<Self> {
        settings.check()?;
        let threads_max = limits::THREADS_MAX;
        ensure!(
            (1..=threads_max).contains(&threads),
            "{threads} threads: choose 1 to {threads_max}"
        );
        let tensors = weights.tensors();
        let matrices = tensors.iter().filter(|tensor| tensor.is_matrix());
        Ok(Self {
            decayed: matrices.map(|tensor| tensor.range.clone()).collect(),
            passes: (0..threads).map(|_| Pass::new(&weights)).collect(),
            shards: (0..limits::SHARDS).map(|_| Shard::default()).collect(),
            without_slope: tensors,
            sloped_steps: 0,
            weights,
            optimiser,
            settings,
        })
    }

    /// Log-probabilities of each sequence's scored ids, in nats.
    pub fn log_probabilities(&mut self, sequences: &[Sequence]) -> anyhow::Result<Vec<Vec<f32>>> {
        self.run(sequences, None)
    }

    /// One step down the loss whose slopes these are; `steps` is the length of the whole run.
    pub fn step(
        &mut self,
        sequences: &[Sequence],
        slopes: &Slopes<'_>,
        steps: u64,
    ) -> anyhow::Result<StepReport> {
        let log_probabilities = self.run(sequences, Some(slopes))?;
        let (first, others) = self.shards.split_first_mut().context("there are no shards")?;
        for other in others {
            let slopes = first.gradient.iter_mut().zip(&other.gradient);
            slopes.for_each(|(sum, slope)| *sum += slope);
        }
        let gradient_norm = clip(&mut first.gradient, self.settings.gradient_norm_max);
        ensure!(
            gradient_norm.is_finite(),
            "the gradient is not finite at step {}: nothing was changed; {LOWER_RATE}",
            self.optimiser.steps
        );
        if gradient_norm > 0.0 {
            let gradient = &first.gradient;
            let is_flat = |tensor: &TensorPlace| {
                gradient[tensor.range.clone()].iter().all(|slope| *slope == 0.0)
            };
            self.without_slope.retain(is_flat);
            self.sloped_steps = self.sloped_steps.saturating_add(1);
            let forgotten = self.without_slope.first();
            if let Some(tensor) = forgotten.filter(|_| self.sloped_steps >= limits::FLAT_STEPS) {
                bail!("{} has no slopes: it would stay as it is, silently", tensor.name);
            }
        }
        let learning_rate = self.settings.learning_rate_at(self.optimiser.steps, steps);
        let weights = &mut self.weights.values;
        let (settings, decayed) = (&self.settings, &self.decayed);
        self.optimiser.step(settings, learning_rate, decayed, &first.gradient, weights);
        Ok(StepReport { log_probabilities, gradient_norm, learning_rate })
    }

    /// Runs every shard: forward, and backward where there are slopes.
    fn run(
        &mut self,
        sequences: &[Sequence],
        slopes: Option<&Slopes<'_>>,
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let architecture = self.weights.architecture();
        let unsound = sequences.iter().position(|sequence| !sequence.is_sound(architecture));
        ensure!(
            unsound.is_none() && !sequences.is_empty(),
            "sequence {} of the batch is empty, longer than {} tokens, or has foreign ids",
            unsound.unwrap_or(0),
            architecture.context_tokens
        );
        let weights = &self.weights;
        let waiting: Vec<_> = self.shards.iter_mut().map(std::sync::Mutex::new).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for pass in &mut self.passes {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(shard) = waiting.get(index) else { break };
                        if let Ok(mut shard) = shard.lock() {
                            shard.run(index, pass, weights, sequences, slopes);
                        }
                    }
                });
            }
        });
        drop(waiting);
        let results = self.shards.iter_mut().flat_map(|shard| shard.log_probabilities.drain(..));
        let mut results: Vec<(usize, Vec<f32>)> = results.collect();
        results.sort_unstable_by_key(|(index, _)| *index);
        Ok(results.into_iter().map(|(_, log_probabilities)| log_probabilities).collect())
    }
}

impl Shard {
    /// Every so manieth sequence, from the one of this shard's index on.
    fn run(
        &mut self,
        index: usize,
        pass: &mut Pass,
        weights: &Weights,
        sequences: &[Sequence],
        slopes: Option<&Slopes<'_>>,
    ) {
        self.log_probabilities.clear();
        // Whoever only asks for log-probabilities needs no memory for slopes.
        if slopes.is_some() {
            self.gradient.clear();
            self.gradient.resize(weights.values.len(), 0.0);
        }
        for (index, sequence) in sequences.iter().enumerate().skip(index).step_by(limits::SHARDS) {
            let log_probabilities = pass.forward(weights, sequence);
            if let Some(slopes) = slopes {
                let slopes = slopes(index, &log_probabilities);
                pass.backward(weights, sequence, &slopes, &mut self.gradient);
            }
            self.log_probabilities.push((index, log_probabilities));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimiser::test_settings;
    use crate::trainable::test_architecture;

    fn learner(weights: Weights) -> Learner {
        let adam = AdamW::new(weights.values.len());
        Learner::new(weights, adam, test_settings(), 2).unwrap()
    }

    fn weights() -> Weights {
        Weights::draw(&test_architecture(), 2).unwrap()
    }

    fn batch() -> Vec<Sequence> {
        let ids = |from: u32| (0..12).map(|index| (from * 7 + index * index) % 11).collect();
        (0..9).map(|from| Sequence { ids: ids(from), scored_from: 2 }).collect()
    }

    fn surprise(_: usize, log_probabilities: &[f32]) -> Vec<f32> {
        vec![-0.01; log_probabilities.len()]
    }

    #[test]
    fn who_only_asks_takes_no_memory_for_slopes_and_changes_no_step() {
        let mut asking = learner(weights());
        let before = asking.log_probabilities(&batch()).unwrap();
        assert!(asking.shards.iter().all(|shard| shard.gradient.capacity() == 0));
        let mut other = learner(weights());
        for _ in 0..2 {
            let report = asking.step(&batch(), &surprise, 10).unwrap();
            asking.log_probabilities(&batch()[..2]).unwrap();
            other.step(&batch(), &surprise, 10).unwrap();
            assert_eq!(report.log_probabilities.len(), before.len());
        }
        assert_eq!(asking.weights, other.weights);
    }

    #[test]
    fn a_slope_that_is_no_number_changes_nothing() {
        let mut bad = weights();
        bad.values[0] = f32::NAN;
        let mut learner = learner(bad);
        let error = learner.step(&batch(), &surprise, 10).unwrap_err().to_string();
        assert!(
            error.contains("the gradient is not finite at step 0: nothing was changed"),
            "{error}"
        );
        assert!(error.contains("lower learning_rate in the settings"), "{error}");
        assert_eq!(learner.optimiser.steps, 0);
        assert_eq!(learner.weights.values[1..], weights().values[1..]);
    }
}
