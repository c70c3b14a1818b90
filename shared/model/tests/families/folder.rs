//! Writes a case as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relay_model::{KvPrecision, LoadOptions, LoadedModel, load};
use serde_json::{Value, json};

use crate::case::{Case, NamedTensor, TOKENS, byte_texts};

/// A folder that goes when this is dropped.
pub(crate) struct Folder {
    _parent: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Folder {
    /// Everything but weights.
    pub(crate) fn without_weights(config: &Value) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("tiny-model");
        std::fs::create_dir(&path).unwrap();
        let folder = Self { _parent: parent, path };
        folder.write("config.json", config.to_string().as_bytes());
        folder.write("tokenizer.json", tokenizer().to_string().as_bytes());
        let template = "{{ messages[0].content }}{{ eos_token }}";
        let config = json!({ "eos_token": "<|endoftext|>", "chat_template": template });
        folder.write("tokenizer_config.json", config.to_string().as_bytes());
        folder
    }

    /// With all weights in one file, as `dtype`.
    pub(crate) fn of(case: &Case, dtype: &str) -> Self {
        let folder = Self::without_weights(&case.config);
        folder.write("model.safetensors", &safetensors(&case.tensors(), dtype));
        folder
    }

    /// With a file for each of the tensors' layers and one for the rest.
    pub(crate) fn in_shards(case: &Case, dtype: &str) -> Self {
        let folder = Self::without_weights(&case.config);
        let mut shards: BTreeMap<String, Vec<NamedTensor>> = BTreeMap::new();
        for tensor in case.tensors() {
            let layer = tensor.0.strip_prefix("model.layers.").unwrap_or("rest.");
            let name = format!("model-{}.safetensors", layer.split('.').next().unwrap());
            shards.entry(name).or_default().push(tensor);
        }
        let mut map = serde_json::Map::new();
        for (file, tensors) in &shards {
            folder.write(file, &safetensors(tensors, dtype));
            map.extend(tensors.iter().map(|tensor| (tensor.0.clone(), json!(file))));
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        folder.write("model.safetensors.index.json", index.to_string().as_bytes());
        folder
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path.join(name), bytes).unwrap();
    }

    pub(crate) fn load(&self) -> LoadedModel {
        load(&self.path, &LoadOptions::default()).unwrap()
    }

    /// With a KV cache that rounds nothing.
    pub(crate) fn load_exact(&self) -> LoadedModel {
        let kv_precision = KvPrecision::F32;
        load(&self.path, &LoadOptions { kv_precision, ..LoadOptions::default() }).unwrap()
    }

    pub(crate) fn refusal(&self) -> String {
        refusal(&self.path)
    }
}

pub(crate) fn refusal(path: &Path) -> String {
    load(path, &LoadOptions::default()).unwrap_err().to_string()
}

/// A safetensors file: the header's length, the header, the tensors one after the other.
pub(crate) fn safetensors(tensors: &[NamedTensor], dtype: &str) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut content = Vec::new();
    for (name, shape, values) in tensors {
        let start = content.len();
        content.extend(values.iter().flat_map(|value| encoded(*value, dtype)));
        let offsets = [start, content.len()];
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        header.insert(name.clone(), entry);
    }
    file_of(&Value::Object(header).to_string(), &content)
}

/// A safetensors file with this header.
pub(crate) fn file_of(header: &str, content: &[u8]) -> Vec<u8> {
    let length = u64::try_from(header.len()).unwrap().to_le_bytes();
    [&length, header.as_bytes(), content].concat()
}

/// For values that the half types have exactly, and neither very small nor very large.
fn encoded(value: f32, dtype: &str) -> Vec<u8> {
    let bits = value.to_bits();
    let half = |bits: u32| u16::try_from(bits).unwrap().to_le_bytes().to_vec();
    let sign = bits >> 31 << 15;
    match dtype {
        "BF16" => half(bits >> 16),
        "F16" if value == 0.0 => half(sign),
        // Five bits of exponent, which begins 112 higher, and ten of fraction.
        "F16" => half(sign | (((bits & 0x7FFF_FFFF) >> 13) - (112 << 10))),
        _ => value.to_le_bytes().into(),
    }
}

/// A byte-level tokenizer: 256 bytes, an end token, a user-defined one and the pair "he".
fn tokenizer() -> Value {
    let mut vocabulary: serde_json::Map<String, Value> =
        byte_texts().into_iter().zip(0..).map(|(text, id)| (text, json!(id))).collect();
    vocabulary.insert("he".to_owned(), json!(TOKENS - 1));
    let added = |id: usize, content: &str, special: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special,
        })
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(256, "<|endoftext|>", true), added(257, "<call>", false)],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": ["h e"],
        },
    })
}
