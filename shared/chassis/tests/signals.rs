//! Real signals, sent to a process of its own: the first begins a shutdown, the second ends the
//! process at once. The process is this very test binary, told to run the ignored test below.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use relay_chassis::shutdown::Shutdown;

#[tokio::test]
#[ignore = "run by the other tests, as a process that gets signals"]
async fn wait_for_signals() {
    let shutdown = Shutdown::on_signals().unwrap();
    println!("\nwaiting");
    shutdown.begun().await;
    println!("\nbegun");
    std::future::pending::<()>().await;
}

struct Waiting {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Waiting {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "wait_for_signals", "--nocapture"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut waiting = Self { child, lines };
        waiting.read_until("waiting");
        waiting
    }

    fn read_until(&mut self, word: &str) {
        let mut line = String::new();
        while line.trim() != word {
            line.clear();
            let bytes = self.lines.read_line(&mut line).unwrap();
            assert!(bytes > 0, "ended before `{word}`");
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success(), "{name} not sent");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Already ended where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_signal_begins_and_the_second_ends() {
    for (first, second, code) in [("TERM", "INT", 130), ("INT", "TERM", 143)] {
        let mut waiting = Waiting::start();
        waiting.signal(first);
        waiting.read_until("begun");
        waiting.signal(second);
        assert_eq!(waiting.child.wait().unwrap().code(), Some(code), "{second}");
        let mut said = String::new();
        let mut stderr = waiting.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert!(said.contains("second signal"), "{said}");
    }
}
