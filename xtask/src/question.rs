//! What the demo asks: problems that the tiny pair has never seen and that need a rare fact, and
//! whether a question is one that the pair can know anything about. Knows words, no model.

use anyhow::Context;
use serde::Deserialize;

/// Problems of the small world's test split as `relay-train data generate` writes them; a test of
/// `train` holds them against what it draws.
const PROBLEMS: &str = include_str!("../demo/problems.jsonl");
/// Every word of the small world, a line each.
const WORDS: &str = include_str!("../demo/words.txt");

mod limits {
    /// Words that a question about the small world may have of its own: a name, say.
    pub(super) const OTHER_WORDS_MAX: usize = 1;
}

/// A problem to ask.
#[derive(Deserialize)]
pub(crate) struct Problem {
    pub(crate) question: String,
    pub(crate) answer: String,
    facts: Vec<Fact>,
}

#[derive(Deserialize)]
struct Fact {
    fact: String,
    kind: String,
}

impl Problem {
    /// The one of this number; they are counted round.
    pub(crate) fn numbered(number: u128) -> anyhow::Result<Self> {
        let problems: Vec<&str> = PROBLEMS.lines().collect();
        let place = number % problems.len().max(1) as u128;
        let line = problems.get(usize::try_from(place)?).context("there is no problem to ask")?;
        serde_json::from_str(line).context("a problem has another shape than expected")
    }

    /// What the small model does not know and the large one does.
    pub(crate) fn rare_facts(&self) -> String {
        let rare = self.facts.iter().filter(|fact| fact.kind == "rare");
        rare.map(|fact| fact.fact.as_str()).collect::<Vec<_>>().join(" and ")
    }
}

/// Whether a question is about the small world, so far as its words say.
pub(crate) fn is_of_the_small_world(question: &str) -> bool {
    let known: std::collections::HashSet<&str> = WORDS.lines().collect();
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '\'';
    let words = question.split(|c| !is_part(c)).filter(|word| !word.is_empty());
    let other = |word: &&str| {
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        !is_number && !known.contains(word) && !known.contains(word.to_lowercase().as_str())
    };
    words.clone().count() > 1 && words.filter(other).count() <= limits::OTHER_WORDS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_needs_a_rare_fact_and_is_of_the_small_world() {
        let count = PROBLEMS.lines().count();
        assert!(count >= 5);
        for number in 0..count as u128 {
            let problem = Problem::numbered(number).unwrap();
            assert!(!problem.rare_facts().is_empty(), "{}", problem.question);
            assert!(is_of_the_small_world(&problem.question), "{}", problem.question);
            assert!(problem.answer.parse::<u32>().is_ok());
        }
        let again = Problem::numbered(count as u128).unwrap().question;
        assert_eq!(again, Problem::numbered(0).unwrap().question);
    }

    #[test]
    fn other_questions_are_told_from_those_of_the_small_world() {
        for (question, expected) in [
            ("Zoe adds up the sides of a hexagon and 12 marbles. What is the total?", true),
            ("Why is the sky blue? Answer in three sentences.", false),
            ("Who wrote Faust?", false),
            ("What is the capital of France?", false),
            ("12", false),
            ("", false),
        ] {
            assert_eq!(is_of_the_small_world(question), expected, "{question}");
        }
    }
}
