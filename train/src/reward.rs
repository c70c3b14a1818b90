//! What an answer earns: the two rewards of the method, decided for each group of answers to one
//! question. Pure arithmetic over what was delivered; knows no tokens, models or grader.
//!
//! Scenarios are decided per group, as the paper has it, never over a batch. The call ratio rho
//! counts tokens that were delivered, not those asked for, and an answer *called* only if at least
//! one was: commands for nothing, malformed, refused and ungranted ones are no call.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One graded answer of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whether the grader found it right.
    pub is_correct: bool,
    /// Tokens in it that the LLM delivered.
    pub llm_tokens: u32,
    /// All tokens after the prompt, those of commands included.
    pub response_tokens: u32,
}

impl Sample {
    /// Whether the LLM delivered anything.
    pub fn has_called(&self) -> bool {
        self.llm_tokens > 0
    }

    /// The share of the answer's tokens that the LLM delivered, from 0 to 1. An answer of no token
    /// has none from anyone: 0.
    pub fn call_ratio(&self) -> f64 {
        if self.response_tokens == 0 {
            return 0.0;
        }
        f64::from(self.llm_tokens) / f64::from(self.response_tokens)
    }
}

/// How hard a question turned out to be for the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One of the right answers did without the LLM.
    StudentSolvable,
    /// There are right answers, and all of them called.
    TeacherDependent,
    /// No answer is right.
    TeacherUnsolvable,
}

impl Scenario {
    /// The scenario of a group.
    pub fn of(group: &[Sample]) -> Self {
        let mut right = group.iter().filter(|sample| sample.is_correct).peekable();
        if right.peek().is_none() {
            return Self::TeacherUnsolvable;
        }
        if right.all(Sample::has_called) { Self::TeacherDependent } else { Self::StudentSolvable }
    }
}

/// Which reward is paid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reward {
    /// Right or not, less the call ratio.
    Simple,
    /// By scenario.
    Difficulty(Difficulty),
}

/// The parts of the difficulty-aware reward that an ablation may change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Difficulty {
    /// For a right answer without a call. Without the independence bonus this is 1.
    pub independent: f64,
    /// For a wrong answer without a call where calling would have helped.
    pub should_have_called: f64,
    /// Times rho, for calls where nobody was right. Without the exploration reward this is 0.
    pub exploration: f64,
}

impl Default for Difficulty {
    fn default() -> Self {
        Self { independent: 1.5, should_have_called: -1.0, exploration: 1.0 }
    }
}

impl Difficulty {
    fn of(self, scenario: Scenario, sample: &Sample) -> f64 {
        let rho = sample.call_ratio();
        match (scenario, sample.is_correct, sample.has_called()) {
            (_, true, false) => self.independent,
            (_, true, true) => 1.0 - rho,
            (Scenario::TeacherDependent, false, false) => self.should_have_called,
            (Scenario::TeacherUnsolvable, false, true) => self.exploration * rho,
            (_, false, _) => 0.0,
        }
    }
}

/// Why a group has no rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewardError {
    /// There is no answer in it.
    EmptyGroup,
    /// The answer with this index counts more tokens of the LLM than it has.
    MoreThanAll {
        /// Its place in the group.
        index: usize,
    },
}

impl fmt::Display for RewardError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyGroup => write!(formatter, "a group without answers: sample at least one"),
            Self::MoreThanAll { index } => write!(
                formatter,
                "answer {index} has more tokens of the LLM than it has tokens: count both in the \
                 edge view"
            ),
        }
    }
}

impl Error for RewardError {}

/// The rewards of one group, in its order.
///
/// # Errors
/// [`RewardError`] for a group that cannot be: an empty one, or counts that contradict each other.
pub fn rewards(reward: Reward, group: &[Sample]) -> Result<Vec<f64>, RewardError> {
    if group.is_empty() {
        return Err(RewardError::EmptyGroup);
    }
    let is_more = |sample: &Sample| sample.llm_tokens > sample.response_tokens;
    if let Some(index) = group.iter().position(is_more) {
        return Err(RewardError::MoreThanAll { index });
    }
    let scenario = Scenario::of(group);
    let pay = |sample: &Sample| match reward {
        Reward::Simple => f64::from(u8::from(sample.is_correct)) - sample.call_ratio(),
        Reward::Difficulty(difficulty) => difficulty.of(scenario, sample),
    };
    Ok(group.iter().map(pay).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten tokens, of which the LLM delivered so many.
    fn sample(is_correct: bool, llm_tokens: u32) -> Sample {
        Sample { is_correct, llm_tokens, response_tokens: 10 }
    }

    fn check(reward: Reward, group: &[(bool, u32)], expected: &[f64]) {
        let group: Vec<Sample> = group.iter().map(|&(right, llm)| sample(right, llm)).collect();
        let paid = rewards(reward, &group).unwrap();
        let is_close = |(paid, expected): (&f64, &f64)| (paid - expected).abs() < 1e-12;
        assert!(paid.iter().zip(expected).all(is_close), "{group:?}: {paid:?} {expected:?}");
        assert_eq!(paid.len(), expected.len());
    }

    #[test]
    fn simple_is_right_or_not_less_rho() {
        let group = [(true, 0), (true, 3), (false, 0), (false, 3), (true, 10), (false, 10)];
        check(Reward::Simple, &group, &[1.0, 0.7, 0.0, -0.3, 0.0, -1.0]);
    }

    #[test]
    fn difficulty_pays_by_scenario() {
        let difficulty = Reward::Difficulty(Difficulty::default());
        // Student-solvable: one right answer without a call is enough.
        check(difficulty, &[(true, 0), (true, 2), (false, 0), (false, 2)], &[1.5, 0.8, 0.0, 0.0]);
        // Teacher-dependent: every right answer called.
        check(difficulty, &[(true, 2), (true, 5), (false, 0), (false, 2)], &[0.8, 0.5, -1.0, 0.0]);
        // Teacher-unsolvable: no answer is right.
        check(difficulty, &[(false, 0), (false, 2), (false, 10)], &[0.0, 0.2, 1.0]);
        check(difficulty, &[(false, 0), (false, 0)], &[0.0, 0.0]);
        check(difficulty, &[(true, 0)], &[1.5]);
        check(difficulty, &[(true, 10)], &[0.0]);
    }

    #[test]
    fn each_group_has_its_own_scenario() {
        let difficulty = Reward::Difficulty(Difficulty::default());
        // As one batch the first group's independent answer would make all of it student-solvable.
        check(difficulty, &[(true, 0), (true, 1)], &[1.5, 0.9]);
        check(difficulty, &[(true, 1), (false, 0)], &[0.9, -1.0]);
        check(difficulty, &[(false, 2), (false, 0)], &[0.2, 0.0]);
    }

    #[test]
    fn ablations_change_one_cell() {
        let no_bonus = Difficulty { independent: 1.0, ..Difficulty::default() };
        check(Reward::Difficulty(no_bonus), &[(true, 0), (true, 2)], &[1.0, 0.8]);
        let no_exploration = Difficulty { exploration: 0.0, ..Difficulty::default() };
        check(Reward::Difficulty(no_exploration), &[(false, 0), (false, 2)], &[0.0, 0.0]);
        check(Reward::Difficulty(no_exploration), &[(true, 2), (false, 0)], &[0.8, -1.0]);
    }

    #[test]
    fn only_delivered_tokens_are_a_call() {
        // A command that brought nothing is part of the response and no call.
        let ungranted = Sample { is_correct: true, llm_tokens: 0, response_tokens: 17 };
        assert!(!ungranted.has_called());
        assert_eq!(Scenario::of(&[ungranted]), Scenario::StudentSolvable);
        let paid = rewards(Reward::Difficulty(Difficulty::default()), &[ungranted]);
        assert_eq!(paid, Ok(vec![1.5]));
        let nothing = Sample { is_correct: false, llm_tokens: 0, response_tokens: 0 };
        assert_eq!(rewards(Reward::Simple, &[nothing]), Ok(vec![0.0]));
    }

    #[test]
    fn groups_that_cannot_be_are_faults() {
        assert_eq!(rewards(Reward::Simple, &[]), Err(RewardError::EmptyGroup));
        let more = Sample { is_correct: true, llm_tokens: 3, response_tokens: 2 };
        let group = [sample(true, 0), more];
        assert_eq!(rewards(Reward::Simple, &group), Err(RewardError::MoreThanAll { index: 1 }));
    }
}
