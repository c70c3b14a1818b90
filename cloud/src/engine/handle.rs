//! The service's side of the engine: what needs no session is answered here, the rest goes
//! through a bounded channel. Cheap to clone. It must not wait for the engine to take a call.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Instant;

use relay::call::{CallRequest, Description};
use relay::ids::SessionId;
use relay::refusal::Refusal;
use tokio::sync::{oneshot, watch};

use super::{Clock, EngineParts};
use crate::admission;
use crate::call::{CallEvents, CallSender, channel};
use crate::error::CallError;
use crate::metrics::{Bound, Metrics};
use crate::store::{SessionKey, Tenant};

/// What an overloaded engine's door asks to wait.
const RETRY_AFTER_MS: u32 = 1_000;

/// What the engine is told.
pub(super) enum Command {
    Call(Box<Submission>),
    Forget {
        key: SessionKey,
        done: oneshot::Sender<()>,
    },
    /// Wakes an engine that has nothing to do, so that it reads its orders.
    Wake,
}

/// What the engine reads each turn. It comes beside the channel: a full one must not keep a
/// service from going.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    /// Nothing new is admitted; what still runs at this time ends.
    pub(super) drain_until: Option<Instant>,
    /// The thread ends after its turn.
    pub(super) stop: bool,
}

/// A well-formed attempt at this vocabulary and model, on its way to the engine.
pub(super) struct Submission {
    pub(super) key: SessionKey,
    pub(super) request: CallRequest,
    pub(super) arrived: Instant,
    pub(super) sender: CallSender,
}

/// Brings calls to the engine.
#[derive(Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    orders: Arc<watch::Sender<Orders>>,
    description: Arc<Description>,
    vocabulary_tokens: usize,
    clock: Clock,
    metrics: Metrics,
    drained: watch::Receiver<bool>,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("model", &self.description.model)
            .finish_non_exhaustive()
    }
}

impl EngineHandle {
    pub(super) fn new(
        parts: &EngineParts,
        vocabulary_tokens: usize,
        (commands, orders): (SyncSender<Command>, watch::Sender<Orders>),
        drained: watch::Receiver<bool>,
    ) -> Self {
        Self {
            commands,
            orders: Arc::new(orders),
            description: Arc::new(parts.description.clone()),
            vocabulary_tokens,
            clock: Arc::clone(&parts.clock),
            metrics: parts.metrics.clone(),
            drained,
        }
    }

    /// What Describe says.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Brings an attempt in. Dropping what comes back cancels the call within one step.
    pub fn call(&self, tenant: Tenant, request: CallRequest) -> Result<CallEvents, CallError> {
        let arrived = (self.clock)();
        admission::check_form(&request)?;
        self.metrics.attempts.inc();
        // An n over the limit is refused: it must not size the channel.
        let tokens = request.max_tokens.min(self.description.limits.call_tokens_max);
        let (sender, events) = channel(tokens);
        if let Err(refusal) = admission::check_served(&request, &self.description) {
            self.refuse(&sender, refusal);
            return Ok(events);
        }
        admission::check_ids(&request, self.vocabulary_tokens)?;
        self.note_asked(&request);
        let key = SessionKey { tenant, id: request.session };
        let submission = Submission { key, request, arrived, sender };
        match self.commands.try_send(Command::Call(Box::new(submission))) {
            Ok(()) => Ok(events),
            Err(TrySendError::Full(Command::Call(submission))) => {
                let retry_after_ms = RETRY_AFTER_MS;
                let refusal = Refusal::Overloaded { retry_after_ms, advised_tokens: 0 };
                self.refuse(&submission.sender, refusal);
                Ok(events)
            }
            Err(_) => Err(CallError::EngineAway),
        }
    }

    /// Tells the gauges what an attempt within the limits asks for.
    fn note_asked(&self, request: &CallRequest) {
        let budget_ms = request.budget_ms.min(self.description.limits.budget_ms_max);
        for (bound, asked) in [
            (Bound::CallTokens, request.max_tokens as usize),
            (Bound::DeltaTokens, request.delta.len()),
            (Bound::DraftTokens, request.draft.len()),
            (Bound::BudgetMs, budget_ms as usize),
        ] {
            self.metrics.note_most(bound, asked);
        }
    }

    /// The counters.
    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn refuse(&self, sender: &CallSender, refusal: Refusal) {
        self.metrics.count_refusal(&refusal);
        sender.refuse(refusal);
    }

    /// Drops a tenant's session and ends its call; the same whether there was one or not.
    pub async fn forget(&self, tenant: Tenant, id: SessionId) -> Result<(), CallError> {
        let (done, answer) = oneshot::channel();
        let key = SessionKey { tenant, id };
        let sent = self.commands.try_send(Command::Forget { key, done });
        sent.map_err(|error| match error {
            TrySendError::Full(_) => CallError::EngineBusy,
            TrySendError::Disconnected(_) => CallError::EngineAway,
        })?;
        answer.await.map_err(|_| CallError::EngineAway)
    }

    /// Refuses new calls from now on, and ends with `draining` what still runs at the time.
    pub fn drain(&self, until: Instant) {
        self.order(|orders| orders.drain_until = Some(until));
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
        // With a full channel the engine is awake, and reads its orders in its next turn.
        let _ = self.commands.try_send(Command::Wake);
    }

    /// Waits until a draining engine has no call left, or is gone.
    pub async fn drained(&self) {
        let mut drained = self.drained.clone();
        // An engine that is gone has no call left either.
        let _ = drained.wait_for(|drained| *drained).await;
    }

    /// Ends the engine's thread after its current turn.
    pub fn stop(&self) {
        self.order(|orders| orders.stop = true);
    }
}
