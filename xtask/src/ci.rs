//! The steps of a check: each named and timed, a table at the end, and after it the test runner's
//! own closing lines, unaltered, since people and machines look there.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use anyhow::Context;

use crate::process::Interrupt;
use crate::{bring, cargo, models};

/// Tests that need a real model read its path from here, and are left out without it.
const TEST_MODEL: &str = "RELAY_TEST_MODEL";
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

enum Outcome {
    Passed,
    Failed,
    /// Not done, and why.
    LeftOut(&'static str),
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// The steps so far, and what the tests said last.
struct Run<'a> {
    interrupt: &'a Interrupt,
    steps: Vec<Step>,
    closing_lines: Vec<String>,
}

/// Everything. True if nothing is wrong.
pub(crate) fn full(interrupt: &Interrupt) -> anyhow::Result<bool> {
    let mut run = Run::new(interrupt);
    run.lints()?;
    if run.cargo("build", &["build", "--workspace", "--all-targets", "--locked"])? {
        run.cargo("doc tests", &["test", "--doc", "--workspace", "--locked"])?;
        run.documentation()?;
        run.licences_and_bans()?;
        run.all_tests()?;
    } else {
        run.leave_out("all that follows", "it does not build");
    }
    Ok(run.close())
}

/// The fast half. True if nothing is wrong.
pub(crate) fn fast(interrupt: &Interrupt) -> anyhow::Result<bool> {
    let mut run = Run::new(interrupt);
    run.lints()?;
    run.tests("house rules", &["--package", "relay-tests", "--test", "tidy"], None)?;
    run.tests("unit tests", &["--workspace", "--lib", "--bins"], None)?;
    Ok(run.close())
}

impl<'a> Run<'a> {
    fn new(interrupt: &'a Interrupt) -> Self {
        Self { interrupt, steps: Vec::new(), closing_lines: Vec::new() }
    }

    fn lints(&mut self) -> anyhow::Result<()> {
        self.cargo("format", &["fmt", "--all", "--check"])?;
        // Code that only fuzz targets call is built nowhere else.
        let clippy = "clippy --workspace --all-targets --features relay-model/fuzzing --locked -- --deny warnings";
        self.cargo("clippy", &clippy.split(' ').collect::<Vec<_>>())?;
        Ok(())
    }

    fn documentation(&mut self) -> anyhow::Result<()> {
        let mut doc = cargo::command(&["doc", "--workspace", "--no-deps", "--locked"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        self.command("documentation", &mut doc)?;
        Ok(())
    }

    fn licences_and_bans(&mut self) -> anyhow::Result<()> {
        let name = "licences and bans";
        if !cargo::has("deny") {
            self.leave_out(name, "cargo-deny is not installed; tests/tidy holds the same lists");
            return Ok(());
        }
        self.cargo(name, &["deny", "--offline", "check", "bans", "licenses"])?;
        Ok(())
    }

    /// The model the tests need, then the tests.
    fn all_tests(&mut self) -> anyhow::Result<()> {
        let started = self.begin("test model");
        let model = bring::model(models::TEST, self.interrupt);
        self.interrupt.check()?;
        if let Err(error) = &model {
            anstream::eprintln!("{error:#}");
        }
        self.end("test model", model.is_ok(), started);
        self.tests("tests", &["--workspace"], model.ok())
    }

    /// Runs tests by nextest where it is there, else by cargo, and keeps their closing lines.
    fn tests(
        &mut self,
        name: &'static str,
        which: &[&str],
        model: Option<std::path::PathBuf>,
    ) -> anyhow::Result<()> {
        let nextest = cargo::has("nextest");
        let runner = if nextest { &["nextest", "run", "--profile", "ci"][..] } else { &["test"] };
        let mut tests = cargo::command(runner);
        tests.args(["--locked"]).args(which);
        if let Some(model) = model {
            tests.env(TEST_MODEL, model);
        }
        if !nextest {
            tests.arg("--no-fail-fast");
        }
        let started = self.begin(name);
        let (passed, closing_lines) = watch(&mut tests, nextest)?;
        self.interrupt.check()?;
        self.closing_lines = closing_lines;
        self.end(name, passed, started);
        Ok(())
    }

    /// Runs a step; true if it passed.
    fn cargo(&mut self, name: &'static str, arguments: &[&str]) -> anyhow::Result<bool> {
        self.command(name, &mut cargo::command(arguments))
    }

    fn command(&mut self, name: &'static str, command: &mut Command) -> anyhow::Result<bool> {
        let started = self.begin(name);
        let status = command.status().with_context(|| format!("cannot start {name}"))?;
        self.interrupt.check()?;
        self.end(name, status.success(), started);
        Ok(status.success())
    }

    fn begin(&self, name: &str) -> Instant {
        anstream::eprintln!("\n--- {}: {name}", self.steps.len() + 1);
        Instant::now()
    }

    fn end(&mut self, name: &'static str, passed: bool, started: Instant) {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        self.steps.push(Step { name, outcome, took: started.elapsed() });
    }

    fn leave_out(&mut self, name: &'static str, why: &'static str) {
        anstream::eprintln!("\n--- {}: {name}: left out: {why}", self.steps.len() + 1);
        self.steps.push(Step { name, outcome: Outcome::LeftOut(why), took: Duration::ZERO });
    }

    /// Prints the table and the tests' closing lines. True if no step failed.
    fn close(&self) -> bool {
        anstream::println!("\n{}", table(&self.steps));
        for line in &self.closing_lines {
            anstream::println!("{line}");
        }
        !self.steps.iter().any(|step| matches!(step.outcome, Outcome::Failed))
    }
}

fn table(steps: &[Step]) -> String {
    let rows = steps.iter().map(|step| {
        let (style, word, why) = match step.outcome {
            Outcome::Passed => (GOOD, "passed", ""),
            Outcome::Failed => (BAD, "FAILED", ""),
            Outcome::LeftOut(why) => (Style::new(), "left out", why),
        };
        let seconds = step.took.as_secs_f64();
        format!("{:<18} {style}{word:<8}{style:#} {seconds:>7.1} s  {why}\n", step.name)
    });
    let total: Duration = steps.iter().map(|step| step.took).sum();
    let rows: String = rows.collect();
    format!("{rows}{:<18} {:<8} {:>7.1} s\n", "total", "", total.as_secs_f64())
}

/// Runs the tests, shows what they print as it comes, and returns whether they passed and what
/// they printed last.
fn watch(tests: &mut Command, nextest: bool) -> anyhow::Result<(bool, Vec<String>)> {
    // nextest reports on standard error, cargo's own runner on standard output.
    if nextest {
        tests.stderr(Stdio::piped());
        let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        tests.env("CARGO_TERM_COLOR", if coloured { "always" } else { "never" });
    } else {
        tests.stdout(Stdio::piped());
    }
    let mut child = tests.spawn().context("cannot start the tests")?;
    let report: Option<Box<dyn BufRead>> = match (child.stderr.take(), child.stdout.take()) {
        (Some(report), _) => Some(Box::new(BufReader::new(report))),
        (_, Some(report)) => Some(Box::new(BufReader::new(report))),
        _ => None,
    };
    let mut closing = Closing::default();
    for line in report.context("the tests' report is not piped")?.lines() {
        let line = line.context("cannot read the tests' report")?;
        writeln!(anstream::stderr(), "{line}").context("cannot show the tests' report")?;
        closing.take(line);
    }
    let status = child.wait().context("cannot wait for the tests")?;
    Ok((status.success(), closing.lines))
}

/// The closing lines among what a test runner prints: nextest's summary and the tests it names after
/// it (not what those printed), or every result line of cargo's own runner.
#[derive(Default)]
struct Closing {
    lines: Vec<String>,
    in_summary: bool,
}

impl Closing {
    fn take(&mut self, line: String) {
        let plain = anstream::adapter::strip_str(&line).to_string();
        if plain.trim_start().starts_with("Summary [") {
            self.in_summary = true;
            self.lines.clear();
        }
        let closes = self.in_summary && (names_a_test(&plain) || plain.starts_with("error: "));
        if closes || plain.starts_with("test result: ") {
            self.lines.push(line);
        }
    }
}

/// `FAIL [   1.2s] …` and the like: a word in capitals, then a time in brackets.
fn names_a_test(plain: &str) -> bool {
    let plain = plain.trim_start();
    plain.starts_with("Summary [")
        || plain.split_once(" [").is_some_and(|(word, _)| {
            word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(report: &str) -> Vec<String> {
        let mut closing = Closing::default();
        report.lines().for_each(|line| closing.take(line.to_owned()));
        closing.lines
    }

    #[test]
    fn closing_lines_are_kept_unaltered() {
        let nextest = "  PASS [ 1s] a\n-----\n     Summary [   1.0s] 2 tests run: 1 passed, 1 failed\n  FAIL [ 1s] b\nerror: test run failed";
        assert_eq!(closing(nextest), nextest.lines().skip(2).collect::<Vec<_>>());
        let with_output = nextest.replace("error", "  stdout ---\n    test result: no\n\nerror");
        assert_eq!(closing(&with_output), closing(nextest));
        let cargo = "test a ... ok\ntest result: ok. 1 passed\nother\ntest result: ok. 2 passed\n";
        assert_eq!(closing(cargo), ["test result: ok. 1 passed", "test result: ok. 2 passed"]);
        assert_eq!(closing("\u{1b}[32m Summary [ 1s] x\u{1b}[0m").len(), 1);
        assert!(closing("error: could not compile").is_empty());
    }

    #[test]
    fn the_table_names_every_step() {
        let step = |name, outcome| Step { name, outcome, took: Duration::from_millis(1500) };
        let steps = [
            step("format", Outcome::Passed),
            step("clippy", Outcome::Failed),
            step("bans", Outcome::LeftOut("not there")),
        ];
        let plain = anstream::adapter::strip_str(&table(&steps)).to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = plain.lines().map(words).collect();
        let expected = [
            "format passed 1.5 s",
            "clippy FAILED 1.5 s",
            "bans left out 1.5 s not there",
            "total 4.5 s",
        ];
        assert_eq!(lines, expected);
    }
}
