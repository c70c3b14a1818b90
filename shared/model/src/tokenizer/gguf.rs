//! A tokenizer from the metadata of a GGUF file.
//!
//! Key names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. What the names of
//! pre-tokenizers mean: `llama_vocab::impl::load` in llama.cpp's `src/llama-vocab.cpp`.

use super::byte_level::byte_token_text;
use super::parts::{Roles, TokenizerParts, kind_of_added};
use super::pre_tokenizer::PreTokenizer;
use super::{TokenKind, Tokenizer};
use crate::error::ModelError;
use crate::gguf::{GgufFile, Value};

const NO_TOKENIZER: &str = "use a file that carries a complete byte-level BPE tokenizer";
const CONVERT_AGAIN: &str = "convert the model again with a current converter";
const OTHER_MODEL: &str = "use a model with one of the pre-tokenizers gpt-2, smollm, qwen2 or \
                           llama-bpe, as Llama 3, Qwen2, Qwen3 and SmolLM2 have";

const BOS_KEY: &str = "tokenizer.ggml.bos_token_id";
const ADD_BOS_KEY: &str = "tokenizer.ggml.add_bos_token";
const EOS_KEY: &str = "tokenizer.ggml.eos_token_id";
/// Keys of the tokens that end a text, a turn or a message.
const END_KEYS: [&str; 3] = [EOS_KEY, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Keys that change a text before it is tokenised, in ways that no supported model asks for.
const FOREIGN_KEYS: [&str; 3] = [
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.normalizer.strip_accents",
    "tokenizer.ggml.precompiled_charsmap",
];

/// What the name of a pre-tokenizer means.
struct Named {
    rule: PreTokenizer,
    composes: bool,
    ignores_merges: bool,
    /// Where the file does not say.
    prepends_bos: bool,
}

impl Named {
    /// An alias stands here if llama.cpp gives it the same expression and the same switches, and
    /// if it is known whether the published tokenizer composes: docs/adr/0011.
    fn find(name: &str) -> Option<Self> {
        let (rule, composes, is_llama3) = match name {
            "gpt-2" | "phi-2" | "mellum" => (PreTokenizer::Gpt2, false, false),
            "smollm" => (PreTokenizer::SmolLm, false, false),
            "qwen2" | "deepseek-r1-qwen" => (PreTokenizer::Qwen2, true, false),
            "llama-bpe" | "llama3" | "llama-v3" | "midm-2.0" => (PreTokenizer::Llama3, false, true),
            _ => return None,
        };
        Some(Self { rule, composes, ignores_merges: is_llama3, prepends_bos: is_llama3 })
    }
}

impl Tokenizer {
    /// The tokenizer that a file carries.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let parts = read_parts(file)?;
        Self::build(parts).map_err(|error| match error {
            ModelError::Tokenizer { what } => {
                file.bad(format!("its tokenizer.ggml keys do not fit: {what}"), NO_TOKENIZER)
            }
            other => other,
        })
    }
}

pub(super) fn read_parts(file: &GgufFile) -> Result<TokenizerParts, ModelError> {
    check_model(file)?;
    let optional = [BOS_KEY, ADD_BOS_KEY].into_iter().chain(END_KEYS).chain(FOREIGN_KEYS);
    file.refuse_misspelt_keys(optional)?;
    let named = read_pre_tokenizer(file)?;
    let tokens = read_tokens(file)?;
    let roles = read_roles(file, &named, tokens.len())?;
    let parts = TokenizerParts::new(tokens, read_merges(file)?, named.rule);
    let (composes, ignores_merges) = (named.composes, named.ignores_merges);
    Ok(TokenizerParts { composes, ignores_merges, roles, ..parts })
}

fn check_model(file: &GgufFile) -> Result<(), ModelError> {
    match file.text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some("llama") => {
            let what = "the tokenizer is of the SentencePiece kind, which is not supported";
            return Err(file.bad(what, OTHER_MODEL));
        }
        Some(other) => {
            return Err(file.bad(format!("the tokenizer {other} is not supported"), OTHER_MODEL));
        }
        None => return Err(file.bad("key tokenizer.ggml.model is missing", NO_TOKENIZER)),
    }
    let is_set = |key: &&&str| !matches!(file.value(key), None | Some(Value::Integer(0)));
    let foreign = FOREIGN_KEYS.iter().find(is_set);
    foreign.map_or(Ok(()), |key| Err(file.bad(format!("key {key} is not supported"), OTHER_MODEL)))
}

fn read_pre_tokenizer(file: &GgufFile) -> Result<Named, ModelError> {
    let Some(name) = file.text("tokenizer.ggml.pre") else {
        return Err(file.bad("key tokenizer.ggml.pre is missing", CONVERT_AGAIN));
    };
    Named::find(name).ok_or_else(|| {
        file.bad(
            format!("the pre-tokenizer {name} (tokenizer.ggml.pre) is not supported"),
            OTHER_MODEL,
        )
    })
}

fn read_tokens(file: &GgufFile) -> Result<Vec<(String, TokenKind)>, ModelError> {
    let texts = texts_at(file, "tokenizer.ggml.tokens")?;
    let Some(Value::Integers(types)) = file.value("tokenizer.ggml.token_type") else {
        let what = "key tokenizer.ggml.token_type is missing or not a list of whole numbers";
        return Err(file.bad(what, NO_TOKENIZER));
    };
    if types.len() != texts.len() {
        let what = format!(
            "{} tokens (tokenizer.ggml.tokens), but {} types (tokenizer.ggml.token_type)",
            texts.len(),
            types.len()
        );
        return Err(file.bad(what, NO_TOKENIZER));
    }
    let tokens = texts.iter().zip(types.iter()).enumerate();
    let tokens = tokens.map(|(id, (text, code))| read_token(file, id, text, code));
    let mut tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
    mark_padding(&mut tokens);
    Ok(tokens)
}

/// Converters fill the vocabulary up to the embedding: llama.cpp's counts in ids, Ollama's from 0
/// and as if the tokens were text.
fn mark_padding(tokens: &mut [(String, TokenKind)]) {
    let mut after: Option<usize> = None;
    for (text, kind) in tokens.iter_mut().rev() {
        let digits = text.strip_prefix("[PAD").and_then(|rest| rest.strip_suffix(']'));
        let number = digits.and_then(|digits| digits.parse().ok());
        let number = number.filter(|number| *text == format!("[PAD{number}]"));
        let goes_on = after.is_none_or(|after| number == after.checked_sub(1));
        if number.is_none() || !goes_on || *kind == TokenKind::Normal {
            return;
        }
        *kind = TokenKind::Placeholder;
        after = number;
    }
}

/// Types are those of llama.cpp's `enum llama_token_type`.
fn read_token(
    file: &GgufFile,
    id: usize,
    text: &str,
    code: i128,
) -> Result<(String, TokenKind), ModelError> {
    let kind = match code {
        1 => TokenKind::Normal,
        2 | 3 => kind_of_added(id, text, true),
        4 => kind_of_added(id, text, false),
        5 => TokenKind::Placeholder,
        6 => return read_byte_token(file, id, text),
        _ => {
            let what = format!("token {id}, {text:?}, has the unknown type {code}");
            return Err(file.bad(what, NO_TOKENIZER));
        }
    };
    Ok((text.to_owned(), kind))
}

/// Written as `<0x0A>`, whatever the alphabet.
fn read_byte_token(
    file: &GgufFile,
    id: usize,
    text: &str,
) -> Result<(String, TokenKind), ModelError> {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    let byte = digits.filter(|digits| digits.len() == 2);
    let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let byte = byte.ok_or_else(|| {
        let what = format!("token {id}, {text:?}, is of type byte, but names none");
        file.bad(what, NO_TOKENIZER)
    })?;
    Ok((byte_token_text(byte), TokenKind::Normal))
}

fn read_merges(file: &GgufFile) -> Result<Vec<(String, String)>, ModelError> {
    let split = |(rank, merge): (usize, &String)| {
        let (left, right) = merge.split_once(' ').ok_or_else(|| {
            let what =
                format!("merge {rank}, {merge:?} (tokenizer.ggml.merges), is not two tokens");
            file.bad(what, NO_TOKENIZER)
        })?;
        Ok((left.to_owned(), right.to_owned()))
    };
    texts_at(file, "tokenizer.ggml.merges")?.iter().enumerate().map(split).collect()
}

fn read_roles(file: &GgufFile, named: &Named, tokens: usize) -> Result<Roles, ModelError> {
    let bos_id = id_at(file, BOS_KEY, tokens)?;
    let prepends_bos = match file.value(ADD_BOS_KEY) {
        Some(Value::Integer(flag @ (0 | 1))) => *flag == 1,
        None => named.prepends_bos && bos_id.is_some(),
        Some(_) => {
            let what = format!("key {ADD_BOS_KEY} is not a truth value");
            return Err(file.bad(what, NO_TOKENIZER));
        }
    };
    let ends: Result<Vec<_>, _> = END_KEYS.iter().map(|key| id_at(file, key, tokens)).collect();
    let end_ids = ends?.into_iter().flatten().collect();
    Ok(Roles { bos_id, prepends_bos, eos_id: id_at(file, EOS_KEY, tokens)?, end_ids })
}

fn texts_at<'a>(file: &'a GgufFile, key: &str) -> Result<&'a [String], ModelError> {
    match file.value(key) {
        Some(Value::Texts(texts)) => Ok(texts),
        _ => Err(file.bad(format!("key {key} is missing or not a list of texts"), NO_TOKENIZER)),
    }
}

fn id_at(file: &GgufFile, key: &str, tokens: usize) -> Result<Option<u32>, ModelError> {
    let value = match file.value(key) {
        None => return Ok(None),
        Some(Value::Integer(value)) => *value,
        Some(_) => return Err(file.bad(format!("key {key} is not a whole number"), NO_TOKENIZER)),
    };
    let id = u32::try_from(value).ok().filter(|id| (*id as usize) < tokens);
    id.map(Some).ok_or_else(|| {
        let what = format!("key {key} is {value}, but there are {tokens} tokens");
        file.bad(what, NO_TOKENIZER)
    })
}
