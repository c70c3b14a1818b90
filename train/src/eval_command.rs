//! `relay-train eval` and `relay-train report`: flags to a harness, figures to people. Computes
//! nothing itself.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use relay_model::{EMBEDDED, TINY_LLM, TINY_SLM};
use serde::Serialize;

use crate::dataset::{self, Set};
use crate::evaluation::contender::Contender;
use crate::evaluation::figures::{Figures, Prices, figures};
use crate::evaluation::finished::{Finished, read_rows};
use crate::evaluation::harness::{
    Harness, Matched, Models, Run, load_model, matchings_of, model_name, read_run,
};
use crate::evaluation::item::{Items, SetName, set_hash};
use crate::evaluation::plot::{drawing, svg};
use crate::evaluation::raster::png;
use crate::evaluation::table::{markdown, matchings, source, students};
use crate::problem::Level;
use crate::untouched::UNTOUCHED_SLM;

/// Problems of the small world unless their number is given.
const WORLD_PROBLEMS: usize = 200;

/// A pair of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pair {
    /// The tiny pair.
    Embedded,
}

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
    /// A pair that the program carries, instead of --slm and --llm.
    #[arg(long, value_enum, conflicts_with_all = ["slm", "llm"])]
    pair: Option<Pair>,
    /// The small model: a Hugging Face folder or a GGUF file.
    #[arg(long, required_unless_present = "pair", default_value = EMBEDDED, hide_default_value = true)]
    slm: PathBuf,
    /// The large model.
    #[arg(long, required_unless_present = "pair", default_value = EMBEDDED, hide_default_value = true)]
    llm: PathBuf,
    /// The small model before it learned to call, for `slm_alone`, `entropy`, `random` and `every`:
    /// the embedded pair has its own; without one that is --slm with commands masked.
    #[arg(long)]
    base: Option<PathBuf>,
    /// How long the problems are.
    #[arg(long, value_enum, default_value = "all", conflicts_with = "set")]
    level: Levels,
    /// A set from a file instead of the small world's problems.
    #[arg(long, value_enum, requires = "input")]
    set: Option<Set>,
    /// The set's JSONL file.
    #[arg(long = "in", value_name = "FILE", requires = "set")]
    input: Option<PathBuf>,
    /// What is said after each question of the set: to reason, and to put the answer into a box,
    /// unless given; nothing after the small world's.
    #[arg(long, value_name = "TEXT", requires = "set")]
    instruction: Option<String>,
    /// Problems in all: 200 of the small world's test split, or the whole set, unless given.
    #[arg(long)]
    problems: Option<usize>,
    /// Other seeds give other problems, and other bootstrap resamples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What to compare: `slm_alone`, `llm_alone`, `relay`, `teacher_free`, `entropy` and `random`
    /// (tuned to relay's call ratio on validation problems; relay is answered for them),
    /// `entropy:NATS`, `random:P`, `fixed:N` (each command for N tokens, whatever it says),
    /// `every:K`.
    #[arg(long, value_delimiter = ',', default_value = Contender::DEFAULT)]
    policies: Vec<Contender>,
    /// Relay's commands ask for N tokens, whatever they say: for a policy that was taught so.
    #[arg(long, value_name = "N")]
    fixed: Option<NonZeroU32>,
    /// Tokens that a call of entropy, random and every asks for; 0 takes what relay's calls brought
    /// on average.
    #[arg(long, default_value_t = 0)]
    call_tokens: u32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Answers under way together; bounds the memory that KV caches take.
    #[arg(long, default_value_t = 64)]
    rows: usize,
    /// Where judged answers are kept; a run that was stopped goes on there.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    prices: PriceFlags,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Prices of a million tokens, in any currency. With one of them, costs are worked out.
#[derive(Args)]
#[expect(clippy::struct_field_names, reason = "flags are named after their fields")]
pub struct PriceFlags {
    /// Written by the small model.
    #[arg(long, value_name = "PRICE", help_heading = "Prices of a million tokens")]
    price_slm: Option<f64>,
    /// Read by the large model.
    #[arg(long, value_name = "PRICE", help_heading = "Prices of a million tokens")]
    price_llm_read: Option<f64>,
    /// Written by the large model.
    #[arg(long, value_name = "PRICE", help_heading = "Prices of a million tokens")]
    price_llm_written: Option<f64>,
}

impl PriceFlags {
    fn prices(&self) -> anyhow::Result<Option<Prices>> {
        let given = [self.price_slm, self.price_llm_read, self.price_llm_written];
        if let Some(wrong) =
            given.iter().flatten().find(|price| !(price.is_finite() && **price >= 0.0))
        {
            bail!("price {wrong}: give 0 or more");
        }
        let [slm, llm_read, llm_written] = given.map(|price| price.unwrap_or(0.0));
        let is_given = given.iter().any(Option::is_some);
        Ok(is_given.then_some(Prices { slm, llm_read, llm_written }))
    }
}

/// What to render.
#[derive(Args)]
pub struct Report {
    /// The folder of an evaluation.
    folder: PathBuf,
    #[command(flatten)]
    prices: PriceFlags,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    run: &'a Run,
    prices: Option<Prices>,
    #[serde(flatten)]
    all: Figures,
    /// The same by level, shortest first.
    levels: BTreeMap<Level, Figures>,
    /// What the matched policies are set to.
    matching: Vec<Matched>,
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
    let prices = flags.prices.prices()?;
    let slm = load_model(&flags.slm, &TINY_SLM, None)?;
    let llm = load_model(&flags.llm, &TINY_LLM, None)?;
    let own_base = flags.pair.map(|Pair::Embedded| Path::new(EMBEDDED));
    let base = flags.base.as_deref().or(own_base);
    let base = base.map(|base| load_model(base, &UNTOUCHED_SLM, None)).transpose()?;
    let mut run = Run {
        slm: model_name(&slm.identity),
        base: base.as_ref().map(|base| model_name(&base.identity)),
        llm: model_name(&llm.identity),
        set: None,
        levels: flags.level.each(),
        problems: flags.problems.unwrap_or(WORLD_PROBLEMS),
        seed: flags.seed,
        policies: flags.policies.iter().map(Contender::to_string).collect(),
        students: BTreeMap::new(),
        fixed: flags.fixed,
        call_tokens: flags.call_tokens,
        max_tokens: flags.max_tokens,
    }
    .with_students()?;
    let items = items(flags, &mut run)?;
    if run.problems == 0 {
        bail!("--problems 0: give at least 1");
    }
    let folder = match &flags.out {
        Some(folder) => folder.clone(),
        None => default_folder(&run)?,
    };
    let models = Models::new(slm, llm, base)?;
    let mut harness = Harness::open(run.clone(), items, models, flags.rows, &folder)?;
    harness.complete(&flags.policies)?;
    let printed = printed(&run, harness.rows(), matchings_of(&folder)?, prices);
    if flags.json {
        let object = serde_json::to_string_pretty(&printed).context("the figures are no JSON")?;
        writeln!(output, "{object}").context("cannot write the figures")
    } else {
        write!(output, "{}", text(&printed)).context("cannot write the figures")
    }
}

/// The problems, and what the run says of them.
fn items(flags: &Eval, run: &mut Run) -> anyhow::Result<Items> {
    let (Some(set), Some(path)) = (flags.set, &flags.input) else {
        return Items::of_world(run);
    };
    let questions = dataset::load(set, path)?;
    let instruction = set.instruction(flags.instruction.as_deref());
    let name = clap::ValueEnum::to_possible_value(&set);
    run.set = Some(SetName {
        name: name.map_or_else(String::new, |name| name.get_name().to_owned()),
        hash: set_hash(&questions),
        instruction: instruction.to_owned(),
    });
    run.levels.clear();
    let wanted = flags.problems.unwrap_or(questions.len());
    let items = Items::of_set(&questions, wanted, run.seed, instruction);
    run.problems = items.judged.len();
    Ok(items)
}

/// Renders what an evaluation found: prints it, and writes `report.md`, `report.json`,
/// `report.svg` and `report.png` beside it.
pub fn report(flags: &Report, output: &mut impl Write) -> anyhow::Result<()> {
    let folder = &flags.folder;
    let run = read_run(folder)?;
    let rows = read_rows(&folder.join("finished.jsonl"))?;
    let wanted = run.problems * run.contenders()?.len();
    let mut seen = HashSet::new();
    if let Some(twice) = rows.iter().find(|row| !seen.insert((&row.policy, &row.problem))) {
        bail!(
            "{}: {} answers {} twice: two programs wrote there at once; evaluate into another --out",
            folder.display(),
            twice.policy,
            twice.problem
        );
    }
    if rows.len() < wanted {
        bail!(
            "{}: {} of {wanted} answers are judged, and policies are compared on the same problems \
             only: run the same `relay-train eval` again, it goes on to the end",
            folder.display(),
            rows.len()
        );
    }
    let printed = printed(&run, &rows, matchings_of(folder)?, flags.prices.prices()?);
    let (text, shapes) = (text(&printed), drawing(&printed.all));
    let object = serde_json::to_string_pretty(&printed).context("the figures are no JSON")?;
    write(&folder.join("report.md"), text.as_bytes())?;
    write(&folder.join("report.json"), (object + "\n").as_bytes())?;
    write(&folder.join("report.svg"), svg(&shapes).as_bytes())?;
    write(&folder.join("report.png"), &png(&shapes)?)?;
    write!(output, "{text}").context("cannot write the report")
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

fn printed<'a>(
    run: &'a Run,
    rows: &[Finished],
    matching: Vec<Matched>,
    prices: Option<Prices>,
) -> Printed<'a> {
    let levels = run.levels.iter().map(|level| {
        let of_level = rows.iter().filter(|row| row.level == Some(*level));
        (*level, figures(of_level, run.seed).priced(prices))
    });
    let all = figures(rows, run.seed).priced(prices);
    Printed { run, prices, all, levels: levels.collect(), matching }
}

fn text(Printed { run, all, levels, matching, .. }: &Printed<'_>) -> String {
    let source_of_problems = match &run.set {
        Some(set) => format!("of {} ({})", set.name, set.hash),
        None => "of the test split".to_owned(),
    };
    let calls = run.fixed.map_or_else(String::new, |tokens| {
        format!("Relay's commands ask for {tokens} tokens each, whatever they say.\n")
    });
    let mut sections = vec![format!(
        "# Evaluation\n\nSLM {}; LLM {}; {} problems {source_of_problems}, seed {}, greedy.\n{}{calls}",
        run.slm,
        run.llm,
        run.problems,
        run.seed,
        students(run)
    )];
    if levels.len() != 1 {
        sections.push(markdown("All problems", all));
    }
    sections
        .extend(levels.iter().map(|(level, figures)| markdown(&format!("Level {level}"), figures)));
    sections.extend(Some(matchings(matching)).filter(|text| !text.is_empty()));
    sections.push(source());
    sections.join("\n")
}

/// A folder of the user's cache that follows from what is evaluated.
fn default_folder(run: &Run) -> anyhow::Result<PathBuf> {
    let text = serde_json::to_string(run).context("the run is no JSON")?;
    let hash = blake3::hash(text.as_bytes()).to_hex();
    Ok(cache_folder()?.join("eval").join(&hash.as_str()[..16]))
}

/// Our part of the user's cache.
pub(crate) fn cache_folder() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.context("no cache folder: set HOME, or give --out")?.join("relay"))
}
