//! One relayed answer as a user would see it: a cloud and an edge, two processes on loopback with
//! mutual TLS, stopped again whatever happens. Knows the programs by their command lines only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::account::Account;
use crate::process::{Interrupt, Lines, Process};
use crate::{account, bring, cargo, folders, models};

/// Named bounds of this file.
mod limits {
    use std::time::Duration;

    /// Making one certificate.
    pub(super) const CERTIFICATE: Duration = Duration::from_mins(1);
    /// From the cloud's start to its readiness: weights and a warm-up decode.
    pub(super) const READY: Duration = Duration::from_mins(2);
    /// The whole answer.
    pub(super) const ANSWER: Duration = Duration::from_mins(15);
    /// Lines of the cloud's log that an error repeats.
    pub(super) const LINES_REPEATED: usize = 20;
}

/// The two programs.
struct Programs {
    cloud: PathBuf,
    edge: PathBuf,
}

/// The models of the two sides.
struct ModelFiles {
    cloud: PathBuf,
    edge: PathBuf,
}

/// What one side shows the other.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// Runs the demo. An error if no answer came, or if the built-in question brought no cloud token.
pub(crate) fn run(
    question: Option<&str>,
    model: Option<&Path>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let models = bring_models(model, interrupt)?;
    let programs = build()?;
    interrupt.check()?;
    // Keys and logs of this run only: two demos at once do not meet, and nothing is left behind.
    let run = tempfile::Builder::new().prefix("run-").tempdir_in(folders::demo()?)?;
    let (server, client) = make_identities(&programs, run.path(), interrupt)?;
    let log = run.path().join("cloud.log");
    let (cloud, address) = start_cloud(&programs, &models, &server, &log, interrupt)
        .map_err(|error| with_log(error, &log))?;
    let report = run.path().join("report.json");
    let asked = question.unwrap_or(models::DEMO.question);
    anstream::eprintln!("asking: {asked}{}\n", legend());
    let mut edge = ask(&programs, &models, &client, &address, asked, &report);
    let answered = Process::start("relay-edge", &mut edge)
        .and_then(|mut edge| edge.wait(limits::ANSWER, interrupt, || Ok(())))
        .and_then(|status| if status.success() { Ok(()) } else { bail!("relay-edge: {status}") });
    drop(cloud);
    interrupt.check()?;
    answered.map_err(|error| with_log(error, &log))?;
    show(&report, question.is_none())
}

/// What the colour means, where there is one.
fn legend() -> &'static str {
    let colour = anstream::AutoStream::choice(&std::io::stdout());
    if colour == anstream::ColorChoice::Never { "" } else { "\n(the cloud's words are coloured)" }
}

fn build() -> anyhow::Result<Programs> {
    anstream::eprintln!("building relay-cloud and relay-edge");
    let [cloud, edge] =
        <[PathBuf; 2]>::try_from(cargo::build_programs(&["relay-cloud", "relay-edge"])?)
            .ok()
            .context("cargo built another number of programs")?;
    Ok(Programs { cloud, edge })
}

fn bring_models(chosen: Option<&Path>, interrupt: &Interrupt) -> anyhow::Result<ModelFiles> {
    if let Some(path) = chosen {
        let path = path.canonicalize().with_context(|| {
            format!("--model {}: no such file; name a GGUF file", path.display())
        })?;
        return Ok(ModelFiles { cloud: path.clone(), edge: path });
    }
    let cloud = bring::model(models::DEMO.cloud, interrupt)?;
    let edge = bring::model(models::DEMO.edge, interrupt)?;
    Ok(ModelFiles { cloud, edge })
}

/// An authority and two certificates, as a small team would make them.
fn make_identities(
    programs: &Programs,
    run: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<(Identity, Identity)> {
    let folder = run.join("pki");
    let pki = |words: &[&str]| {
        let mut command = Command::new(&programs.cloud);
        command.arg("pki").args(words).arg("--out").arg(&folder).stdout(Stdio::null());
        let status = Process::start("relay-cloud pki", &mut command)?.wait(
            limits::CERTIFICATE,
            interrupt,
            || Ok(()),
        )?;
        if !status.success() {
            bail!("relay-cloud pki {}: {status}", words.join(" "));
        }
        Ok(())
    };
    pki(&["init"])?;
    pki(&["issue", "localhost", "--server"])?;
    pki(&["issue", "demo-device", "--client"])?;
    let identity = |name: &str| Identity {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        authority: folder.join("ca.pem"),
    };
    Ok((identity("localhost"), identity("demo-device")))
}

/// Starts the cloud and waits until it is ready; returns its address.
fn start_cloud(
    programs: &Programs,
    models: &ModelFiles,
    identity: &Identity,
    log: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<(Process, String)> {
    anstream::eprintln!("starting relay-cloud");
    let errors = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(&programs.cloud);
    command.args(["serve", "--listen", "127.0.0.1:0", "--model"]).arg(&models.cloud);
    identity.as_flags(&mut command).stdout(Stdio::piped()).stderr(errors);
    let mut cloud = Process::start("relay-cloud", &mut command)?;
    let lines = cloud.lines(log)?;
    let address = await_ready(&lines, interrupt).context("relay-cloud did not start")?;
    Ok((cloud, address))
}

/// Waits for the two lines that the cloud prints: where it listens, and that it is ready.
fn await_ready(lines: &Lines, interrupt: &Interrupt) -> anyhow::Result<String> {
    let port = |line: &str| {
        let address = line.strip_prefix("listening on ")?;
        address.trim().rsplit_once(':').map(|(_, port)| port.to_owned())
    };
    let wait: Duration = limits::READY;
    let port = lines.wait_for("where it listens", wait, interrupt, port)?;
    let ready = |line: &str| (line.trim() == "ready").then_some(());
    lines.wait_for("that it is ready", wait, interrupt, ready)?;
    Ok(format!("https://localhost:{port}"))
}

/// The edge's command line; what it prints goes straight to the user.
fn ask(
    programs: &Programs,
    models: &ModelFiles,
    identity: &Identity,
    address: &str,
    question: &str,
    report: &Path,
) -> Command {
    let mut command = Command::new(&programs.edge);
    command.arg("ask").arg("--model").arg(&models.edge);
    command.args(["--cloud", address]).args(models::DEMO.policy);
    command.args(["--max-tokens", models::DEMO.max_tokens]).arg("--report").arg(report);
    // Behind `--` a question may begin with a dash.
    identity.as_flags(&mut command).args(["--", question]);
    command
}

impl Identity {
    fn as_flags<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("--tls-certificate").arg(&self.certificate);
        command.arg("--tls-key").arg(&self.key);
        command.arg("--tls-authority").arg(&self.authority)
    }
}

/// Prints the table and judges the answer.
fn show(report: &Path, built_in_question: bool) -> anyhow::Result<()> {
    let report = std::fs::read_to_string(report).context("relay-edge left no report")?;
    let account = account::read(&report)?;
    anstream::println!("\n{}", account.table());
    judge(&account, built_in_question)
}

/// An error if no answer came, or if the built-in question brought no cloud token.
fn judge(account: &Account, built_in_question: bool) -> anyhow::Result<()> {
    if account.answer.trim().is_empty() {
        bail!("no answer came");
    }
    if built_in_question && account.llm_tokens == 0 {
        bail!("the answer holds no token of the cloud");
    }
    Ok(())
}

/// The error with the cloud's last words.
fn with_log(error: anyhow::Error, log: &Path) -> anyhow::Error {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(limits::LINES_REPEATED));
    let last: Vec<String> = last.map(|line| format!("  {line}")).collect();
    if last.is_empty() {
        return error;
    }
    anyhow::anyhow!("{error:#}\nrelay-cloud said last:\n{}", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{account, judge};

    #[test]
    fn an_answer_without_the_cloud_fails_only_the_built_in_question() {
        let account = |answer: &str, llm_tokens: u32| {
            let report = serde_json::json!({
                "answer": answer, "calls": 1, "requested_tokens": 8, "llm_tokens": llm_tokens,
                "total_tokens": 9, "call_ratio": 0.5, "bytes_up": 1, "bytes_down": 1,
                "round_trips": 1, "resyncs": 0, "wall_ms": 1, "cloud_ms": 1, "refusals": {},
                "degraded": llm_tokens == 0, "seed": 1,
            });
            account::read(&report.to_string()).unwrap()
        };
        let cases = [
            (account("yes", 3), true, true),
            (account("yes", 0), false, true),
            (account("yes", 0), true, false),
            (account(" ", 3), false, false),
        ];
        for (account, built_in_question, good) in cases {
            assert_eq!(judge(&account, built_in_question).is_ok(), good, "{}", account.answer);
        }
    }
}
