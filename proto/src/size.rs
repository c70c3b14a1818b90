//! How large messages are on the wire, and how large they may be.

use prost::Message;

/// What gRPC puts before each message: one byte of flags and four of length.
pub const FRAME_HEADER_BYTES: usize = 5;

/// A varint of 32 bits takes at most this many bytes.
const ID_BYTES_MAX: u32 = 5;

/// Room for all of a request but its ids.
const REQUEST_REST_BYTES_MAX: u32 = 64 * 1024;

/// Bytes of the message as gRPC sends it, uncompressed: encoded, with its frame header.
pub fn frame_bytes(message: &impl Message) -> usize {
    message.encoded_len() + FRAME_HEADER_BYTES
}

/// The limit of one encoded request: a delta as long as the context and a draft of `n_max` ids
/// always fit.
pub const fn message_bytes_max(context_tokens: u32, n_max: u32) -> u32 {
    ID_BYTES_MAX
        .saturating_mul(context_tokens.saturating_add(n_max))
        .saturating_add(REQUEST_REST_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;
    use relay::ids::MODEL_NAME_BYTES_MAX;

    #[test]
    fn a_full_request_of_large_ids_fits_the_limit() {
        for (context_tokens, n_max) in [(1, 1), (2_048, 256), (131_072, 4_096)] {
            let ids = |count: u32| vec![u32::MAX; count as usize];
            let request = v1::CallRequest {
                session_id: vec![255; 16],
                attempt: Some(u64::MAX),
                vocabulary_fingerprint: vec![255; 16],
                model: Some(v1::ModelId {
                    name: "m".repeat(MODEL_NAME_BYTES_MAX),
                    hash: vec![255; 8],
                }),
                base_tokens: Some(u32::MAX),
                base_hash: vec![255; 16],
                delta: Some(v1::call_request::Delta::Ids(v1::TokenIds {
                    ids: ids(context_tokens),
                })),
                max_tokens: Some(u32::MAX),
                sampling: Some(v1::Sampling {
                    temperature: Some(1.0),
                    top_k: Some(u32::MAX),
                    top_p: Some(0.5),
                    min_p: Some(0.5),
                }),
                seed: Some(u64::MAX),
                draft_ids: ids(n_max),
                budget_ms: Some(u32::MAX),
            };
            let limit = message_bytes_max(context_tokens, n_max) as usize;
            assert!(request.encoded_len() <= limit, "{context_tokens} {n_max}");
        }
    }

    #[test]
    fn sizes_saturate_and_count_the_frame() {
        assert_eq!(message_bytes_max(10, 2), 60 + 65_536);
        assert_eq!(message_bytes_max(u32::MAX, u32::MAX), u32::MAX);
        assert_eq!(frame_bytes(&v1::DescribeRequest {}), 5);
        let ids = v1::TokenIds { ids: vec![1, 300] };
        assert_eq!(frame_bytes(&ids), 5 + 2 + 1 + 2);
    }
}
