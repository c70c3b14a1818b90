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

use std::time::Instant;

use clap::{Parser, Subcommand};

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
    match Command::parse().what {
        What::Engine(options) => engine::measure(&options, started),
        What::Kernels(options) => kernels::measure(&options),
        What::Perplexity(options) => perplexity::measure(&options),
    }
}

fn threads_help() -> String {
    format!("Threads; as many as there are cores unless given. {}", relay_kernels::CPU_HELP)
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn where_threads_are_chosen_the_variable_is_told() {
        for command in Command::command().get_subcommands_mut() {
            let help = command.render_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(relay_kernels::CPU_HELP), "{help}");
        }
    }
}
