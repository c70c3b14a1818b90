//! Perplexity of a model on a text, by the definition of llama.cpp's `llama-perplexity`, so that
//! the two figures can stand side by side. Knows only the crate's public face.
//!
//! The text's tokens are cut into chunks of the context's length, what is left over is dropped.
//! Each chunk is run by itself; the tokens of its second half are scored, each given all tokens of
//! the chunk before it.
#![allow(clippy::print_stdout, reason = "a program that prints")]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use relay_model::{AddedTokens, LanguageModel, LoadOptions, LogitsWanted, Row, load};
use serde::Serialize;

/// Tokens whose logits are held at a time.
const PIECE_TOKENS: usize = 64;

/// Measures the perplexity of a model on a text.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model file.
    #[arg(long)]
    model: PathBuf,
    /// The text; at least two chunks of it.
    #[arg(long)]
    text: PathBuf,
    /// Tokens of a chunk.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// The id that takes the place of each chunk's first token: for models whose texts begin with
    /// one (`tokenizer.ggml.add_bos_token`).
    #[arg(long)]
    bos_id: Option<u32>,
    /// Print one JSON object instead of a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    perplexity: f64,
    /// Standard error of the perplexity.
    error: f64,
    chunks: usize,
    scored_tokens: usize,
    tokens_per_s: f64,
}

/// Negative log-likelihoods, in nats, and their squares.
#[derive(Debug, Default)]
struct Sums {
    tokens: usize,
    nats: f64,
    squares: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut loaded = load(&arguments.model, &LoadOptions::default())?;
    let text = std::fs::read_to_string(&arguments.text)
        .with_context(|| format!("cannot read {}", arguments.text.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let tokens = loaded.tokenizer.encode(text, AddedTokens::Plain);
    let chunks = tokens.len() / arguments.context.max(1);
    ensure!(
        arguments.context >= 4 && chunks >= 2,
        "{} tokens are not two chunks of {}; give a longer text or another --context",
        tokens.len(),
        arguments.context
    );
    let start = Instant::now();
    let mut sums = Sums::default();
    for chunk in tokens.chunks_exact(arguments.context) {
        let mut chunk = chunk.to_vec();
        chunk[0] = arguments.bos_id.unwrap_or(chunk[0]);
        score(loaded.model.as_mut(), &chunk, &mut sums)?;
    }
    print(&arguments, &report(&sums, chunks, chunks * arguments.context, start))
}

/// Adds the likelihoods of a chunk's second half.
fn score(model: &mut dyn LanguageModel, chunk: &[u32], sums: &mut Sums) -> Result<()> {
    let mut cache = model.new_cache();
    let (given, scored) = chunk[..chunk.len() - 1].split_at(chunk.len() / 2);
    let row = Row { tokens: given, cache: &mut cache, logits: LogitsWanted::None };
    model.forward(&mut [row])?;
    let mut following = chunk[given.len() + 1..].iter();
    for piece in scored.chunks(PIECE_TOKENS) {
        let row = Row { tokens: piece, cache: &mut cache, logits: LogitsWanted::All };
        let logits = model.forward(&mut [row])?.remove(0);
        for (index, id) in (0..logits.rows()).zip(&mut following) {
            let nats = surprise_nats(logits.row(index), *id);
            sums.tokens += 1;
            sums.nats += nats;
            sums.squares += nats * nats;
        }
    }
    Ok(())
}

fn surprise_nats(logits: &[f32], id: u32) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum();
    total.ln() + highest - f64::from(logits[id as usize])
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn report(sums: &Sums, chunks: usize, tokens: usize, start: Instant) -> Report {
    let count = sums.tokens as f64;
    let mean = sums.nats / count;
    let spread = (sums.squares / count - mean * mean).max(0.0) / (count - 1.0).max(1.0);
    Report {
        perplexity: mean.exp(),
        error: mean.exp() * spread.sqrt(),
        chunks,
        scored_tokens: sums.tokens,
        tokens_per_s: tokens as f64 / start.elapsed().as_secs_f64().max(1e-9),
    }
}

fn print(arguments: &Arguments, report: &Report) -> Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!(
            "perplexity {:.4} ± {:.4}; {} chunks, {} tokens scored, {:.0} tokens/s",
            report.perplexity,
            report.error,
            report.chunks,
            report.scored_tokens,
            report.tokens_per_s
        );
    }
    Ok(())
}
