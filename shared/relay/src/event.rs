//! What may happen to the machine. A driver turns the world into these and feeds them in one by one.

use crate::call::{Accepted, CloudToken, FinishReason};
use crate::ids::Attempt;
use crate::refusal::Refusal;

/// One thing that happened. Those of an attempt carry its number: any but the newest attempt's are
/// dropped.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The answer begins.
    Started(Start),
    /// The SLM drew a token, as [`Effect::Draft`](crate::effect::Effect::Draft) asked.
    Drafted(Drafted),
    /// The ids of the bytes that [`Effect::Tokenise`](crate::effect::Effect::Tokenise) named.
    Tokenised {
        /// Plain text ids: no control token, no command token.
        ids: Vec<u32>,
    },
    /// The cloud admitted the attempt.
    Accepted {
        /// Which one.
        attempt: Attempt,
        /// What it holds now.
        accepted: Accepted,
    },
    /// The LLM wrote a token.
    CloudToken {
        /// Of which attempt.
        attempt: Attempt,
        /// Id, log-probability and position.
        token: CloudToken,
        /// Its text, perhaps part of a character; empty for a control token.
        bytes: Vec<u8>,
    },
    /// The attempt ended with a reason.
    CloudStopped {
        /// Which one.
        attempt: Attempt,
        /// Why.
        reason: FinishReason,
    },
    /// The cloud said no.
    Refused {
        /// To which attempt.
        attempt: Attempt,
        /// Why.
        refusal: Refusal,
    },
    /// The stream broke: reset, UNAVAILABLE, INTERNAL, or an end without a last word.
    Cut {
        /// Which attempt's.
        attempt: Attempt,
    },
    /// No endpoint is left to ask, or one failed in a way that asking again cannot mend.
    LinkDown {
        /// Which attempt found out.
        attempt: Attempt,
    },
    /// The call's budget and its grace are spent.
    TimeUp {
        /// The attempt that was under way.
        attempt: Attempt,
    },
    /// The reader wants no more.
    Cancelled,
}

/// Where an answer begins: the views of the conversation so far, prompt included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// What the SLM attends to.
    pub edge_prompt: Vec<u32>,
    /// What the LLM continues: the same ids less the commands of earlier answers.
    pub cloud_prompt: Vec<u32>,
    /// The session's highest attempt number so far.
    pub last_attempt: Attempt,
    /// How many ids of the cloud view the cloud is known to hold.
    pub acknowledged_tokens: u32,
    /// No call may be made: the cloud's context was full in an earlier answer.
    pub calls_over: bool,
}

/// One token the SLM drew.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drafted {
    /// Its id.
    pub id: u32,
    /// Its text, perhaps part of a character; empty for a control token.
    pub bytes: Vec<u8>,
    /// Whether it ends the text.
    pub ends_text: bool,
    /// Nats, of the softmax of the raw logits, before mask, temperature and truncation.
    pub entropy_nats: f32,
    /// Uniform in (0, 1): the policy role's noise at id 0 and the edge-view position.
    pub draw: f64,
}
