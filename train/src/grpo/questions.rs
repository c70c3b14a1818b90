//! Problems in an order that follows from the seed: every one once, then all of them in another
//! order, and so on. A run that goes on finds its place by counting. Knows no model.

use relay_model::{ChatTemplate, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::dataset::Question;
use crate::prompt::prompt_ids;

/// How much was drawn: with the seed, all that the rest follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drawn {
    /// Problems, those drawn again counted again.
    pub(super) problems: u64,
}

/// One problem to answer several times.
pub(super) struct Group {
    /// Its ids, as both models see them.
    pub(super) prompt: Vec<u32>,
    /// What is right.
    pub(super) gold: String,
    seed: u64,
    drawn: u64,
}

impl Group {
    /// The seed of one of its answers.
    pub(super) fn seed(&self, sample: usize) -> u64 {
        let mut chance = Chance::new(self.seed, "answer", self.drawn);
        let mut draw = || u64::try_from(chance.below(usize::MAX)).unwrap_or_default();
        draw().wrapping_add(u64::try_from(sample).unwrap_or_default())
    }
}

/// All problems of a run.
pub(super) struct Questions {
    all: Vec<Question>,
    template: Option<ChatTemplate>,
    seed: u64,
}

impl Questions {
    pub(super) fn new(all: Vec<Question>, template: Option<ChatTemplate>, seed: u64) -> Self {
        Self { all, template, seed }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The problem whose turn it is.
    pub(super) fn group(&self, drawn: Drawn, tokenizer: &Tokenizer) -> anyhow::Result<Group> {
        let question = &self.all[self.index(drawn)];
        let prompt = prompt_ids(tokenizer, self.template.as_ref(), &question.text)?;
        let (seed, drawn) = (self.seed, drawn.problems);
        Ok(Group { prompt, gold: question.gold.clone(), seed, drawn })
    }

    fn index(&self, drawn: Drawn) -> usize {
        let count = u64::try_from(self.all.len()).unwrap_or(u64::MAX).max(1);
        let (round, place) = (drawn.problems / count, drawn.problems % count);
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        Chance::new(self.seed, "order of problems", round).shuffle(&mut order);
        order[usize::try_from(place).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_problem_once_in_its_own_order() {
        let question = |index: u32| Question { text: index.to_string(), gold: "1".to_owned() };
        let questions = Questions::new((0..20).map(question).collect(), None, 7);
        let round = |round: u64| -> Vec<usize> {
            let places = (0..20).map(|place| Drawn { problems: round * 20 + place });
            places.map(|drawn| questions.index(drawn)).collect()
        };
        let (first, second) = (round(0), round(1));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn answers_have_seeds_of_their_own() {
        let group = |drawn| Group { prompt: vec![1], gold: String::new(), seed: 3, drawn };
        let seeds = [group(0).seed(0), group(0).seed(1), group(1).seed(0), group(1).seed(1)];
        let distinct: std::collections::HashSet<u64> = seeds.into_iter().collect();
        assert_eq!(distinct.len(), 4);
    }
}
