//! System measurements: `relay-bench engine` measures a model's decode and prefill on this machine,
//! `relay-bench kernels` what they are made of, `relay-bench perplexity` what a file's format costs.
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

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
