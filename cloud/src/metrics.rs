//! Every metric of this program, declared once and typed. Each bound has a gauge of how full it is
//! and one of its limit; where what is bound is not held but asked for (a message, a budget), the
//! first says the most there was since the start. No label ever holds a tenant, a session or text.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use relay::call::FinishReason;
use relay::refusal::Refusal;

/// A resource that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Sessions in the store.
    Sessions,
    /// Bytes of KV in the store.
    KvBytes,
    /// Running calls.
    RunningCalls,
    /// Waiting calls.
    QueuedCalls,
    /// Open connections.
    Connections,
    /// TLS handshakes under way.
    Handshakes,
    /// Streams of one connection.
    ConnectionStreams,
    /// Commands that wait for the engine.
    Commands,
    /// Running calls of one tenant.
    TenantRunningCalls,
    /// Running and waiting calls of one tenant.
    TenantCalls,
    /// Sessions of one tenant.
    TenantSessions,
    /// Bytes of KV that one tenant's running calls have reserved.
    TenantKvBytes,
    /// Connections of one tenant.
    TenantConnections,
    /// Tokens of one forward pass.
    StepTokens,
    /// Tokens of a cloud view.
    ContextTokens,
    /// Tokens that a call asks for.
    CallTokens,
    /// Ids of a call's delta.
    DeltaTokens,
    /// Ids of a call's draft.
    DraftTokens,
    /// Bytes of a request.
    MessageBytes,
    /// Budget of a call.
    BudgetMs,
}

impl Bound {
    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::KvBytes => "kv_bytes",
            Self::RunningCalls => "running_calls",
            Self::QueuedCalls => "queued_calls",
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::ConnectionStreams => "connection_streams",
            Self::Commands => "commands",
            Self::TenantRunningCalls => "tenant_running_calls",
            Self::TenantCalls => "tenant_calls",
            Self::TenantSessions => "tenant_sessions",
            Self::TenantKvBytes => "tenant_kv_bytes",
            Self::TenantConnections => "tenant_connections",
            Self::StepTokens => "step_tokens",
            Self::ContextTokens => "context_tokens",
            Self::CallTokens => "call_tokens",
            Self::DeltaTokens => "delta_tokens",
            Self::DraftTokens => "draft_tokens",
            Self::MessageBytes => "message_bytes",
            Self::BudgetMs => "budget_ms",
        }
    }
}

/// Which bound a gauge speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BoundLabel {
    bound: &'static str,
}

/// Why something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

type Reasons = Family<ReasonLabel, Counter>;

/// The metrics of one service; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    used: Family<BoundLabel, Gauge>,
    limit: Family<BoundLabel, Gauge>,
    refusals: Reasons,
    finishes: Reasons,
    connections_refused: Reasons,
    /// Attempts that reached the engine's door.
    pub attempts: Counter,
    /// Tokens delivered.
    pub tokens: Counter,
    /// Draft ids checked.
    pub drafted_tokens: Counter,
    /// Draft ids that were kept.
    pub accepted_draft_tokens: Counter,
    /// Ids of admitted prefixes whose KV existed.
    pub cached_tokens: Counter,
    /// Ids whose KV was computed.
    pub prefilled_tokens: Counter,
    /// Sessions evicted or expired.
    pub evicted_sessions: Counter,
    /// Steps that failed.
    pub step_faults: Counter,
    /// Time of one step.
    pub step_seconds: Histogram,
    /// Time from arrival to the first step.
    pub queue_seconds: Histogram,
    /// Seconds until the server's certificate ends.
    pub certificate_ends_seconds: Gauge<f64, AtomicU64>,
    /// How often the TLS files were found changed but wrong.
    pub certificate_reload_failures: Gauge,
}

impl Metrics {
    /// Makes and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("relay_cloud");
        Self {
            used: gauges(
                registry,
                "used",
                "How much of a bound is in use, or the most that was asked for",
            ),
            limit: gauges(registry, "limit", "The limit of a bound"),
            refusals: reasons(registry, "refusals", "Refused attempts"),
            finishes: reasons(registry, "finishes", "Ended calls"),
            connections_refused: reasons(
                registry,
                "connections_refused",
                "Connections closed before the first request",
            ),
            attempts: counter(registry, "attempts", "Attempts that were well-formed"),
            tokens: counter(registry, "tokens", "Tokens delivered"),
            drafted_tokens: counter(registry, "drafted_tokens", "Draft ids checked"),
            accepted_draft_tokens: counter(
                registry,
                "accepted_draft_tokens",
                "Draft ids that the model would have produced",
            ),
            cached_tokens: counter(registry, "cached_tokens", "Prefix ids that had KV"),
            prefilled_tokens: counter(registry, "prefilled_tokens", "Ids whose KV was computed"),
            evicted_sessions: counter(registry, "evicted_sessions", "Sessions evicted or expired"),
            step_faults: counter(registry, "step_faults", "Steps that failed"),
            step_seconds: seconds(registry, "step", "Time of one step"),
            queue_seconds: seconds(registry, "queue", "Time from arrival to the first step"),
            certificate_ends_seconds: {
                let gauge = Gauge::default();
                let help = "Time until the server's certificate ends";
                registry.register_with_unit("certificate_ends", help, Unit::Seconds, gauge.clone());
                gauge
            },
            certificate_reload_failures: {
                let gauge = Gauge::default();
                let help = "Times the TLS files were found changed but wrong";
                registry.register("certificate_reload_failures", help, gauge.clone());
                gauge
            },
        }
    }

    /// Says how much of a bound is in use.
    pub fn set_used(&self, bound: Bound, value: usize) {
        self.used.get_or_create(&BoundLabel { bound: bound.name() }).set(clamp(value));
    }

    /// Says that so much was asked for at once; the most there was is kept.
    pub fn note_most(&self, bound: Bound, value: usize) {
        let gauge = self.used.get_or_create(&BoundLabel { bound: bound.name() });
        gauge.inner().fetch_max(clamp(value), Ordering::Relaxed);
    }

    /// Says what a bound is; from then on it has both gauges.
    pub fn set_limit(&self, bound: Bound, value: usize) {
        self.note_most(bound, 0);
        self.limit.get_or_create(&BoundLabel { bound: bound.name() }).set(clamp(value));
    }

    /// Counts a refusal.
    pub fn count_refusal(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&ReasonLabel { reason: refusal.name() }).inc();
    }

    /// Counts the end of an accepted call; a fault has no finish reason.
    pub fn count_finish(&self, reason: Option<FinishReason>) {
        let reason = reason.map_or("fault", finish_name);
        self.finishes.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a connection that was closed before its first request.
    pub fn count_connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// The word for a finish reason, in metrics and logs.
pub const fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::EndOfText => "end_of_text",
        FinishReason::Deadline => "deadline",
        FinishReason::ContextFull => "context_full",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Superseded => "superseded",
        FinishReason::Draining => "draining",
    }
}

fn clamp(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Family<BoundLabel, Gauge> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn reasons(registry: &mut Registry, name: &str, help: &str) -> Reasons {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// From half a millisecond to a minute.
fn seconds(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(exponential_buckets(0.0005, 2.0, 18));
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_what_dashboards_read() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.set_used(Bound::KvBytes, 7);
        metrics.set_limit(Bound::KvBytes, 9);
        for tokens in [3, 5, 4] {
            metrics.note_most(Bound::StepTokens, tokens);
        }
        metrics.count_refusal(&Refusal::Draining);
        metrics.count_finish(None);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "relay_cloud_used{bound=\"kv_bytes\"} 7",
            "relay_cloud_limit{bound=\"kv_bytes\"} 9",
            "relay_cloud_used{bound=\"step_tokens\"} 5",
            "relay_cloud_refusals_total{reason=\"draining\"} 1",
            "relay_cloud_finishes_total{reason=\"fault\"} 1",
            "relay_cloud_step_seconds_count 0",
        ] {
            assert!(text.contains(line), "{line} in:\n{text}");
        }
    }
}
