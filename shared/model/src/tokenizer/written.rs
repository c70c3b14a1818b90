//! A GGUF file's tokenizer as the files of a Hugging Face folder have it: `tokenizer.json`, and the
//! roles of tokens in `tokenizer_config.json` and `generation_config.json`.
//!
//! Format: the `tokenizers` crate's serialisation, <https://docs.rs/tokenizers>.

use serde_json::{Value, json};

use super::TokenKind;
use super::gguf::read_parts;
use super::parts::{Roles, TokenizerParts};
use super::pre_tokenizer::PreTokenizer;
use crate::error::ModelError;
use crate::gguf::GgufFile;

/// Names and contents; `chat_template` is the model's own.
///
/// # Errors
/// [`ModelError::BadFile`] if the file has no tokenizer that is known here.
pub(crate) fn tokenizer_files(
    file: &GgufFile,
    chat_template: Option<&str>,
) -> Result<[(&'static str, Value); 3], ModelError> {
    let parts = read_parts(file)?;
    let Roles { bos_id, prepends_bos, eos_id, end_ids } = &parts.roles;
    let text_of = |id: &Option<u32>| id.map(|id| parts.tokens[id as usize].0.clone());
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": prepends_bos,
        "clean_up_tokenization_spaces": false,
    });
    let texts = [("bos_token", text_of(bos_id)), ("eos_token", text_of(eos_id))];
    let texts = texts.into_iter().chain([("chat_template", chat_template.map(str::to_owned))]);
    for (key, text) in texts.filter_map(|(key, text)| Some((key, text?))) {
        config[key] = text.into();
    }
    let mut ends: Vec<u32> = end_ids.iter().chain(eos_id).copied().collect();
    ends.sort_unstable();
    ends.dedup();
    let generation = json!({ "bos_token_id": bos_id, "eos_token_id": ends });
    Ok([
        ("tokenizer.json", tokenizer_json(&parts)),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ])
}

fn tokenizer_json(parts: &TokenizerParts) -> Value {
    let TokenizerParts { tokens, merges, composes, ignores_merges, .. } = parts;
    let mut vocabulary = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, (text, kind)) in tokens.iter().enumerate() {
        match kind {
            TokenKind::Placeholder => {}
            TokenKind::Normal => drop(vocabulary.insert(text.clone(), id.into())),
            TokenKind::Control | TokenKind::UserDefined => {
                vocabulary.insert(text.clone(), id.into());
                added.push(json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind == TokenKind::Control,
                }));
            }
        }
    }
    let merges: Vec<String> =
        merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if *composes { json!({ "type": "NFC" }) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer(parts.pre_tokenizer),
        "post_processor": post_processor(parts),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignores_merges, "vocab": vocabulary, "merges": merges,
        },
    })
}

fn byte_level(uses_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": uses_regex,
    })
}

fn pre_tokenizer(rule: PreTokenizer) -> Value {
    let steps = match rule {
        PreTokenizer::Gpt2 => return byte_level(true),
        PreTokenizer::SmolLm => {
            [json!({ "type": "Digits", "individual_digits": true }), byte_level(true)]
        }
        PreTokenizer::Qwen2 | PreTokenizer::Llama3 => {
            let pattern = json!({ "Regex": rule.published() });
            let split = json!({
                "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false,
            });
            [split, byte_level(false)]
        }
    };
    json!({ "type": "Sequence", "pretokenizers": steps })
}

/// What begins texts, where the model's makers put something there.
fn post_processor(parts: &TokenizerParts) -> Value {
    let Some(id) = parts.roles.bos_id.filter(|_| parts.roles.prepends_bos) else {
        return byte_level(true);
    };
    let text = &parts.tokens[id as usize].0;
    let begin = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    let again = json!({ "SpecialToken": { "id": text, "type_id": 1 } });
    json!({
        "type": "TemplateProcessing",
        "single": [begin, sequence("A", 0)],
        "pair": [begin, sequence("A", 0), again, sequence("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    })
}
