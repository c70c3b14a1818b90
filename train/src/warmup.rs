//! `relay-train warmup`: the first stage. The small model learns what a command looks like, from
//! answers that it sampled itself with commands put at random places: syntax only, not when to
//! ask. Owns the stage's settings, and where commands go.

use std::io::Write;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use relay::command::{Scanner, write_command};
use relay_model::{AddedTokens, LoadOptions, LoadedModel, Sampling, Tokenizer, load};
use serde::{Deserialize, Serialize};

use crate::answers::{answer, score, text};
use crate::chance::Chance;
use crate::checkpoint::write_aside;
use crate::corpus::{Corpus, Encoder, Position, Shares};
use crate::model_folder;
use crate::optimiser::OptimiserSettings;
use crate::problem::Facts;
use crate::supervised::supervised;
use crate::trainable::Sequence;
use crate::training_run::{Ending, StageSettings, TrainingRun, open_settings, stop_on_signals};
use crate::world::Mind;

/// Flags of `warmup`.
#[derive(Args)]
pub struct Warmup {
    /// The settings: see train/runs/warmup.toml.
    #[arg(long)]
    config: PathBuf,
    /// The pretrained small model's folder: `model/` of its run.
    #[arg(long)]
    from: PathBuf,
    /// The folder to write into; a run that is there is gone on with.
    #[arg(long)]
    out: PathBuf,
    /// Threads that compute; the result does not depend on it.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Everything that decides what comes out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupSettings {
    /// Of the problems, the samples and the commands.
    pub seed: u64,
    /// Steps in all.
    pub steps: u64,
    /// Answers of a step; each is used once.
    pub batch_answers: usize,
    /// Steps from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// Problems of each level in the check at the end.
    pub check_problems: usize,
    /// At which the untouched model answers.
    pub temperature: f32,
    /// Where commands go.
    pub commands: CommandSettings,
    /// How often each level occurs.
    pub shares: Shares,
    /// The optimiser's figures.
    pub optimiser: OptimiserSettings,
}

/// How many commands an answer gets, and what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// From none to so many, each count as likely.
    pub commands_max: usize,
    /// n is d·10^k with d from here …
    #[serde(default = "one")]
    pub digit_min: u32,
    /// … to here, at most 9, …
    pub digit_max: u32,
    /// … and k from here …
    pub power_min: u32,
    /// … to here.
    pub power_max: u32,
}

fn one() -> u32 {
    1
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
        let CommandSettings { digit_min, digit_max, power_min, power_max, .. } = self.commands;
        ensure!(
            1 <= digit_min && digit_min <= digit_max && digit_max <= 9,
            "digits: digit_min to digit_max, from 1 to 9"
        );
        ensure!(
            power_min <= power_max && power_max <= 3,
            "powers: power_min to power_max, up to 3"
        );
        self.shares.check()?;
        self.optimiser.check()
    }
}

impl WarmupSettings {
    /// What the policy may learn from, from a position on.
    fn corpus(&self, position: Position) -> Corpus {
        Corpus::new(self.seed, self.shares, Facts::Policy, Mind::Truth, position)
    }
}

/// Warms a model up, or goes on; then says what its commands look like and how often it is right.
pub fn run(flags: &Warmup, output: &mut impl Write) -> anyhow::Result<()> {
    let settings: WarmupSettings = open_settings(&flags.config, &flags.out)?;
    let (weights, tokenizer) = model_folder::import(&flags.from)?;
    let run = TrainingRun {
        name: "warm-up".to_owned(),
        out: flags.out.clone(),
        steps: settings.steps,
        checkpoint_steps: settings.checkpoint_steps,
        threads: flags.threads,
        optimiser: settings.optimiser.clone(),
        tokenizer,
        stop: stop_on_signals()?,
    };
    let options = LoadOptions { threads: Some(flags.threads), ..LoadOptions::default() };
    let mut untouched = load(&flags.from, &options)?;
    let mut corpus = None;
    let draw = |position: &mut Position| {
        let corpus = corpus.get_or_insert_with(|| settings.corpus(*position));
        let batch = draw(&settings, &mut untouched, corpus)?;
        *position = corpus.position();
        Ok(batch)
    };
    let ending = run.run(weights, Position::default(), &mut supervised(run.steps, draw))?;
    if ending == Ending::Stopped {
        writeln!(output, "stopped; the same command goes on")?;
        return Ok(());
    }
    check(&run, &settings, output)
}

/// The next answers of the untouched model, with commands.
fn draw(
    settings: &WarmupSettings,
    untouched: &mut LoadedModel,
    corpus: &mut Corpus,
) -> anyhow::Result<Vec<Sequence>> {
    let WarmupSettings { seed, batch_answers, temperature, .. } = *settings;
    let first = corpus.position().total;
    let encoder = Encoder::new(untouched)?;
    let end = encoder.end();
    let prompts = corpus.prompts(batch_answers, &encoder)?;
    let sampling = Sampling::at_temperature(temperature);
    let answers = answer(untouched, &prompts, &sampling, seed.wrapping_add(first))?;
    let tokenizer = &untouched.tokenizer;
    let sequence = |((prompt, answer), index): ((Vec<u32>, Vec<u32>), u64)| {
        let mut chance = Chance::new(seed, "commands", first + index);
        let scored_from = prompt.len();
        let mut ids = prompt;
        ids.extend(with_commands(&answer, settings.commands, tokenizer, &mut chance));
        ids.push(end);
        Sequence { ids, scored_from }
    };
    Ok(prompts.into_iter().zip(answers).zip(0..).map(sequence).collect())
}

/// An answer with commands before tokens chosen at random, no two before the same one. Each asks
/// for no more tokens than are left.
fn with_commands(
    answer: &[u32],
    settings: CommandSettings,
    tokenizer: &Tokenizer,
    chance: &mut Chance,
) -> Vec<u32> {
    let mut places: Vec<usize> = (0..answer.len()).collect();
    chance.shuffle(&mut places);
    places.truncate(chance.below(settings.commands_max + 1));
    let mut ids = Vec::with_capacity(answer.len());
    for (place, &id) in answer.iter().enumerate() {
        if places.contains(&place) {
            let digit = chance.between(settings.digit_min..=settings.digit_max);
            let power = chance.between(settings.power_min..=settings.power_max);
            let left = u32::try_from(answer.len() - place).unwrap_or(u32::MAX);
            let command = write_command((digit * 10_u32.pow(power)).min(left));
            ids.extend(tokenizer.encode(&command, AddedTokens::Parse));
        }
        ids.push(id);
    }
    ids
}

/// Complete commands of a text, and broken ones.
fn commands(text: &str) -> (u32, u32) {
    let mut scanner = Scanner::default();
    let mut scans: Vec<_> = text.bytes().map(|byte| scanner.push(byte)).collect();
    scans.push(scanner.end());
    let whole = scans.iter().filter(|scan| scan.command.is_some()).count();
    (u32::try_from(whole).unwrap_or(u32::MAX), scans.iter().map(|scan| scan.malformed).sum())
}

/// Prints and keeps what samples of the warmed-up model look like.
fn check(
    run: &TrainingRun,
    settings: &WarmupSettings,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let options = LoadOptions { threads: Some(run.threads), ..LoadOptions::default() };
    let mut model = load(&run.model_folder(), &options)?;
    let mut corpus = settings.corpus(Position::default());
    let prompts = corpus.prompts(settings.check_problems, &Encoder::new(&model)?)?;
    let answers = answer(&mut model, &prompts, &Sampling::at_temperature(1.0), settings.seed)?;
    let (mut whole, mut broken) = (0, 0);
    for ids in &answers {
        let counted = commands(&text(&model, ids));
        (whole, broken) = (whole + counted.0, broken + counted.1);
    }
    let percent = 100.0 * f64::from(whole) / f64::from((whole + broken).max(1));
    writeln!(
        output,
        "{whole} commands in {} sampled answers, {percent:.1} % of all tries well-formed",
        answers.len()
    )?;
    let mut score_all = |name: &str, sampling: Sampling| -> anyhow::Result<_> {
        let scores = score(&mut model, settings.check_problems, &sampling, settings.seed)?;
        for score in &scores {
            writeln!(output, "{name} {score}")?;
        }
        Ok(scores)
    };
    // Sampled answers hold commands: how much these confuse the model is seen here.
    let greedy = score_all("greedy", Sampling::GREEDY)?;
    let sampled = score_all("sampled", Sampling::at_temperature(1.0))?;
    let results = serde_json::json!({
        "answers": answers.len(), "commands": whole, "broken": broken,
        "well_formed_percent": percent, "greedy": greedy, "sampled": sampled,
    });
    let kept = serde_json::to_string_pretty(&results)? + "\n";
    write_aside(&run.out.join("check.json"), kept.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::{Architecture, Weights, test_architecture};
    use crate::vocabulary;

    #[test]
    fn commands_stand_at_distinct_places_and_ask_for_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let architecture = Architecture { vocabulary_tokens: 300, ..test_architecture() };
        let weights = Weights::draw(&architecture, 1).unwrap();
        model_folder::export(&weights, &vocabulary::learn(300, 1).unwrap(), folder.path()).unwrap();
        let tokenizer = load(folder.path(), &LoadOptions::default()).unwrap().tokenizer;
        let [open, close] = relay::command::TAGS.map(|tag| tokenizer.added_token_id(tag).unwrap());
        let answer = tokenizer.encode("the sum is seven and so on it goes", AddedTokens::Plain);
        let settings = CommandSettings {
            commands_max: 3,
            digit_min: 1,
            digit_max: 9,
            power_min: 0,
            power_max: 1,
        };
        let mut counts = [0; 4];
        for index in 0..200 {
            let mut chance = Chance::new(1, "test", index);
            let ids = with_commands(&answer, settings, &tokenizer, &mut chance);
            let mut kept = Vec::new();
            let (mut count, mut at) = (0, 0);
            while at < ids.len() {
                if ids[at] == open {
                    let length = ids[at..].iter().position(|id| *id == close).unwrap();
                    let digits: Vec<u8> = ids[at + 1..at + length]
                        .iter()
                        .flat_map(|&id| tokenizer.token_bytes(id).to_vec())
                        .collect();
                    let asked: usize = String::from_utf8(digits).unwrap().parse().unwrap();
                    assert!((1..=answer.len() - kept.len()).contains(&asked), "{asked}");
                    at += length + 1;
                    count += 1;
                    assert_ne!(ids[at], open, "two at one place");
                }
                kept.push(ids[at]);
                at += 1;
            }
            assert_eq!(kept, answer);
            counts[count] += 1;
        }
        assert!(counts.iter().all(|count| *count > 30), "{counts:?}");
    }

    #[test]
    fn broken_commands_are_counted() {
        let whole = write_command(20);
        let broken = &whole[..whole.len() - 2];
        assert_eq!(commands(&format!("a {whole} b {whole} c")), (2, 0));
        assert_eq!(commands(&format!("a {broken} b {whole}")), (1, 1));
        assert_eq!(commands(broken), (0, 1));
    }
}
