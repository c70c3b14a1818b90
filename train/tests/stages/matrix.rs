//! The matrix as people run it, on a small one of its own; and the one that ships, read.

use std::path::Path;

use relay_train::reproduce::cell::{Folders, read_cells};

use crate::{in_tree, program, run};

#[test]
fn every_cell_that_ships_can_be_read() {
    let runs = in_tree("train/runs");
    let cells = read_cells(&runs.join("cells.toml")).unwrap();
    let folders = Folders { runs, out: "out".into() };
    assert!(cells.len() > 3);
    let said = run(&["reproduce", "--list", "--runs", folders.runs.to_str().unwrap()]);
    assert_eq!(said.lines().count(), cells.len());
    assert!(said.starts_with("pretrain-slm "), "{said}");
}

#[test]
fn a_small_matrix_runs_and_writes_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let model = in_tree("train/runs/pretrained/slm");
    let model = model.to_str().unwrap();
    let cells = format!(
        r#"
        [[cell]]
        name = "problems"
        says = "problems to answer"
        commands = [["data", "generate", "--level", "short", "--count", "3",
            "--out", "{{out}}/problems.jsonl"]]
        result = "problems.jsonl"
        [[cell]]
        name = "eval"
        says = "their answers"
        commands = [
            ["data", "check", "generated", "{{file:problems/problems.jsonl}}"],
            ["eval", "--slm", "{model}", "--llm", "{model}", "--level", "short", "--problems", "3",
                "--policies", "slm_alone,llm_alone,relay", "--out", "{{out}}"],
            ["report", "{{out}}"],
        ]
        result = "report.json"
        "#
    );
    let runs = folder.path().join("runs");
    std::fs::create_dir(&runs).unwrap();
    std::fs::write(runs.join("cells.toml"), cells).unwrap();
    let out = folder.path().join("out");
    let words = ["reproduce", "--runs", runs.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let said = run(&words);
    assert!(said.contains("cell eval: their answers") && said.contains("3 problems"), "{said}");
    let table = std::fs::read_to_string(runs.join("results/TABLE.md")).unwrap();
    assert!(table.contains("| eval | 3 | ") && table.contains("## Level short"), "{table}");
    let result = std::fs::read_to_string(runs.join("results/problems.json")).unwrap();
    assert!(result.contains("\"lines\": 3"), "{result}");
    let said = run(&words);
    assert!(!said.contains("cell "), "nothing is left to do: {said}");
    let list = run(&[&words[..], &["--list"]].concat());
    assert_eq!(list.matches("finished in ").count(), 2, "{list}");
    let wrong = program(&[&words[..], &["--cell", "nothing"]].concat()).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no cell nothing"));
    assert!(Path::new(&out).join("eval/finished.jsonl").exists());
}
