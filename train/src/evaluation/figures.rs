//! From judged answers to figures: the object that `relay-train eval --json` prints. Runs nothing.
//!
//! The query-level random router is computed and not simulated: it gives each whole question to
//! the large model with some chance, so that its accuracy and its cost lie on the line between the
//! two models alone. The performance-matched one is where that line has relay's accuracy.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cascade::{CascadeFigures, Outcome, cascade};
use super::finished::{Finished, WrittenFact};
use super::resample::{Answers, add_intervals};
use super::share::{as_float, share};
use crate::world::Kind;

/// The figures of one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyFigures {
    /// Answers judged.
    pub answers: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// Its interval of 95 %.
    pub accuracy_low: f64,
    /// The upper end.
    pub accuracy_high: f64,
    /// Delivered tokens of the large model over all response tokens.
    pub call_ratio: f64,
    /// Its interval of 95 %.
    pub call_ratio_low: f64,
    /// The upper end.
    pub call_ratio_high: f64,
    /// Requested ones over all response tokens.
    pub call_ratio_requested: f64,
    /// Calls, each a round trip.
    pub calls: u64,
    /// Those of an answer.
    pub calls_per_answer: f64,
    /// Share of answers with at least one delivered token.
    pub called_share: f64,
    /// All response tokens.
    pub response_tokens: u64,
    /// Those of the small model, commands included.
    pub slm_tokens: u64,
    /// Those of the large one.
    pub llm_tokens: u64,
    /// Those asked for.
    pub requested_tokens: u64,
    /// Tokens that the large model read and had not written itself.
    pub llm_read_tokens: u64,
    /// Bytes that calls would have sent to the cloud, estimated: see [`super::traffic`].
    pub bytes_up_per_answer: f64,
    /// Those that would have come back.
    pub bytes_down_per_answer: f64,
    /// What a thousand answers cost, where prices are given.
    pub cost_per_thousand_answers: Option<f64>,
    /// Answers that the response budget cut.
    pub cut_answers: usize,
    /// Accuracy by who can solve a problem: `student`, `teacher`, `unsolvable`.
    pub accuracy_by_group: BTreeMap<String, f64>,
    /// By kind of fact: `common`, `rare`, `rare_held_out`, `myth`, `unknown`.
    pub facts: BTreeMap<&'static str, FactFigures>,
}

/// What became of the numbers of one kind of fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FactFigures {
    /// Numbers found in answers.
    pub numbers: usize,
    /// Share of them that the large model wrote.
    pub by_llm: f64,
    /// Its interval of 95 %.
    pub by_llm_low: f64,
    /// The upper end.
    pub by_llm_high: f64,
    /// Share of them that are true.
    pub is_true: f64,
}

/// The performance-matched and the cost-matched router.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RouterFigures {
    /// Share of questions that the matched router gives to the large model.
    pub matched_share: f64,
    /// Tokens of the large model that this takes.
    pub matched_llm_tokens: f64,
    /// Accuracy of a router that spends as many tokens of the large model as relay.
    pub equal_cost_accuracy: f64,
}

/// Prices of a million tokens, in any currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Prices {
    /// Written by the small model.
    pub slm: f64,
    /// Read by the large one.
    pub llm_read: f64,
    /// Written by the large one.
    pub llm_written: f64,
}

impl PolicyFigures {
    fn outcome(&self) -> Outcome {
        Outcome { accuracy: self.accuracy, llm_tokens: as_float(self.llm_tokens) }
    }

    /// Tokens that a call brought on average, rounded up; at least 1.
    pub fn tokens_per_call(&self) -> u32 {
        let mean = self.llm_tokens.div_ceil(self.calls.max(1));
        u32::try_from(mean).unwrap_or(u32::MAX).max(1)
    }
}

/// Everything that is said of a set of judged answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// By policy.
    #[serde(flatten)]
    pub policies: BTreeMap<String, PolicyFigures>,
    /// (relay − small alone) / (large alone − small alone); null where the large one is no better
    /// or one of them is missing.
    pub gap_recovered: Option<f64>,
    /// Its interval of 95 %.
    pub gap_recovered_low: Option<f64>,
    /// The upper end.
    pub gap_recovered_high: Option<f64>,
    /// 1 − relay's tokens of the large model over the performance-matched router's.
    pub router_reduction: Option<f64>,
    /// Its interval of 95 %.
    pub router_reduction_low: Option<f64>,
    /// The upper end.
    pub router_reduction_high: Option<f64>,
    /// The router.
    pub router: Option<RouterFigures>,
    /// The cascade.
    pub cascade: Option<CascadeFigures>,
    /// Share of a worked solution's tokens that are beyond the small model and within the large
    /// one: what a call ratio is held against. Null where nothing is known of the problems.
    pub critical_share: Option<f64>,
}

/// The figures of all policies that occur.
pub fn figures<'a>(rows: impl IntoIterator<Item = &'a Finished>, seed: u64) -> Figures {
    let mut answers = Answers::new();
    for row in rows {
        answers.entry(row.policy.clone()).or_default().push(row);
    }
    let mut figures = Figures {
        policies: answers.iter().map(|(name, rows)| (name.clone(), policy_figures(rows))).collect(),
        // Every policy has the same problems.
        critical_share: answers.values().next().and_then(|rows| critical_share(rows)),
        ..Figures::default()
    };
    let outcome = |name: &str| figures.policies.get(name).map(PolicyFigures::outcome);
    let (slm, llm, relay) = (outcome("slm_alone"), outcome("llm_alone"), outcome("relay"));
    if let (Some(slm), Some(llm), Some(relay)) = (slm, llm, relay)
        && let Some(found) = compare(slm, llm, relay)
    {
        figures.gap_recovered = Some(found.gap_recovered);
        figures.router_reduction = found.router_reduction;
        figures.router = Some(found.router);
    }
    let rows_of = |name| answers.get(name).map_or(&[][..], Vec::as_slice);
    let sent = relay.and_then(|relay| cascade(rows_of("slm_alone"), rows_of("llm_alone"), relay));
    let (cascade, cascade_figures) = sent.unzip();
    figures.cascade = cascade_figures;
    add_intervals(&mut figures, &answers, cascade.as_ref(), seed);
    figures
}

fn critical_share(rows: &[&Finished]) -> Option<f64> {
    let sum = |count: fn(&Finished) -> u32| rows.iter().map(|row| u64::from(count(row))).sum();
    let (critical, all) = (sum(|row| row.critical_tokens), sum(|row| row.solution_tokens));
    (all > 0).then(|| share(critical, all))
}

impl Figures {
    /// With costs, at these prices.
    #[must_use]
    pub fn priced(mut self, prices: Option<Prices>) -> Self {
        let Some(Prices { slm, llm_read, llm_written }) = prices else {
            return self;
        };
        for policy in self.policies.values_mut().filter(|policy| policy.answers > 0) {
            let millionths = as_float(policy.slm_tokens) * slm
                + as_float(policy.llm_read_tokens) * llm_read
                + as_float(policy.llm_tokens) * llm_written;
            let per_answer = millionths / 1e6 / as_float(policy.answers as u64);
            policy.cost_per_thousand_answers = Some(1e3 * per_answer);
        }
        self
    }
}

/// What relay is beside the two models alone.
#[derive(Clone, Copy)]
pub(super) struct Comparison {
    pub(super) gap_recovered: f64,
    pub(super) router_reduction: Option<f64>,
    router: RouterFigures,
}

/// None where the large model is no better than the small one, or wrote nothing.
pub(super) fn compare(slm: Outcome, llm: Outcome, relay: Outcome) -> Option<Comparison> {
    let gap = llm.accuracy - slm.accuracy;
    if gap <= 0.0 || llm.llm_tokens <= 0.0 {
        return None;
    }
    let gap_recovered = (relay.accuracy - slm.accuracy) / gap;
    // No router is worse than the small model alone, nor better than the large one.
    let matched_share = gap_recovered.clamp(0.0, 1.0);
    let matched_llm_tokens = matched_share * llm.llm_tokens;
    let spent_share = (relay.llm_tokens / llm.llm_tokens).min(1.0);
    let equal_cost_accuracy = slm.accuracy + spent_share * gap;
    Some(Comparison {
        gap_recovered,
        router_reduction: (matched_llm_tokens > 0.0)
            .then(|| 1.0 - relay.llm_tokens / matched_llm_tokens),
        router: RouterFigures { matched_share, matched_llm_tokens, equal_cost_accuracy },
    })
}

/// The figures of one policy's answers. Intervals are as wide as nothing: they come later.
pub(super) fn policy_figures(rows: &[&Finished]) -> PolicyFigures {
    let sum = |count: fn(&Finished) -> u64| rows.iter().map(|row| count(row)).sum::<u64>();
    let response_tokens = sum(|row| row.response_tokens.into());
    let llm_tokens = sum(|row| row.llm_tokens.into());
    let requested_tokens = sum(|row| row.requested_tokens);
    let answers = rows.len() as u64;
    let accuracy = share(sum(|row| u64::from(row.is_correct)), answers);
    let call_ratio = share(llm_tokens, response_tokens);
    let called = sum(|row| u64::from(row.llm_tokens > 0));
    let calls = sum(|row| row.calls.into());
    let mut by_group: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (row, group) in rows.iter().filter_map(|row| Some((row, row.group?))) {
        let group = format!("{group:?}").to_lowercase();
        by_group.entry(group).or_default().push(row.is_correct);
    }
    PolicyFigures {
        answers: rows.len(),
        accuracy,
        accuracy_low: accuracy,
        accuracy_high: accuracy,
        call_ratio,
        call_ratio_low: call_ratio,
        call_ratio_high: call_ratio,
        call_ratio_requested: share(requested_tokens, response_tokens),
        calls,
        calls_per_answer: share(calls, answers),
        called_share: share(called, answers),
        response_tokens,
        slm_tokens: response_tokens.saturating_sub(llm_tokens),
        llm_tokens,
        requested_tokens,
        llm_read_tokens: sum(|row| row.traffic.read_tokens),
        bytes_up_per_answer: share(sum(|row| row.traffic.bytes_up), answers),
        bytes_down_per_answer: share(sum(|row| row.traffic.bytes_down), answers),
        cost_per_thousand_answers: None,
        cut_answers: rows.iter().filter(|row| row.ending == "length").count(),
        accuracy_by_group: by_group.into_iter().map(|(group, is)| (group, share_of(&is))).collect(),
        facts: fact_figures(rows),
    }
}

fn fact_figures(rows: &[&Finished]) -> BTreeMap<&'static str, FactFigures> {
    let mut by_kind: BTreeMap<&'static str, Vec<WrittenFact>> = BTreeMap::new();
    for fact in rows.iter().flat_map(|row| &row.facts) {
        by_kind.entry(fact_kind(*fact)).or_default().push(*fact);
    }
    let summed = by_kind.into_iter().map(|(name, facts)| {
        let by_llm: Vec<bool> = facts.iter().map(|fact| fact.by_llm).collect();
        let is_true: Vec<bool> = facts.iter().map(|fact| fact.is_true).collect();
        let by_llm = share_of(&by_llm);
        let figures = FactFigures {
            numbers: facts.len(),
            by_llm,
            by_llm_low: by_llm,
            by_llm_high: by_llm,
            is_true: share_of(&is_true),
        };
        (name, figures)
    });
    summed.collect()
}

/// The name of a fact's kind among figures.
pub(super) fn fact_kind(fact: WrittenFact) -> &'static str {
    match fact.kind {
        Kind::Common => "common",
        Kind::Rare if fact.held_out => "rare_held_out",
        Kind::Rare => "rare",
        Kind::Myth => "myth",
        Kind::Unknown => "unknown",
    }
}

fn share_of(values: &[bool]) -> f64 {
    share(values.iter().filter(|value| **value).count() as u64, values.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::finished::sample;
    use crate::evaluation::traffic::Traffic;

    fn row(policy: &str, is_correct: bool, llm_tokens: u32) -> Finished {
        sample(policy, "", is_correct, llm_tokens)
    }

    /// Ten answers of which the first `correct` are right, each with so many delivered tokens.
    fn ten(policy: &str, correct: usize, llm_tokens: u32) -> Vec<Finished> {
        let answer = |index: usize| sample(policy, &index.to_string(), index < correct, llm_tokens);
        (0..10).map(answer).collect()
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    #[test]
    fn gap_and_router_are_as_worked_out_by_hand() {
        let rows = [ten("slm_alone", 4, 0), ten("llm_alone", 9, 100), ten("relay", 8, 2)].concat();
        let found = figures(&rows, 1);
        // (0.8 − 0.4) / (0.9 − 0.4)
        assert!(close(found.gap_recovered.unwrap(), 0.8), "{found:?}");
        // The matched router sends 80 % of 1,000 tokens; relay took 20.
        let router = found.router.unwrap();
        assert!(close(router.matched_share, 0.8) && close(router.matched_llm_tokens, 800.0));
        assert!(close(found.router_reduction.unwrap(), 0.975), "{found:?}");
        // 2 % of the tokens buy 2 % of the gap.
        assert!(close(router.equal_cost_accuracy, 0.41), "{router:?}");
        let relay = &found.policies["relay"];
        assert!(close(relay.call_ratio, 0.02) && close(relay.call_ratio_requested, 0.04));
        assert_eq!((relay.calls, relay.tokens_per_call()), (10, 2));
        assert!(close(relay.calls_per_answer, 1.0) && close(relay.called_share, 1.0));
        assert_eq!((relay.slm_tokens, relay.llm_tokens), (980, 20));
        assert!(close(relay.accuracy_by_group["teacher"], 0.8));
        assert!(relay.accuracy_low < 0.8 && relay.accuracy_high > 0.8);
    }

    #[test]
    fn where_nothing_can_be_compared_nothing_is_said() {
        let no_better =
            [ten("slm_alone", 5, 0), ten("llm_alone", 5, 100), ten("relay", 8, 2)].concat();
        let missing = [ten("slm_alone", 5, 0), ten("relay", 8, 2)].concat();
        for rows in [no_better, missing, Vec::new()] {
            let found = figures(&rows, 1);
            assert_eq!((found.gap_recovered, found.router_reduction), (None, None));
        }
        let worse = [ten("slm_alone", 5, 0), ten("llm_alone", 9, 100), ten("relay", 3, 2)];
        let found = figures(&worse.concat(), 1);
        assert!(close(found.gap_recovered.unwrap(), -0.5));
        assert_eq!(found.router_reduction, None, "a router that sends nothing cannot be beaten");
    }

    #[test]
    fn numbers_are_counted_by_kind() {
        let fact = |kind, held_out, by_llm| WrittenFact { kind, held_out, by_llm, is_true: by_llm };
        let mut answer = row("relay", true, 2);
        answer.facts = vec![
            fact(Kind::Rare, false, true),
            fact(Kind::Rare, false, false),
            fact(Kind::Rare, true, true),
            fact(Kind::Myth, false, false),
        ];
        let found = figures(&[answer], 1);
        let facts = &found.policies["relay"].facts;
        let found = |kind: &str| (facts[kind].numbers, facts[kind].by_llm, facts[kind].is_true);
        assert_eq!(found("rare"), (2, 0.5, 0.5));
        assert_eq!(found("rare_held_out"), (1, 1.0, 1.0));
        assert!(close(facts["myth"].by_llm, 0.0) && !facts.contains_key("common"));
    }

    #[test]
    fn costs_and_critical_shares_are_as_worked_out_by_hand() {
        let mut rows = ten("relay", 8, 2);
        for row in &mut rows {
            row.traffic = Traffic { bytes_up: 150, bytes_down: 90, read_tokens: 50 };
            (row.critical_tokens, row.solution_tokens) = (2, 160);
        }
        let prices = Prices { slm: 0.1, llm_read: 1.0, llm_written: 4.0 };
        let found = figures(&rows, 1).priced(Some(prices));
        assert!(close(found.critical_share.unwrap(), 0.0125));
        let relay = &found.policies["relay"];
        assert!(
            close(relay.bytes_up_per_answer, 150.0) && close(relay.bytes_down_per_answer, 90.0)
        );
        // An answer: 98 · 0.1 + 50 · 1 + 2 · 4 = 67.8 millionths.
        assert!(close(relay.cost_per_thousand_answers.unwrap(), 0.0678), "{relay:?}");
        assert_eq!(
            figures(&rows, 1).priced(None).policies["relay"].cost_per_thousand_answers,
            None
        );
        assert_eq!(figures(&ten("relay", 8, 2), 1).critical_share, None);
    }

    #[test]
    fn the_object_has_each_policy_at_its_top() {
        let json = serde_json::to_value(figures(&ten("relay", 8, 2), 1)).unwrap();
        assert!(json["relay"]["accuracy"].is_f64() && json["relay"]["call_ratio"].is_f64());
        assert!(json["gap_recovered"].is_null() && json["router_reduction"].is_null());
    }
    /// Of three policies over 400 problems: each fourth is beyond the small model, relay misses a
    /// tenth of those, and calls for two tokens in each.
    fn many() -> Vec<Finished> {
        let mut rows = Vec::new();
        for index in 0..400 {
            let (is_hard, is_missed) = (index % 4 == 0, index % 40 == 0);
            let mut relay = sample("relay", &index.to_string(), !is_missed, 2 * u32::from(is_hard));
            let fact = WrittenFact {
                kind: Kind::Rare,
                held_out: false,
                by_llm: !is_missed,
                is_true: !is_missed,
            };
            relay.facts.extend(is_hard.then_some(fact));
            let least_sure = if is_hard { -2.0 } else { -0.1 };
            let slm = sample("slm_alone", &index.to_string(), !is_hard, 0);
            let slm = Finished { least_sure: Some(least_sure), ..slm };
            rows.extend([relay, slm, sample("llm_alone", &index.to_string(), true, 100)]);
        }
        rows
    }

    #[test]
    fn what_must_be_shown_has_its_interval() {
        let found = figures(&many(), 1);
        let relay = &found.policies["relay"];
        let cascade = found.cascade.unwrap();
        for (name, low, mean, high, width) in [
            // 1.96 · sqrt(p (1 − p) / 400), and for a mean of 0 or 2 of 100 tokens likewise.
            (
                "accuracy",
                Some(relay.accuracy_low),
                Some(relay.accuracy),
                Some(relay.accuracy_high),
                0.0153,
            ),
            (
                "call ratio",
                Some(relay.call_ratio_low),
                Some(relay.call_ratio),
                Some(relay.call_ratio_high),
                0.000_85,
            ),
            // Of 100 facts 90: the number of facts varies, too, but hardly matters.
            (
                "facts",
                Some(relay.facts["rare"].by_llm_low),
                Some(relay.facts["rare"].by_llm),
                Some(relay.facts["rare"].by_llm_high),
                0.0588,
            ),
            // The same 100 problems: the gap between the models varies with them, and cancels.
            ("gap", found.gap_recovered_low, found.gap_recovered, found.gap_recovered_high, 0.0588),
            // 1 − 2 · hard ones / (gap · 100 · all): 9 % of 0.0056 by the hard ones, 6.5 % by the gap.
            (
                "router",
                found.router_reduction_low,
                found.router_reduction,
                found.router_reduction_high,
                0.001,
            ),
            // 1 − 2 · hard ones / (100 · those that relay got right).
            ("cascade", cascade.reduction_low, cascade.reduction, cascade.reduction_high, 0.0015),
        ] {
            let (low, mean, high) = (low.unwrap(), mean.unwrap(), high.unwrap());
            assert!(low < mean && mean < high, "{name}: {low} {mean} {high}");
            let found = (high - low) / 2.0;
            assert!((0.8..1.25).contains(&(found / width)), "{name}: {low} {mean} {high}");
        }
        assert_eq!(found, figures(&many(), 1));
    }
}
