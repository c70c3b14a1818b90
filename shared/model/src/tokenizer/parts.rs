//! What a tokenizer is made of, whatever file it came from, and the checks that hold for all of
//! them.

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};

use super::pre_tokenizer::PreTokenizer;
use super::{TokenKind, limits};
use crate::error::ModelError;

/// Texts by which end tokens go where a file does not name them by role.
const END_TEXTS: [&str; 14] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "</s>",
];

/// What a tokenizer is made of.
#[derive(Debug, Clone)]
pub(crate) struct TokenizerParts {
    /// Text and kind of each id; ordinary tokens in the byte-level alphabet, others literal.
    pub(crate) tokens: Vec<(String, TokenKind)>,
    /// Merge rules by rank.
    pub(crate) merges: Vec<(String, String)>,
    /// How text is cut first.
    pub(crate) pre_tokenizer: PreTokenizer,
    /// Whether plain text is brought into Unicode's composed form before it is cut.
    pub(crate) composes: bool,
    /// Whether a piece that is a token is that token, whatever the merges say.
    pub(crate) ignores_merges: bool,
    /// Added tokens that are looked for between the others only.
    pub(crate) late_ids: HashSet<u32>,
    /// Special tokens by role.
    pub(crate) roles: Roles,
}

/// Special tokens by role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roles {
    /// The token that begins a text.
    pub(crate) bos_id: Option<u32>,
    /// Whether it belongs in front of every text that no template made.
    pub(crate) prepends_bos: bool,
    /// The token that ends a text, as templates name it.
    pub(crate) eos_id: Option<u32>,
    /// All that end a text, a turn or a message.
    pub(crate) end_ids: HashSet<u32>,
}

impl TokenizerParts {
    /// Parts without added behaviour: tokens, merges, and a way to cut.
    pub(crate) fn new(
        tokens: Vec<(String, TokenKind)>,
        merges: Vec<(String, String)>,
        pre_tokenizer: PreTokenizer,
    ) -> Self {
        Self {
            tokens,
            merges,
            pre_tokenizer,
            composes: false,
            ignores_merges: false,
            late_ids: HashSet::new(),
            roles: Roles::default(),
        }
    }

    /// Refuses what no tokenizer can be, and makes tokens without a text placeholders.
    pub(super) fn checked(mut self) -> Result<Self, ModelError> {
        let count = self.tokens.len();
        if count == 0 || count > limits::TOKENS_MAX {
            return fault(format!("{count} tokens are not a vocabulary"));
        }
        let is_long = |token: &(String, _)| token.0.len() > limits::TOKEN_BYTES_MAX;
        if let Some(long) = self.tokens.iter().position(is_long) {
            return fault(format!("token {long} is longer than {} bytes", limits::TOKEN_BYTES_MAX));
        }
        for (text, kind) in &mut self.tokens {
            if text.is_empty() {
                *kind = TokenKind::Placeholder;
            }
        }
        self.check_unique()?;
        self.check_roles()?;
        Ok(self)
    }

    fn check_unique(&self) -> Result<(), ModelError> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, (text, kind)) in self.tokens.iter().enumerate() {
            if *kind == TokenKind::Placeholder {
                continue;
            }
            if let Some(earlier) = ids.insert(text.as_str(), id) {
                return fault(format!("tokens {earlier} and {id} are both {text:?}"));
            }
        }
        Ok(())
    }

    fn check_roles(&self) -> Result<(), ModelError> {
        let Roles { bos_id, prepends_bos, eos_id, end_ids } = &self.roles;
        let kind = |id: u32| self.tokens.get(id as usize).map(|token| token.1);
        for (role, ids) in [
            ("begin", bos_id.iter().collect::<Vec<_>>()),
            ("end", eos_id.iter().chain(end_ids).collect()),
        ] {
            if let Some(id) = ids.into_iter().find(|id| kind(**id).is_none()) {
                return fault(format!("{role} token {id} is outside of the vocabulary"));
            }
        }
        let what = match bos_id {
            _ if !prepends_bos => return Ok(()),
            None => "none is named".to_owned(),
            Some(id) if kind(*id).is_some_and(TokenKind::is_added) => return Ok(()),
            Some(id) => format!("token {id} is an ordinary one"),
        };
        fault(format!("a begin token is asked for in front of every text, but {what}"))
    }

    /// All tokens that end a text: those named by role, and control tokens known by their text.
    pub(super) fn end_ids(&self) -> HashSet<u32> {
        let named = self.roles.end_ids.iter().chain(&self.roles.eos_id).copied();
        let known = (0..).zip(&self.tokens).filter(|(_, (text, kind))| {
            *kind == TokenKind::Control && END_TEXTS.contains(&text.as_str())
        });
        named.chain(known.map(|(id, _)| id)).collect()
    }

    /// The merge rules, ready to apply. Added tokens take no part, save those that are text and
    /// that the rules themselves name.
    pub(super) fn into_merger(self) -> Result<BPE, ModelError> {
        let mut vocabulary = Vocab::default();
        let mut added_texts = HashMap::new();
        for (id, (text, kind)) in (0..).zip(self.tokens) {
            match kind {
                TokenKind::Normal => drop(vocabulary.insert(text, id)),
                TokenKind::UserDefined => drop(added_texts.insert(text, id)),
                TokenKind::Control | TokenKind::Placeholder => {}
            }
        }
        let mut both = String::new();
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            both.clear();
            both.push_str(left);
            both.push_str(right);
            for text in [left, right, &both] {
                if vocabulary.contains_key(text.as_str()) {
                    continue;
                }
                let Some(id) = added_texts.get(text) else {
                    return fault(format!(
                        "merge {rank}, of {left:?} and {right:?}, needs the token {text:?}, which \
                         the vocabulary lacks"
                    ));
                };
                vocabulary.insert(text.clone(), *id);
            }
        }
        let merger = BPE::builder()
            .cache_capacity(limits::CACHED_PIECES)
            .vocab_and_merges(vocabulary, self.merges)
            .ignore_merges(self.ignores_merges)
            .build();
        merger.map_err(|error| ModelError::Tokenizer { what: error.to_string() })
    }
}

/// What an added token is, by its text: converters mark the same token as special or not, and fill
/// vocabularies up to the size of the embedding with texts of their own.
pub(super) fn kind_of_added(id: usize, text: &str, is_special: bool) -> TokenKind {
    let is_between = |open, close| text.starts_with(open) && text.ends_with(close);
    if is_between("[PAD", "]") && text == format!("[PAD{id}]") {
        TokenKind::Placeholder
    } else if is_special || is_between("<|", "|>") || is_between("<｜", "｜>") {
        TokenKind::Control
    } else {
        TokenKind::UserDefined
    }
}

fn fault<T>(what: String) -> Result<T, ModelError> {
    Err(ModelError::Tokenizer { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    fn parts(tokens: &[(&str, TokenKind)], merges: &[(&str, &str)]) -> TokenizerParts {
        let tokens = tokens.iter().map(|(text, kind)| ((*text).to_owned(), *kind)).collect();
        let merges = merges.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        TokenizerParts::new(tokens, merges, PreTokenizer::Gpt2)
    }

    fn with_roles(roles: Roles) -> TokenizerParts {
        TokenizerParts { roles, ..parts(&[("a", TokenKind::Normal)], &[]) }
    }

    #[test]
    fn what_is_not_a_vocabulary_is_refused() {
        use TokenKind::{Control, Normal};
        let long = "a".repeat(limits::TOKEN_BYTES_MAX + 1);
        let table = [
            (parts(&[], &[]), "0 tokens"),
            (parts(&[(&long, Normal)], &[]), "token 0 is longer"),
            (parts(&[("a", Normal), ("a", Normal)], &[]), "tokens 0 and 1 are both \"a\""),
            (parts(&[("a", Normal), ("a", Control)], &[]), "tokens 0 and 1 are both \"a\""),
            (parts(&[("a", Normal)], &[("a", "b")]), "needs the token \"b\""),
            (parts(&[("a", Normal)], &[("a", "a")]), "needs the token \"aa\""),
            (parts(&[("a", Normal), ("aa", Control)], &[("a", "a")]), "needs the token \"aa\""),
            (with_roles(Roles { bos_id: Some(1), ..Roles::default() }), "begin token 1 is outside"),
            (with_roles(Roles { eos_id: Some(7), ..Roles::default() }), "end token 7 is outside"),
            (
                with_roles(Roles { end_ids: HashSet::from([2]), ..Roles::default() }),
                "end token 2 is outside",
            ),
            (
                with_roles(Roles { bos_id: Some(0), prepends_bos: true, ..Roles::default() }),
                "in front of every text, but token 0 is an ordinary one",
            ),
            (
                with_roles(Roles { prepends_bos: true, ..Roles::default() }),
                "in front of every text, but none is named",
            ),
        ];
        for (parts, expected) in table {
            let message = Tokenizer::build(parts).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn control_tokens_known_by_their_texts_end_a_text() {
        let kinds = [TokenKind::Control, TokenKind::UserDefined];
        for text in ["<EOT>", "_<EOT>", "[EOT]", "<end_of_utterance>", "<|im_end|>", "</s>"] {
            for (kind, ends) in kinds.into_iter().zip([true, false]) {
                let built = Tokenizer::build(parts(&[("a", TokenKind::Normal), (text, kind)], &[]));
                assert_eq!(built.unwrap().ends_text(1), ends, "{text}");
            }
        }
    }

    #[test]
    fn placeholders_may_share_a_text_or_have_none() {
        use TokenKind::{Control, Normal, Placeholder};
        let tokens = [("a", Normal), ("x", Placeholder), ("x", Placeholder), ("", Control)];
        let built = Tokenizer::build(parts(&tokens, &[])).unwrap();
        assert_eq!([1, 2, 3].map(|id| built.kind(id)), [Placeholder; 3]);
    }

    #[test]
    fn text_tokens_that_merges_name_are_merged_and_others_are_not() {
        use TokenKind::{Normal, UserDefined};
        let tokens = [("a", Normal), ("b", Normal), ("ab", UserDefined), ("ba", UserDefined)];
        let built = Tokenizer::build(parts(&tokens, &[("a", "b")])).unwrap();
        let plain = |text| built.encode(text, crate::AddedTokens::Plain);
        assert_eq!(plain("ab"), [2]);
        assert_eq!(plain("ba"), [1, 0]);
    }

    #[test]
    fn added_tokens_are_told_apart_by_their_texts() {
        use TokenKind::{Control, Placeholder, UserDefined};
        for (text, is_special, expected) in [
            ("<think>", false, UserDefined),
            ("<think>", true, Control),
            ("<|fim_pad|>", false, Control),
            ("<｜User｜>", false, Control),
            ("[PAD7]", false, Placeholder),
            ("[PAD8]", false, UserDefined),
            ("[PAD8]", true, Control),
        ] {
            assert_eq!(kind_of_added(7, text, is_special), expected, "{text}");
        }
    }
}
