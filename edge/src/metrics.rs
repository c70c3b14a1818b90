//! Every metric of this program, declared once, as typed handles. The registry is the caller's.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use relay::account::Account;
use relay::effect::Author;

/// Which author.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorLabel {
    author: &'static str,
}

/// Which refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// Which endpoint: its index in the settings, since an address may be private.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndpointLabel {
    endpoint: u32,
}

/// The handles; clones share the figures.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    answers: Counter,
    degraded_answers: Counter,
    calls: Counter,
    attempts: Counter,
    resyncs: Counter,
    refusals: Family<ReasonLabel, Counter>,
    tokens: Family<AuthorLabel, Counter>,
    bytes_up: Counter,
    bytes_down: Counter,
    breaker_open: Family<EndpointLabel, Gauge>,
    connections: Counter,
    connect_failures: Counter,
}

impl Metrics {
    /// Registers every handle under the prefix `relay_edge`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("relay_edge");
        own.register("answers", "Answers given", metrics.answers.clone());
        own.register(
            "degraded_answers",
            "Answers in which a call failed and the SLM went on alone",
            metrics.degraded_answers.clone(),
        );
        own.register("calls", "Calls made", metrics.calls.clone());
        own.register(
            "attempts",
            "Attempts of calls, warm syncs included",
            metrics.attempts.clone(),
        );
        own.register("resyncs", "Attempts made for an unknown prefix", metrics.resyncs.clone());
        own.register("refusals", "Refusals by reason", metrics.refusals.clone());
        own.register("tokens", "Response tokens by author", metrics.tokens.clone());
        own.register("sent_bytes", "gRPC message bytes sent", metrics.bytes_up.clone());
        own.register("received_bytes", "gRPC message bytes received", metrics.bytes_down.clone());
        own.register(
            "breaker_open",
            "1 while the endpoint's circuit breaker keeps attempts away",
            metrics.breaker_open.clone(),
        );
        own.register("connections", "Connections opened", metrics.connections.clone());
        own.register(
            "connect_failures",
            "Connections that could not be opened",
            metrics.connect_failures.clone(),
        );
        metrics
    }

    /// Counts a finished answer.
    pub fn count_answer(&self, account: &Account, bytes_up: u64, bytes_down: u64) {
        self.answers.inc();
        self.degraded_answers.inc_by(u64::from(account.degraded));
        self.calls.inc_by(u64::from(account.calls));
        self.attempts.inc_by(u64::from(account.attempts));
        self.resyncs.inc_by(u64::from(account.resyncs));
        for (reason, count) in &account.refusals {
            self.refusals.get_or_create(&ReasonLabel { reason }).inc_by(u64::from(*count));
        }
        let slm_tokens = account.total_tokens.saturating_sub(account.llm_tokens);
        for (author, tokens) in [(Author::Slm, slm_tokens), (Author::Llm, account.llm_tokens)] {
            let author = author_name(author);
            self.tokens.get_or_create(&AuthorLabel { author }).inc_by(u64::from(tokens));
        }
        self.bytes_up.inc_by(bytes_up);
        self.bytes_down.inc_by(bytes_down);
    }

    pub(crate) fn count_connection(&self, opened: bool) {
        if opened {
            self.connections.inc();
        } else {
            self.connect_failures.inc();
        }
    }

    pub(crate) fn show_breaker(&self, endpoint: usize, is_open: bool) {
        let endpoint = u32::try_from(endpoint).unwrap_or(u32::MAX);
        self.breaker_open.get_or_create(&EndpointLabel { endpoint }).set(i64::from(is_open));
    }
}

/// The name by which reports and metrics call an author.
pub const fn author_name(author: Author) -> &'static str {
    match author {
        Author::Slm => "slm",
        Author::Llm => "llm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_counted_by_author_and_reason() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let account = Account {
            calls: 2,
            llm_tokens: 3,
            total_tokens: 10,
            refusals: [("draining", 1)].into(),
            degraded: true,
            ..Account::default()
        };
        metrics.count_answer(&account, 100, 200);
        metrics.show_breaker(0, true);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "relay_edge_calls_total 2",
            "relay_edge_tokens_total{author=\"slm\"} 7",
            "relay_edge_tokens_total{author=\"llm\"} 3",
            "relay_edge_refusals_total{reason=\"draining\"} 1",
            "relay_edge_degraded_answers_total 1",
            "relay_edge_sent_bytes_total 100",
            "relay_edge_breaker_open{endpoint=\"0\"} 1",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }
}
