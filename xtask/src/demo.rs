//! One relayed answer as a user would see it: a cloud and an edge, two processes on loopback with
//! mutual TLS, stopped again whatever happens. Knows the programs by their command lines only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use crate::account::Account;
use crate::process::{Interrupt, Lines, Process};
use crate::question::{Problem, is_of_the_small_world};
use crate::{account, cargo, folders, models};

/// What is said where the tiny pair can know nothing.
const OTHER_MODELS: &str = "\
This question is outside of the tiny pair's small world of sums, so take its answer for nothing.
For other questions bring other models, large and small of one family, as GGUF files or folders:
  cargo xtask demo --model PATH \"question\"    one model on both sides
  cargo xtask demo --model \"$(cargo xtask model)\"    brings SmolLM2-135M-Instruct for it
With two of them, such as Qwen3-8B for relay-cloud and Qwen3-0.6B for relay-edge, start both as
README.md says.";

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

/// What both sides run.
enum Models {
    /// The tiny pair that the programs carry.
    Embedded,
    /// One file on both sides.
    File(PathBuf),
}

/// What is asked, and what is known of it.
struct Asked {
    question: String,
    /// The right answer, where it is known.
    answer: Option<String>,
    /// Whether the demo chose it: then it is one that needs the cloud.
    is_own: bool,
}

/// What one side shows the other.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// Runs the demo. An error if no answer came, or if the demo's own question brought no cloud token.
pub(crate) fn run(
    question: Option<&str>,
    model: Option<&Path>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let models = choose_models(model)?;
    let asked = choose_question(question, &models)?;
    let programs = build()?;
    interrupt.check()?;
    // Keys and logs of this run only: two demos at once do not meet, and nothing is left behind.
    let run = tempfile::Builder::new().prefix("run-").tempdir_in(folders::demo()?)?;
    let (server, client) = make_identities(&programs, run.path(), interrupt)?;
    let log = run.path().join("cloud.log");
    let (cloud, address) = start_cloud(&programs, &models, &server, &log, interrupt)
        .map_err(|error| with_log(error, &log))?;
    let report = run.path().join("report.json");
    anstream::eprintln!("asking: {}{}\n", asked.question, legend());
    let mut edge = ask(&programs, &models, &client, &address, &asked.question, &report);
    let answered = Process::start("relay-edge", &mut edge)
        .and_then(|mut edge| edge.wait(limits::ANSWER, interrupt, || Ok(())))
        .and_then(|status| if status.success() { Ok(()) } else { bail!("relay-edge: {status}") });
    drop(cloud);
    interrupt.check()?;
    answered.map_err(|error| with_log(error, &log))?;
    show(&report, &asked, &models)
}

fn choose_models(model: Option<&Path>) -> anyhow::Result<Models> {
    let Some(path) = model else {
        return Ok(Models::Embedded);
    };
    let path = path.canonicalize().with_context(|| {
        format!("--model {}: no such file; name a GGUF file or a model's folder", path.display())
    })?;
    Ok(Models::File(path))
}

fn choose_question(question: Option<&str>, models: &Models) -> anyhow::Result<Asked> {
    match (question, models) {
        (Some(question), _) => {
            Ok(Asked { question: question.to_owned(), answer: None, is_own: false })
        }
        (None, Models::File(_)) => {
            let question = models::DEMO.question.to_owned();
            Ok(Asked { question, answer: None, is_own: true })
        }
        (None, Models::Embedded) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let problem = Problem::numbered(now.map_or(0, |now| now.as_millis()))?;
            anstream::eprintln!(
                "a problem that the tiny pair has never seen; the small model does not know {}",
                problem.rare_facts()
            );
            let Problem { question, answer, .. } = problem;
            Ok(Asked { question, answer: Some(answer), is_own: true })
        }
    }
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
    models: &Models,
    identity: &Identity,
    log: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<(Process, String)> {
    anstream::eprintln!("starting relay-cloud");
    let errors = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(&programs.cloud);
    command.args(["serve", "--listen", "127.0.0.1:0", "--model"]).arg(models.path());
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
    models: &Models,
    identity: &Identity,
    address: &str,
    question: &str,
    report: &Path,
) -> Command {
    let mut command = Command::new(&programs.edge);
    command.arg("ask").arg("--model").arg(models.path());
    command.args(["--cloud", address]).args(models.flags()).arg("--report").arg(report);
    // Behind `--` a question may begin with a dash.
    identity.as_flags(&mut command).args(["--", question]);
    command
}

impl Models {
    /// As the programs take it: each takes its own side of the tiny pair.
    fn path(&self) -> &Path {
        match self {
            Self::Embedded => Path::new("embedded"),
            Self::File(path) => path,
        }
    }

    /// When the edge calls, and how long answers may be: the tiny pair's small model has learned
    /// when, with others the uncertainty of the next token decides.
    fn flags(&self) -> &'static [&'static str] {
        match self {
            Self::Embedded => models::TINY_FLAGS,
            Self::File(_) => models::DEMO.flags,
        }
    }
}

impl Identity {
    fn as_flags<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("--tls-certificate").arg(&self.certificate);
        command.arg("--tls-key").arg(&self.key);
        command.arg("--tls-authority").arg(&self.authority)
    }
}

/// Prints the table, what there is to say, and judges the answer.
fn show(report: &Path, asked: &Asked, models: &Models) -> anyhow::Result<()> {
    let report = std::fs::read_to_string(report).context("relay-edge left no report")?;
    let account = account::read(&report)?;
    anstream::println!("\n{}", account.table());
    for remark in remarks(&account, asked, models) {
        anstream::println!("\n{remark}");
    }
    judge(&account, asked)
}

/// What a reader should know of this answer.
fn remarks(account: &Account, asked: &Asked, models: &Models) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(answer) = &asked.answer {
        remarks.push(format!("The right answer is {answer}."));
    }
    if !asked.is_own && account.llm_tokens == 0 {
        remarks.push("The small model answered alone: it asked the cloud for nothing.".to_owned());
    }
    if matches!(models, Models::Embedded) && !is_of_the_small_world(&asked.question) {
        remarks.push(OTHER_MODELS.to_owned());
    }
    remarks
}

/// An error if no answer came, or if the demo's own question brought no cloud token.
fn judge(account: &Account, asked: &Asked) -> anyhow::Result<()> {
    if account.answer.trim().is_empty() {
        bail!("no answer came");
    }
    if asked.is_own && account.llm_tokens == 0 {
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
    use super::{Asked, Models, account, judge, remarks};

    #[test]
    fn an_answer_without_the_cloud_fails_only_the_demos_own_problem() {
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
        for (account, is_own, good) in cases {
            let asked = Asked { question: String::new(), answer: None, is_own };
            assert_eq!(judge(&account, &asked).is_ok(), good, "{}", account.answer);
        }
        let told = |question: &str, llm_tokens| {
            let asked = Asked { question: question.to_owned(), answer: None, is_own: false };
            remarks(&account("yes", llm_tokens), &asked, &Models::Embedded).join(" ")
        };
        let known = "Ann sums 3 pens and 4 nuts. What is the total?";
        assert_eq!(told(known, 2), "");
        assert!(told(known, 0).contains("asked the cloud for nothing"));
        assert!(told("Who wrote Faust?", 2).contains("--model PATH"));
    }
}
