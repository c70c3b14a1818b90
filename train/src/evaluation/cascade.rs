//! A cascade: the small model answers, and where it was least sure the large one answers instead.
//! Computed from the answers of both alone, as the router is; the threshold is the best one for
//! these very problems, which flatters the cascade. Runs nothing.

use std::collections::HashMap;

use serde::Serialize;

use super::finished::Finished;

/// The cascade as good as relay, and the one that spends as much.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CascadeFigures {
    /// Share of questions that the large model answers for an accuracy as high as relay's; null if
    /// no share reaches it.
    pub matched_share: Option<f64>,
    /// Tokens of the large model that this takes.
    pub matched_llm_tokens: Option<u64>,
    /// 1 − relay's tokens of the large model over these.
    pub reduction: Option<f64>,
    /// Accuracy of the cascade that spends at most as many tokens of the large model as relay.
    pub equal_cost_accuracy: f64,
}

/// What the cascade is held against.
#[derive(Clone, Copy, Debug)]
pub struct Rival {
    /// Share of right answers.
    pub accuracy: f64,
    /// Tokens of the large model.
    pub llm_tokens: u64,
}

/// One question: how sure the small model was, and what each would have come to.
struct Choice {
    least_sure: f32,
    slm_is_correct: bool,
    llm_is_correct: bool,
    llm_tokens: u64,
}

/// The figures, from answers of the small and of the large model alone. Sureness is that of an
/// answer's least sure token. None if no answer says how sure it was.
pub fn cascade(slm: &[&Finished], llm: &[&Finished], rival: Rival) -> Option<CascadeFigures> {
    let mut choices = choices(slm, llm);
    if choices.is_empty() {
        return None;
    }
    choices.sort_by(|left, right| left.least_sure.total_cmp(&right.least_sure));
    let mut correct = choices.iter().filter(|choice| choice.slm_is_correct).count();
    let (mut llm_tokens, mut matched, mut equal_cost) = (0, None, correct);
    for (sent, choice) in choices.iter().enumerate() {
        if matched.is_none() && share(correct, choices.len()) >= rival.accuracy {
            matched = Some((sent, llm_tokens));
        }
        llm_tokens += choice.llm_tokens;
        correct += usize::from(choice.llm_is_correct);
        correct -= usize::from(choice.slm_is_correct);
        if llm_tokens <= rival.llm_tokens {
            equal_cost = correct;
        }
    }
    if share(correct, choices.len()) >= rival.accuracy {
        matched = matched.or(Some((choices.len(), llm_tokens)));
    }
    let reduction = |(_, tokens): (usize, u64)| {
        (tokens > 0).then(|| 1.0 - as_float(rival.llm_tokens) / as_float(tokens))
    };
    Some(CascadeFigures {
        matched_share: matched.map(|(sent, _)| share(sent, choices.len())),
        matched_llm_tokens: matched.map(|(_, tokens)| tokens),
        reduction: matched.and_then(reduction),
        equal_cost_accuracy: share(equal_cost, choices.len()),
    })
}

fn choices(slm: &[&Finished], llm: &[&Finished]) -> Vec<Choice> {
    let of_llm: HashMap<&str, &Finished> =
        llm.iter().map(|row| (row.problem.as_str(), *row)).collect();
    let choice = |row: &&Finished| {
        let other = of_llm.get(row.problem.as_str())?;
        Some(Choice {
            least_sure: row.least_sure?,
            slm_is_correct: row.is_correct,
            llm_is_correct: other.is_correct,
            llm_tokens: other.llm_tokens.into(),
        })
    };
    slm.iter().filter_map(choice).collect()
}

fn share(part: usize, whole: usize) -> f64 {
    as_float(part as u64) / as_float(whole as u64)
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
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
            |accuracy, llm_tokens| cascade(&slm, &llm, Rival { accuracy, llm_tokens }).unwrap();
        let found = of(0.75, 10);
        assert_eq!((found.matched_share, found.matched_llm_tokens), (Some(0.25), Some(100)));
        assert!((found.reduction.unwrap() - 0.9).abs() < 1e-12);
        assert!((found.equal_cost_accuracy - 0.5).abs() < 1e-12, "10 tokens buy no question");
        // The myth is sent third, behind an unsure answer that was right.
        let found = of(1.0, 250);
        assert_eq!((found.matched_share, found.matched_llm_tokens), (Some(0.75), Some(300)));
        assert!((found.equal_cost_accuracy - 0.75).abs() < 1e-12, "two questions");
        assert_eq!(of(0.5, 0).matched_share, Some(0.0));
        assert_eq!(cascade(&[], &llm, Rival { accuracy: 1.0, llm_tokens: 1 }), None);
        let weak = ["a", "b", "c", "d"].map(|problem| row(problem, false, 100, 0.0));
        let weak: Vec<_> = weak.iter().collect();
        let found = cascade(&slm, &weak, Rival { accuracy: 0.9, llm_tokens: 1 }).unwrap();
        assert_eq!((found.matched_share, found.reduction), (None, None));
    }
}
