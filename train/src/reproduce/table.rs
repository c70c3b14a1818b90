//! The results of finished cells as Markdown: what training measured of each model, then one table
//! of evaluations for each level, with the paper's own figures beside. Runs nothing.

use std::fmt::Write;

use serde_json::Value;

use super::cell::{Cell, Folders};
use super::{Kept, read_result};
use crate::evaluation::paper::{PAPER, Paper};
use crate::evaluation::table::percent;

const LEVELS: [&str; 3] = ["short", "middle", "long"];

/// A column: its title, and where its figure stands in an evaluation.
const COLUMNS: [(&str, &str); 10] = [
    ("SLM alone", "/slm_alone/accuracy"),
    ("LLM alone", "/llm_alone/accuracy"),
    ("relay", "/relay/accuracy"),
    ("gap recovered", "/gap_recovered"),
    ("call ratio", "/relay/call_ratio"),
    ("critical tokens", "/critical_share"),
    ("fewer LLM tokens than the router", "/router_reduction"),
    ("than the cascade", "/cascade/reduction"),
    ("rare facts by the LLM", "/relay/facts/rare/by_llm"),
    ("never seen in training", "/relay/facts/rare_held_out/by_llm"),
];
/// The other policies that a table compares with.
const RIVALS: [&str; 4] = ["relay", "teacher_free", "entropy", "random"];

/// An evaluation: the cell it is of, and its figures.
struct Evaluated<'a> {
    cell: &'a Cell,
    figures: Value,
}

/// All results that are there.
pub fn markdown(cells: &[Cell], folders: &Folders) -> anyhow::Result<String> {
    let mut text =
        "# Results of the tiny pair\n\nWritten by `relay-train reproduce --table` from the \
                    results of its cells beside this file. In brackets: intervals of 95 % \
                    (bootstrap over problems); beside a mean, the least and the greatest.\n"
            .to_owned();
    let (mut evaluated, mut missing) = (Vec::new(), Vec::new());
    let mut trained = String::new();
    for cell in cells {
        let kept = read_result(cells, folders, cell)?.filter(|kept| kept.is_current);
        let Some(Kept { minutes, figures, .. }) = kept else {
            missing.push(cell.name.as_str());
            continue;
        };
        // Writing to a string cannot fail.
        let minutes = minutes.map_or_else(|| "–".to_owned(), |minutes| format!("{minutes:.1}"));
        let _ = writeln!(trained, "| {} | {} | {minutes} |", cell.name, cell.says);
        if figures["run"].is_object() {
            evaluated.push(Evaluated { cell, figures });
        }
    }
    if !trained.is_empty() {
        let _ = write!(text, "\n## Cells\n\n| cell | what | minutes |\n|---|---|---|\n{trained}");
    }
    if !missing.is_empty() {
        let _ = writeln!(
            text,
            "\nNot finished, or of other settings than now: {}.",
            missing.join(", ")
        );
    }
    text += &section("All levels", "", &evaluated);
    for level in LEVELS {
        text += &section(&format!("Level {level}"), &format!("/levels/{level}"), &evaluated);
    }
    Ok(text)
}

fn section(title: &str, place: &str, evaluated: &[Evaluated<'_>]) -> String {
    let here: Vec<(&Cell, &Value)> = evaluated
        .iter()
        .filter_map(|Evaluated { cell, figures }| Some((*cell, figures.pointer(place)?)))
        .filter(|(_, figures)| figures["relay"].is_object())
        .collect();
    if here.is_empty() {
        return String::new();
    }
    let titles: Vec<&str> = COLUMNS.iter().map(|column| column.0).collect();
    let mut text = format!(
        "\n## {title}\n\n| cell | answers | {} |\n|{}\n{}",
        titles.join(" | "),
        "---|".repeat(COLUMNS.len() + 2),
        paper()
    );
    for (cell, figures) in &here {
        text += &row(&cell.name, &[figures]);
    }
    for (group, members) in groups(&here) {
        text += &row(&format!("{group}, mean of {}", members.len()), &members);
    }
    text + &rivals(&here)
}

/// What the paper measured, as a row.
fn paper() -> String {
    let Paper { slm_alone, llm_alone, relay, gap_recovered, call_ratio, router_reduction, .. } =
        PAPER;
    let known = [slm_alone, llm_alone, relay, gap_recovered, call_ratio].map(percent);
    let known = known.join(" | ");
    let router = percent(router_reduction);
    format!("| the paper, 1.7B calling 8B | – | {known} | – | {router} | – | – | – |\n")
}

/// Cells that differ by their seed only.
fn groups<'a>(here: &[(&'a Cell, &'a Value)]) -> Vec<(&'a str, Vec<&'a Value>)> {
    let mut groups: Vec<(&str, Vec<&Value>)> = Vec::new();
    for (cell, figures) in here {
        let Some(group) = cell.group.as_deref() else { continue };
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, members)) => members.push(figures),
            None => groups.push((group, vec![figures])),
        }
    }
    groups.retain(|(_, members)| members.len() > 1);
    groups
}

/// A row: an evaluation with intervals of 95 %, or means with the least and the greatest.
fn row(name: &str, members: &[&Value]) -> String {
    let cells: Vec<String> = COLUMNS.iter().map(|(_, place)| ranged(members, place)).collect();
    let answers = members.first().and_then(|figures| figures["relay"]["answers"].as_u64());
    format!("| {name} | {} | {} |\n", answers.unwrap_or(0), cells.join(" | "))
}

fn ranged(members: &[&Value], place: &str) -> String {
    let figure = |place: &str| mean(members, place);
    let Some(middle) = figure(place) else { return "–".to_owned() };
    let each = || members.iter().filter_map(|figures| figures.pointer(place)?.as_f64());
    let ends = match members {
        [_] => figure(&format!("{place}_low")).zip(figure(&format!("{place}_high"))),
        _ => Some((each().fold(f64::MAX, f64::min), each().fold(f64::MIN, f64::max))),
    };
    let ends = ends.filter(|(low, high)| low < high);
    let ends = ends.map(|(low, high)| format!(" ({:.2}–{:.2})", low * 100.0, high * 100.0));
    percent(middle) + &ends.unwrap_or_default()
}

fn rivals(here: &[(&Cell, &Value)]) -> String {
    let titles = RIVALS.map(|rival| format!("{rival} (95 %), call ratio"));
    let mut text =
        format!("\n| cell | {} |\n|{}\n", titles.join(" | "), "---|".repeat(RIVALS.len() + 1));
    for (cell, figures) in here {
        let cells = RIVALS.map(|rival| {
            let figure = |name: &str| figures[rival][name].as_f64().map(percent);
            let (Some(accuracy), Some(low), Some(high), Some(ratio)) = (
                figure("accuracy"),
                figure("accuracy_low"),
                figure("accuracy_high"),
                figure("call_ratio"),
            ) else {
                return "–".to_owned();
            };
            format!("{accuracy} ({low}–{high}), {ratio}")
        });
        let _ = writeln!(text, "| {} | {} |", cell.name, cells.join(" | "));
    }
    text
}

fn mean(members: &[&Value], place: &str) -> Option<f64> {
    let figures: Option<Vec<f64>> =
        members.iter().map(|figures| figures.pointer(place)?.as_f64()).collect();
    let figures = figures.filter(|figures| !figures.is_empty())?;
    let count = u32::try_from(figures.len()).unwrap_or(u32::MAX);
    Some(figures.iter().sum::<f64>() / f64::from(count))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cell(name: &str, group: Option<&str>) -> Cell {
        Cell {
            name: name.to_owned(),
            says: "what it is".to_owned(),
            commands: Vec::new(),
            config: None,
            change: toml::Table::new(),
            result: String::new(),
            kept: None,
            group: group.map(str::to_owned),
        }
    }

    #[test]
    fn rows_have_their_figures_and_groups_their_means() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { runs: folder.path().to_owned(), out: folder.path().to_owned() };
        std::fs::create_dir(folder.path().join("results")).unwrap();
        let write = |name: &str, accuracy: f64| {
            let figures = json!({
                "slm_alone": { "accuracy": 0.4 }, "llm_alone": { "accuracy": 0.9 },
                "relay": {
                    "answers": 2000, "accuracy": accuracy, "accuracy_low": accuracy - 0.01,
                    "accuracy_high": accuracy + 0.01, "call_ratio": 0.01,
                    "facts": { "rare": { "by_llm": 0.9 } },
                },
                "gap_recovered": (accuracy - 0.4) / 0.5,
            });
            let mut result = figures.clone();
            result["run"] = json!({});
            result["levels"] = json!({ "long": figures });
            let commands: [[&str; 0]; 0] = [];
            let kept = json!({
                "commands": commands, "settings": null, "needs": {}, "seconds": 90.0, "result": result,
            });
            std::fs::write(folders.result(name), kept.to_string()).unwrap();
        };
        write("one", 0.8);
        write("two", 0.9);
        write("old", 0.1);
        let mut old = cell("old", None);
        old.commands = vec![vec!["eval".to_owned(), "--seed=2".to_owned()]];
        let grpo = |name| cell(name, Some("grpo"));
        let cells = [grpo("one"), grpo("two"), cell("three", None), old];
        let text = markdown(&cells, &folders).unwrap();
        for part in [
            "| one | what it is | 1.5 |",
            "Not finished, or of other settings than now: three, old.",
            "| one | 2000 | 40.00 % | 90.00 % | 80.00 % (79.00–81.00) | 80.00 % | 1.00 % | – | – | – \
             | 90.00 % | – |",
            "| the paper, 1.7B calling 8B | – | 42.50 % | 54.12 % | 49.52 % | 60.40 % | 1.07 % | – | 98.20 % \
             | – | – | – |",
            "| grpo, mean of 2 | 2000 | 40.00 % | 90.00 % | 85.00 % (80.00–90.00) | 90.00 % (80.00–100.00) |",
            "## Level long",
            "| one | 80.00 % (79.00 %–81.00 %), 1.00 % | – | – | – |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("## Level short"));
    }
}
