//! Greedy generation with a model file: load, prompt, print. Knows only the crate's public face.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints")]

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use relay_model::{
    AddedTokens, ChatOptions, Detokenizer, DeviceChoice, DevicePrecision, LoadOptions, LoadedModel,
    LogitsWanted, Message, Row, Sampling, TokenMask, load, sample, top_log_probabilities,
};
use serde::Serialize;

/// Generates text with a model, always taking the most likely token.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model: a GGUF file, or a Hugging Face folder.
    #[arg(long)]
    model: PathBuf,
    /// A raw prompt; control tokens in it are recognised.
    #[arg(long, required_unless_present = "chat", conflicts_with = "chat")]
    prompt: Option<String>,
    /// A user's message, put into the model's chat template.
    #[arg(long)]
    chat: Option<String>,
    /// The most tokens to generate.
    #[arg(long, default_value_t = 64)]
    n: usize,
    /// Log-probabilities to report for each step.
    #[arg(long, default_value_t = 0)]
    top: usize,
    /// Feed these ids instead of the generated ones (comma-separated).
    #[arg(long, value_delimiter = ',')]
    force_ids: Option<Vec<u32>>,
    /// What to compute on: cpu, cuda, cuda:1 (a card's index), metal, or candle-cpu to compare.
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Keep 4 bytes a number on a device, in place of 2.
    #[arg(long)]
    f32: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: String,
    /// For each step, the most likely ids and their log-probabilities.
    top_logprobs: Vec<Vec<(u32, f32)>>,
    load_ms: f64,
    /// Resident at the end, the mapped file included; `None` where the system does not say.
    resident_bytes: Option<u64>,
    /// What of it is not a file's.
    resident_own_bytes: Option<u64>,
    weight_bytes: usize,
    kv_bytes: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let device_precision =
        if arguments.f32 { DevicePrecision::F32 } else { DevicePrecision::default() };
    let options =
        LoadOptions { device: arguments.device, device_precision, ..LoadOptions::default() };
    let mut loaded = load(&arguments.model, &options)?;
    let load_ms = start.elapsed().as_secs_f64() * 1000.0;
    let prompt_ids = prompt_ids(&arguments, &loaded)?;
    ensure!(!prompt_ids.is_empty(), "the prompt is empty; give at least one token");
    let mut report = generate(&arguments, &mut loaded, &prompt_ids)?;
    report.load_ms = load_ms;
    report.weight_bytes = loaded.model.shape().weight_bytes;
    report.prompt_ids = prompt_ids;
    print(&arguments, &report)
}

fn prompt_ids(arguments: &Arguments, loaded: &LoadedModel) -> Result<Vec<u32>> {
    if let Some(text) = &arguments.chat {
        let template = loaded.chat_template.as_ref();
        let template = template.context("the model has no chat template; use --prompt")?;
        return Ok(template.encode_chat(
            &loaded.tokenizer,
            &[Message::new("user", text)],
            &ChatOptions::default(),
        )?);
    }
    let prompt = arguments.prompt.as_deref().unwrap_or_default();
    let prompt = loaded.tokenizer.with_bos(prompt);
    Ok(loaded.tokenizer.encode(&prompt, AddedTokens::Parse))
}

fn generate(arguments: &Arguments, loaded: &mut LoadedModel, prompt_ids: &[u32]) -> Result<Report> {
    let mut report = Report::default();
    let mut cache = loaded.model.new_cache();
    let mut stream = Detokenizer::new();
    let steps = arguments.force_ids.as_ref().map_or(arguments.n, Vec::len);
    let mut tokens = prompt_ids.to_vec();
    let mut decode = Instant::now();
    for step in 0..steps {
        let start = Instant::now();
        let row = Row { tokens: &tokens, cache: &mut cache, logits: LogitsWanted::Last };
        let logits = loaded.model.forward(&mut [row])?;
        if step == 0 {
            report.prefill_tokens_per_s = rate(prompt_ids.len(), start);
            decode = Instant::now();
        }
        let logits = logits[0].last().context("the model gave no logits")?;
        if arguments.top > 0 {
            report.top_logprobs.push(top_log_probabilities(logits, arguments.top));
        }
        let id = match &arguments.force_ids {
            Some(ids) => ids[step],
            None => greedy(logits),
        };
        if loaded.tokenizer.ends_text(id) && arguments.force_ids.is_none() {
            break;
        }
        report.ids.push(id);
        report.text.push_str(&stream.push(loaded.tokenizer.token_bytes(id)));
        tokens = vec![id];
    }
    report.text.push_str(&stream.finish());
    report.kv_bytes = cache.bytes();
    report.resident_bytes = resident_bytes("VmRSS:");
    report.resident_own_bytes = resident_bytes("RssAnon:");
    report.decode_tokens_per_s = rate(report.ids.len().saturating_sub(1), decode);
    Ok(report)
}

/// The end of a model that gives no numbers is the first id for ever: the report shows it.
fn greedy(logits: &[f32]) -> u32 {
    let key = relay_model::NoiseKey::new(0, relay_model::Role::Slm, 0);
    sample(logits, &Sampling::GREEDY, key, &TokenMask::none()).map_or(0, |sampled| sampled.id)
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn rate(tokens: usize, since: Instant) -> f64 {
    tokens as f64 / since.elapsed().as_secs_f64().max(1e-9)
}

/// A line of this process's status, as Linux keeps it.
fn resident_bytes(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|text| text.strip_prefix(line))?;
    let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn print(arguments: &Arguments, report: &Report) -> Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{}", report.text);
        eprintln!(
            "{} + {} tokens; load {:.0} ms, prefill {:.0} tokens/s, decode {:.1} tokens/s",
            report.prompt_ids.len(),
            report.ids.len(),
            report.load_ms,
            report.prefill_tokens_per_s,
            report.decode_tokens_per_s,
        );
    }
    Ok(std::io::stdout().flush()?)
}
