//! `relay-train eval` and `relay-train report`: flags to a harness, figures to people. Computes
//! nothing itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use crate::evaluation::contender::Contender;
use crate::evaluation::figures::{Figures, figures};
use crate::evaluation::finished::{Finished, FinishedFile};
use crate::evaluation::harness::{Harness, Models, Run, load_model, model_name, read_run};
use crate::evaluation::table::{markdown, svg};
use crate::problem::Level;

/// Which levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Levels {
    /// Two steps.
    Short,
    /// Four steps.
    Middle,
    /// Seven to nine steps.
    Long,
    /// As many problems of each.
    All,
}

/// What to evaluate.
#[derive(Args)]
pub struct Eval {
    /// The small model: a Hugging Face folder or a GGUF file.
    #[arg(long)]
    slm: PathBuf,
    /// The large model.
    #[arg(long)]
    llm: PathBuf,
    /// The small model before it learned to call, for `slm_alone`; without it that is --slm with
    /// commands masked.
    #[arg(long)]
    base: Option<PathBuf>,
    /// How long the problems are.
    #[arg(long, value_enum, default_value = "all")]
    level: Levels,
    /// Problems of the test split, in all.
    #[arg(long, default_value_t = 200)]
    problems: usize,
    /// Other seeds give other problems, and other bootstrap resamples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What to compare: `slm_alone`, `llm_alone`, `relay`, `teacher_free`, `entropy` and `random`
    /// (at relay's call ratio), `entropy:NATS`, `random:P`, `fixed:N` (commands for at most N
    /// tokens), `every:K`.
    #[arg(long, value_delimiter = ',', default_value = Contender::DEFAULT)]
    policies: Vec<Contender>,
    /// Tokens that a call of entropy, random and every asks for; 0 takes what relay's calls brought
    /// on average.
    #[arg(long, default_value_t = 0)]
    call_tokens: u32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 1024)]
    max_tokens: u32,
    /// Answers under way together; bounds the memory that KV caches take.
    #[arg(long, default_value_t = 64)]
    rows: usize,
    /// Where judged answers are kept; a run that was stopped goes on there.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What to render.
#[derive(Args)]
pub struct Report {
    /// The folder of an evaluation.
    folder: PathBuf,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    run: &'a Run,
    #[serde(flatten)]
    all: Figures,
    /// The same by level.
    levels: BTreeMap<String, Figures>,
}

impl Levels {
    fn each(self) -> Vec<Level> {
        match self {
            Self::Short => vec![Level::Short],
            Self::Middle => vec![Level::Middle],
            Self::Long => vec![Level::Long],
            Self::All => Level::ALL.to_vec(),
        }
    }
}

/// Evaluates and prints.
pub fn evaluate(flags: &Eval, output: &mut impl Write) -> anyhow::Result<()> {
    if flags.problems == 0 {
        bail!("--problems 0: give at least 1");
    }
    let (slm, llm) = (load_model(&flags.slm)?, load_model(&flags.llm)?);
    let base = flags.base.as_deref().map(load_model).transpose()?;
    let run = Run {
        slm: model_name(&slm.identity),
        base: base.as_ref().map(|base| model_name(&base.identity)),
        llm: model_name(&llm.identity),
        levels: flags.level.each(),
        problems: flags.problems,
        seed: flags.seed,
        policies: flags.policies.iter().map(Contender::to_string).collect(),
        call_tokens: flags.call_tokens,
        max_tokens: flags.max_tokens,
    };
    let folder = match &flags.out {
        Some(folder) => folder.clone(),
        None => default_folder(&run)?,
    };
    let models = Models::new(slm, llm, base)?;
    let mut harness = Harness::open(run.clone(), models, flags.rows, &folder)?;
    harness.complete(&flags.policies)?;
    if flags.json {
        let object = serde_json::to_string_pretty(&printed(&run, harness.rows()))
            .context("the figures are no JSON")?;
        writeln!(output, "{object}").context("cannot write the figures")
    } else {
        write!(output, "{}", text(&run, harness.rows())).context("cannot write the figures")
    }
}

/// Renders what an evaluation found: prints it, and writes `report.md`, `report.json` and
/// `report.svg` beside it.
pub fn report(flags: &Report, output: &mut impl Write) -> anyhow::Result<()> {
    let folder = &flags.folder;
    let run = read_run(folder)?;
    let finished = FinishedFile::open(&folder.join("finished.jsonl"))?;
    let text = text(&run, finished.rows());
    let printed = printed(&run, finished.rows());
    let object = serde_json::to_string_pretty(&printed).context("the figures are no JSON")?;
    write(&folder.join("report.md"), &text)?;
    write(&folder.join("report.json"), &(object + "\n"))?;
    write(&folder.join("report.svg"), &svg(&printed.all))?;
    write!(output, "{text}").context("cannot write the report")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}: cannot be written", path.display()))
}

fn printed<'a>(run: &'a Run, rows: &[Finished]) -> Printed<'a> {
    let levels = run.levels.iter().map(|level| {
        let of_level = rows.iter().filter(|row| row.level == *level);
        (level_name(*level), figures(of_level, run.seed))
    });
    Printed { run, all: figures(rows, run.seed), levels: levels.collect() }
}

fn text(run: &Run, rows: &[Finished]) -> String {
    let Printed { all, levels, .. } = printed(run, rows);
    let base = run.base.as_ref().map_or_else(String::new, |base| format!(", before it {base}"));
    let mut text = format!(
        "# Evaluation\n\nSLM {}{base}; LLM {}; {} problems of the test split, seed {}, greedy.\n\n",
        run.slm, run.llm, run.problems, run.seed
    );
    if levels.len() > 1 {
        text.push_str(&markdown("All levels", &all));
        text.push('\n');
    }
    let tables = levels.iter().map(|(level, figures)| markdown(&format!("Level {level}"), figures));
    text.push_str(&tables.collect::<Vec<_>>().join("\n"));
    text
}

fn level_name(level: Level) -> String {
    format!("{level:?}").to_lowercase()
}

/// A folder of the user's cache that follows from what is evaluated.
fn default_folder(run: &Run) -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = cache.context("no cache folder: set HOME, or give --out")?;
    let text = serde_json::to_string(run).context("the run is no JSON")?;
    let hash = blake3::hash(text.as_bytes()).to_hex();
    Ok(cache.join("relay").join("eval").join(&hash.as_str()[..16]))
}
