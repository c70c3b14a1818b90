//! Warm-up of adapters on a model that stays as it is, asked a set's questions: stopped, gone on
//! with, and merged.

use std::path::Path;

use relay_model::{LoadOptions, load};

use crate::trained::{same, small};
use crate::{in_tree, interrupt, program, run, start_until};

#[test]
fn adapters_that_were_stopped_go_on_to_the_same_bits_and_merge() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let settings = small(
        "warmup-smollm2.toml",
        &[
            ("steps", "5"),
            ("batch_answers", "2"),
            ("checkpoint_steps", "2"),
            ("check_problems", "2"),
            ("answer_tokens", "12"),
            ("rank", "2"),
        ],
    );
    std::fs::write(path("warmup.toml"), settings).unwrap();
    let question = |count: usize| {
        format!("{{\"question\": \"What is {count} + 2?\", \"answer\": \"#### {}\"}}\n", count + 2)
    };
    std::fs::write(path("set.jsonl"), (3..9).map(question).collect::<String>()).unwrap();
    let from = in_tree("train/runs/pretrained/slm").to_str().unwrap().to_owned();
    let (config, set) = (path("warmup.toml"), path("set.jsonl"));
    let (whole, cut) = (path("whole"), path("cut"));
    let warm_up =
        |out| ["warmup", "--config", &config, "--from", &from, "--problems", &set, "--out", out];
    let said = run(&warm_up(&whole));
    assert!(said.contains("in 2 sampled answers"), "{said}");
    let log = Path::new(&cut).join("log.jsonl");
    let said = interrupt(start_until(&warm_up(&cut), &log, 1));
    assert!(said.contains("stopped; the same command goes on"), "{said}");
    run(&warm_up(&cut));
    let adapter = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"];
    same(Path::new(&whole), Path::new(&cut), &adapter);
    same(Path::new(&whole), Path::new(&cut), &["model/model.safetensors", "check.json"]);

    let (adapter, merged) = (path("whole/adapter"), path("merged"));
    let merge = ["merge", "--from", &from, "--adapter", &adapter, "--out", &merged];
    assert!(run(&merge).contains("numbers of adapters"));
    same(Path::new(&whole).join("model").as_path(), Path::new(&merged), &["model.safetensors"]);
    let [ours, base] = [&merged, &from].map(|path| load(path, &LoadOptions::default()).unwrap());
    assert_eq!(ours.tokenizer.fingerprint(&[]), base.tokenizer.fingerprint(&[]));
    assert_ne!(ours.identity.hash, base.identity.hash);

    std::fs::write(path("other.jsonl"), (4..10).map(question).collect::<String>()).unwrap();
    let warmed = in_tree("train/runs/warmed").to_str().unwrap().to_owned();
    for (this, other, flag) in
        [(&from, &warmed, "--from"), (&set, &path("other.jsonl"), "--problems")]
    {
        let words = warm_up(&whole).map(|word| if word == this { other.as_str() } else { word });
        let refused = program(&words).output().unwrap();
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.contains(&format!("this run began with {flag} ")), "{refused}");
    }

    let lacking = program(&warm_up(&whole)[..5]).args(["--out", &path("other")]).output().unwrap();
    let lacking = String::from_utf8_lossy(&lacking.stderr).into_owned();
    assert!(lacking.contains("give the set's file with --problems"), "{lacking}");
}
