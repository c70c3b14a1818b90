//! The stages as people run them: real processes on tiny settings, stopped by Ctrl-C, killed, and
//! gone on with to the same bits.

#![allow(clippy::unwrap_used, missing_docs)]

mod adapted;
mod evaluated;
mod matrix;
mod policy;
mod trained;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use relay_train::training_run::STOPPED_STATUS;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any of these stages takes.
const PATIENCE: Duration = Duration::from_mins(4);

/// The file of the tree with this path, from the workspace's root.
fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-train"));
    command.args(words).stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

/// Runs to the end, and gives what was said.
fn run(words: &[&str]) -> String {
    told(&program(words).output().unwrap(), 0)
}

fn told(output: &Output, status: u8) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code();
    assert_eq!(code, Some(status.into()), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Starts, and waits until the file has so many lines.
fn start_until(words: &[&str], file: &Path, lines: usize) -> Child {
    let mut command = program(words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= lines {
            return child;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was to be stopped");
        assert!(began.elapsed() < PATIENCE, "{} has too few lines", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Presses Ctrl-C, and gives what was said. What was stopped is no success.
fn interrupt(child: Child) -> String {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    told(&child.wait_with_output().unwrap(), STOPPED_STATUS)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
