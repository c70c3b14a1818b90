//! A model from a file: weights, tokenizer, chat template and identity together.

use std::path::Path;
use std::sync::Arc;

use crate::chat::ChatTemplate;
use crate::error::ModelError;
use crate::gguf::{GgufFile, Value};
use crate::language_model::LanguageModel;
use crate::tokenizer::{PreTokenizer, TokenKind, Tokenizer, TokenizerParts};
use crate::transformer::Transformer;

const NO_TOKENIZER: &str = "use a file that carries a byte-level BPE tokenizer";

/// Keys of the tokens that end a text, a turn or a message.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// What a caller may decide about a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Added tokens with these texts stay plain text in prompts and contents: a program's own
    /// commands.
    pub plain_texts: Vec<String>,
}

/// Everything a file brings.
pub struct LoadedModel {
    /// The weights, ready to run.
    pub model: Box<dyn LanguageModel>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if the file has one.
    pub chat_template: Option<ChatTemplate>,
    /// What tells it from others.
    pub identity: ModelIdentity,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LoadedModel")
            .field("shape", &self.model.shape())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What tells a model from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The name in the file, else the file's own.
    pub name: String,
    /// 8 bytes of a hash over tensor names, types, shapes and a fixed sample of their bytes.
    pub hash: [u8; 8],
}

/// Loads a model from a GGUF file.
///
/// # Errors
/// [`ModelError::Io`] if the file cannot be read; [`ModelError::BadFile`],
/// [`ModelError::Tokenizer`] or [`ModelError::Template`] if it is damaged, foreign or unsupported.
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    let mut file = GgufFile::open(path)?;
    let tokenizer = Tokenizer::build(read_tokenizer(&file)?)?;
    let model = Transformer::read(&mut file, tokenizer.vocabulary_tokens())?;
    let chat_template = read_chat_template(&file, &tokenizer)?;
    let identity = ModelIdentity { name: name_of(&file), hash: file.identity_hash()? };
    let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
    let tokenizer = Arc::new(tokenizer.with_plain_texts(&plain_texts));
    Ok(LoadedModel { model: Box::new(model), tokenizer, chat_template, identity })
}

fn name_of(file: &GgufFile) -> String {
    let stem = || file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    file.text("general.name").map_or_else(stem, str::to_owned)
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
    Ok(TokenizerParts { tokens, merges, pre_tokenizer, end_ids })
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

fn read_chat_template(
    file: &GgufFile,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, ModelError> {
    let text_of = |key: &str| {
        let id = id_at(file, key).unwrap_or(u32::MAX);
        String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()
    };
    let (bos, eos) = (text_of("tokenizer.ggml.bos_token_id"), text_of(END_KEYS[0]));
    let source = file.text("tokenizer.chat_template");
    source.map(|source| ChatTemplate::new(source, &bos, &eos)).transpose()
}
