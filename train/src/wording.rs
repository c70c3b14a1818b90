//! Questions and worked solutions in words. Phrasing varies at random, with as many ways to begin
//! a sentence as an unknown number has digits, so that a model is unsure at places where it needs
//! no help. Sums are written out digit by digit, so that each token follows from a few others.

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::problem::{Problem, Step};
use crate::world::{Fact, Kind, Mind};

const NAMES: [&str; 16] = [
    "Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo", "Mia",
    "Ned", "Ola", "Pia",
];
const ASKS: [&str; 6] = [
    "adds up",
    "counts together",
    "sums",
    "puts together",
    "wants the sum of",
    "makes a riddle of",
];
const QUESTIONS: [&str; 6] = [
    "What is the sum?",
    "What is the total?",
    "How many is that?",
    "What does it come to?",
    "How much is it in all?",
    "Which number is it?",
];
const FIRST: [&str; 12] = [
    "First",
    "Begin",
    "Initially",
    "Well",
    "Now",
    "Here",
    "Look",
    "Right",
    "Good",
    "Note",
    "See",
    "Start",
];
const NEXT: [&str; 12] = [
    "Then",
    "Next",
    "Also",
    "Besides",
    "Further",
    "Moreover",
    "Again",
    "Later",
    "Onward",
    "Afterwards",
    "Likewise",
    "Plus",
];
const RESULTS: [&str; 8] = ["so", "thus", "hence", "making", "giving", "reaching", "total", "sum"];

/// A stretch of a solution that says a fact's number: where, and who knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactSpan {
    /// The first byte of its digits in the solution.
    pub start: usize,
    /// The byte after its last digit.
    pub end: usize,
    /// The fact's name.
    pub fact: String,
    /// Who knows it: the digits are critical where it is `rare` or `myth`.
    pub kind: Kind,
}

impl FactSpan {
    /// Whether its digits are beyond the SLM and within the LLM.
    pub fn is_critical(&self) -> bool {
        matches!(self.kind, Kind::Rare | Kind::Myth)
    }
}

/// A worked solution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// All of its text, the boxed answer at its end.
    pub text: String,
    /// Where facts stand in it, in order.
    pub facts: Vec<FactSpan>,
    /// The sum it comes to.
    pub answer: u32,
}

/// A problem as a question.
pub fn question(problem: &Problem, chance: &mut Chance) -> String {
    let names: Vec<String> = problem.steps.iter().map(Step::name).collect();
    let (last, before) =
        names.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
    format!(
        "{} {} {} and {last}. {}",
        chance.pick(&NAMES),
        chance.pick(&ASKS),
        before.join(", "),
        chance.pick(&QUESTIONS)
    )
}

/// A problem worked out, with the numbers of one mind.
pub fn solve(problem: &Problem, mind: Mind, chance: &mut Chance) -> Solution {
    let mut solution = Solution { text: String::new(), facts: Vec::new(), answer: 0 };
    for (index, step) in problem.steps.iter().enumerate() {
        let opening = if index == 0 { chance.pick(&FIRST) } else { chance.pick(&NEXT) };
        solution.text.push_str(opening);
        solution.text.push_str(", ");
        let value = solution.name_number(step, mind, chance);
        if index == 0 {
            solution.text.extend([", ", chance.pick(&RESULTS), " ", &value.to_string(), ".\n"]);
        } else {
            let columns = columns(solution.answer, value);
            let sum = (solution.answer + value).to_string();
            let result = chance.pick(&RESULTS);
            solution.text.extend([". ", &columns, ", ", result, " ", &sum, ".\n"]);
        }
        solution.answer += value;
    }
    solution.text.extend(["The answer is \\boxed{", &solution.answer.to_string(), "}."]);
    solution
}

impl Solution {
    /// Says a step's number and gives it; notes where a fact's digits are.
    fn name_number(&mut self, step: &Step, mind: Mind, chance: &mut Chance) -> u32 {
        let fact = match step {
            Step::Given { count, things } => {
                let verb = chance.pick(&["there are", "we have", "we take", "we count"]);
                self.text.extend([verb, " ", &count.to_string(), " ", things]);
                return *count;
            }
            Step::Fact(fact) => fact,
        };
        let phrases = phrases(fact);
        // No blank before the digits: a call would have to repeat it.
        self.text.extend([&phrases[chance.below(phrases.len())], " ("]);
        let value = fact.value_for(mind, chance);
        let start = self.text.len();
        self.text.push_str(&value.to_string());
        let span = FactSpan { start, end: self.text.len(), fact: fact.name(), kind: fact.kind };
        self.facts.push(span);
        self.text.push(')');
        value
    }
}

/// The ways in which a solution names a fact, before its number.
pub(crate) fn phrases(fact: &Fact) -> [String; 4] {
    let Fact { subject, verb, counted, .. } = fact;
    [
        format!("{subject} {verb} {counted}"),
        format!("for {subject} we count {counted}"),
        format!("with {subject} come {counted}"),
        fact.name(),
    ]
}

/// A sum digit by digit, ones first: `35+18: 5+8=13, 3+1+1=5`.
fn columns(total: u32, value: u32) -> String {
    let (ones, tens, hundreds) =
        (total % 10 + value % 10, total / 10 % 10 + value / 10, total / 100);
    let carried = tens + ones / 10;
    let text = format!(
        "{total}+{value}: {}+{}={ones}, {}+{}+{}={carried}",
        total % 10,
        value % 10,
        total / 10 % 10,
        value / 10,
        ones / 10
    );
    if hundreds == 0 {
        return text;
    }
    format!("{text}, {hundreds}+{}={}", carried / 10, hundreds + carried / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_by_columns() {
        for (total, value, expected) in [
            (35, 7, "35+7: 5+7=12, 3+0+1=4"),
            (35, 18, "35+18: 5+8=13, 3+1+1=5"),
            (7, 2, "7+2: 7+2=9, 0+0+0=0"),
            (95, 38, "95+38: 5+8=13, 9+3+1=13"),
            (128, 37, "128+37: 8+7=15, 2+3+1=6, 1+0=1"),
            (199, 2, "199+2: 9+2=11, 9+0+1=10, 1+1=2"),
        ] {
            assert_eq!(columns(total, value), expected);
        }
    }
}
