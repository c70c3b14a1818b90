//! Figures for people: Markdown. Computes nothing.

use std::fmt::Write;

use super::cascade::CascadeFigures;
use super::contender::Matching;
use super::figures::{Figures, PolicyFigures, RouterFigures};
use super::harness::{Matched, Run};
use super::paper::{PAPER, SOURCE};

/// Columns: policy, and its figures.
const COLUMNS: [&str; 15] = [
    "policy",
    "answers",
    "accuracy (95 %)",
    "call ratio (95 %)",
    "requested",
    "calls / answer",
    "SLM tokens",
    "LLM tokens",
    "bytes up / answer",
    "down",
    "cost of 1,000",
    "LLM wrote: common",
    "rare",
    "rare, held out",
    "myth",
];
/// Kinds of fact, as the last columns have them.
const KINDS: [&str; 4] = ["common", "rare", "rare_held_out", "myth"];

/// The figures as a table, policies in the order of their accuracy, and the paper's own behind
/// them.
pub fn markdown(title: &str, figures: &Figures) -> String {
    let mut text =
        format!("## {title}\n\n| {} |\n|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    for (name, policy) in by_accuracy(figures) {
        text += &row(name, policy);
    }
    text += &paper_rows();
    text.push('\n');
    if let Some(share) = figures.critical_share {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "Critical tokens: {} of a worked solution; the call ratio is held against them.",
            percent(share)
        );
    }
    let ends = figures.gap_recovered_low.zip(figures.gap_recovered_high);
    let _ = writeln!(
        text,
        "Gap recovered: {}; the paper's: {}.",
        spanned(figures.gap_recovered, ends),
        percent(PAPER.gap_recovered)
    );
    if let Some(router) = figures.router {
        let ends = figures.router_reduction_low.zip(figures.router_reduction_high);
        text += &router_line(router, &spanned(figures.router_reduction, ends));
    }
    if let Some(cascade) = figures.cascade {
        text += &cascade_line(cascade);
    }
    text
}

fn row(name: &str, policy: &PolicyFigures) -> String {
    let PolicyFigures { accuracy, accuracy_low, accuracy_high, .. } = *policy;
    let PolicyFigures { call_ratio, call_ratio_low, call_ratio_high, .. } = *policy;
    // The LLM alone is asked for whatever it likes to write.
    let requested = (name != "llm_alone").then_some(policy.call_ratio_requested);
    let cost = policy.cost_per_thousand_answers;
    let mut cells = vec![
        name.to_owned(),
        policy.answers.to_string(),
        spanned(Some(accuracy), Some((accuracy_low, accuracy_high))),
        spanned(Some(call_ratio), Some((call_ratio_low, call_ratio_high))),
        requested.map_or_else(nothing, percent),
        format!("{:.2}", policy.calls_per_answer),
        policy.slm_tokens.to_string(),
        policy.llm_tokens.to_string(),
        format!("{:.0}", policy.bytes_up_per_answer),
        format!("{:.0}", policy.bytes_down_per_answer),
        cost.map_or_else(nothing, |cost| format!("{cost:.4}")),
    ];
    let facts = KINDS.map(|kind| policy.facts.get(kind));
    cells.extend(facts.map(|fact| match fact {
        Some(fact) => spanned(Some(fact.by_llm), Some((fact.by_llm_low, fact.by_llm_high))),
        None => nothing(),
    }));
    format!("| {} |\n", cells.join(" | "))
}

/// The paper's figures, named so that nobody takes them for ours.
fn paper_rows() -> String {
    let rest = " – |".repeat(COLUMNS.len() - 4);
    let row = |name: &str, accuracy: f64, call_ratio: f64| {
        format!(
            "| *the paper's {name}* | – | {} | {} |{rest}\n",
            percent(accuracy),
            percent(call_ratio)
        )
    };
    row("LLM alone (8B)", PAPER.llm_alone, 1.0)
        + &row("relay (1.7B calling 8B)", PAPER.relay, PAPER.call_ratio)
        + &row("teacher-free (1.7B)", PAPER.teacher_free, 0.0)
        + &row("SLM alone (1.7B)", PAPER.slm_alone, 0.0)
}

fn router_line(router: RouterFigures, reduction: &str) -> String {
    format!(
        "A query-level random router (computed) gives {} of the questions to the LLM to be as good \
         as relay; relay takes {reduction} fewer LLM tokens; the paper's: {}. At relay's LLM tokens \
         it is right in {}.\n",
        percent(router.matched_share),
        percent(PAPER.router_reduction),
        percent(router.equal_cost_accuracy),
    )
}

fn cascade_line(cascade: CascadeFigures) -> String {
    format!(
        "A cascade on {} (computed; the best of three measures and its threshold, chosen on these \
         problems) gives {} to the LLM to be as good; relay takes {} fewer LLM tokens. At relay's \
         LLM tokens it is right in {}.\n",
        cascade.sureness,
        cascade.matched_share.map_or_else(nothing, percent),
        spanned(cascade.reduction, cascade.reduction_low.zip(cascade.reduction_high)),
        percent(cascade.equal_cost_accuracy),
    )
}

/// Which small model each policy had.
pub fn students(run: &Run) -> String {
    let mut text = String::new();
    let base = run.base.as_ref().map(|base| (base, "before training"));
    for (model, when) in base.into_iter().chain([(&run.slm, "as given")]) {
        let of_model = run.students.iter().filter(|(_, student)| *student == model);
        let policies: Vec<&str> = of_model.map(|(policy, _)| policy.as_str()).collect();
        if !policies.is_empty() {
            let _ = writeln!(text, "With the SLM {when}, {model}: {}.", policies.join(", "));
        }
    }
    text
}

/// What the matched policies are set to on each level.
pub fn matchings(matchings: &[Matched]) -> String {
    if matchings.is_empty() {
        return String::new();
    }
    let mut text =
        "## Matched rivals\n\n| level | tokens a call | relay's call ratio | entropy from \
                    (nats) | coin | its call ratio on validation problems | random's chance at a \
                    token |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for Matched { level, matching } in matchings {
        let Matching { call_tokens, call_ratio, random_probability, .. } = *matching;
        let Matching { entropy_threshold, entropy_probability, entropy_call_ratio, .. } = *matching;
        let level = level.map_or_else(|| "all".to_owned(), |level| level.to_string());
        let [threshold, coin, found] = match entropy_call_ratio {
            Some(found) => {
                [format!("{entropy_threshold:.3}"), percent(entropy_probability), percent(found)]
            }
            None => [nothing(), nothing(), nothing()],
        };
        let _ = writeln!(
            text,
            "| {level} | {call_tokens} | {} | {threshold} | {coin} | {found} | {} |",
            percent(call_ratio),
            percent(random_probability)
        );
    }
    text
}

/// Where the paper's figures are from.
pub fn source() -> String {
    format!("*The paper's*: {SOURCE}.\n")
}

/// A share with its interval, as far as there is one.
fn spanned(share: Option<f64>, ends: Option<(f64, f64)>) -> String {
    let end = |share: f64| format!("{:.2}", share * 100.0);
    match (share, ends) {
        (None, _) => nothing(),
        (Some(share), None) => percent(share),
        (Some(share), Some((low, high))) => {
            format!("{} ({}–{})", percent(share), end(low), end(high))
        }
    }
}

fn nothing() -> String {
    "–".to_owned()
}

/// Best first.
pub(super) fn by_accuracy(figures: &Figures) -> Vec<(&String, &PolicyFigures)> {
    let mut policies: Vec<_> = figures.policies.iter().collect();
    policies.sort_by(|(_, left), (_, right)| right.accuracy.total_cmp(&left.accuracy));
    policies
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::figures::figures;
    use crate::evaluation::finished::{self, Finished};
    use crate::problem::Level;

    fn sample() -> Figures {
        let row = |policy: &str, is_correct, llm_tokens: u32| Finished {
            requested_tokens: u64::from(llm_tokens) * 3 / 2,
            calls: 1,
            ..finished::sample(policy, "", is_correct, llm_tokens)
        };
        figures(
            &[row("slm_alone", false, 0), row("llm_alone", true, 100), row("relay", true, 2)],
            1,
        )
    }

    #[test]
    fn the_table_has_a_row_for_each_policy() {
        let text = markdown("Short", &sample());
        assert!(text.starts_with("## Short\n"), "{text}");
        for part in [
            "| relay | 1 | 100.00 % (100.00–100.00) | 2.00 % (2.00–2.00) | 3.00 % | 1.00 | 98 | 2 | 0 | 0 | – |",
            // 150 % would be no share.
            "| llm_alone | 1 | 100.00 % (100.00–100.00) | 100.00 % (100.00–100.00) | – | 1.00 |",
            "| *the paper's relay (1.7B calling 8B)* | – | 49.52 % | 1.07 % | – |",
            "| *the paper's SLM alone (1.7B)* | – | 42.50 % | 0.00 % | – |",
            "Gap recovered: 100.00 % (100.00–100.00); the paper's: 60.40 %.",
            "relay takes 98.00 % (98.00–98.00) fewer LLM tokens; the paper's: 98.20 %.",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let columns = |line: &&str| line.starts_with('|') && line.matches('|').count() != 16;
        assert_eq!(text.lines().find(columns), None);
    }

    #[test]
    fn matched_rivals_say_what_they_are_set_to() {
        let matching = Matching {
            call_tokens: 2,
            call_ratio: 0.0105,
            entropy_threshold: 2.4375,
            entropy_probability: 0.25,
            entropy_call_ratio: Some(0.0107),
            random_probability: 0.005,
        };
        let rows = [
            Matched { level: Some(Level::Long), matching },
            Matched { level: None, matching: Matching { entropy_call_ratio: None, ..matching } },
        ];
        let text = matchings(&rows);
        for part in [
            "| long | 2 | 1.05 % | 2.438 | 25.00 % | 1.07 % | 0.50 % |",
            "| all | 2 | 1.05 % | – | – | – | 0.50 % |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(matchings(&[]), "");
    }
}
