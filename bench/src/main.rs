//! System measurements: `relay-bench engine` measures a model's decode and prefill on this machine.
//! Knows nothing of edge and cloud yet.

mod engine;
mod figures;
mod peer;

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
}

fn main() -> anyhow::Result<()> {
    match Command::parse().what {
        What::Engine(options) => engine::measure(&options),
    }
}
