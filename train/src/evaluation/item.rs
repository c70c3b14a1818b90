//! What is asked of a pair: problems of the small world, or those of a set from a file. Judges
//! nothing.

use std::collections::HashSet;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::harness::Run;
use crate::chance::Chance;
use crate::dataset::Question;
use crate::problem::{Facts, Level};
use crate::split::{Problems, Record, Request, Split};
use crate::world::Mind;

mod limits {
    /// Problems that a threshold is matched on.
    pub(super) const CALIBRATION_PROBLEMS: usize = 192;
}

/// A set of problems that is not the small world's: which, and which edition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetName {
    /// The set's name, as flags have it.
    pub name: String,
    /// A hash of all of its questions and answers.
    pub hash: String,
    /// What is said after each question.
    pub instruction: String,
}

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name in the file of judged answers.
    pub id: String,
    /// What the models read.
    pub question: String,
    /// The right answer, for the grader.
    pub gold: String,
    /// What more is known of it, if it is the small world's.
    pub world: Option<Record>,
}

/// The problems of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Items {
    /// Those that are judged.
    pub judged: Vec<Item>,
    /// Those that a threshold is matched on.
    pub calibration: Vec<Item>,
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        let (id, question, gold) =
            (record.id.clone(), record.question.clone(), record.answer.clone());
        Self { id, question, gold, world: Some(record) }
    }
}

impl Items {
    /// Problems of the test split, and of the validation split to match a threshold on.
    pub fn of_world(run: &Run) -> anyhow::Result<Self> {
        let calibration = Run { problems: limits::CALIBRATION_PROBLEMS, ..run.clone() };
        let items = |run, split| -> anyhow::Result<Vec<Item>> {
            Ok(records(run, split)?.into_iter().map(Item::from).collect())
        };
        Ok(Self {
            judged: items(run, Split::Test)?,
            calibration: items(&calibration, Split::Validation)?,
        })
    }

    /// So many problems of a set, by chance, in the set's order; all of them if there are no more.
    /// One that the set repeats is asked once.
    /// A threshold is matched on others, or, where none are left, on the same.
    pub fn of_set(questions: &[Question], problems: usize, seed: u64, instruction: &str) -> Self {
        let mut known = HashSet::new();
        let mut order: Vec<usize> =
            (0..questions.len()).filter(|&place| known.insert(questions[place].id())).collect();
        Chance::new(seed, "evaluated", 0).shuffle(&mut order);
        let (chosen, rest) = order.split_at(problems.min(order.len()));
        let items = |places: &[usize]| {
            let mut places = places.to_vec();
            places.sort_unstable();
            let item = |&place: &usize| Item::of_question(&questions[place], instruction);
            places.iter().map(item).collect::<Vec<_>>()
        };
        let spare = if rest.is_empty() { chosen } else { rest };
        let calibration = &spare[..spare.len().min(limits::CALIBRATION_PROBLEMS)];
        Self { judged: items(chosen), calibration: items(calibration) }
    }
}

impl Item {
    /// The small world's level.
    pub fn level(&self) -> Option<Level> {
        self.world.as_ref().map(|record| record.level)
    }

    fn of_question(question: &Question, instruction: &str) -> Self {
        let (id, gold) = (question.id(), question.gold.clone());
        Self { id, question: question.asked(instruction), gold, world: None }
    }
}

/// What tells a set from others.
pub fn set_hash(questions: &[Question]) -> String {
    let mut hasher = blake3::Hasher::new();
    for question in questions {
        hasher.update(question.id().as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The problems of a run of the small world: of one split, as many of each level.
pub fn records(run: &Run, split: Split) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::with_capacity(run.problems);
    for (index, level) in run.levels.iter().enumerate() {
        let count = (run.problems + index) / run.levels.len().max(1);
        let request =
            Request { level: *level, split, facts: Facts::All, mind: Mind::Truth, seed: run.seed };
        let before = records.len();
        records.extend(Problems::new(request).take(count));
        if records.len() - before < count {
            bail!("level {level:?} has fewer than {count} problems in this split: ask for fewer");
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(count: usize) -> Vec<Question> {
        let question = |index: usize| Question { text: format!("q{index}"), gold: "1".to_owned() };
        (0..count).map(question).collect()
    }

    #[test]
    fn a_set_is_drawn_from_and_calibrated_on_the_rest() {
        let questions = questions(40);
        let items = Items::of_set(&questions, 30, 1, "Box it.");
        assert_eq!((items.judged.len(), items.calibration.len()), (30, 10));
        assert!(items.judged.iter().all(|item| item.question.ends_with("\nBox it.")));
        assert!(items.calibration.iter().all(|item| !items.judged.contains(item)));
        let again = Items::of_set(&questions, 30, 1, "Box it.");
        assert_eq!(items.judged, again.judged);
        assert_ne!(items.judged, Items::of_set(&questions, 30, 2, "Box it.").judged);
        let all = Items::of_set(&questions, 99, 1, "");
        assert_eq!((all.judged.len(), all.calibration.len()), (40, 40));
        assert_eq!(all.judged[7].question, "q7", "the set's order stays");
        assert_ne!(set_hash(&questions), set_hash(&questions[1..]));
        let twice = [&questions[..], &questions].concat();
        assert_eq!(Items::of_set(&twice, 99, 1, "").judged, all.judged);
    }
}
