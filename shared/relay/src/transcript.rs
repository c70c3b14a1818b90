//! One answer as it grows: a prompt, then legs by two authors, seen in three views.
//!
//! | | prompt | SLM text | commands | LLM text |
//! |---|---|---|---|---|
//! | edge view (what the SLM attends to) | yes | yes | kept | right after the command |
//! | cloud view (what the LLM continues) | yes | yes | removed | yes |
//! | reader view (what the user gets) | - | yes | removed | yes |
//!
//! Each view only grows within an answer. When an id may enter which view is the machine's
//! business; this file keeps them.

use crate::effect::Author;
use crate::ids::PrefixHash;
use crate::prefix::prefix_hash;
use crate::reader::CharacterAssembler;

/// A run of tokens by one author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Who wrote it.
    pub author: Author,
    /// Its ids in the edge view: commands included.
    pub tokens: u32,
    /// What the reader sees of it. A character split between authors is counted here by the leg
    /// that completes it.
    pub text: String,
}

/// Prompt and legs of one answer.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    edge_ids: Vec<u32>,
    cloud_ids: Vec<u32>,
    edge_prompt_tokens: usize,
    cloud_prompt_tokens: usize,
    legs: Vec<Leg>,
    characters: CharacterAssembler,
}

impl Transcript {
    /// An answer that has only its prompt yet.
    pub fn new(edge_prompt: Vec<u32>, cloud_prompt: Vec<u32>) -> Self {
        Self {
            edge_prompt_tokens: edge_prompt.len(),
            cloud_prompt_tokens: cloud_prompt.len(),
            edge_ids: edge_prompt,
            cloud_ids: cloud_prompt,
            ..Self::default()
        }
    }

    /// The edge view: the ids as they were sampled, never tokenised again.
    pub fn edge_ids(&self) -> &[u32] {
        &self.edge_ids
    }

    /// The cloud view as far as it is settled.
    pub fn cloud_ids(&self) -> &[u32] {
        &self.cloud_ids
    }

    /// The edge view's ids after the prompt.
    pub fn edge_answer_ids(&self) -> &[u32] {
        &self.edge_ids[self.edge_prompt_tokens..]
    }

    /// The cloud view's ids after the prompt.
    pub fn cloud_answer_ids(&self) -> &[u32] {
        &self.cloud_ids[self.cloud_prompt_tokens..]
    }

    /// The legs in order.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The reader view.
    pub fn reader_text(&self) -> String {
        self.legs.iter().map(|leg| leg.text.as_str()).collect()
    }

    /// The hash of the cloud view's first `tokens` ids, or of all where it has fewer.
    pub fn cloud_hash(&self, tokens: usize) -> PrefixHash {
        prefix_hash(&self.cloud_ids[..tokens.min(self.cloud_ids.len())])
    }

    /// Appends an id to the edge view, in a leg by `author`.
    pub(crate) fn push_edge(&mut self, author: Author, id: u32) {
        self.edge_ids.push(id);
        self.leg(author).tokens += 1;
    }

    /// Appends a settled id to the cloud view.
    pub(crate) fn push_cloud(&mut self, id: u32) {
        self.cloud_ids.push(id);
    }

    /// Appends bytes to the reader view and returns the characters they complete.
    pub(crate) fn show(&mut self, author: Author, bytes: &[u8]) -> String {
        let text = self.characters.push(bytes);
        self.leg(author).text.push_str(&text);
        text
    }

    /// Ends the reader view: what was left of a character.
    pub(crate) fn end_text(&mut self) -> Option<(Author, String)> {
        let text = self.characters.end();
        let leg = self.legs.last_mut()?;
        leg.text.push_str(&text);
        (!text.is_empty()).then_some((leg.author, text))
    }

    fn leg(&mut self, author: Author) -> &mut Leg {
        if self.legs.last().is_none_or(|leg| leg.author != author) {
            self.legs.push(Leg { author, tokens: 0, text: String::new() });
        }
        let last = self.legs.len() - 1;
        &mut self.legs[last]
    }
}
