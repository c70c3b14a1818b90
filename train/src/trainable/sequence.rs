//! Ids to learn from. Knows no arithmetic.

use super::architecture::Architecture;

/// Ids, of which those from `scored_from` on are predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// All of them.
    pub ids: Vec<u32>,
    /// The first id whose log-probability is wanted; at least 1.
    pub scored_from: usize,
}

impl Sequence {
    /// The ids that are predicted.
    pub fn scored(&self) -> &[u32] {
        self.ids.get(self.scored_from..).unwrap_or_default()
    }

    /// Whether there is something to predict, and something to predict it from.
    pub fn is_sound(&self, architecture: &Architecture) -> bool {
        let Architecture { vocabulary_tokens, context_tokens, .. } = *architecture;
        (1..self.ids.len()).contains(&self.scored_from)
            && self.ids.len() <= context_tokens
            && self.ids.iter().all(|&id| (id as usize) < vocabulary_tokens)
    }
}
