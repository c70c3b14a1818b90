//! What an answer did and cost, counted by the machine.

use std::collections::BTreeMap;

/// The counters of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Calls made (attempts of one call count once).
    pub calls: u32,
    /// Tokens that commands or the policy asked for.
    pub requested_tokens: u64,
    /// Tokens granted by budget and limits.
    pub granted_tokens: u64,
    /// LLM tokens delivered.
    pub llm_tokens: u32,
    /// All ids of the edge view after the prompt, command tokens included.
    pub total_tokens: u32,
    /// Commands with n = 0.
    pub zero_commands: u32,
    /// Commands that break the grammar.
    pub malformed_commands: u32,
    /// Commands that the answer's end cut short.
    pub unclosed_commands: u32,
    /// Commands for which nothing was left.
    pub ungranted_commands: u32,
    /// RPCs made: first attempts, resyncs, retries and warm syncs.
    pub attempts: u32,
    /// Attempts made because the cloud's copy of the prefix was missing or different.
    pub resyncs: u32,
    /// Attempts made after a cut, a drain or a refusal.
    pub retries: u32,
    /// Refusals by [`Refusal::name`](crate::refusal::Refusal::name).
    pub refusals: BTreeMap<&'static str, u32>,
    /// A call failed and the SLM went on alone.
    pub degraded: bool,
    /// Another model than at first went on with the answer.
    pub model_changed: bool,
}

impl Account {
    /// Delivered LLM tokens over all response tokens; 0 for an empty answer.
    pub fn call_ratio(&self) -> f64 {
        if self.total_tokens == 0 {
            return 0.0;
        }
        f64::from(self.llm_tokens) / f64::from(self.total_tokens)
    }
}
