//! A tokenizer from a Hugging Face folder's tokenizer.json.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;
use crate::json_file::JsonFile;
use crate::tokenizer::{PreTokenizer, TokenKind, Tokenizer, TokenizerParts};

const UNUSABLE: &str = "bring the folder with the tokenizer.json that belongs to it";

impl Tokenizer {
    /// The tokenizer of a folder.
    pub(crate) fn from_folder(folder: &Path) -> Result<Self, ModelError> {
        let file = JsonFile::read(&folder.join("tokenizer.json"))?;
        let bad = || file.bad("this is no byte-level BPE tokenizer", UNUSABLE);
        let pre_tokenizer = file.value("pre_tokenizer").and_then(|value| value["type"].as_str());
        if pre_tokenizer != Some("ByteLevel") {
            return Err(bad());
        }
        let model = file.value("model").ok_or_else(bad)?;
        let mut tokens = Vec::new();
        let mut place = |id: &Value, text: &str, kind| {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < 1 << 20);
            let id = id.ok_or_else(bad)?;
            if id >= tokens.len() {
                tokens.resize(id + 1, (String::new(), TokenKind::Placeholder));
            }
            tokens[id] = (text.to_owned(), kind);
            Ok(())
        };
        for (text, id) in model["vocab"].as_object().ok_or_else(bad)? {
            place(id, text, TokenKind::Normal)?;
        }
        for added in file.value("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let is_special = added["special"].as_bool().unwrap_or(false);
            let kind = if is_special { TokenKind::Control } else { TokenKind::UserDefined };
            place(&added["id"], added["content"].as_str().ok_or_else(bad)?, kind)?;
        }
        let split = |merge: &Value| {
            let (left, right) = merge.as_str()?.split_once(' ')?;
            Some((left.to_owned(), right.to_owned()))
        };
        let merges = model["merges"].as_array().into_iter().flatten();
        let merges = merges.map(split).collect::<Option<_>>().ok_or_else(bad)?;
        let config = JsonFile::read_if_there(&folder.join("tokenizer_config.json"))?;
        let eos_text = config.as_ref().and_then(|config| config.text("eos_token"));
        let eos_id = (0..).zip(&tokens).find(|(_, token)| Some(token.0.as_str()) == eos_text);
        let eos_id = eos_id.map(|(id, _)| id);
        Self::build(TokenizerParts {
            merges,
            pre_tokenizer: PreTokenizer::Gpt2,
            end_ids: Vec::new(),
            bos_id: None,
            eos_id,
            tokens,
        })
    }
}
