//! `relay-train pretrain`: the tiny pair's models from nothing, each on problems worked out with its
//! own mind's numbers. Owns the stage's settings.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use relay_model::{LoadOptions, Sampling, load};
use serde::{Deserialize, Serialize};

use crate::answers::score;
use crate::checkpoint::write_aside;
use crate::corpus::{Corpus, Encoder, Position, Shares};
use crate::learner::default_threads;
use crate::model_folder;
use crate::model_writer::ModelWriter;
use crate::optimiser::OptimiserSettings;
use crate::problem::Facts;
use crate::run_folder::{StageSettings, open_settings};
use crate::supervised::supervised;
use crate::trainable::{Architecture, Weights};
use crate::training_run::{Ending, TrainingRun, stop_on_signals, threads_help};
use crate::vocabulary;
use crate::world::Mind;

mod limits {
    /// Tokens of a step: a million take some hundred gibibytes.
    pub(super) const BATCH_TOKENS_MAX: usize = 1 << 20;
}

/// Flags of `pretrain`.
#[derive(Args)]
pub struct Pretrain {
    /// The settings: see train/runs/pretrain.toml.
    #[arg(long)]
    config: PathBuf,
    /// Which of the two models.
    #[arg(long, value_enum)]
    model: Which,
    /// The folder to write into; a run that is there is gone on with.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = default_threads(), hide_default_value = true)]
    #[arg(help = threads_help())]
    threads: usize,
}

/// One of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// The small model.
    Slm,
    /// The large one.
    Llm,
}

/// Everything that decides what comes out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSettings {
    /// Of the weights and the problems.
    pub seed: u64,
    /// Size of the vocabulary at most.
    pub tokenizer_tokens: usize,
    /// Tokens of a step, prompts included.
    pub batch_tokens: usize,
    /// Steps of the optimiser from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// Problems of each level in the check at the end.
    pub check_problems: usize,
    /// How often each level occurs.
    pub shares: Shares,
    /// The optimiser's figures.
    pub optimiser: OptimiserSettings,
    /// The small model.
    pub slm: ModelSettings,
    /// The large one.
    pub llm: ModelSettings,
}

/// One model's sizes and the length of its training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Steps of the optimiser in all.
    pub steps: u64,
    /// Its sizes.
    pub architecture: Architecture,
}

impl StageSettings for PretrainSettings {
    const FILE: &'static str = "pretrain.toml";

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=limits::BATCH_TOKENS_MAX).contains(&self.batch_tokens),
            "batch_tokens must be from 1 to {}",
            limits::BATCH_TOKENS_MAX
        );
        ensure!(self.slm.steps > 0 && self.llm.steps > 0, "steps must be above 0");
        ensure!(self.checkpoint_steps > 0, "checkpoint_steps must be above 0");
        self.shares.check()?;
        self.optimiser.check()?;
        self.slm.architecture.check()?;
        self.llm.architecture.check()
    }
}

impl PretrainSettings {
    fn of(&self, which: Which) -> (&ModelSettings, Mind) {
        match which {
            Which::Slm => (&self.slm, Mind::Slm),
            Which::Llm => (&self.llm, Mind::Llm),
        }
    }
}

/// Trains one model, or goes on; then says how often it is right.
pub fn run(flags: &Pretrain, output: &mut impl Write) -> anyhow::Result<()> {
    let settings: PretrainSettings = open_settings(&flags.config, &flags.out, output)?;
    let (model, mind) = settings.of(flags.model);
    let tokenizer = vocabulary::learn(settings.tokenizer_tokens, settings.seed)?;
    let run = TrainingRun {
        name: format!("{:?}", flags.model).to_uppercase(),
        out: flags.out.clone(),
        steps: model.steps,
        checkpoint_steps: settings.checkpoint_steps,
        threads: flags.threads,
        optimiser: settings.optimiser.clone(),
        writer: ModelWriter::Whole(tokenizer.clone()),
        stop: stop_on_signals()?,
    };
    let architecture = &model.architecture;
    let weights = Weights::draw(architecture, settings.seed)?;
    writeln!(output, "{}: {} weights", run.name, weights.values.len())?;
    // The engine brings tokenizer and template from a folder, so there must be one.
    if !run.model_folder().join("model.safetensors").exists() {
        model_folder::export(&weights, &tokenizer, &run.model_folder())?;
    }
    let ending = train(&run, &settings, mind, weights)?;
    if ending == Ending::Stopped {
        writeln!(output, "stopped; the same command goes on")?;
        return Ok(());
    }
    check(&run, &settings, output)
}

fn train(
    run: &TrainingRun,
    settings: &PretrainSettings,
    mind: Mind,
    weights: Weights,
) -> anyhow::Result<Ending> {
    let loaded = load(&run.model_folder(), &LoadOptions::default())?;
    let encoder = Encoder::new(&loaded)?;
    let PretrainSettings { seed, shares, batch_tokens, .. } = *settings;
    let mut corpus = None;
    let draw = |position: &mut Position| {
        let corpus =
            corpus.get_or_insert_with(|| Corpus::new(seed, shares, Facts::All, mind, *position));
        let batch = corpus.batch(batch_tokens, &encoder)?;
        *position = corpus.position();
        Ok(batch)
    };
    run.run(weights, Position::default(), &mut supervised(run.steps, draw))
}

/// Prints and keeps how often the model is right, greedy and sampled.
fn check(
    run: &TrainingRun,
    settings: &PretrainSettings,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let options = LoadOptions { threads: Some(run.threads), ..LoadOptions::default() };
    let mut loaded = load(&run.model_folder(), &options)?;
    let mut results = serde_json::Map::new();
    for (name, sampling) in
        [("greedy", Sampling::GREEDY), ("sampled", Sampling::at_temperature(1.0))]
    {
        let scores = score(&mut loaded, settings.check_problems, &sampling, settings.seed)?;
        for score in &scores {
            writeln!(output, "{name} {score}")?;
        }
        results.insert(name.to_owned(), serde_json::to_value(scores)?);
    }
    let text = serde_json::to_string_pretty(&results)? + "\n";
    write_aside(&run.out.join("check.json"), text.as_bytes())
}
