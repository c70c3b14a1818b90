//! Pretraining and warm-up: however often they are stopped, what comes out has the same bits.

use std::path::Path;

use crate::{in_tree, interrupt, kill, run, start_until};

/// The run's own settings, made small: every number that a test changes must be there.
pub(crate) fn small(file: &str, changes: &[(&str, &str)]) -> String {
    let text = std::fs::read_to_string(in_tree("train/runs").join(file)).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in changes {
        let mut found = 0;
        for line in lines.iter_mut().filter(|line| line.starts_with(&format!("{key} = "))) {
            *line = format!("{key} = {value}");
            found += 1;
        }
        assert!(found > 0, "{file} has no {key}");
    }
    lines.join("\n")
}

pub(crate) fn same(one: &Path, other: &Path, files: &[&str]) {
    for file in files {
        let [one, other] = [one, other].map(|folder| std::fs::read(folder.join(file)).unwrap());
        assert!(one == other, "{file} differs");
    }
}

#[test]
fn stages_that_were_stopped_go_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let pretraining = small(
        "pretrain.toml",
        &[
            ("tokenizer_tokens", "400"),
            ("vocabulary_tokens", "400"),
            ("batch_tokens", "1200"),
            ("checkpoint_steps", "4"),
            ("check_problems", "1"),
            ("steps", "14"),
            ("layers", "1"),
            ("width", "32"),
            ("heads", "2"),
            ("kv_heads", "2"),
            ("feed_forward_width", "48"),
        ],
    );
    std::fs::write(path("pretrain.toml"), pretraining).unwrap();
    let (config, whole, cut) = (path("pretrain.toml"), path("whole"), path("cut"));
    let pretrain = |out| ["pretrain", "--config", &config, "--model", "slm", "--out", out];
    let said = run(&pretrain(&whole));
    assert!(said.contains("greedy Short: ") && said.contains("sampled Long: "), "{said}");
    let log = Path::new(&cut).join("log.jsonl");
    let said = interrupt(start_until(&pretrain(&cut), &log, 2));
    assert!(said.contains("stopped; the same command goes on"), "{said}");
    assert!(!Path::new(&cut).join("check.json").exists());
    let before = std::fs::read_to_string(&log).unwrap().lines().count();
    // Killed behind a checkpoint: what was logged since comes again.
    kill(start_until(&pretrain(&cut), &log, before + 1));
    run(&pretrain(&cut));
    let files = ["model/model.safetensors", "model/tokenizer.json", "check.json"];
    same(Path::new(&whole), Path::new(&cut), &files);
    let log = std::fs::read_to_string(&log).unwrap();
    let steps: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64())
        .map(Option::unwrap)
        .collect();
    assert_eq!(steps, (1..=14).collect::<Vec<_>>());

    // A model that has learned nothing answers at length: few answers of it are enough.
    let warming = small(
        "warmup.toml",
        &[
            ("steps", "4"),
            ("batch_answers", "2"),
            ("checkpoint_steps", "1"),
            ("check_problems", "1"),
        ],
    );
    std::fs::write(path("warmup.toml"), warming).unwrap();
    let (config, from) = (path("warmup.toml"), path("whole/model"));
    let (whole, cut) = (path("warm-whole"), path("warm-cut"));
    let warm_up = |out| ["warmup", "--config", &config, "--from", &from, "--out", out];
    let said = run(&warm_up(&whole));
    assert!(said.contains("of all tries well-formed"), "{said}");
    let log = Path::new(&cut).join("log.jsonl");
    let said = interrupt(start_until(&warm_up(&cut), &log, 1));
    assert!(said.contains("stopped; the same command goes on"), "{said}");
    run(&warm_up(&cut));
    same(Path::new(&whole), Path::new(&cut), &["model/model.safetensors", "check.json"]);
}
