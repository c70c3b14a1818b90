//! Evaluation of a set from a file, with models from folders, killed and gone on with.

use std::path::Path;

use serde_json::Value;

use crate::{in_tree, kill, program, run, start_until};

/// Problems of another set's form, which the tree's pretrained model has never seen.
const PROBLEMS: usize = 6;

fn gsm8k(path: &Path) {
    let line = |count: usize| {
        format!(
            "{{\"question\": \"Ann adds up {count} apples and 2 pens. What is the sum?\", \
             \"answer\": \"It is <<{count}+2>>.\\n#### {}\"}}\n",
            count + 2
        )
    };
    std::fs::write(path, (3..3 + PROBLEMS).map(line).collect::<String>()).unwrap();
}

#[test]
fn the_embedded_pair_is_compared_with_its_small_model_before_it_saw_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let words = ["eval", "--pair", "embedded", "--level", "short", "--problems", "24", "--json"];
    let policies = ["--policies", "slm_alone,teacher_free,relay,entropy", "--out", out];
    let said = run(&[&words[..], &policies].concat());
    let object: Value = serde_json::from_str(&said).unwrap();
    let named = |model: &str| object["run"][model].as_str().unwrap().to_owned();
    assert!(named("base").starts_with("relay-tiny-slm-untouched "), "{said}");
    assert!(named("slm").starts_with("relay-tiny-slm "), "{said}");
    let figure = |policy: &str, name: &str| object[policy][name].as_f64().unwrap();
    assert!(figure("relay", "accuracy") > figure("slm_alone", "accuracy"), "{said}");
    // Commands masked, training's other traces stay.
    assert_ne!(object["teacher_free"]["response_tokens"], object["slm_alone"]["response_tokens"]);
    assert!(figure("entropy", "llm_tokens") > 0.0, "{said}");
    for (policy, model) in [("entropy", "base"), ("slm_alone", "base"), ("relay", "slm")] {
        assert_eq!(object["run"]["students"][policy], object["run"][model], "{said}");
    }
    assert_eq!(object["matching"][0]["level"], "short");
    assert!(figure("relay", "call_ratio_low") < figure("relay", "call_ratio"), "{said}");
    assert!(object["gap_recovered_low"].is_null(), "no large model alone: {said}");
    let report = run(&["report", out]);
    for part in ["of the test split", "entropy, slm_alone.", "relay, teacher_free.", "## Matched"] {
        assert!(report.contains(part), "{part}\n{report}");
    }
}

#[test]
fn a_set_is_evaluated_as_the_small_world_is_and_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    gsm8k(Path::new(&path("set.jsonl")));
    let model = in_tree("train/runs/pretrained/slm").to_str().unwrap().to_owned();
    let (set, cut, whole) = (path("set.jsonl"), path("cut"), path("whole"));
    let words = |out| {
        let of = ["eval", "--slm", &model, "--llm", &model, "--set", "gsm8k", "--in", &set];
        let how = ["--instruction", "", "--rows", "1", "--max-tokens", "200", "--json"];
        let prices = ["--price-slm", "1", "--price-llm-written", "10"];
        let policies = ["--policies", "slm_alone,llm_alone,relay", "--out", out];
        [&of[..], &how, &prices, &policies].concat()
    };
    let finished = Path::new(&cut).join("finished.jsonl");
    kill(start_until(&words(&cut), &finished, 3));
    let unfinished = program(&["report", &cut]).output().unwrap();
    let said = String::from_utf8_lossy(&unfinished.stderr).into_owned();
    assert!(!unfinished.status.success() && said.contains("of 18 answers are judged"), "{said}");
    let [cut_said, whole_said] = [&cut, &whole].map(|out| run(&words(out)));
    assert_eq!(cut_said, whole_said);
    let object: Value = serde_json::from_str(&whole_said).unwrap();
    assert_eq!(object["run"]["set"]["name"], "gsm8k");
    assert_eq!(object["run"]["problems"], PROBLEMS);
    assert_eq!(object["levels"], serde_json::json!({}));
    for policy in ["slm_alone", "llm_alone"] {
        // Both are the same model, and these are sums that it knows.
        assert!(object[policy]["accuracy"].as_f64().unwrap() > 0.6, "{whole_said}");
    }
    let cost = |policy: &str| object[policy]["cost_per_thousand_answers"].as_f64().unwrap();
    assert!((cost("llm_alone") / cost("slm_alone") - 10.0).abs() < 0.5, "{whole_said}");
    assert!(object["llm_alone"]["bytes_up_per_answer"].as_f64().unwrap() > 100.0);
    assert_eq!(object["critical_share"], Value::Null);

    let said = run(&["report", &whole]);
    assert!(said.contains("6 problems of gsm8k ("), "{said}");
    for file in ["report.md", "report.json", "report.svg", "report.png"] {
        assert!(Path::new(&whole).join(file).exists(), "{file}");
    }
    let other = program(&[&words(&whole)[..], &["--seed", "3"]].concat()).output().unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("holds another evaluation"));
}
