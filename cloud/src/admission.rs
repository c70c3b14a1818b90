//! Whether an attempt may come in: pure decisions over what was asked and what is measured. It
//! must not know of sessions' contents or of channels; the engine asks in PROTOCOL.md's order.

use std::time::{Duration, Instant};

use relay::call::{CallRequest, Description, LoadHint};
use relay::prefix::prefix_hash;
use relay::refusal::{LimitField, Refusal};

use crate::error::CallError;

mod limits {
    use std::time::Duration;

    /// A measurement older than this says nothing: what was slow then may be fast now, and a
    /// cloud that refuses everything would never measure again.
    pub(super) const MEASURE_AGE_MAX: Duration = Duration::from_secs(10);
    /// Shortest and longest time an overloaded cloud asks to wait, and the one it asks for before
    /// it has measured anything.
    pub(super) const RETRY_AFTER_MS_MIN: u32 = 50;
    pub(super) const RETRY_AFTER_MS_MAX: u32 = 10_000;
    pub(super) const RETRY_AFTER_MS_UNKNOWN: u32 = 1_000;
    /// How much of a moving average a new value is.
    pub(super) const MEASURE_WEIGHT: f64 = 0.25;
}

/// The ids are some of this vocabulary; asked once the fingerprint is known to fit, since another
/// vocabulary's ids are a refusal and not a fault.
pub fn check_ids(request: &CallRequest, vocabulary_tokens: usize) -> Result<(), CallError> {
    let mut ids = request.delta.iter().chain(&request.draft);
    match ids.find(|id| **id as usize >= vocabulary_tokens) {
        Some(id) => Err(CallError::malformed(format!(
            "token id {id} is not below the vocabulary's {vocabulary_tokens}; send ids of the \
             vocabulary that Describe's fingerprint names"
        ))),
        None => Ok(()),
    }
}

/// Well-formed: a text to continue, a base that can exist, a draft no longer than what is asked.
pub fn check_form(request: &CallRequest) -> Result<(), CallError> {
    if request.base_tokens == 0 && request.delta.is_empty() {
        return Err(CallError::malformed(
            "base and delta are empty; send at least one token to continue from".to_owned(),
        ));
    }
    if request.base_tokens == 0 && request.base_hash != prefix_hash(&[]) {
        return Err(CallError::malformed(
            "base 0 comes with another hash than that of no ids; hash the ids before the delta"
                .to_owned(),
        ));
    }
    if request.draft.len() > request.max_tokens as usize {
        return Err(CallError::malformed(format!(
            "{} draft ids for a call of {} tokens; send at most as many as are asked for",
            request.draft.len(),
            request.max_tokens
        )));
    }
    Ok(())
}

/// Vocabulary, model and limits are those that Describe named.
pub fn check_served(request: &CallRequest, served: &Description) -> Result<(), Refusal> {
    if request.fingerprint != served.fingerprint {
        return Err(Refusal::VocabularyMismatch);
    }
    // The name is for people; the hash tells models apart.
    if request.model.hash() != served.model.hash() {
        return Err(Refusal::ModelMismatch);
    }
    let limits = &served.limits;
    let asked = [
        (LimitField::CallTokens, request.max_tokens as usize, limits.call_tokens_max),
        (LimitField::DeltaTokens, request.delta.len(), limits.delta_tokens_max),
        (LimitField::DraftTokens, request.draft.len(), limits.draft_tokens_max),
    ];
    match asked.into_iter().find(|(_, asked, limit)| *asked > *limit as usize) {
        Some((field, _, limit)) => Err(Refusal::LimitExceeded { field, limit: limit.into() }),
        None => Ok(()),
    }
}

/// How many calls may be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPlaces {
    /// Running calls.
    pub calls_max: usize,
    /// Waiting calls.
    pub queue_calls_max: usize,
    /// Running calls of one tenant.
    pub tenant_calls_max: usize,
    /// Running and waiting calls of one tenant.
    pub tenant_places_max: usize,
    /// Most tokens of one call, from which the advice is reckoned.
    pub call_tokens_max: u32,
}

/// How many calls are here, without the one that the attempt would supersede.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Running calls.
    pub running_calls: usize,
    /// Waiting calls.
    pub waiting_calls: usize,
    /// Calls of the same tenant, running and waiting.
    pub tenant_calls: usize,
}

/// Whether there is a place for one more.
pub fn check_load(load: Load, places: &CallPlaces, rates: &Rates) -> Result<(), Refusal> {
    let full = load.running_calls + load.waiting_calls >= places.calls_max + places.queue_calls_max;
    if full || load.tenant_calls >= places.tenant_places_max {
        let LoadHint { advised_tokens, retry_after_ms, .. } = hint(load, places, rates);
        return Err(Refusal::Overloaded { retry_after_ms, advised_tokens });
    }
    Ok(())
}

/// How busy the cloud is: with nobody waiting it advises nothing; else an n that gives each one
/// who waits its part, and the time in which the queue moves up by a round.
pub fn hint(load: Load, places: &CallPlaces, rates: &Rates) -> LoadHint {
    let queue_calls = u32::try_from(load.waiting_calls).unwrap_or(u32::MAX);
    if load.waiting_calls == 0 && load.running_calls < places.calls_max {
        return LoadHint { queue_calls, advised_tokens: 0, retry_after_ms: 0 };
    }
    let calls_max = u32::try_from(places.calls_max).unwrap_or(u32::MAX);
    let rounds = queue_calls / calls_max.max(1) + 1;
    let retry = rates.call_ms().map_or(limits::RETRY_AFTER_MS_UNKNOWN, |ms| {
        ms.saturating_mul(rounds).clamp(limits::RETRY_AFTER_MS_MIN, limits::RETRY_AFTER_MS_MAX)
    });
    let advised_tokens = (places.call_tokens_max / rounds).max(1);
    LoadHint { queue_calls, advised_tokens, retry_after_ms: retry }
}

/// Too late only if, by measured rates, not even the first token can be ready in what is left.
pub fn check_time(prefill_tokens: usize, left: Duration, pace: Pace) -> Result<(), Refusal> {
    let prefill = pace.prefill_token.unwrap_or_default();
    let tokens = u32::try_from(prefill_tokens).unwrap_or(u32::MAX);
    let first_token = prefill.saturating_mul(tokens) + pace.step.unwrap_or_default();
    if first_token > left { Err(Refusal::TooLate) } else { Ok(()) }
}

/// What one step and one prefilled token take, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// A step in which nobody prefilled.
    pub step: Option<Duration>,
    /// A prefilled token.
    pub prefill_token: Option<Duration>,
}

/// Moving averages of what the engine measured lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    step: Measured,
    prefill_token: Measured,
    call: Measured,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured(Option<(f64, Instant)>);

impl Measured {
    fn observe(&mut self, value: Duration, now: Instant) {
        let value = value.as_secs_f64();
        let average = match self.fresh(now) {
            Some(old) => old + (value - old) * limits::MEASURE_WEIGHT,
            None => value,
        };
        self.0 = Some((average, now));
    }

    fn fresh(&self, now: Instant) -> Option<f64> {
        let (value, at) = self.0?;
        (now.saturating_duration_since(at) <= limits::MEASURE_AGE_MAX).then_some(value)
    }
}

impl Rates {
    /// A step took so long and prefilled so many tokens.
    pub fn observe_step(&mut self, took: Duration, prefill_tokens: usize, now: Instant) {
        match u32::try_from(prefill_tokens) {
            Ok(0) | Err(_) => self.step.observe(took, now),
            Ok(tokens) => self.prefill_token.observe(took / tokens, now),
        }
    }

    /// A call took so long from admission to end.
    pub fn observe_call(&mut self, took: Duration, now: Instant) {
        self.call.observe(took, now);
    }

    /// What is known now.
    pub fn pace(&self, now: Instant) -> Pace {
        let known = |measured: Measured| measured.fresh(now).map(Duration::from_secs_f64);
        Pace { step: known(self.step), prefill_token: known(self.prefill_token) }
    }

    fn call_ms(&self) -> Option<u32> {
        // A length of calls that is some minutes old still says more than a guess.
        let (seconds, _) = self.call.0?;
        u32::try_from(Duration::from_secs_f64(seconds).as_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use relay::call::{CallLimits, PROTOCOL_VERSION, Sampling};
    use relay::ids::{Attempt, Fingerprint, ModelId, PrefixHash, SessionId};

    use super::*;

    fn request() -> CallRequest {
        CallRequest {
            session: SessionId::new([1; 16]),
            attempt: Attempt::new(1),
            fingerprint: Fingerprint::new([2; 16]),
            model: ModelId::new("model", [3; 8]),
            base_tokens: 0,
            base_hash: prefix_hash(&[]),
            delta: vec![1, 2, 3],
            max_tokens: 4,
            sampling: Sampling::GREEDY,
            seed: 0,
            draft: vec![4],
            budget_ms: 1000,
        }
    }

    fn served() -> Description {
        Description {
            protocol_version: PROTOCOL_VERSION,
            model: ModelId::new("model", [3; 8]),
            fingerprint: Fingerprint::new([2; 16]),
            context_tokens: 16,
            limits: CallLimits {
                call_tokens_max: 4,
                delta_tokens_max: 16,
                draft_tokens_max: 2,
                message_bytes_max: 1 << 20,
                budget_ms_max: 1000,
            },
        }
    }

    #[test]
    fn ill_formed_requests_are_named() {
        type Change = fn(&mut CallRequest);
        let cases: [(Change, &str); 3] = [
            (|request| request.delta.clear(), "base and delta are empty"),
            (|request| request.base_hash = PrefixHash::new([0; 16]), "base 0 comes with"),
            (|request| request.max_tokens = 0, "1 draft ids for a call of 0"),
        ];
        assert_eq!(check_form(&request()), Ok(()));
        for (change, text) in cases {
            let mut request = request();
            change(&mut request);
            let error = check_form(&request).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_named() {
        let mut request = request();
        assert_eq!(check_ids(&request, 5), Ok(()));
        assert!(check_ids(&request, 4).unwrap_err().to_string().contains("token id 4 is not"));
        request.delta = vec![u32::MAX];
        assert!(check_ids(&request, 5).unwrap_err().to_string().contains("token id 4294967295"));
    }

    #[test]
    fn vocabulary_and_model_come_before_limits() {
        let mut over = request();
        over.max_tokens = 5;
        over.model = ModelId::new("other", [9; 8]);
        over.fingerprint = Fingerprint::new([9; 16]);
        assert_eq!(check_served(&over, &served()), Err(Refusal::VocabularyMismatch));
        over.fingerprint = served().fingerprint;
        assert_eq!(check_served(&over, &served()), Err(Refusal::ModelMismatch));
        over.model = served().model;
        let limit = |field, limit| Err(Refusal::LimitExceeded { field, limit });
        assert_eq!(check_served(&over, &served()), limit(LimitField::CallTokens, 4));
        over.max_tokens = 4;
        over.delta = vec![0; 17];
        assert_eq!(check_served(&over, &served()), limit(LimitField::DeltaTokens, 16));
        over.delta = vec![0; 16];
        over.draft = vec![0; 3];
        assert_eq!(check_served(&over, &served()), limit(LimitField::DraftTokens, 2));
        over.draft = vec![0; 2];
        assert_eq!(check_served(&over, &served()), Ok(()));
    }

    const PLACES: CallPlaces = CallPlaces {
        calls_max: 2,
        queue_calls_max: 2,
        tenant_calls_max: 1,
        tenant_places_max: 2,
        call_tokens_max: 100,
    };

    #[test]
    fn a_place_is_had_below_the_bounds_only() {
        for (running, waiting, tenant, fits) in
            [(0, 0, 0, true), (2, 1, 1, true), (2, 2, 0, false), (1, 1, 2, false)]
        {
            let load =
                Load { running_calls: running, waiting_calls: waiting, tenant_calls: tenant };
            let answer = check_load(load, &PLACES, &Rates::default());
            assert_eq!(answer.is_ok(), fits, "{load:?}");
        }
    }

    #[test]
    fn the_hint_grows_with_the_queue() {
        let now = Instant::now();
        let mut rates = Rates::default();
        let load = |waiting_calls| Load { running_calls: 2, waiting_calls, tenant_calls: 0 };
        assert_eq!(hint(Load::default(), &PLACES, &rates), LoadHint::default());
        assert_eq!(hint(load(0), &PLACES, &rates).retry_after_ms, 1000);
        rates.observe_call(Duration::from_millis(300), now);
        let expected = LoadHint { queue_calls: 2, advised_tokens: 50, retry_after_ms: 600 };
        assert_eq!(hint(load(2), &PLACES, &rates), expected);
        rates.observe_call(Duration::from_mins(50), now);
        assert_eq!(hint(load(2), &PLACES, &rates).retry_after_ms, 10_000);
    }

    #[test]
    fn too_late_needs_a_fresh_measurement() {
        let now = Instant::now();
        let mut rates = Rates::default();
        let late = |rates: &Rates, now| {
            check_time(10, Duration::from_millis(100), rates.pace(now)).is_err()
        };
        assert!(!late(&rates, now));
        rates.observe_step(Duration::from_millis(900), 100, now);
        assert!(!late(&rates, now), "90 ms of prefill fit 100 ms");
        rates.observe_step(Duration::from_millis(11), 0, now);
        assert!(late(&rates, now), "101 ms do not");
        assert!(!late(&rates, now + Duration::from_secs(11)));
    }
}
