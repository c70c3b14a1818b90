//! A tokenizer from the files of a Hugging Face folder: `tokenizer.json`, and beside it
//! `tokenizer_config.json`, `generation_config.json` and `config.json` for the roles of tokens.
//!
//! What a `tokenizer.json` asks for and is not done here is refused by name: a tokenizer that
//! leaves a step out gives other ids without any error.
//!
//! Format: the `tokenizers` crate's serialisation, <https://docs.rs/tokenizers>.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::byte_level::byte_token_text;
use super::parts::{Roles, TokenizerParts, kind_of_added};
use super::pre_tokenizer::{GPT2_PUBLISHED, LLAMA3_PUBLISHED, PreTokenizer, QWEN2_PUBLISHED};
use super::{TokenKind, Tokenizer, limits};
use crate::error::ModelError;
use crate::regular_file::read_text_if_there;

const DAMAGED: &str = "bring the model's folder again";
const UNSUPPORTED: &str = "use a model with a byte-level BPE tokenizer, as Llama 3, Qwen2, Qwen3 \
                           and SmolLM2 have";

/// `tokenizer.json`, without its model.
#[derive(Debug, Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelKind,
}

#[derive(Debug, Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct AddedEntry {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[expect(clippy::struct_excessive_bools, reason = "the file's own keys")]
#[derive(Debug, Clone, Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// The model of a `tokenizer.json`, parsed once its kind is known.
#[derive(Debug, Deserialize)]
struct BpeFile {
    model: BpeModel,
}

#[derive(Debug, Deserialize)]
struct BpeModel {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeRule>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MergeRule {
    Line(String),
    Pair(String, String),
}

/// `tokenizer_config.json`, as far as tokens are concerned.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    add_bos_token: Option<bool>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    #[serde(default)]
    added_tokens_decoder: HashMap<u32, AddedToken>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Token { content: String },
}

/// `config.json` or `generation_config.json`.
#[derive(Debug, Default, Deserialize)]
struct ModelConfig {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Tokenizer {
    /// The tokenizer of a folder.
    pub(crate) fn from_folder(folder: &Path) -> Result<Self, ModelError> {
        Self::from_files(folder, &read_text)
    }

    /// The tokenizer of a folder whose files `read` knows the texts of.
    pub(crate) fn from_files(folder: &Path, read: &ReadText) -> Result<Self, ModelError> {
        let folder = Folder { path: folder, read };
        let parts = folder.read_parts()?;
        Self::build(parts).map_err(|error| match error {
            ModelError::Tokenizer { what } => folder.bad("tokenizer.json", what, DAMAGED),
            other => other,
        })
    }
}

/// Gives a file's text; none if there is no such file.
type ReadText = dyn Fn(&Path) -> Result<Option<String>, ModelError>;

struct Folder<'a> {
    path: &'a Path,
    read: &'a ReadText,
}

impl Folder<'_> {
    fn read_parts(&self) -> Result<TokenizerParts, ModelError> {
        let text = (self.read)(&self.file("tokenizer.json"))?;
        let Some(text) = text else {
            let advice = "give a folder that holds tokenizer.json";
            return Err(self.bad("tokenizer.json", "the file is missing", advice));
        };
        let mut file: TokenizerFile = self.parse("tokenizer.json", &text)?;
        let config: TokenizerConfig = self.read_config("tokenizer_config.json")?;
        add_missing(&mut file.added_tokens, &config);
        self.check_kinds(&file)?;
        let composes = self.read_normalizer(file.normalizer.as_ref())?;
        let rule = self.read_pre_tokenizer(file.pre_tokenizer.as_ref())?;
        self.check_added(&file.added_tokens, composes)?;
        let bpe: BpeFile = self.parse("tokenizer.json", &text)?;
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
            return Err(self.bad("tokenizer.json", what, DAMAGED));
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
                    self.bad("tokenizer.json", what, DAMAGED)
                })?;
                Ok((pair.0.to_owned(), pair.1.to_owned()))
            }
        };
        let merges: Result<_, _> = model.merges.into_iter().enumerate().map(split).collect();
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
            return Err(self.bad("tokenizer.json", what, DAMAGED));
        }
        *place = (text, kind);
        Ok(())
    }

    fn read_roles(
        &self,
        tokens: &[(String, TokenKind)],
        config: &TokenizerConfig,
        post_processor: Option<&Value>,
    ) -> Result<Roles, ModelError> {
        let named = |name: &Option<TokenName>, key| match name {
            None => Ok(None),
            Some(TokenName::Text(text) | TokenName::Token { content: text }) => {
                self.id_of(tokens, text, key).map(Some)
            }
        };
        let prepended = self.read_prepended(post_processor, tokens.len())?;
        let bos_id = named(&config.bos_token, "bos_token")?.or(prepended);
        let eos_id = named(&config.eos_token, "eos_token")?;
        let prepends_bos = config.add_bos_token.unwrap_or(prepended.is_some());
        if prepends_bos && prepended.is_some_and(|id| Some(id) != bos_id) {
            let what = "a post-processor that begins texts with another token than bos_token";
            return Err(self.unsupported(what));
        }
        let mut end_ids = HashSet::new();
        for name in ["generation_config.json", "config.json"] {
            end_ids.extend(self.read_end_ids(name, tokens.len())?);
        }
        Ok(Roles { bos_id, prepends_bos, eos_id, end_ids })
    }

    fn id_of(
        &self,
        tokens: &[(String, TokenKind)],
        text: &str,
        key: &str,
    ) -> Result<u32, ModelError> {
        let mut ids = (0..).zip(tokens);
        let found = ids.find(|(_, token)| token.0 == text && token.1 != TokenKind::Placeholder);
        found.map(|(id, _)| id).ok_or_else(|| {
            let what = format!("{key} is {text:?}, which tokenizer.json does not have");
            self.bad("tokenizer_config.json", what, DAMAGED)
        })
    }

    fn read_end_ids(&self, name: &'static str, tokens: usize) -> Result<Vec<u32>, ModelError> {
        let config: ModelConfig = self.read_config(name)?;
        let ids = match config.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        let past = ids.iter().find(|&&id| id as usize >= tokens);
        past.map_or(Ok(()), |id| {
            let what = format!("eos_token_id holds {id}, but tokenizer.json has {tokens} tokens");
            Err(self.bad(name, what, DAMAGED))
        })?;
        Ok(ids)
    }

    /// The token that a post-processor puts in front of texts.
    fn read_prepended(
        &self,
        post_processor: Option<&Value>,
        tokens: usize,
    ) -> Result<Option<u32>, ModelError> {
        let mut prepended = None;
        for step in steps_of(post_processor, "processors") {
            match kind_of(step) {
                "ByteLevel" => {}
                "TemplateProcessing" if prepended.is_none() => {
                    prepended = self.read_template(step, tokens)?;
                }
                kind => return Err(self.unsupported(&format!("the post-processor {kind}"))),
            }
        }
        Ok(prepended)
    }

    fn read_template(&self, step: &Value, tokens: usize) -> Result<Option<u32>, ModelError> {
        let single: &[Value] = step["single"].as_array().map_or(&[], Vec::as_slice);
        let begins = match single {
            [text] if text.get("Sequence").is_some() => return Ok(None),
            [begin, text] if text.get("Sequence").is_some() => &begin["SpecialToken"]["id"],
            _ => return Err(self.unsupported(&format!("the template {}", step["single"]))),
        };
        let ids = begins.as_str().map(|begin| &step["special_tokens"][begin]["ids"]);
        let ids = ids.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let id = match ids {
            [id] => id.as_u64().and_then(|id| u32::try_from(id).ok()),
            _ => None,
        };
        let id = id.filter(|id| (*id as usize) < tokens);
        id.map(Some).ok_or_else(|| {
            let what = format!("its post-processor begins texts with {begins}, which has no id");
            self.bad("tokenizer.json", what, DAMAGED)
        })
    }

    /// A file that may be missing, and then says nothing.
    fn read_config<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, ModelError> {
        let text = (self.read)(&self.file(name))?;
        text.map_or_else(|| Ok(T::default()), |text| self.parse(name, &text))
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, text: &str) -> Result<T, ModelError> {
        serde_json::from_str(text)
            .map_err(|error| self.bad(name, format!("it cannot be understood: {error}"), DAMAGED))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn bad(&self, name: &str, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(&self.file(name), what, advice)
    }

    fn unsupported(&self, what: &str) -> ModelError {
        self.bad("tokenizer.json", format!("{what} is not supported"), UNSUPPORTED)
    }
}

fn read_text(path: &Path) -> Result<Option<String>, ModelError> {
    read_text_if_there(path, limits::JSON_BYTES_MAX, "JSON", DAMAGED)
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
