//! One stage's loop over a learner: a log, curves, a progress bar, checkpoints, and a clean stop.
//! Knows not what a step is: the stage makes it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use relay_model::CPU_HELP;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::{Checkpoint, load_newest, save, write_aside};
use crate::curve;
use crate::jsonl::{JsonLines, read_whole_lines};
use crate::learner::Learner;
use crate::model_writer::{MODEL, ModelWriter};
use crate::optimiser::{AdamW, LOWER_RATE, OptimiserSettings};
use crate::run_folder::{LOG, hold};
use crate::trainable::Weights;

/// Where a run writes, and how long it is.
#[derive(Clone, Debug)]
pub struct TrainingRun {
    /// The stage's name, for people.
    pub name: String,
    /// The folder that gets everything.
    pub out: PathBuf,
    /// Steps of the optimiser in all.
    pub steps: u64,
    /// Steps of the optimiser from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// Threads that compute; the result's bits do not depend on it.
    pub threads: usize,
    /// The optimiser's figures.
    pub optimiser: OptimiserSettings,
    /// How the model is written.
    pub writer: ModelWriter,
    /// Set from outside to stop after the step in hand.
    pub stop: Arc<AtomicBool>,
}

/// What a stage logs of one step.
pub trait LogLine: Serialize + DeserializeOwned + 'static {
    /// Pictures of the run.
    const CURVES: &'static [Curve<Self>];

    /// Steps of the optimiser so far.
    fn step(&self) -> u64;

    /// What was learned from; the run stops if it is no finite number.
    fn loss(&self) -> f64;

    /// For the progress bar.
    fn summary(&self) -> String;
}

/// One picture: a figure of every line.
#[derive(Debug)]
pub struct Curve<Line> {
    /// The file's name, and what its axis says.
    pub file: &'static str,
    /// What the figure is.
    pub axis: &'static str,
    /// The figure.
    pub value: fn(&Line) -> f64,
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
        self.out.join(MODEL)
    }

    fn checkpoint(&self) -> PathBuf {
        self.out.join("checkpoint.safetensors")
    }

    /// The log's file.
    pub fn log(&self) -> PathBuf {
        self.out.join(LOG)
    }

    /// Trains from the last checkpoint on, or from `weights`. `make_step` moves the learner by one
    /// step or several, and the state behind what it used.
    pub fn run<State: Serialize + DeserializeOwned + Clone, Line: LogLine>(
        &self,
        weights: Weights,
        state: State,
        make_step: &mut dyn FnMut(&mut Learner, &mut State) -> anyhow::Result<Line>,
    ) -> anyhow::Result<Ending> {
        let _held = hold(&self.out)?;
        let Checkpoint { weights, optimiser, mut state } = self.start(weights, state)?;
        let mut learner = Learner::new(weights, optimiser, self.optimiser.clone(), self.threads)?;
        let mut kept_steps = learner.optimiser.steps;
        let mut log = self.open_log::<Line>(kept_steps)?;
        let bar = self.progress_bar(kept_steps);
        while learner.optimiser.steps < self.steps && !self.stop.load(Ordering::Relaxed) {
            let line = make_step(&mut learner, &mut state)?;
            ensure!(
                line.loss().is_finite(),
                "the loss is not finite at step {}: {LOWER_RATE}",
                line.step()
            );
            append(&mut log, &line, &self.log())?;
            bar.set_message(line.summary());
            bar.set_position(line.step());
            if line.step() - kept_steps >= self.checkpoint_steps {
                self.keep(&learner, &state)?;
                self.draw_curves::<Line>()?;
                kept_steps = line.step();
            }
        }
        if learner.optimiser.steps > kept_steps || !self.checkpoint().exists() {
            self.keep(&learner, &state)?;
        }
        self.draw_curves::<Line>()?;
        bar.abandon();
        let is_finished = learner.optimiser.steps >= self.steps;
        if is_finished {
            self.writer.finish(&learner.weights, &self.out)?;
        }
        Ok(if is_finished { Ending::Finished } else { Ending::Stopped })
    }

    /// The last checkpoint, or the beginning.
    fn start<State: DeserializeOwned>(
        &self,
        weights: Weights,
        state: State,
    ) -> anyhow::Result<Checkpoint<State>> {
        let Some((checkpoint, warning)) = load_newest(&weights, &self.checkpoint())? else {
            let optimiser = AdamW::new(weights.values.len());
            return Ok(Checkpoint { weights, optimiser, state });
        };
        if let Some(warning) = warning {
            anstream::eprintln!("{}: {warning}", self.name);
        }
        Ok(checkpoint)
    }

    /// Model and checkpoint.
    fn keep<State: Serialize + Clone>(
        &self,
        learner: &Learner,
        state: &State,
    ) -> anyhow::Result<()> {
        let Learner { weights, optimiser, .. } = learner;
        self.writer.keep(weights, &self.out)?;
        let (weights, optimiser) = (weights.clone(), optimiser.clone());
        save(&Checkpoint { weights, optimiser, state: state.clone() }, &self.checkpoint())
    }

    /// What the log says, as pictures.
    fn draw_curves<Line: LogLine>(&self) -> anyhow::Result<()> {
        let lines = read_log::<Line>(&self.log())?;
        for Curve { file, axis, value } in Line::CURVES {
            let points: Vec<_> = lines.iter().map(|line| (line.step(), value(line))).collect();
            curve::draw(&points, axis, &self.out.join(file))?;
        }
        Ok(())
    }

    /// The log as far as the checkpoint reaches; what was logged beyond comes again.
    fn open_log<Line: LogLine>(&self, steps: u64) -> anyhow::Result<File> {
        let lines = read_log::<Line>(&self.log())?;
        let kept = lines.iter().take_while(|line| line.step() <= steps).count();
        let text = whole_lines(&self.log())?;
        let written = text.split_inclusive(|byte| *byte == b'\n');
        let written = written.filter(|line| !line.trim_ascii().is_empty());
        write_aside(&self.log(), &written.take(kept).collect::<Vec<_>>().concat())?;
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

/// Adds a line to a log.
fn append(log: &mut impl Write, line: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string(line).context("a log line is no JSON")? + "\n";
    log.write_all(text.as_bytes()).with_context(|| {
        format!(
            "{}: cannot be written: is the disk full? The last checkpoint is sound: make room and \
             run the same command again",
            path.display()
        )
    })
}

/// All lines of a log; none where there is no log yet.
///
/// # Errors
/// If a line is damaged: the file is left as it is.
pub fn read_log<Line: LogLine>(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = whole_lines(path)?;
    let mut lines = JsonLines::new(&text[..], path.display().to_string());
    let mut read = Vec::new();
    while let Some(line) =
        lines.read().context("the log is damaged: mend or remove this line and run again")?
    {
        read.push(line);
    }
    Ok(read)
}

/// A log without a last line that a kill cut short, which is no fault: its step comes again.
fn whole_lines(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.exists() { read_whole_lines(path) } else { Ok(Vec::new()) }
}

/// What the flag for a run's threads says.
pub(crate) fn threads_help() -> String {
    format!(
        "Threads that compute, one for each core unless given; the result does not depend on it. \
         {CPU_HELP}"
    )
}

/// What a program that was stopped ends with, as shells have it.
pub const STOPPED_STATUS: u8 = 130;

/// Set by the first signal.
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static IS_HEARD: OnceLock<()> = OnceLock::new();

/// Stops runs at the first signal; the second one ends the program.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    if IS_HEARD.set(()).is_ok() {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let (stop, status) = (Arc::clone(&STOP), STOPPED_STATUS.into());
            signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&stop))
                .and_then(|_| signal_hook::flag::register(signal, stop))
                .context("signals cannot be heard")?;
        }
    }
    Ok(Arc::clone(&STOP))
}

/// Whether a signal came.
pub fn was_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::load;
    use crate::model_writer::Base;
    use crate::optimiser::test_settings;
    use crate::run_folder::{StageSettings, open_settings};
    use crate::supervised::{LossLine, supervised};
    use crate::trainable::{LoraSettings, Sequence, Target, test_architecture};
    use crate::vocabulary;

    fn training_run(out: &Path, threads: usize) -> TrainingRun {
        TrainingRun {
            name: "test".into(),
            out: out.into(),
            steps: 7,
            checkpoint_steps: 2,
            threads,
            optimiser: OptimiserSettings { learning_rate: 1e-3, ..test_settings() },
            writer: ModelWriter::Whole(vocabulary::learn(300, 1).unwrap()),
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
        let tokenizer = vocabulary::learn(300, 1).unwrap();
        assert_resumes(&weights(), &ModelWriter::Whole(tokenizer), "model");
    }

    #[test]
    fn adapters_resume_to_the_same_bits() {
        let lora = LoraSettings { rank: 2, alpha: 4.0, targets: Target::ALL.to_vec() };
        let base = Base { name: "base".into(), ..Base::default() };
        let weights = Weights::adapt(&Arc::new(weights()), lora, 3).unwrap();
        assert_resumes(&weights, &ModelWriter::Adapters(base), "adapter");
    }

    fn assert_resumes(weights: &Weights, writer: &ModelWriter, kept: &str) {
        let run = |run: &TrainingRun, draw: &mut dyn FnMut(&u32) -> anyhow::Result<()>| {
            let draw = |state: &mut u32| draw(state).map(|()| batch(state));
            run.run(weights.clone(), 0, &mut supervised(run.steps, draw))
        };
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let of = |index: usize, threads| TrainingRun {
            writer: writer.clone(),
            ..training_run(folders[index].path(), threads)
        };
        let whole = of(0, 1);
        let ending = run(&whole, &mut |_| Ok(())).unwrap();
        assert_eq!(ending, Ending::Finished);
        let cut = of(1, 2);
        // Stopped in the midst of the fourth step, then killed in the sixth: it goes on from the
        // fourth both times.
        let stopped = run(&cut, &mut |state| {
            cut.stop.store(*state == 3, Ordering::Relaxed);
            Ok(())
        });
        assert_eq!(stopped.unwrap(), Ending::Stopped);
        cut.stop.store(false, Ordering::Relaxed);
        let killed = run(&cut, &mut |state| {
            ensure!(*state < 5, "killed");
            Ok(())
        });
        assert!(killed.is_err());
        run(&cut, &mut |_| Ok(())).unwrap();
        let [whole_end, cut_end] =
            [&whole, &cut].map(|run| load::<u32>(weights, &run.checkpoint()).unwrap().unwrap());
        assert_eq!(whole_end, cut_end);
        let lines: Vec<LossLine> = read_log(&cut.log()).unwrap();
        let steps: Vec<u64> = lines.iter().map(LogLine::step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
        assert_ne!(whole_end.weights, *weights);
        assert!(cut.out.join("curve.svg").exists() && cut.out.join(kept).exists());
        assert!(cut.model_folder().join("model.safetensors").exists());
    }

    #[test]
    fn a_damaged_checkpoint_costs_the_steps_since_the_one_before() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [whole, cut] = folders.each_ref().map(|folder| training_run(folder.path(), 1));
        let run = |run: &TrainingRun, stop_at: Option<u32>| {
            run.stop.store(false, Ordering::Relaxed);
            let draw = |state: &mut u32| {
                run.stop.store(Some(*state) == stop_at, Ordering::Relaxed);
                Ok(batch(state))
            };
            run.run(weights(), 0, &mut supervised(run.steps, draw)).unwrap()
        };
        run(&whole, None);
        // Checkpoints of the fourth and of the fifth step; the latter is cut short.
        assert_eq!(run(&cut, Some(4)), Ending::Stopped);
        let newest = std::fs::read(cut.checkpoint()).unwrap();
        std::fs::write(cut.checkpoint(), &newest[..newest.len() / 2]).unwrap();
        let mut drawn = Vec::new();
        let draw = |state: &mut u32| {
            drawn.push(*state);
            Ok(batch(state))
        };
        cut.stop.store(false, Ordering::Relaxed);
        cut.run(weights(), 0, &mut supervised(cut.steps, draw)).unwrap();
        assert_eq!(drawn, [4, 5, 6], "the fifth step comes again");
        let [whole_end, cut_end] =
            [&whole, &cut].map(|run| load::<u32>(&weights(), &run.checkpoint()).unwrap().unwrap());
        assert_eq!(whole_end, cut_end);
        let lines: Vec<LossLine> = read_log(&cut.log()).unwrap();
        let steps: Vec<u64> = lines.iter().map(LogLine::step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_damaged_log_is_told_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let run = training_run(folder.path(), 1);
        run_to_the_end(&run).unwrap();
        let whole = std::fs::read_to_string(run.log()).unwrap();
        // What a kill leaves: the line that was being written.
        std::fs::write(run.log(), format!("{whole}{{\"step\": 8, \"lo")).unwrap();
        assert_eq!(read_log::<LossLine>(&run.log()).unwrap().len(), 7);
        run_to_the_end(&run).unwrap();
        assert_eq!(std::fs::read_to_string(run.log()).unwrap(), whole);
        let third = whole.lines().nth(2).unwrap();
        let loss = third.split_once("\"loss\":").unwrap().1.split(',').next().unwrap();
        for damaged in ["", "null", "x"].map(|other| third.replacen(loss, other, 1)) {
            let text = whole.replace(third, &damaged);
            std::fs::write(run.log(), &text).unwrap();
            let error = format!("{:#}", run_to_the_end(&run).unwrap_err());
            assert!(error.contains("mend or remove this line") && error.contains("log.jsonl:3: "));
            assert_eq!(std::fs::read_to_string(run.log()).unwrap(), text);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_and_can_be_made_room_on() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = append(&mut full, &1, Path::new("out/log.jsonl")).unwrap_err().to_string();
        assert!(
            error.starts_with("out/log.jsonl: cannot be written: is the disk full?"),
            "{error}"
        );
        assert!(error.contains("make room and run the same command again"), "{error}");

        // /dev/full refuses every byte; the file aside is a link to it.
        let folder = tempfile::tempdir().unwrap();
        let run = training_run(folder.path(), 1);
        let aside = folder.path().join("curve.svg.partial");
        std::os::unix::fs::symlink("/dev/full", &aside).unwrap();
        let error = format!("{:#}", run_to_the_end(&run).unwrap_err());
        assert!(error.contains("curve.svg: cannot be written: is the disk full"), "{error}");
        std::fs::remove_file(aside).unwrap();
        assert_eq!(run_to_the_end(&run).unwrap(), Ending::Finished);
        assert_eq!(read_log::<LossLine>(&run.log()).unwrap().len(), 7);
    }

    /// A run whose loss at step 5 is none at the higher learning rate.
    fn run_to_the_end(run: &TrainingRun) -> anyhow::Result<Ending> {
        let mut steps = supervised(run.steps, |state: &mut u32| Ok(batch(state)));
        run.run(weights(), 0, &mut |learner, state| {
            let mut line = steps(learner, state)?;
            if line.step == 5 && run.optimiser.learning_rate > 1e-3 {
                line.loss = f64::NAN;
            }
            Ok(line)
        })
    }

    #[test]
    fn a_loss_that_is_no_number_stops_the_run_which_goes_on_at_a_lower_rate() {
        let folder = tempfile::tempdir().unwrap();
        let (config, out) = (folder.path().join("a.toml"), folder.path().join("out"));
        let text = |rate: f64| {
            let optimiser = OptimiserSettings { learning_rate: rate, ..test_settings() };
            toml::to_string(&RateSettings { optimiser }).unwrap()
        };
        std::fs::write(&config, text(1e-2)).unwrap();
        let mut said = Vec::new();
        let mut open = || open_settings::<RateSettings>(&config, &out, &mut said).unwrap();
        let run = TrainingRun { optimiser: open().optimiser, ..training_run(&out, 1) };
        let error = run_to_the_end(&run).unwrap_err().to_string();
        assert!(error.contains("the loss is not finite at step 5"), "{error}");
        assert!(error.contains("lower learning_rate"), "{error}");
        assert_eq!(load::<u32>(&weights(), &run.checkpoint()).unwrap().unwrap().optimiser.steps, 4);

        std::fs::write(&config, text(1e-4)).unwrap();
        let run = TrainingRun { optimiser: open().optimiser, ..run };
        assert_eq!(run_to_the_end(&run).unwrap(), Ending::Finished);
        let lines: Vec<LossLine> = read_log(&run.log()).unwrap();
        let rates: Vec<bool> = lines.iter().map(|line| line.learning_rate > 1e-3).collect();
        assert_eq!(rates, [true, true, true, true, false, false, false]);
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said, "learning_rate is 0.0001 from here on; it was 0.01\n");
        assert_eq!(std::fs::read_to_string(out.join("rate.toml")).unwrap(), text(1e-4));
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct RateSettings {
        optimiser: OptimiserSettings,
    }

    impl StageSettings for RateSettings {
        const FILE: &'static str = "rate.toml";

        fn check(&self) -> anyhow::Result<()> {
            Ok(())
        }
    }
}
