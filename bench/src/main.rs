//! System measurements: `relay-bench engine` measures a model's decode and prefill on this machine,
//! `relay-bench kernels` what they are made of, `relay-bench perplexity` what a file's format costs.
//!
//! | File | Holds |
//! |---|---|
//! | `engine.rs`, `peer.rs` | a model's rates, alone or in turn with llama-bench's |
//! | `kernels.rs`, `cases.rs` | each kernel's rate, over the cases that the benches share |
//! | `perplexity.rs` | how well a model foretells a text |
//! | `figures.rs` | numbers about numbers, and about this process |
//!
//! Knows nothing of edge and cloud yet.

mod cases;
mod engine;
mod figures;
mod kernels;
mod peer;
mod perplexity;

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

mod limits {
    pub(super) const THREADS_MAX: usize = 256;
}

/// Measures parts of the relay.
#[derive(Debug, Parser)]
#[command(name = "relay-bench", version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How fast a model is prefilled and decoded, beside what memory allows.
    Engine(engine::Options),
    /// How fast each kernel is, as a fraction of what memory or arithmetic allows.
    Kernels(kernels::Options),
    /// How well a model foretells a text, as llama-perplexity counts it.
    Perplexity(perplexity::Options),
}

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    run(Command::parse(), started)
}

fn run(command: Command, started: Instant) -> anyhow::Result<()> {
    match command.what {
        What::Engine(options) => engine::measure(&options, started),
        What::Kernels(options) => kernels::measure(&options),
        What::Perplexity(options) => perplexity::measure(&options),
    }
}

fn threads_help() -> String {
    format!("Threads; as many as there are cores unless given. {}", relay_kernels::CPU_HELP)
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output takes no more")
}

fn check_threads(threads: Option<usize>) -> anyhow::Result<()> {
    let most = limits::THREADS_MAX;
    let is_sound = threads.is_none_or(|threads| (1..=most).contains(&threads));
    ensure!(is_sound, "--threads must be from 1 to {most}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn threads_are_bounded_for_all() {
        for (threads, is_sound) in
            [(None, true), (Some(0), false), (Some(1), true), (Some(256), true), (Some(257), false)]
        {
            assert_eq!(check_threads(threads).is_ok(), is_sound, "{threads:?}");
        }
        for what in ["kernels", "engine --model m", "perplexity --model m --text t"] {
            let words = format!("relay-bench {what} --threads 0");
            let command = Command::parse_from(words.split(' '));
            let error = run(command, Instant::now()).unwrap_err().to_string();
            assert!(error.contains("--threads must be from 1 to 256"), "{what}: {error}");
        }
    }

    #[test]
    fn where_threads_are_chosen_the_variable_is_told() {
        for command in Command::command().get_subcommands_mut() {
            let help = command.render_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(relay_kernels::CPU_HELP), "{help}");
        }
    }
}
