//! What edge and cloud say to each other, as trusted values. The wire form is `proto`'s business.

use crate::ids::{Attempt, Fingerprint, ModelId, PrefixHash, SessionId};
use crate::refusal::Refusal;

/// The protocol version this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// What a cloud says of itself on every new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The protocol version the cloud speaks.
    pub protocol_version: u32,
    /// The weights behind this address.
    pub model: ModelId,
    /// Their vocabulary.
    pub fingerprint: Fingerprint,
    /// Longest cloud view the model can attend to, in tokens.
    pub context_tokens: u32,
    /// What one call may ask for.
    pub limits: CallLimits,
}

/// The largest values that the cloud accepts in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Most tokens one call may ask for (n).
    pub call_tokens_max: u32,
    /// Most ids in one delta; at least the context, so that a prefix always fits one attempt.
    pub delta_tokens_max: u32,
    /// Most draft ids.
    pub draft_tokens_max: u32,
    /// Largest encoded request in bytes.
    pub message_bytes_max: u32,
    /// Longest budget of one call; a longer one is cut to it.
    pub budget_ms_max: u32,
}

/// How the LLM draws its tokens. Built by [`Sampling::new`], so that every value is sane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
}

/// A sampling value out of its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: it must be {allowed}")]
pub struct SamplingError {
    /// Which parameter.
    pub field: &'static str,
    /// What it was.
    pub value: f32,
    /// What it may be.
    pub allowed: &'static str,
}

/// Highest temperature accepted: above it every distribution is flat.
pub const TEMPERATURE_MAX: f32 = 100.0;

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Checks each value: temperature in 0..=100, `top_k` any (0 is off), `top_p` in (0, 1],
    /// `min_p` in [0, 1).
    pub fn new(
        temperature: f32,
        top_k: u32,
        top_p: f32,
        min_p: f32,
    ) -> Result<Self, SamplingError> {
        let check = |ok: bool, field, value, allowed| {
            if ok { Ok(()) } else { Err(SamplingError { field, value, allowed }) }
        };
        // NaN fails each comparison, so it needs no case of its own.
        check(
            (0.0..=TEMPERATURE_MAX).contains(&temperature),
            "temperature",
            temperature,
            "from 0 to 100",
        )?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "above 0 and at most 1")?;
        check((0.0..1.0).contains(&min_p), "min_p", min_p, "at least 0 and below 1")?;
        Ok(Self { temperature, top_k, top_p, min_p })
    }

    /// Zero is greedy.
    pub const fn temperature(&self) -> f32 {
        self.temperature
    }

    /// Zero is off.
    pub const fn top_k(&self) -> u32 {
        self.top_k
    }

    /// One is off.
    pub const fn top_p(&self) -> f32 {
        self.top_p
    }

    /// Zero is off.
    pub const fn min_p(&self) -> f32 {
        self.min_p
    }
}

/// One attempt of one call, as the cloud gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRequest {
    /// The conversation.
    pub session: SessionId,
    /// Rises strictly within the session.
    pub attempt: Attempt,
    /// The vocabulary the ids belong to.
    pub fingerprint: Fingerprint,
    /// The weights the edge believes to be there.
    pub model: ModelId,
    /// How many ids of the cloud view come before the delta.
    pub base_tokens: u32,
    /// Their hash.
    pub base_hash: PrefixHash,
    /// What the cloud view holds after the base.
    pub delta: Vec<u32>,
    /// Most tokens to produce; 0 is a warm sync.
    pub max_tokens: u32,
    /// How to draw them.
    pub sampling: Sampling,
    /// The answer's seed.
    pub seed: u64,
    /// The SLM's guess of what follows: at most `max_tokens` ids.
    pub draft: Vec<u32>,
    /// What is left of the call's budget as the attempt leaves; at least 1.
    pub budget_ms: u32,
}

/// The cloud took the attempt: its log now holds base and delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Base plus delta, in tokens.
    pub length_tokens: u32,
    /// Those whose KV existed.
    pub cached_tokens: u32,
    /// The rest.
    pub prefilled_tokens: u32,
}

/// One token the LLM wrote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CloudToken {
    /// Its id.
    pub id: u32,
    /// Of the softmax of the raw logits, in nats.
    pub log_probability: f32,
    /// Where it stands in the cloud view, 0-based.
    pub position: u32,
}

/// Why an accepted attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// All n tokens were produced.
    Length,
    /// The LLM ended the text.
    EndOfText,
    /// Less than one step of the budget was left.
    Deadline,
    /// The model's context is full.
    ContextFull,
    /// Somebody cancelled the call.
    Cancelled,
    /// A newer attempt took its place.
    Superseded,
    /// The cloud is going away.
    Draining,
}

/// Where an attempt's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From arrival to the first step.
    pub queue_ms: u32,
    /// Making up KV.
    pub prefill_ms: u32,
    /// Producing tokens.
    pub decode_ms: u32,
}

/// How busy the cloud is, and what it would like next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadHint {
    /// Calls waiting.
    pub queue_calls: u32,
    /// The n it advises; 0 says nothing.
    pub advised_tokens: u32,
    /// When to come back; 0 says at once.
    pub retry_after_ms: u32,
}

/// The last word of an accepted attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Where its time went.
    pub timings: Timings,
    /// How busy the cloud is.
    pub load: LoadHint,
}

/// One message of a call's stream, in the order accepted, tokens, finished; or one refusal alone.
#[derive(Clone, Debug, PartialEq)]
pub enum CallEvent {
    /// Admitted.
    Accepted(Accepted),
    /// One token.
    Token(CloudToken),
    /// The end.
    Finished(Finished),
    /// An expected no; nothing follows.
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_refuses_what_no_sampler_can_use() {
        for (temperature, top_p, min_p, field) in [
            (f32::NAN, 1.0, 0.0, "temperature"),
            (-0.1, 1.0, 0.0, "temperature"),
            (f32::INFINITY, 1.0, 0.0, "temperature"),
            (1.0, 0.0, 0.0, "top_p"),
            (1.0, f32::NAN, 0.0, "top_p"),
            (1.0, 1.1, 0.0, "top_p"),
            (1.0, 1.0, 1.0, "min_p"),
            (1.0, 1.0, -1.0, "min_p"),
        ] {
            let error = Sampling::new(temperature, 0, top_p, min_p).unwrap_err();
            assert_eq!(error.field, field, "{temperature} {top_p} {min_p}");
        }
        assert_eq!(Sampling::new(0.0, 0, 1.0, 0.0), Ok(Sampling::GREEDY));
    }
}
