//! Text to ids and back, and what the vocabulary says about each id.
//!
//! Byte-level BPE: every text has ids and every id has bytes. Added tokens (control tokens and
//! those a model's makers defined) are matched here, literally and longest first, so that callers
//! decide where text may become one of them. Knows no file format: `gguf` and `hugging_face` do.

mod added_tokens;
mod byte_level;
mod gguf;
mod hugging_face;
mod parts;
mod pre_tokenizer;
mod written;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::{Model, NormalizedString, Normalizer};

use crate::error::ModelError;
use crate::folder_files::FolderFiles;
use crate::gguf::GgufFile;
use added_tokens::{AddedToken, Finder};
use byte_level::Alphabet;
use pre_tokenizer::Cutter;

#[cfg(any(test, feature = "scripted"))]
pub(crate) use byte_level::byte_token_text;
#[cfg(any(test, feature = "scripted"))]
pub(crate) use parts::Roles;
pub(crate) use parts::TokenizerParts;
#[cfg(any(test, feature = "scripted"))]
pub(crate) use pre_tokenizer::PreTokenizer;
pub(crate) use written::tokenizer_files;

mod limits {
    /// A longer token text is not from a tokenizer anyone trained.
    pub(super) const TOKEN_BYTES_MAX: usize = 1 << 16;
    /// Ids of a vocabulary: the largest published ones stay below a quarter of it.
    pub(super) const TOKENS_MAX: usize = 1 << 21;
    /// Ids of a `tokenizer.json` that no token has: memory is to follow from what a file holds.
    pub(super) const UNNAMED_IDS_MAX: usize = 1 << 16;
    /// Bytes of an added token: so far a search looks ahead of the place it has come to.
    pub(super) const ADDED_TOKEN_BYTES_MAX: usize = 1 << 8;
    /// Bytes of all added tokens together: a search holds some tens of bytes for each.
    pub(super) const ADDED_BYTES_MAX: usize = 1 << 21;
    /// Bytes of a `tokenizer.json`: the largest published ones have a third of it.
    pub(super) const TOKENIZER_BYTES_MAX: u64 = 1 << 27;
    /// Pieces whose ids a thread remembers. They outlive the tokenizer, so that a fuzzer, which
    /// makes many, does without.
    pub(super) const CACHED_PIECES: usize = if cfg!(feature = "fuzzing") { 0 } else { 10_000 };
    /// Characters after an added token that are looked at for marks that join its last one.
    pub(super) const MARKS_MAX: usize = 32;
}

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

/// A vocabulary and the rules that apply it. A clone is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    /// Finds added tokens, save those that are plain text to this tokenizer.
    finder: Arc<Finder>,
}

#[derive(Debug)]
struct Vocabulary {
    /// All tokens' bytes, one after the other; `ends[id]` is where the token's stop.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    end_ids: HashSet<u32>,
    bos_id: Option<u32>,
    prepends_bos: bool,
    eos_id: Option<u32>,
    /// The token that is this one byte, where there is one.
    byte_tokens: Vec<Option<u32>>,
    late_ids: HashSet<u32>,
    composes: bool,
    cutter: Cutter,
    alphabet: Alphabet,
    merger: BPE,
}

impl Tokenizer {
    /// The tokenizer of a model, without its weights: of a GGUF file, or of a Hugging Face folder.
    ///
    /// # Errors
    /// [`ModelError::Io`] if a file cannot be read, [`ModelError::BadFile`] if it is damaged,
    /// foreign, or asks for what is not supported.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            Self::from_folder(&FolderFiles::on_disk(path))
        } else {
            Self::from_gguf(&GgufFile::open(path)?)
        }
    }

    pub(crate) fn build(parts: TokenizerParts) -> Result<Self, ModelError> {
        let parts = parts.checked()?;
        let alphabet = Alphabet::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(parts.tokens.len());
        for (text, kind) in &parts.tokens {
            match kind {
                TokenKind::Placeholder => {}
                TokenKind::Normal => alphabet.push_bytes(text, &mut bytes),
                TokenKind::Control | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
            ends.push(bytes.len());
        }
        let kinds: Vec<TokenKind> = parts.tokens.iter().map(|token| token.1).collect();
        let vocabulary = Vocabulary {
            byte_tokens: find_byte_tokens(&bytes, &ends, &kinds),
            bytes,
            ends,
            kinds,
            end_ids: parts.end_ids(),
            bos_id: parts.roles.bos_id,
            prepends_bos: parts.roles.prepends_bos,
            eos_id: parts.roles.eos_id,
            late_ids: parts.late_ids.clone(),
            composes: parts.composes,
            cutter: Cutter::new(parts.pre_tokenizer)?,
            alphabet,
            merger: parts.into_merger()?,
        };
        let finder = vocabulary.new_finder(&[])?;
        Ok(Self { vocabulary: Arc::new(vocabulary), finder: Arc::new(finder) })
    }

    /// The same tokenizer, to which added tokens with these texts are plain text: texts that a
    /// program gives a meaning of its own must not become ids in prompts.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the other added tokens cannot be looked for.
    pub fn with_plain_texts(&self, texts: &[&str]) -> Result<Self, ModelError> {
        let finder = self.vocabulary.new_finder(texts)?;
        Ok(Self { vocabulary: Arc::clone(&self.vocabulary), finder: Arc::new(finder) })
    }

    /// Ids of a text. Nothing is put in front of it: see [`Tokenizer::with_bos`].
    pub fn encode(&self, text: &str, added: AddedTokens) -> Vec<u32> {
        let mut ids = Vec::new();
        match added {
            AddedTokens::Parse => {
                self.encode_around(text, &mut ids, |plain, ids| self.encode_plain(plain, ids));
            }
            AddedTokens::Plain => self.encode_plain(text, &mut ids),
        }
        ids
    }

    /// Added tokens as their ids, and what stands around them as `encode_plain` makes it.
    pub(crate) fn encode_around(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
        encode_plain: impl Fn(&str, &mut Vec<u32>),
    ) {
        let mut plain_from = 0;
        for (start, id) in self.added_tokens_in(text) {
            encode_plain(&text[plain_from..start], ids);
            ids.push(id);
            plain_from = start + self.token_bytes(id).len();
        }
        encode_plain(&text[plain_from..], ids);
    }

    /// Ids of a plain text that need not be UTF-8: bytes that are none on their own become
    /// single-byte tokens. (A byte that the vocabulary has no token for is left out, as in the
    /// published tokenizers; UTF-8 text hardly has any.)
    pub fn encode_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        for chunk in bytes.utf8_chunks() {
            self.encode_plain(chunk.valid(), &mut ids);
            let invalid = chunk.invalid().iter();
            ids.extend(invalid.filter_map(|&byte| self.byte_token(byte)));
        }
        ids
    }

    /// The token that the model's makers put in front of every text that no chat template made
    /// (templates write it themselves), if they do.
    pub fn bos_to_prepend(&self) -> Option<u32> {
        self.vocabulary.bos_id.filter(|_| self.vocabulary.prepends_bos)
    }

    /// A raw prompt as the model was trained to see it: behind the text of
    /// [`Tokenizer::bos_to_prepend`], unless it begins with that already.
    pub fn with_bos<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        let bos = self.bos_to_prepend().map(|_| self.bos_text()).unwrap_or_default();
        if prompt.starts_with(&bos) { prompt.into() } else { format!("{bos}{prompt}").into() }
    }

    /// What a token adds to the text: byte-level tokens decoded, added tokens literal, nothing
    /// for placeholders and ids out of range.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.token_bytes(id)
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

    /// Ids below `vocabulary_tokens`, the rows of a model's embedding, that stand for nothing:
    /// placeholders, and rows beyond the tokenizer's last id. None of them may be sampled.
    pub fn placeholder_ids(&self, vocabulary_tokens: usize) -> impl Iterator<Item = u32> {
        let ids = 0..u32::try_from(vocabulary_tokens).unwrap_or(u32::MAX);
        ids.filter(|&id| self.kind(id) == TokenKind::Placeholder)
    }

    /// How text is cut before the merges, by the name that GGUF files have for it.
    pub fn pre_tokenizer(&self) -> &'static str {
        self.vocabulary.cutter.rule().name()
    }

    /// One more than the highest id. A model may have more: see [`Tokenizer::placeholder_ids`].
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
        let found = self.finder.find(text).into_iter();
        found.filter(|&(start, id)| !self.composes_away(&text[start..], id)).collect()
    }

    /// Whether marks after a late token join its last character, so that the composed text, in
    /// which it would be looked for, does not hold it.
    fn composes_away(&self, from_token: &str, id: u32) -> bool {
        let Vocabulary { composes, late_ids, .. } = &*self.vocabulary;
        if !composes || !late_ids.contains(&id) {
            return false;
        }
        let (token, rest) = from_token.split_at(self.token_bytes(id).len());
        let marks = rest.chars().take_while(|&char| char >= FIRST_MARK).take(limits::MARKS_MAX);
        let end: String = token.chars().next_back().into_iter().chain(marks).collect();
        composed(&end).chars().next() != end.chars().next()
    }

    /// Texts of control tokens: what chat contents may not turn into.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &[u8]> {
        let ids = (0..).zip(&self.vocabulary.kinds);
        let control = ids.filter(|(_, kind)| **kind == TokenKind::Control);
        control.map(|(id, _)| self.token_bytes(id)).filter(|bytes| !bytes.is_empty())
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        let Vocabulary { composes, cutter, alphabet, merger, .. } = &*self.vocabulary;
        let text = if *composes { composed(text) } else { text.into() };
        let mut spelt = String::new();
        cutter.cut(&text, |piece| {
            alphabet.spell(piece.as_bytes(), &mut spelt);
            match merger.tokenize(&spelt) {
                Ok(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                // Byte-level BPE takes any text; should it ever not, bytes lose nothing.
                Err(_) => ids.extend(piece.bytes().filter_map(|byte| self.byte_token(byte))),
            }
        });
    }

    fn byte_token(&self, byte: u8) -> Option<u32> {
        self.vocabulary.byte_tokens[usize::from(byte)]
    }
}

impl Vocabulary {
    fn token_bytes(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else {
            return &[];
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..end]
    }

    /// Looks for added tokens, save those with these texts.
    fn new_finder(&self, plain_texts: &[&str]) -> Result<Finder, ModelError> {
        let added = (0..).zip(&self.kinds).filter(|(_, kind)| kind.is_added());
        let tokens = added.map(|(id, _)| AddedToken {
            id,
            text: self.token_bytes(id),
            is_late: self.late_ids.contains(&id),
        });
        let is_plain =
            |token: &AddedToken<'_>| plain_texts.iter().any(|text| text.as_bytes() == token.text);
        Finder::new(&tokens.filter(|token| !is_plain(token)).collect::<Vec<_>>())
    }
}

/// No character before it ever composes with one before it.
const FIRST_MARK: char = '\u{300}';

/// Unicode's composed form (NFC), by the tables of the reference implementation.
fn composed(text: &str) -> Cow<'_, str> {
    if text.chars().all(|char| char < FIRST_MARK) {
        return text.into();
    }
    let mut normalized = NormalizedString::from(text);
    match NFC.normalize(&mut normalized) {
        Ok(()) => normalized.get().to_owned().into(),
        Err(_) => text.into(),
    }
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

    fn small_parts(pre_tokenizer: PreTokenizer) -> TokenizerParts {
        let bytes = (0..=255).map(byte_token_text);
        let learned = ["he", "ll", "hell", "hello", "12", "\u{120}h"].map(str::to_owned);
        let tokens = bytes.chain(learned).map(|text| (text, TokenKind::Normal)).collect();
        let merges =
            [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("1", "2"), ("\u{120}", "h")];
        let merges = merges.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        TokenizerParts::new(tokens, merges, pre_tokenizer)
    }

    fn small(pre_tokenizer: PreTokenizer) -> Tokenizer {
        Tokenizer::build(small_parts(pre_tokenizer)).unwrap()
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
        let commands_are_text =
            tokenizer.with_plain_texts(&["<call>", "</call>", "<call>x"]).unwrap();
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
        let roles = Roles { end_ids: HashSet::from([2]), ..Roles::default() };
        let parts = TokenizerParts::new(tokens, vec![], PreTokenizer::Gpt2);
        let built = Tokenizer::build(TokenizerParts { roles, ..parts }).unwrap();
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
    fn a_piece_that_is_a_token_is_that_token_where_merges_are_ignored() {
        let mut parts = small_parts(PreTokenizer::Llama3);
        parts.tokens.push(("ehlo".to_owned(), TokenKind::Normal));
        let merged = Tokenizer::build(parts.clone()).unwrap();
        assert_eq!(merged.encode("ehlo", AddedTokens::Plain), b"ehlo".map(u32::from));
        parts.ignores_merges = true;
        let ignored = Tokenizer::build(parts).unwrap();
        assert_eq!(ignored.encode("ehlo", AddedTokens::Plain), [262]);
    }

    #[test]
    fn text_is_composed_where_the_tokenizer_says_so() {
        let mut parts = small_parts(PreTokenizer::Qwen2);
        let plain = Tokenizer::build(parts.clone()).unwrap();
        parts.composes = true;
        let composing = Tokenizer::build(parts).unwrap();
        let (apart, together) = ("e\u{301} \u{1100}\u{1161}", "\u{e9} \u{ac00}");
        let encode = |tokenizer: &Tokenizer, text| tokenizer.encode(text, AddedTokens::Plain);
        assert_eq!(encode(&composing, apart), encode(&plain, together));
        assert_eq!(encode(&composing, together), encode(&plain, together));
        assert_eq!(bytes_of(&plain, &encode(&plain, apart)), apart.as_bytes());
    }

    #[test]
    fn late_tokens_are_looked_for_in_composed_text() {
        let mut parts = small_parts(PreTokenizer::Qwen2);
        parts.tokens.push(("<a>".to_owned(), TokenKind::UserDefined));
        parts.composes = true;
        let early = Tokenizer::build(parts.clone()).unwrap();
        parts.late_ids = HashSet::from([262]);
        let late = Tokenizer::build(parts).unwrap();
        for (text, is_found) in [
            ("<a>\u{338}", false),
            ("<a>\u{323}\u{338}", false),
            ("<a>\u{301}", true),
            ("<a>x", true),
        ] {
            assert_eq!(late.encode(text, AddedTokens::Parse).contains(&262), is_found, "{text:?}");
            assert!(early.encode(text, AddedTokens::Parse).contains(&262));
        }
    }

    #[test]
    fn a_raw_prompt_begins_as_the_model_expects_and_only_once() {
        let mut parts = small_parts(PreTokenizer::Llama3);
        parts.tokens.push(("<|begin_of_text|>".to_owned(), TokenKind::Control));
        parts.roles.bos_id = Some(262);
        let silent = Tokenizer::build(parts.clone()).unwrap();
        assert_eq!((silent.bos_to_prepend(), silent.with_bos("hello")), (None, "hello".into()));
        parts.roles.prepends_bos = true;
        let tokenizer = Tokenizer::build(parts).unwrap();
        assert_eq!(tokenizer.bos_to_prepend(), Some(262));
        for prompt in ["hello", "<|begin_of_text|>hello"] {
            let ids = tokenizer.encode(&tokenizer.with_bos(prompt), AddedTokens::Parse);
            assert_eq!(ids, [262, 259], "{prompt}");
        }
        assert_eq!(tokenizer.encode("hello", AddedTokens::Parse), [259]);
    }

    #[test]
    fn ids_that_stand_for_nothing_are_listed() {
        let tokenizer = byte_tokenizer(&ADDED);
        assert_eq!(tokenizer.placeholder_ids(264).collect::<Vec<_>>(), [261, 262, 263]);
        assert_eq!(tokenizer.placeholder_ids(200).count(), 0);
    }

    proptest! {
        #[test]
        fn text_comes_back(text in ".{0,40}|[a-h <>|/xcal12]{0,40}") {
            for tokenizer in [
                small(PreTokenizer::Gpt2),
                small(PreTokenizer::SmolLm),
                small(PreTokenizer::Qwen2),
                small(PreTokenizer::Llama3),
                byte_tokenizer(&ADDED),
            ] {
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
