//! Logs on standard error. Metrics have no global here: a program makes its registry and hands it
//! down, and `probes.rs` shows it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

mod limits {
    /// Bytes of log lines that wait for the terminal. What is more than that does not wait.
    pub(super) const HELD_BYTES: usize = 1 << 16;
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Plain,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "the log filter `{filter}` is wrong: {reason}; write it as `info` or \
         `info,relay_cloud=debug`"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging began before, in the same process.
    #[error("logging has begun already in this process")]
    AlreadyBegun,
}

/// Sends the log lines that `filter` lets through (`info`, or `info,relay_cloud=debug`) to standard
/// error. Once a process. What comes back can hold them for a while.
///
/// # Errors
/// [`TelemetryError`] on a filter that does not parse, and on a second call.
pub fn init_tracing(filter: &str, format: LogFormat) -> Result<LogLines, TelemetryError> {
    let filter = parse_filter(filter)?;
    let log = LogLines::new(io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone());
    let begun = match format {
        LogFormat::Plain => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    begun.map(|()| log).map_err(|_| TelemetryError::AlreadyBegun)
}

/// Where log lines go, through which a program can keep them out of a line that it is still
/// writing to the same terminal.
#[derive(Clone)]
pub struct LogLines {
    state: Arc<Mutex<State>>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// Lines that wait, where some are to.
    held: Option<Vec<u8>>,
}

/// As long as it lives, log lines wait.
#[must_use = "lines wait only as long as this lives"]
pub struct HeldLines(LogLines);

impl LogLines {
    /// Lines that go to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self { state: Arc::new(Mutex::new(State { out: Box::new(out), held: None })) }
    }

    /// Lets log lines wait until what comes back is dropped.
    pub fn hold(&self) -> HeldLines {
        self.lock().held.get_or_insert_default();
        HeldLines(self.clone())
    }

    /// A panic while a line was written leaves a line cut short, and nothing that matters here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.held {
            Some(held) if held.len() + line.len() <= limits::HELD_BYTES => {
                held.extend_from_slice(line);
                Ok(())
            }
            _ => self.out.write_all(line),
        }
    }
}

impl Drop for HeldLines {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let held = state.held.take().unwrap_or_default();
        // Nobody is left to tell that standard error is closed.
        let _ = state.out.write_all(&held).and_then(|()| state.out.flush());
    }
}

impl std::fmt::Debug for LogLines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LogLines").finish_non_exhaustive()
    }
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lock().write(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().out.flush()
    }
}

impl MakeWriter<'_> for LogLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(filter).map_err(|error| TelemetryError::Filter {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_named() {
        for good in ["info", "info,relay_cloud=debug", "warn,hyper=off"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        let error = parse_filter("info,relay=loud").unwrap_err();
        assert!(error.to_string().contains("info,relay=loud"), "{error}");
    }

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_wait_while_they_are_held() {
        let screen = Screen::default();
        let shown = || String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        let lines = LogLines::new(screen.clone());
        writeln!(lines.make_writer(), "a").unwrap();
        let held = lines.hold();
        lines.make_writer().write_all(b"b\n").unwrap();
        assert_eq!(shown(), "a\n");
        let long = "c".repeat(limits::HELD_BYTES);
        lines.make_writer().write_all(long.as_bytes()).unwrap();
        assert_eq!(shown(), format!("a\n{long}"), "there is a bound to what waits");
        drop(held);
        lines.make_writer().write_all(b"d\n").unwrap();
        assert_eq!(shown(), format!("a\n{long}b\nd\n"));
    }

    #[test]
    fn logging_begins_once() {
        init_tracing("off", LogFormat::Json).unwrap();
        let second = init_tracing("off", LogFormat::Plain);
        assert!(matches!(second, Err(TelemetryError::AlreadyBegun)));
    }
}
