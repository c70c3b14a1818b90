//! One judged answer, and the file they are kept in: a line each, written as soon as the answer is
//! judged, so that a run that was killed goes on where it stopped.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use relay::effect::{Author, Ending};
use relay::ids::ModelId;
use relay::transcript::Leg;
use relay_model::Tokenizer;
use serde::{Deserialize, Serialize};

use super::item::Item;
use super::traffic::Traffic;
use crate::grader;
use crate::jsonl::{JsonLines, open_appended, read_whole_lines};
use crate::problem::{Group, Level};
use crate::rollout::{Answer, Token};
use crate::split::Record;
use crate::wording::phrases;
use crate::world::{Kind, facts};

/// A judged answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The policy's name.
    pub policy: String,
    /// The problem's id.
    pub problem: String,
    /// How long the problem is, if it is the small world's.
    pub level: Option<Level>,
    /// Who can solve it.
    pub group: Option<Group>,
    /// The grader's word.
    pub is_correct: bool,
    /// All tokens of the edge view after the prompt.
    pub response_tokens: u32,
    /// Those that the large model delivered.
    pub llm_tokens: u32,
    /// Those that were asked for.
    pub requested_tokens: u64,
    /// Calls made, each one round trip.
    pub calls: u32,
    /// Why the answer ended.
    pub ending: String,
    /// Log-probability of the token that the small model was least sure of, in nats.
    #[serde(default)]
    pub least_sure: Option<f32>,
    /// Mean log-probability of the small model's tokens.
    #[serde(default)]
    pub mean_log_probability: Option<f32>,
    /// Log-probability of its token with a digit that it was least sure of.
    #[serde(default)]
    pub least_sure_digit: Option<f32>,
    /// What its calls would have sent.
    #[serde(default)]
    pub traffic: Traffic,
    /// Digits of the worked solution that are beyond the small model and within the large one;
    /// each is a token.
    #[serde(default)]
    pub critical_tokens: u32,
    /// Tokens of the worked solution.
    #[serde(default)]
    pub solution_tokens: u32,
    /// Who wrote the numbers of facts, as far as they were found.
    pub facts: Vec<WrittenFact>,
}

/// A fact's number in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFact {
    /// Who knows it.
    pub kind: Kind,
    /// Whether training of the policy never saw it.
    pub held_out: bool,
    /// Whether the large model wrote all of its digits.
    pub by_llm: bool,
    /// Whether it is the true number.
    pub is_true: bool,
}

impl Finished {
    /// Judges an answer of a pair with this vocabulary, whose large model is `llm`.
    pub fn judge(
        policy: &str,
        item: &Item,
        answer: &Answer,
        (tokenizer, llm): (&Tokenizer, &ModelId),
    ) -> Self {
        let world = item.world.as_ref();
        let [critical_tokens, solution_tokens] =
            world.map_or([0; 2], |record| solution_tokens(record, tokenizer));
        let by_slm = || answer.tokens.iter().filter(|token| token.author == Author::Slm);
        let is_digit =
            |token: &&Token| tokenizer.token_bytes(token.id).iter().any(u8::is_ascii_digit);
        let ending = match answer.ending {
            Ending::EndOfText => "end_of_text",
            Ending::CloudEndOfText => "cloud_end_of_text",
            Ending::Length => "length",
            Ending::Cancelled => "cancelled",
        };
        Self {
            policy: policy.to_owned(),
            problem: item.id.clone(),
            level: world.map(|record| record.level),
            group: world.map(|record| record.group),
            is_correct: grader::grade(&item.gold, &answer.text).correct,
            response_tokens: answer.account.total_tokens,
            llm_tokens: answer.account.llm_tokens,
            requested_tokens: answer.account.requested_tokens,
            calls: answer.account.calls,
            ending: ending.to_owned(),
            least_sure: least_sure(by_slm()),
            mean_log_probability: mean_log_probability(by_slm()),
            least_sure_digit: least_sure(by_slm().filter(is_digit)),
            traffic: Traffic::of(answer, tokenizer, llm),
            critical_tokens,
            solution_tokens,
            facts: world
                .map_or_else(Vec::new, |record| written_facts(record, &answer.text, &answer.legs)),
        }
    }
}

fn least_sure<'a>(tokens: impl Iterator<Item = &'a Token>) -> Option<f32> {
    let least = tokens.map(|token| token.log_probability).min_by(f32::total_cmp);
    least.filter(|least| least.is_finite())
}

fn mean_log_probability<'a>(tokens: impl Iterator<Item = &'a Token>) -> Option<f32> {
    let (count, sum) =
        tokens.fold((0.0, 0.0), |(count, sum), token| (count + 1.0, sum + token.log_probability));
    Some(sum / count).filter(|mean: &f32| mean.is_finite())
}

/// Critical tokens of a worked solution, and all of them.
fn solution_tokens(record: &Record, tokenizer: &Tokenizer) -> [u32; 2] {
    let critical = record.facts.iter().filter(|span| span.is_critical());
    let critical: usize = critical.map(|span| span.end - span.start).sum();
    let all = tokenizer.encode_bytes(record.solution.as_bytes()).len();
    [critical, all].map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// Who wrote each fact's digits. A number is a fact's where it stands in round brackets behind the
/// words by which worked solutions name that fact, the first time; a fact that was written
/// otherwise, or left out, is passed over and moves no other.
fn written_facts(record: &Record, text: &str, legs: &[Leg]) -> Vec<WrittenFact> {
    let authors: Vec<Author> =
        legs.iter().flat_map(|leg| leg.text.bytes().map(|_| leg.author)).collect();
    let written = record.facts.iter().filter_map(|span| {
        let step = record.steps.iter().find(|step| step.name == span.fact)?;
        let place = number_of(&span.fact, text)?;
        let (digits, by) = (text.get(place.clone())?, authors.get(place)?);
        Some(WrittenFact {
            kind: span.kind,
            held_out: step.held_out,
            by_llm: by.iter().all(|author| *author == Author::Llm),
            is_true: step.value.to_string() == digits,
        })
    });
    written.collect()
}

/// Where the digits of the fact of this name stand.
fn number_of(name: &str, text: &str) -> Option<Range<usize>> {
    let fact = facts().iter().find(|fact| fact.name() == name)?;
    let behind = |words: String| {
        let words = format!(", {words} (");
        Some(text.find(&words)? + words.len())
    };
    let start = phrases(fact).into_iter().filter_map(behind).min()?;
    let digits = text[start..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some(start..start + digits)
}

/// The file of judged answers.
#[derive(Debug)]
pub struct FinishedFile {
    file: File,
    rows: Vec<Finished>,
    known: HashSet<(String, String)>,
}

impl FinishedFile {
    /// Opens the file and reads what is there. A last line that a kill cut short is dropped.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (file, bytes) = open_appended(path)?;
        let rows = parse(path, &bytes)?;
        let known = rows.iter().map(|row| (row.policy.clone(), row.problem.clone())).collect();
        Ok(Self { file, rows, known })
    }

    /// Whether this problem is judged under this policy.
    pub fn has(&self, policy: &str, problem: &str) -> bool {
        self.known.contains(&(policy.to_owned(), problem.to_owned()))
    }

    /// Writes a row and keeps it.
    pub fn push(&mut self, row: Finished) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(&row).context("a judged answer is no JSON")?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).context(
            "a judged answer cannot be written: make room and run again, it goes on from here",
        )?;
        self.known.insert((row.policy.clone(), row.problem.clone()));
        self.rows.push(row);
        Ok(())
    }

    /// All rows.
    pub fn rows(&self) -> &[Finished] {
        &self.rows
    }
}

/// What is judged so far, read without touching the file: an evaluation may be writing it.
///
/// # Errors
/// If there is no such file, or it holds something else.
pub fn read_rows(path: &Path) -> anyhow::Result<Vec<Finished>> {
    parse(path, &read_whole_lines(path)?)
}

fn parse(path: &Path, bytes: &[u8]) -> anyhow::Result<Vec<Finished>> {
    let mut lines = JsonLines::<_, Finished>::new(bytes, path.display().to_string());
    let mut rows = Vec::new();
    while let Some(row) = lines.read()? {
        rows.push(row);
    }
    Ok(rows)
}

/// An answer of 100 tokens, so many of them by the large model.
#[cfg(test)]
pub(super) fn sample(policy: &str, problem: &str, is_correct: bool, llm_tokens: u32) -> Finished {
    Finished {
        policy: policy.to_owned(),
        problem: problem.to_owned(),
        level: Some(Level::Long),
        group: Some(Group::Teacher),
        is_correct,
        response_tokens: 100,
        llm_tokens,
        requested_tokens: u64::from(llm_tokens) * 2,
        calls: u32::from(llm_tokens > 0),
        ending: "end_of_text".to_owned(),
        least_sure: None,
        mean_log_probability: None,
        least_sure_digit: None,
        traffic: Traffic::default(),
        critical_tokens: 0,
        solution_tokens: 0,
        facts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Facts;
    use crate::split::{Problems, Request, Split};
    use crate::world::Mind;

    fn row(problem: &str) -> Finished {
        Finished { least_sure: Some(-0.1), ..sample("relay", problem, true, 2) }
    }

    #[test]
    fn a_file_that_a_kill_cut_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("finished.jsonl");
        FinishedFile::open(&path).unwrap().push(row("a")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], br#"{"policy":"rel"#].concat()).unwrap();
        assert_eq!(read_rows(&path).unwrap(), [row("a")]);
        assert!(std::fs::read(&path).unwrap().ends_with(b"rel"), "a reader cuts nothing");
        let mut file = FinishedFile::open(&path).unwrap();
        assert!(file.has("relay", "a") && !file.has("relay", "b") && !file.has("never", "a"));
        file.push(row("b")).unwrap();
        assert_eq!(FinishedFile::open(&path).unwrap().rows(), [row("a"), row("b")]);
        std::fs::write(&path, "{}\n").unwrap();
        let error = FinishedFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("finished.jsonl:1: missing field"), "{error}");
    }

    /// A worked solution with facts of which the last but one is of another kind than the last.
    fn record() -> Record {
        let request = Request {
            level: Level::Long,
            split: Split::Test,
            facts: Facts::All,
            mind: Mind::Truth,
            seed: 1,
        };
        let is_mixed = |record: &Record| match record.facts.as_slice() {
            [.., _, left, right] => left.kind != right.kind,
            _ => false,
        };
        Problems::new(request).find(is_mixed).unwrap()
    }

    fn leg(author: Author, text: &str) -> Leg {
        Leg { author, tokens: 0, text: text.to_owned() }
    }

    #[test]
    fn each_number_has_its_writer() {
        let record = record();
        let spans = &record.facts;
        let (start, end) = (spans[1].start, spans[1].end);
        let text = &record.solution;
        let legs = [
            leg(Author::Slm, &text[..start]),
            leg(Author::Llm, &text[start..end]),
            leg(Author::Slm, &text[end..]),
        ];
        let written = written_facts(&record, text, &legs);
        assert_eq!(written.len(), spans.len());
        for (index, (fact, span)) in written.iter().zip(spans).enumerate() {
            assert_eq!((fact.by_llm, fact.kind), (index == 1, span.kind), "{index}");
            assert!(fact.is_true, "{index}");
        }
    }

    #[test]
    fn a_number_that_is_left_out_moves_no_other() {
        let record = record();
        let [.., left, right] = record.facts.as_slice() else { unreachable!() };
        // The last but one loses its bracket; the large model writes the last.
        let (before, after) =
            (&record.solution[..left.start - 2], &record.solution[left.end + 1..]);
        let (middle, tail) = after.split_at(right.start - left.end - 1);
        let (digits, tail) = tail.split_at(right.end - right.start);
        let legs = [
            leg(Author::Slm, before),
            leg(Author::Slm, middle),
            leg(Author::Llm, digits),
            leg(Author::Slm, tail),
        ];
        let text = [before, middle, digits, tail].concat();
        let written = written_facts(&record, &text, &legs);
        assert_eq!(written.len(), record.facts.len() - 1);
        assert!(written.iter().all(|fact| fact.is_true), "{written:?}");
        let by_llm: Vec<Kind> =
            written.iter().filter(|fact| fact.by_llm).map(|fact| fact.kind).collect();
        assert_eq!(by_llm, [right.kind]);
    }

    #[test]
    fn every_wording_of_a_solution_is_found() {
        for level in Level::ALL {
            let request =
                Request { level, split: Split::Test, facts: Facts::All, mind: Mind::Slm, seed: 3 };
            for record in Problems::new(request).take(200) {
                let legs = [leg(Author::Slm, &record.solution)];
                let written = written_facts(&record, &record.solution, &legs);
                assert_eq!(written.len(), record.facts.len(), "{}", record.solution);
            }
        }
    }
}
