//! A teacher that is a cloud. Each row is a session of its own there and calls through the edge's own
//! uplink; all rows share one connection. What lets an edge go on alone is a fault here, but for a
//! full context, which a teacher in this process has as well.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use relay::call::{Description, Sampling};
use relay::event::Event;
use relay_edge::config::{BreakerSettings, UplinkSettings};
use relay_edge::metrics::Metrics;
use relay_edge::uplink::{Ask, Line, OpenAttempt, Signal, Uplink, Vocabulary};
use relay_edge::vocabulary::fingerprint;
use relay_edge::{EdgeError, EdgeSettings};
use relay_model::{ModelIdentity, Tokenizer};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout_at};

use super::RolloutError;
use super::row::Row;
use super::teacher::Link;

mod limits {
    /// Calls under way together. A cloud with the settings it comes with has places for 80, and
    /// for half of them if it knows more tenants than us.
    pub(super) const CALLS_MAX: usize = 32;
}

/// A running cloud.
pub(super) struct Cloud {
    runtime: Runtime,
    uplink: Arc<Uplink>,
    settings: UplinkSettings,
    /// What it was when it was connected to.
    description: Description,
}

impl Cloud {
    /// Connects, and compares vocabularies before any prompt leaves.
    pub(super) fn connect(
        settings: &EdgeSettings,
        tokenizer: &Tokenizer,
        vocabulary_tokens: usize,
    ) -> Result<Self, RolloutError> {
        // One cut connection fails every call on it, and no answer goes on while a breaker is open.
        let breaker = BreakerSettings { failures: u32::MAX, ..settings.breaker.clone() };
        let settings = EdgeSettings { breaker, ..settings.clone() };
        settings.validate().map_err(EdgeError::from)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(RolloutError::NoThread)?;
        let vocabulary =
            Vocabulary { fingerprint: fingerprint(tokenizer), tokens: vocabulary_tokens };
        let uplink = Arc::new(Uplink::new(&settings, vocabulary, &Metrics::default())?);
        let description = runtime.block_on(uplink.describe());
        let description = description.ok_or_else(|| gone(uplink.last_fault()))?;
        if description.fingerprint != vocabulary.fingerprint {
            return Err(RolloutError::VocabularyMismatch);
        }
        Ok(Self { runtime, uplink, settings: settings.uplink, description })
    }

    /// Which model it serves.
    pub(super) fn identity(&self) -> ModelIdentity {
        let model = &self.description.model;
        ModelIdentity { name: model.name().to_owned(), hash: *model.hash() }
    }

    /// A session for one answer.
    pub(super) fn open(&self) -> Result<Line, RolloutError> {
        Ok(Line::new(Arc::clone(&self.uplink))?)
    }

    pub(super) fn retries_max(&self) -> u32 {
        self.settings.retries_max
    }

    /// Makes all these calls, and waits for the last.
    pub(super) fn answer(
        &self,
        calling: Vec<&mut Row>,
        sampling: &relay_model::Sampling,
        tokenizer: &Tokenizer,
    ) -> Result<(), RolloutError> {
        let relay_model::Sampling { temperature, top_k, top_p, min_p } = *sampling;
        let sampling = Sampling::new(temperature, top_k, top_p, min_p)?;
        let calls = stream::iter(calling.into_iter().map(Ok));
        self.runtime.block_on(
            calls.try_for_each_concurrent(limits::CALLS_MAX, |row| {
                self.call(row, sampling, tokenizer)
            }),
        )
    }

    /// Ends these sessions, so that they take no place of others'.
    pub(super) fn forget<'a>(&self, lines: impl Iterator<Item = &'a mut Line>) {
        let farewells = stream::iter(lines);
        self.runtime.block_on(farewells.for_each_concurrent(limits::CALLS_MAX, Line::forget));
    }

    /// Every attempt of a call.
    async fn call(
        &self,
        row: &mut Row,
        sampling: Sampling,
        tokenizer: &Tokenizer,
    ) -> Result<(), RolloutError> {
        let mut deadline = Instant::now();
        while let Some(order) = row.take_order() {
            let Link::Session(line) = &mut row.link else { return Err(RolloutError::NoTeacher) };
            if order.opens_call {
                deadline = Instant::now() + self.settings.call_budget();
            }
            let attempt = order.attempt;
            let ask = Ask { sampling, seed: row.seed, draft: Vec::new(), deadline };
            let mut open = line.send(order, ask);
            while row.is_calling(attempt) {
                let Some(signal) = self.signal(&mut open, deadline).await else {
                    open.time_up();
                    return Err(self.gone_with(Event::TimeUp { attempt }));
                };
                if let Signal::Described(description) = signal {
                    self.recognise(&description)?;
                    row.machine.limit_call_tokens(description.limits.call_tokens_max);
                } else if let Some(event) = signal.event(attempt, tokenizer) {
                    row.on_cloud(event.clone(), tokenizer);
                    if row.is_left_alone() {
                        return Err(self.gone_with(event));
                    }
                }
            }
        }
        Ok(())
    }

    /// The next signal; `None` once the time of the call is over.
    async fn signal(&self, open: &mut OpenAttempt, deadline: Instant) -> Option<Signal> {
        let heard = timeout_at(deadline + self.settings.budget_grace(), open.signal()).await;
        // Without a last word its task was lost.
        heard.ok().map(|signal| signal.unwrap_or(Signal::LinkDown))
    }

    /// Another model halfway would teach another policy.
    fn recognise(&self, description: &Description) -> Result<(), RolloutError> {
        if description.model == self.description.model {
            return Ok(());
        }
        let [before, now] =
            [&self.description.model, &description.model].map(|model| model.name().to_owned());
        Err(RolloutError::TeacherChanged { before, now })
    }

    /// Why the last event ends the run.
    fn gone_with(&self, event: Event) -> RolloutError {
        gone(match event {
            Event::Refused { refusal, .. } => Some(format!("it refuses a call: {refusal}")),
            Event::CloudStopped { reason, .. } => Some(format!("it stopped a call: {reason:?}")),
            Event::TimeUp { .. } => {
                let budget_ms = self.settings.call_budget_ms;
                Some(format!("a call took longer than {budget_ms} ms (--call-budget-ms)"))
            }
            _ => self.uplink.last_fault(),
        })
    }
}

fn gone(why: Option<String>) -> RolloutError {
    RolloutError::TeacherGone(why.unwrap_or_else(|| "what it says fits no call".to_owned()))
}
