//! Figures for people: a Markdown table. Computes nothing.

use std::fmt::Write;

use super::figures::{Figures, PolicyFigures};

/// The figures as a table, policies in the order of their accuracy.
pub fn markdown(title: &str, figures: &Figures) -> String {
    let mut text = format!(
        "## {title}\n\n\
         | policy | answers | accuracy (95 %) | call ratio | requested | calls / answer \
         | SLM tokens | LLM tokens | bytes up / answer | down | cost of 1,000 | LLM wrote: common \
         | rare | rare, held out | myth |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for (name, policy) in by_accuracy(figures) {
        let PolicyFigures { answers, accuracy, accuracy_low, accuracy_high, .. } = policy;
        let by_llm = ["common", "rare", "rare_held_out", "myth"]
            .map(|kind| policy.facts.get(kind).map_or_else(nothing, |fact| percent(fact.by_llm)));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {answers} | {} ({}–{}) | {} | {} | {:.2} | {} | {} | {:.0} | {:.0} | {} | {} |",
            percent(*accuracy),
            percent(*accuracy_low),
            percent(*accuracy_high),
            percent(policy.call_ratio),
            percent(policy.call_ratio_requested),
            policy.calls_per_answer,
            policy.slm_tokens,
            policy.llm_tokens,
            policy.bytes_up_per_answer,
            policy.bytes_down_per_answer,
            policy.cost_per_thousand_answers.map_or_else(nothing, |cost| format!("{cost:.4}")),
            by_llm.join(" | "),
        );
    }
    text.push('\n');
    if let Some(share) = figures.critical_share {
        let _ = writeln!(
            text,
            "Critical tokens: {} of a worked solution; the call ratio is held against them.",
            percent(share)
        );
    }
    let said = |value: Option<f64>| value.map_or_else(nothing, percent);
    let _ = writeln!(text, "Gap recovered: {}.", said(figures.gap_recovered));
    if let Some(router) = figures.router {
        let _ = writeln!(
            text,
            "A query-level random router (computed) gives {} of the questions to the LLM to be as \
             good as relay; relay takes {} fewer LLM tokens. At relay's LLM tokens it is right in \
             {}.",
            percent(router.matched_share),
            said(figures.router_reduction),
            percent(router.equal_cost_accuracy),
        );
    }
    if let Some(cascade) = figures.cascade {
        let _ = writeln!(
            text,
            "A cascade on the SLM's least sure token (computed, its threshold chosen on these \
             problems) gives {} to the LLM to be as good; relay takes {} fewer LLM tokens. At \
             relay's LLM tokens it is right in {}.",
            said(cascade.matched_share),
            said(cascade.reduction),
            percent(cascade.equal_cost_accuracy),
        );
    }
    text
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

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::figures::figures;
    use crate::evaluation::finished::{self, Finished};

    fn sample() -> Figures {
        let row = |policy: &str, is_correct, llm_tokens| Finished {
            requested_tokens: 3,
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
        let row = "| relay | 1 | 100.00 % (100.00 %–100.00 %) | 2.00 % | 3.00 % | 1.00 | 98 | 2 | 0 | 0 | – |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("Gap recovered: 100.00 %."), "{text}");
        assert!(text.contains("relay takes 98.00 % fewer LLM tokens"), "{text}");
    }
}
