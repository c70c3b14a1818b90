//! A rendered text whose control tokens are the template's own, and the ids it becomes. Knows
//! nothing of templates.

use crate::tokenizer::{AddedTokens, Tokenizer};

/// A piece of a rendered conversation: its text, and the ids it becomes.
///
/// Two pieces are equal if they are tokenised equally: an escaped control text differs from the
/// control token that is spelled the same.
#[derive(Debug, Clone)]
pub struct ChatText {
    /// The rendered text, `marker` still inside the control texts that people wrote.
    pub(super) marked: String,
    /// None where all of the text is trusted.
    pub(super) marker: Option<char>,
}

impl ChatText {
    /// A text that is taken as it stands: all control tokens in it are meant.
    pub fn trusted(text: impl Into<String>) -> Self {
        Self { marked: text.into(), marker: None }
    }

    /// The text a reader would see.
    pub fn text(&self) -> String {
        self.unmarked(&self.marked)
    }

    fn unmarked(&self, text: &str) -> String {
        match self.marker {
            Some(marker) => text.replace(marker, ""),
            None => text.to_owned(),
        }
    }

    /// The ids: the template's control tokens as such, everything else as plain text.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut ids = Vec::new();
        tokenizer.encode_around(&self.marked, &mut ids, |marked, ids| {
            ids.extend(tokenizer.encode(&self.unmarked(marked), AddedTokens::Plain));
        });
        ids
    }
}

impl PartialEq for ChatText {
    /// The marker itself makes no difference: it depends on the whole conversation.
    fn eq(&self, other: &Self) -> bool {
        let parts = |text: &Self| -> Vec<String> {
            text.marked.split(|char| Some(char) == text.marker).map(str::to_owned).collect()
        };
        parts(self) == parts(other)
    }
}

impl Eq for ChatText {}
