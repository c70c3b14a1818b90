//! What may be said on the command line, and which settings it stands for. Starts nothing.

use std::num::NonZero;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use relay_edge::config::{CloudEnd, PolicyKind};
use relay_model::{CPU_HELP, DeviceChoice, KvPrecision};
use serde::de::{IntoDeserializer, value};
use serde::{Deserialize, Serialize};

/// Answers with a small model on this device, which now and then calls a large one in the cloud for
/// a few tokens. Without a cloud, or when it fails, the small model answers alone.
#[derive(Debug, Parser)]
#[command(name = "relay-edge", version, max_term_width = 100, args_override_self = true, after_help = EXAMPLES)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  relay-edge ask --model slm.gguf \"What is a relay race?\"
  relay-edge ask --model slm.gguf --cloud https://cloud:7433 --policy entropy \\
      --tls-certificate edge.pem --tls-key edge.key --tls-authority ca.pem \"Why is the sky blue?\"
  relay-edge chat --config edge.toml
  relay-edge model show slm.gguf

Settings come from defaults, then the file of --config (TOML), then variables (RELAY_EDGE_MODEL,
RELAY_EDGE_POLICY__KIND, ...), then flags; the later wins. Unknown keys are refused.

Exit codes: 0 an answer was given; 1 it was not, or it was cancelled; 2 wrong usage or settings.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer one question and exit.
    Ask(Ask),
    /// Talk: each line of standard input is a question; /quit or the end of input ends it.
    Chat(Chat),
    /// Look at model files.
    #[command(subcommand)]
    Model(Model),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Say what a model is and whether it fits this machine. Reads headers and tokenizer only: damage
    /// in the weights' numbers is found when the model is loaded.
    Show(Show),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay-edge model show slm.gguf --checksum
  relay-edge model show folder-of-a-model --context 4096 --kv-precision f32 --json")]
pub(crate) struct Show {
    /// A GGUF file, a folder with config.json and safetensors, or `embedded`.
    pub(crate) path: PathBuf,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Tokens of context to make room for. [default: all that the model attends to]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Read the whole file, or every file of a folder, and print its SHA-256.
    #[arg(long)]
    pub(crate) checksum: bool,
    /// What keys and values are kept as: f16 or f32, as in the settings.
    #[arg(long, value_name = "PRECISION", default_value_t, value_parser = kv_precision)]
    pub(crate) kv_precision: KvPrecision,
}

fn kv_precision(text: &str) -> Result<KvPrecision, value::Error> {
    KvPrecision::deserialize(text.into_deserializer())
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// What to ask.
    pub(crate) question: String,
    /// Take the question as the prompt itself: no chat template, control tokens allowed.
    #[arg(long)]
    pub(crate) raw_prompt: bool,
    /// Print one JSON object and nothing else: answer, legs by author, tokens, bytes, times.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the same JSON object to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Flags of both commands. One left out changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Settings file (TOML).
    #[arg(long, value_name = "FILE", env = "RELAY_EDGE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The small model: a GGUF file, a Hugging Face folder, or `embedded`: the tiny pair's, which
    /// knows a small world of sums. [default: embedded]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// What it computes on: cpu, cuda, cuda:1 (a card's index) or metal. [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    #[arg(long, value_name = "N", help = threads_help())]
    threads: Option<NonZero<usize>>,
    /// A cloud to call, https://name:port; give it again for further ones, best first.
    #[arg(long, value_name = "URL", help_heading = "Cloud")]
    cloud: Vec<String>,
    /// This device's certificate (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud")]
    tls_key: Option<PathBuf>,
    /// The authority that the cloud's certificate must come from (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud")]
    tls_authority: Option<PathBuf>,
    /// Allow http:// clouds, on loopback only.
    #[arg(long, help_heading = "Cloud")]
    insecure: bool,
    /// What one call may take in milliseconds, all tries included. [default: 20000]
    #[arg(long, value_name = "MS", help_heading = "Cloud")]
    call_budget_ms: Option<u32>,
    /// When to call. [default: learned]
    #[arg(long, value_enum, help_heading = "Policy")]
    policy: Option<PolicyKind>,
    /// entropy: call where the next token is at least so uncertain, in nats. [default: 2.0]
    #[arg(long, value_name = "NATS", help_heading = "Policy")]
    entropy_threshold: Option<f32>,
    /// entropy, random, every: tokens to ask for in a call. [default: 16]
    #[arg(long, value_name = "N", help_heading = "Policy")]
    call_tokens: Option<u32>,
    /// random: chance of a call at each token. [default: 0.05]
    #[arg(long, value_name = "P", help_heading = "Policy")]
    probability: Option<f64>,
    /// every: small-model tokens between two calls. [default: 32]
    #[arg(long, value_name = "K", help_heading = "Policy")]
    period: Option<u32>,
    /// Calls an answer may make. [default: 64]
    #[arg(long, value_name = "N", help_heading = "Policy")]
    calls_max: Option<u32>,
    /// What the large model's end of text means. [default: finish]
    #[arg(long, value_enum, help_heading = "Policy")]
    on_cloud_end: Option<CloudEnd>,
    /// Tokens of the answer, by both authors. [default: 512]
    #[arg(long, value_name = "N", help_heading = "Answer")]
    max_tokens: Option<u32>,
    /// Whether a model that can think before it answers shall. [default: as its template has it]
    #[arg(long, value_name = "BOOL", help_heading = "Answer")]
    thinking: Option<bool>,
    /// 0 is greedy: the same question gives the same answer. [default: 0]
    #[arg(long, value_name = "T", help_heading = "Answer")]
    temperature: Option<f32>,
    /// Draw among the K most likely tokens; 0 is all of them. [default: 0]
    #[arg(long, value_name = "K", help_heading = "Answer")]
    top_k: Option<u32>,
    /// Draw among the most likely tokens that together reach P. [default: 1]
    #[arg(long, value_name = "P", help_heading = "Answer")]
    top_p: Option<f32>,
    /// Draw among tokens at least P times as likely as the best. [default: 0]
    #[arg(long, value_name = "P", help_heading = "Answer")]
    min_p: Option<f32>,
    /// Makes chance repeatable; without it each answer gets a fresh seed and reports it.
    #[arg(long, help_heading = "Answer")]
    seed: Option<u64>,
    /// Log lines on standard error: `warn`, or `warn,relay_edge=debug`. [default: warn]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn threads_help() -> String {
    format!(
        "Threads that compute on cpu: fewer leave cores, and a cooler machine, to others. {CPU_HELP}. \
         [default: all physical cores]"
    )
}

/// The flags under the keys of the settings; what is `None` overrides nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Overrides<'a> {
    model: Option<&'a PathBuf>,
    device: Option<DeviceChoice>,
    threads: Option<NonZero<usize>>,
    clouds: Option<&'a [String]>,
    insecure: Option<bool>,
    tls: TlsOverrides<'a>,
    policy: PolicyOverrides,
    budget: BudgetOverrides,
    sampling: SamplingOverrides,
    prompt: PromptOverrides,
    seed: Option<u64>,
    on_cloud_end: Option<CloudEnd>,
    uplink: UplinkOverrides,
    log: LogOverrides<'a>,
}

#[derive(Debug, Serialize)]
struct TlsOverrides<'a> {
    certificate: Option<&'a PathBuf>,
    key: Option<&'a PathBuf>,
    authority: Option<&'a PathBuf>,
}

#[derive(Debug, Serialize)]
struct PolicyOverrides {
    kind: Option<PolicyKind>,
    entropy_threshold_nats: Option<f32>,
    call_tokens: Option<u32>,
    probability: Option<f64>,
    period_tokens: Option<u32>,
}

#[derive(Debug, Serialize)]
struct BudgetOverrides {
    max_tokens: Option<u32>,
    calls_max: Option<u32>,
}

#[derive(Debug, Serialize)]
struct SamplingOverrides {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
}

#[derive(Debug, Serialize)]
struct PromptOverrides {
    thinking: Option<bool>,
}

#[derive(Debug, Serialize)]
struct UplinkOverrides {
    call_budget_ms: Option<u32>,
}

#[derive(Debug, Serialize)]
struct LogOverrides<'a> {
    filter: Option<&'a str>,
}

impl Options {
    /// The settings these flags stand for.
    pub(crate) fn overrides(&self) -> Overrides<'_> {
        Overrides {
            model: self.model.as_ref(),
            device: self.device,
            threads: self.threads,
            clouds: (!self.cloud.is_empty()).then_some(self.cloud.as_slice()),
            insecure: self.insecure.then_some(true),
            tls: TlsOverrides {
                certificate: self.tls_certificate.as_ref(),
                key: self.tls_key.as_ref(),
                authority: self.tls_authority.as_ref(),
            },
            policy: PolicyOverrides {
                kind: self.policy,
                entropy_threshold_nats: self.entropy_threshold,
                call_tokens: self.call_tokens,
                probability: self.probability,
                period_tokens: self.period,
            },
            budget: BudgetOverrides { max_tokens: self.max_tokens, calls_max: self.calls_max },
            sampling: SamplingOverrides {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
            },
            prompt: PromptOverrides { thinking: self.thinking },
            seed: self.seed,
            on_cloud_end: self.on_cloud_end,
            uplink: UplinkOverrides { call_budget_ms: self.call_budget_ms },
            log: LogOverrides { filter: self.log.as_deref() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use relay_edge::EdgeSettings;
    use relay_edge::config::ENV_PREFIX;

    fn settings(arguments: &str) -> EdgeSettings {
        let arguments = format!("relay-edge ask {arguments} question");
        let line = CommandLine::try_parse_from(arguments.split_whitespace()).unwrap();
        let Command::Ask(ask) = line.command else { panic!("not ask") };
        let overrides = ask.options.overrides();
        relay_chassis::settings::load_from(None, ENV_PREFIX, [], &overrides).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_sets_its_key() {
        let set = settings(
            "--model m.gguf --device cuda:1 --threads 3 --cloud https://a --cloud https://b --insecure \
             --tls-certificate c --tls-key k --tls-authority a --call-budget-ms 5 --policy entropy \
             --entropy-threshold 1.5 --call-tokens 7 --probability 0.25 --period 9 --calls-max 3 \
             --on-cloud-end resume --max-tokens 99 --temperature 0.5 --top-k 4 --top-p 0.75 \
             --min-p 0.125 --thinking false --seed 18446744073709551615 --log debug",
        );
        let mut expected = EdgeSettings {
            model: "m.gguf".into(),
            device: DeviceChoice::Cuda(1),
            threads: NonZero::new(3),
            clouds: vec!["https://a".into(), "https://b".into()],
            insecure: true,
            tls: Some(relay_chassis::tls::TlsFiles {
                certificate: "c".into(),
                key: "k".into(),
                authority: "a".into(),
            }),
            seed: Some(u64::MAX),
            on_cloud_end: CloudEnd::Resume,
            ..EdgeSettings::default()
        };
        expected.policy.kind = PolicyKind::Entropy;
        expected.policy.entropy_threshold_nats = 1.5;
        expected.policy.call_tokens = 7;
        expected.policy.probability = 0.25;
        expected.policy.period_tokens = 9;
        expected.budget.calls_max = 3;
        expected.budget.max_tokens = 99;
        expected.sampling.temperature = 0.5;
        expected.sampling.top_k = 4;
        expected.sampling.top_p = 0.75;
        expected.sampling.min_p = 0.125;
        expected.prompt.thinking = Some(false);
        expected.uplink.call_budget_ms = 5;
        expected.log.filter = "debug".into();
        assert_eq!(set, expected);
    }

    #[test]
    fn a_cache_s_precision_is_spelt_as_in_the_settings() {
        for (text, expected) in
            [("f16", Some(KvPrecision::F16)), ("f32", Some(KvPrecision::F32)), ("bf16", None)]
        {
            let parsed = kv_precision(text);
            assert_eq!(parsed.as_ref().ok(), expected.as_ref(), "{text}");
            match parsed {
                Ok(precision) => assert_eq!(precision.to_string(), text),
                Err(error) => assert!(error.to_string().contains("`f16` or `f32`"), "{error}"),
            }
        }
    }

    #[test]
    fn flags_left_out_change_nothing() {
        assert_eq!(settings(""), EdgeSettings::default());
    }

    #[test]
    fn defaults_in_the_help_are_the_defaults() {
        let help = CommandLine::command()
            .find_subcommand_mut("ask")
            .map(|ask| ask.render_long_help().to_string())
            .unwrap();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(CPU_HELP), "{help}");
        let defaults = EdgeSettings::default();
        for (flag, value) in [
            ("--model", defaults.model.display().to_string()),
            ("--device", defaults.device.to_string()),
            ("--call-budget-ms", defaults.uplink.call_budget_ms.to_string()),
            ("--entropy-threshold", format!("{:.1}", defaults.policy.entropy_threshold_nats)),
            ("--call-tokens", defaults.policy.call_tokens.to_string()),
            ("--probability", defaults.policy.probability.to_string()),
            ("--period", defaults.policy.period_tokens.to_string()),
            ("--calls-max", defaults.budget.calls_max.to_string()),
            ("--max-tokens", defaults.budget.max_tokens.to_string()),
            ("--temperature", defaults.sampling.temperature.to_string()),
            ("--log", defaults.log.filter),
        ] {
            let own = help.split(&format!("{flag} <")).nth(1).unwrap();
            let told = own.split("[default: ").nth(1).unwrap();
            assert!(told.starts_with(&format!("{value}]")), "{flag}: {}", &told[..20]);
        }
    }
}
