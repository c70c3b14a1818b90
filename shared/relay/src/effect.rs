//! What the machine asks its driver to do. One event yields an ordered list of these.

use crate::ids::{Attempt, PrefixHash};

/// One thing to do. The driver performs a list in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Draw the SLM's next token and answer with `Drafted`.
    Draft {
        /// A text that must not come into being, if any.
        ban: Option<Ban>,
    },
    /// Tokenise these bytes as plain text and answer with `Tokenised`.
    Tokenise {
        /// Perhaps not UTF-8 on their own: such bytes become single-byte tokens.
        bytes: Vec<u8>,
    },
    /// Ask the cloud for tokens. The streams of older attempts are abandoned: reset them.
    Call(CallOrder),
    /// Ship settled ids early (`max_tokens` is 0). Nothing waits for it.
    WarmSync(CallOrder),
    /// Reset this attempt's stream; its later events are dropped anyway.
    HangUp {
        /// Which one.
        attempt: Attempt,
    },
    /// Show this text to the reader: whole characters.
    Emit {
        /// Who wrote it.
        author: Author,
        /// What.
        text: String,
    },
    /// Append the LLM's ids to what the SLM attends to, before the next draft.
    CatchUp {
        /// In order.
        ids: Vec<u32>,
    },
    /// The token drafted last is not part of the answer: forget it.
    DropLastDraft,
    /// The answer is over.
    Finish(Ending),
}

/// A text that the sampler keeps from being completed: any token that would complete it is masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The banned text.
    pub text: &'static str,
    /// The end of the SLM's own output that already is a beginning of it.
    pub held: Vec<u8>,
}

/// One attempt to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOrder {
    /// Its number.
    pub attempt: Attempt,
    /// Ids of the cloud view that the cloud is known to hold.
    pub base_tokens: u32,
    /// Their hash.
    pub base_hash: PrefixHash,
    /// The rest of the cloud view.
    pub delta: Vec<u32>,
    /// Most tokens wanted; 0 in a warm sync.
    pub max_tokens: u32,
    /// How many draft ids the driver may add.
    pub draft_tokens_max: u32,
    /// Whether this is the first attempt of a call: the call's budget starts now.
    pub opens_call: bool,
    /// Whom to ask.
    pub route: Route,
}

/// Whom to ask. Drivers own the endpoints: one that has none left answers `LinkDown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The endpoint the driver likes best; after a cut stream perhaps another one.
    Any,
    /// Another endpoint than the last, at once.
    Next,
    /// Another endpoint, or after this wait (once a call, if time allows) the same again.
    NextOrWait {
        /// As the cloud asked.
        wait_ms: u32,
    },
    /// Another endpoint, and the last one never again in this answer.
    NeverAgain,
    /// The same endpoint, after Describe told anew which model it serves.
    DescribeAgain,
}

/// Who wrote a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    /// The small model on the device.
    Slm,
    /// The large model in the cloud.
    Llm,
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The SLM ended the text.
    EndOfText,
    /// The LLM ended the text.
    CloudEndOfText,
    /// The response budget is spent.
    Length,
    /// The reader wanted no more.
    Cancelled,
}
