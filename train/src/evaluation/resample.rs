//! Intervals of what is said of a pair. Problems are drawn anew, each with all that every policy
//! made of it, so that figures which compare policies have their true width. The cascade keeps its
//! measure of sureness, and its best threshold is looked for in each resample.

use std::collections::BTreeMap;

use super::cascade::{Cascade, Outcome};
use super::figures::{Figures, compare, fact_kind};
use super::finished::Finished;
use super::interval::{Interval, intervals};

/// Judged answers by policy.
pub(super) type Answers<'a> = BTreeMap<String, Vec<&'a Finished>>;

/// A figure that is one count over another.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    Accuracy,
    CallRatio,
    ByLlm(&'static str),
}

impl Share {
    /// Part and whole of an answer.
    fn counts(self, row: &Finished) -> [f64; 2] {
        match self {
            Self::Accuracy => [f64::from(u8::from(row.is_correct)), 1.0],
            Self::CallRatio => [row.llm_tokens.into(), row.response_tokens.into()],
            Self::ByLlm(kind) => {
                let of_kind = row.facts.iter().filter(|fact| fact_kind(**fact) == kind);
                of_kind.fold([0.0, 0.0], |[part, whole], fact| {
                    [part + f64::from(u8::from(fact.by_llm)), whole + 1.0]
                })
            }
        }
    }

    /// Writes its interval beside it.
    fn put(self, policy: &str, Interval { low, high }: Interval, figures: &mut Figures) {
        let Some(policy) = figures.policies.get_mut(policy) else { return };
        match self {
            Self::Accuracy => (policy.accuracy_low, policy.accuracy_high) = (low, high),
            Self::CallRatio => (policy.call_ratio_low, policy.call_ratio_high) = (low, high),
            Self::ByLlm(kind) => {
                if let Some(fact) = policy.facts.get_mut(kind) {
                    (fact.by_llm_low, fact.by_llm_high) = (low, high);
                }
            }
        }
    }
}

/// Writes intervals beside the figures of these answers.
pub(super) fn add_intervals(
    figures: &mut Figures,
    answers: &Answers<'_>,
    cascade: Option<&Cascade<'_>>,
    seed: u64,
) {
    let shares = shares(figures);
    let table = Table::new(answers, &shares);
    let place = |policy: &str| shares.iter().position(|share| *share == (policy, Share::Accuracy));
    let compared = ["slm_alone", "llm_alone", "relay"].map(place);
    let sent = cascade.map(|cascade| (cascade, table.places(cascade)));
    let found = intervals(table.rows.len(), seed, |times| {
        let sums = table.sums(times);
        let share = |[part, whole]: &[f64; 2]| (*whole > 0.0).then(|| part / whole);
        // The call ratio stands behind the accuracy: its part are the large model's tokens.
        let outcome = |place: usize| {
            Some(Outcome { accuracy: share(&sums[place])?, llm_tokens: sums[place + 1][0] })
        };
        let [slm, llm, relay] = compared.map(|place| outcome(place?));
        let three = slm.zip(llm).zip(relay);
        let comparison = three.and_then(|((slm, llm), relay)| compare(slm, llm, relay));
        let cascaded = sent.as_ref().zip(relay).and_then(|((cascade, places), relay)| {
            cascade.figures(|choice| times[places[choice]].into(), relay).reduction
        });
        let mut values: Vec<Option<f64>> = sums.iter().map(share).collect();
        values.push(comparison.map(|comparison| comparison.gap_recovered));
        values.push(comparison.and_then(|comparison| comparison.router_reduction));
        values.push(cascaded);
        values
    });
    let shares: Vec<(String, Share)> =
        shares.into_iter().map(|(policy, share)| (policy.to_owned(), share)).collect();
    for ((policy, share), interval) in shares.iter().zip(&found) {
        if let Some(interval) = interval {
            share.put(policy, *interval, figures);
        }
    }
    let ends = |behind: usize| {
        let interval = found.get(shares.len() + behind).copied().flatten();
        (interval.map(|found| found.low), interval.map(|found| found.high))
    };
    (figures.gap_recovered_low, figures.gap_recovered_high) = ends(0);
    (figures.router_reduction_low, figures.router_reduction_high) = ends(1);
    if let Some(cascade) = &mut figures.cascade {
        (cascade.reduction_low, cascade.reduction_high) = ends(2);
    }
}

/// What has an interval of its own. A share of facts that is none or all of them has no width.
fn shares(figures: &Figures) -> Vec<(&str, Share)> {
    let mut shares = Vec::new();
    for (policy, found) in &figures.policies {
        shares.extend([(policy.as_str(), Share::Accuracy), (policy, Share::CallRatio)]);
        let open = found.facts.iter().filter(|(_, fact)| fact.by_llm > 0.0 && fact.by_llm < 1.0);
        shares.extend(open.map(|(kind, _)| (policy.as_str(), Share::ByLlm(kind))));
    }
    shares
}

/// The counts of each share, a row a problem.
struct Table<'a> {
    problems: BTreeMap<&'a str, usize>,
    rows: Vec<Vec<[f64; 2]>>,
}

impl<'a> Table<'a> {
    fn new(answers: &Answers<'a>, shares: &[(&str, Share)]) -> Self {
        let mut problems = BTreeMap::new();
        for row in answers.values().flatten() {
            let next = problems.len();
            problems.entry(row.problem.as_str()).or_insert(next);
        }
        let mut rows = vec![vec![[0.0; 2]; shares.len()]; problems.len()];
        for (column, (policy, share)) in shares.iter().enumerate() {
            for row in answers.get(*policy).into_iter().flatten() {
                let [part, whole] = share.counts(row);
                let cell = &mut rows[problems[row.problem.as_str()]][column];
                *cell = [cell[0] + part, cell[1] + whole];
            }
        }
        Self { problems, rows }
    }

    /// The row of each question that a cascade may send.
    fn places(&self, cascade: &Cascade<'_>) -> Vec<usize> {
        let place = |problem| self.problems.get(problem).copied().unwrap_or_default();
        cascade.problems().map(place).collect()
    }

    /// The counts of a resample that has each problem so many times.
    fn sums(&self, times: &[u32]) -> Vec<[f64; 2]> {
        let mut sums = vec![[0.0; 2]; self.rows.first().map_or(0, Vec::len)];
        for (row, &times) in self.rows.iter().zip(times).filter(|(_, times)| **times > 0) {
            let times = f64::from(times);
            for (sum, counts) in sums.iter_mut().zip(row) {
                *sum = [sum[0] + times * counts[0], sum[1] + times * counts[1]];
            }
        }
        sums
    }
}
