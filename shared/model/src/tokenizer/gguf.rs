//! A tokenizer from the metadata of a GGUF file.
//!
//! Key names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use crate::error::ModelError;
use crate::gguf::{GgufFile, Value};
use crate::tokenizer::{PreTokenizer, TokenKind, Tokenizer, TokenizerParts};

const NO_TOKENIZER: &str = "use a file that carries a byte-level BPE tokenizer";

/// Keys of the tokens that end a text, a turn or a message.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

impl Tokenizer {
    /// The tokenizer that a file carries.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        Self::build(read_tokenizer(file)?)
    }
}

fn read_tokenizer(file: &GgufFile) -> Result<TokenizerParts, ModelError> {
    match file.text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some(other) => {
            return Err(file.bad(format!("the tokenizer {other} is not supported"), NO_TOKENIZER));
        }
        None => return Err(file.bad("key tokenizer.ggml.model is missing", NO_TOKENIZER)),
    }
    let pre_tokenizer = match file.text("tokenizer.ggml.pre") {
        Some("smollm") => PreTokenizer::SmolLm,
        Some("gpt-2") => PreTokenizer::Gpt2,
        other => {
            let what = format!("the pre-tokenizer {} is not supported", other.unwrap_or("(none)"));
            return Err(file.bad(what, "use a file whose pre-tokenizer is smollm or gpt-2"));
        }
    };
    let tokens = read_tokens(file)?;
    let merges = read_merges(file)?;
    let end_ids = END_KEYS.iter().filter_map(|key| id_at(file, key)).collect();
    let bos_id = id_at(file, "tokenizer.ggml.bos_token_id");
    let eos_id = id_at(file, END_KEYS[0]);
    Ok(TokenizerParts { tokens, merges, pre_tokenizer, end_ids, bos_id, eos_id })
}

fn read_tokens(file: &GgufFile) -> Result<Vec<(String, TokenKind)>, ModelError> {
    let texts = texts_at(file, "tokenizer.ggml.tokens")?;
    let Some(Value::Integers(types)) = file.value("tokenizer.ggml.token_type") else {
        return Err(file.bad("key tokenizer.ggml.token_type is missing", NO_TOKENIZER));
    };
    if types.len() != texts.len() {
        let what = format!("{} tokens, but {} token types", texts.len(), types.len());
        return Err(file.bad(what, NO_TOKENIZER));
    }
    if let Some(Value::Integer(size)) = file.value("llama.vocab_size")
        && usize::try_from(*size) != Ok(texts.len())
    {
        let what = format!("{} tokens, but a vocabulary of {size}", texts.len());
        return Err(file.bad(what, NO_TOKENIZER));
    }
    let kinds = types.iter().map(|code| match code {
        1 => Some(TokenKind::Normal),
        2 | 3 => Some(TokenKind::Control),
        4 => Some(TokenKind::UserDefined),
        5 => Some(TokenKind::Placeholder),
        _ => None,
    });
    let pair = |(text, kind): (&String, Option<TokenKind>)| {
        let kind = kind
            .ok_or_else(|| file.bad(format!("token {text:?} has an unknown type"), NO_TOKENIZER))?;
        Ok((text.clone(), kind))
    };
    texts.iter().zip(kinds).map(pair).collect()
}

fn read_merges(file: &GgufFile) -> Result<Vec<(String, String)>, ModelError> {
    let split = |merge: &String| {
        let (left, right) = merge.split_once(' ').ok_or_else(|| {
            file.bad(format!("the merge {merge:?} does not name two tokens"), NO_TOKENIZER)
        })?;
        Ok((left.to_owned(), right.to_owned()))
    };
    texts_at(file, "tokenizer.ggml.merges")?.iter().map(split).collect()
}

fn texts_at<'a>(file: &'a GgufFile, key: &str) -> Result<&'a [String], ModelError> {
    match file.value(key) {
        Some(Value::Texts(texts)) => Ok(texts),
        _ => Err(file.bad(format!("key {key} is missing or not a list of texts"), NO_TOKENIZER)),
    }
}

fn id_at(file: &GgufFile, key: &str) -> Option<u32> {
    match file.value(key) {
        Some(Value::Integer(id)) => Some(u32::try_from(*id).unwrap_or(u32::MAX)),
        _ => None,
    }
}
