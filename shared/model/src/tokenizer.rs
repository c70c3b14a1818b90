//! Text to ids and back, and what the vocabulary says about each id.
//!
//! Byte-level BPE: every text has ids and every id has bytes. Added tokens (control tokens and
//! those a model's makers defined) are matched here, literally and longest first, so that callers
//! decide where text may become one of them.

mod gguf;
mod hugging_face;

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::PreTokenizerWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use crate::error::ModelError;

mod limits {
    /// A longer merge rule or token text is not from a tokenizer anyone trained.
    pub(super) const TOKEN_BYTES_MAX: usize = 1 << 16;
}

/// Texts by which end tokens go where a file does not name them by role.
const END_TEXTS: [&str; 9] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "</s>",
];

/// What an id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text, learned from data.
    Normal,
    /// An added token that steers the model and is not shown.
    Control,
    /// An added token that is text all the same.
    UserDefined,
    /// An id without meaning: padding of the vocabulary, or reserved by the file.
    Placeholder,
}

impl TokenKind {
    fn is_added(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined)
    }
}

/// Whether added tokens in a text become their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddedTokens {
    /// They do: the text is trusted, as a template's or a raw prompt's.
    Parse,
    /// They are characters like any other.
    Plain,
}

/// How a text is cut before the merges are applied. Models are trained with one of these, and the
/// wrong one gives other ids without any error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreTokenizer {
    /// GPT-2's expression.
    Gpt2,
    /// Each digit alone, then GPT-2's expression.
    SmolLm,
}

/// What a tokenizer is made of, as a model file has it.
#[derive(Debug)]
pub(crate) struct TokenizerParts {
    /// Text and kind of each id; ordinary tokens in the byte-level alphabet, others literal.
    pub(crate) tokens: Vec<(String, TokenKind)>,
    /// Merge rules by rank.
    pub(crate) merges: Vec<(String, String)>,
    /// How text is cut first.
    pub(crate) pre_tokenizer: PreTokenizer,
    /// Ids the file names as ends, whatever their role.
    pub(crate) end_ids: Vec<u32>,
    /// The token that begins a text, if there is one.
    pub(crate) bos_id: Option<u32>,
    /// The token that ends a text, as templates name it.
    pub(crate) eos_id: Option<u32>,
}

/// A vocabulary and the rules that apply it. A clone is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    /// Added tokens that [`AddedTokens::Parse`] looks for, longest first.
    parsed: Arc<[u32]>,
}

#[derive(Debug)]
struct Vocabulary {
    /// All tokens' bytes, one after the other; `ends[id]` is where the token's stop.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    end_ids: HashSet<u32>,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    /// The token that is this one byte, where there is one.
    byte_tokens: Vec<Option<u32>>,
    merger: tokenizers::Tokenizer,
}

impl Tokenizer {
    pub(crate) fn build(parts: TokenizerParts) -> Result<Self, ModelError> {
        check_sizes(&parts)?;
        let alphabet = Alphabet::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(parts.tokens.len());
        for (text, kind) in &parts.tokens {
            alphabet.push_token_bytes(text, *kind, &mut bytes);
            ends.push(bytes.len());
        }
        let kinds: Vec<TokenKind> = parts.tokens.iter().map(|token| token.1).collect();
        let byte_tokens = find_byte_tokens(&bytes, &ends, &kinds);
        let end_ids = find_end_ids(&parts);
        let (bos_id, eos_id) = (parts.bos_id, parts.eos_id);
        let merger = build_merger(parts)?;
        let vocabulary =
            Vocabulary { bytes, ends, kinds, end_ids, bos_id, eos_id, byte_tokens, merger };
        let parsed = added_ids_longest_first(&vocabulary);
        Ok(Self { vocabulary: Arc::new(vocabulary), parsed: parsed.into() })
    }

    /// The same tokenizer, to which added tokens with these texts are plain text: texts that a
    /// program gives a meaning of its own must not become ids in prompts.
    #[must_use]
    pub fn with_plain_texts(&self, texts: &[&str]) -> Self {
        let is_plain = |id: u32| texts.iter().any(|text| text.as_bytes() == self.token_bytes(id));
        let parsed: Vec<u32> = self.parsed.iter().copied().filter(|&id| !is_plain(id)).collect();
        Self { vocabulary: Arc::clone(&self.vocabulary), parsed: parsed.into() }
    }

    /// Ids of a text. Nothing is put in front of it.
    pub fn encode(&self, text: &str, added: AddedTokens) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut plain_from = 0;
        if added == AddedTokens::Parse {
            for (start, id) in self.added_tokens_in(text) {
                self.encode_plain(&text[plain_from..start], &mut ids);
                ids.push(id);
                plain_from = start + self.token_bytes(id).len();
            }
        }
        self.encode_plain(&text[plain_from..], &mut ids);
        ids
    }

    /// Ids of a plain text that need not be UTF-8: bytes that are none on their own become
    /// single-byte tokens. (A byte that the vocabulary has no token for is left out, as in the
    /// published tokenizers; UTF-8 text hardly has any.)
    pub fn encode_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            self.encode_plain(chunk.valid(), &mut ids);
            ids.extend(self.single_bytes(chunk.invalid()));
        }
        ids
    }

    /// What a token adds to the text: byte-level tokens decoded, added tokens literal, nothing
    /// for placeholders and ids out of range.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let Vocabulary { bytes, ends, .. } = &*self.vocabulary;
        let index = id as usize;
        let Some(&end) = ends.get(index) else {
            return &[];
        };
        let start = index.checked_sub(1).map_or(0, |before| ends[before]);
        &bytes[start..end]
    }

    /// What an id stands for; ids out of range are placeholders.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.vocabulary.kinds.get(id as usize).copied().unwrap_or(TokenKind::Placeholder)
    }

    /// Whether a token is not for readers: control tokens and placeholders.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kind(id), TokenKind::Control | TokenKind::Placeholder)
    }

    /// Whether a token ends a text or a turn. Models have several of these.
    pub fn ends_text(&self, id: u32) -> bool {
        self.vocabulary.end_ids.contains(&id)
    }

    /// The text of the token that begins texts, as templates write it; empty if there is none.
    pub fn bos_text(&self) -> String {
        self.role_text(self.vocabulary.bos_id)
    }

    /// The text of the token that ends texts, as templates write it; empty if there is none.
    pub fn eos_text(&self) -> String {
        self.role_text(self.vocabulary.eos_id)
    }

    fn role_text(&self, id: Option<u32>) -> String {
        let bytes = id.map_or(&[][..], |id| self.token_bytes(id));
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The id of an added token with exactly this text.
    pub fn added_token_id(&self, text: &str) -> Option<u32> {
        let mut ids = (0..).zip(&self.vocabulary.kinds);
        let found =
            ids.find(|(id, kind)| kind.is_added() && self.token_bytes(*id) == text.as_bytes());
        found.map(|(id, _)| id)
    }

    /// One more than the highest id.
    pub fn vocabulary_tokens(&self) -> usize {
        self.vocabulary.kinds.len()
    }

    /// What two sides compare before ids pass between them: 16 bytes of BLAKE3 over every id, its
    /// bytes and whether it is an added token. Placeholders stay out, and so do the added tokens
    /// whose texts are in `left_out`. Which added tokens are "special" makes no difference,
    /// because converters disagree about it.
    pub fn fingerprint(&self, left_out: &[&str]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.v1.vocabulary");
        for (id, kind) in (0..).zip(&self.vocabulary.kinds) {
            let bytes = self.token_bytes(id);
            let is_left_out =
                kind.is_added() && left_out.iter().any(|text| text.as_bytes() == bytes);
            if *kind == TokenKind::Placeholder || is_left_out {
                continue;
            }
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            hasher.update(&id.to_le_bytes());
            hasher.update(&len.to_le_bytes());
            hasher.update(bytes);
            hasher.update(&[u8::from(kind.is_added())]);
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        fingerprint
    }

    /// Where added tokens stand in a text, left to right, the longest at each place.
    pub(crate) fn added_tokens_in(&self, text: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match self.added_token_at(&text.as_bytes()[at..]) {
                Some(id) => {
                    found.push((at, id));
                    at += self.token_bytes(id).len();
                }
                None => at += 1,
            }
        }
        found
    }

    fn added_token_at(&self, bytes: &[u8]) -> Option<u32> {
        self.parsed.iter().copied().find(|&id| bytes.starts_with(self.token_bytes(id)))
    }

    /// Texts of control tokens: what chat contents may not turn into.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &[u8]> {
        let ids = (0..).zip(&self.vocabulary.kinds);
        let control = ids.filter(|(_, kind)| **kind == TokenKind::Control);
        control.map(|(id, _)| self.token_bytes(id)).filter(|bytes| !bytes.is_empty())
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        match self.vocabulary.merger.encode_fast(text, false) {
            Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
            // Byte-level BPE takes any text; should it ever not, spelling it out loses nothing.
            Err(_) => ids.extend(self.single_bytes(text.as_bytes())),
        }
    }

    fn single_bytes(&self, bytes: &[u8]) -> impl Iterator<Item = u32> {
        bytes.iter().filter_map(|&byte| self.vocabulary.byte_tokens[usize::from(byte)])
    }
}

/// The byte-level alphabet: GPT-2's printable stand-in for each byte.
struct Alphabet {
    /// Byte of each stand-in, by code point.
    bytes: Vec<Option<u8>>,
}

impl Alphabet {
    fn new() -> Self {
        let mut bytes = vec![None; 512];
        let mut next_stand_in = '\u{100}';
        for byte in 0..=255_u8 {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let stand_in = if printable { char::from(byte) } else { next_stand_in };
            if !printable {
                next_stand_in = char::from_u32(u32::from(next_stand_in) + 1).unwrap_or_default();
            }
            bytes[stand_in as usize] = Some(byte);
        }
        Self { bytes }
    }

    fn push_token_bytes(&self, text: &str, kind: TokenKind, out: &mut Vec<u8>) {
        let byte_of = |char: char| self.bytes.get(char as usize).copied().flatten();
        match kind {
            TokenKind::Placeholder => {}
            TokenKind::Control | TokenKind::UserDefined => out.extend_from_slice(text.as_bytes()),
            TokenKind::Normal => {
                for char in text.chars() {
                    match byte_of(char) {
                        Some(byte) => out.push(byte),
                        None => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
        }
    }
}

/// The text by which a vocabulary lists the token of one byte.
#[cfg(any(test, feature = "scripted"))]
pub(crate) fn byte_token_text(byte: u8) -> String {
    let alphabet = Alphabet::new();
    let stand_in = (0..).zip(alphabet.bytes).find(|(_, of)| *of == Some(byte));
    stand_in.and_then(|(point, _)| char::from_u32(point)).into_iter().collect()
}

fn check_sizes(parts: &TokenizerParts) -> Result<(), ModelError> {
    let fault = |what: String| Err(ModelError::Tokenizer { what });
    if parts.tokens.is_empty() || u32::try_from(parts.tokens.len()).is_err() {
        return fault(format!("{} tokens are not a vocabulary", parts.tokens.len()));
    }
    if let Some(long) =
        parts.tokens.iter().position(|token| token.0.len() > limits::TOKEN_BYTES_MAX)
    {
        return fault(format!("token {long} is longer than {} bytes", limits::TOKEN_BYTES_MAX));
    }
    let past = parts.end_ids.iter().find(|&&id| id as usize >= parts.tokens.len());
    past.map_or(Ok(()), |id| fault(format!("end token {id} is outside of the vocabulary")))
}

fn find_byte_tokens(bytes: &[u8], ends: &[usize], kinds: &[TokenKind]) -> Vec<Option<u32>> {
    let mut found = vec![None; 256];
    let mut start = 0;
    for ((id, &end), kind) in (0..).zip(ends).zip(kinds) {
        if let (&[byte], TokenKind::Normal) = (&bytes[start..end], kind) {
            found[usize::from(byte)].get_or_insert(id);
        }
        start = end;
    }
    found
}

fn find_end_ids(parts: &TokenizerParts) -> HashSet<u32> {
    let named = parts.end_ids.iter().copied();
    let known = (0..).zip(&parts.tokens).filter(|(_, (text, kind))| {
        *kind == TokenKind::Control && END_TEXTS.contains(&text.as_str())
    });
    named.chain(known.map(|(id, _)| id)).collect()
}

fn added_ids_longest_first(vocabulary: &Vocabulary) -> Vec<u32> {
    let len = |id: &u32| {
        let index = *id as usize;
        vocabulary.ends[index] - index.checked_sub(1).map_or(0, |before| vocabulary.ends[before])
    };
    let ids = (0..).zip(&vocabulary.kinds).filter(|(_, kind)| kind.is_added()).map(|(id, _)| id);
    let mut ids: Vec<u32> = ids.filter(|id| len(id) > 0).collect();
    ids.sort_by_key(|id| std::cmp::Reverse(len(id)));
    ids
}

fn build_merger(parts: TokenizerParts) -> Result<tokenizers::Tokenizer, ModelError> {
    let fault = |what: String| ModelError::Tokenizer { what };
    let normal = (0..).zip(parts.tokens).filter(|(_, (_, kind))| *kind == TokenKind::Normal);
    let vocabulary: Vocab = normal.map(|(id, (text, _))| (text, id)).collect();
    let model = BPE::builder().vocab_and_merges(vocabulary, parts.merges).build();
    let model = model.map_err(|error| fault(format!("merges do not fit the tokens: {error}")))?;
    let byte_level = PreTokenizerWrapper::from(ByteLevel::new(false, false, true));
    let steps = match parts.pre_tokenizer {
        PreTokenizer::Gpt2 => vec![byte_level],
        PreTokenizer::SmolLm => vec![Digits::new(true).into(), byte_level],
    };
    let mut merger = tokenizers::Tokenizer::new(model);
    merger.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(merger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::byte_tokenizer;
    use proptest::prelude::*;

    const ADDED: [(&str, TokenKind); 5] = [
        ("<|im_start|>", TokenKind::Control),
        ("<call>", TokenKind::UserDefined),
        ("</call>", TokenKind::UserDefined),
        ("<call>x", TokenKind::UserDefined),
        ("[PAD7]", TokenKind::Placeholder),
    ];

    fn bytes_of(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect()
    }

    fn small(pre_tokenizer: PreTokenizer) -> Tokenizer {
        let bytes = (0..=255).map(byte_token_text);
        let learned = ["he", "ll", "hell", "hello", "12", "\u{120}h"].map(str::to_owned);
        let tokens = bytes.chain(learned).map(|text| (text, TokenKind::Normal)).collect();
        let merges =
            [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("1", "2"), ("\u{120}", "h")];
        let merges = merges.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        Tokenizer::build(TokenizerParts {
            tokens,
            merges,
            pre_tokenizer,
            end_ids: vec![],
            bos_id: None,
            eos_id: None,
        })
        .unwrap()
    }

    #[test]
    fn merges_by_rank_and_cuts_as_the_pre_tokenizer_says() {
        let (gpt2, smollm) = (small(PreTokenizer::Gpt2), small(PreTokenizer::SmolLm));
        assert_eq!(gpt2.encode("hello", AddedTokens::Plain), [259]);
        assert_eq!(gpt2.encode("12", AddedTokens::Plain), [260]);
        assert_eq!(smollm.encode("12", AddedTokens::Plain), [49, 50]);
        assert_eq!(gpt2.encode(" h", AddedTokens::Plain), [261]);
        assert_eq!(gpt2.encode("", AddedTokens::Parse), [0; 0]);
    }

    #[test]
    fn added_tokens_are_found_longest_first_and_only_when_asked() {
        let tokenizer = byte_tokenizer(&ADDED);
        let parsed = tokenizer.encode("a<call>xb</call><|endoftext|>", AddedTokens::Parse);
        assert_eq!(parsed, [97, 260, 98, 259, 256]);
        let plain = tokenizer.encode("a<call>", AddedTokens::Plain);
        assert_eq!(plain, b"a<call>".map(u32::from));
        assert_eq!(tokenizer.encode("[PAD7]", AddedTokens::Parse), b"[PAD7]".map(u32::from));
        let commands_are_text = tokenizer.with_plain_texts(&["<call>", "</call>", "<call>x"]);
        let ids = commands_are_text.encode("<call><|im_start|>", AddedTokens::Parse);
        assert_eq!(ids, [b"<call>".map(u32::from).as_slice(), &[257]].concat());
        assert_eq!(commands_are_text.added_token_id("<call>"), Some(258));
    }

    #[test]
    fn ids_say_what_they_are() {
        let tokenizer = byte_tokenizer(&ADDED);
        assert_eq!(tokenizer.vocabulary_tokens(), 262);
        let control: Vec<u32> = (0..300).filter(|&id| tokenizer.is_control(id)).collect();
        assert_eq!(control, [vec![256, 257, 261], (262..300).collect()].concat());
        let ends: Vec<u32> = (0..300).filter(|&id| tokenizer.ends_text(id)).collect();
        assert_eq!(ends, [256]);
        assert_eq!(tokenizer.token_bytes(258), b"<call>");
        assert_eq!(tokenizer.token_bytes(0xE2), [0xE2]);
        assert_eq!(tokenizer.token_bytes(261), b"");
        assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
        assert_eq!(tokenizer.added_token_id("<call>"), Some(258));
        assert_eq!(tokenizer.added_token_id("[PAD7]"), None);
        assert_eq!(tokenizer.added_token_id("a"), None);
    }

    #[test]
    fn ends_are_found_by_role_and_by_name() {
        let texts = ["<|im_end|>", "<|eot_id|>", "stop", "</s>"].map(str::to_owned);
        let kinds = [TokenKind::Control, TokenKind::Control, TokenKind::Control, TokenKind::Normal];
        let tokens = texts.into_iter().zip(kinds).collect();
        let pre_tokenizer = PreTokenizer::Gpt2;
        let made_of = TokenizerParts {
            tokens,
            merges: vec![],
            pre_tokenizer,
            end_ids: vec![2],
            bos_id: None,
            eos_id: None,
        };
        let built = Tokenizer::build(made_of).unwrap();
        assert_eq!([0, 1, 2, 3].map(|id| built.ends_text(id)), [true, true, true, false]);
    }

    #[test]
    fn the_fingerprint_is_the_hash_the_protocol_names() {
        let tokenizer = byte_tokenizer(&ADDED);
        let mut hashed = b"relay.v1.vocabulary".to_vec();
        let mut add = |id: u32, bytes: &[u8], added: u8| {
            hashed.extend(id.to_le_bytes());
            hashed.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            hashed.extend(bytes);
            hashed.push(added);
        };
        (0..=255).for_each(|byte: u8| add(byte.into(), &[byte], 0));
        add(256, b"<|endoftext|>", 1);
        add(257, b"<|im_start|>", 1);
        add(260, b"<call>x", 1);
        let expected = blake3::hash(&hashed);
        let fingerprint = tokenizer.fingerprint(&["<call>", "</call>"]);
        assert_eq!(fingerprint, expected.as_bytes()[..16]);
        assert_ne!(fingerprint, tokenizer.fingerprint(&[]));
        let without_commands = byte_tokenizer(&ADDED[..1]);
        assert_ne!(without_commands.fingerprint(&[]), byte_tokenizer(&[]).fingerprint(&[]));
        let padded = byte_tokenizer(&[ADDED[0], ADDED[4]]);
        assert_eq!(padded.fingerprint(&[]), without_commands.fingerprint(&[]));
        let as_text = byte_tokenizer(&[("<|im_start|>", TokenKind::UserDefined)]);
        assert_eq!(as_text.fingerprint(&[]), without_commands.fingerprint(&[]));
    }

    #[test]
    fn long_runs_take_no_time_and_lose_nothing() {
        let tokenizer = small(PreTokenizer::SmolLm);
        for piece in [" ", "a", "hello", "7", "\n", "é"] {
            let text = piece.repeat(200_000 / piece.len());
            let ids = tokenizer.encode(&text, AddedTokens::Parse);
            assert_eq!(bytes_of(&tokenizer, &ids), text.as_bytes());
        }
    }

    #[test]
    fn what_is_not_a_vocabulary_is_refused() {
        let parts = |tokens: &[&str], merges: &[(&str, &str)], end_ids: Vec<u32>| TokenizerParts {
            tokens: tokens.iter().map(|text| ((*text).to_owned(), TokenKind::Normal)).collect(),
            merges: merges.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            pre_tokenizer: PreTokenizer::Gpt2,
            end_ids,
            bos_id: None,
            eos_id: None,
        };
        let table = [
            (parts(&[], &[], vec![]), "0 tokens"),
            (parts(&["a"], &[("a", "b")], vec![]), "merges"),
            (parts(&["a"], &[], vec![1]), "end token 1"),
        ];
        for (parts, expected) in table {
            let message = Tokenizer::build(parts).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in ".{0,40}|[a-h <>|/xcal12]{0,40}") {
            for tokenizer in [small(PreTokenizer::Gpt2), small(PreTokenizer::SmolLm), byte_tokenizer(&ADDED)] {
                for added in [AddedTokens::Parse, AddedTokens::Plain] {
                    let ids = tokenizer.encode(&text, added);
                    prop_assert_eq!(bytes_of(&tokenizer, &ids), text.as_bytes());
                }
            }
        }

        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let tokenizer = small(PreTokenizer::Gpt2);
            prop_assert_eq!(bytes_of(&tokenizer, &tokenizer.encode_bytes(&bytes)), bytes);
        }
    }
}
