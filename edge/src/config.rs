//! The edge's settings: every key, its unit and default, and what it may be. Reads no file itself
//! (the chassis does) and starts nothing.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use relay::budget::Budget;
use relay::call::Sampling;
use relay::machine::OnCloudEnd;
use relay::policy::Policy;
use relay_chassis::telemetry::LogFormat;
use relay_chassis::tls::TlsFiles;
use relay_model::{DeviceChoice, DeviceFault, DevicePrecision, EMBEDDED, KvPrecision};
use serde::{Deserialize, Serialize};

use crate::breaker::BreakerLimits;

/// Bounds of the settings themselves: past them a value is a slip, not a wish.
pub mod limits {
    /// Endpoints in the list.
    pub const CLOUDS_MAX: usize = 16;
    /// Tokens of one answer, and of one call's n.
    pub const TOKENS_MAX: u32 = 1 << 20;
    /// Draft ids of one call: each costs a step of the SLM before the call can leave.
    pub const DRAFT_TOKENS_MAX: u32 = 64;
    /// Attempts after a cut stream, per call.
    pub const RETRIES_MAX: u32 = 10;
    /// Any time, in milliseconds: an hour.
    pub const TIME_MS_MAX: u32 = 3_600_000;
}

/// Prefix of the environment variables that set these keys.
pub const ENV_PREFIX: &str = "RELAY_EDGE_";

/// Everything the edge may be told. Immutable once it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeSettings {
    /// The small model: a GGUF file, a Hugging Face folder, or `embedded`, the tiny pair's.
    pub model: PathBuf,
    /// What it computes on: `cpu`, `cuda`, `cuda:1` (a card's index) or `metal`.
    pub device: DeviceChoice,
    /// What its numbers are on a device: `bf16`, `f16` or `f32`.
    pub device_precision: DevicePrecision,
    /// What keys and values are kept as on `cpu`: `f16` or `f32`.
    pub kv_precision: KvPrecision,
    /// Threads that compute on `cpu`; as many as there are physical cores if nothing is set.
    pub threads: Option<NonZero<usize>>,
    /// Addresses of clouds, best first; none means that the SLM answers alone.
    pub clouds: Vec<String>,
    /// Allows `http://` addresses, on loopback only.
    pub insecure: bool,
    /// Certificate, key and authority for `https://` addresses.
    pub tls: Option<TlsFiles>,
    /// When to call.
    pub policy: PolicySettings,
    /// How much an answer may cost.
    pub budget: BudgetSettings,
    /// How tokens are drawn, by the SLM and by the LLM.
    pub sampling: SamplingSettings,
    /// How a conversation is put into the model's chat template.
    pub prompt: PromptSettings,
    /// The seed of every answer; without one each answer gets a fresh one and reports it.
    pub seed: Option<u64>,
    /// What the LLM's end of text means.
    pub on_cloud_end: CloudEnd,
    /// For how many SLM tokens no call is made after a failed one.
    pub cool_down_tokens: u32,
    /// Ship settled ids ahead of a call once so many are not acknowledged; absent is never.
    pub warm_sync_tokens: Option<u32>,
    /// The SLM's guess of what the LLM will say, per call; 0 is none.
    pub draft_tokens_max: u32,
    /// Times and tries of the network side.
    pub uplink: UplinkSettings,
    /// When an endpoint is left alone.
    pub breaker: BreakerSettings,
    /// Where metrics and probes are served over HTTP while the program runs; absent is nowhere.
    pub probes_listen: Option<SocketAddr>,
    /// Log lines on standard error.
    pub log: LogSettings,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self {
            model: PathBuf::from(EMBEDDED),
            device: DeviceChoice::default(),
            device_precision: DevicePrecision::default(),
            kv_precision: KvPrecision::default(),
            threads: None,
            clouds: Vec::new(),
            insecure: false,
            tls: None,
            policy: PolicySettings::default(),
            budget: BudgetSettings::default(),
            sampling: SamplingSettings::default(),
            prompt: PromptSettings::default(),
            seed: None,
            on_cloud_end: CloudEnd::Finish,
            cool_down_tokens: 64,
            warm_sync_tokens: None,
            draft_tokens_max: 0,
            uplink: UplinkSettings::default(),
            breaker: BreakerSettings::default(),
            probes_listen: None,
            log: LogSettings::default(),
        }
    }
}

/// When to call, with the parameters of the policies that have some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySettings {
    /// Which policy.
    pub kind: PolicyKind,
    /// `entropy`: call where the SLM's next token is at least so uncertain, in nats.
    pub entropy_threshold_nats: f32,
    /// `entropy`, `random` and `every`: tokens to ask for (n). `learned` names its own n.
    pub call_tokens: u32,
    /// `random`: chance of a call at each token.
    pub probability: f64,
    /// `every`: SLM tokens between two calls (k).
    pub period_tokens: u32,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            kind: PolicyKind::Learned,
            entropy_threshold_nats: 2.0,
            call_tokens: 16,
            probability: 0.05,
            period_tokens: 32,
        }
    }
}

/// The policies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// The SLM writes a command: for SLMs trained to.
    Learned,
    /// Where the SLM is unsure: for any SLM.
    Entropy,
    /// By chance.
    Random,
    /// After so many tokens.
    Every,
    /// The SLM alone.
    Never,
    /// The LLM alone, as long as it answers.
    Always,
}

/// How much one answer may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetSettings {
    /// Tokens of the answer, commands and LLM tokens included.
    pub max_tokens: u32,
    /// Calls.
    pub calls_max: u32,
    /// LLM tokens.
    pub cloud_tokens_max: u32,
    /// LLM tokens of one call.
    pub call_tokens_max: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { max_tokens: 512, calls_max: 64, cloud_tokens_max: 4096, call_tokens_max: 1024 }
    }
}

/// How tokens are drawn. The default is greedy: the same question gives the same answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingSettings {
    /// 0 is greedy: no chance, and no truncation.
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set that reaches this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the best; 0 keeps all.
    pub min_p: f32,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

/// How a conversation is put into the model's chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptSettings {
    /// Whether a model that can think before it answers shall; absent is as its template has it.
    pub thinking: Option<bool>,
}

/// What the LLM's end of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CloudEnd {
    /// The answer ends.
    Finish,
    /// The SLM goes on.
    Resume,
}

/// Times and tries of the network side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UplinkSettings {
    /// What one call may take, all attempts and waits included.
    pub call_budget_ms: u32,
    /// How much longer the edge waits for the cloud's last word.
    pub budget_grace_ms: u32,
    /// Resolving, connecting, TLS, HTTP/2 and Describe together.
    pub connect_timeout_ms: u32,
    /// Longest silence in a call before its stream counts as cut. Between its admission and its
    /// first token a call may queue, as long as its budget lasts.
    pub idle_timeout_ms: u32,
    /// HTTP/2 ping while a call is under way.
    pub keepalive_interval_ms: u32,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout_ms: u32,
    /// Attempts after a cut stream, per call.
    pub retries_max: u32,
    /// First wait after a failed connection; it doubles with each further one.
    pub back_off_ms: u32,
    /// Longest such wait.
    pub back_off_max_ms: u32,
}

impl Default for UplinkSettings {
    fn default() -> Self {
        Self {
            call_budget_ms: 20_000,
            budget_grace_ms: 1_000,
            connect_timeout_ms: 3_000,
            idle_timeout_ms: 10_000,
            keepalive_interval_ms: 20_000,
            keepalive_timeout_ms: 10_000,
            retries_max: 2,
            back_off_ms: 100,
            back_off_max_ms: 5_000,
        }
    }
}

/// When an endpoint is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Consecutive failures that open an endpoint's breaker.
    pub failures: u32,
    /// How long it stays open before one probe is let through.
    pub open_ms: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 3, open_ms: 10_000 }
    }
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What is let through: `warn`, or `warn,relay_edge=debug`.
    pub filter: String,
    /// `plain` or `json`.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "warn".to_owned(), format: LogFormat::Plain }
    }
}

/// A setting that cannot be used: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{key}`: {wrong}; {fix}")]
pub struct ConfigError {
    /// The full key.
    pub key: &'static str,
    /// What is wrong.
    pub wrong: String,
    /// What to do.
    pub fix: &'static str,
}

fn refuse<T>(
    key: &'static str,
    wrong: impl Into<String>,
    fix: &'static str,
) -> Result<T, ConfigError> {
    Err(ConfigError { key, wrong: wrong.into(), fix })
}

/// Refuses a value outside of `min..=max`.
fn within(key: &'static str, value: u32, min: u32, max: u32) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let wrong = format!("{value} is not from {min} to {max}");
    refuse(key, wrong, "choose a value in that range")
}

impl EdgeSettings {
    /// Checks every key, so that nothing is found out half-way through an answer.
    ///
    /// # Errors
    /// The first key that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.model.as_os_str().is_empty() {
            return refuse(
                "model",
                "no model is named",
                "give the path of a GGUF file or of a model's folder (--model), or `embedded`",
            );
        }
        self.check_device()?;
        self.check_policy()?;
        self.check_budget()?;
        self.check_times()?;
        self.sampling()?;
        self.targets().map(drop)
    }

    fn check_device(&self) -> Result<(), ConfigError> {
        let checked = self.device.check_build();
        checked.or_else(|DeviceFault { device, what, advice }| {
            refuse("device", format!("{device}: {what}"), advice)
        })
    }

    fn check_policy(&self) -> Result<(), ConfigError> {
        let policy = &self.policy;
        let threshold = policy.entropy_threshold_nats;
        if !(threshold.is_finite() && threshold >= 0.0) {
            let wrong = format!("{threshold} is no entropy");
            return refuse("policy.entropy_threshold_nats", wrong, "choose 0 or more, such as 2.0");
        }
        if !(0.0..=1.0).contains(&policy.probability) {
            let wrong = format!("{} is no probability", policy.probability);
            return refuse("policy.probability", wrong, "choose a value from 0 to 1");
        }
        within("policy.call_tokens", policy.call_tokens, 1, limits::TOKENS_MAX)?;
        within("policy.period_tokens", policy.period_tokens, 1, limits::TOKENS_MAX)?;
        within("draft_tokens_max", self.draft_tokens_max, 0, limits::DRAFT_TOKENS_MAX)
    }

    fn check_budget(&self) -> Result<(), ConfigError> {
        let budget = &self.budget;
        within("budget.max_tokens", budget.max_tokens, 1, limits::TOKENS_MAX)?;
        within("budget.calls_max", budget.calls_max, 0, limits::TOKENS_MAX)?;
        within("budget.cloud_tokens_max", budget.cloud_tokens_max, 0, limits::TOKENS_MAX)?;
        within("budget.call_tokens_max", budget.call_tokens_max, 0, limits::TOKENS_MAX)
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let uplink = &self.uplink;
        for (key, value) in [
            ("uplink.call_budget_ms", uplink.call_budget_ms),
            ("uplink.connect_timeout_ms", uplink.connect_timeout_ms),
            ("uplink.idle_timeout_ms", uplink.idle_timeout_ms),
            ("uplink.keepalive_interval_ms", uplink.keepalive_interval_ms),
            ("uplink.keepalive_timeout_ms", uplink.keepalive_timeout_ms),
            ("uplink.back_off_ms", uplink.back_off_ms),
            ("uplink.back_off_max_ms", uplink.back_off_max_ms),
            ("breaker.open_ms", self.breaker.open_ms),
        ] {
            within(key, value, 1, limits::TIME_MS_MAX)?;
        }
        within("uplink.budget_grace_ms", uplink.budget_grace_ms, 0, limits::TIME_MS_MAX)?;
        within("uplink.retries_max", uplink.retries_max, 0, limits::RETRIES_MAX)?;
        within("breaker.failures", self.breaker.failures, 1, u32::MAX)
    }

    /// The endpoints, checked.
    ///
    /// # Errors
    /// On an address that is none, or that would send a conversation in the clear.
    pub fn targets(&self) -> Result<Vec<Target>, ConfigError> {
        if self.clouds.len() > limits::CLOUDS_MAX {
            let wrong = format!("{} addresses", self.clouds.len());
            return refuse("clouds", wrong, "name at most 16, or one name with many addresses");
        }
        self.clouds.iter().map(|url| self.target(url)).collect()
    }

    fn target(&self, url: &str) -> Result<Target, ConfigError> {
        let target = Target::parse(url)?;
        if target.is_tls && self.tls.is_none() {
            let wrong = format!("{url} needs certificates");
            return refuse(
                "tls",
                wrong,
                "set tls.certificate, tls.key and tls.authority (--tls-certificate, --tls-key, \
                 --tls-authority)",
            );
        }
        if !target.is_tls && !self.insecure {
            let wrong = format!("{url} is not encrypted");
            return refuse("clouds", wrong, "use https://, or --insecure for a test on loopback");
        }
        if !target.is_tls && !target.is_loopback() {
            let wrong = format!("{url} is not encrypted and not on loopback");
            return refuse("clouds", wrong, "use https://: http:// is for 127.0.0.1 and localhost");
        }
        Ok(target)
    }

    /// The policy with its parameters.
    pub fn policy(&self) -> Policy {
        let PolicySettings {
            kind,
            entropy_threshold_nats: threshold_nats,
            call_tokens,
            probability,
            period_tokens,
        } = self.policy;
        match kind {
            PolicyKind::Learned => Policy::Learned,
            PolicyKind::Entropy => {
                Policy::Entropy { threshold_nats, probability: 1.0, call_tokens }
            }
            PolicyKind::Random => Policy::Random { probability, call_tokens },
            PolicyKind::Every => Policy::Every { period_tokens, call_tokens },
            PolicyKind::Never => Policy::Never,
            PolicyKind::Always => Policy::Always,
        }
    }

    /// The budget of one answer of which the SLM's context leaves room for `room_tokens`.
    pub fn budget(&self, room_tokens: u32) -> Budget {
        Budget {
            calls_max: self.budget.calls_max,
            cloud_tokens_max: self.budget.cloud_tokens_max,
            response_tokens_max: self.budget.max_tokens.min(room_tokens),
            call_tokens_max: self.budget.call_tokens_max,
        }
    }

    /// How tokens are drawn.
    ///
    /// # Errors
    /// On a value no sampler can use.
    pub fn sampling(&self) -> Result<Sampling, ConfigError> {
        let SamplingSettings { temperature, top_k, top_p, min_p } = self.sampling;
        Sampling::new(temperature, top_k, top_p, min_p).or_else(|error| {
            let key = match error.field {
                "top_p" => "sampling.top_p",
                "min_p" => "sampling.min_p",
                _ => "sampling.temperature",
            };
            refuse(key, error.to_string(), "choose a value in that range")
        })
    }

    /// What the LLM's end of text means, for the machine.
    pub fn on_cloud_end(&self) -> OnCloudEnd {
        match self.on_cloud_end {
            CloudEnd::Finish => OnCloudEnd::Finish,
            CloudEnd::Resume => OnCloudEnd::Resume,
        }
    }
}

impl UplinkSettings {
    /// What one call may take.
    pub fn call_budget(&self) -> Duration {
        Duration::from_millis(self.call_budget_ms.into())
    }

    /// How much longer the edge waits.
    pub fn budget_grace(&self) -> Duration {
        Duration::from_millis(self.budget_grace_ms.into())
    }

    /// Resolving to Describe.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.into())
    }

    /// Longest silence.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms.into())
    }
}

impl BreakerSettings {
    /// The same, for a breaker.
    pub fn limits(&self) -> BreakerLimits {
        BreakerLimits { failures: self.failures, open: Duration::from_millis(self.open_ms.into()) }
    }
}

/// The address of a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Scheme and authority, as requests name them.
    pub origin: Uri,
    /// A name, resolved anew on every connection, or an address.
    pub host: String,
    /// Its port: 443 or 80 where the address names none.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub is_tls: bool,
}

const URL_FIX: &str = "write it as https://name:port";

impl Target {
    fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = || refuse("clouds", format!("`{url}` is not the address of a cloud"), URL_FIX);
        let Ok(origin) = url.trim_end_matches('/').parse::<Uri>() else {
            return wrong();
        };
        let is_tls = match origin.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return wrong(),
        };
        let has_path = !matches!(origin.path(), "" | "/") || origin.query().is_some();
        let host = origin.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let has_user = origin.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_path || has_user || host.is_empty() {
            return wrong();
        }
        let port = origin.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { origin, host, port, is_tls })
    }

    fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> EdgeSettings {
        EdgeSettings {
            model: "slm.gguf".into(),
            clouds: vec!["http://127.0.0.1:7000".into()],
            insecure: true,
            ..EdgeSettings::default()
        }
    }

    #[test]
    fn each_wrong_key_is_named_with_its_fix() {
        type Spoil = fn(&mut EdgeSettings);
        let table: [(Spoil, &str); 21] = [
            (|s| s.model = PathBuf::new(), "model"),
            (|s| s.clouds = vec!["127.0.0.1:7000".into()], "clouds"),
            (|s| s.clouds = vec!["ftp://cloud".into()], "clouds"),
            (|s| s.clouds = vec!["https://cloud/path".into()], "clouds"),
            (|s| s.clouds = vec!["https://me@cloud".into()], "clouds"),
            (|s| s.clouds = vec!["http://127.0.0.1:1".into(); 17], "clouds"),
            (|s| s.insecure = false, "clouds"),
            (|s| s.clouds = vec!["http://cloud.example:7000".into()], "clouds"),
            (|s| s.clouds = vec!["https://cloud.example".into()], "tls"),
            (|s| s.policy.entropy_threshold_nats = f32::NAN, "policy.entropy_threshold_nats"),
            (|s| s.policy.entropy_threshold_nats = -1.0, "policy.entropy_threshold_nats"),
            (|s| s.policy.probability = 1.5, "policy.probability"),
            (|s| s.policy.call_tokens = 0, "policy.call_tokens"),
            (|s| s.policy.period_tokens = 0, "policy.period_tokens"),
            (|s| s.draft_tokens_max = 65, "draft_tokens_max"),
            (|s| s.budget.max_tokens = 0, "budget.max_tokens"),
            (|s| s.uplink.call_budget_ms = 0, "uplink.call_budget_ms"),
            (|s| s.uplink.retries_max = 11, "uplink.retries_max"),
            (|s| s.breaker.failures = 0, "breaker.failures"),
            (|s| s.sampling.temperature = -0.5, "sampling.temperature"),
            (|s| s.sampling.top_p = 0.0, "sampling.top_p"),
        ];
        assert_eq!(good().validate(), Ok(()));
        for (index, (spoil, key)) in table.into_iter().enumerate() {
            let mut settings = good();
            spoil(&mut settings);
            let error = settings.validate().expect_err(key);
            assert_eq!(error.key, key, "case {index}");
            assert!(!error.fix.is_empty());
        }
    }

    #[test]
    fn an_address_is_taken_apart() {
        for (url, host, port, is_tls) in [
            ("https://cloud.example", "cloud.example", 443, true),
            ("https://cloud.example:7443/", "cloud.example", 7443, true),
            ("http://[::1]:7000", "::1", 7000, false),
            ("http://localhost", "localhost", 80, false),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.is_tls), (host, port, is_tls));
        }
    }

    #[test]
    fn the_context_bounds_the_answer() {
        assert_eq!(good().budget(100).response_tokens_max, 100);
        assert_eq!(good().budget(100_000).response_tokens_max, 512);
    }

    #[test]
    fn unknown_keys_are_refused_at_every_level() {
        for text in ["modle = 'x'", "[policy]\nkid = 'never'", "[uplink]\nidle_ms = 3"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("edge.toml");
            std::fs::write(&file, text).unwrap();
            let loaded = relay_chassis::settings::load_from::<EdgeSettings>(
                Some(&file),
                ENV_PREFIX,
                [],
                &std::collections::BTreeMap::<String, String>::new(),
            );
            let message = loaded.unwrap_err().to_string();
            assert!(message.contains("unknown setting"), "{message}");
        }
    }
}
