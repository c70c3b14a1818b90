//! Which tokens would complete a text that must not be written, and the mask a sampler applies.
//!
//! Knows bytes and ids; not what the text means to whoever bans it.

use crate::tokenizer::Tokenizer;

/// Ids that may not be sampled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMask {
    /// Rising, without repeats.
    ids: Vec<u32>,
}

impl TokenMask {
    /// A mask that forbids nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// A mask of these ids.
    pub fn from_ids(mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self { ids }
    }

    /// A mask that forbids what either forbids.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_ids([self.ids(), other.ids()].concat())
    }

    /// Whether `id` is forbidden.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// The forbidden ids, rising.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// A text that must not be completed, with the tokens that could complete it found beforehand.
#[derive(Debug, Clone)]
pub struct BannedText {
    text: Vec<u8>,
    /// `completing[k]`: tokens that complete the text once its first `k` bytes are held. A token
    /// that holds the whole text is in `completing[0]`.
    completing: Vec<Vec<u32>>,
}

impl BannedText {
    /// Looks through the vocabulary once; an empty text bans nothing.
    pub fn new(tokenizer: &Tokenizer, text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut completing = vec![Vec::new(); text.len()];
        let ids = 0..u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
        for id in ids {
            let bytes = tokenizer.token_bytes(id);
            for (held_bytes, ids) in completing.iter_mut().enumerate() {
                if completes(bytes, &text, held_bytes) {
                    ids.push(id);
                }
            }
        }
        Self { text, completing }
    }

    /// The tokens that would complete the text after `held`, the last bytes that were written.
    /// Bytes further back than the text is long make no difference.
    pub fn mask(&self, held: &[u8]) -> TokenMask {
        let lengths = (0..self.text.len()).filter(|&len| held.ends_with(&self.text[..len]));
        TokenMask::from_ids(lengths.flat_map(|len| self.completing[len].iter().copied()).collect())
    }
}

fn completes(token: &[u8], text: &[u8], held_bytes: usize) -> bool {
    match held_bytes {
        0 => token.windows(text.len()).any(|window| window == text),
        _ => token.starts_with(&text[held_bytes..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::byte_tokenizer;
    use crate::tokenizer::TokenKind;
    use proptest::prelude::*;

    const PIECES: [&str; 9] =
        ["<call>", "ll>", "call", "<c", "a<call>b", "> ", "l><call", "aab", "ab"];

    fn tokenizer() -> Tokenizer {
        byte_tokenizer(&PIECES.map(|piece| (piece, TokenKind::UserDefined)))
    }

    /// A token is banned if the text occurs in what was held plus the token, and did not before.
    fn by_force(tokenizer: &Tokenizer, text: &str, held: &[u8]) -> Vec<u32> {
        let completes = |id: &u32| {
            let written = [held, tokenizer.token_bytes(*id)].concat();
            let ends = text.len()..=written.len();
            ends.rev()
                .take_while(|end| *end > held.len())
                .any(|end| written[..end].ends_with(text.as_bytes()))
        };
        (0..u32::try_from(tokenizer.vocabulary_tokens()).unwrap()).filter(completes).collect()
    }

    #[test]
    fn bans_whole_split_and_added_spellings() {
        let tokenizer = tokenizer();
        let banned = BannedText::new(&tokenizer, "<call>");
        assert_eq!(banned.mask(b"").ids(), [257, 261]);
        assert_eq!(banned.mask(b"no <ca").ids(), [257, 258, 261]);
        assert_eq!(banned.mask(b"<call").ids(), [u32::from(b'>'), 257, 261, 262]);
        assert_eq!(BannedText::new(&tokenizer, "").mask(b"x").ids(), [0; 0]);
    }

    #[test]
    fn masks_are_sets() {
        let mask = TokenMask::from_ids(vec![5, 1, 5, 3, 1]);
        assert_eq!(mask.ids(), [1, 3, 5]);
        assert!(mask.contains(3) && !mask.contains(2));
        assert_eq!(TokenMask::none().ids(), [0; 0]);
        assert_eq!(mask.union(&TokenMask::from_ids(vec![4, 3])).ids(), [1, 3, 4, 5]);
    }

    proptest! {
        #[test]
        fn is_what_trying_every_token_says(
            text in "<call>|aab|abab|a", held in "[<cal>b]{0,9}",
        ) {
            let tokenizer = tokenizer();
            let mask = BannedText::new(&tokenizer, &text).mask(held.as_bytes());
            let forced = by_force(&tokenizer, &text, held.as_bytes());
            prop_assert_eq!(mask.ids(), forced);
        }
    }
}
