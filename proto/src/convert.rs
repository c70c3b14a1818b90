//! The only place where bytes become trusted domain values, and back. Checks shape and range;
//! what depends on the state or the limits of a cloud (vocabulary size, load, base) is its own
//! business. No id is copied: vectors move from message to value.

use relay::call::{
    Accepted, CallEvent, CallLimits, CallRequest, CloudToken, Description, FinishReason, Finished,
    LoadHint, Sampling, Timings,
};
use relay::ids::{Attempt, Fingerprint, MODEL_NAME_BYTES_MAX, ModelId, PrefixHash, SessionId};
use relay::refusal::{LimitField, Refusal};

use crate::v1;
use crate::v1::call_event::Event;
use crate::v1::call_request::Delta;
use crate::v1::refused::Reason;

/// Rounding may lift a log-probability this far above 0; it then counts as 0.
const LOG_PROBABILITY_SLACK: f32 = 1e-3;

/// A field that cannot be trusted, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {reason}")]
pub struct Malformed {
    /// The field, by its path in the schema.
    pub field: &'static str,
    /// What it is and what is allowed, to be read after the field's name.
    pub reason: String,
}

impl Malformed {
    fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or_else(|| Malformed::new(field, "is not set: it must be"))
}

fn at_least_one(value: Option<u32>, field: &'static str) -> Result<u32, Malformed> {
    match required(value, field)? {
        0 => Err(Malformed::new(field, "is 0: it must be at least 1")),
        value => Ok(value),
    }
}

fn exactly<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| {
        Malformed::new(field, format!("has {} bytes: it must have exactly {N}", bytes.len()))
    })
}

fn unknown(field: &'static str, value: i32) -> Malformed {
    Malformed::new(field, format!("has the value {value}, which relay.v1 does not know here"))
}

// Describe.

impl TryFrom<v1::Description> for Description {
    type Error = Malformed;

    fn try_from(message: v1::Description) -> Result<Self, Malformed> {
        let limits = required(message.limits, "limits")?;
        Ok(Self {
            protocol_version: at_least_one(message.protocol_version, "protocol_version")?,
            model: model(message.model)?,
            fingerprint: fingerprint(&message.vocabulary_fingerprint)?,
            context_tokens: at_least_one(message.context_tokens, "context_tokens")?,
            limits: limits.try_into()?,
        })
    }
}

impl From<Description> for v1::Description {
    fn from(value: Description) -> Self {
        Self {
            protocol_version: Some(value.protocol_version),
            model: Some((&value.model).into()),
            vocabulary_fingerprint: value.fingerprint.bytes().to_vec(),
            context_tokens: Some(value.context_tokens),
            limits: Some(value.limits.into()),
        }
    }
}

impl TryFrom<v1::CallLimits> for CallLimits {
    type Error = Malformed;

    fn try_from(message: v1::CallLimits) -> Result<Self, Malformed> {
        Ok(Self {
            call_tokens_max: required(message.call_tokens_max, "limits.call_tokens_max")?,
            delta_tokens_max: required(message.delta_tokens_max, "limits.delta_tokens_max")?,
            draft_tokens_max: required(message.draft_tokens_max, "limits.draft_tokens_max")?,
            message_bytes_max: required(message.message_bytes_max, "limits.message_bytes_max")?,
            budget_ms_max: at_least_one(message.budget_ms_max, "limits.budget_ms_max")?,
        })
    }
}

impl From<CallLimits> for v1::CallLimits {
    fn from(value: CallLimits) -> Self {
        Self {
            call_tokens_max: Some(value.call_tokens_max),
            delta_tokens_max: Some(value.delta_tokens_max),
            draft_tokens_max: Some(value.draft_tokens_max),
            message_bytes_max: Some(value.message_bytes_max),
            budget_ms_max: Some(value.budget_ms_max),
        }
    }
}

fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, Malformed> {
    exactly(bytes, "vocabulary_fingerprint").map(Fingerprint::new)
}

fn model(message: Option<v1::ModelId>) -> Result<ModelId, Malformed> {
    let message = required(message, "model")?;
    let hash = exactly(&message.hash, "model.hash")?;
    let bytes = message.name.len();
    // A cut name would be another model's, so it is not cut here.
    if bytes > MODEL_NAME_BYTES_MAX {
        return Err(Malformed::new(
            "model.name",
            format!("has {bytes} bytes: it may have at most {MODEL_NAME_BYTES_MAX}"),
        ));
    }
    Ok(ModelId::new(message.name, hash))
}

impl From<&ModelId> for v1::ModelId {
    fn from(value: &ModelId) -> Self {
        Self { name: value.name().to_owned(), hash: value.hash().to_vec() }
    }
}

// Call: the request.

impl TryFrom<v1::CallRequest> for CallRequest {
    type Error = Malformed;

    fn try_from(message: v1::CallRequest) -> Result<Self, Malformed> {
        let Delta::Ids(delta) = required(message.delta, "delta")?;
        Ok(Self {
            session: session(&message.session_id)?,
            attempt: attempt(message.attempt)?,
            fingerprint: fingerprint(&message.vocabulary_fingerprint)?,
            model: model(message.model)?,
            base_tokens: required(message.base_tokens, "base_tokens")?,
            base_hash: exactly(&message.base_hash, "base_hash").map(PrefixHash::new)?,
            delta: delta.ids,
            max_tokens: required(message.max_tokens, "max_tokens")?,
            sampling: required(message.sampling, "sampling")?.try_into()?,
            seed: required(message.seed, "seed")?,
            draft: message.draft_ids,
            budget_ms: at_least_one(message.budget_ms, "budget_ms")?,
        })
    }
}

impl From<CallRequest> for v1::CallRequest {
    fn from(value: CallRequest) -> Self {
        Self {
            session_id: value.session.bytes().to_vec(),
            attempt: Some(value.attempt.number()),
            vocabulary_fingerprint: value.fingerprint.bytes().to_vec(),
            model: Some((&value.model).into()),
            base_tokens: Some(value.base_tokens),
            base_hash: value.base_hash.bytes().to_vec(),
            delta: Some(Delta::Ids(v1::TokenIds { ids: value.delta })),
            max_tokens: Some(value.max_tokens),
            sampling: Some(value.sampling.into()),
            seed: Some(value.seed),
            draft_ids: value.draft,
            budget_ms: Some(value.budget_ms),
        }
    }
}

fn session(bytes: &[u8]) -> Result<SessionId, Malformed> {
    exactly(bytes, "session_id").map(SessionId::new)
}

fn attempt(number: Option<u64>) -> Result<Attempt, Malformed> {
    match required(number, "attempt")? {
        0 => Err(Malformed::new("attempt", "is 0: it must be at least 1")),
        number => Ok(Attempt::new(number)),
    }
}

impl TryFrom<v1::Sampling> for Sampling {
    type Error = Malformed;

    /// An absent truncation is off; an absent temperature is nobody's wish.
    fn try_from(message: v1::Sampling) -> Result<Self, Malformed> {
        Self::new(
            required(message.temperature, "sampling.temperature")?,
            message.top_k.unwrap_or(Self::GREEDY.top_k()),
            message.top_p.unwrap_or(Self::GREEDY.top_p()),
            message.min_p.unwrap_or(Self::GREEDY.min_p()),
        )
        .map_err(|error| {
            let field = match error.field {
                "temperature" => "sampling.temperature",
                "top_p" => "sampling.top_p",
                "min_p" => "sampling.min_p",
                _ => "sampling",
            };
            Malformed::new(field, format!("is {}: it must be {}", error.value, error.allowed))
        })
    }
}

impl From<Sampling> for v1::Sampling {
    fn from(value: Sampling) -> Self {
        Self {
            temperature: Some(value.temperature()),
            top_k: Some(value.top_k()),
            top_p: Some(value.top_p()),
            min_p: Some(value.min_p()),
        }
    }
}

// Call: the stream.

impl TryFrom<v1::CallEvent> for CallEvent {
    type Error = Malformed;

    fn try_from(message: v1::CallEvent) -> Result<Self, Malformed> {
        match message.event {
            Some(Event::Accepted(accepted)) => accepted.try_into().map(Self::Accepted),
            Some(Event::Token(token)) => token.try_into().map(Self::Token),
            Some(Event::Finished(finished)) => finished.try_into().map(Self::Finished),
            Some(Event::Refused(refused)) => refused.try_into().map(Self::Refused),
            None => Err(Malformed::new("event", "is not set to one that relay.v1 knows here")),
        }
    }
}

impl From<CallEvent> for v1::CallEvent {
    fn from(value: CallEvent) -> Self {
        let event = match value {
            CallEvent::Accepted(accepted) => Event::Accepted(accepted.into()),
            CallEvent::Token(token) => Event::Token(token.into()),
            CallEvent::Finished(finished) => Event::Finished(finished.into()),
            CallEvent::Refused(refusal) => Event::Refused(refusal.into()),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::Accepted> for Accepted {
    type Error = Malformed;

    fn try_from(message: v1::Accepted) -> Result<Self, Malformed> {
        let parts = message.cached_tokens.checked_add(message.prefilled_tokens);
        if parts != Some(message.length_tokens) {
            return Err(Malformed::new(
                "accepted.length_tokens",
                format!(
                    "is {}: it must be the sum of {} cached and {} prefilled tokens",
                    message.length_tokens, message.cached_tokens, message.prefilled_tokens
                ),
            ));
        }
        Ok(Self {
            length_tokens: message.length_tokens,
            cached_tokens: message.cached_tokens,
            prefilled_tokens: message.prefilled_tokens,
        })
    }
}

impl From<Accepted> for v1::Accepted {
    fn from(value: Accepted) -> Self {
        Self {
            length_tokens: value.length_tokens,
            cached_tokens: value.cached_tokens,
            prefilled_tokens: value.prefilled_tokens,
        }
    }
}

impl TryFrom<v1::Token> for CloudToken {
    type Error = Malformed;

    fn try_from(message: v1::Token) -> Result<Self, Malformed> {
        Ok(Self {
            id: required(message.id, "token.id")?,
            log_probability: log_probability(message.log_probability)?,
            position: required(message.position, "token.position")?,
        })
    }
}

fn log_probability(value: Option<f32>) -> Result<f32, Malformed> {
    let field = "token.log_probability";
    let value = required(value, field)?;
    // NaN fails the comparison too.
    if value <= LOG_PROBABILITY_SLACK {
        Ok(value.min(0.0))
    } else {
        Err(Malformed::new(field, format!("is {value}: it must be at most 0")))
    }
}

impl From<CloudToken> for v1::Token {
    fn from(value: CloudToken) -> Self {
        Self {
            id: Some(value.id),
            log_probability: Some(value.log_probability),
            position: Some(value.position),
        }
    }
}

impl TryFrom<v1::Finished> for Finished {
    type Error = Malformed;

    fn try_from(message: v1::Finished) -> Result<Self, Malformed> {
        let reason = v1::FinishReason::try_from(message.reason)
            .ok()
            .and_then(finish_reason)
            .ok_or_else(|| unknown("finished.reason", message.reason))?;
        Ok(Self {
            reason,
            timings: message.timings.unwrap_or_default().into(),
            load: message.load.unwrap_or_default().into(),
        })
    }
}

impl From<Finished> for v1::Finished {
    fn from(value: Finished) -> Self {
        Self {
            reason: v1::FinishReason::from(value.reason).into(),
            timings: Some(value.timings.into()),
            load: Some(value.load.into()),
        }
    }
}

fn finish_reason(reason: v1::FinishReason) -> Option<FinishReason> {
    Some(match reason {
        v1::FinishReason::Unspecified => return None,
        v1::FinishReason::Length => FinishReason::Length,
        v1::FinishReason::EndOfText => FinishReason::EndOfText,
        v1::FinishReason::Deadline => FinishReason::Deadline,
        v1::FinishReason::ContextFull => FinishReason::ContextFull,
        v1::FinishReason::Cancelled => FinishReason::Cancelled,
        v1::FinishReason::Superseded => FinishReason::Superseded,
        v1::FinishReason::Draining => FinishReason::Draining,
    })
}

impl From<FinishReason> for v1::FinishReason {
    fn from(value: FinishReason) -> Self {
        match value {
            FinishReason::Length => Self::Length,
            FinishReason::EndOfText => Self::EndOfText,
            FinishReason::Deadline => Self::Deadline,
            FinishReason::ContextFull => Self::ContextFull,
            FinishReason::Cancelled => Self::Cancelled,
            FinishReason::Superseded => Self::Superseded,
            FinishReason::Draining => Self::Draining,
        }
    }
}

impl From<v1::Timings> for Timings {
    fn from(message: v1::Timings) -> Self {
        Self {
            queue_ms: message.queue_ms,
            prefill_ms: message.prefill_ms,
            decode_ms: message.decode_ms,
        }
    }
}

impl From<Timings> for v1::Timings {
    fn from(value: Timings) -> Self {
        Self { queue_ms: value.queue_ms, prefill_ms: value.prefill_ms, decode_ms: value.decode_ms }
    }
}

impl From<v1::LoadHint> for LoadHint {
    fn from(message: v1::LoadHint) -> Self {
        Self {
            queue_calls: message.queue_calls,
            advised_tokens: message.advised_tokens,
            retry_after_ms: message.retry_after_ms,
        }
    }
}

impl From<LoadHint> for v1::LoadHint {
    fn from(value: LoadHint) -> Self {
        Self {
            queue_calls: value.queue_calls,
            advised_tokens: value.advised_tokens,
            retry_after_ms: value.retry_after_ms,
        }
    }
}

// Call: refusals.

impl TryFrom<v1::Refused> for Refusal {
    type Error = Malformed;

    fn try_from(message: v1::Refused) -> Result<Self, Malformed> {
        let reason = message.reason.ok_or_else(|| {
            Malformed::new("refused.reason", "is not set to one that relay.v1 knows here")
        })?;
        Ok(match reason {
            Reason::VocabularyMismatch(_) => Self::VocabularyMismatch,
            Reason::ModelMismatch(_) => Self::ModelMismatch,
            Reason::LimitExceeded(exceeded) => limit_exceeded(exceeded)?,
            Reason::Draining(_) => Self::Draining,
            Reason::Overloaded(overloaded) => Self::Overloaded {
                retry_after_ms: overloaded.retry_after_ms,
                advised_tokens: overloaded.advised_tokens,
            },
            Reason::StaleAttempt(stale) => Self::StaleAttempt { highest: stale.highest },
            Reason::PrefixUnknown(prefix) => prefix_unknown(&prefix)?,
            Reason::ContextFull(full) => Self::ContextFull { context_tokens: full.context_tokens },
            Reason::TooLate(_) => Self::TooLate,
        })
    }
}

fn limit_exceeded(message: v1::LimitExceeded) -> Result<Refusal, Malformed> {
    let field = v1::LimitField::try_from(message.field)
        .ok()
        .and_then(limit_field)
        .ok_or_else(|| unknown("refused.limit_exceeded.field", message.field))?;
    Ok(Refusal::LimitExceeded { field, limit: message.limit })
}

fn prefix_unknown(message: &v1::PrefixUnknown) -> Result<Refusal, Malformed> {
    let have_hash = exactly(&message.have_hash, "refused.prefix_unknown.have_hash")?;
    Ok(Refusal::PrefixUnknown {
        have_tokens: message.have_tokens,
        have_hash: PrefixHash::new(have_hash),
    })
}

impl From<Refusal> for v1::Refused {
    fn from(value: Refusal) -> Self {
        let reason = match value {
            Refusal::VocabularyMismatch => Reason::VocabularyMismatch(v1::VocabularyMismatch {}),
            Refusal::ModelMismatch => Reason::ModelMismatch(v1::ModelMismatch {}),
            Refusal::LimitExceeded { field, limit } => Reason::LimitExceeded(v1::LimitExceeded {
                field: v1::LimitField::from(field).into(),
                limit,
            }),
            Refusal::Draining => Reason::Draining(v1::Draining {}),
            Refusal::Overloaded { retry_after_ms, advised_tokens } => {
                Reason::Overloaded(v1::Overloaded { retry_after_ms, advised_tokens })
            }
            Refusal::StaleAttempt { highest } => Reason::StaleAttempt(v1::StaleAttempt { highest }),
            Refusal::PrefixUnknown { have_tokens, have_hash } => {
                Reason::PrefixUnknown(v1::PrefixUnknown {
                    have_tokens,
                    have_hash: have_hash.bytes().to_vec(),
                })
            }
            Refusal::ContextFull { context_tokens } => {
                Reason::ContextFull(v1::ContextFull { context_tokens })
            }
            Refusal::TooLate => Reason::TooLate(v1::TooLate {}),
        };
        Self { reason: Some(reason) }
    }
}

fn limit_field(field: v1::LimitField) -> Option<LimitField> {
    Some(match field {
        v1::LimitField::Unspecified => return None,
        v1::LimitField::CallTokens => LimitField::CallTokens,
        v1::LimitField::DeltaTokens => LimitField::DeltaTokens,
        v1::LimitField::DraftTokens => LimitField::DraftTokens,
        v1::LimitField::MessageBytes => LimitField::MessageBytes,
        v1::LimitField::Sessions => LimitField::Sessions,
    })
}

impl From<LimitField> for v1::LimitField {
    fn from(value: LimitField) -> Self {
        match value {
            LimitField::CallTokens => Self::CallTokens,
            LimitField::DeltaTokens => Self::DeltaTokens,
            LimitField::DraftTokens => Self::DraftTokens,
            LimitField::MessageBytes => Self::MessageBytes,
            LimitField::Sessions => Self::Sessions,
        }
    }
}

// Forget.

impl TryFrom<v1::ForgetRequest> for SessionId {
    type Error = Malformed;

    fn try_from(message: v1::ForgetRequest) -> Result<Self, Malformed> {
        session(&message.session_id)
    }
}

impl From<SessionId> for v1::ForgetRequest {
    fn from(value: SessionId) -> Self {
        Self { session_id: value.bytes().to_vec() }
    }
}
