//! One admitted call, waiting or running: what it asked for, what it got and whom to tell. It must
//! not know of other calls, nor of the model.

use std::time::{Duration, Instant};

use relay::call::{
    Accepted, CallEvent, CallRequest, CloudToken, FinishReason, Finished, LoadHint, Timings,
};
use relay::refusal::Refusal;
use relay_model::{NoiseKey, Role, Sampling};
use tokio::sync::mpsc;

use crate::error::CallError;
use crate::scheduler::Need;
use crate::store::SessionKey;

mod limits {
    /// How often a call whose bytes do not fit is passed by younger ones.
    pub(super) const PASSED_CALLS_MAX: usize = 16;
}

/// What a call's stream carries.
pub type CallItem = Result<CallEvent, CallError>;

/// The reading end of a call; dropping it cancels the call within one step.
pub type CallEvents = mpsc::Receiver<CallItem>;

/// The writing end: it holds every event the call can have, so the engine never waits for a
/// reader.
#[derive(Debug)]
pub struct CallSender(mpsc::Sender<CallItem>);

/// A channel for a call of at most so many tokens: accepted, the tokens and the end.
pub fn channel(max_tokens: u32) -> (CallSender, CallEvents) {
    let (sender, receiver) = mpsc::channel((max_tokens as usize).saturating_add(2));
    (CallSender(sender), receiver)
}

impl CallSender {
    /// Delivers; a reader that is gone misses it.
    pub fn send(&self, item: CallItem) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.0.try_send(item) {
            debug_assert!(false, "a call's channel holds every event it can have");
            tracing::error!("an event did not fit its call's channel: this is a defect");
        }
    }

    /// Delivers a refusal, the only event of its stream.
    pub fn refuse(&self, refusal: Refusal) {
        self.send(Ok(CallEvent::Refused(refusal)));
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Admitted, without a place.
    Waiting,
    /// In the batch.
    Running {
        /// The step that served it last, or in which it got its place.
        served_step: u64,
    },
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With a last word.
    Finished(FinishReason),
    /// With a status.
    Fault(CallError),
}

/// One admitted call.
#[derive(Debug)]
pub struct Call {
    /// Older calls have lower numbers.
    pub number: u64,
    /// Its session.
    pub key: SessionKey,
    /// Waiting or running.
    pub phase: Phase,
    passed_calls: usize,
    max_tokens: u32,
    produced_tokens: u32,
    draft: Vec<u32>,
    sampling: Sampling,
    seed: u64,
    clock: CallClock,
    sender: CallSender,
}

/// When what happened to a call.
#[derive(Clone, Copy, Debug)]
struct CallClock {
    arrived: Instant,
    deadline: Instant,
    began: Option<Instant>,
    decoding: Option<Instant>,
}

impl Call {
    /// A call that waits.
    pub fn new(
        number: u64,
        key: SessionKey,
        request: CallRequest,
        (arrived, deadline): (Instant, Instant),
        sender: CallSender,
    ) -> Self {
        let sampling = Sampling {
            temperature: request.sampling.temperature(),
            top_k: request.sampling.top_k(),
            top_p: request.sampling.top_p(),
            min_p: request.sampling.min_p(),
        };
        Self {
            number,
            key,
            phase: Phase::Waiting,
            passed_calls: 0,
            max_tokens: request.max_tokens,
            produced_tokens: 0,
            draft: request.draft,
            sampling,
            seed: request.seed,
            clock: CallClock { arrived, deadline, began: None, decoding: None },
            sender,
        }
    }

    /// Whether it only fills the cache.
    pub const fn is_warm_sync(&self) -> bool {
        self.max_tokens == 0
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.sender.is_gone()
    }

    /// Whether it runs.
    pub const fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// So many younger calls were given a place while its bytes did not fit.
    pub const fn note_passed(&mut self, calls: usize) {
        self.passed_calls = self.passed_calls.saturating_add(calls);
    }

    /// Whether it was passed as often as a call may be: nobody goes before it any more.
    pub const fn is_overdue(&self) -> bool {
        self.passed_calls >= limits::PASSED_CALLS_MAX
    }

    /// What is left until its deadline.
    pub fn time_left(&self, now: Instant) -> Duration {
        self.clock.deadline.saturating_duration_since(now)
    }

    /// Most tokens it may still produce.
    pub const fn tokens_left(&self) -> u32 {
        self.max_tokens - self.produced_tokens
    }

    /// How the sampler draws.
    pub const fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The noise of the token at a position of the cloud view.
    pub fn noise(&self, position: u32) -> NoiseKey {
        NoiseKey::new(self.seed, Role::Llm, position)
    }

    /// The draft ids worth forwarding: as many as may be followed by another token. The draft's
    /// last id and those beyond the context need no forwarding to be compared.
    pub fn guess(&self, log_tokens: usize, context_tokens: usize) -> &[u32] {
        let room = context_tokens.saturating_sub(log_tokens + 1);
        let most = room.min((self.tokens_left() as usize).saturating_sub(1));
        self.draft.get(..self.draft.len().min(most)).unwrap_or_default()
    }

    /// A draft is checked once.
    pub fn drop_draft(&mut self) {
        self.draft = Vec::new();
    }

    /// What it needs next, with so many ids of its log without KV. None if it needs nothing.
    pub fn need(&self, pending_tokens: usize, guess_tokens: usize) -> Option<Need> {
        let prefill = |tokens| Some(Need::Prefill { tokens });
        match (pending_tokens, guess_tokens) {
            (0, _) => None,
            (tokens, _) if self.is_warm_sync() => prefill(tokens),
            (1, 0) => Some(Need::Decode),
            (1, guess) => Some(Need::Check { tokens: 1 + guess }),
            (tokens, 0) => prefill(tokens),
            // The last id goes with the guess.
            (tokens, _) => prefill(tokens - 1),
        }
    }

    /// Tells that the log now holds base and delta.
    pub fn accept(&self, accepted: Accepted) {
        self.sender.send(Ok(CallEvent::Accepted(accepted)));
    }

    /// A step serves it; its first one ends the wait, which is returned.
    pub fn serve(&mut self, step: u64, now: Instant) -> Option<Duration> {
        debug_assert!(self.is_running());
        self.phase = Phase::Running { served_step: step };
        let first = self.clock.began.is_none();
        self.clock.began.get_or_insert(now);
        first.then(|| now.saturating_duration_since(self.clock.arrived))
    }

    /// Delivers a token. True if it was the last one asked for.
    pub fn deliver(&mut self, token: CloudToken, now: Instant) -> bool {
        debug_assert!(self.produced_tokens < self.max_tokens);
        self.clock.decoding.get_or_insert(now);
        self.produced_tokens += 1;
        self.sender.send(Ok(CallEvent::Token(token)));
        self.produced_tokens == self.max_tokens
    }

    /// The last word. Returns how long the call was here.
    pub fn finish(self, end: End, load: LoadHint, now: Instant) -> Duration {
        let timings = self.clock.timings(now);
        self.sender.send(match end {
            End::Finished(reason) => Ok(CallEvent::Finished(Finished { reason, timings, load })),
            End::Fault(error) => Err(error),
        });
        now.saturating_duration_since(self.clock.arrived)
    }
}

impl CallClock {
    fn timings(&self, now: Instant) -> Timings {
        let began = self.began.unwrap_or(now);
        let decoding = self.decoding.unwrap_or(now);
        Timings {
            queue_ms: millis(began.saturating_duration_since(self.arrived)),
            prefill_ms: millis(decoding.saturating_duration_since(began)),
            decode_ms: millis(now.saturating_duration_since(decoding)),
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
