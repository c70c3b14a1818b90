//! From judged answers to figures: the object that `relay-train eval --json` prints. Runs nothing.
//!
//! The query-level random router is computed and not simulated: it gives each whole question to
//! the large model with some chance, so that its accuracy and its cost lie on the line between the
//! two models alone. The performance-matched one is where that line has relay's accuracy.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cascade::{CascadeFigures, Rival, cascade};
use super::finished::{Finished, WrittenFact};
use super::interval::{Interval, share_interval};
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
    /// 1 − relay's tokens of the large model over the performance-matched router's.
    pub router_reduction: Option<f64>,
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
    let mut by_policy: BTreeMap<String, Vec<&Finished>> = BTreeMap::new();
    for row in rows {
        by_policy.entry(row.policy.clone()).or_default().push(row);
    }
    let policies: BTreeMap<String, PolicyFigures> =
        by_policy.iter().map(|(name, rows)| (name.clone(), policy_figures(rows, seed))).collect();
    // Every policy has the same problems.
    let critical_share = by_policy.values().next().and_then(|rows| critical_share(rows));
    let mut figures = Figures { policies, critical_share, ..Figures::default() };
    figures.compare();
    let rows_of = |name| by_policy.get(name).map_or(&[][..], Vec::as_slice);
    figures.cascade = figures.policies.get("relay").and_then(|relay| {
        let rival = Rival { accuracy: relay.accuracy, llm_tokens: relay.llm_tokens };
        cascade(rows_of("slm_alone"), rows_of("llm_alone"), rival)
    });
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

    fn compare(&mut self) {
        let of = |name: &str| self.policies.get(name);
        let (Some(slm), Some(llm), Some(relay)) = (of("slm_alone"), of("llm_alone"), of("relay"))
        else {
            return;
        };
        let gap = llm.accuracy - slm.accuracy;
        if gap <= 0.0 || llm.llm_tokens == 0 {
            return;
        }
        let recovered = (relay.accuracy - slm.accuracy) / gap;
        // No router is worse than the small model alone, nor better than the large one.
        let matched_share = recovered.clamp(0.0, 1.0);
        let llm_tokens = as_float(llm.llm_tokens);
        let matched_llm_tokens = matched_share * llm_tokens;
        let spent_share = (as_float(relay.llm_tokens) / llm_tokens).min(1.0);
        self.router = Some(RouterFigures {
            matched_share,
            matched_llm_tokens,
            equal_cost_accuracy: slm.accuracy + spent_share * gap,
        });
        self.gap_recovered = Some(recovered);
        if matched_llm_tokens > 0.0 {
            self.router_reduction = Some(1.0 - as_float(relay.llm_tokens) / matched_llm_tokens);
        }
    }
}

fn policy_figures(rows: &[&Finished], seed: u64) -> PolicyFigures {
    let correct: Vec<bool> = rows.iter().map(|row| row.is_correct).collect();
    let Interval { mean, low, high } = share_interval(&correct, seed);
    let sum = |count: fn(&Finished) -> u64| rows.iter().map(|row| count(row)).sum::<u64>();
    let response_tokens = sum(|row| row.response_tokens.into());
    let llm_tokens = sum(|row| row.llm_tokens.into());
    let requested_tokens = sum(|row| row.requested_tokens);
    let answers = rows.len() as u64;
    let called = sum(|row| u64::from(row.llm_tokens > 0));
    let calls = sum(|row| row.calls.into());
    let mut by_group: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (row, group) in rows.iter().filter_map(|row| Some((row, row.group?))) {
        let group = format!("{group:?}").to_lowercase();
        by_group.entry(group).or_default().push(row.is_correct);
    }
    PolicyFigures {
        answers: rows.len(),
        accuracy: mean,
        accuracy_low: low,
        accuracy_high: high,
        call_ratio: share(llm_tokens, response_tokens),
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
        let name = match fact.kind {
            Kind::Common => "common",
            Kind::Rare if fact.held_out => "rare_held_out",
            Kind::Rare => "rare",
            Kind::Myth => "myth",
            Kind::Unknown => "unknown",
        };
        by_kind.entry(name).or_default().push(*fact);
    }
    let summed = by_kind.into_iter().map(|(name, facts)| {
        let by_llm: Vec<bool> = facts.iter().map(|fact| fact.by_llm).collect();
        let is_true: Vec<bool> = facts.iter().map(|fact| fact.is_true).collect();
        let figures = FactFigures {
            numbers: facts.len(),
            by_llm: share_of(&by_llm),
            is_true: share_of(&is_true),
        };
        (name, figures)
    });
    summed.collect()
}

fn share_of(values: &[bool]) -> f64 {
    share(values.iter().filter(|value| **value).count() as u64, values.len() as u64)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { as_float(part) / as_float(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
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
        (0..10).map(|index| row(policy, index < correct, llm_tokens)).collect()
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
        assert_eq!(facts["rare"], FactFigures { numbers: 2, by_llm: 0.5, is_true: 0.5 });
        assert_eq!(facts["rare_held_out"], FactFigures { numbers: 1, by_llm: 1.0, is_true: 1.0 });
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
}
