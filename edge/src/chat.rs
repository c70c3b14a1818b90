//! A conversation line by line: one session, an answer a line, until the input ends. An interrupt
//! ends the answer under way, or the program where none is. Knows nothing of how answers are made.

use std::io::{self, IsTerminal};

use relay_chassis::shutdown::Shutdown;
use relay_chassis::telemetry::LogLines;
use relay_edge::{EdgeError, Question, Session};
use relay_model::ModelError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::lines::Lines;
use crate::printer::show_note;
use crate::show_answer;

mod limits {
    /// Signals that wait to be heeded; more of them say nothing new.
    pub(super) const STOPS: usize = 4;
}

/// What a signal asks to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The answer under way: SIGINT.
    Answer,
    /// Everything: SIGTERM.
    Program,
}

/// Signals as they come.
///
/// # Errors
/// If the system refuses the handlers.
pub(crate) fn stops_on_signals() -> io::Result<mpsc::Receiver<Stop>> {
    let (sender, stops) = mpsc::channel(limits::STOPS);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                _ = interrupt.recv() => Stop::Answer,
                _ = terminate.recv() => Stop::Program,
            };
            if sender.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(stops)
}

/// Answers line by line. What is wrong with one question is said, and the next line taken. False
/// if the last question got no whole answer.
pub(crate) async fn chat(
    session: &mut Session,
    mut lines: Lines,
    mut stops: mpsc::Receiver<Stop>,
    log: &LogLines,
) -> anyhow::Result<bool> {
    let is_terminal = io::stdin().is_terminal();
    let mut is_whole = true;
    loop {
        if is_terminal {
            show_note("> ");
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(_) = stops.recv() => None,
        };
        let Some(line) = line else { return Ok(is_whole) };
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                show_note(&format!("error: {error}\n"));
                is_whole = false;
                continue;
            }
        };
        let stop = match line.trim() {
            "" => None,
            "/quit" => return Ok(is_whole),
            question => {
                let (whole, stop) = answer_line(session, question, &mut stops, log).await?;
                is_whole = whole;
                stop
            }
        };
        if stop == Some(Stop::Program) {
            return Ok(is_whole);
        }
    }
}

/// Whether the answer is whole, and what a signal asked to stop meanwhile.
async fn answer_line(
    session: &mut Session,
    question: &str,
    stops: &mut mpsc::Receiver<Stop>,
    log: &LogLines,
) -> Result<(bool, Option<Stop>), EdgeError> {
    let (cancel, trigger) = Shutdown::manual();
    let mut answering =
        std::pin::pin!(show_answer(session, Question::Chat(question), &cancel, &trigger, log));
    let (answered, stop) = tokio::select! {
        answered = &mut answering => (answered, None),
        Some(stop) = stops.recv() => {
            trigger.begin();
            (answering.await, Some(stop))
        }
    };
    match answered {
        Ok(report) => Ok((!report.is_cancelled() && !report.is_empty(), stop)),
        Err(error) if is_of_the_question(&error) => {
            show_note(&format!("error: {error}\n"));
            Ok((false, stop))
        }
        Err(error) => Err(error),
    }
}

/// Whether another question may be answered all the same.
fn is_of_the_question(error: &EdgeError) -> bool {
    matches!(
        error,
        EdgeError::PromptTooLong { .. }
            | EdgeError::EmptyPrompt
            | EdgeError::Model(ModelError::Template { .. })
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lines::LineError;
    use relay_edge::EdgeSettings;
    use relay_edge::metrics::Metrics;
    use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};
    use relay_model::{ChatTemplate, LoadedModel, ModelIdentity};

    fn session(max_tokens: u32, step_delay: Duration) -> Session {
        let mut settings = EdgeSettings { model: "scripted".into(), ..EdgeSettings::default() };
        settings.budget.max_tokens = max_tokens;
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let model = ScriptedModel::new(257, 256, hash_rule(1, 97..123));
        let model = LoadedModel {
            model: Box::new(model.with_step_delay(step_delay)),
            tokenizer: Arc::new(byte_tokenizer(&[])),
            chat_template: Some(ChatTemplate::new(template, "", "").unwrap()),
            identity: ModelIdentity { name: "scripted".into(), hash: [0; 8] },
        };
        Session::new(settings, model, Metrics::default()).unwrap()
    }

    fn no_log() -> LogLines {
        LogLines::new(io::sink())
    }

    fn lines(lines: Vec<Result<String, LineError>>) -> Lines {
        let (sender, receiver) = mpsc::channel(8);
        for line in lines {
            sender.try_send(line).unwrap();
        }
        receiver
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_answered_does_not_end_the_chat() {
        let too_long = LineError::TooLong { bytes_max: 1 };
        for (asked, is_whole) in [
            (vec![Ok("x".repeat(300)), Ok("hi".to_owned())], true),
            (vec![Err(too_long), Ok("hi".to_owned()), Ok("/quit".to_owned())], true),
            (vec![Ok("hi".to_owned()), Ok("x".repeat(300))], false),
        ] {
            let (_never, stops) = mpsc::channel(1);
            let ended = chat(&mut session(4, Duration::ZERO), lines(asked), stops, &no_log()).await;
            assert_eq!(ended.unwrap(), is_whole);
        }
    }

    #[tokio::test]
    async fn an_interrupt_ends_the_answer_and_a_second_line_is_answered() {
        // At 5 ms a step these 200 tokens would take a second.
        let (signals, mut stops) = mpsc::channel(1);
        signals.try_send(Stop::Answer).unwrap();
        let mut session = session(200, Duration::from_millis(5));
        let first = answer_line(&mut session, "hi", &mut stops, &no_log()).await.unwrap();
        assert_eq!(first, (false, Some(Stop::Answer)));
        signals.try_send(Stop::Program).unwrap();
        let (line, never_read) = (Ok("hi".to_owned()), Ok("x".to_owned()));
        let ended = chat(&mut session, lines(vec![line, never_read]), stops, &no_log()).await;
        assert!(ended.is_ok());
    }
}
