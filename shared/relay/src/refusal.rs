//! The closed list of reasons for which a cloud says no. A refusal is expected and travels as a
//! message; a fault is a gRPC status.

use crate::ids::PrefixHash;

/// An expected no. What the edge does about each is written once, in [`crate::machine`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The ids mean other text here.
    #[error("the cloud's vocabulary is another one")]
    VocabularyMismatch,
    /// Other weights than the edge believes stand behind this address.
    #[error("the cloud serves another model")]
    ModelMismatch,
    /// A limit that Describe named was passed.
    #[error("{field} is over the cloud's limit of {limit}")]
    LimitExceeded {
        /// Which limit.
        field: LimitField,
        /// Its value.
        limit: u64,
    },
    /// The cloud is going away.
    #[error("the cloud is draining")]
    Draining,
    /// Too many calls.
    #[error("the cloud is overloaded, retry after {retry_after_ms} ms")]
    Overloaded {
        /// When to come back.
        retry_after_ms: u32,
        /// The n it could serve; 0 says nothing.
        advised_tokens: u32,
    },
    /// The attempt's number is not above the highest seen.
    #[error("attempt {highest} was seen already")]
    StaleAttempt {
        /// The highest number the cloud knows.
        highest: u64,
    },
    /// The base is unknown, longer than the cloud's log, or different from it.
    #[error("the cloud holds {have_tokens} tokens of the session")]
    PrefixUnknown {
        /// How many ids the cloud's log holds.
        have_tokens: u32,
        /// Their hash.
        have_hash: PrefixHash,
    },
    /// Base, delta and one token do not fit the context.
    #[error("the text does not fit the cloud's context of {context_tokens} tokens")]
    ContextFull {
        /// The context's size.
        context_tokens: u32,
    },
    /// Not even one token could be ready in time.
    #[error("no token could be ready in time")]
    TooLate,
}

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitField {
    /// n.
    CallTokens,
    /// Ids in the delta.
    DeltaTokens,
    /// Draft ids.
    DraftTokens,
    /// Bytes of the encoded request.
    MessageBytes,
    /// Sessions of one tenant.
    Sessions,
}

impl LimitField {
    /// The name on the wire and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CallTokens => "call_tokens",
            Self::DeltaTokens => "delta_tokens",
            Self::DraftTokens => "draft_tokens",
            Self::MessageBytes => "message_bytes",
            Self::Sessions => "sessions",
        }
    }
}

impl std::fmt::Display for LimitField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Refusal {
    /// A short name for counters and reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VocabularyMismatch => "vocabulary_mismatch",
            Self::ModelMismatch => "model_mismatch",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::Draining => "draining",
            Self::Overloaded { .. } => "overloaded",
            Self::StaleAttempt { .. } => "stale_attempt",
            Self::PrefixUnknown { .. } => "prefix_unknown",
            Self::ContextFull { .. } => "context_full",
            Self::TooLate => "too_late",
        }
    }
}
