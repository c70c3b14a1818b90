//! One step: the scheduler's plan becomes one forward pass, its logits become tokens. A fault ends
//! the calls of the batch and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use relay::call::{CloudToken, FinishReason};
use relay_model::{LanguageModel, Logits, LogitsWanted, ModelError, Row, sample};

use super::Engine;
use crate::call::{Call, End, Phase};
use crate::error::CallError;
use crate::metrics::Bound;
use crate::scheduler::{Need, Share, Work, plan};
use crate::store::{SessionKey, SessionStore};

/// One call's row of the batch.
#[derive(Debug)]
struct Part {
    number: u64,
    key: SessionKey,
    /// Ids of the log without KV, then the guess.
    input: Vec<u32>,
    guess_tokens: usize,
    wanted: LogitsWanted,
    kv_tokens: usize,
}

/// How a forward pass failed.
#[derive(Debug, thiserror::Error)]
enum BatchFault {
    /// The caches are as they were.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// What the caches hold is unknown.
    #[error("the model panicked; its message stands above")]
    Panic,
    /// What the caches hold is unknown.
    #[error("the model gave {given} rows of logits for {wanted}; this is a defect of the model")]
    Shape { given: usize, wanted: usize },
}

impl Part {
    fn is_prefill(&self) -> bool {
        self.guess_tokens == 0 && self.input.len() > 1 || self.wanted == LogitsWanted::None
    }

    fn positions(&self) -> usize {
        self.wanted.positions(self.input.len())
    }
}

impl Engine {
    /// Runs one step. False if no call needs one.
    pub(super) fn step(&mut self) -> bool {
        let parts = self.planned_parts();
        if parts.is_empty() {
            return false;
        }
        self.steps_made += 1;
        let began = (self.clock)();
        self.note_served(&parts, began);
        let step_tokens = parts.iter().map(|part| part.input.len()).sum();
        self.metrics.note_most(Bound::StepTokens, step_tokens);
        let outcome = forward(&mut *self.model, &mut self.store, &parts);
        let now = (self.clock)();
        let took = now.saturating_duration_since(began);
        self.metrics.step_seconds.observe(took.as_secs_f64());
        match outcome {
            Ok(logits) => {
                let prefill = parts.iter().filter(|part| part.is_prefill());
                let prefill_tokens = prefill.map(|part| part.input.len()).sum();
                // A short prefill costs a step whatever its length: it tells nothing of a long one.
                if prefill_tokens == 0 || prefill_tokens >= self.limits.step.prefill_chunk_tokens {
                    self.rates.observe_step(took, prefill_tokens, now);
                }
                self.metrics.prefilled_tokens.inc_by(prefill_tokens as u64);
                let settled = parts.iter().zip(&logits);
                let sound = settled.filter(|(part, logits)| self.settle(part, logits, now)).count();
                if sound > 0 {
                    self.faults_in_a_row = 0;
                } else {
                    self.note_fault();
                }
            }
            Err(fault) => self.fail(&parts, &fault, now),
        }
        true
    }

    fn planned_parts(&self) -> Vec<Part> {
        let work: Vec<Work<'_>> = self.calls.values().filter_map(|call| self.work(call)).collect();
        let shares = plan(&work, self.limits.step);
        shares.iter().filter_map(|share| self.part(*share)).collect()
    }

    fn work<'a>(&self, call: &'a Call) -> Option<Work<'a>> {
        let Phase::Running { served_step } = call.phase else { return None };
        let tenant = &call.key.tenant;
        Some(Work {
            call: call.number,
            tenant,
            need: self.need(call)?,
            served_step,
            tenant_tokens: self.turns.given(tenant),
        })
    }

    fn need(&self, call: &Call) -> Option<Need> {
        let log_tokens = self.store.get(&call.key)?.log_tokens();
        let guess_tokens = call.guess(log_tokens, self.context_tokens).len();
        call.need(self.pending_tokens(&call.key), guess_tokens)
    }

    /// Ids of the session's log that have no KV.
    pub(super) fn pending_tokens(&self, key: &SessionKey) -> usize {
        self.store.get(key).map_or(0, |session| session.log_tokens() - session.kv_tokens())
    }

    fn part(&self, share: Share) -> Option<Part> {
        let call = self.calls.get(&share.call)?;
        let session = self.store.get(&call.key)?;
        let (pending, kv_tokens) =
            (session.log_tokens() - session.kv_tokens(), session.kv_tokens());
        let guess = match self.need(call)? {
            Need::Check { .. } => call.guess(session.log_tokens(), self.context_tokens),
            Need::Prefill { .. } | Need::Decode => &[],
        };
        let log_ids = share.tokens - guess.len();
        let wanted = if !guess.is_empty() {
            LogitsWanted::All
        } else if call.is_warm_sync() || log_ids < pending {
            LogitsWanted::None
        } else {
            LogitsWanted::Last
        };
        let input = session.pending(log_ids, guess);
        debug_assert_eq!(input.len(), share.tokens);
        let (number, key) = (call.number, call.key.clone());
        Some(Part { number, key, input, guess_tokens: guess.len(), wanted, kv_tokens })
    }

    fn note_served(&mut self, parts: &[Part], now: Instant) {
        for part in parts {
            if let Some(call) = self.calls.get_mut(&part.number)
                && let Some(waited) = call.serve(self.steps_made, now)
            {
                self.metrics.queue_seconds.observe(waited.as_secs_f64());
            }
            if part.is_prefill() || part.guess_tokens > 0 {
                self.turns.give(&part.key.tenant, part.input.len());
            }
        }
    }

    /// Turns one row's logits into tokens: as long as the draft holds what the sampler itself
    /// produces, the next row's logits follow from it. What was only guessed leaves no KV. False
    /// if a row has no number in it: the call ends with a fault, and its KV goes, since what gave
    /// that row is in it.
    fn settle(&mut self, part: &Part, logits: &Logits, now: Instant) -> bool {
        let mut end = None;
        let mut used_rows = 0;
        while end.is_none() && used_rows < logits.rows() {
            let guess = part.input.get(part.input.len() - part.guess_tokens + used_rows);
            let Some((id, ended)) = self.produce(part, logits.row(used_rows), now) else {
                self.fail_call(part, now);
                return false;
            };
            used_rows += 1;
            end = ended;
            if guess.copied() != id {
                break;
            }
        }
        let kept = part.kv_tokens + part.input.len() - logits.rows() + used_rows;
        if let Some(mut session) = self.store.get_mut(&part.key) {
            session.keep_kv(kept);
        }
        if part.guess_tokens > 0 {
            self.note_draft(part, used_rows);
        }
        if end.is_none() && self.is_warm(part) {
            end = Some(FinishReason::Length);
        }
        if let Some(reason) = end {
            self.end(part.number, End::Finished(reason), now);
        }
        true
    }

    fn fail_call(&mut self, part: &Part, now: Instant) {
        tracing::error!(session = ?part.key.id, "the model gave no number for a call's next token");
        let empty = self.model.new_cache();
        if let Some(mut session) = self.store.get_mut(&part.key) {
            session.replace_cache(empty);
        }
        self.end(part.number, End::Fault(CallError::ModelFault), now);
    }

    /// One token: drawn, appended, delivered. None instead of it if it ends the text, and why the
    /// call is over if it is. Nothing at all, and nothing changed, if no id can be drawn.
    fn produce(
        &mut self,
        part: &Part,
        logits: &[f32],
        now: Instant,
    ) -> Option<(Option<u32>, Option<FinishReason>)> {
        let (Some(call), Some(mut session)) =
            (self.calls.get_mut(&part.number), self.store.get_mut(&part.key))
        else {
            debug_assert!(false, "a row of the batch has a call and a session");
            return Some((None, Some(FinishReason::Cancelled)));
        };
        let position = u32::try_from(session.log_tokens()).unwrap_or(u32::MAX);
        let sampled = sample(logits, call.sampling(), call.noise(position), &self.masked)?;
        if self.tokenizer.ends_text(sampled.id) {
            return Some((None, Some(FinishReason::EndOfText)));
        }
        session.push(sampled.id);
        self.metrics.tokens.inc();
        let token = CloudToken { id: sampled.id, log_probability: sampled.logprob, position };
        let end = if call.deliver(token, now) {
            Some(FinishReason::Length)
        } else if session.log_tokens() >= self.context_tokens {
            Some(FinishReason::ContextFull)
        } else {
            None
        };
        Some((Some(sampled.id), end))
    }

    fn note_draft(&mut self, part: &Part, used_rows: usize) {
        self.metrics.drafted_tokens.inc_by(part.guess_tokens as u64);
        let kept = used_rows.saturating_sub(1).min(part.guess_tokens);
        self.metrics.accepted_draft_tokens.inc_by(kept as u64);
        if let Some(call) = self.calls.get_mut(&part.number) {
            call.drop_draft();
        }
    }

    /// Whether a warm sync has nothing left to do.
    fn is_warm(&self, part: &Part) -> bool {
        let warm_sync = self.calls.get(&part.number).is_some_and(Call::is_warm_sync);
        warm_sync && self.pending_tokens(&part.key) == 0
    }

    /// Ends the calls of a batch that failed; their sessions lose what the step computed, or all
    /// KV where that is unknown. Logs stay.
    fn fail(&mut self, parts: &[Part], fault: &BatchFault, now: Instant) {
        tracing::error!(calls = parts.len(), %fault, "a step failed");
        self.note_fault();
        for part in parts {
            let empty = self.model.new_cache();
            if let Some(mut session) = self.store.get_mut(&part.key) {
                match fault {
                    BatchFault::Model(_) => session.keep_kv(part.kv_tokens),
                    BatchFault::Panic | BatchFault::Shape { .. } => session.replace_cache(empty),
                }
            }
            self.end(part.number, End::Fault(CallError::ModelFault), now);
        }
    }
}

/// One forward pass over the parts, in their order.
fn forward(
    model: &mut dyn LanguageModel,
    store: &mut SessionStore,
    parts: &[Part],
) -> Result<Vec<Logits>, BatchFault> {
    let keys: Vec<&SessionKey> = parts.iter().map(|part| &part.key).collect();
    let logits = store.with_caches(&keys, |caches| {
        debug_assert_eq!(caches.len(), parts.len(), "each part has its own session");
        let mut rows: Vec<Row<'_>> = caches
            .iter_mut()
            .zip(parts)
            .map(|(cache, part)| Row { tokens: &part.input, cache, logits: part.wanted })
            .collect();
        catch_unwind(AssertUnwindSafe(|| model.forward(&mut rows)))
    });
    let logits = logits.map_err(|_| BatchFault::Panic)??;
    let wanted: usize = parts.iter().map(Part::positions).sum();
    let given = logits.iter().map(Logits::rows).sum();
    let fits =
        logits.iter().zip(parts.iter()).all(|(logits, part)| logits.rows() == part.positions());
    if given != wanted || !fits || logits.len() != parts.len() {
        return Err(BatchFault::Shape { given, wanted });
    }
    Ok(logits)
}
