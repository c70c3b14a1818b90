//! The program `relay-edge`: flags, settings, one session, its answers. Everything it prints to
//! standard output is the answer, or the JSON object that was asked for.

mod chat;
mod command_line;
mod lines;
mod memory;
mod model_show;
mod printer;

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use prometheus_client::registry::Registry;
use relay::command::TAGS;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::shutdown::{Shutdown, Trigger};
use relay_chassis::telemetry::{LogLines, init_tracing};
use relay_chassis::{listen, probes, settings};
use relay_edge::config::ENV_PREFIX;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeError, EdgeSettings, Question, Report, Session};
use relay_model::{LoadOptions, LoadProgress, ModelSource, TINY_SLM, load};
use time::{OffsetDateTime, PrimitiveDateTime};

use chat::{chat, stops_on_signals};
use command_line::{Ask, Chat, Command, CommandLine, Model, Options};
use lines::read_lines;
use model_show::show_model;
use printer::{Printer, show_note, show_summary};

/// No whole answer.
const EXIT_FAILED: u8 = 1;
/// What is said of an answer without a word.
const NO_ANSWER: &str = "error: the model ended its answer before the first word; ask in other words, \
                         or give it a temperature and another seed\n";
/// Wrong usage or settings; clap exits with the same.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let CommandLine { command } = CommandLine::parse();
    let done = match &command {
        Command::Model(Model::Show(show)) => show_model(show).map(|()| true),
        Command::Ask(asked) => answer(&asked.options, Some(asked)),
        Command::Chat(Chat { options }) => answer(options, None),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => fail(&error, if is_usage(&error) { EXIT_USAGE } else { EXIT_FAILED }),
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    let of_edge = |error: &EdgeError| {
        matches!(error, EdgeError::Config(_) | EdgeError::Tls(_) | EdgeError::EmptyPrompt)
    };
    error.is::<WrongSettings>() || error.downcast_ref().is_some_and(of_edge)
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    show_note(&format!("error: {}\n", whole_story(error)));
    ExitCode::from(code)
}

/// The error and its causes, as far as they are not told already.
fn whole_story(error: &anyhow::Error) -> String {
    let mut story = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !story.contains(&cause) {
            story = format!("{story}: {cause}");
        }
    }
    story
}

/// Settings that could not be used: wrong usage.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongSettings(String);

/// Answers one question, or one after the other where none is asked yet. False: there was an answer,
/// but not a whole one.
fn answer(options: &Options, asked: Option<&Ask>) -> anyhow::Result<bool> {
    let prepared = prepare(options).map_err(|error| WrongSettings(whole_story(&error)));
    let (settings, log) = prepared?;
    serve(asked, settings, &log)
}

fn prepare(options: &Options) -> anyhow::Result<(EdgeSettings, LogLines)> {
    let settings: EdgeSettings =
        settings::load(options.config.as_deref(), ENV_PREFIX, &options.overrides())?;
    settings.validate()?;
    let log = init_tracing(&settings.log.filter, settings.log.format)?;
    Ok((settings, log))
}

fn serve(asked: Option<&Ask>, settings: EdgeSettings, log: &LogLines) -> anyhow::Result<bool> {
    // The model has a thread of its own; what is left is one conversation's network traffic.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("the runtime does not start")?;
    runtime.block_on(async {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let probes = settings.probes_listen;
        let path = asked.and_then(|asked| asked.report.as_deref());
        let report = path.map(ReportFile::create).transpose()?;
        let mut session = open_session(settings, metrics)?;
        if let Some(address) = probes {
            watch(address, registry).await?;
        }
        let is_whole = if let Some(asked) = asked {
            let (cancel, trigger) = cancel_on_signals()?;
            ask(&mut session, asked, report, (&cancel, &trigger, log)).await
        } else {
            let lines = read_lines().context("no thread to read standard input")?;
            let stops = stops_on_signals().context("signals cannot be heard")?;
            chat(&mut session, lines, stops, log).await
        };
        session.close().await;
        is_whole
    })
}

/// Begun by the first signal, or by hand; a second signal ends the process.
fn cancel_on_signals() -> anyhow::Result<(Shutdown, Trigger)> {
    let (cancel, trigger) = Shutdown::manual();
    let signals = Shutdown::on_signals().context("signals cannot be heard")?;
    let on_signal = trigger.clone();
    tokio::spawn(async move {
        signals.begun().await;
        on_signal.begin();
    });
    Ok((cancel, trigger))
}

/// Serves metrics and probes until the runtime ends: an edge has nothing to drain.
async fn watch(address: SocketAddr, registry: Registry) -> anyhow::Result<SocketAddr> {
    let listener = listen::bind(address, "probes_listen").await?;
    let bound = listener.local_addr().context("the address of `probes_listen`")?;
    let health = Health::new();
    health.advance(HealthState::Ready);
    tokio::spawn(async move {
        let (end, _never) = Shutdown::manual();
        probes::serve_probes(listener, Arc::new(registry), health, end).await;
    });
    Ok(bound)
}

fn open_session(settings: EdgeSettings, metrics: Metrics) -> anyhow::Result<Session> {
    let options = LoadOptions {
        plain_texts: TAGS.map(str::to_owned).to_vec(),
        device: settings.device,
        device_precision: settings.device_precision,
        kv_precision: settings.kv_precision,
        threads: settings.threads.map(NonZero::get),
        progress: Some(tell_progress),
    };
    let model = load(ModelSource::named(&settings.model, &TINY_SLM), &options);
    end_progress();
    let model = model?;
    Ok(Session::new(settings, model, metrics)?.begun_at(local_now()))
}

/// Of a load that takes long: on a terminal one line that changes, whatever is logged.
fn tell_progress(progress: LoadProgress) {
    if std::io::stderr().is_terminal() {
        show_note(&format!("\r{}", progress_note(progress)));
    } else {
        let LoadProgress { bytes, all_bytes } = progress;
        tracing::info!(bytes, all_bytes, "loading the model");
    }
}

/// Always of the same length, so that one covers the one before.
fn progress_note(LoadProgress { bytes, all_bytes }: LoadProgress) -> String {
    format!("loading the model: {:3} %", bytes.saturating_mul(100) / all_bytes.max(1))
}

/// Leaves an empty line where progress was told.
fn end_progress() {
    if std::io::stderr().is_terminal() {
        let width = progress_note(LoadProgress { bytes: 0, all_bytes: 0 }).len();
        show_note(&format!("\r{:width$}\r", ""));
    }
}

/// Date and time of this place, as templates are told them elsewhere too; UTC where the system does
/// not say which place it is.
fn local_now() -> PrimitiveDateTime {
    let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    PrimitiveDateTime::new(now.date(), now.time())
}

/// Where the report goes: there before the model is loaded, so that nobody waits for an answer
/// whose report cannot be written.
struct ReportFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> ReportFile<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.with_context(|| {
            format!("the report {} cannot be written; name another file", path.display())
        })?;
        Ok(Self { path, file })
    }

    fn write(mut self, report: &Report) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(report)?;
        let is_file = self.file.metadata().is_ok_and(|status| status.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .with_context(|| format!("the report {}", self.path.display()))
    }
}

async fn ask(
    session: &mut Session,
    asked: &Ask,
    file: Option<ReportFile<'_>>,
    (cancel, trigger, log): (&Shutdown, &Trigger, &LogLines),
) -> anyhow::Result<bool> {
    let question = if asked.raw_prompt {
        Question::Raw(&asked.question)
    } else {
        Question::Chat(&asked.question)
    };
    let report = if asked.json {
        let report = session.answer(question, &mut |_, _| {}, cancel).await?;
        let mut out = std::io::stdout().lock();
        let text = serde_json::to_string(&report)?;
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(EdgeError::Output)?;
        if report.is_empty() {
            show_note(NO_ANSWER);
        }
        report
    } else {
        show_answer(session, question, cancel, trigger, log).await?
    };
    if let Some(file) = file {
        file.write(&report)?;
    }
    Ok(!report.is_cancelled() && !report.is_empty())
}

/// Shows an answer as it comes, and its account. Where it cannot be shown it is given up.
async fn show_answer(
    session: &mut Session,
    question: Question<'_>,
    cancel: &Shutdown,
    trigger: &Trigger,
    log: &LogLines,
) -> Result<Report, EdgeError> {
    let mut printer = Printer::on_stdout(log);
    let mut show = |author, text: &str| {
        if !printer.show(author, text) {
            trigger.begin();
        }
    };
    let answered = session.answer(question, &mut show, cancel).await;
    let shown = printer.end();
    let report = answered?;
    shown.map_err(EdgeError::Output)?;
    if report.is_empty() && !report.is_cancelled() {
        show_note(NO_ANSWER);
    }
    show_summary(&report.summary());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn metrics_are_served_where_the_settings_say() {
        let mut registry = Registry::default();
        Metrics::register(&mut registry);
        let address = watch(([127, 0, 0, 1], 0).into(), registry).await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: probe\r\n\r\n").await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert!(told.contains("relay_edge_answers_total 0"), "{told}");
    }

    #[test]
    fn progress_is_told_in_notes_of_one_length() {
        let note = |bytes| progress_note(LoadProgress { bytes, all_bytes: 3_000_000_000 });
        assert_eq!(note(0), "loading the model:   0 %");
        assert_eq!(note(1_290_000_000), "loading the model:  43 %");
        assert_eq!(note(3_000_000_000), "loading the model: 100 %");
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let told = anyhow::Error::new(cause).context("the report r.json");
        assert_eq!(whole_story(&told), "the report r.json: no such file");
        let told = told.context("the report r.json: no such file; give another");
        assert_eq!(whole_story(&told), "the report r.json: no such file; give another");
    }
}
