//! The tokenizer of the tiny pair: byte-level BPE over the small world's own text, both models'
//! alike. Every digit is a token of its own, since no merge ever saw two; the command's tags are
//! added tokens that are no control tokens. Written as a Hugging Face folder has it.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

use crate::problem::{Facts, Level};
use crate::split::{Problems, Request, Split};
use crate::world::{Mind, facts};

/// Ends a text; the ids of the added tokens follow from this order.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";
const TURN_START: &str = "<|im_start|>";
/// Ends a turn, and with it an answer.
pub(crate) const TURN_END: &str = "<|im_end|>";
/// Turns as most small models have them.
const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
    {% endif %}";

mod limits {
    /// Problems of each level whose text is learned from; their wording holds every word many
    /// times over.
    pub(super) const PROBLEMS: usize = 500;
    /// The added tokens and the 256 bytes.
    pub(super) const TOKENS_MIN: usize = 5 + 256;
    /// More than the world has words for.
    pub(super) const TOKENS_MAX: usize = 1 << 15;
}

/// Learns a tokenizer of at most so many tokens from problems of the training split, and gives its
/// tokenizer.json. The same seed gives the same tokenizer.
pub fn learn(tokens: usize, seed: u64) -> anyhow::Result<Value> {
    if !(limits::TOKENS_MIN..=limits::TOKENS_MAX).contains(&tokens) {
        bail!("{tokens} tokens: choose {} to {}", limits::TOKENS_MIN, limits::TOKENS_MAX);
    }
    let steps: [PreTokenizerWrapper; 2] =
        [Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps.to_vec())));
    tokenizer.with_decoder(Some(Decoder::default()));
    let control = [END_OF_TEXT, TURN_START, TURN_END].map(|text| AddedToken::from(text, true));
    let tags =
        [relay::command::OPEN, relay::command::CLOSE].map(|text| AddedToken::from(text, false));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(tokens)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(control.into_iter().chain(tags).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer
        .train(&mut trainer, texts(seed).into_iter())
        .map_err(|error| anyhow!("the tokenizer cannot be learned: {error}"))?;
    let written = tokenizer.to_string(false).map_err(|error| anyhow!("no JSON: {error}"))?;
    let written = serde_json::from_str(&written).context("the tokenizer's own JSON is none")?;
    Ok(plain(written))
}

/// What the tokenizer learns from: questions and solutions of every level, and every fact's words.
fn texts(seed: u64) -> Vec<String> {
    let mut texts: Vec<String> = facts().iter().map(|fact| format!(" {}", fact.name())).collect();
    for level in Level::ALL {
        let request =
            Request { level, split: Split::Train, facts: Facts::All, mind: Mind::Truth, seed };
        for problem in Problems::new(request).take(limits::PROBLEMS) {
            texts.push(format!("user\n{}", problem.question));
            texts.push(format!("assistant\n{}", problem.solution));
        }
    }
    texts
}

/// The file in the form that every reader knows: GPT-2's cut alone (without a merge that has a
/// digit it gives the same ids), merges as words with a blank between them, the tags not special.
fn plain(mut file: Value) -> Value {
    file["pre_tokenizer"] = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    for merge in file["model"]["merges"].as_array_mut().into_iter().flatten() {
        if let Some([left, right]) = merge.as_array().map(Vec::as_slice) {
            let pair = [left, right].map(|part| part.as_str().unwrap_or_default());
            *merge = pair.join(" ").into();
        }
    }
    for added in file["added_tokens"].as_array_mut().into_iter().flatten() {
        let is_tag = [relay::command::OPEN, relay::command::CLOSE]
            .iter()
            .any(|tag| added["content"] == *tag);
        added["special"] = (!is_tag).into();
    }
    file
}

/// The id of an added token with this text.
pub fn added_token_id(tokenizer: &Value, text: &str) -> Option<u64> {
    let added = tokenizer["added_tokens"].as_array()?;
    added.iter().find(|token| token["content"] == text)?["id"].as_u64()
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into a folder, which is made if need be.
pub fn write_folder(tokenizer: &Value, folder: &Path) -> anyhow::Result<()> {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
    });
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))?;
    for (name, value) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", &config)] {
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(value).context("the tokenizer is no JSON")?;
        std::fs::write(&path, text + "\n")
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(())
}
