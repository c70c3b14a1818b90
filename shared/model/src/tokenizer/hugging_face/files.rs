//! What the JSON files of a folder hold, as far as tokens are concerned. Nothing is judged here.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

/// `tokenizer.json`, without its model.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedEntry>,
    pub(super) normalizer: Option<Value>,
    pub(super) pre_tokenizer: Option<Value>,
    pub(super) post_processor: Option<Value>,
    pub(super) decoder: Option<Value>,
    pub(super) model: ModelKind,
}

#[derive(Debug, Deserialize)]
pub(super) struct ModelKind {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct AddedEntry {
    pub(super) id: u32,
    #[serde(flatten)]
    pub(super) token: AddedDescription,
}

#[expect(clippy::struct_excessive_bools, reason = "the file's own keys")]
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AddedDescription {
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// The model of a `tokenizer.json`, parsed once its kind is known.
#[derive(Debug, Deserialize)]
pub(super) struct BpeFile {
    pub(super) model: BpeModel,
}

#[derive(Debug, Deserialize)]
pub(super) struct BpeModel {
    pub(super) vocab: HashMap<String, u32>,
    pub(super) merges: Vec<MergeRule>,
    pub(super) dropout: Option<f64>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "each merge (model.merges) must be one text or two texts")]
pub(super) enum MergeRule {
    Line(String),
    Pair(String, String),
}

/// `tokenizer_config.json`, as far as tokens are concerned.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TokenizerConfig {
    pub(super) add_bos_token: Option<bool>,
    pub(super) bos_token: Option<TokenName>,
    pub(super) eos_token: Option<TokenName>,
    #[serde(default)]
    pub(super) added_tokens_decoder: HashMap<u32, AddedDescription>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "bos_token and eos_token must be texts, or objects with a content")]
pub(super) enum TokenName {
    Text(String),
    Token { content: String },
}

/// `config.json` or `generation_config.json`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EndTokens {
    pub(super) eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "eos_token_id must be a number or a list of numbers")]
pub(super) enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}
