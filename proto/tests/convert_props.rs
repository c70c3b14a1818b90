//! Conversion both ways: every domain value survives the wire, and no bytes make it panic.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use relay::call::{
    Accepted, CallEvent, CallLimits, CallRequest, CloudToken, Description, FinishReason, Finished,
    LoadHint, Sampling, TEMPERATURE_MAX, Timings,
};
use relay::ids::{Attempt, Fingerprint, ModelId, PrefixHash, SessionId};
use relay::refusal::{LimitField, Refusal};
use relay_proto::v1;

fn model() -> impl Strategy<Value = ModelId> {
    ("\\PC{0,40}", any::<[u8; 8]>()).prop_map(|(name, hash)| ModelId::new(name, hash))
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (0.0..=TEMPERATURE_MAX, any::<u32>(), f32::MIN_POSITIVE..=1.0, 0.0_f32..1.0).prop_map(
        |(temperature, top_k, top_p, min_p)| {
            Sampling::new(temperature, top_k, top_p, min_p).unwrap()
        },
    )
}

fn request() -> impl Strategy<Value = CallRequest> {
    let ids = || vec(any::<u32>(), 0..200);
    let names = (any::<[u8; 16]>(), 1..=u64::MAX, any::<[u8; 16]>(), model(), any::<[u8; 16]>());
    let amounts = (any::<u32>(), any::<u32>(), any::<u64>(), 1..=u32::MAX);
    (names, amounts, sampling(), ids(), ids()).prop_map(
        |((session, attempt, print, model, hash), amounts, sampling, delta, draft)| {
            let (base_tokens, max_tokens, seed, budget_ms) = amounts;
            CallRequest {
                session: SessionId::new(session),
                attempt: Attempt::new(attempt),
                fingerprint: Fingerprint::new(print),
                model,
                base_tokens,
                base_hash: PrefixHash::new(hash),
                delta,
                max_tokens,
                sampling,
                seed,
                draft,
                budget_ms,
            }
        },
    )
}

fn description() -> impl Strategy<Value = Description> {
    (1..=u32::MAX, model(), any::<[u8; 16]>(), 1..=u32::MAX, any::<[u32; 4]>(), 1..=u32::MAX)
        .prop_map(|(version, model, print, context_tokens, limits, budget)| {
            let [call, delta, draft, message] = limits;
            Description {
                protocol_version: version,
                model,
                fingerprint: Fingerprint::new(print),
                context_tokens,
                limits: CallLimits {
                    call_tokens_max: call,
                    delta_tokens_max: delta,
                    draft_tokens_max: draft,
                    message_bytes_max: message,
                    budget_ms_max: budget,
                },
            }
        })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let field = prop_oneof![
        Just(LimitField::CallTokens),
        Just(LimitField::DeltaTokens),
        Just(LimitField::DraftTokens),
        Just(LimitField::MessageBytes),
        Just(LimitField::Sessions),
    ];
    prop_oneof![
        Just(Refusal::VocabularyMismatch),
        Just(Refusal::ModelMismatch),
        (field, any::<u64>()).prop_map(|(field, limit)| Refusal::LimitExceeded { field, limit }),
        Just(Refusal::Draining),
        any::<(u32, u32)>().prop_map(|(retry_after_ms, advised_tokens)| Refusal::Overloaded {
            retry_after_ms,
            advised_tokens,
        }),
        any::<u64>().prop_map(|highest| Refusal::StaleAttempt { highest }),
        any::<(u32, [u8; 16])>().prop_map(|(have_tokens, hash)| Refusal::PrefixUnknown {
            have_tokens,
            have_hash: PrefixHash::new(hash),
        }),
        any::<u32>().prop_map(|context_tokens| Refusal::ContextFull { context_tokens }),
        Just(Refusal::TooLate),
    ]
}

fn finished() -> impl Strategy<Value = Finished> {
    let reason = prop_oneof![
        Just(FinishReason::Length),
        Just(FinishReason::EndOfText),
        Just(FinishReason::Deadline),
        Just(FinishReason::ContextFull),
        Just(FinishReason::Cancelled),
        Just(FinishReason::Superseded),
        Just(FinishReason::Draining),
    ];
    (reason, any::<[u32; 6]>()).prop_map(|(reason, numbers)| {
        let [queue_ms, prefill_ms, decode_ms, queue_calls, advised_tokens, retry_after_ms] =
            numbers;
        Finished {
            reason,
            timings: Timings { queue_ms, prefill_ms, decode_ms },
            load: LoadHint { queue_calls, advised_tokens, retry_after_ms },
        }
    })
}

fn event() -> impl Strategy<Value = CallEvent> {
    let accepted = (0..=u32::MAX / 2, 0..=u32::MAX / 2).prop_map(|(cached, prefilled)| Accepted {
        length_tokens: cached + prefilled,
        cached_tokens: cached,
        prefilled_tokens: prefilled,
    });
    let token = (any::<u32>(), -1e6_f32..=0.0, any::<u32>())
        .prop_map(|(id, log_probability, position)| CloudToken { id, log_probability, position });
    prop_oneof![
        accepted.prop_map(CallEvent::Accepted),
        token.prop_map(CallEvent::Token),
        finished().prop_map(CallEvent::Finished),
        refusal().prop_map(CallEvent::Refused),
    ]
}

/// Through the message and through its bytes.
fn over_the_wire<Wire>(value: impl Into<Wire>) -> Wire
where
    Wire: Message + Default + PartialEq + std::fmt::Debug,
{
    let sent: Wire = value.into();
    let received = Wire::decode(sent.encode_to_vec().as_slice()).unwrap();
    assert_eq!(received, sent);
    received
}

proptest! {
    #[test]
    fn a_request_survives_the_wire(value in request()) {
        let wire: v1::CallRequest = over_the_wire(value.clone());
        prop_assert_eq!(CallRequest::try_from(wire).unwrap(), value);
    }

    #[test]
    fn an_event_survives_the_wire(value in event()) {
        let wire: v1::CallEvent = over_the_wire(value.clone());
        prop_assert_eq!(CallEvent::try_from(wire).unwrap(), value);
    }

    #[test]
    fn a_description_survives_the_wire(value in description()) {
        let wire: v1::Description = over_the_wire(value.clone());
        prop_assert_eq!(Description::try_from(wire).unwrap(), value);
    }

    #[test]
    fn a_session_survives_the_wire(bytes in any::<[u8; 16]>()) {
        let wire: v1::ForgetRequest = over_the_wire(SessionId::new(bytes));
        prop_assert_eq!(SessionId::try_from(wire).unwrap(), SessionId::new(bytes));
    }

    #[test]
    fn no_bytes_make_conversion_panic(bytes in vec(any::<u8>(), 0..400)) {
        convert_all(&bytes);
    }

    /// Bytes that are nearly a message reach further into conversion than noise does.
    #[test]
    fn no_torn_message_makes_conversion_panic(
        request in request(),
        event in event(),
        description in description(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        for mut bytes in [
            v1::CallRequest::from(request).encode_to_vec(),
            v1::CallEvent::from(event).encode_to_vec(),
            v1::Description::from(description).encode_to_vec(),
        ] {
            for (place, byte) in &flips {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] ^= byte;
                }
            }
            convert_all(&bytes);
        }
    }
}

fn convert_all(bytes: &[u8]) {
    if let Ok(message) = v1::CallRequest::decode(bytes) {
        let _ = CallRequest::try_from(message);
    }
    if let Ok(message) = v1::CallEvent::decode(bytes) {
        let _ = CallEvent::try_from(message);
    }
    if let Ok(message) = v1::Description::decode(bytes) {
        let _ = Description::try_from(message);
    }
    if let Ok(message) = v1::ForgetRequest::decode(bytes) {
        let _ = SessionId::try_from(message);
    }
}
