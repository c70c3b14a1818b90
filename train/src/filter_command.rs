//! `relay-train filter`: keeps the problems that the large model solves often enough, since only
//! from those can calling be learned. Judges by the one grader.
//!
//! Beside the output stands a file of what was sampled, a line for each problem, so that a run that
//! was stopped goes on.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use relay::policy::Policy;
use relay_model::{LoadedModel, Sampling, TINY_LLM};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chance::Chance;
use crate::dataset::{Question, Set, load};
use crate::evaluation::harness::{load_model, model_name, progress_bar};
use crate::grader;
use crate::jsonl::{JsonLines, open_appended};
use crate::prompt::prompt_ids;
use crate::rollout::{Ask, Rollout, RolloutSettings};

/// What to keep.
#[derive(Args)]
pub struct Filter {
    /// The large model: a Hugging Face folder or a GGUF file.
    #[arg(long)]
    llm: PathBuf,
    /// Problems, one JSON object a line.
    #[arg(long = "in")]
    input: PathBuf,
    /// What form they have.
    #[arg(long, value_enum, default_value = "generated")]
    set: Set,
    /// What is said after each question: to reason, and to put the answer into a box, unless given;
    /// nothing after the small world's.
    #[arg(long, value_name = "TEXT")]
    instruction: Option<String>,
    /// Where the kept ones go, with the share that was right as `llm_pass_rate`.
    #[arg(long)]
    out: PathBuf,
    /// Answers sampled for each problem.
    #[arg(long, default_value_t = 10)]
    samples: u32,
    /// Share of them that must be right.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// How they are drawn.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 1024)]
    max_tokens: u32,
    /// Other seeds give other answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Answers under way together; bounds the memory that KV caches take.
    #[arg(long, default_value_t = 64)]
    rows: usize,
}

/// How answers were sampled: the first line of the file of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sampled {
    llm: String,
    samples: u32,
    temperature: f32,
    max_tokens: u32,
    seed: u64,
    /// What was said after each question.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    instruction: String,
}

/// What became of one problem: the other lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Solved {
    /// A hash of question and gold answer.
    problem: String,
    /// Right answers.
    correct: u32,
}

/// The file of samples.
struct SampleFile {
    path: PathBuf,
    file: File,
    solved: HashMap<String, u32>,
}

/// Loads the model, samples, judges and keeps.
pub fn run(flags: &Filter, output: &mut impl Write) -> anyhow::Result<()> {
    filter(flags, load_model(&flags.llm, &TINY_LLM, None)?, output)
}

/// Samples, judges and keeps, with a model that is loaded.
pub fn filter(flags: &Filter, llm: LoadedModel, output: &mut impl Write) -> anyhow::Result<()> {
    check(flags)?;
    let questions = load(flags.set, &flags.input)?;
    let sampled = Sampled {
        llm: model_name(&llm.identity),
        samples: flags.samples,
        temperature: flags.temperature,
        max_tokens: flags.max_tokens,
        seed: flags.seed,
        instruction: flags.set.instruction(flags.instruction.as_deref()).to_owned(),
    };
    let mut file = SampleFile::open(&flags.out.with_added_extension("samples.jsonl"), &sampled)?;
    let template = llm.chat_template.clone();
    // The large model answers alone: to the rollout it is the one that holds the pen.
    let mut rollout = Rollout::new(llm, None)?;
    let (mut asks, mut of_ask) = (Vec::new(), Vec::new());
    for (index, question) in questions.iter().enumerate() {
        if file.solved.contains_key(&question.id()) {
            continue;
        }
        let asked = question.asked(&sampled.instruction);
        let prompt = prompt_ids(rollout.tokenizer(), template.as_ref(), &asked)?;
        for sample in 0..flags.samples {
            asks.push(Ask { prompt: prompt.clone(), seed: sample_seed(flags.seed, index, sample) });
            of_ask.push(index);
        }
    }
    sample(flags, &mut rollout, &questions, (&asks, &of_ask), &mut file)?;
    let kept = write_kept(flags, &questions, &file)?;
    writeln!(output, "kept {kept} of {} problems in {}", questions.len(), flags.out.display())
        .context("cannot write how many were kept")
}

fn check(flags: &Filter) -> anyhow::Result<()> {
    if flags.samples == 0 {
        bail!("--samples 0: give at least 1");
    }
    if !(0.0..=1.0).contains(&flags.share) {
        bail!("--share {}: give a share from 0 to 1", flags.share);
    }
    if !(0.0..=100.0).contains(&flags.temperature) {
        bail!("--temperature {}: give one from 0 to 100", flags.temperature);
    }
    Ok(())
}

fn sample(
    flags: &Filter,
    rollout: &mut Rollout,
    questions: &[Question],
    (asks, of_ask): (&[Ask], &[usize]),
    file: &mut SampleFile,
) -> anyhow::Result<()> {
    let mut settings = RolloutSettings {
        policy: Policy::Never,
        student: Sampling::at_temperature(flags.temperature),
        rows_max: flags.rows,
        ..RolloutSettings::default()
    };
    settings.budget.response_tokens_max = flags.max_tokens;
    let bar = progress_bar("filter", questions.len(), file.solved.len().min(questions.len()));
    let mut counts: HashMap<usize, (u32, u32)> = HashMap::new();
    let answered = rollout.run(asks, &settings, |at, answer| -> anyhow::Result<()> {
        let index = of_ask[at];
        let question = &questions[index];
        let (done, correct) = counts.entry(index).or_default();
        *done += 1;
        *correct += u32::from(grader::grade(&question.gold, &answer.text).correct);
        if *done < flags.samples {
            return Ok(());
        }
        bar.inc(1);
        file.push(Solved { problem: question.id(), correct: *correct })
    });
    bar.finish();
    answered.context("what was sampled is kept: run again to go on")
}

/// Writes the problems that are kept as they were, in their order.
fn write_kept(flags: &Filter, questions: &[Question], file: &SampleFile) -> anyhow::Result<usize> {
    let shown = flags.input.display();
    let input = File::open(&flags.input).with_context(|| format!("{shown}: cannot be opened"))?;
    let mut lines = JsonLines::<_, Value>::new(BufReader::new(input), shown.to_string());
    let partial = flags.out.with_added_extension("partial");
    let fault = || format!("{}: cannot be written", partial.display());
    let mut out = BufWriter::new(File::create(&partial).with_context(fault)?);
    let mut kept = 0;
    for question in questions {
        let mut line = lines.read()?.with_context(|| format!("{shown}: changed under way"))?;
        let correct = file.solved.get(&question.id()).copied().unwrap_or(0);
        let rate = f64::from(correct) / f64::from(flags.samples);
        if rate < flags.share {
            continue;
        }
        line["llm_pass_rate"] = rate.into();
        writeln!(out, "{line}").with_context(fault)?;
        kept += 1;
    }
    out.flush().with_context(fault)?;
    std::fs::rename(&partial, &flags.out)
        .with_context(|| format!("{}: cannot be put in place", flags.out.display()))?;
    Ok(kept)
}

impl SampleFile {
    fn open(path: &Path, sampled: &Sampled) -> anyhow::Result<Self> {
        let shown = path.display();
        let (file, bytes) = open_appended(path)?;
        let mut read = Self { path: path.to_owned(), file, solved: HashMap::new() };
        let (head, rows) = match bytes.iter().position(|byte| *byte == b'\n') {
            None => {
                read.write(sampled)?;
                return Ok(read);
            }
            Some(end) => bytes.split_at(end + 1),
        };
        if serde_json::from_slice::<Sampled>(head).ok().as_ref() != Some(sampled) {
            bail!("{shown} was sampled otherwise: choose another --out, or remove it");
        }
        let mut lines = JsonLines::<_, Solved>::new(rows, shown.to_string());
        while let Some(Solved { problem, correct }) = lines.read()? {
            read.solved.insert(problem, correct);
        }
        Ok(read)
    }

    fn push(&mut self, solved: Solved) -> anyhow::Result<()> {
        self.write(&solved)?;
        self.solved.insert(solved.problem, solved.correct);
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(line).context("a sampled problem is no JSON")? + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.with_context(|| {
            let shown = self.path.display();
            format!("{shown}: cannot be written: is the disk full? Make room and run again")
        })
    }
}

/// Each sample has a seed of its own.
fn sample_seed(seed: u64, index: usize, sample: u32) -> u64 {
    let purpose = format!("filter sample {sample}");
    Chance::new(seed, &purpose, index as u64).below(usize::MAX) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told() {
        let file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut file = SampleFile { path: "x.samples.jsonl".into(), file, solved: HashMap::new() };
        let error = file.push(Solved { problem: "p".to_owned(), correct: 7 }).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("x.samples.jsonl: cannot be written: is the disk full"),
            "{error}"
        );
        assert!(file.solved.is_empty(), "what is not kept is sampled again");
    }

    #[test]
    fn a_file_of_samples_goes_on_with_the_same_sampling_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.samples.jsonl");
        let sampled = Sampled {
            llm: "a".to_owned(),
            samples: 10,
            temperature: 0.7,
            max_tokens: 9,
            seed: 0,
            instruction: String::new(),
        };
        let mut file = SampleFile::open(&path, &sampled).unwrap();
        file.push(Solved { problem: "p".to_owned(), correct: 7 }).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], br#"{"prob"#].concat()).unwrap();
        let again = SampleFile::open(&path, &sampled).unwrap();
        assert_eq!(again.solved, HashMap::from([("p".to_owned(), 7)]));
        let otherwise = [
            Sampled { seed: 1, ..sampled.clone() },
            Sampled { instruction: "i".into(), ..sampled },
        ];
        for other in otherwise {
            let error = SampleFile::open(&path, &other).err().unwrap().to_string();
            assert!(error.contains("was sampled otherwise"), "{error}");
        }
    }
}
