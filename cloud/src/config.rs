//! The settings: every key with its unit, default and bounds. All checks that need no model are
//! made before the first bind; the rest when the model's shape is known. An error names the key.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use relay::call::{CallLimits, Description, PROTOCOL_VERSION};
use relay::command;
use relay::ids::{Fingerprint, ModelId};
use relay_chassis::telemetry::LogFormat;
use relay_chassis::tls::TlsFiles;
use relay_model::{DeviceChoice, DevicePrecision, EMBEDDED, KvPrecision, LoadedModel};
use relay_proto::size::message_bytes_max;
use serde::{Deserialize, Serialize};

use crate::admission::CallPlaces;
use crate::engine::{EngineLimits, kv_bytes};
use crate::scheduler::StepLimits;
use crate::store::StoreLimits;

mod limits {
    /// The largest n that a call command can ask for: five digits.
    pub(super) const CALL_TOKENS_MAX: u32 = 99_999;
    /// Longest budget, drain or life of a session that is not a mistake: a day.
    pub(super) const SECONDS_MAX: u64 = 86_400;
    /// Most calls, running or waiting, that one process can hold.
    pub(super) const CALLS_MAX: u32 = 65_536;
    /// Most sessions that one process can hold: an eviction looks at all of them, which takes this
    /// many some milliseconds.
    pub(super) const SESSIONS_MAX: u32 = 200_000;
}

/// Everything that can be set, with its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudSettings {
    /// Address of the gRPC service.
    pub listen: SocketAddr,
    /// No TLS and one tenant; on a loopback address only.
    pub insecure: bool,
    /// The certificate shown to edges, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// The authority that edges' certificates must come from, PEM.
    pub tls_authority: Option<PathBuf>,
    /// The model: a GGUF file, a Hugging Face folder, or `embedded`, the tiny pair's large one.
    pub model: PathBuf,
    /// What it computes on: `cpu`, `cuda`, `cuda:1` (a card's index) or `metal`.
    pub device: DeviceChoice,
    /// What its numbers are on a device: `bf16`, `f16` or `f32`.
    pub device_precision: DevicePrecision,
    /// What keys and values are kept as on `cpu`: `f16` or `f32`.
    pub kv_precision: KvPrecision,
    /// Threads that compute on `cpu`; as many as there are physical cores if nothing is set.
    pub threads: Option<NonZero<usize>>,
    /// Address of `/metrics`, `/livez` and `/readyz`; none are served without it.
    pub probes_listen: Option<SocketAddr>,
    /// Longest cloud view; the model's own context if it is shorter or nothing is set.
    pub context_tokens_max: Option<u32>,
    /// Most sessions kept.
    pub sessions_max: u32,
    /// How long an unused session is kept.
    pub session_ttl_s: u64,
    /// Most bytes of KV, of all sessions together.
    pub kv_bytes_max: u64,
    /// Most calls in a batch.
    pub calls_max: u32,
    /// Most calls that wait for a place in the batch.
    pub queue_calls_max: u32,
    /// The share of places, queue, sessions and connections that one tenant may have, always; and
    /// of the KV of running calls while another tenant waits. Beyond it a tenant's unused sessions
    /// are the first to go.
    pub tenant_share_percent: u32,
    /// Largest n.
    pub call_tokens_max: u32,
    /// Most draft ids of a call; never more than `call_tokens_max`.
    pub draft_tokens_max: u32,
    /// Longest budget of a call; longer ones are cut to it.
    pub budget_ms_max: u32,
    /// Most tokens of one call's prefill in a step.
    pub prefill_chunk_tokens: u32,
    /// Most tokens in a step.
    pub step_tokens_max: u32,
    /// How long running calls may take to end after SIGTERM.
    pub drain_timeout_s: u64,
    /// Longest TLS handshake, and longest silence before the first request.
    pub handshake_timeout_ms: u64,
    /// Most TLS handshakes at once.
    pub handshakes_max: u32,
    /// Most open connections.
    pub connections_max: u32,
    /// Most streams of one connection.
    pub connection_streams_max: u32,
    /// Which log lines are written, as `info` or `info,relay_cloud=debug`.
    pub log: String,
    /// How they look: `plain` or `json`.
    pub log_format: LogFormat,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7433).into(),
            insecure: false,
            tls_certificate: None,
            tls_key: None,
            tls_authority: None,
            model: PathBuf::from(EMBEDDED),
            device: DeviceChoice::default(),
            device_precision: DevicePrecision::default(),
            kv_precision: KvPrecision::default(),
            threads: None,
            probes_listen: None,
            context_tokens_max: None,
            sessions_max: 1024,
            session_ttl_s: 3600,
            kv_bytes_max: 2 << 30,
            calls_max: 16,
            queue_calls_max: 64,
            tenant_share_percent: 50,
            call_tokens_max: 1024,
            draft_tokens_max: 64,
            budget_ms_max: 120_000,
            prefill_chunk_tokens: 256,
            step_tokens_max: 512,
            drain_timeout_s: 30,
            handshake_timeout_ms: 5_000,
            handshakes_max: 64,
            connections_max: 1024,
            connection_streams_max: 64,
            log: "info".to_owned(),
            log_format: LogFormat::default(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{key}`: {reason}")]
pub struct SettingError {
    /// Which.
    pub key: &'static str,
    /// What is wrong, and what to set instead.
    pub reason: String,
}

fn wrong<T>(key: &'static str, reason: impl Into<String>) -> Result<T, SettingError> {
    Err(SettingError { key, reason: reason.into() })
}

impl CloudSettings {
    /// All checks that need no model.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_device()?;
        self.check_ranges()?;
        self.check_relations()?;
        self.tls_files().map(|_| ())
    }

    fn check_device(&self) -> Result<(), SettingError> {
        self.device.check_build().or_else(|fault| wrong("device", fault.to_string()))
    }

    fn check_ranges(&self) -> Result<(), SettingError> {
        let ranges: [(&'static str, u64, u64); 17] = [
            ("sessions_max", self.sessions_max.into(), limits::SESSIONS_MAX.into()),
            ("session_ttl_s", self.session_ttl_s, limits::SECONDS_MAX),
            ("kv_bytes_max", self.kv_bytes_max, u64::MAX),
            ("calls_max", self.calls_max.into(), limits::CALLS_MAX.into()),
            ("queue_calls_max", u64::from(self.queue_calls_max) + 1, limits::CALLS_MAX.into()),
            ("tenant_share_percent", self.tenant_share_percent.into(), 100),
            ("call_tokens_max", self.call_tokens_max.into(), limits::CALL_TOKENS_MAX.into()),
            ("draft_tokens_max", u64::from(self.draft_tokens_max) + 1, u64::from(u32::MAX)),
            ("budget_ms_max", self.budget_ms_max.into(), limits::SECONDS_MAX * 1000),
            ("prefill_chunk_tokens", self.prefill_chunk_tokens.into(), u64::from(u32::MAX)),
            ("step_tokens_max", self.step_tokens_max.into(), u64::from(u32::MAX)),
            ("drain_timeout_s", self.drain_timeout_s, limits::SECONDS_MAX),
            ("handshake_timeout_ms", self.handshake_timeout_ms, limits::SECONDS_MAX * 1000),
            ("handshakes_max", self.handshakes_max.into(), limits::CALLS_MAX.into()),
            ("connections_max", self.connections_max.into(), limits::CALLS_MAX.into()),
            ("connection_streams_max", self.connection_streams_max.into(), u64::from(u32::MAX)),
            (
                "context_tokens_max",
                self.context_tokens_max.map_or(2, u64::from),
                u64::from(u32::MAX),
            ),
        ];
        match ranges.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
            Some((key, 0, max)) => wrong(key, format!("it is 0; set 1 to {max}")),
            Some((key, value, max)) => {
                wrong(key, format!("{value} is too much; set {max} at most"))
            }
            None => Ok(()),
        }
    }

    fn check_relations(&self) -> Result<(), SettingError> {
        let calls = u64::from(self.calls_max) + u64::from(self.queue_calls_max);
        if u64::from(self.sessions_max) < calls {
            return wrong(
                "sessions_max",
                format!(
                    "{} sessions for {calls} calls (`calls_max` and `queue_calls_max`); every \
                     call needs a session: set {calls} or more",
                    self.sessions_max
                ),
            );
        }
        let piece = self.prefill_chunk_tokens.max(self.call_draft_tokens_max().saturating_add(1));
        let step = u64::from(self.calls_max) + u64::from(piece);
        if u64::from(self.step_tokens_max) < step {
            return wrong(
                "step_tokens_max",
                format!(
                    "{} tokens cannot hold one of each call (`calls_max`) and one piece of \
                     prefill or draft (`prefill_chunk_tokens`, `draft_tokens_max`); set {step} or \
                     more",
                    self.step_tokens_max
                ),
            );
        }
        Ok(())
    }

    /// Most draft ids of a call in fact: more than it may ask for are of no use.
    fn call_draft_tokens_max(&self) -> u32 {
        self.draft_tokens_max.min(self.call_tokens_max)
    }

    /// The TLS files, or none if it is to be insecure.
    pub fn tls_files(&self) -> Result<Option<TlsFiles>, SettingError> {
        let [certificate, key, authority] =
            [&self.tls_certificate, &self.tls_key, &self.tls_authority];
        if self.insecure {
            let any = certificate.is_some() || key.is_some() || authority.is_some();
            return self.check_insecure(any).map(|()| None);
        }
        let file = |name, file: &Option<PathBuf>| match file {
            Some(path) => Ok(path.clone()),
            None => wrong(
                name,
                "it is not set; make certificates with `relay-cloud pki init` and `relay-cloud \
                 pki issue NAME --server`, or set `insecure` for a loopback address",
            ),
        };
        Ok(Some(TlsFiles {
            certificate: file("tls_certificate", certificate)?,
            key: file("tls_key", key)?,
            authority: file("tls_authority", authority)?,
        }))
    }

    fn check_insecure(&self, tls_is_set: bool) -> Result<(), SettingError> {
        if tls_is_set {
            return wrong("insecure", "it is set together with TLS files; remove one of the two");
        }
        if !self.listen.ip().is_loopback() {
            return wrong(
                "insecure",
                format!(
                    "{} can be reached from other machines; set the TLS files, or listen on \
                     127.0.0.1",
                    self.listen
                ),
            );
        }
        Ok(())
    }

    /// What Describe says of this model.
    pub fn describe(&self, loaded: &LoadedModel) -> Description {
        let own = u32::try_from(loaded.model.shape().context_tokens).unwrap_or(u32::MAX);
        let context_tokens = self.context_tokens_max.map_or(own, |max| own.min(max));
        let fingerprint = loaded.tokenizer.fingerprint(&command::TAGS);
        Description {
            protocol_version: PROTOCOL_VERSION,
            model: ModelId::new(loaded.identity.name.clone(), loaded.identity.hash),
            fingerprint: Fingerprint::new(fingerprint),
            context_tokens,
            limits: CallLimits {
                call_tokens_max: self.call_tokens_max,
                delta_tokens_max: context_tokens,
                draft_tokens_max: self.call_draft_tokens_max(),
                message_bytes_max: message_bytes_max(context_tokens, self.call_tokens_max),
                budget_ms_max: self.budget_ms_max,
            },
        }
    }

    /// The engine's bounds for a model of this shape.
    pub fn engine_limits(
        &self,
        described: &Description,
        kv_bytes_per_token: usize,
    ) -> Result<EngineLimits, SettingError> {
        let kv_bytes_max = usize::try_from(self.kv_bytes_max).unwrap_or(usize::MAX);
        let one_session = kv_bytes(described.context_tokens as usize, kv_bytes_per_token);
        if kv_bytes_max < one_session {
            return wrong(
                "kv_bytes_max",
                format!(
                    "{kv_bytes_max} bytes do not hold one full context of {} tokens; set \
                     {one_session} or more, or a smaller `context_tokens_max`",
                    described.context_tokens
                ),
            );
        }
        let (calls_max, queue_calls_max) = (self.calls_max as usize, self.queue_calls_max as usize);
        Ok(EngineLimits {
            places: CallPlaces {
                calls_max,
                queue_calls_max,
                tenant_calls_max: self.share(calls_max),
                tenant_places_max: self.share(calls_max + queue_calls_max),
                call_tokens_max: self.call_tokens_max,
            },
            step: StepLimits {
                step_tokens_max: self.step_tokens_max as usize,
                prefill_chunk_tokens: self.prefill_chunk_tokens as usize,
            },
            store: StoreLimits {
                sessions_max: self.sessions_max as usize,
                tenant_sessions_max: self.share(self.sessions_max as usize),
                kv_bytes_max,
                tenant_kv_bytes: self.share(kv_bytes_max),
                ttl: Duration::from_secs(self.session_ttl_s),
            },
        })
    }

    /// Most connections of one tenant.
    pub fn tenant_connections_max(&self) -> usize {
        self.share(self.connections_max as usize)
    }

    /// A tenant's part of a whole, at least 1. Without certificates there is one tenant, which
    /// has all of it.
    fn share(&self, whole: usize) -> usize {
        if self.insecure {
            return whole;
        }
        let percent = self.tenant_share_percent as usize;
        (whole / 100 * percent + (whole % 100 * percent).div_ceil(100)).clamp(1, whole.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insecure() -> CloudSettings {
        CloudSettings { insecure: true, ..CloudSettings::default() }
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_remedy() {
        type Change = fn(&mut CloudSettings);
        let cases: [(Change, &str); 11] = [
            (|s| s.calls_max = 0, "`calls_max`: it is 0; set 1 to"),
            (|s| s.call_tokens_max = 100_000, "`call_tokens_max`: 100000 is too much; set 99999"),
            (|s| s.tenant_share_percent = 101, "`tenant_share_percent`: 101 is too much"),
            (|s| s.context_tokens_max = Some(0), "`context_tokens_max`: it is 0"),
            (|s| s.sessions_max = 79, "`sessions_max`: 79 sessions for 80 calls"),
            (|s| s.step_tokens_max = 271, "`step_tokens_max`: 271 tokens cannot"),
            (|s| s.listen = ([0, 0, 0, 0], 1).into(), "`insecure`: 0.0.0.0:1 can be reached"),
            (|s| s.tls_key = Some("k".into()), "`insecure`: it is set together with TLS"),
            (|s| s.insecure = false, "`tls_certificate`: it is not set; make certificates"),
            (|s| s.queue_calls_max = u32::MAX, "`queue_calls_max`: 4294967296 is too much"),
            (|s| s.drain_timeout_s = 100_000, "`drain_timeout_s`: 100000 is too much"),
        ];
        assert_eq!(insecure().validate(), Ok(()));
        for (change, text) in cases {
            let mut settings = insecure();
            change(&mut settings);
            let error = settings.validate().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[cfg(not(feature = "metal"))]
    #[test]
    fn a_device_the_build_lacks_is_named_with_its_remedy() {
        let settings = CloudSettings { device: DeviceChoice::Metal, ..insecure() };
        let error = settings.validate().unwrap_err().to_string();
        assert!(error.contains("`device`: device metal: this build cannot use it"), "{error}");
        assert!(error.contains("--features metal"), "{error}");
    }

    #[test]
    fn a_small_call_takes_a_small_draft() {
        let settings = CloudSettings { call_tokens_max: 8, ..insecure() };
        assert_eq!(settings.validate(), Ok(()));
        assert_eq!(settings.call_draft_tokens_max(), 8);
        assert_eq!(insecure().call_draft_tokens_max(), 64);
    }

    #[test]
    fn a_share_is_rounded_up_and_never_nothing() {
        let mut settings = CloudSettings { tenant_share_percent: 30, ..CloudSettings::default() };
        let wholes = [0, 1, 10, 11, 16, 1024, usize::MAX / 30];
        let shares = wholes.map(|whole| settings.share(whole));
        assert_eq!(shares[..6], [1, 1, 3, 4, 5, 308]);
        assert!(shares[6] < wholes[6] / 3 + 1);
        settings.insecure = true;
        assert_eq!(settings.share(1024), 1024);
    }
}
