//! A model's speed on this machine, alone or in turns with llama.cpp on the same file.
//!
//! Prompts are made-up ids: speed does not depend on what they say, and nothing is drawn.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use relay_kernels::{Cpu, Pool, read_bandwidth};
use relay_model::{KvCache, LanguageModel, LoadOptions, LogitsWanted, Row, load};
use serde::Serialize;

use crate::figures::{float, median, resident_bytes_max};
use crate::peer::Peer;
use crate::{check_threads, print, threads_help};

mod limits {
    /// Sequences that are decoded together.
    pub(super) const BATCH_MAX: usize = 1024;
    /// Tokens of a prompt, a context or a run: more than any model's context.
    pub(super) const TOKENS_MAX: usize = 1 << 24;
    /// Pairs of runs whose ratios' medians are reported.
    pub(super) const PAIRS_MIN: usize = 5;
    pub(super) const PAIRS_MAX: usize = 1000;
}

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model file.
    #[arg(long)]
    model: PathBuf,
    #[arg(long, help = threads_help())]
    threads: Option<usize>,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens decoded.
    #[arg(long = "gen", default_value_t = 128)]
    generated: usize,
    /// Sequences decoded together.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens that each sequence holds before decoding starts.
    #[arg(long, default_value_t = 0)]
    context: usize,
    /// A llama-bench to take turns with on the same file; with several sequences, a
    /// llama-batched-bench, which takes --context as the length of each prompt.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Runs of each side, whose medians are reported; at least 5 with a peer.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One run of one side: tokens a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Speeds {
    pub(crate) prefill_tps: f64,
    pub(crate) decode_tps: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    cpu: &'static str,
    threads: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    batch: usize,
    context_tokens: usize,
    load_ms: f64,
    /// From the start of the program to the logits behind a short prompt.
    first_token_ms: f64,
    prefill_tps: f64,
    decode_tps: f64,
    weight_bytes: usize,
    kv_bytes: usize,
    /// The most that was in memory, loading included.
    rss_bytes: Option<u64>,
    /// The middle of readings after each pair.
    bandwidth_gbps: f64,
    /// Decoded tokens over those that memory allows: a step reads all weights once, and the keys and
    /// values that there are in the middle of the run.
    fraction_of_limit: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Comparison>,
}

/// One pair of runs, ours by theirs.
#[derive(Debug, Clone, Copy, Serialize)]
struct Ratios {
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<f64>,
    decode: f64,
}

/// Medians, over pairs of runs, of ours by theirs.
#[derive(Debug, Serialize)]
struct Comparison {
    pairs: usize,
    prefill_tps: f64,
    decode_tps: f64,
    /// Of one sequence only: of several, llama-batched-bench reads all prompts at once, we read one.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill_ratio: Option<f64>,
    decode_ratio: f64,
    /// Of each pair, in the order of the runs.
    ratios: Vec<Ratios>,
}

/// Measures and prints; the program began at `started`.
pub(crate) fn measure(options: &Options, started: Instant) -> anyhow::Result<()> {
    check(options)?;
    let report = run(options, started)?;
    let text = if options.json { serde_json::to_string_pretty(&report)? } else { table(&report) };
    print(&text)
}

fn check(options: &Options) -> anyhow::Result<()> {
    let Options { prompt, generated, batch, pairs, peer, context, threads, .. } = options;
    let tokens = 1..=limits::TOKENS_MAX;
    if !tokens.contains(prompt) || !tokens.contains(generated) || *context > limits::TOKENS_MAX {
        bail!("--prompt and --gen must be from 1, --context from 0, to {}", limits::TOKENS_MAX);
    }
    if !(1..=limits::BATCH_MAX).contains(batch) {
        bail!("--batch must be from 1 to {}", limits::BATCH_MAX);
    }
    check_threads(*threads)?;
    let least = if peer.is_some() { limits::PAIRS_MIN } else { 1 };
    if !(least..=limits::PAIRS_MAX).contains(pairs) {
        bail!("--pairs must be from {least} to {}", limits::PAIRS_MAX);
    }
    if peer.is_some() && *batch > 1 && options.context == 0 {
        bail!("llama-batched-bench decodes after a prompt: give --context");
    }
    Ok(())
}

fn run(options: &Options, started: Instant) -> anyhow::Result<Report> {
    let threads = options.threads.unwrap_or_else(relay_kernels::physical_cores);
    let start = Instant::now();
    let load_options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
    let loaded = load(&options.model, &load_options).context("the model cannot be loaded")?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let room = loaded.model.shape().context_tokens;
    let Options { prompt, context, generated, .. } = options;
    if *prompt > room || context + generated > room {
        bail!("the model holds {room} tokens: --prompt, and --context with --gen, must fit");
    }
    let mut subject = Subject { model: loaded.model, options, kv_bytes: 0 };
    let peer = options.peer.as_ref().map(|program| Peer {
        program,
        model: &options.model,
        threads,
        prompt: options.prompt,
        generated: options.generated,
        context: options.context,
        batch: options.batch,
    });
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    subject.warm_up()?;
    let times = Times { load_ms, first_token_ms: started.elapsed().as_secs_f64() * 1e3 };
    let pool = Pool::new(Cpu::from_environment()?, threads);
    let mut readings = vec![];
    let mut rss = None;
    for pair in 0..options.pairs {
        // Whoever comes first in one pair comes second in the next.
        let is_first = pair % 2 == 0;
        if let Some(peer) = peer.as_ref().filter(|_| !is_first) {
            theirs.push(peer.run()?);
        }
        ours.push(subject.run()?);
        // Before the memory that bandwidth is read from counts, too.
        rss = rss.or_else(resident_bytes_max);
        if let Some(peer) = peer.as_ref().filter(|_| is_first) {
            theirs.push(peer.run()?);
        }
        readings.push(read_bandwidth(&pool));
    }
    let bandwidth = median(readings.into_iter());
    Ok(subject.report(&pool, times, (bandwidth, rss), &ours, &theirs))
}

#[derive(Debug, Clone, Copy)]
struct Times {
    load_ms: f64,
    first_token_ms: f64,
}

/// The model that is measured.
struct Subject<'a> {
    model: Box<dyn LanguageModel>,
    options: &'a Options,
    /// The most that was held at once: by the prompt, or by the sequences that were decoded.
    kv_bytes: usize,
}

impl Subject<'_> {
    /// Brings everything into memory once.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        let mut cache = self.model.new_cache();
        self.append(&mut cache, 8)
    }

    fn run(&mut self) -> anyhow::Result<Speeds> {
        let mut cache = self.model.new_cache();
        let start = Instant::now();
        self.append(&mut cache, self.options.prompt)?;
        let prefill_tps = float(self.options.prompt) / start.elapsed().as_secs_f64();
        let prompt_kv_bytes = cache.bytes();
        drop(cache);
        let mut caches: Vec<KvCache> =
            (0..self.options.batch).map(|_| self.model.new_cache()).collect();
        if self.options.context > 0 {
            for cache in &mut caches {
                self.append(cache, self.options.context)?;
            }
        }
        let start = Instant::now();
        for step in 0..self.options.generated {
            self.step(&mut caches, step)?;
        }
        let tokens = float(self.options.generated * self.options.batch);
        let decode_tps = tokens / start.elapsed().as_secs_f64();
        self.kv_bytes = caches.iter().map(KvCache::bytes).sum::<usize>().max(prompt_kv_bytes);
        Ok(Speeds { prefill_tps, decode_tps })
    }

    fn append(&mut self, cache: &mut KvCache, tokens: usize) -> anyhow::Result<()> {
        let tokens: Vec<u32> = (0..tokens).map(|index| self.made_up_id(index)).collect();
        self.model.forward(&mut [Row { tokens: &tokens, cache, logits: LogitsWanted::Last }])?;
        Ok(())
    }

    fn step(&mut self, caches: &mut [KvCache], step: usize) -> anyhow::Result<()> {
        let ids: Vec<[u32; 1]> =
            (0..caches.len()).map(|row| [self.made_up_id(step * 31 + row)]).collect();
        let rows = caches.iter_mut().zip(&ids);
        let mut rows: Vec<Row<'_>> =
            rows.map(|(cache, id)| Row { tokens: id, cache, logits: LogitsWanted::Last }).collect();
        self.model.forward(&mut rows)?;
        Ok(())
    }

    fn made_up_id(&self, index: usize) -> u32 {
        let id = index * 7919 % self.model.shape().vocabulary_tokens;
        u32::try_from(id).unwrap_or(0)
    }

    fn report(
        &self,
        pool: &Pool,
        times: Times,
        (bandwidth, rss_bytes): (f64, Option<u64>),
        ours: &[Speeds],
        theirs: &[Speeds],
    ) -> Report {
        let options = self.options;
        let weight_bytes = self.model.shape().weight_bytes;
        let decode_tps = median(ours.iter().map(|speeds| speeds.decode_tps));
        let tokens = float(options.context) + float(options.generated) / 2.0;
        let kv_bytes_per_token = self.model.shape().kv_bytes_per_token;
        let step_kv_bytes = float(kv_bytes_per_token) * tokens * float(options.batch);
        let step_bytes = float(weight_bytes) + step_kv_bytes;
        let limit_tps = bandwidth / step_bytes * float(options.batch);
        Report {
            model: options.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            cpu: pool.cpu().name(),
            threads: pool.threads(),
            prompt_tokens: options.prompt,
            generated_tokens: options.generated,
            batch: options.batch,
            context_tokens: options.context,
            load_ms: times.load_ms,
            first_token_ms: times.first_token_ms,
            prefill_tps: median(ours.iter().map(|speeds| speeds.prefill_tps)),
            decode_tps,
            weight_bytes,
            kv_bytes: self.kv_bytes,
            rss_bytes,
            bandwidth_gbps: bandwidth / 1e9,
            fraction_of_limit: decode_tps / limit_tps,
            peer: (!theirs.is_empty()).then(|| compare(options.batch, ours, theirs)),
        }
    }
}

fn compare(batch: usize, ours: &[Speeds], theirs: &[Speeds]) -> Comparison {
    let is_alike = batch == 1;
    let ratios: Vec<Ratios> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| Ratios {
            prefill: is_alike.then(|| ours.prefill_tps / theirs.prefill_tps),
            decode: ours.decode_tps / theirs.decode_tps,
        })
        .collect();
    Comparison {
        pairs: ratios.len(),
        prefill_tps: median(theirs.iter().map(|speeds| speeds.prefill_tps)),
        decode_tps: median(theirs.iter().map(|speeds| speeds.decode_tps)),
        prefill_ratio: is_alike.then(|| median(ratios.iter().filter_map(|ratios| ratios.prefill))),
        decode_ratio: median(ratios.iter().map(|ratios| ratios.decode)),
        ratios,
    }
}

fn table(report: &Report) -> String {
    let Report {
        load_ms,
        first_token_ms,
        prefill_tps,
        decode_tps,
        bandwidth_gbps,
        fraction_of_limit,
        ..
    } = report;
    let mut lines = vec![
        format!("{} on {}, {} threads", report.model, report.cpu, report.threads),
        format!("load     {load_ms:8.0} ms, first token at {first_token_ms:.0} ms"),
        format!("prefill  {prefill_tps:8.1} tokens/s"),
        format!("decode   {decode_tps:8.1} tokens/s, {fraction_of_limit:.2} of the limit"),
        format!("memory   {bandwidth_gbps:8.1} GB/s read"),
    ];
    if let Some(peer) = &report.peer {
        let prefill = peer.prefill_ratio.map(|ratio| format!("{ratio:.2} and "));
        lines.push(format!(
            "peer     {:8.1} and {:.1} tokens/s; we are {}{:.2} times as fast",
            peer.prefill_tps,
            peer.decode_tps,
            prefill.unwrap_or_default(),
            peer.decode_ratio
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeds(prefill_tps: f64, decode_tps: f64) -> Speeds {
        Speeds { prefill_tps, decode_tps }
    }

    #[test]
    fn ratios_are_medians_over_pairs() {
        let ours = [speeds(10.0, 4.0), speeds(30.0, 1.0), speeds(8.0, 9.0)];
        let theirs = [speeds(5.0, 4.0), speeds(10.0, 2.0), speeds(8.0, 3.0)];
        let comparison = compare(1, &ours, &theirs);
        assert!(comparison.prefill_ratio.is_some_and(|ratio| (ratio - 2.0).abs() < 1e-9));
        assert!((comparison.decode_ratio - 1.0).abs() < 1e-9);
        assert_eq!(comparison.pairs, 3);
        assert!(compare(2, &ours, &theirs).prefill_ratio.is_none());
    }

    fn keys(value: &serde_json::Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    /// What programs read from the report.
    #[test]
    fn the_report_has_these_keys() {
        let report = |batch| Report {
            model: "m.gguf".into(),
            cpu: "portable",
            threads: 1,
            prompt_tokens: 2,
            generated_tokens: 3,
            batch,
            context_tokens: 4,
            load_ms: 5.0,
            first_token_ms: 6.0,
            prefill_tps: 7.0,
            decode_tps: 8.0,
            weight_bytes: 9,
            kv_bytes: 10,
            rss_bytes: None,
            bandwidth_gbps: 11.0,
            fraction_of_limit: 0.5,
            peer: Some(compare(batch, &[speeds(1.0, 2.0)], &[speeds(2.0, 1.0)])),
        };
        let one = serde_json::to_value(report(1)).unwrap();
        let expected = "bandwidth_gbps batch context_tokens cpu decode_tps first_token_ms \
                        fraction_of_limit generated_tokens kv_bytes load_ms model peer prefill_tps \
                        prompt_tokens rss_bytes threads weight_bytes";
        assert_eq!(keys(&one).join(" "), expected);
        let of_peer =
            ["decode_ratio", "decode_tps", "pairs", "prefill_ratio", "prefill_tps", "ratios"];
        assert_eq!(keys(&one["peer"]), of_peer);
        assert_eq!(keys(&one["peer"]["ratios"][0]), ["decode", "prefill"]);
        let two = serde_json::to_value(report(2)).unwrap();
        assert_eq!(
            keys(&two["peer"]),
            ["decode_ratio", "decode_tps", "pairs", "prefill_tps", "ratios"]
        );
        assert_eq!(keys(&two["peer"]["ratios"][0]), ["decode"]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let parse = |extra: &[&str]| {
            #[derive(Debug, clap::Parser)]
            struct Only {
                #[command(flatten)]
                options: Options,
            }
            let args = ["bench", "--model", "m.gguf"].iter().chain(extra);
            let only: Only = clap::Parser::try_parse_from(args).unwrap();
            check(&only.options)
        };
        assert!(parse(&[]).is_ok());
        let refused: [&[&str]; 9] = [
            &["--threads", "0"],
            &["--threads", "1000"],
            &["--context", "1000000000000"],
            &["--gen", "100000000000000"],
            &["--gen", "0"],
            &["--prompt", "0"],
            &["--batch", "0"],
            &["--peer", "x", "--pairs", "4"],
            &["--peer", "x", "--batch", "2"],
        ];
        assert!(parse(&["--peer", "x", "--batch", "2", "--context", "9"]).is_ok());
        for refused in refused {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }
}
