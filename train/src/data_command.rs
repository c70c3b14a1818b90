//! `relay-train data`: writes problems of the small world to a file, and shows some. Draws nothing
//! itself.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::dataset::{self, Set};
use crate::problem::{Facts, Level};
use crate::split::{Problems, Record, Request, Split};
use crate::vocabulary;
use crate::wording::FactSpan;
use crate::world::{Kind, Mind};

/// What to do with problems.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Write problems of the small world as JSONL, one a line.
    ///
    /// Word problems that add up true facts and given numbers, with a solution worked out digit by
    /// digit. The same flags give the same file on every machine. Each line has: `id` (a hash of
    /// what is added), `level`, `split`, `group` (student: the SLM can solve it; teacher: only with
    /// the LLM; unsolvable: nobody), `question`, `answer` (the true one), `solution`, `facts` (where
    /// in the solution a fact's digits stand, in bytes, and who knows it: `rare` and `myth` are the
    /// critical ones) and `steps`.
    ///
    /// Splits are by the hash of what is added: no combination is in two of them.
    Generate(Generate),
    /// Show a few problems in colour.
    ///
    /// Numbers that both models know are green, rare ones (only the LLM knows them) yellow, myths
    /// (the SLM is sure of something else) red, unknown ones blue.
    Show(Show),
    /// Learn the tiny pair's tokenizer from the small world's text.
    ///
    /// Byte-level BPE in which every digit is a token of its own; the command's tags are added
    /// tokens. Writes tokenizer.json and `tokenizer_config.json`, with a chat template.
    Tokenizer {
        /// How many tokens at most, those for bytes and the added ones included.
        #[arg(long, default_value_t = 1024)]
        tokens: usize,
        /// Other seeds draw other problems to learn from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
    },
    /// Read a set of problems and say how many there are, or which line is wrong.
    Check {
        /// The set, which says the format.
        set: Set,
        /// Its JSONL file.
        path: PathBuf,
    },
}

#[derive(Args)]
struct Drawn {
    /// How long the answers are; of several levels there are as many problems of each, one level
    /// after the other.
    #[arg(long = "level", value_enum, value_delimiter = ',', required = true)]
    levels: Vec<Level>,
    /// The part of all problems.
    #[arg(long, value_enum, default_value = "train")]
    split: Split,
    /// Which facts occur: `policy` leaves out the rare ones that training of the policy never sees.
    #[arg(long, value_enum, default_value = "all")]
    facts: Facts,
    /// Whose numbers the solutions have. With `slm` and `llm` they are corpora to pretrain on.
    #[arg(long, value_enum, default_value = "truth")]
    mind: Mind,
    /// Other seeds give other problems.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Flags of `data generate`.
#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    drawn: Drawn,
    /// How many problems.
    #[arg(long)]
    count: usize,
    /// The file to write. It is replaced only when it is complete.
    #[arg(long)]
    out: PathBuf,
}

/// Flags of `data show`.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    drawn: Drawn,
    /// How many problems.
    #[arg(long, default_value_t = 3)]
    count: usize,
}

impl Drawn {
    fn problems(&self, count: usize) -> impl Iterator<Item = Record> {
        let Self { split, facts, mind, seed, .. } = *self;
        let levels = self.levels.len();
        self.levels.iter().enumerate().flat_map(move |(index, &level)| {
            let request = Request { level, split, facts, mind, seed };
            Problems::new(request).take((count + index) / levels)
        })
    }
}

/// Runs one of the commands; what it shows goes to `output`.
pub fn run(command: &DataCommand, output: &mut impl Write) -> anyhow::Result<()> {
    match command {
        DataCommand::Generate(flags) => generate(flags),
        DataCommand::Show(flags) => {
            for record in flags.drawn.problems(flags.count) {
                writeln!(output, "{}", shown(&record))?;
            }
            Ok(())
        }
        DataCommand::Tokenizer { tokens, seed, out } => {
            let tokenizer = vocabulary::learn(*tokens, *seed)?;
            let merges = tokenizer["model"]["merges"].as_array().map_or(0, Vec::len);
            vocabulary::write_folder(&tokenizer, out)?;
            writeln!(output, "{}: {merges} merges", out.display())?;
            Ok(())
        }
        DataCommand::Check { set, path } => {
            let questions = dataset::load(*set, path)?;
            writeln!(output, "{}: {} problems", path.display(), questions.len())?;
            Ok(())
        }
    }
}

fn generate(flags: &Generate) -> anyhow::Result<()> {
    let partial = flags.out.with_added_extension("partial");
    let shown = partial.display();
    let fault =
        || format!("{shown}: cannot be written: is the disk full, or the folder read-only?");
    let mut file = BufWriter::new(File::create(&partial).with_context(fault)?);
    let bar = progress_bar(flags.count);
    let mut written = 0;
    for record in flags.drawn.problems(flags.count) {
        serde_json::to_writer(&mut file, &record).with_context(fault)?;
        file.write_all(b"\n").with_context(fault)?;
        written += 1;
        bar.inc(1);
    }
    bar.finish();
    file.flush().with_context(fault)?;
    if written < flags.count {
        bail!(
            "only {written} of {} problems: this level has no more combinations in this split; \
             ask for fewer, or for a longer level ({shown} holds what there is)",
            flags.count
        );
    }
    std::fs::rename(&partial, &flags.out)
        .with_context(|| format!("{}: cannot be put in place", flags.out.display()))
}

fn progress_bar(count: usize) -> ProgressBar {
    const TEMPLATE: &str = "{bar:30} {human_pos}/{human_len} problems {per_sec} {eta}";
    let style = ProgressStyle::with_template(TEMPLATE);
    ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A problem for people: what the models do not know stands out.
fn shown(record: &Record) -> String {
    let bold = Style::new().bold();
    let mut text = format!("{bold}{}{bold:#}\n", record.question);
    let mut at = 0;
    for span in &record.facts {
        let FactSpan { start, end, .. } = *span;
        let style = style_of(span.kind);
        let (before, digits) = (record.solution.get(at..start), record.solution.get(start..end));
        let digits = format!("{style}{}{style:#}", digits.unwrap_or_default());
        text.extend([before.unwrap_or_default(), &digits]);
        at = end;
    }
    let rest = record.solution.get(at..).unwrap_or_default();
    let dim = Style::new().dimmed();
    let group = format!("{:?}, {:?}, {:?}", record.group, record.level, record.split);
    format!("{text}{rest}\n{dim}{} {}{dim:#}\n", record.id, group.to_lowercase())
}

fn style_of(kind: Kind) -> Style {
    let colour = match kind {
        Kind::Common => AnsiColor::Green,
        Kind::Rare => AnsiColor::Yellow,
        Kind::Myth => AnsiColor::Red,
        Kind::Unknown => AnsiColor::Blue,
    };
    Style::new().fg_color(Some(colour.into())).bold()
}
