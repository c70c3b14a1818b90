//! One stage's loop over a learner, of supervised training: cross-entropy on the scored tokens, a
//! log, a curve, a progress bar, checkpoints, and a clean stop. Knows not where batches come from.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{Checkpoint, load, save, write_aside};
use crate::curve;
use crate::jsonl::JsonLines;
use crate::learner::{Learner, StepReport};
use crate::model_folder;
use crate::optimiser::{AdamW, OptimiserSettings};
use crate::trainable::{Sequence, Weights};

/// Where a run writes, and how long it is.
#[derive(Clone, Debug)]
pub struct TrainingRun {
    /// The stage's name, for people.
    pub name: String,
    /// The folder that gets everything.
    pub out: PathBuf,
    /// Steps in all.
    pub steps: u64,
    /// Steps from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// Threads that compute; the result's bits do not depend on it.
    pub threads: usize,
    /// The optimiser's figures.
    pub optimiser: OptimiserSettings,
    /// The model's tokenizer.json.
    pub tokenizer: Value,
    /// Set from outside to stop after the step in hand.
    pub stop: Arc<AtomicBool>,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Steps taken so far.
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

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are taken.
    Finished,
    /// It was asked to stop; the same command goes on.
    Stopped,
}

impl TrainingRun {
    /// The folder of the model as it was at the last checkpoint.
    pub fn model_folder(&self) -> PathBuf {
        self.out.join("model")
    }

    fn checkpoint(&self) -> PathBuf {
        self.out.join("checkpoint.safetensors")
    }

    fn log(&self) -> PathBuf {
        self.out.join("log.jsonl")
    }

    /// Trains from the last checkpoint on, or from `weights`. `draw` gives the next batch and moves
    /// the state behind it.
    pub fn run<State: Serialize + DeserializeOwned + Clone>(
        &self,
        weights: Weights,
        state: State,
        draw: &mut dyn FnMut(&mut State) -> anyhow::Result<Vec<Sequence>>,
    ) -> anyhow::Result<Ending> {
        let start = load(weights.architecture(), &self.checkpoint())?;
        let start = start.unwrap_or_else(|| Checkpoint {
            optimiser: AdamW::new(weights.values.len()),
            weights,
            state,
        });
        let Checkpoint { weights, optimiser, mut state } = start;
        let mut learner = Learner::new(weights, optimiser, self.optimiser.clone(), self.threads)?;
        let mut log = self.open_log(learner.optimiser.steps)?;
        let bar = self.progress_bar(learner.optimiser.steps);
        while learner.optimiser.steps < self.steps && !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let batch = draw(&mut state)?;
            let report = learner.step(&batch, &cross_entropy(&batch), self.steps)?;
            let line = log_line(learner.optimiser.steps, &batch, &report, began);
            ensure!(
                line.loss.is_finite(),
                "the loss is not finite at step {}: go on from the last checkpoint with a lower \
                 learning_rate, in another --out",
                line.step
            );
            serde_json::to_writer(&mut log, &line)
                .and_then(|()| log.write_all(b"\n").map_err(serde_json::Error::io))
                .with_context(|| {
                    format!("{}: cannot be written: disk full?", self.log().display())
                })?;
            bar.set_message(format!("loss {:.3}  {:.0} tok/s", line.loss, line.tokens_per_s));
            bar.inc(1);
            if line.step.is_multiple_of(self.checkpoint_steps) {
                self.keep(&learner, &state)?;
            }
        }
        self.keep(&learner, &state)?;
        bar.abandon();
        let is_finished = learner.optimiser.steps >= self.steps;
        Ok(if is_finished { Ending::Finished } else { Ending::Stopped })
    }

    /// Checkpoint, model and curve.
    fn keep<State: Serialize + Clone>(
        &self,
        learner: &Learner,
        state: &State,
    ) -> anyhow::Result<()> {
        let Learner { weights, optimiser, .. } = learner;
        model_folder::export(weights, &self.tokenizer, &self.model_folder())?;
        let points: Vec<(u64, f64)> =
            read_log(&self.log())?.iter().map(|line| (line.step, line.loss)).collect();
        curve::draw(&points, "loss (nats)", &self.out.join("curve.svg"))?;
        let (weights, optimiser) = (weights.clone(), optimiser.clone());
        save(&Checkpoint { weights, optimiser, state: state.clone() }, &self.checkpoint())
    }

    /// The log as far as the checkpoint reaches; what was logged beyond comes again.
    fn open_log(&self, steps: u64) -> anyhow::Result<File> {
        let mut lines = read_log(&self.log())?;
        lines.retain(|line| line.step <= steps);
        let mut text = String::new();
        for line in &lines {
            text += &(serde_json::to_string(line).context("a log line is no JSON")? + "\n");
        }
        write_aside(&self.log(), text.as_bytes())?;
        OpenOptions::new()
            .append(true)
            .open(self.log())
            .with_context(|| format!("{}: cannot be opened", self.log().display()))
    }

    fn progress_bar(&self, steps: u64) -> ProgressBar {
        const TEMPLATE: &str = "{prefix} {bar:30} {pos}/{len} steps  {msg}  {eta} left";
        let style = ProgressStyle::with_template(TEMPLATE);
        ProgressBar::new(self.steps)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_prefix(self.name.clone())
            .with_position(steps)
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
fn log_line(step: u64, batch: &[Sequence], report: &StepReport, began: Instant) -> LogLine {
    let scored = report.log_probabilities.iter().flatten();
    let count = scored.clone().count().max(1);
    let tokens = batch.iter().map(|sequence| sequence.ids.len()).sum();
    LogLine {
        step,
        loss: -scored.map(|log| f64::from(*log)).sum::<f64>() / count as f64,
        learning_rate: report.learning_rate,
        gradient_norm: report.gradient_norm,
        tokens,
        tokens_per_s: (tokens as f64 / began.elapsed().as_secs_f64().max(1e-9)).round(),
    }
}

/// All lines of a log; none where there is no log yet.
pub fn read_log(path: &Path) -> anyhow::Result<Vec<LogLine>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.with_context(|| format!("{}: cannot be opened", path.display()))?,
    };
    let mut lines = JsonLines::new(std::io::BufReader::new(file), path.display().to_string());
    let mut read = Vec::new();
    // A last line cut short by a kill is no fault: its step comes again.
    while let Ok(Some(line)) = lines.read() {
        read.push(line);
    }
    Ok(read)
}

/// A stage's settings and their text, from a TOML file.
pub fn read_settings<Settings: DeserializeOwned>(
    path: &Path,
) -> anyhow::Result<(Settings, String)> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{shown}: cannot be read: give the run's TOML"))?;
    let settings = toml::from_str(&text).with_context(|| shown.to_string())?;
    Ok((settings, text))
}

/// Copies a run's settings into its folder, or refuses to go on under other ones.
pub fn echo_settings(settings: &str, out: &Path, name: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot be made", out.display()))?;
    let path = out.join(name);
    match std::fs::read_to_string(&path) {
        Ok(before) if before == settings => Ok(()),
        Ok(_) => bail!(
            "{}: this run began with other settings: go on with those, or give another --out",
            path.display()
        ),
        Err(_) => write_aside(&path, settings.as_bytes()),
    }
}

/// Stops runs at the first signal; the second one ends the program.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("signals cannot be heard")?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimiser::test_settings;
    use crate::trainable::test_architecture;
    use crate::vocabulary;

    fn training_run(out: &Path, threads: usize) -> TrainingRun {
        TrainingRun {
            name: "test".into(),
            out: out.into(),
            steps: 7,
            checkpoint_steps: 2,
            threads,
            optimiser: OptimiserSettings { learning_rate: 1e-3, ..test_settings() },
            tokenizer: vocabulary::learn(300, 1).unwrap(),
            stop: Arc::default(),
        }
    }

    fn weights() -> Weights {
        Weights::draw(&test_architecture(), 2).unwrap()
    }

    fn batch(state: &mut u32) -> Vec<Sequence> {
        *state += 1;
        let ids = |from: u32| (0..12).map(|index| (from * 7 + index * index) % 11).collect();
        (0..9).map(|from| Sequence { ids: ids(from + *state), scored_from: 2 }).collect()
    }

    #[test]
    fn a_resumed_run_has_the_bits_of_one_that_never_stopped() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let whole = training_run(folders[0].path(), 1);
        let ending = whole.run(weights(), 0, &mut |state| Ok(batch(state))).unwrap();
        assert_eq!(ending, Ending::Finished);
        let cut = training_run(folders[1].path(), 2);
        // Stopped in the midst of the fourth step, then killed in the sixth: it goes on from the
        // fourth both times.
        let stopped = cut.run(weights(), 0, &mut |state| {
            cut.stop.store(*state == 3, Ordering::Relaxed);
            Ok(batch(state))
        });
        assert_eq!(stopped.unwrap(), Ending::Stopped);
        cut.stop.store(false, Ordering::Relaxed);
        let killed = cut.run(weights(), 0, &mut |state| {
            ensure!(*state < 5, "killed");
            Ok(batch(state))
        });
        assert!(killed.is_err());
        cut.run(weights(), 0, &mut |state| Ok(batch(state))).unwrap();
        let [whole_end, cut_end] = [&whole, &cut]
            .map(|run| load::<u32>(&test_architecture(), &run.checkpoint()).unwrap().unwrap());
        assert_eq!(whole_end, cut_end);
        let steps: Vec<u64> = read_log(&cut.log()).unwrap().iter().map(|line| line.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
        assert!(cut.out.join("curve.svg").exists() && cut.model_folder().exists());
    }

    #[test]
    fn a_loss_that_is_no_number_stops_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let run = training_run(folder.path(), 1);
        let mut weights = weights();
        weights.values[0] = f32::NAN;
        let error = run.run(weights, 0, &mut |state| Ok(batch(state))).unwrap_err().to_string();
        assert!(error.contains("not finite") && error.contains("lower learning_rate"), "{error}");
        assert!(!run.checkpoint().exists());
    }

    #[test]
    fn other_settings_need_another_folder() {
        let folder = tempfile::tempdir().unwrap();
        echo_settings("a = 1", folder.path(), "x.toml").unwrap();
        echo_settings("a = 1", folder.path(), "x.toml").unwrap();
        let error = echo_settings("a = 2", folder.path(), "x.toml").unwrap_err().to_string();
        assert!(error.contains("give another --out"), "{error}");
    }
}
