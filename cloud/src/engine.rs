//! The one thread that owns model and sessions. Turn by turn it takes what came in, ends what is
//! over, gives free places away and runs one step. Everything that is decided is decided
//! elsewhere: who may come in by `admission`, who runs by `scheduler`, what a log holds by
//! `session`. It must not know of gRPC or TLS.
//!
//! | File | Owns |
//! |---|---|
//! | `engine/handle.rs` | the other side of the channel: what the service calls |
//! | `engine/intake.rs` | an attempt on its way in, in PROTOCOL.md's order; *Forget* |
//! | `engine/places.rs` | free places: to whom, as far as the bytes of KV reach |
//! | `engine/step.rs` | one step: plan, forward, sample, deliver |

mod handle;
mod intake;
mod places;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use relay::call::{Description, FinishReason, LoadHint};
use relay::command;
use relay_chassis::health::{Health, HealthState};
use relay_model::{LanguageModel, TokenMask, Tokenizer};
use tokio::sync::watch;

use crate::admission::{self, CallPlaces, Load, Pace, Rates};
use crate::call::{Call, End};
use crate::metrics::{Bound, Metrics, finish_name};
use crate::scheduler::{StepLimits, Turns};
use crate::store::{SessionKey, SessionStore, StoreLimits, Tenant};

pub use handle::EngineHandle;
use handle::{Command, Orders};

mod limits {
    use std::time::Duration;

    /// Commands between service and engine: attempts and forgets. A full channel refuses with
    /// `overloaded`; the engine empties it each turn. Drain and stop do not pass through it.
    pub(super) const COMMANDS_MAX: usize = 1024;
    /// How often an idle engine looks for sessions to expire.
    pub(super) const IDLE_TURN: Duration = Duration::from_millis(500);
    /// So many failed steps in a row, and the daemon says that it needs a restart.
    pub(super) const FAULTS_IN_A_ROW_MAX: u32 = 3;
}

/// Where the engine reads the time: a test moves it by hand.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The bounds the engine keeps.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// How many calls.
    pub places: CallPlaces,
    /// How much a step.
    pub step: StepLimits,
    /// How many sessions, and how large.
    pub store: StoreLimits,
}

/// What an engine is made of.
pub struct EngineParts {
    /// The weights.
    pub model: Box<dyn LanguageModel>,
    /// Their tokenizer: which ids end the text, which exist.
    pub tokenizer: Arc<Tokenizer>,
    /// What Describe says.
    pub description: Description,
    /// The bounds.
    pub limits: EngineLimits,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// Told when steps fail again and again.
    pub health: Health,
}

/// Model, sessions and calls.
pub struct Engine {
    model: Box<dyn LanguageModel>,
    tokenizer: Arc<Tokenizer>,
    masked: TokenMask,
    context_tokens: usize,
    budget_ms_max: u32,
    limits: EngineLimits,
    clock: Clock,
    metrics: Metrics,
    health: Health,
    inbox: Receiver<Command>,
    store: SessionStore,
    calls: BTreeMap<u64, Call>,
    turns: Turns<Tenant>,
    calls_made: u64,
    steps_made: u64,
    rates: Rates,
    faults_in_a_row: u32,
    orders: watch::Receiver<Orders>,
    drained: watch::Sender<bool>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Engine");
        debug.field("calls", &self.calls.len()).field("sessions", &self.store.sessions());
        debug.field("steps_made", &self.steps_made).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine without calls, and the handle that brings it some.
    pub fn new(parts: EngineParts) -> (Self, EngineHandle) {
        let (sender, inbox): (SyncSender<Command>, _) = sync_channel(limits::COMMANDS_MAX);
        let vocabulary_tokens =
            parts.model.shape().vocabulary_tokens.min(parts.tokenizer.vocabulary_tokens());
        let (drained, watch_drained) = watch::channel(false);
        let (order, orders) = watch::channel(Orders::default());
        set_limits(&parts);
        let handle = EngineHandle::new(&parts, vocabulary_tokens, (sender, order), watch_drained);
        let engine = Self {
            masked: never_drawn(&parts),
            context_tokens: parts.description.context_tokens as usize,
            budget_ms_max: parts.description.limits.budget_ms_max,
            model: parts.model,
            tokenizer: parts.tokenizer,
            limits: parts.limits,
            clock: parts.clock,
            metrics: parts.metrics,
            health: parts.health,
            inbox,
            store: SessionStore::new(parts.limits.store),
            calls: BTreeMap::new(),
            turns: Turns::default(),
            calls_made: 0,
            steps_made: 0,
            rates: Rates::default(),
            faults_in_a_row: 0,
            orders,
            drained,
        };
        (engine, handle)
    }

    /// Runs until it is told to stop, or nobody is left who could bring a call.
    pub fn run(mut self) {
        while !self.orders.borrow().stop {
            if self.turn() {
                continue;
            }
            match self.inbox.recv_timeout(limits::IDLE_TURN) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        tracing::info!(steps = self.steps_made, "engine stops");
    }

    /// One turn: commands, ends, places, one step. False if there was nothing to step.
    pub fn turn(&mut self) -> bool {
        let mut commands = 0;
        while commands < limits::COMMANDS_MAX
            && let Ok(command) = self.inbox.try_recv()
        {
            self.obey(command);
            commands += 1;
        }
        self.metrics.note_most(Bound::Commands, commands);
        let now = (self.clock)();
        self.store.expire(now);
        self.reap(now);
        self.give_places();
        let stepped = self.step();
        self.note_state();
        stepped
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Call(submission) => self.take_in(*submission),
            Command::Forget { key, done } => {
                self.forget(&key);
                // Whoever asked may be gone; the session is too.
                let _ = done.send(());
            }
            Command::Wake => {}
        }
    }

    fn drain_until(&self) -> Option<Instant> {
        self.orders.borrow().drain_until
    }

    /// Ends what nobody reads, what has no time left and, past the drain's limit, everything.
    fn reap(&mut self, now: Instant) {
        let pace = self.rates.pace(now);
        let drain_over = self.drain_until().is_some_and(|until| now >= until);
        let over = |call: &Call| {
            let left = call.time_left(now);
            if call.is_gone() {
                Some(FinishReason::Cancelled)
            } else if drain_over {
                Some(FinishReason::Draining)
            } else if left.is_zero() || left < self.next_step(call, pace) {
                Some(FinishReason::Deadline)
            } else {
                None
            }
        };
        let ends: Vec<_> = self.calls.values().map(|call| (call.number, over(call))).collect();
        for (number, reason) in ends {
            if let Some(reason) = reason {
                self.end(number, End::Finished(reason), now);
            }
        }
    }

    /// What the call's next step takes, as far as it is measured: a piece of prefill or a decode.
    fn next_step(&self, call: &Call, pace: Pace) -> Duration {
        let pending = self.pending_tokens(&call.key);
        let piece = pending.min(self.limits.step.prefill_chunk_tokens);
        let decode = pace.step.unwrap_or_default();
        match (pace.prefill_token, u32::try_from(piece)) {
            (Some(prefill_token), Ok(piece @ 2..)) => decode.max(prefill_token * piece),
            _ => decode,
        }
    }

    /// Ends a call: its place is free, its session idle, its reader told.
    fn end(&mut self, number: u64, end: End, now: Instant) {
        let Some(call) = self.calls.remove(&number) else { return };
        self.store.set_idle(&call.key, now);
        let tenant = call.key.tenant.clone();
        if !self.calls.values().any(|other| other.key.tenant == tenant) {
            self.turns.leave(&tenant);
        }
        let reason = match &end {
            End::Finished(reason) => Some(*reason),
            End::Fault(_) => None,
        };
        self.metrics.count_finish(reason);
        let (session, reason_name) = (call.key.id, reason.map_or("fault", finish_name));
        let took = call.finish(end, self.load_hint(), now);
        tracing::debug!(?session, call = number, reason = reason_name, ?took, "call ended");
        if matches!(reason, Some(FinishReason::Length | FinishReason::EndOfText)) {
            self.rates.observe_call(took, now);
        }
    }

    fn load_hint(&self) -> LoadHint {
        admission::hint(self.load(None), &self.limits.places, &self.rates)
    }

    /// What is here, seen by a tenant's attempt at a session: the call it would supersede does
    /// not count.
    fn load(&self, seen_by: Option<&SessionKey>) -> Load {
        let mut load = Load::default();
        for call in self.calls.values().filter(|call| Some(&call.key) != seen_by) {
            *(if call.is_running() { &mut load.running_calls } else { &mut load.waiting_calls }) +=
                1;
            if seen_by.is_some_and(|key| key.tenant == call.key.tenant) {
                load.tenant_calls += 1;
            }
        }
        load
    }

    /// Tells the gauges and whoever waits for the drain.
    fn note_state(&mut self) {
        let load = self.load(None);
        let kv_bytes = self.store.kv_bytes();
        debug_assert!(kv_bytes <= self.limits.store.kv_bytes_max);
        debug_assert!(self.store.adds_up());
        self.metrics.set_used(Bound::RunningCalls, load.running_calls);
        self.metrics.set_used(Bound::QueuedCalls, load.waiting_calls);
        self.metrics.set_used(Bound::Sessions, self.store.sessions());
        self.metrics.set_used(Bound::KvBytes, kv_bytes);
        self.note_tenants();
        let evicted = self.store.evicted() - self.metrics.evicted_sessions.get();
        self.metrics.evicted_sessions.inc_by(evicted);
        if self.drain_until().is_some() && self.calls.is_empty() {
            self.drained.send_replace(true);
        }
    }

    /// Tells the gauges what the tenant has that has the most.
    fn note_tenants(&self) {
        let mut calls: BTreeMap<&Tenant, (usize, usize)> = BTreeMap::new();
        for call in self.calls.values() {
            let (all, running) = calls.entry(&call.key.tenant).or_default();
            *all += 1;
            *running += usize::from(call.is_running());
        }
        let most = |which: fn(&(usize, usize)) -> usize| calls.values().map(which).max();
        let (sessions, kv_bytes) = self.store.most_of_a_tenant();
        for (bound, used) in [
            (Bound::TenantCalls, most(|(all, _)| *all).unwrap_or_default()),
            (Bound::TenantRunningCalls, most(|(_, running)| *running).unwrap_or_default()),
            (Bound::TenantSessions, sessions),
            (Bound::TenantKvBytes, kv_bytes),
        ] {
            self.metrics.set_used(bound, used);
        }
    }

    /// Counts a failed step; when they repeat, a restart is asked for.
    fn note_fault(&mut self) {
        self.metrics.step_faults.inc();
        self.faults_in_a_row += 1;
        if self.faults_in_a_row >= limits::FAULTS_IN_A_ROW_MAX {
            self.health.advance(HealthState::Failed);
        }
    }
}

/// Bytes that a cache of so many tokens takes, in whole pages.
pub fn kv_bytes(tokens: usize, bytes_per_token: usize) -> usize {
    let pages = tokens.div_ceil(relay_model::PAGE_TOKENS);
    pages.saturating_mul(relay_model::PAGE_TOKENS).saturating_mul(bytes_per_token)
}

/// Ids the LLM may not produce: those without a text, and the command tokens of a vocabulary that
/// has them, since they never enter the cloud view.
fn never_drawn(parts: &EngineParts) -> TokenMask {
    let padding = parts.tokenizer.placeholder_ids(parts.model.shape().vocabulary_tokens);
    let commands = command::TAGS.into_iter().filter_map(|tag| parts.tokenizer.added_token_id(tag));
    TokenMask::from_ids(padding.chain(commands).collect())
}

fn set_limits(parts: &EngineParts) {
    let EngineLimits { places, step, store } = parts.limits;
    let described = parts.description.limits;
    for (bound, limit) in [
        (Bound::RunningCalls, places.calls_max),
        (Bound::QueuedCalls, places.queue_calls_max),
        (Bound::TenantRunningCalls, places.tenant_calls_max),
        (Bound::TenantCalls, places.tenant_places_max),
        (Bound::Sessions, store.sessions_max),
        (Bound::TenantSessions, store.tenant_sessions_max),
        (Bound::KvBytes, store.kv_bytes_max),
        (Bound::TenantKvBytes, store.tenant_kv_bytes),
        (Bound::Commands, limits::COMMANDS_MAX),
        (Bound::StepTokens, step.step_tokens_max),
        (Bound::ContextTokens, parts.description.context_tokens as usize),
        (Bound::CallTokens, described.call_tokens_max as usize),
        (Bound::DeltaTokens, described.delta_tokens_max as usize),
        (Bound::DraftTokens, described.draft_tokens_max as usize),
        (Bound::MessageBytes, described.message_bytes_max as usize),
        (Bound::BudgetMs, described.budget_ms_max as usize),
    ] {
        parts.metrics.set_limit(bound, limit);
    }
}
