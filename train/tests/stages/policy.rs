//! The stage that teaches when to call: killed and gone on with, and refused what it cannot learn
//! from.

use std::path::{Path, PathBuf};

use relay_train::checkpoint::{self, Checkpoint};
use relay_train::model_folder;
use serde_json::Value;

use crate::{in_tree, kill, program, run, start_until};

const SETTINGS: &str = "seed = 3\nsteps = 3\ncheckpoint_steps = 1\ngroups = 4\ngroup_size = 4\n\
                        updates = 2\nresponse_tokens_max = 160\n[optimiser]\n\
                        learning_rate = 1e-3\nfinal_share = 1.0\nwarm_up_steps = 0\n\
                        schedule = \"constant\"\nbeta_1 = 0.9\nbeta_2 = 0.99\nepsilon = 1e-8\n\
                        weight_decay = 0.0\ngradient_norm_max = 1.0\n";

/// A model that writes commands.
fn student() -> PathBuf {
    in_tree("train/runs/warmed")
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("grpo.toml"), settings).unwrap();
        let of = ["data", "generate", "--level", "short", "--facts", "policy", "--split", "train"];
        let problems = place.path("problems.jsonl");
        run(&[&of[..], &["--count", "12", "--out", shown(&problems)]].concat());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Calls `act` with the words of a run into `out`. A model that writes no command stands in for
    /// the large one.
    fn with_words<T>(&self, out: &str, threads: &str, act: impl FnOnce(&[&str]) -> T) -> T {
        let [config, problems, out] = ["grpo.toml", "problems.jsonl", out].map(|at| self.path(at));
        let (from, llm) = (student(), in_tree("train/runs/pretrained/slm"));
        let models = ["grpo", "--from", shown(&from), "--llm", shown(&llm), "--threads", threads];
        let files = ["--config", shown(&config), "--problems", shown(&problems)];
        act(&[&models[..], &files, &["--out", shown(&out)]].concat())
    }

    /// What a run that was begun in `out` says to `other` in the place of `this`.
    fn fault_with(&self, out: &str, this: &Path, other: &Path) -> String {
        let swapped = |word: &&str| {
            if **word == *shown(this) { shown(other).to_owned() } else { (*word).to_owned() }
        };
        let words =
            self.with_words(out, "1", |words| words.iter().map(swapped).collect::<Vec<_>>());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = program(&words).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn checkpoint(&self, out: &str) -> PathBuf {
        self.path(out).join("checkpoint.safetensors")
    }

    fn fault(&self) -> String {
        let output = self.with_words("refused", "1", |words| program(words).output().unwrap());
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_killed_run_ends_with_the_bits_of_one_that_never_stopped() {
    let place = Place::new(SETTINGS);
    let said = place.with_words("whole", "1", run);
    for part in ["first 3 steps:", "last 3 steps:", "% right", "s a step, rollouts", "learning"] {
        assert!(said.contains(part), "{said}");
    }

    // The first step's checkpoint was kept before the second step was logged.
    let log = place.path("cut").join("log.jsonl");
    kill(place.with_words("cut", "2", |words| start_until(words, &log, 2)));
    assert!(place.checkpoint("cut").exists());
    place.with_words("cut", "2", run);
    let (weights, _) = model_folder::import(&student()).unwrap();
    let [whole, cut] = ["whole", "cut"].map(|out| -> Checkpoint<Value> {
        checkpoint::load(&weights, &place.checkpoint(out)).unwrap().unwrap()
    });
    assert_eq!((whole.optimiser.steps, &whole.state), (6, &cut.state));
    assert!(whole == cut, "weights or the optimiser's means differ");
    let from = std::fs::read(student().join("model.safetensors")).unwrap();
    let trained = std::fs::read(place.path("cut/model/model.safetensors")).unwrap();
    assert!(from != trained, "nothing was learned");
    let check = std::fs::read_to_string(place.path("cut/check.json")).unwrap();
    let check: Value = serde_json::from_str(&check).unwrap();
    assert_eq!((&check["steps"], &check["first"]["steps"]), (&3.into(), &3.into()), "{check}");
    let shares = check["time_percent"].as_object().unwrap();
    let sum: f64 = shares.values().filter_map(Value::as_f64).sum();
    assert!((sum - 100.0).abs() < 1e-6, "{check}");
    for curve in ["accuracy.svg", "kl.svg"] {
        assert!(place.path("cut").join(curve).exists(), "{curve}");
    }

    // The same settings with other models or problems are another run.
    let (from, llm, problems) =
        (student(), in_tree("train/runs/pretrained/slm"), place.path("problems.jsonl"));
    let text = std::fs::read_to_string(&problems).unwrap();
    let fewer = place.path("fewer.jsonl");
    std::fs::write(&fewer, text.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    for (this, other, flag) in
        [(&from, &llm, "--from"), (&llm, &from, "--llm"), (&problems, &fewer, "--problems")]
    {
        let message = place.fault_with("cut", this, other);
        assert!(message.contains(&format!("this run began with {flag} ")), "{message}");
    }
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let fewer = Place::new(&SETTINGS.replace("groups = 4", "groups = 14"));
    assert!(fewer.fault().contains("12 problems are fewer than the 14 of a step"));

    let unknown = Place::new(&format!("colour = 1\n{SETTINGS}"));
    let message = unknown.fault();
    assert!(message.contains("grpo.toml") && message.contains("colour"), "{message}");

    let damaged = Place::new(SETTINGS);
    std::fs::create_dir(damaged.path("refused")).unwrap();
    std::fs::write(damaged.checkpoint("refused"), b"no checkpoint").unwrap();
    let message = damaged.fault();
    assert!(message.contains("checkpoint.safetensors: damaged"), "{message}");

    let gone = Place::new(SETTINGS);
    std::fs::write(gone.path("problems.jsonl"), "{\"question\": \"q\"}\n").unwrap();
    let message = gone.fault();
    assert!(message.contains("problems.jsonl:1: `answer` is missing"), "{message}");
}
