//! Which problems a run may see. A problem's split follows from the hash of what it adds, so that
//! no combination is in two of them, in any order or wording, whatever the seed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::problem::{Facts, Group, Level, Problem, Step};
use crate::wording::{FactSpan, question, solve};
use crate::world::Mind;

mod limits {
    /// Draws for one problem before the world counts as used up: of 20 draws one is for the
    /// rarest split.
    pub(super) const DRAWS_MAX: u32 = 10_000;
}

/// A part of all problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// 80 % of all combinations.
    Train,
    /// 5 %.
    Validation,
    /// 15 %: nothing is ever trained on these.
    Test,
}

impl Split {
    /// The split a problem belongs to.
    pub fn of(problem: &Problem) -> Self {
        let hash = problem.combination();
        match u32::from(hash[0]) * 256 + u32::from(hash[1]) {
            0..52_429 => Self::Train,
            52_429..55_706 => Self::Validation,
            _ => Self::Test,
        }
    }
}

/// A problem as it stands in a file, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The combination's hash; problems that differ in wording only share it.
    pub id: String,
    /// How long it is.
    pub level: Level,
    /// The part of all problems it is in.
    pub split: Split,
    /// Who can solve it.
    pub group: Group,
    /// The question.
    pub question: String,
    /// The true answer.
    pub answer: String,
    /// The worked solution, with the numbers of the mind that was asked for.
    pub solution: String,
    /// Where facts' numbers stand in the solution, in bytes.
    pub facts: Vec<FactSpan>,
    /// What is added, in order.
    pub steps: Vec<StepRecord>,
}

/// One step of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The words of the question.
    pub name: String,
    /// The number in truth.
    pub value: u32,
    /// Whether it is a fact that training of the policy never sees.
    pub held_out: bool,
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How long the problems are.
    pub level: Level,
    /// The part of all problems they are from.
    pub split: Split,
    /// Which facts they use.
    pub facts: Facts,
    /// Whose numbers the solutions have.
    pub mind: Mind,
    /// Other seeds give other problems of the same split.
    pub seed: u64,
}

/// Problems without end, no two of the same combination. The same request gives the same problems.
pub struct Problems {
    request: Request,
    index: u64,
    seen: HashSet<[u8; 16]>,
}

impl Problems {
    /// The problems of a request.
    pub fn new(request: Request) -> Self {
        Self { request, index: 0, seen: HashSet::new() }
    }

    fn draw(&mut self) -> Option<(Problem, Chance)> {
        let Request { level, split, facts, seed, .. } = self.request;
        for _ in 0..limits::DRAWS_MAX {
            let mut chance = Chance::new(seed, &format!("{level:?} {facts:?}"), self.index);
            self.index += 1;
            let problem = Problem::draw(level, facts, &mut chance);
            if Split::of(&problem) == split && self.seen.insert(problem.combination()) {
                return Some((problem, chance));
            }
        }
        None
    }
}

impl Iterator for Problems {
    type Item = Record;

    /// The next problem; `None` only when the level has no more combinations.
    fn next(&mut self) -> Option<Record> {
        let (problem, mut chance) = self.draw()?;
        let question = question(&problem, &mut chance);
        let solution = solve(&problem, self.request.mind, &mut chance);
        Some(Record {
            id: format!("{:032x}", u128::from_be_bytes(problem.combination())),
            level: problem.level,
            split: self.request.split,
            group: problem.group(),
            question,
            answer: problem.answer().to_string(),
            solution: solution.text,
            facts: solution.facts,
            steps: problem.steps.iter().map(step_record).collect(),
        })
    }
}

fn step_record(step: &Step) -> StepRecord {
    let held_out = matches!(step, Step::Fact(fact) if fact.is_held_out());
    StepRecord { name: step.name(), value: step.value(), held_out }
}
