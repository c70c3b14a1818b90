//! What an answer would have sent over the wire: its calls written as messages of `relay.v1` by the
//! encoder that the edge uses, each with its frame header. Connecting (TLS, HTTP/2, Describe) is
//! not counted. Calls are read off the answer's legs: the first carries prompt and draft, each
//! later one what the small model wrote since; a call that leaves no leg of its own (it brought
//! nothing, or followed another without a word between) is counted as one with an empty delta.

use relay::call::{
    Accepted, CallEvent, CallRequest, CloudToken, FinishReason, Finished, LoadHint, Sampling,
    Timings,
};
use relay::effect::Author;
use relay::ids::{Attempt, Fingerprint, ModelId, PrefixHash, SessionId};
use relay_model::Tokenizer;
use relay_proto::size::frame_bytes;
use relay_proto::v1;
use serde::{Deserialize, Serialize};

use crate::rollout::{Answer, Token};

/// What is left of a call's budget as it leaves: the edge's default.
const BUDGET_MS: u32 = 20_000;

/// Bytes and tokens of one answer's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From the edge to the cloud.
    pub bytes_up: u64,
    /// From the cloud to the edge.
    pub bytes_down: u64,
    /// Tokens that the large model reads and has not written itself.
    pub read_tokens: u64,
}

impl Traffic {
    /// Of an answer whose calls go to this model.
    pub fn of(answer: &Answer, tokenizer: &Tokenizer, llm: &ModelId) -> Self {
        let mut calls = Calls { llm, made: 0, base: 0, traffic: Self::default() };
        let mut delta = answer.prompt.clone();
        let mut by_llm = answer.tokens.iter().filter(|token| token.author == Author::Llm);
        for leg in &answer.legs {
            if leg.author == Author::Slm {
                delta.extend(tokenizer.encode_bytes(leg.text.as_bytes()));
                continue;
            }
            let tokens: Vec<&Token> = by_llm.by_ref().take(leg.tokens as usize).collect();
            calls.make(std::mem::take(&mut delta), &tokens);
        }
        while calls.made < u64::from(answer.account.calls) {
            calls.make(std::mem::take(&mut delta), &[]);
        }
        calls.traffic
    }
}

/// The calls of one answer so far.
struct Calls<'a> {
    llm: &'a ModelId,
    made: u64,
    base: u32,
    traffic: Traffic,
}

impl Calls<'_> {
    fn make(&mut self, delta: Vec<u32>, tokens: &[&Token]) {
        self.made += 1;
        let [read, written] = [delta.len(), tokens.len()].map(narrow);
        let start = self.base + read;
        self.traffic.read_tokens += u64::from(read);
        self.send(delta, written);
        self.receive(CallEvent::Accepted(Accepted {
            length_tokens: start,
            cached_tokens: self.base,
            prefilled_tokens: read,
        }));
        for (token, position) in tokens.iter().zip(start..) {
            self.receive(CallEvent::Token(CloudToken {
                id: token.id,
                log_probability: token.log_probability,
                position,
            }));
        }
        self.receive(CallEvent::Finished(Finished {
            reason: FinishReason::Length,
            timings: Timings::default(),
            load: LoadHint::default(),
        }));
        self.base = start + written;
    }

    fn send(&mut self, delta: Vec<u32>, max_tokens: u32) {
        let request = v1::CallRequest::from(CallRequest {
            session: SessionId::new([0; 16]),
            attempt: Attempt::new(self.made),
            fingerprint: Fingerprint::new([0; 16]),
            model: self.llm.clone(),
            base_tokens: self.base,
            base_hash: PrefixHash::new([0; 16]),
            delta,
            max_tokens,
            sampling: Sampling::GREEDY,
            seed: 0,
            draft: Vec::new(),
            budget_ms: BUDGET_MS,
        });
        self.traffic.bytes_up += frame_bytes(&request) as u64;
    }

    fn receive(&mut self, event: CallEvent) {
        self.traffic.bytes_down += frame_bytes(&v1::CallEvent::from(event)) as u64;
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
