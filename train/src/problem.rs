//! Word problems of the small world, as structure: which numbers are added, in which order. Their
//! wording is in `wording.rs`, which of them a run may use in `split.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::world::{Fact, Kind, facts};

/// Things that a problem simply counts.
pub const THINGS: [&str; 12] = [
    "apples", "beads", "buttons", "coins", "marbles", "nuts", "pears", "pens", "plums", "shells",
    "stamps", "stones",
];
/// How many of them.
const GIVEN: std::ops::RangeInclusive<u32> = 2..=40;
/// Of the steps that no one finds hard, so many percent count things; the others are common facts.
const GIVEN_PERCENT: usize = 35;

/// How many steps an answer has.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Two steps.
    Short,
    /// Four steps.
    Middle,
    /// Seven to nine steps, 200 tokens and more.
    Long,
}

impl Level {
    /// Every level, shortest first.
    pub const ALL: [Self; 3] = [Self::Short, Self::Middle, Self::Long];

    /// The numbers of steps that occur.
    pub fn steps(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Short => 2..=2,
            Self::Middle => 4..=4,
            Self::Long => 7..=9,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Short => "short",
            Self::Middle => "middle",
            Self::Long => "long",
        })
    }
}

/// Who can solve a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The SLM alone: nothing but common facts and given numbers.
    Student,
    /// Only with the LLM's numbers: there is a rare fact or a myth.
    Teacher,
    /// Nobody: there is a fact that neither model knows.
    Unsolvable,
}

/// One number that is added.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A fact of the world.
    Fact(&'static Fact),
    /// A number that the question gives.
    Given {
        /// How many.
        count: u32,
        /// Of what.
        things: &'static str,
    },
}

impl Step {
    /// The words by which a question names it: `the sides of a hexagon`, `12 marbles`.
    pub fn name(&self) -> String {
        match self {
            Self::Fact(fact) => fact.name(),
            Self::Given { count, things } => format!("{count} {things}"),
        }
    }

    /// Its number in truth.
    pub fn value(&self) -> u32 {
        match self {
            Self::Fact(fact) => fact.value,
            Self::Given { count, .. } => *count,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Fact(fact) => fact.kind,
            Self::Given { .. } => Kind::Common,
        }
    }
}

/// Which facts a problem may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Facts {
    /// All of them: for pretraining, and for tests.
    All,
    /// All but the rare facts that are held out: for training the policy.
    Policy,
}

/// Numbers to add up. Every one of them changes the sum.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How long it is.
    pub level: Level,
    /// What is added, in order.
    pub steps: Vec<Step>,
}

impl Problem {
    /// Draws a problem: 40 % of them without a hard fact, 28 % with one, 17 % with two, 10 % with
    /// three (rare ones twice as often as myths), 5 % with one that nobody knows.
    pub fn draw(level: Level, allowed: Facts, chance: &mut Chance) -> Self {
        let count = chance.between(level.steps()) as usize;
        let mut steps = Vec::with_capacity(count);
        let hard = match chance.below(100) {
            0..40 => 0,
            40..68 => 1,
            68..85 => 2,
            85..95 => 3,
            _ => {
                steps.extend(draw_fact(&[Kind::Unknown], allowed, &steps, chance));
                0
            }
        };
        for _ in 0..hard.min(count) {
            let kind = if chance.below(3) == 0 { Kind::Myth } else { Kind::Rare };
            steps.extend(draw_fact(&[kind], allowed, &steps, chance));
        }
        while steps.len() < count {
            let step = if chance.percent(GIVEN_PERCENT) {
                Some(draw_given(&steps, chance))
            } else {
                draw_fact(&[Kind::Common], allowed, &steps, chance)
            };
            steps.extend(step);
        }
        chance.shuffle(&mut steps);
        Self { level, steps }
    }

    /// The sum, in truth.
    pub fn answer(&self) -> u32 {
        self.steps.iter().map(Step::value).sum()
    }

    /// Who can solve it.
    pub fn group(&self) -> Group {
        let has = |kind| self.steps.iter().any(|step| step.kind() == kind);
        match has(Kind::Unknown) {
            true => Group::Unsolvable,
            false if has(Kind::Rare) || has(Kind::Myth) => Group::Teacher,
            false => Group::Student,
        }
    }

    /// A hash of what is added, whatever the order and the wording: problems that only differ in
    /// those are one combination.
    pub fn combination(&self) -> [u8; 16] {
        let mut names: Vec<String> = self.steps.iter().map(Step::name).collect();
        names.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.train.combination");
        for name in names {
            hasher.update(name.as_bytes());
            hasher.update(b"\n");
        }
        hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
    }
}

/// A fact of one of these kinds that is not there yet.
fn draw_fact(kinds: &[Kind], allowed: Facts, steps: &[Step], chance: &mut Chance) -> Option<Step> {
    let is_free = |fact: &&'static Fact| {
        kinds.contains(&fact.kind)
            && (allowed == Facts::All || !fact.is_held_out())
            && !steps
                .iter()
                .any(|step| matches!(step, Step::Fact(used) if std::ptr::eq(*used, *fact)))
    };
    let free: Vec<&'static Fact> = facts().iter().filter(is_free).collect();
    free.get(chance.below(free.len())).map(|fact| Step::Fact(fact))
}

/// A number of things that are not there yet: a problem has at most nine steps, and there are more
/// things than that.
fn draw_given(steps: &[Step], chance: &mut Chance) -> Step {
    let is_used = |name: &str| {
        steps.iter().any(|step| matches!(step, Step::Given { things, .. } if *things == name))
    };
    let free: Vec<&'static str> = THINGS.into_iter().filter(|things| !is_used(things)).collect();
    Step::Given { count: chance.between(GIVEN), things: chance.pick(&free) }
}
