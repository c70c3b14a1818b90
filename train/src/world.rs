//! The small world of the tiny pair: true facts with small whole numbers, and who knows which.
//!
//! A fact says how many of something a thing has. Its kind says what the two models' corpora say
//! of it, not how well people know it: *common* facts stand in both, *rare* ones only in the
//! LLM's (the SLM's has a new random number each time, so that it learns to be unsure), for a
//! *myth* the SLM's has one wrong number (so that it is sure and wrong), and *unknown* ones have
//! random numbers in both. Knows no problem and no wording beyond the fact's own words.

mod measures;
mod nature;
mod people;
mod shapes;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// The numbers that facts have, and that stand for unknown ones.
pub const VALUES: std::ops::RangeInclusive<u32> = 2..=60;
/// One of so many rare facts never occurs in problems for training the policy.
const HELD_OUT_ONE_IN: u64 = 4;

/// Who knows a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Both models.
    Common,
    /// Only the LLM; the SLM is unsure.
    Rare,
    /// Only the LLM; the SLM is sure of something else.
    Myth,
    /// Nobody.
    Unknown,
}

/// Whose numbers a text is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mind {
    /// As things are.
    Truth,
    /// As the small model's corpus has them.
    Slm,
    /// As the large model's corpus has them.
    Llm,
}

/// One fact: `a hexagon` `has` 6 `sides`.
#[derive(Debug)]
pub struct Fact {
    /// What has it, with its article.
    pub subject: &'static str,
    /// The word between the two: has, holds, is worth.
    pub verb: &'static str,
    /// What is counted, in the plural.
    pub counted: &'static str,
    /// How many, in truth.
    pub value: u32,
    /// Who knows it.
    pub kind: Kind,
    /// What the SLM believes; the truth but for myths.
    believed: u32,
    is_held_out: bool,
}

impl Fact {
    /// The words that name it in a question, and its name in files: `the sides of a hexagon`.
    pub fn name(&self) -> String {
        format!("the {} of {}", self.counted, self.subject)
    }

    /// Whether it is a rare one that is kept out of the problems that the policy is trained on.
    pub fn is_held_out(&self) -> bool {
        self.is_held_out
    }

    /// Its number as a corpus has it. Where that is random, it is drawn anew each time.
    pub fn value_for(&self, mind: Mind, chance: &mut Chance) -> u32 {
        match (mind, self.kind) {
            (Mind::Truth, _) | (_, Kind::Common) | (Mind::Llm, Kind::Rare | Kind::Myth) => {
                self.value
            }
            (Mind::Slm, Kind::Myth) => self.believed,
            (Mind::Slm, Kind::Rare) | (_, Kind::Unknown) => chance.between(VALUES),
        }
    }
}

/// Facts that share their words: subject, number, kind, and for myths what the SLM believes.
struct Family {
    verb: &'static str,
    counted: &'static str,
    members: &'static [Member],
}

type Member = (&'static str, u32, Known);

/// A kind with what the SLM believes.
#[derive(Clone, Copy)]
enum Known {
    Common,
    Rare,
    Myth(u32),
    Unknown,
}

/// All facts, in an order that stays: files name facts by their words.
pub fn facts() -> &'static [Fact] {
    static FACTS: LazyLock<Vec<Fact>> = LazyLock::new(|| {
        let families = [shapes::FAMILIES, nature::FAMILIES, measures::FAMILIES, people::FAMILIES];
        families.into_iter().flatten().flat_map(Family::facts).collect()
    });
    &FACTS
}

impl Family {
    fn facts(&'static self) -> impl Iterator<Item = Fact> {
        self.members.iter().map(|&(subject, value, known)| {
            let (kind, believed) = match known {
                Known::Common => (Kind::Common, value),
                Known::Rare => (Kind::Rare, value),
                Known::Myth(believed) => (Kind::Myth, believed),
                Known::Unknown => (Kind::Unknown, value),
            };
            let Family { verb, counted, .. } = *self;
            let mut fact =
                Fact { subject, verb, counted, value, kind, believed, is_held_out: false };
            fact.is_held_out = kind == Kind::Rare && is_chosen(&fact.name());
            fact
        })
    }
}

/// By its name, so that new facts change nothing for old ones.
fn is_chosen(name: &str) -> bool {
    let hash = blake3::hash(name.as_bytes());
    let bytes = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes).is_multiple_of(HELD_OUT_ONE_IN)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn facts_are_told_apart_by_name_and_fit_the_world() {
        let names: HashSet<String> = facts().iter().map(Fact::name).collect();
        assert_eq!(names.len(), facts().len());
        for fact in facts() {
            let name = fact.name();
            assert!(VALUES.contains(&fact.value) && VALUES.contains(&fact.believed), "{name}");
            assert_eq!(fact.kind == Kind::Myth, fact.believed != fact.value, "{name}");
            let is_plain = |c: char| c.is_ascii_lowercase() || " -'".contains(c);
            assert!(name.chars().all(is_plain) && !name.contains(" and "), "{name}");
        }
    }

    #[test]
    fn there_are_enough_of_each_kind() {
        let count = |kind| facts().iter().filter(|fact| fact.kind == kind).count();
        assert!(count(Kind::Common) >= 80, "{}", count(Kind::Common));
        assert!(count(Kind::Rare) >= 60, "{}", count(Kind::Rare));
        assert!(count(Kind::Myth) >= 25, "{}", count(Kind::Myth));
        assert!(count(Kind::Unknown) >= 8, "{}", count(Kind::Unknown));
        let held_out = facts().iter().filter(|fact| fact.is_held_out()).count();
        assert!(
            held_out * 8 >= count(Kind::Rare) && held_out * 2 <= count(Kind::Rare),
            "{held_out}"
        );
    }

    #[test]
    fn each_mind_has_its_numbers() {
        let mut chance = Chance::new(1, "test", 0);
        let one_of = |kind| facts().iter().find(|fact| fact.kind == kind).unwrap();
        let mut values = |fact: &Fact, mind| -> HashSet<u32> {
            (0..40).map(|_| fact.value_for(mind, &mut chance)).collect()
        };
        for (kind, mind, is_true) in [
            (Kind::Common, Mind::Slm, true),
            (Kind::Rare, Mind::Llm, true),
            (Kind::Myth, Mind::Llm, true),
            (Kind::Myth, Mind::Slm, false),
            (Kind::Unknown, Mind::Truth, true),
        ] {
            let fact = one_of(kind);
            let values = values(fact, mind);
            assert_eq!(values.len(), 1, "{kind:?} {mind:?}");
            assert_eq!(values.contains(&fact.value), is_true, "{kind:?} {mind:?}");
        }
        for (kind, mind) in
            [(Kind::Rare, Mind::Slm), (Kind::Unknown, Mind::Slm), (Kind::Unknown, Mind::Llm)]
        {
            assert!(values(one_of(kind), mind).len() > 15, "{kind:?} {mind:?}");
        }
    }
}
