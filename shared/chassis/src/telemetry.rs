//! Logs on standard error. Metrics have no global here: a program makes its registry and hands it
//! down, and `probes.rs` shows it.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

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
/// error. Once a process.
///
/// # Errors
/// [`TelemetryError`] on a filter that does not parse, and on a second call.
pub fn init_tracing(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = parse_filter(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let begun = match format {
        LogFormat::Plain => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    begun.map_err(|_| TelemetryError::AlreadyBegun)
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

    #[test]
    fn logging_begins_once() {
        init_tracing("off", LogFormat::Json).unwrap();
        let second = init_tracing("off", LogFormat::Plain);
        assert!(matches!(second, Err(TelemetryError::AlreadyBegun)));
    }
}
