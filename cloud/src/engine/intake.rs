//! An attempt on its way in, in the order PROTOCOL.md gives: draining and load; attempt number;
//! base, context, time. What fails before the number leaves no trace; from the number on it
//! counts and the older attempt is over, even if this one is then refused.

use std::time::{Duration, Instant};

use relay::call::{Accepted, CallRequest, FinishReason};
use relay::ids::Attempt;
use relay::prefix::prefix_hash;
use relay::refusal::{LimitField, Refusal};

use super::Engine;
use super::handle::Submission;
use crate::admission;
use crate::call::{Call, End};
use crate::metrics::Bound;
use crate::session::{BaseUnknown, Fit};
use crate::store::SessionKey;

impl Engine {
    pub(super) fn take_in(&mut self, submission: Submission) {
        let Submission { key, request, arrived, sender } = submission;
        let now = (self.clock)();
        let budget_ms = request.budget_ms.min(self.budget_ms_max);
        let deadline = arrived + Duration::from_millis(budget_ms.into());
        match self.admit(&key, &request, deadline, now) {
            Err(refusal) => {
                tracing::debug!(session = ?key.id, reason = refusal.name(), "attempt refused");
                self.metrics.count_refusal(&refusal);
                sender.refuse(refusal);
            }
            Ok(accepted) => {
                self.calls_made += 1;
                let times = (arrived, deadline);
                let call = Call::new(self.calls_made, key, request, times, sender);
                call.accept(accepted);
                self.join(call, now);
            }
        }
    }

    /// A call that is admitted waits for a place, unless it has nothing to do.
    fn join(&mut self, call: Call, now: Instant) {
        let pending = self.pending_tokens(&call.key);
        debug_assert!(call.is_warm_sync() || pending > 0);
        self.store.set_waiting(&call.key);
        self.turns.come(call.key.tenant.clone());
        let number = call.number;
        self.calls.insert(number, call);
        if pending == 0 {
            self.end(number, End::Finished(FinishReason::Length), now);
        }
    }

    fn admit(
        &mut self,
        key: &SessionKey,
        request: &CallRequest,
        deadline: Instant,
        now: Instant,
    ) -> Result<Accepted, Refusal> {
        if self.drain_until().is_some() {
            return Err(Refusal::Draining);
        }
        admission::check_load(self.load(Some(key)), &self.limits.places, &self.rates)?;
        self.store.expire(now);
        self.take_number(key, request.attempt, now)?;
        let fit = self.fit(key, request)?;
        if fit.length_tokens >= self.context_tokens {
            let context_tokens = u32::try_from(self.context_tokens).unwrap_or(u32::MAX);
            return Err(Refusal::ContextFull { context_tokens });
        }
        if request.max_tokens > 0 {
            let left = deadline.saturating_duration_since(now);
            let prefill_tokens = fit.length_tokens - fit.cached_tokens;
            admission::check_time(prefill_tokens, left, self.rates.pace(now))?;
        }
        self.commit(key, request, fit, now)
    }

    /// The number counts from here on, and what is in flight is over.
    fn take_number(&mut self, key: &SessionKey, new: Attempt, now: Instant) -> Result<(), Refusal> {
        let fresh = match self.store.get_mut(key) {
            Some(mut session) => session.take_number(new),
            None => new > Attempt::default(),
        };
        if !fresh {
            let highest = self.store.get(key).map_or(0, |session| session.highest().number());
            return Err(Refusal::StaleAttempt { highest });
        }
        self.end_call_of(key, FinishReason::Superseded, now);
        Ok(())
    }

    fn fit(&self, key: &SessionKey, request: &CallRequest) -> Result<Fit, Refusal> {
        let base = request.base_tokens as usize;
        let nothing = BaseUnknown { have_tokens: 0, have_hash: prefix_hash(&[]) };
        let fit = match self.store.get(key) {
            Some(session) => session.fit(base, request.base_hash, &request.delta),
            None if base > 0 => Err(nothing),
            None => {
                let length_tokens = request.delta.len();
                Ok(Fit { length_tokens, equal_tokens: 0, cached_tokens: 0 })
            }
        };
        fit.map_err(|unknown| Refusal::PrefixUnknown {
            have_tokens: tokens(unknown.have_tokens),
            have_hash: unknown.have_hash,
        })
    }

    /// The log becomes base plus delta. To say what follows, the last id is forwarded once more
    /// even if it has KV.
    fn commit(
        &mut self,
        key: &SessionKey,
        request: &CallRequest,
        fit: Fit,
        now: Instant,
    ) -> Result<Accepted, Refusal> {
        if self.store.get(key).is_none() {
            let full = Refusal::LimitExceeded {
                field: LimitField::Sessions,
                limit: self.limits.store.tenant_sessions_max as u64,
            };
            let opened = self.store.open(key, self.model.new_cache(), now);
            opened.map_err(|_| full)?.take_number(request.attempt);
        }
        if let Some(mut session) = self.store.get_mut(key) {
            session.admit(fit, &request.delta);
            if request.max_tokens > 0 {
                session.keep_kv(fit.length_tokens.saturating_sub(1));
            }
        }
        self.metrics.note_most(Bound::ContextTokens, fit.length_tokens);
        self.metrics.cached_tokens.inc_by(fit.cached_tokens as u64);
        Ok(Accepted {
            length_tokens: tokens(fit.length_tokens),
            cached_tokens: tokens(fit.cached_tokens),
            prefilled_tokens: tokens(fit.length_tokens - fit.cached_tokens),
        })
    }

    /// Drops a session and ends its call; nothing tells whether there was one.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        let now = (self.clock)();
        self.end_call_of(key, FinishReason::Cancelled, now);
        self.store.remove(key);
    }

    fn end_call_of(&mut self, key: &SessionKey, reason: FinishReason, now: Instant) {
        let of_session = self.calls.values().find(|call| call.key == *key);
        if let Some(number) = of_session.map(|call| call.number) {
            self.end(number, End::Finished(reason), now);
        }
    }
}

/// Lengths are at most the context, which fits the wire.
fn tokens(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
