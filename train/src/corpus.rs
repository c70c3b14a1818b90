//! Problems of the small world as sequences to learn from, without end: levels mixed by given
//! shares, each batch a function of the seed and of how much was drawn before. Knows no learner.

use anyhow::{Context, ensure};
use relay_model::{AddedTokens, ChatTemplate, LoadedModel, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::problem::{Facts, Level};
use crate::prompt::prompt_ids;
use crate::split::{Problems, Record, Request, Split};
use crate::trainable::Sequence;
use crate::vocabulary;
use crate::world::Mind;

mod limits {
    /// Problems of one seed before the next one's turn: what a resumed run draws again at most, and
    /// within which no combination occurs twice.
    pub(super) const BLOCK_PROBLEMS: u64 = 512;
}

/// How often each level is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// Weight of short problems.
    pub short: usize,
    /// Of middle ones.
    pub middle: usize,
    /// Of long ones.
    pub long: usize,
}

impl Shares {
    /// Refuses a mix of nothing.
    pub fn check(self) -> anyhow::Result<()> {
        ensure!(self.short + self.middle + self.long > 0, "shares: at least one must be above 0");
        Ok(())
    }

    fn draw(self, chance: &mut Chance) -> usize {
        let drawn = chance.below(self.short + self.middle + self.long);
        usize::from(drawn >= self.short) + usize::from(drawn >= self.short + self.middle)
    }
}

/// How much was drawn: with the seed, all that the rest follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Problems of each level, in the order of [`Level::ALL`].
    pub problems: [u64; 3],
    /// Problems of all levels.
    pub total: u64,
}

/// Turns problems into ids, as the models see them.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    end: u32,
}

impl<'a> Encoder<'a> {
    /// With a model's own tokenizer and template.
    pub fn new(model: &'a LoadedModel) -> anyhow::Result<Self> {
        let tokenizer: &Tokenizer = &model.tokenizer;
        let template = model.chat_template.as_ref().with_context(|| {
            let name = &model.identity.name;
            format!("the model {name} has no chat template: begin with one that has")
        })?;
        let end = tokenizer.added_token_id(vocabulary::TURN_END);
        let end = end.with_context(|| format!("the tokenizer has no {}", vocabulary::TURN_END))?;
        Ok(Self { tokenizer, template, end })
    }

    /// The id that ends an answer.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// A question with the answer to come.
    pub fn prompt(&self, question: &str) -> anyhow::Result<Vec<u32>> {
        prompt_ids(self.tokenizer, Some(self.template), question)
    }

    /// A question and its answer, whose tokens and end are to be learned.
    pub fn sequence(&self, question: &str, answer: &str) -> anyhow::Result<Sequence> {
        let mut ids = self.prompt(question)?;
        let scored_from = ids.len();
        ids.extend(self.tokenizer.encode(answer, AddedTokens::Plain));
        ids.push(self.end);
        Ok(Sequence { ids, scored_from })
    }
}

/// Problems of the training split, mixed.
pub struct Corpus {
    seed: u64,
    shares: Shares,
    facts: Facts,
    mind: Mind,
    position: Position,
    /// Of each level, in the midst of a block.
    open: [Option<Problems>; 3],
}

impl Corpus {
    /// Goes on from a position.
    pub fn new(seed: u64, shares: Shares, facts: Facts, mind: Mind, position: Position) -> Self {
        Self { seed, shares, facts, mind, position, open: [None, None, None] }
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next problem.
    pub fn draw(&mut self) -> anyhow::Result<Record> {
        let level = self.shares.draw(&mut Chance::new(self.seed, "level", self.position.total));
        let drawn = &mut self.position.problems[level];
        let (block, within) = (*drawn / limits::BLOCK_PROBLEMS, *drawn % limits::BLOCK_PROBLEMS);
        if within == 0 {
            self.open[level] = None;
        }
        let request = Request {
            level: Level::ALL[level],
            split: Split::Train,
            facts: self.facts,
            mind: self.mind,
            // Blocks of other seeds must not be this one's.
            seed: self.seed.wrapping_mul(1 << 32).wrapping_add(block),
        };
        let problems = self.open[level].get_or_insert_with(|| {
            let mut problems = Problems::new(request);
            problems.by_ref().take(usize::try_from(within).unwrap_or(0)).for_each(drop);
            problems
        });
        let record = problems.next().context("this level has no more combinations")?;
        *drawn += 1;
        self.position.total += 1;
        Ok(record)
    }

    /// So many questions, with answers to come.
    pub fn prompts(
        &mut self,
        count: usize,
        encoder: &Encoder<'_>,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        (0..count).map(|_| encoder.prompt(&self.draw()?.question)).collect()
    }

    /// Worked solutions with at least so many tokens in all.
    pub fn batch(&mut self, tokens: usize, encoder: &Encoder<'_>) -> anyhow::Result<Vec<Sequence>> {
        let (mut batch, mut drawn_tokens) = (Vec::new(), 0);
        while drawn_tokens < tokens {
            let record = self.draw()?;
            let sequence = encoder.sequence(&record.question, &record.solution)?;
            drawn_tokens += sequence.ids.len();
            batch.push(sequence);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(position: Position) -> Corpus {
        let shares = Shares { short: 1, middle: 2, long: 1 };
        Corpus::new(3, shares, Facts::All, Mind::Slm, position)
    }

    #[test]
    fn a_corpus_goes_on_where_it_was() {
        let mut whole = corpus(Position::default());
        let records: Vec<Record> = (0..60).map(|_| whole.draw().unwrap()).collect();
        let mut first = corpus(Position::default());
        (0..25).for_each(|_| drop(first.draw().unwrap()));
        let mut second = corpus(first.position());
        assert!(records[25..].iter().all(|record| *record == second.draw().unwrap()));
        assert_eq!(whole.position(), second.position());
        let middle = records.iter().filter(|record| record.level == Level::Middle).count();
        assert!((15..45).contains(&middle), "{middle}");
    }

    #[test]
    fn blocks_differ() {
        let of_block = |block| {
            let problems = [0, block * limits::BLOCK_PROBLEMS, 0];
            let mut corpus = corpus(Position { problems, total: 0 });
            corpus.shares = Shares { short: 0, middle: 1, long: 0 };
            corpus.draw().unwrap().question
        };
        assert_ne!(of_block(0), of_block(1));
        assert!(Shares { short: 0, middle: 0, long: 0 }.check().is_err());
    }
}
