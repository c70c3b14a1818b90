//! What a model answers, many questions in lock-step, and how often it is right. Nobody is called:
//! commands stay in the text. Knows no training.

use std::fmt;

use anyhow::Context;
use relay_model::{
    Detokenizer, KvCache, LoadedModel, LogitsWanted, NoiseKey, Role, Row, Sampling, TokenMask,
    sample,
};
use serde::Serialize;

use crate::corpus::Encoder;
use crate::grader;
use crate::problem::{Facts, Group, Level};
use crate::split::{Problems, Record, Request, Split};
use crate::world::Mind;

mod limits {
    /// Questions that are answered side by side.
    pub(super) const SIDE_BY_SIDE: usize = 64;
}

/// The longest answer in the small world: twice what its longest problem needs.
pub const WORLD_ANSWER_TOKENS: usize = 640;

/// How often a model was right on problems of one level.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// How long they are.
    pub level: Level,
    /// How many there were.
    pub problems: usize,
    /// How many were right, in percent.
    pub right_percent: f64,
    /// Those that the small model's corpus suffices for.
    pub student_problems: usize,
    /// How many of these were right, in percent.
    pub student_right_percent: f64,
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, problems, right_percent, student_problems, student_right_percent } = self;
        write!(
            formatter,
            "{level:?}: {right_percent:.1} % of {problems} right; \
             {student_right_percent:.1} % of {student_problems} for students"
        )
    }
}

/// One answer on its way.
struct Answer {
    index: usize,
    cache: KvCache,
    next: Vec<u32>,
}

impl Answer {
    fn row(&mut self) -> Row<'_> {
        Row { tokens: &self.next, cache: &mut self.cache, logits: LogitsWanted::Last }
    }
}

/// What a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Its ids, without the last one's below.
    pub ids: Vec<u32>,
    /// The id that ended the answer; none if it became too long.
    pub end: Option<u32>,
}

/// Each prompt's answer, of at most `tokens_max` tokens. Draws depend on the seed and the prompt's
/// index alone.
pub fn answer(
    model: &mut LoadedModel,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    (seed, tokens_max): (u64, usize),
) -> anyhow::Result<Vec<Written>> {
    let mut answers = vec![Written::default(); prompts.len()];
    let mut waiting = prompts.iter().enumerate();
    let mut running: Vec<Answer> = Vec::new();
    loop {
        let free = limits::SIDE_BY_SIDE - running.len();
        running.extend(waiting.by_ref().take(free).map(|(index, prompt)| Answer {
            index,
            cache: model.model.new_cache(),
            next: prompt.clone(),
        }));
        if running.is_empty() {
            return Ok(answers);
        }
        let mut rows: Vec<Row<'_>> = running.iter_mut().map(Answer::row).collect();
        let logits = model.model.forward(&mut rows)?;
        let mut logits = logits.iter();
        let mut fault = None;
        running.retain_mut(|running| {
            let written = &mut answers[running.index];
            let position = u32::try_from(written.ids.len()).unwrap_or(u32::MAX);
            let key = NoiseKey::new(seed + running.index as u64, Role::Slm, position);
            let last = logits.next().and_then(|logits| logits.last());
            let sampled = last.and_then(|logits| sample(logits, sampling, key, &TokenMask::none()));
            let Some(sampled) = sampled else {
                fault = Some("the model gives no numbers: is the training run damaged?");
                return false;
            };
            if model.tokenizer.ends_text(sampled.id) {
                written.end = Some(sampled.id);
                return false;
            }
            written.ids.push(sampled.id);
            running.next = vec![sampled.id];
            written.ids.len() < tokens_max
        });
        fault.map_or(Ok(()), |fault| Err(anyhow::anyhow!(fault)))?;
    }
}

/// Text of an answer's ids.
pub fn text(model: &LoadedModel, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new();
    let mut text: String =
        ids.iter().map(|&id| detokenizer.push(model.tokenizer.token_bytes(id))).collect();
    text.push_str(&detokenizer.finish());
    text
}

/// Problems of a level that training never sees.
pub(crate) fn held_out(level: Level, seed: u64) -> Problems {
    let (split, facts, mind) = (Split::Validation, Facts::All, Mind::Truth);
    Problems::new(Request { level, split, facts, mind, seed })
}

/// How often a model is right on so many problems of each level that training never sees.
pub fn score(
    model: &mut LoadedModel,
    problems: usize,
    sampling: &Sampling,
    seed: u64,
) -> anyhow::Result<Vec<Score>> {
    let score = |level| {
        let records: Vec<Record> = held_out(level, seed).take(problems).collect();
        let encoder = Encoder::new(model)?;
        let prompts = records.iter().map(|record| encoder.prompt(&record.question));
        let prompts = prompts.collect::<anyhow::Result<Vec<_>>>().context("a problem's prompt")?;
        let answers = answer(model, &prompts, sampling, (seed, WORLD_ANSWER_TOKENS))?;
        let right: Vec<(Group, bool)> = records
            .iter()
            .zip(&answers)
            .map(|(record, written)| {
                let said = text(model, &written.ids);
                (record.group, grader::grade(&record.answer, &said).correct)
            })
            .collect();
        let student: Vec<_> =
            right.iter().copied().filter(|(group, _)| *group == Group::Student).collect();
        Ok(Score {
            level,
            problems: right.len(),
            right_percent: right_percent(&right),
            student_problems: student.len(),
            student_right_percent: right_percent(&student),
        })
    };
    Level::ALL.into_iter().map(score).collect()
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn right_percent(answers: &[(Group, bool)]) -> f64 {
    let right = answers.iter().filter(|(_, is_right)| *is_right).count();
    100.0 * right as f64 / answers.len().max(1) as f64
}
