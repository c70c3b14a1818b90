//! How much an answer may cost: limits on calls, cloud tokens and response tokens.

/// The limits of one answer. All bind all policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Calls that may be made.
    pub calls_max: u32,
    /// LLM tokens that may be delivered.
    pub cloud_tokens_max: u32,
    /// Ids the edge view may grow by, commands and LLM tokens included.
    pub response_tokens_max: u32,
    /// Most tokens of one call (n), as far as the edge decides; the cloud's own limit comes on top.
    pub call_tokens_max: u32,
}

/// What of a budget is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Calls made.
    pub calls: u32,
    /// LLM tokens delivered.
    pub cloud_tokens: u32,
    /// Ids the edge view grew by.
    pub response_tokens: u32,
}

impl Budget {
    /// How many of `wanted` tokens a call may ask for now; 0 means carry on alone.
    pub fn grant(&self, spent: &Spent, wanted: u32) -> u32 {
        if spent.calls >= self.calls_max {
            return 0;
        }
        wanted
            .min(self.call_tokens_max)
            .min(self.cloud_tokens_max.saturating_sub(spent.cloud_tokens))
            .min(self.response_tokens_left(spent))
    }

    /// Ids the edge view may still grow by.
    pub fn response_tokens_left(&self, spent: &Spent) -> u32 {
        self.response_tokens_max.saturating_sub(spent.response_tokens)
    }
}
