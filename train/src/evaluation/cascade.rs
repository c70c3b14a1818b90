//! A cascade: the small model answers, and where it was least sure the large one answers instead.
//! Computed from the answers of both alone, as the router is; threshold and measure of sureness are
//! the best ones for these very problems, which flatters the cascade. Runs nothing.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::finished::Finished;
use super::share::{as_float, share};

/// The cascade as good as relay, and the one that spends as much.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CascadeFigures {
    /// What it goes by: the measure that serves it best here.
    pub sureness: Sureness,
    /// Share of questions that the large model answers for an accuracy as high as relay's; null if
    /// no share reaches it.
    pub matched_share: Option<f64>,
    /// Tokens of the large model that this takes.
    pub matched_llm_tokens: Option<u64>,
    /// 1 − relay's tokens of the large model over these.
    pub reduction: Option<f64>,
    /// Its interval of 95 %.
    pub reduction_low: Option<f64>,
    /// The upper end.
    pub reduction_high: Option<f64>,
    /// Accuracy of the cascade that spends at most as many tokens of the large model as relay.
    pub equal_cost_accuracy: f64,
}

/// How sure the small model was of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sureness {
    /// By the token that it was least sure of.
    LeastSureToken,
    /// By the mean of its tokens' log-probabilities.
    MeanLogProbability,
    /// By the token with a digit that it was least sure of; where there is none, by any.
    LeastSureDigit,
}

impl Sureness {
    const ALL: [Self; 3] = [Self::LeastSureToken, Self::MeanLogProbability, Self::LeastSureDigit];

    fn of(self, row: &Finished) -> Option<f32> {
        match self {
            Self::LeastSureToken => row.least_sure,
            Self::MeanLogProbability => row.mean_log_probability,
            Self::LeastSureDigit => row.least_sure_digit.or(row.least_sure),
        }
    }
}

impl fmt::Display for Sureness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LeastSureToken => "the SLM's least sure token",
            Self::MeanLogProbability => "the mean log-probability of the SLM's tokens",
            Self::LeastSureDigit => "the SLM's least sure digit",
        })
    }
}

/// What a policy came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Share of right answers.
    pub accuracy: f64,
    /// Tokens of the large model.
    pub llm_tokens: f64,
}

/// Questions in the order in which a cascade sends them to the large model.
#[derive(Debug)]
pub struct Cascade<'a> {
    sureness: Sureness,
    choices: Vec<Choice<'a>>,
}

/// One question: how sure the small model was, and what each would have come to.
#[derive(Debug)]
struct Choice<'a> {
    problem: &'a str,
    sureness: f32,
    slm_is_correct: bool,
    llm_is_correct: bool,
    llm_tokens: u64,
}

/// The cascade that does best beside `rival`, from answers of the small and of the large model
/// alone: with the fewest tokens it is as good, or with as many it is better. None if no answer
/// says how sure it was.
pub fn cascade<'a>(
    slm: &[&'a Finished],
    llm: &[&'a Finished],
    rival: Outcome,
) -> Option<(Cascade<'a>, CascadeFigures)> {
    let each = Sureness::ALL.into_iter().map(|sureness| Cascade::new(sureness, slm, llm));
    let each = each.filter(|cascade| cascade.choices.iter().any(|of| of.sureness.is_finite()));
    let each = each.map(|cascade| {
        let figures = cascade.figures(|_| 1, rival);
        (cascade, figures)
    });
    each.min_by(|(_, left), (_, right)| {
        let tokens = |figures: &CascadeFigures| figures.matched_llm_tokens.unwrap_or(u64::MAX);
        let by_accuracy = right.equal_cost_accuracy.total_cmp(&left.equal_cost_accuracy);
        tokens(left).cmp(&tokens(right)).then(by_accuracy)
    })
}

impl<'a> Cascade<'a> {
    fn new(sureness: Sureness, slm: &[&'a Finished], llm: &[&'a Finished]) -> Self {
        let of_llm: HashMap<&str, &Finished> =
            llm.iter().map(|row| (row.problem.as_str(), *row)).collect();
        let choice = |row: &&'a Finished| {
            let other = of_llm.get(row.problem.as_str())?;
            Some(Choice {
                problem: &row.problem,
                // What says nothing of it goes to the large model first.
                sureness: sureness.of(row).unwrap_or(f32::NEG_INFINITY),
                slm_is_correct: row.is_correct,
                llm_is_correct: other.is_correct,
                llm_tokens: other.llm_tokens.into(),
            })
        };
        let mut choices: Vec<Choice<'a>> = slm.iter().filter_map(choice).collect();
        choices.sort_by(|left, right| left.sureness.total_cmp(&right.sureness));
        Self { sureness, choices }
    }

    /// The questions, by problem.
    pub fn problems(&self) -> impl Iterator<Item = &'a str> {
        self.choices.iter().map(|choice| choice.problem)
    }

    /// The figures if each question occurs so many `times`, by its place.
    pub fn figures(&self, times: impl Fn(usize) -> u64, rival: Outcome) -> CascadeFigures {
        let count = |at: usize, is: bool| if is { times(at) } else { 0 };
        let (mut all, mut correct) = (0, 0);
        for (at, choice) in self.choices.iter().enumerate() {
            all += times(at);
            correct += count(at, choice.slm_is_correct);
        }
        let (mut sent, mut llm_tokens, mut matched, mut equal_cost) = (0, 0, None, correct);
        for (at, choice) in self.choices.iter().enumerate() {
            if matched.is_none() && share(correct, all) >= rival.accuracy {
                matched = Some((sent, llm_tokens));
            }
            sent += times(at);
            llm_tokens += times(at) * choice.llm_tokens;
            correct += count(at, choice.llm_is_correct);
            correct -= count(at, choice.slm_is_correct);
            if as_float(llm_tokens) <= rival.llm_tokens {
                equal_cost = correct;
            }
        }
        if share(correct, all) >= rival.accuracy {
            matched = matched.or(Some((sent, llm_tokens)));
        }
        let reduction = |(_, tokens): (u64, u64)| {
            (tokens > 0).then(|| 1.0 - rival.llm_tokens / as_float(tokens))
        };
        CascadeFigures {
            sureness: self.sureness,
            matched_share: matched.map(|(sent, _)| share(sent, all)),
            matched_llm_tokens: matched.map(|(_, tokens)| tokens),
            reduction: matched.and_then(reduction),
            reduction_low: None,
            reduction_high: None,
            equal_cost_accuracy: share(equal_cost, all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::finished::sample;

    fn row(problem: &str, is_correct: bool, llm_tokens: u32, least_sure: f32) -> Finished {
        let row = sample("any", problem, is_correct, llm_tokens);
        Finished { least_sure: Some(least_sure), ..row }
    }

    #[test]
    fn the_least_sure_are_sent_first() {
        // Sure and right, sure and wrong (a myth), unsure and wrong, unsure and right.
        let slm = [
            row("a", true, 0, -0.1),
            row("b", false, 0, -0.2),
            row("c", false, 0, -3.0),
            row("d", true, 0, -2.0),
        ];
        let llm = ["d", "c", "b", "a"].map(|problem| row(problem, true, 100, 0.0));
        let (slm, llm): (Vec<_>, Vec<_>) = (slm.iter().collect(), llm.iter().collect());
        let of =
            |accuracy, llm_tokens| cascade(&slm, &llm, Outcome { accuracy, llm_tokens }).unwrap().1;
        let found = of(0.75, 10.0);
        assert_eq!((found.matched_share, found.matched_llm_tokens), (Some(0.25), Some(100)));
        assert!((found.reduction.unwrap() - 0.9).abs() < 1e-12);
        assert!((found.equal_cost_accuracy - 0.5).abs() < 1e-12, "10 tokens buy no question");
        // The myth is sent third, behind an unsure answer that was right.
        let found = of(1.0, 250.0);
        assert_eq!((found.matched_share, found.matched_llm_tokens), (Some(0.75), Some(300)));
        assert!((found.equal_cost_accuracy - 0.75).abs() < 1e-12, "two questions");
        assert_eq!(of(0.5, 0.0).matched_share, Some(0.0));
        assert!(cascade(&[], &llm, Outcome { accuracy: 1.0, llm_tokens: 1.0 }).is_none());
        let weak = ["a", "b", "c", "d"].map(|problem| row(problem, false, 100, 0.0));
        let weak: Vec<_> = weak.iter().collect();
        let found = cascade(&slm, &weak, Outcome { accuracy: 0.9, llm_tokens: 1.0 }).unwrap().1;
        assert_eq!((found.matched_share, found.reduction), (None, None));
    }
    #[test]
    fn the_measure_that_serves_it_best_is_taken() {
        let rows = [("a", true), ("b", false), ("c", true)];
        // The unsure opener of a right answer misleads the least sure token; digits do not lie.
        let slm = rows.map(|(problem, is_correct)| Finished {
            mean_log_probability: Some(if is_correct { -0.5 } else { -0.2 }),
            least_sure_digit: Some(if is_correct { -0.1 } else { -2.0 }),
            ..row(problem, is_correct, 0, if is_correct { -4.0 } else { -3.0 })
        });
        let llm = rows.map(|(problem, _)| row(problem, true, 100, 0.0));
        let (slm, llm): (Vec<_>, Vec<_>) = (slm.iter().collect(), llm.iter().collect());
        let rival = Outcome { accuracy: 1.0, llm_tokens: 1.0 };
        let (cascade, found) = cascade(&slm, &llm, rival).unwrap();
        assert_eq!(found.sureness, Sureness::LeastSureDigit);
        assert_eq!(found.matched_llm_tokens, Some(100));
        // A resample that has the sent question twice and lacks the first.
        let times = |place: usize| [2, 0, 1][place];
        assert_eq!(cascade.problems().next(), Some("b"));
        let found = cascade.figures(times, rival);
        assert_eq!((found.matched_share, found.matched_llm_tokens), (Some(2.0 / 3.0), Some(200)));
    }
}
