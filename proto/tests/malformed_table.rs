//! What the wire refuses: one row a field and fault, with the field that is named and words of the
//! reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail where it stands"
)]

use relay::call::{
    Accepted, CallEvent, CallLimits, CallRequest, CloudToken, Description, FinishReason, Finished,
    LoadHint, Sampling, Timings,
};
use relay::ids::{Attempt, Fingerprint, ModelId, SessionId};
use relay::prefix::prefix_hash;
use relay::refusal::Refusal;
use relay_proto::convert::Malformed;
use relay_proto::v1::{self, call_event::Event, refused::Reason};

fn good_request() -> v1::CallRequest {
    CallRequest {
        session: SessionId::new([1; 16]),
        attempt: Attempt::new(1),
        fingerprint: Fingerprint::new([2; 16]),
        model: ModelId::new("tiny", [3; 8]),
        base_tokens: 0,
        base_hash: prefix_hash(&[]),
        delta: vec![1, 2, 3],
        max_tokens: 8,
        sampling: Sampling::GREEDY,
        seed: 0,
        draft: Vec::new(),
        budget_ms: 1,
    }
    .into()
}

fn good_description() -> v1::Description {
    Description {
        protocol_version: 1,
        model: ModelId::new("tiny", [3; 8]),
        fingerprint: Fingerprint::new([2; 16]),
        context_tokens: 1,
        limits: CallLimits {
            call_tokens_max: 0,
            delta_tokens_max: 0,
            draft_tokens_max: 0,
            message_bytes_max: 0,
            budget_ms_max: 1,
        },
    }
    .into()
}

/// One field made wrong, the field that must be named, and what the reason must hold.
type Row<Message> = (fn(&mut Message), &'static str, &'static str);

fn check<Message, Value>(good: fn() -> Message, rows: &[Row<Message>])
where
    Value: TryFrom<Message, Error = Malformed> + std::fmt::Debug,
{
    Value::try_from(good()).unwrap();
    for (spoil, field, reason) in rows {
        let mut message = good();
        spoil(&mut message);
        let error = Value::try_from(message).expect_err(field);
        assert_eq!(error.field, *field, "{error}");
        assert!(error.to_string().contains(reason), "no `{reason}` in: {error}");
    }
}

fn sampling(message: &mut v1::CallRequest) -> &mut v1::Sampling {
    message.sampling.as_mut().unwrap()
}

#[test]
fn a_request_with_a_wrong_name_is_refused() {
    check::<v1::CallRequest, CallRequest>(
        good_request,
        &[
            (|m| m.session_id.clear(), "session_id", "exactly 16"),
            (|m| m.session_id = vec![0; 15], "session_id", "has 15"),
            (|m| m.session_id = vec![0; 17], "session_id", "has 17"),
            (|m| m.attempt = None, "attempt", "not set"),
            (|m| m.attempt = Some(0), "attempt", "at least 1"),
            (|m| m.vocabulary_fingerprint.clear(), "vocabulary_fingerprint", "exactly 16"),
            (|m| m.model = None, "model", "not set"),
            (|m| m.model.as_mut().unwrap().hash = vec![0; 16], "model.hash", "exactly 8"),
            (|m| m.model.as_mut().unwrap().name = "n".repeat(129), "model.name", "at most 128"),
            (|m| m.base_hash.clear(), "base_hash", "exactly 16"),
            (|m| m.base_hash = vec![0; 32], "base_hash", "has 32"),
        ],
    );
}

#[test]
fn a_request_with_a_wrong_amount_is_refused() {
    check::<v1::CallRequest, CallRequest>(
        good_request,
        &[
            (|m| m.base_tokens = None, "base_tokens", "not set"),
            (|m| m.delta = None, "delta", "not set"),
            (|m| m.max_tokens = None, "max_tokens", "not set"),
            (|m| m.seed = None, "seed", "not set"),
            (|m| m.budget_ms = None, "budget_ms", "not set"),
            (|m| m.budget_ms = Some(0), "budget_ms", "at least 1"),
            (|m| m.sampling = None, "sampling", "not set"),
            (|m| sampling(m).temperature = None, "sampling.temperature", "not set"),
            (|m| sampling(m).temperature = Some(f32::NAN), "sampling.temperature", "is NaN"),
            (|m| sampling(m).temperature = Some(-1.0), "sampling.temperature", "from 0 to 100"),
            (|m| sampling(m).temperature = Some(1e9), "sampling.temperature", "from 0 to 100"),
            (|m| sampling(m).temperature = Some(f32::INFINITY), "sampling.temperature", "is inf"),
            (|m| sampling(m).top_p = Some(0.0), "sampling.top_p", "above 0"),
            (|m| sampling(m).top_p = Some(1.5), "sampling.top_p", "at most 1"),
            (|m| sampling(m).top_p = Some(f32::NAN), "sampling.top_p", "is NaN"),
            (|m| sampling(m).min_p = Some(1.0), "sampling.min_p", "below 1"),
            (|m| sampling(m).min_p = Some(-0.5), "sampling.min_p", "at least 0"),
            (|m| sampling(m).min_p = Some(f32::NAN), "sampling.min_p", "is NaN"),
        ],
    );
}

#[test]
fn absent_truncations_are_off_and_zeros_are_not_absent() {
    let mut message = good_request();
    *sampling(&mut message) = v1::Sampling { temperature: Some(0.0), ..v1::Sampling::default() };
    message.max_tokens = Some(0);
    message.base_tokens = Some(0);
    message.seed = Some(0);
    let request = CallRequest::try_from(message).unwrap();
    assert_eq!(request.sampling, Sampling::GREEDY);
    assert_eq!((request.max_tokens, request.seed), (0, 0));
}

#[test]
fn a_wrong_description_is_refused() {
    fn limits(message: &mut v1::Description) -> &mut v1::CallLimits {
        message.limits.as_mut().unwrap()
    }
    check::<v1::Description, Description>(
        good_description,
        &[
            (|m| m.protocol_version = None, "protocol_version", "not set"),
            (|m| m.protocol_version = Some(0), "protocol_version", "at least 1"),
            (|m| m.model = None, "model", "not set"),
            (|m| m.vocabulary_fingerprint.push(0), "vocabulary_fingerprint", "has 17"),
            (|m| m.context_tokens = None, "context_tokens", "not set"),
            (|m| m.context_tokens = Some(0), "context_tokens", "at least 1"),
            (|m| m.limits = None, "limits", "not set"),
            (|m| limits(m).call_tokens_max = None, "limits.call_tokens_max", "not set"),
            (|m| limits(m).delta_tokens_max = None, "limits.delta_tokens_max", "not set"),
            (|m| limits(m).draft_tokens_max = None, "limits.draft_tokens_max", "not set"),
            (|m| limits(m).message_bytes_max = None, "limits.message_bytes_max", "not set"),
            (|m| limits(m).budget_ms_max = None, "limits.budget_ms_max", "not set"),
            (|m| limits(m).budget_ms_max = Some(0), "limits.budget_ms_max", "at least 1"),
        ],
    );
}

#[test]
fn a_wrong_session_to_forget_is_refused() {
    check::<v1::ForgetRequest, SessionId>(
        || SessionId::new([7; 16]).into(),
        &[(|m| m.session_id.truncate(8), "session_id", "has 8 bytes")],
    );
}

#[test]
fn a_wrong_token_is_refused() {
    fn token(message: &mut v1::CallEvent) -> &mut v1::Token {
        match message.event.as_mut().unwrap() {
            Event::Token(token) => token,
            other => panic!("not a token: {other:?}"),
        }
    }
    let good = || CallEvent::Token(CloudToken { id: 0, log_probability: 0.0, position: 0 }).into();
    check::<v1::CallEvent, CallEvent>(
        good,
        &[
            (|m| m.event = None, "event", "relay.v1 knows"),
            (|m| token(m).id = None, "token.id", "not set"),
            (|m| token(m).position = None, "token.position", "not set"),
            (|m| token(m).log_probability = None, "token.log_probability", "not set"),
            (|m| token(m).log_probability = Some(f32::NAN), "token.log_probability", "is NaN"),
            (|m| token(m).log_probability = Some(0.5), "token.log_probability", "at most 0"),
        ],
    );
    let mut rounded: v1::CallEvent = good();
    token(&mut rounded).log_probability = Some(1e-7);
    let Ok(CallEvent::Token(token)) = CallEvent::try_from(rounded) else {
        panic!("a rounding error is no fault");
    };
    assert!(token.log_probability <= 0.0);
}

#[test]
fn a_wrong_begin_or_end_is_refused() {
    check::<v1::Accepted, Accepted>(
        || v1::Accepted { length_tokens: 5, cached_tokens: 2, prefilled_tokens: 3 },
        &[
            (|m| m.length_tokens = 6, "accepted.length_tokens", "the sum of 2"),
            (
                |m| (m.cached_tokens, m.prefilled_tokens) = (u32::MAX, u32::MAX),
                "accepted.length_tokens",
                "the sum",
            ),
        ],
    );
    check::<v1::Finished, Finished>(
        || v1::Finished { reason: v1::FinishReason::Length.into(), ..v1::Finished::default() },
        &[
            (|m| m.reason = 0, "finished.reason", "value 0"),
            (|m| m.reason = 99, "finished.reason", "value 99"),
            (|m| m.reason = -1, "finished.reason", "value -1"),
        ],
    );
}

#[test]
fn absent_timings_and_load_count_as_zeros() {
    let message =
        v1::Finished { reason: v1::FinishReason::EndOfText.into(), timings: None, load: None };
    let finished = Finished::try_from(message).unwrap();
    assert_eq!(finished.reason, FinishReason::EndOfText);
    assert_eq!(finished.timings, Timings::default());
    assert_eq!(finished.load, LoadHint::default());
}

#[test]
fn a_wrong_refusal_is_refused() {
    check::<v1::Refused, Refusal>(
        || Refusal::Draining.into(),
        &[
            (|m| m.reason = None, "refused.reason", "relay.v1 knows"),
            (
                |m| {
                    m.reason = Some(Reason::PrefixUnknown(v1::PrefixUnknown {
                        have_tokens: 1,
                        have_hash: vec![0; 4],
                    }));
                },
                "refused.prefix_unknown.have_hash",
                "exactly 16",
            ),
            (
                |m| {
                    m.reason =
                        Some(Reason::LimitExceeded(v1::LimitExceeded { field: 0, limit: 1 }));
                },
                "refused.limit_exceeded.field",
                "value 0",
            ),
        ],
    );
}

/// Millions of ids cost what decoding them cost and no more, whatever becomes of them.
#[test]
fn ids_move_and_are_never_copied() {
    let mut message = good_request();
    message.delta = Some(v1::call_request::Delta::Ids(v1::TokenIds { ids: vec![7; 1_000_000] }));
    message.draft_ids = vec![7; 1_000_000];
    let draft = message.draft_ids.as_ptr();
    let Some(v1::call_request::Delta::Ids(ids)) = &message.delta else {
        panic!("no ids");
    };
    let delta = ids.ids.as_ptr();
    let request = CallRequest::try_from(message).unwrap();
    assert_eq!(request.delta.as_ptr(), delta);
    assert_eq!(request.draft.as_ptr(), draft);
}
