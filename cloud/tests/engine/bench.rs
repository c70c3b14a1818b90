//! An engine, turned by hand, and what an edge would do with it. Owns no rule.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use relay::call::{Accepted, CallEvent, CallRequest, CloudToken, FinishReason, Sampling};
use relay::ids::{Attempt, SessionId};
use relay::prefix::prefix_hash;
use relay::refusal::Refusal;
use relay_chassis::health::{Health, HealthState};
use relay_cloud::CloudSettings;
use relay_cloud::call::CallEvents;
use relay_cloud::engine::{Engine, EngineHandle, EngineParts};
use relay_cloud::error::CallError;
use relay_cloud::metrics::Metrics;
use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};
use relay_model::{
    KvCache, LanguageModel, LoadedModel, Logits, LogitsWanted, ModelError, ModelIdentity,
    ModelShape, Row,
};

/// Bytes, and the end of text.
pub const VOCABULARY_TOKENS: usize = 257;
/// The id that ends a text.
pub const END: u32 = 256;
/// Long enough for any test that is not about time.
const AMPLE_MS: u32 = 60_000;

/// What the watched model saw and what it does next.
#[derive(Debug, Default)]
pub struct Watch {
    /// Tokens and logits of each row of each forward pass.
    pub forwards: Mutex<Vec<Vec<(usize, LogitsWanted)>>>,
    /// What every forward pass takes.
    pub step_ms: AtomicU64,
    /// The clock.
    pub now_ms: AtomicU64,
    /// The forward pass that panics, counted from 1; 0 for none.
    pub panics_at: AtomicU64,
    /// The forward pass whose logits are not numbers, counted from 1; 0 for none.
    pub no_numbers_at: AtomicU64,
}

struct WatchedModel {
    inner: ScriptedModel,
    watch: Arc<Watch>,
}

impl LanguageModel for WatchedModel {
    fn shape(&self) -> ModelShape {
        self.inner.shape()
    }

    fn new_cache(&self) -> KvCache {
        self.inner.new_cache()
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let seen = rows.iter().map(|row| (row.tokens.len(), row.logits)).collect();
        let count = {
            let mut forwards = self.watch.forwards.lock().unwrap();
            forwards.push(seen);
            forwards.len() as u64
        };
        self.watch.now_ms.fetch_add(self.watch.step_ms.load(Ordering::SeqCst), Ordering::SeqCst);
        let logits = self.inner.forward(rows);
        assert_ne!(self.watch.panics_at.load(Ordering::SeqCst), count, "the test wants a panic");
        if self.watch.no_numbers_at.load(Ordering::SeqCst) == count {
            let none = |logits: &Logits| {
                let values = vec![f32::NAN; logits.rows() * VOCABULARY_TOKENS];
                Logits::new(values, VOCABULARY_TOKENS)
            };
            return logits.map(|logits| logits.iter().map(none).collect());
        }
        logits
    }
}

/// An engine without a thread.
pub struct Bench {
    pub engine: Engine,
    pub handle: EngineHandle,
    pub watch: Arc<Watch>,
    pub health: Health,
    pub start: Instant,
}

/// What a call's stream held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub accepted: Option<Accepted>,
    pub tokens: Vec<CloudToken>,
    pub finished: Option<FinishReason>,
    pub refused: Option<Refusal>,
    pub fault: Option<CallError>,
}

impl Told {
    /// The ids of the tokens.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// Length, cached and prefilled, of an accepted call.
    pub fn admitted(&self) -> (u32, u32, u32) {
        let accepted = self.accepted.expect("accepted");
        (accepted.length_tokens, accepted.cached_tokens, accepted.prefilled_tokens)
    }

    /// Whether anything ended the stream.
    pub fn is_over(&self) -> bool {
        self.finished.is_some() || self.refused.is_some() || self.fault.is_some()
    }

    /// Adds what the stream holds now.
    pub fn read(&mut self, events: &mut CallEvents) {
        while let Ok(item) = events.try_recv() {
            assert!(!self.is_over(), "something follows the end: {item:?}");
            match item {
                Ok(CallEvent::Accepted(accepted)) => self.accepted = Some(accepted),
                Ok(CallEvent::Token(token)) => self.tokens.push(token),
                Ok(CallEvent::Finished(finished)) => self.finished = Some(finished.reason),
                Ok(CallEvent::Refused(refusal)) => self.refused = Some(refusal),
                Err(error) => self.fault = Some(error),
            }
        }
    }
}

/// Settings small enough that every bound is near.
pub fn small() -> CloudSettings {
    CloudSettings {
        context_tokens_max: Some(96),
        call_tokens_max: 16,
        draft_tokens_max: 8,
        calls_max: 4,
        queue_calls_max: 4,
        sessions_max: 16,
        prefill_chunk_tokens: 9,
        step_tokens_max: 16,
        ..CloudSettings::default()
    }
}

/// The model's rule: all ids before, never the end of text.
pub fn rule() -> impl Fn(&[u32]) -> u32 + Send + 'static {
    hash_rule(7, 0..256)
}

impl Bench {
    pub fn new() -> Self {
        Self::with(&small(), rule())
    }

    pub fn with(settings: &CloudSettings, rule: impl Fn(&[u32]) -> u32 + Send + 'static) -> Self {
        Self::of(settings, ScriptedModel::new(VOCABULARY_TOKENS, 4096, rule))
    }

    pub fn of(settings: &CloudSettings, inner: ScriptedModel) -> Self {
        let watch = Arc::new(Watch::default());
        let model = WatchedModel { inner, watch: Arc::clone(&watch) };
        let loaded = LoadedModel {
            model: Box::new(model),
            tokenizer: Arc::new(byte_tokenizer(&[])),
            chat_template: None,
            identity: ModelIdentity { name: "scripted".to_owned(), hash: [1; 8] },
        };
        let start = Instant::now();
        let (health, time) = (Health::new(), Arc::clone(&watch));
        health.advance(HealthState::Ready);
        let description = settings.describe(&loaded);
        let bytes_per_token = loaded.model.shape().kv_bytes_per_token;
        let (engine, handle) = Engine::new(EngineParts {
            limits: settings.engine_limits(&description, bytes_per_token).unwrap(),
            model: loaded.model,
            tokenizer: loaded.tokenizer,
            description,
            clock: Arc::new(move || {
                start + Duration::from_millis(time.now_ms.load(Ordering::SeqCst))
            }),
            metrics: Metrics::new(&mut Registry::default()),
            health: health.clone(),
        });
        Self { engine, handle, watch, health, start }
    }

    /// An attempt at session 1 that knows `text` up to `base` and asks for `n`; greedy.
    pub fn request(&self, attempt: u64, base: usize, text: &[u32], n: u32) -> CallRequest {
        let described = self.handle.description();
        CallRequest {
            session: SessionId::new([1; 16]),
            attempt: Attempt::new(attempt),
            fingerprint: described.fingerprint,
            model: described.model.clone(),
            base_tokens: u32::try_from(base).unwrap(),
            base_hash: prefix_hash(&text[..base]),
            delta: text[base..].to_vec(),
            max_tokens: n,
            sampling: Sampling::GREEDY,
            seed: 11,
            draft: Vec::new(),
            budget_ms: AMPLE_MS,
        }
    }

    /// Brings a call in; the engine has not seen it yet.
    pub fn open(&self, tenant: &str, request: CallRequest) -> CallEvents {
        self.handle.call(tenant.into(), request).unwrap()
    }

    /// Turns until the call is over.
    pub fn run(&mut self, request: CallRequest) -> Told {
        self.run_as("a", request)
    }

    pub fn run_as(&mut self, tenant: &str, request: CallRequest) -> Told {
        let mut events = self.open(tenant, request);
        self.finish(&mut events)
    }

    pub fn finish(&mut self, events: &mut CallEvents) -> Told {
        let mut told = Told::default();
        for _ in 0..1000 {
            told.read(events);
            if told.is_over() {
                return told;
            }
            self.engine.turn();
        }
        panic!("the call does not end: {told:?}");
    }

    /// Takes commands in and does a step; what the call has been told since.
    pub fn turn(&mut self, events: &mut CallEvents) -> Told {
        self.engine.turn();
        let mut told = Told::default();
        told.read(events);
        told
    }

    /// Rows of the forward passes so far, as numbers of tokens; forgets them.
    pub fn rows(&self) -> Vec<Vec<usize>> {
        let forwards = std::mem::take(&mut *self.watch.forwards.lock().unwrap());
        forwards.iter().map(|rows| rows.iter().map(|(tokens, _)| *tokens).collect()).collect()
    }

    pub fn pass_ms(&self, ms: u64) {
        self.watch.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn step_takes_ms(&self, ms: u64) {
        self.watch.step_ms.store(ms, Ordering::SeqCst);
    }

    /// Forgets session 1 of a tenant; the answer is not waited for.
    pub fn forget(&mut self, tenant: &str) {
        let handle = self.handle.clone();
        let tenant: Arc<str> = tenant.into();
        let mut forgotten =
            Box::pin(async move { handle.forget(tenant, SessionId::new([1; 16])).await });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(forgotten.as_mut().poll(&mut context).is_pending(), "the engine has not turned");
        self.engine.turn();
        let answer = forgotten.as_mut().poll(&mut context);
        assert_eq!(answer, std::task::Poll::Ready(Ok(())));
    }
}

/// Ids of a text of so many tokens.
pub fn text(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|index| u32::try_from(index * 7 % 251).unwrap()).collect()
}

/// What undisturbed decoding yields after a text.
pub fn undisturbed(text: &[u32], n: u32) -> Vec<u32> {
    let mut bench = Bench::new();
    let request = bench.request(1, 0, text, n);
    let told = bench.run(request);
    assert_eq!(told.finished, Some(FinishReason::Length));
    told.ids()
}
