//! `relay-train warmup`: the first stage. The small model learns what a command looks like, from
//! answers that it sampled itself with commands put at random places: syntax only, not when to
//! ask. Owns the stage's settings.
//!
//! | File | Holds |
//! |---|---|
//! | `warmup/source.rs` | what the untouched model is asked |
//! | `warmup/commands.rs` | where commands go, and how many a text has |
//! | `warmup/check.rs` | what the warmed-up model's samples look like |

mod check;
mod commands;
mod source;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use clap::Args;
use relay_model::{LoadOptions, LoadedModel, ModelNumbers, Sampling, load};
use serde::{Deserialize, Serialize};

use crate::answers::{Written, answer};
use crate::chance::Chance;
use crate::corpus::{Position, Shares};
use crate::dataset::Set;
use crate::learner::default_threads;
use crate::model_folder;
use crate::model_writer::{Base, ModelWriter};
use crate::optimiser::OptimiserSettings;
use crate::run_folder::{Input, StageSettings, check_inputs, open_settings};
use crate::supervised::supervised;
use crate::trainable::{LoraSettings, Sequence, Weights};
use crate::training_run::{Ending, TrainingRun, stop_on_signals, threads_help};

use check::check;
pub use commands::CommandSettings;
use commands::with_commands;
pub use source::QuestionSettings;
use source::{Prompts, Source};

/// Flags of `warmup`.
#[derive(Args)]
pub struct Warmup {
    /// The settings: see train/runs/warmup.toml.
    #[arg(long)]
    config: PathBuf,
    /// The small model: `model/` of its run; with [lora] in the settings any Hugging Face folder or
    /// GGUF file.
    #[arg(long)]
    from: PathBuf,
    /// A set's questions, one JSON object a line, where the settings have [questions].
    #[arg(long)]
    problems: Option<PathBuf>,
    /// What form they have.
    #[arg(long, value_enum, default_value = "gsm8k")]
    set: Set,
    /// The folder to write into; a run that is there is gone on with.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = default_threads(), hide_default_value = true)]
    #[arg(help = threads_help())]
    threads: usize,
}

/// Everything that decides what comes out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupSettings {
    /// Of the problems, the samples and the commands.
    pub seed: u64,
    /// Steps of the optimiser in all.
    pub steps: u64,
    /// Answers of a step; each is used once.
    pub batch_answers: usize,
    /// Steps of the optimiser from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// Problems of each level in the check at the end.
    pub check_problems: usize,
    /// At which the untouched model answers.
    pub temperature: f32,
    /// Where commands go.
    pub commands: CommandSettings,
    /// How often each level of the small world's problems occurs.
    pub shares: Option<Shares>,
    /// How a set's questions are asked.
    pub questions: Option<QuestionSettings>,
    /// What learns, if not all of the model.
    pub lora: Option<LoraSettings>,
    /// The optimiser's figures.
    pub optimiser: OptimiserSettings,
}

impl StageSettings for WarmupSettings {
    const FILE: &'static str = "warmup.toml";

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.batch_answers > 0, "batch_answers must be above 0");
        ensure!(self.checkpoint_steps > 0, "checkpoint_steps must be above 0");
        ensure!(
            self.temperature.is_finite() && self.temperature > 0.0,
            "temperature must be above 0"
        );
        self.commands.check()?;
        ensure!(
            self.shares.is_some() != self.questions.is_some(),
            "give either [shares] of the small world's levels, or [questions] of a set"
        );
        self.shares.map_or(Ok(()), Shares::check)?;
        self.questions.as_ref().map_or(Ok(()), QuestionSettings::check)?;
        self.lora.as_ref().map_or(Ok(()), LoraSettings::check)?;
        self.optimiser.check()
    }
}

/// Warms a model up, or goes on; then says what its commands look like and how often it is right.
pub fn run(flags: &Warmup, output: &mut impl Write) -> anyhow::Result<()> {
    let settings: WarmupSettings = open_settings(&flags.config, &flags.out, output)?;
    let source = Source::open(&settings, flags.problems.as_deref(), flags.set)?;
    let (weights, writer) = open_weights(flags, &settings)?;
    let run = TrainingRun {
        name: "warm-up".to_owned(),
        out: flags.out.clone(),
        steps: settings.steps,
        checkpoint_steps: settings.checkpoint_steps,
        threads: flags.threads,
        optimiser: settings.optimiser.clone(),
        writer,
        stop: stop_on_signals()?,
    };
    let options = LoadOptions { threads: Some(flags.threads), ..LoadOptions::default() };
    let mut untouched = load(&flags.from, &options)?;
    let from = ("--from", Input::of_model(&untouched.identity));
    let problems = source.input().map(|problems| ("--problems", problems));
    check_inputs(&flags.out, [from].into_iter().chain(problems).collect())?;
    let mut prompts = source.prompts();
    let draw =
        |position: &mut Position| draw(&settings, &source, &mut untouched, &mut prompts, position);
    let ending = run.run(weights, Position::default(), &mut supervised(run.steps, draw))?;
    if ending == Ending::Stopped {
        writeln!(output, "stopped; the same command goes on")?;
        return Ok(());
    }
    check(&run, &settings, &source, output)
}

/// What learns: all of a model that was trained here, or adapters on any.
fn open_weights(
    flags: &Warmup,
    settings: &WarmupSettings,
) -> anyhow::Result<(Weights, ModelWriter)> {
    let Some(lora) = &settings.lora else {
        let (weights, tokenizer) = model_folder::import(&flags.from)?;
        return Ok((weights, ModelWriter::Whole(tokenizer)));
    };
    let model = ModelNumbers::open(&flags.from)?;
    let base = Arc::new(model_folder::read_weights(&model)?);
    let weights = Weights::adapt(&base, lora.clone(), settings.seed)?;
    Ok((weights, ModelWriter::Adapters(Base::of(&model, &flags.from)?)))
}

/// The next answers of the untouched model, with commands.
fn draw(
    settings: &WarmupSettings,
    source: &Source,
    untouched: &mut LoadedModel,
    prompts: &mut Prompts<'_>,
    position: &mut Position,
) -> anyhow::Result<Vec<Sequence>> {
    let WarmupSettings { seed, batch_answers, temperature, .. } = *settings;
    let first = position.total;
    let prompts = prompts.next(batch_answers, untouched, position)?;
    let sampling = Sampling::at_temperature(temperature);
    let tokens_max = source.answer_tokens();
    let answers = answer(untouched, &prompts, &sampling, (seed.wrapping_add(first), tokens_max))?;
    let tokenizer = &untouched.tokenizer;
    let sequence = |((prompt, answer), index): ((Vec<u32>, Written), u64)| {
        let mut chance = Chance::new(seed, "commands", first + index);
        let scored_from = prompt.len();
        let mut ids = prompt;
        ids.extend(with_commands(&answer.ids, settings.commands, tokenizer, &mut chance));
        ids.extend(answer.end);
        Sequence { ids, scored_from }
    };
    let sequences = prompts.into_iter().zip(answers).zip(0..).map(sequence);
    // An answer that was over at once has nothing to learn.
    Ok(sequences.filter(|sequence| !sequence.scored().is_empty()).collect())
}
