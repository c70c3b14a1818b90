//! A small tokenizer of each family: trained on a few lines with the family's published steps,
//! written as a Hugging Face folder and as GGUF metadata.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::quantized::gguf_file::{self, Value as Entry};
use relay_model::Tokenizer;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Rows of the embedding that these tokenizers' files are padded to.
pub(crate) const ROWS: usize = 700;
/// Tokens that training makes.
const TRAINED: usize = 600;

const LINES: [&str; 10] = [
    "The relay hands the answer over, and the answer goes on as if nobody had changed.",
    "Words, words, words! He'll say they'd done it; I'm sure we've seen 12 of 345 and 67890.",
    "fn main() {\r\n    let total: usize = rows.iter().map(|row| row.len()).sum();\r\n}\r\n",
    "\tif (x >= 10 && y != 0) { return x / y; }  // three  spaces   here    \n\n\n",
    "Straße, façade, naïve, cœur, Ångström: ÄÖÜ äöü ß é è ê e\u{301} a\u{308}.",
    "日本語の文章です。中文也有。한국어도 있습니다. 漢字とかな。",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया।",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ emoji, joined and not, 😀😀😀",
    "https://example.org/a_b-c?d=e&f=%20#g <b>bold</b> [1] {2} $3.50 50% ~/x.rs",
    "relay relay relaying answer answers answering the The THE then there",
];

/// A family's published steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Gpt2,
    SmolLm,
    Qwen2,
    Llama3,
}

pub(crate) const FAMILIES: [Family; 4] =
    [Family::Gpt2, Family::SmolLm, Family::Qwen2, Family::Llama3];

impl Family {
    /// Its name in GGUF files.
    pub(crate) fn gguf_name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
            Self::Qwen2 => "qwen2",
            Self::Llama3 => "llama-bpe",
        }
    }

    fn pre_tokenizer(self) -> Value {
        let byte_level = |use_regex| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": use_regex})
        };
        let split = |digits: &str| {
            let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";
            let signs = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
            let pattern = json!({"Regex": format!("{words}{digits}{signs}")});
            json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
        };
        let digits = json!({"type": "Digits", "individual_digits": true});
        let steps = match self {
            Self::Gpt2 => return byte_level(true),
            Self::SmolLm => [digits, byte_level(true)],
            Self::Qwen2 => [split(r"\p{N}"), byte_level(false)],
            Self::Llama3 => [split(r"\p{N}{1,3}"), byte_level(false)],
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    /// Texts of added tokens, and whether they are special.
    pub(crate) fn added(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Gpt2 => &[("<|endoftext|>", true)],
            Self::SmolLm => &[
                ("<|endoftext|>", true),
                ("<|im_start|>", true),
                ("<|im_end|>", true),
                ("<call>", false),
                ("</call>", false),
            ],
            Self::Qwen2 => &[
                ("<|endoftext|>", true),
                ("<|im_start|>", true),
                ("<|im_end|>", true),
                ("<tool_call>", false),
                ("</tool_call>", false),
                ("<|fim_pad|>", false),
                ("<think>", false),
            ],
            Self::Llama3 => &[
                ("<|begin_of_text|>", true),
                ("<|end_of_text|>", true),
                ("<|eot_id|>", true),
                ("<|reserved_special_token_1|>", true),
                ("<|reserved_special_token_10|>", true),
            ],
        }
    }

    fn end(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Gpt2 => ("<|endoftext|>", &["<|endoftext|>"]),
            Self::SmolLm | Self::Qwen2 => ("<|im_end|>", &["<|im_end|>", "<|endoftext|>"]),
            Self::Llama3 => ("<|eot_id|>", &["<|end_of_text|>", "<|eot_id|>"]),
        }
    }
}

/// Both file forms of one tokenizer, in a folder that goes when this is dropped.
pub(crate) struct Files {
    folder: tempfile::TempDir,
    pub(crate) family: Family,
    /// What `tokenizer.json` holds.
    pub(crate) json: Value,
    pub(crate) config: Value,
    pub(crate) generation: Value,
}

impl Files {
    pub(crate) fn new(family: Family) -> Self {
        let json = tokenizer_json(family);
        let id_of = |text: &str| {
            let added = json["added_tokens"].as_array().unwrap();
            added.iter().find(|token| token["content"] == text).unwrap()["id"].clone()
        };
        let (eos, ends) = family.end();
        let config = json!({"eos_token": {"content": eos}, "bos_token": family.added()[0].0});
        let ends: Vec<Value> = ends.iter().map(|text| id_of(text)).collect();
        let generation = json!({"eos_token_id": ends});
        let files = Self { folder: tempfile::tempdir().unwrap(), family, json, config, generation };
        files.write_folder();
        files.write_gguf(&files.entries());
        files
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn gguf(&self) -> PathBuf {
        self.folder().join("tokenizer.gguf")
    }

    /// Ours, from the folder and from the GGUF file.
    pub(crate) fn ours(&self) -> [Tokenizer; 2] {
        [self.folder(), &self.gguf()].map(|path| Tokenizer::read(path).unwrap())
    }

    pub(crate) fn reference(&self) -> tokenizers::Tokenizer {
        tokenizers::Tokenizer::from_str(&self.json.to_string()).unwrap()
    }

    /// The reference to which added tokens are characters like any other.
    pub(crate) fn plain_reference(&self) -> tokenizers::Tokenizer {
        let mut json = self.json.clone();
        json["added_tokens"] = json!([]);
        json["post_processor"] = Value::Null;
        tokenizers::Tokenizer::from_str(&json.to_string()).unwrap()
    }

    pub(crate) fn write_folder(&self) {
        let write = |name: &str, value: &Value| {
            std::fs::write(self.folder().join(name), value.to_string()).unwrap();
        };
        write("tokenizer.json", &self.json);
        write("tokenizer_config.json", &self.config);
        write("generation_config.json", &self.generation);
    }

    pub(crate) fn write_gguf(&self, entries: &[(String, Entry)]) {
        let entries: Vec<(&str, &Entry)> =
            entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let mut file = std::fs::File::create(self.gguf()).unwrap();
        gguf_file::write(&mut file, &entries, &[]).unwrap();
    }

    /// The metadata that a converter makes of the folder.
    pub(crate) fn entries(&self) -> Vec<(String, Entry)> {
        let mut tokens: Vec<(String, i32)> =
            (0..ROWS).map(|id| (format!("[PAD{id}]"), 5)).collect();
        for (text, id) in self.json["model"]["vocab"].as_object().unwrap() {
            tokens[index(id)] = (text.clone(), 1);
        }
        for token in self.json["added_tokens"].as_array().unwrap() {
            let text = token["content"].as_str().unwrap();
            let is_control = token["special"] == true || text.starts_with("<|");
            tokens[index(&token["id"])] = (text.to_owned(), if is_control { 3 } else { 4 });
        }
        let merges = self.json["model"]["merges"].as_array().unwrap().iter().map(merge_line);
        let id_of = |text: &str| {
            let found = tokens.iter().position(|token| token.0 == text).unwrap();
            Entry::U32(u32::try_from(found).unwrap())
        };
        let text = |value: &str| Entry::String(value.to_owned());
        let texts =
            |values: Vec<String>| Entry::Array(values.into_iter().map(Entry::String).collect());
        let entries = [
            ("general.architecture", text("llama")),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text(self.family.gguf_name())),
            ("tokenizer.ggml.bos_token_id", id_of(self.config["bos_token"].as_str().unwrap())),
            ("tokenizer.ggml.eos_token_id", id_of(self.family.end().0)),
            ("tokenizer.ggml.eot_token_id", id_of(self.family.end().1[0])),
            ("tokenizer.ggml.merges", texts(merges.collect())),
            (
                "tokenizer.ggml.token_type",
                Entry::Array(tokens.iter().map(|token| Entry::I32(token.1)).collect()),
            ),
            ("tokenizer.ggml.tokens", texts(tokens.iter().map(|token| token.0.clone()).collect())),
        ];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

fn index(id: &Value) -> usize {
    usize::try_from(id.as_u64().unwrap()).unwrap()
}

fn merge_line(merge: &Value) -> String {
    match merge {
        Value::String(line) => line.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    }
}

fn tokenizer_json(family: Family) -> Value {
    let normalizer = if family == Family::Qwen2 { json!({"type": "NFC"}) } else { Value::Null };
    let untrained = json!({
        "version": "1.0",
        "normalizer": normalizer,
        "pre_tokenizer": family.pre_tokenizer(),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    });
    let mut tokenizer = tokenizers::Tokenizer::from_str(&untrained.to_string()).unwrap();
    let trainer = BpeTrainer::builder().vocab_size(TRAINED).show_progress(false);
    let trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect()).build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), LINES.iter().copied()).unwrap();
    let mut json = Value::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    // Words that no merges lead to: only a tokenizer that ignores merges finds them.
    for word in ["\u{120}exactly", "exactly", "\u{120}overhand"] {
        let id = vocabulary.len();
        vocabulary.insert(word.to_owned(), json!(id));
    }
    let first_added = vocabulary.len();
    json["model"]["ignore_merges"] = json!(family == Family::Llama3);
    let added = family.added().iter().enumerate().map(|(index, (content, special))| {
        json!({"id": first_added + index, "content": content, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": !special, "special": special})
    });
    json["added_tokens"] = added.collect();
    if family == Family::Llama3 {
        let begin = json!({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let second = json!({"Sequence": {"id": "B", "type_id": 1}});
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, second],
            "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>",
                "ids": [first_added], "tokens": ["<|begin_of_text|>"]}},
        });
    }
    json
}
