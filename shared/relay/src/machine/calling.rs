//! The cloud holds the baton: attempts, what arrives of them, and every way they may fail.
//!
//! The table of refusals and the rules for resyncs, retries and warm syncs (PROTOCOL.md, *The call
//! on the wire*) are written here and nowhere else.

use super::{
    ATTEMPTS_PER_CALL_MAX, Machine, Next, OnCloudEnd, OpenCall, RESYNCS_PER_CALL_MAX, State,
    WARM_RESYNCS_MAX, WarmSync, count,
};
use crate::call::{Accepted, CloudToken, FinishReason};
use crate::effect::{Author, Effect, Ending, Route};
use crate::ids::{Attempt, PrefixHash};
use crate::pending::Piece;
use crate::policy::Policy;
use crate::refusal::Refusal;

/// How a call ended when it brought less than it was granted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortfall {
    /// The LLM ended the text, and the SLM goes on.
    TextEnded,
    /// A fault: the answer is degraded and calls cool down.
    Failed,
}

impl Machine {
    pub(super) fn open_call(&mut self, call: OpenCall, effects: &mut Vec<Effect>) {
        self.account.calls += 1;
        self.account.granted_tokens += u64::from(call.tokens_left);
        self.attempt(call, true, Route::Any, effects);
    }

    pub(super) fn accepted(
        &mut self,
        attempt: Attempt,
        accepted: Accepted,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((warm, length_tokens)) = self.warm_sync.in_flight
            && warm == attempt
        {
            if accepted.length_tokens == length_tokens {
                self.acknowledged_tokens = length_tokens;
            }
            return;
        }
        let Some(mut call) = self.current_call(attempt) else { return };
        let is_ours = accepted.length_tokens == count(self.transcript.cloud_ids().len());
        if is_ours && !call.is_accepted {
            self.acknowledged_tokens = accepted.length_tokens;
            call.is_accepted = true;
            self.state = State::Calling(call);
        } else {
            // It would continue another prefix than ours: no token of it may be shown.
            self.give_up(call, effects);
        }
    }

    pub(super) fn cloud_token(
        &mut self,
        attempt: Attempt,
        token: CloudToken,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut call) = self.current_call(attempt) else {
            return;
        };
        let is_next = token.position == count(self.transcript.cloud_ids().len())
            && !self.settings.command_tokens.contains(&token.id);
        if !is_next || call.tokens_left == 0 {
            effects.push(Effect::HangUp { attempt });
            return self.retry_cut(call, effects);
        }
        if call.set_aside.take().is_some() {
            effects.push(Effect::DropLastDraft);
        }
        call.tokens_left -= 1;
        call.received.push(token.id);
        self.transcript.push_edge(Author::Llm, token.id);
        self.transcript.push_cloud(token.id);
        self.acknowledged_tokens = token.position + 1;
        self.account.llm_tokens += 1;
        self.account.total_tokens += 1;
        self.emit(Author::Llm, bytes, effects);
        self.state = State::Calling(call);
    }

    pub(super) fn cloud_stopped(
        &mut self,
        attempt: Attempt,
        reason: FinishReason,
        effects: &mut Vec<Effect>,
    ) {
        if self.end_warm_sync(attempt) {
            return;
        }
        let Some(call) = self.current_call(attempt) else {
            return;
        };
        match reason {
            FinishReason::Length | FinishReason::Draining if call.tokens_left == 0 => {
                self.complete(call, effects);
            }
            FinishReason::EndOfText => self.text_ended(call, effects),
            FinishReason::Draining => self.go_elsewhere(call, Route::Next, effects),
            FinishReason::ContextFull => {
                self.calls_over = true;
                self.alone(call, Shortfall::Failed, effects);
            }
            // `Length` before the last token is not a reason: n means n.
            FinishReason::Length
            | FinishReason::Deadline
            | FinishReason::Cancelled
            | FinishReason::Superseded => {
                self.alone(call, Shortfall::Failed, effects);
            }
        }
    }

    /// The table of refusals.
    pub(super) fn refused(
        &mut self,
        attempt: Attempt,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        if attempt == self.newest_attempt && !self.is_finished() {
            *self.account.refusals.entry(refusal.name()).or_default() += 1;
        }
        if let Refusal::ContextFull { .. } = refusal
            && attempt == self.newest_attempt
        {
            self.calls_over = true;
        }
        if self.end_warm_sync(attempt) {
            return self.warm_sync_refused(refusal);
        }
        let Some(mut call) = self.current_call(attempt) else {
            return;
        };
        match *refusal {
            Refusal::PrefixUnknown { have_tokens, have_hash } => {
                self.resync(call, have_tokens, have_hash, effects);
            }
            Refusal::VocabularyMismatch => self.go_elsewhere(call, Route::NeverAgain, effects),
            Refusal::Draining => self.go_elsewhere(call, Route::Next, effects),
            Refusal::Overloaded { retry_after_ms, .. } => {
                let route = Route::NextOrWait { wait_ms: retry_after_ms };
                self.go_elsewhere(call, route, effects);
            }
            Refusal::ModelMismatch if !call.described_again => {
                call.described_again = true;
                self.account.model_changed = true;
                self.go_elsewhere(call, Route::DescribeAgain, effects);
            }
            Refusal::StaleAttempt { highest } if !call.renumbered => {
                call.renumbered = true;
                self.newest_attempt = self.newest_attempt.max(Attempt::new(highest));
                self.go_elsewhere(call, Route::Any, effects);
            }
            Refusal::ModelMismatch
            | Refusal::StaleAttempt { .. }
            | Refusal::LimitExceeded { .. }
            | Refusal::ContextFull { .. }
            | Refusal::TooLate => self.alone(call, Shortfall::Failed, effects),
        }
    }

    pub(super) fn cut(&mut self, attempt: Attempt, effects: &mut Vec<Effect>) {
        if self.end_warm_sync(attempt) {
            self.warm_sync.off = true;
            return;
        }
        if let Some(call) = self.current_call(attempt) {
            self.retry_cut(call, effects);
        }
    }

    pub(super) fn link_down(&mut self, attempt: Attempt, effects: &mut Vec<Effect>) {
        if self.end_warm_sync(attempt) {
            self.warm_sync.off = true;
            return;
        }
        if let Some(call) = self.current_call(attempt) {
            self.alone(call, Shortfall::Failed, effects);
        }
    }

    pub(super) fn time_up(&mut self, attempt: Attempt, effects: &mut Vec<Effect>) {
        if let Some(call) = self.current_call(attempt) {
            self.give_up(call, effects);
        }
    }

    /// Takes the call out of the state if `attempt` is its newest. Whoever takes it out puts a
    /// state back on every path.
    fn current_call(&mut self, attempt: Attempt) -> Option<OpenCall> {
        if attempt != self.newest_attempt {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Calling(call) => Some(call),
            other => {
                self.state = other;
                None
            }
        }
    }

    fn attempt(
        &mut self,
        mut call: OpenCall,
        opens_call: bool,
        route: Route,
        effects: &mut Vec<Effect>,
    ) {
        if call.attempts == ATTEMPTS_PER_CALL_MAX {
            return self.alone(call, Shortfall::Failed, effects);
        }
        if let Some((attempt, _)) = self.warm_sync.in_flight.take() {
            effects.push(Effect::HangUp { attempt });
        }
        call.attempts += 1;
        call.is_accepted = false;
        let order = self.order(call.tokens_left, opens_call, route);
        effects.push(Effect::Call(order));
        self.state = State::Calling(call);
    }

    fn go_elsewhere(&mut self, call: OpenCall, route: Route, effects: &mut Vec<Effect>) {
        self.account.retries += 1;
        self.attempt(call, false, route, effects);
    }

    /// A cut stream is taken up for the tokens that are left; a cut after the last is no loss.
    fn retry_cut(&mut self, mut call: OpenCall, effects: &mut Vec<Effect>) {
        if call.tokens_left == 0 {
            return self.complete(call, effects);
        }
        if call.retries == self.settings.retries_max {
            return self.alone(call, Shortfall::Failed, effects);
        }
        call.retries += 1;
        self.go_elsewhere(call, Route::Any, effects);
    }

    /// The cloud's copy is missing or different: once from where both agree, then from 0.
    fn resync(
        &mut self,
        mut call: OpenCall,
        have_tokens: u32,
        have_hash: PrefixHash,
        effects: &mut Vec<Effect>,
    ) {
        if call.resyncs == RESYNCS_PER_CALL_MAX {
            self.acknowledged_tokens = 0;
            return self.alone(call, Shortfall::Failed, effects);
        }
        call.resyncs += 1;
        let may_agree = call.resyncs < RESYNCS_PER_CALL_MAX;
        self.agree_on(have_tokens, have_hash, may_agree);
        self.attempt(call, false, Route::Any, effects);
    }

    fn agree_on(&mut self, have_tokens: u32, have_hash: PrefixHash, may_agree: bool) {
        self.account.resyncs += 1;
        let known = have_tokens as usize <= self.transcript.cloud_ids().len();
        let agreed =
            may_agree && known && self.transcript.cloud_hash(have_tokens as usize) == have_hash;
        self.acknowledged_tokens = if agreed { have_tokens } else { 0 };
    }

    /// All n arrived: the baton goes back, or with `always` straight to the cloud again.
    fn complete(&mut self, call: OpenCall, effects: &mut Vec<Effect>) {
        let next = match self.settings.policy {
            Policy::Always => match self.grant(u32::MAX) {
                0 => Next::Draft,
                granted => {
                    self.account.requested_tokens += u64::from(granted);
                    Next::Call(OpenCall { tokens_left: granted, ..OpenCall::default() })
                }
            },
            _ => Next::Draft,
        };
        self.close_call(call, next, effects);
    }

    fn text_ended(&mut self, call: OpenCall, effects: &mut Vec<Effect>) {
        let finish = self.settings.policy == Policy::Always
            || self.settings.on_cloud_end == OnCloudEnd::Finish;
        if finish {
            return self.close_call(call, Next::Finish(Ending::CloudEndOfText), effects);
        }
        self.alone(call, Shortfall::TextEnded, effects);
    }

    fn give_up(&mut self, call: OpenCall, effects: &mut Vec<Effect>) {
        effects.push(Effect::HangUp { attempt: self.newest_attempt });
        self.alone(call, Shortfall::Failed, effects);
    }

    /// The baton goes back and the SLM goes on alone.
    fn alone(&mut self, call: OpenCall, shortfall: Shortfall, effects: &mut Vec<Effect>) {
        if shortfall == Shortfall::Failed {
            self.account.degraded = true;
            self.cool_down_tokens_left = self.settings.cool_down_tokens;
        }
        self.close_call(call, Next::Draft, effects);
    }

    /// Ends the call. Without a cloud token the SLM's text stands as it was written, less the
    /// command; an answer that ends here has no use for a draft that was set aside.
    pub(super) fn close_call(&mut self, call: OpenCall, next: Next, effects: &mut Vec<Effect>) {
        if !call.received.is_empty() {
            self.open_overlap.clear();
            effects.push(Effect::CatchUp { ids: call.received });
            return self.proceed(next, effects);
        }
        if let Some(drafted) = call.set_aside {
            if let Next::Draft = next {
                return self.take(&drafted, effects);
            }
            effects.push(Effect::DropLastDraft);
        }
        self.emit(Author::Slm, &call.surroundings, effects);
        let pieces = match call.surroundings {
            bytes if bytes.is_empty() => Vec::new(),
            bytes => vec![Piece::Text(bytes)],
        };
        self.settle(pieces, next, effects);
    }

    // Warm syncs: settled ids shipped ahead, so that a call need not wait for their prefill.

    pub(super) fn sync_ahead(&mut self, effects: &mut Vec<Effect>) {
        let Some(least) = self.settings.warm_sync_tokens else {
            return;
        };
        let WarmSync { in_flight, off, .. } = &self.warm_sync;
        let idle = in_flight.is_none() && !off && self.settings.policy != Policy::Never;
        let length_tokens = count(self.transcript.cloud_ids().len());
        let ahead = length_tokens - self.acknowledged_tokens;
        if idle && self.may_call() && ahead >= least.max(1) {
            let order = self.order(0, false, Route::Any);
            self.warm_sync.in_flight = Some((order.attempt, length_tokens));
            effects.push(Effect::WarmSync(order));
        }
    }

    /// Whether `attempt` was a warm sync in flight; it no longer is.
    fn end_warm_sync(&mut self, attempt: Attempt) -> bool {
        let ended = self.warm_sync.in_flight.is_some_and(|(warm, _)| warm == attempt);
        if ended {
            self.warm_sync.in_flight = None;
        }
        ended
    }

    fn warm_sync_refused(&mut self, refusal: &Refusal) {
        let Refusal::PrefixUnknown { have_tokens, have_hash } = refusal else {
            self.warm_sync.off = true;
            return;
        };
        self.warm_sync.resyncs += 1;
        self.warm_sync.off = self.warm_sync.resyncs > WARM_RESYNCS_MAX;
        let may_agree = self.warm_sync.resyncs < WARM_RESYNCS_MAX;
        self.agree_on(*have_tokens, *have_hash, may_agree);
    }
}
