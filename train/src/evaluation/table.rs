//! Figures for people: a Markdown table, and accuracy against cost as SVG. Computes nothing.

use std::fmt::Write;

use super::figures::{Figures, PolicyFigures};

/// The width and height of the plot, its margins, and where text stands beside a point.
const PLOT: (f64, f64) = (640.0, 400.0);
const MARGIN: f64 = 60.0;
/// Call ratios below this are drawn at it: the axis is logarithmic.
const RATIO_MIN: f64 = 1e-4;

/// The figures as a table, policies in the order of their accuracy.
pub fn markdown(title: &str, figures: &Figures) -> String {
    let mut text = format!(
        "## {title}\n\n\
         | policy | answers | accuracy (95 %) | call ratio | requested | calls / answer \
         | SLM tokens | LLM tokens | LLM wrote: common | rare | rare, held out | myth |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for (name, policy) in by_accuracy(figures) {
        let PolicyFigures { answers, accuracy, accuracy_low, accuracy_high, .. } = policy;
        let by_llm = ["common", "rare", "rare_held_out", "myth"].map(|kind| {
            policy.facts.get(kind).map_or_else(|| "–".to_owned(), |fact| percent(fact.by_llm))
        });
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {answers} | {} ({}–{}) | {} | {} | {:.2} | {} | {} | {} |",
            percent(*accuracy),
            percent(*accuracy_low),
            percent(*accuracy_high),
            percent(policy.call_ratio),
            percent(policy.call_ratio_requested),
            policy.calls_per_answer,
            policy.slm_tokens,
            policy.llm_tokens,
            by_llm.join(" | "),
        );
    }
    text.push('\n');
    let said = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
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
    text
}

/// Accuracy against call ratio, one point a policy.
pub fn svg(figures: &Figures) -> String {
    let (width, height) = PLOT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (ratio, label) in
        [(RATIO_MIN, "none"), (1e-3, "0.1 %"), (1e-2, "1 %"), (1e-1, "10 %"), (1.0, "100 %")]
    {
        let (x, bottom) = (across(ratio), height - MARGIN);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{MARGIN}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }
    for step in 0..=4 {
        let accuracy = f64::from(step) / 4.0;
        let _ = writeln!(
            text,
            "<line x1=\"{MARGIN}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} %</text>",
            width - MARGIN,
            MARGIN - 6.0,
            up(accuracy) + 4.0,
            step * 25,
            y = up(accuracy),
        );
    }
    for (name, policy) in by_accuracy(figures) {
        let (x, y) = (across(policy.call_ratio), up(policy.accuracy));
        let colour = if name == "relay" { "#c0392b" } else { "#2c3e50" };
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            up(policy.accuracy_low),
            up(policy.accuracy_high),
            x + 7.0,
            y - 5.0,
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">call ratio</text>\
         <text x=\"{MARGIN}\" y=\"{:.1}\">accuracy</text>\n</svg>",
        width / 2.0,
        height - 16.0,
        MARGIN - 20.0,
    );
    text
}

fn by_accuracy(figures: &Figures) -> Vec<(&String, &PolicyFigures)> {
    let mut policies: Vec<_> = figures.policies.iter().collect();
    policies.sort_by(|(_, left), (_, right)| right.accuracy.total_cmp(&left.accuracy));
    policies
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn across(ratio: f64) -> f64 {
    let decades = -RATIO_MIN.log10();
    let share = (ratio.max(RATIO_MIN).log10() + decades) / decades;
    MARGIN + share * (PLOT.0 - 2.0 * MARGIN)
}

fn up(accuracy: f64) -> f64 {
    PLOT.1 - MARGIN - accuracy * (PLOT.1 - 2.0 * MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::figures::figures;
    use crate::evaluation::finished::Finished;
    use crate::problem::{Group, Level};

    fn sample() -> Figures {
        let row = |policy: &str, is_correct, llm_tokens| Finished {
            policy: policy.to_owned(),
            problem: String::new(),
            level: Level::Short,
            group: Group::Student,
            is_correct,
            response_tokens: 100,
            llm_tokens,
            requested_tokens: 3,
            calls: 1,
            ending: "end_of_text".to_owned(),
            facts: Vec::new(),
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
        let row = "| relay | 1 | 100.00 % (100.00 %–100.00 %) | 2.00 % | 3.00 % | 1.00 | 98 | 2 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("Gap recovered: 100.00 %."), "{text}");
        assert!(text.contains("relay takes 98.00 % fewer LLM tokens"), "{text}");
    }

    #[test]
    fn the_plot_has_a_point_for_each_policy() {
        let text = svg(&sample());
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.ends_with("</svg>\n") && text.contains(">relay</text>"));
    }
}
