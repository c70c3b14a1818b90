//! The program `relay-edge`: flags, settings, one session, its answers. Everything it prints to
//! standard output is the answer, or the JSON object that was asked for.

mod chat;
mod command_line;
mod lines;
mod printer;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use prometheus_client::registry::Registry;
use relay::command::{CLOSE, OPEN};
use relay_chassis::health::{Health, HealthState};
use relay_chassis::shutdown::{Shutdown, Trigger};
use relay_chassis::{listen, probes, settings, telemetry};
use relay_edge::config::ENV_PREFIX;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeError, EdgeSettings, Question, Report, Session};
use relay_model::{LoadOptions, load};

use chat::{chat, stops_on_signals};
use command_line::{Ask, Chat, Command, CommandLine, Options};
use lines::read_lines;
use printer::{Printer, show_note, show_summary};

/// No whole answer.
const EXIT_FAILED: u8 = 1;
/// Wrong usage or settings; clap exits with the same.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let CommandLine { command } = CommandLine::parse();
    let options = match &command {
        Command::Ask(ask) => &ask.options,
        Command::Chat(chat) => &chat.options,
    };
    let settings = match prepare(options) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    match serve(&command, settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            let is_usage = error.downcast_ref::<EdgeError>().is_some_and(|error| {
                matches!(error, EdgeError::Config(_) | EdgeError::Tls(_) | EdgeError::EmptyPrompt)
            });
            fail(&error, if is_usage { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
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

fn prepare(options: &Options) -> anyhow::Result<EdgeSettings> {
    let settings: EdgeSettings =
        settings::load(options.config.as_deref(), ENV_PREFIX, &options.overrides())?;
    settings.validate()?;
    telemetry::init_tracing(&settings.log.filter, settings.log.format)?;
    Ok(settings)
}

/// Runs the command. False: there was an answer, but not a whole one.
fn serve(command: &Command, settings: EdgeSettings) -> anyhow::Result<bool> {
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
        let mut session = open_session(settings, metrics)?;
        if let Some(address) = probes {
            watch(address, registry).await?;
        }
        let is_whole = match command {
            Command::Ask(asked) => {
                let (cancel, trigger) = cancel_on_signals()?;
                ask(&mut session, asked, &cancel, &trigger).await
            }
            Command::Chat(Chat { .. }) => {
                let lines = read_lines().context("no thread to read standard input")?;
                let stops = stops_on_signals().context("signals cannot be heard")?;
                chat(&mut session, lines, stops).await
            }
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
        plain_texts: vec![OPEN.to_owned(), CLOSE.to_owned()],
        device: settings.device,
        device_precision: settings.device_precision,
    };
    let model = load(&settings.model, &options)?;
    Ok(Session::new(settings, model, metrics)?)
}

async fn ask(
    session: &mut Session,
    asked: &Ask,
    cancel: &Shutdown,
    trigger: &Trigger,
) -> anyhow::Result<bool> {
    let question = if asked.raw_prompt {
        Question::Raw(&asked.question)
    } else {
        Question::Chat(&asked.question)
    };
    let report = if asked.json {
        let report = session.answer(question, &mut |_, _| {}, cancel).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&report)?).context("standard output")?;
        report
    } else {
        show_answer(session, question, cancel, trigger).await?
    };
    if let Some(path) = &asked.report {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("the report {}", path.display()))?;
    }
    Ok(!report.is_cancelled())
}

/// Shows an answer as it comes, and its account. A reader that has gone away cancels it.
async fn show_answer(
    session: &mut Session,
    question: Question<'_>,
    cancel: &Shutdown,
    trigger: &Trigger,
) -> Result<Report, EdgeError> {
    let mut printer = Printer::on_stdout();
    let mut show = |author, text: &str| {
        if printer.show(author, text).is_err() {
            trigger.begin();
        }
    };
    let answered = session.answer(question, &mut show, cancel).await;
    if printer.end().is_err() {
        trigger.begin();
    }
    let report = answered?;
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
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let told = anyhow::Error::new(cause).context("the report r.json");
        assert_eq!(whole_story(&told), "the report r.json: no such file");
        let told = told.context("the report r.json: no such file; give another");
        assert_eq!(whole_story(&told), "the report r.json: no such file; give another");
    }
}
