//! A tokenizer from the files of a Hugging Face folder: `tokenizer.json`, and beside it
//! `tokenizer_config.json`, `generation_config.json` and `config.json` for the roles of tokens.
//!
//! What a `tokenizer.json` asks for and is not done here is refused by name: a tokenizer that
//! leaves a step out gives other ids without any error.
//!
//! Format: the `tokenizers` crate's serialisation, <https://docs.rs/tokenizers>.

mod files;
mod roles;

use std::collections::HashSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::byte_level::byte_token_text;
use super::parts::{TokenizerParts, kind_of_added};
use super::pre_tokenizer::{GPT2_PUBLISHED, LLAMA3_PUBLISHED, PreTokenizer, QWEN2_PUBLISHED};
use super::{TokenKind, Tokenizer, limits};
use crate::error::ModelError;
use crate::error::advice::{DAMAGED, INCOMPLETE};
use crate::folder_files::FolderFiles;
use files::{AddedEntry, BpeFile, BpeModel, MergeRule, TokenizerConfig, TokenizerFile};

const TOKENIZER: &str = "tokenizer.json";
const UNSUPPORTED: &str = "use a model with a byte-level BPE tokenizer, as Llama 3, Qwen2, Qwen3 \
                           and SmolLM2 have";

impl Tokenizer {
    /// The tokenizer of a folder.
    pub(crate) fn from_folder(folder: &FolderFiles) -> Result<Self, ModelError> {
        let read = |name: &str| match name {
            TOKENIZER => folder.text(name, limits::TOKENIZER_BYTES_MAX, "JSON", DAMAGED),
            _ => folder.json_text(name),
        };
        Self::from_files(folder.path(), &read)
    }

    /// The tokenizer of a folder whose files `read` knows the texts of.
    pub(crate) fn from_files(folder: &Path, read: &ReadText<'_>) -> Result<Self, ModelError> {
        let folder = Folder { path: folder, read };
        let parts = folder.read_parts()?;
        Self::build(parts).map_err(|error| match error {
            ModelError::Tokenizer { what } => folder.bad(TOKENIZER, what, INCOMPLETE),
            other => other,
        })
    }
}

/// Gives a file's text; none if there is no such file.
type ReadText<'a> = dyn Fn(&str) -> Result<Option<String>, ModelError> + 'a;

struct Folder<'a> {
    path: &'a Path,
    read: &'a ReadText<'a>,
}

impl Folder<'_> {
    fn read_parts(&self) -> Result<TokenizerParts, ModelError> {
        let text = (self.read)(TOKENIZER)?;
        let Some(text) = text else {
            let advice = "give a folder that holds tokenizer.json";
            return Err(self.bad(TOKENIZER, "the file is missing", advice));
        };
        let mut file: TokenizerFile = self.parse(TOKENIZER, &text)?;
        let config: TokenizerConfig = self.read_config("tokenizer_config.json")?;
        add_missing(&mut file.added_tokens, &config);
        self.check_kinds(&file)?;
        let composes = self.read_normalizer(file.normalizer.as_ref())?;
        let rule = self.read_pre_tokenizer(file.pre_tokenizer.as_ref())?;
        self.check_added(&file.added_tokens, composes)?;
        let bpe: BpeFile = self.parse(TOKENIZER, &text)?;
        drop(text);
        self.check_model(&bpe.model)?;
        let ignores_merges = bpe.model.ignore_merges;
        let (tokens, merges) = self.read_vocabulary(bpe.model, &file.added_tokens)?;
        let roles = self.read_roles(&tokens, &config, file.post_processor.as_ref())?;
        let late = file.added_tokens.iter().filter(|entry| entry.token.normalized);
        let late_ids = late.map(|entry| entry.id).collect();
        let parts = TokenizerParts::new(tokens, merges, rule);
        Ok(TokenizerParts { composes, ignores_merges, late_ids, roles, ..parts })
    }

    fn check_kinds(&self, file: &TokenizerFile) -> Result<(), ModelError> {
        if !matches!(file.model.kind.as_deref(), None | Some("BPE")) {
            let kind = file.model.kind.as_deref().unwrap_or_default();
            return Err(self.unsupported(&format!("the model {kind} (model.type)")));
        }
        match file.decoder.as_ref().map(kind_of) {
            None | Some("ByteLevel") => Ok(()),
            Some(kind) => Err(self.unsupported(&format!("the decoder {kind}"))),
        }
    }

    /// Whether texts are composed (Unicode's NFC).
    fn read_normalizer(&self, normalizer: Option<&Value>) -> Result<bool, ModelError> {
        let steps = steps_of(normalizer, "normalizers");
        let other = steps.iter().find(|step| kind_of(step) != "NFC");
        other.map_or(Ok(!steps.is_empty()), |step| {
            Err(self.unsupported(&format!("the normalizer {}", kind_of(step))))
        })
    }

    fn read_pre_tokenizer(
        &self,
        pre_tokenizer: Option<&Value>,
    ) -> Result<PreTokenizer, ModelError> {
        let steps = steps_of(pre_tokenizer, "pretokenizers");
        let Some((last, before)) = steps.split_last() else {
            return Err(self.unsupported("no pre-tokenizer"));
        };
        if kind_of(last) != "ByteLevel" || truth(last, "add_prefix_space", true) {
            return Err(self.unsupported(&format!("the pre-tokenizer {last}")));
        }
        let uses_regex = truth(last, "use_regex", true);
        let rule = match before {
            [] if uses_regex => Some(PreTokenizer::Gpt2),
            [digits]
                if uses_regex
                    && kind_of(digits) == "Digits"
                    && truth(digits, "individual_digits", false) =>
            {
                Some(PreTokenizer::SmolLm)
            }
            [split] if !uses_regex => published_rule(split),
            _ => None,
        };
        rule.ok_or_else(|| {
            let steps: Vec<String> = before.iter().map(ToString::to_string).collect();
            self.unsupported(&format!("the pre-tokenizer {}", steps.join(", ")))
        })
    }

    fn check_added(&self, added: &[AddedEntry], composes: bool) -> Result<(), ModelError> {
        for AddedEntry { id, token } in added {
            let flags = [
                ("single_word", token.single_word),
                ("lstrip", token.lstrip),
                ("rstrip", token.rstrip),
            ];
            if let Some((flag, _)) = flags.iter().find(|(_, is_set)| *is_set) {
                let what = format!("{flag} of the added token {id}, {:?},", token.content);
                return Err(self.unsupported(&what));
            }
            // Composing makes these three out of other characters.
            let is_stable = |char: char| char.is_ascii() && !matches!(char, 'K' | ';' | '`');
            if composes && token.normalized && !token.content.chars().all(is_stable) {
                let what = format!("normalized of the added token {id}, {:?},", token.content);
                return Err(self.unsupported(&what));
            }
        }
        Ok(())
    }

    fn check_model(&self, model: &BpeModel) -> Result<(), ModelError> {
        let is_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let lacks_bytes =
            || (0..=255).any(|byte| !model.vocab.contains_key(&byte_token_text(byte)));
        let asked_for = [
            ("model.dropout", model.dropout.is_some_and(|share| share > 0.0)),
            ("model.byte_fallback", model.byte_fallback),
            ("model.continuing_subword_prefix", is_text(&model.continuing_subword_prefix)),
            ("model.end_of_word_suffix", is_text(&model.end_of_word_suffix)),
            (
                "model.unk_token in a vocabulary without all bytes",
                is_text(&model.unk_token) && lacks_bytes(),
            ),
        ];
        let first = asked_for.into_iter().find(|(_, is_asked)| *is_asked);
        first.map_or(Ok(()), |(key, _)| Err(self.unsupported(key)))
    }

    #[expect(clippy::type_complexity, reason = "tokens and merges, as TokenizerParts has them")]
    fn read_vocabulary(
        &self,
        model: BpeModel,
        added: &[AddedEntry],
    ) -> Result<(Vec<(String, TokenKind)>, Vec<(String, String)>), ModelError> {
        let ids = model.vocab.values().copied().chain(added.iter().map(|entry| entry.id));
        let count = ids.max().map_or(0, |highest| highest as usize + 1);
        let named = model.vocab.len() + added.len();
        let count_max = limits::TOKENS_MAX.min(named + limits::UNNAMED_IDS_MAX);
        if count > count_max {
            let what = format!(
                "its highest id is {}, where {} is the most that {named} tokens may have",
                count - 1,
                count_max - 1
            );
            return Err(self.bad(TOKENIZER, what, INCOMPLETE));
        }
        let mut tokens = vec![(String::new(), TokenKind::Placeholder); count];
        for (text, id) in model.vocab {
            self.place(&mut tokens, id, text, TokenKind::Normal)?;
        }
        for AddedEntry { id, token } in added {
            let kind = kind_of_added(*id as usize, &token.content, token.special);
            self.place(&mut tokens, *id, token.content.clone(), kind)?;
        }
        let split = |(rank, rule)| match rule {
            MergeRule::Pair(left, right) => Ok((left, right)),
            MergeRule::Line(line) => {
                let pair = line.split_once(' ').ok_or_else(|| {
                    let what = format!("merge {rank}, {line:?} (model.merges), is not two tokens");
                    self.bad(TOKENIZER, what, INCOMPLETE)
                })?;
                Ok((pair.0.to_owned(), pair.1.to_owned()))
            }
        };
        let merges: Result<_, ModelError> =
            model.merges.into_iter().enumerate().map(split).collect();
        Ok((tokens, merges?))
    }

    /// An added token may stand in the vocabulary too, under the same id.
    fn place(
        &self,
        tokens: &mut [(String, TokenKind)],
        id: u32,
        text: String,
        kind: TokenKind,
    ) -> Result<(), ModelError> {
        let place = &mut tokens[id as usize];
        if !place.0.is_empty() && (place.0 != text || kind == TokenKind::Normal) {
            let what = format!("token {id} is both {:?} and {text:?}", place.0);
            return Err(self.bad(TOKENIZER, what, INCOMPLETE));
        }
        *place = (text, kind);
        Ok(())
    }

    /// A file that may be missing, and then says nothing.
    fn read_config<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ModelError> {
        let text = (self.read)(name)?;
        text.map_or_else(|| Ok(T::default()), |text| self.parse(name, &text))
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, text: &str) -> Result<T, ModelError> {
        serde_json::from_str(text).map_err(|error| {
            self.bad(name, format!("it cannot be understood: {error}"), INCOMPLETE)
        })
    }

    fn bad(&self, name: &str, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(&self.path.join(name), what, advice)
    }

    fn unsupported(&self, what: &str) -> ModelError {
        self.bad(TOKENIZER, format!("{what} is not supported"), UNSUPPORTED)
    }
}

/// Added tokens that only `tokenizer_config.json` names are added tokens all the same.
fn add_missing(added: &mut Vec<AddedEntry>, config: &TokenizerConfig) {
    let known: HashSet<u32> = added.iter().map(|entry| entry.id).collect();
    let missing = config.added_tokens_decoder.iter().filter(|(id, _)| !known.contains(id));
    added.extend(missing.map(|(&id, token)| AddedEntry { id, token: token.clone() }));
    added.sort_by_key(|entry| entry.id);
}

/// The steps of a component that may be a sequence of others.
fn steps_of<'a>(component: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    match component {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => match value.get(list).and_then(Value::as_array) {
            Some(steps) if kind_of(value) == "Sequence" => {
                steps.iter().flat_map(|step| steps_of(Some(step), list)).collect()
            }
            _ => vec![value],
        },
    }
}

fn kind_of(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or("(without a type)")
}

fn truth(component: &Value, key: &str, default: bool) -> bool {
    component.get(key).and_then(Value::as_bool).unwrap_or(default)
}

/// A published expression whose matches become pieces.
fn published_rule(split: &Value) -> Option<PreTokenizer> {
    let isolates = split["behavior"] == "Isolated" && !truth(split, "invert", false);
    let keeps_matches = split["behavior"] == "Removed" && truth(split, "invert", false);
    if kind_of(split) != "Split" || !(isolates || keeps_matches) {
        return None;
    }
    match split["pattern"]["Regex"].as_str()? {
        GPT2_PUBLISHED => Some(PreTokenizer::Gpt2),
        QWEN2_PUBLISHED => Some(PreTokenizer::Qwen2),
        LLAMA3_PUBLISHED => Some(PreTokenizer::Llama3),
        _ => None,
    }
}
