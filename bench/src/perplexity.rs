//! Perplexity of a model on a text, by the definition of llama.cpp's `llama-perplexity`, so that
//! the two figures can stand side by side: whether a file's format costs what it should.
//!
//! The text's tokens are cut into chunks of the context's length, what is left over is dropped.
//! Each chunk is run by itself, behind the token that begins texts where the model asks for one; the
//! tokens of its second half are scored, each given all tokens of the chunk before it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use relay_model::{
    AddedTokens, LanguageModel, LoadOptions, LoadedModel, LogitsWanted, ModelError, Row, load,
};
use serde::Serialize;

use crate::figures::float;
use crate::{check_threads, print, threads_help};

mod limits {
    /// Tokens whose logits are held at a time.
    pub(super) const PIECE_TOKENS: usize = 64;
    /// Tokens of a chunk, at least.
    pub(super) const CHUNK_TOKENS_MIN: usize = 4;
    /// Chunks, at least: the error is that of a mean.
    pub(super) const CHUNKS_MIN: usize = 2;
}

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model file.
    #[arg(long)]
    model: PathBuf,
    /// The text; at least two chunks of it.
    #[arg(long)]
    text: PathBuf,
    /// Tokens of a chunk.
    #[arg(long, default_value_t = 512)]
    context: usize,
    #[arg(long, help = threads_help())]
    threads: Option<usize>,
    /// Print JSON.
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

/// Measures and prints.
pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    check_threads(options.threads)?;
    let text = std::fs::read_to_string(&options.text)
        .with_context(|| format!("cannot read {}", options.text.display()))?;
    let settings = LoadOptions { threads: options.threads, ..LoadOptions::default() };
    let mut loaded = load(&options.model, &settings)?;
    let report = measure_text(&mut loaded, &text, options.context)?;
    if options.json {
        return print(&serde_json::to_string(&report)?);
    }
    let Report { perplexity, error, chunks, scored_tokens, tokens_per_s } = report;
    print(&format!(
        "perplexity {perplexity:.4} ± {error:.4}; {chunks} chunks, {scored_tokens} tokens \
         scored, {tokens_per_s:.0} tokens/s"
    ))
}

fn measure_text(loaded: &mut LoadedModel, text: &str, context: usize) -> anyhow::Result<Report> {
    let least = limits::CHUNK_TOKENS_MIN;
    ensure!(context >= least, "--context must be {least} or more, not {context}");
    let text = text.strip_suffix('\n').unwrap_or(text);
    let bos = loaded.tokenizer.bos_to_prepend();
    let mut tokens: Vec<u32> = bos.into_iter().collect();
    tokens.extend(loaded.tokenizer.encode(text, AddedTokens::Plain));
    let chunks = tokens.len() / context;
    ensure!(
        chunks >= limits::CHUNKS_MIN,
        "{} tokens are not {} chunks of {context}; give a longer text or another --context",
        tokens.len(),
        limits::CHUNKS_MIN
    );
    let start = Instant::now();
    let mut sums = Sums::default();
    for chunk in tokens.chunks_exact(context) {
        let mut chunk = chunk.to_vec();
        chunk[0] = bos.unwrap_or(chunk[0]);
        score(loaded.model.as_mut(), &chunk, &mut sums)?;
    }
    let tokens_per_s = float(chunks * context) / start.elapsed().as_secs_f64().max(1e-9);
    Ok(sums.report(chunks, tokens_per_s))
}

/// Adds the likelihoods of a chunk's second half.
fn score(model: &mut dyn LanguageModel, chunk: &[u32], sums: &mut Sums) -> Result<(), ModelError> {
    let mut cache = model.new_cache();
    let (given, scored) = chunk[..chunk.len() - 1].split_at(chunk.len() / 2);
    let row = Row { tokens: given, cache: &mut cache, logits: LogitsWanted::None };
    model.forward(&mut [row])?;
    let mut following = chunk[given.len() + 1..].iter();
    for piece in scored.chunks(limits::PIECE_TOKENS) {
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

impl Sums {
    fn report(&self, chunks: usize, tokens_per_s: f64) -> Report {
        let count = float(self.tokens);
        let mean = self.nats / count;
        let spread = (self.squares / count - mean * mean).max(0.0) / (count - 1.0).max(1.0);
        Report {
            perplexity: mean.exp(),
            error: mean.exp() * spread.sqrt(),
            chunks,
            scored_tokens: self.tokens,
            tokens_per_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_model::{ModelSource, TINY_SLM};

    use super::*;

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let mut loaded = load(ModelSource::Embedded(&TINY_SLM), &LoadOptions::default()).unwrap();
        let text = "Tom has 3 apples and buys 4 more. How many apples does Tom have now?";
        let ids = loaded.tokenizer.encode(text, AddedTokens::Plain);
        let report = measure_text(&mut loaded, &format!("{text}\n"), 8).unwrap();
        assert_eq!((report.chunks, report.scored_tokens), (ids.len() / 8, ids.len() / 8 * 3));
        let mut nats = Vec::new();
        for chunk in ids.chunks_exact(8) {
            let mut cache = loaded.model.new_cache();
            let row = Row { tokens: chunk, cache: &mut cache, logits: LogitsWanted::All };
            let logits = loaded.model.forward(&mut [row]).unwrap().remove(0);
            for at in 4..7 {
                let total: f64 = logits.row(at).iter().map(|logit| f64::from(*logit).exp()).sum();
                nats.push(total.ln() - f64::from(logits.row(at)[chunk[at + 1] as usize]));
            }
        }
        let expected = (nats.iter().sum::<f64>() / float(nats.len())).exp();
        assert!((report.perplexity / expected - 1.0).abs() < 1e-6, "{report:?}, not {expected}");
        assert!(report.error > 0.0);
    }

    #[test]
    fn a_text_of_one_chunk_is_refused() {
        let mut loaded = load(ModelSource::Embedded(&TINY_SLM), &LoadOptions::default()).unwrap();
        let error = measure_text(&mut loaded, "1 + 1", 512).unwrap_err().to_string();
        assert!(error.contains("not 2 chunks of 512; give a longer text"), "{error}");
    }

    #[test]
    fn an_even_choice_of_four_costs_two_bits() {
        let nats = surprise_nats(&[-700.0; 4], 2);
        assert!((nats - 4.0_f64.ln()).abs() < 1e-12, "{nats}");
    }
}
