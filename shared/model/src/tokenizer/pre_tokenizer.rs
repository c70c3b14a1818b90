//! How a text is cut into pieces before merges are applied, each piece on its own.
//!
//! The published expressions end in `\s+(?!\S)|\s+`: a run of white space leaves its last character
//! to the word after it. That look-ahead needs a backtracking engine, which gives up on long runs;
//! so the expressions here end in `\s+` alone, and the last character is given back by hand. What
//! remains has no look-around, and an automaton cuts any text in one pass.
//!
//! Knows nothing of vocabularies.

use regex::Regex;

use crate::error::ModelError;

/// The published expressions. Models are trained with one of these, and the wrong one gives other
/// ids without any error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreTokenizer {
    /// GPT-2's expression (`encoder.py` of the published code).
    Gpt2,
    /// Each digit alone, then GPT-2's expression.
    SmolLm,
    /// Llama 3's expression with single digits.
    Qwen2,
    /// Words with the sign before them, up to three digits, signs with the line ends after them.
    Llama3,
}

/// As `tokenizer.json` files spell the expressions.
pub(super) const GPT2_PUBLISHED: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(super) const QWEN2_PUBLISHED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const LLAMA3_PUBLISHED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What the expressions here leave out.
const GIVE_BACK: &str = r"\s+(?!\S)|";

impl PreTokenizer {
    /// The name that GGUF files have for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
            Self::Qwen2 => "qwen2",
            Self::Llama3 => "llama-bpe",
        }
    }

    /// As `tokenizer.json` files spell it.
    pub(super) fn published(self) -> &'static str {
        match self {
            Self::Gpt2 | Self::SmolLm => GPT2_PUBLISHED,
            Self::Qwen2 => QWEN2_PUBLISHED,
            Self::Llama3 => LLAMA3_PUBLISHED,
        }
    }
}

/// Cuts texts as a [`PreTokenizer`] says.
#[derive(Debug)]
pub(super) struct Cutter {
    rule: PreTokenizer,
    expression: Regex,
}

impl Cutter {
    pub(super) fn new(rule: PreTokenizer) -> Result<Self, ModelError> {
        let expression = Regex::new(&rule.published().replace(GIVE_BACK, ""));
        let expression =
            expression.map_err(|error| ModelError::Tokenizer { what: error.to_string() })?;
        Ok(Self { rule, expression })
    }

    pub(super) fn rule(&self) -> PreTokenizer {
        self.rule
    }

    /// Calls `each` with the pieces, left to right. Together they are the text.
    pub(super) fn cut<'a>(&self, text: &'a str, mut each: impl FnMut(&'a str)) {
        if self.rule != PreTokenizer::SmolLm {
            return self.cut_part(text, &mut each);
        }
        let mut rest = text;
        while let Some(at) = rest.find(char::is_numeric) {
            self.cut_part(&rest[..at], &mut each);
            let digit_bytes = rest[at..].chars().next().map_or(0, char::len_utf8);
            each(&rest[at..at + digit_bytes]);
            rest = &rest[at + digit_bytes..];
        }
        self.cut_part(rest, &mut each);
    }

    fn cut_part<'a>(&self, text: &'a str, each: &mut impl FnMut(&'a str)) {
        let mut at = 0;
        while let Some(found) = self.expression.find_at(text, at) {
            // Nothing is left out: the expressions match every character.
            if found.start() > at {
                each(&text[at..found.start()]);
            }
            let end =
                found.end() - self.given_back_bytes(found.as_str(), found.end() == text.len());
            each(&text[found.start()..end]);
            at = end;
        }
        if at < text.len() {
            each(&text[at..]);
        }
    }

    /// How much of a match the look-ahead would have left to the next: the last character of a run
    /// of two or more white-space characters before something else.
    fn given_back_bytes(&self, found: &str, is_last: bool) -> usize {
        let is_gpt2 = matches!(self.rule, PreTokenizer::Gpt2 | PreTokenizer::SmolLm);
        let is_run = |char: char| char.is_whitespace() && (is_gpt2 || !matches!(char, '\r' | '\n'));
        let last = found.chars().next_back().filter(|&char| !is_last && is_run(char));
        last.map(char::len_utf8).filter(|&bytes| bytes < found.len()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::pre_tokenizers::sequence::Sequence;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
        SplitDelimiterBehavior,
    };

    const RULES: [PreTokenizer; 4] =
        [PreTokenizer::Gpt2, PreTokenizer::SmolLm, PreTokenizer::Qwen2, PreTokenizer::Llama3];

    fn pieces(rule: PreTokenizer, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        Cutter::new(rule).unwrap().cut(text, |piece| pieces.push(piece.to_owned()));
        pieces
    }

    /// The reference: the published expression, by the engine of the `tokenizers` crate.
    fn published_pieces(rule: PreTokenizer, text: &str) -> Vec<String> {
        let pattern = SplitPattern::Regex(rule.published().to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
        let mut steps: Vec<PreTokenizerWrapper> = vec![split.into()];
        if rule == PreTokenizer::SmolLm {
            steps.insert(0, Digits::new(true).into());
        }
        let mut cut = PreTokenizedString::from(text);
        Sequence::new(steps).pre_tokenize(&mut cut).unwrap();
        let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
    }

    #[test]
    fn the_expressions_say_what_their_names_say() {
        let text = "I'VE  12345 cafés!?\r\n\n  x\t\ty ";
        for (rule, expected) in [
            (
                PreTokenizer::Gpt2,
                vec![
                    "I", "'", "VE", " ", " 12345", " cafés", "!?", "\r\n\n ", " x", "\t", "\t",
                    "y", " ",
                ],
            ),
            (
                PreTokenizer::SmolLm,
                vec![
                    "I", "'", "VE", "  ", "1", "2", "3", "4", "5", " cafés", "!?", "\r\n\n ", " x",
                    "\t", "\t", "y", " ",
                ],
            ),
            (
                PreTokenizer::Qwen2,
                vec![
                    "I", "'VE", " ", " ", "1", "2", "3", "4", "5", " cafés", "!?\r\n\n", " ", " x",
                    "\t", "\ty", " ",
                ],
            ),
            (
                PreTokenizer::Llama3,
                vec![
                    "I", "'VE", " ", " ", "123", "45", " cafés", "!?\r\n\n", " ", " x", "\t",
                    "\ty", " ",
                ],
            ),
        ] {
            assert_eq!(pieces(rule, text), expected, "{rule:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_in_every_published_expression() {
        for rule in RULES {
            assert_eq!(rule.published().matches(GIVE_BACK).count(), 1, "{rule:?}");
        }
    }

    #[test]
    fn long_runs_are_cut_in_one_pass() {
        for piece in [" ", "\n", " \n", "\t ", "a", "é", "1", "!", "' ", "\u{3000}"] {
            let text = piece.repeat(1_000_000 / piece.len());
            for rule in RULES {
                let mut bytes = 0;
                Cutter::new(rule).unwrap().cut(&text, |piece| bytes += piece.len());
                assert_eq!(bytes, text.len(), "{rule:?} {piece:?}");
            }
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ \t\r\n]{0,4}",
            "[a-cA-C'sStTlLdD]{0,6}",
            "[0-9½٣]{0,5}",
            "[!?.…\u{301}\u{200D}\u{17F}]{0,3}",
            "\\s{0,4}",
            "\\PC{0,4}",
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_where_the_published_expression_cuts(text in text()) {
            for rule in RULES {
                let ours = pieces(rule, &text);
                prop_assert_eq!(&ours, &published_pieces(rule, &text), "{:?}", rule);
                prop_assert_eq!(ours.concat(), text.clone());
            }
        }
    }
}
