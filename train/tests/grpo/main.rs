//! The second stage as a process of its own: killed and gone on with, and refused what it cannot
//! learn from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use relay_train::checkpoint::{self, Checkpoint};
use relay_train::model_folder;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_relay-train");
/// How long a run of a few steps may take on a busy machine.
const WAIT: Duration = Duration::from_mins(2);
/// A model that writes commands, and one that stands in for the large model.
const STUDENT: &str = "warmed";
const TEACHER: &str = "pretrained/slm";
const SETTINGS: &str = "seed = 3\nsteps = 3\ncheckpoint_steps = 1\ngroups = 4\ngroup_size = 4\n\
                        updates = 2\nresponse_tokens_max = 160\n[optimiser]\n\
                        learning_rate = 1e-3\nfinal_share = 1.0\nwarm_up_steps = 0\n\
                        schedule = \"constant\"\nbeta_1 = 0.9\nbeta_2 = 0.99\nepsilon = 1e-8\n\
                        weight_decay = 0.0\ngradient_norm_max = 1.0\n";

/// A trained model of the tiny pair, in the repository.
fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(name)
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.path("grpo.toml"), settings).unwrap();
        let generated = Command::new(PROGRAM)
            .args(["data", "generate", "--level", "short", "--facts", "policy", "--split", "train"])
            .args(["--count", "12", "--out"])
            .arg(place.path("problems.jsonl"))
            .output()
            .unwrap();
        assert!(generated.status.success(), "{generated:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, out: &str, threads: usize) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("grpo").arg("--config").arg(self.path("grpo.toml"));
        command.arg("--from").arg(model(STUDENT)).arg("--llm").arg(model(TEACHER));
        command.arg("--problems").arg(self.path("problems.jsonl"));
        command.arg("--out").arg(self.path(out)).args(["--threads", &threads.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, out: &str, threads: usize) -> Output {
        self.command(out, threads).output().unwrap()
    }

    fn checkpoint(&self, out: &str) -> PathBuf {
        self.path(out).join("checkpoint.safetensors")
    }

    fn fault(&self) -> String {
        let output = self.run("refused", 1);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Waits until something is there, or fails.
fn wait_for(path: &Path, child: &mut Child) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < WAIT, "{} does not come", path.display());
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_run_ends_with_the_bits_of_one_that_never_stopped() {
    let place = Place::new(SETTINGS);
    let whole = place.run("whole", 1);
    assert!(whole.status.success(), "{whole:?}");
    let said = String::from_utf8(whole.stdout).unwrap();
    for part in ["last 3 steps:", "% right", "s a step, rollouts", "learning"] {
        assert!(said.contains(part), "{said}");
    }

    let mut child = place.command("cut", 2).spawn().unwrap();
    wait_for(&place.checkpoint("cut"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.run("cut", 2);
    assert!(resumed.status.success(), "{resumed:?}");
    let (weights, _) = model_folder::import(&model(STUDENT)).unwrap();
    let [whole, cut] = ["whole", "cut"].map(|out| -> Checkpoint<Value> {
        checkpoint::load(weights.architecture(), &place.checkpoint(out)).unwrap().unwrap()
    });
    assert_eq!((whole.optimiser.steps, &whole.state), (6, &cut.state));
    assert!(whole == cut, "weights or the optimiser's means differ");
    let from = std::fs::read(model(STUDENT).join("model.safetensors")).unwrap();
    let trained = std::fs::read(place.path("cut/model/model.safetensors")).unwrap();
    assert!(from != trained, "nothing was learned");
    for curve in ["accuracy.svg", "kl.svg"] {
        assert!(place.path("cut").join(curve).exists(), "{curve}");
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
