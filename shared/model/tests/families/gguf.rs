//! Writes a case as a GGUF file, the way the published converter does.

use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use relay_model::{KvPrecision, LoadOptions, LoadedModel, load};

use crate::case::{Case, NamedTensor, TOKENS, VOCABULARY, byte_texts};

/// A folder with a model file in it; the folder goes when this is dropped.
pub(crate) struct GgufFile {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl GgufFile {
    pub(crate) fn of(case: &Case, dtype: GgmlDType) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, file_bytes(&metadata(case), &tensors(case), dtype)).unwrap();
        Self { _folder: folder, path }
    }

    /// As F32, with these keys of its family, in the place of those that are there.
    pub(crate) fn with_keys(case: &Case, keys: &[(&str, Value)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let full = |key: &str| format!("{}.{key}", case.family());
        let mut metadata = metadata(case);
        metadata.retain(|entry| keys.iter().all(|(key, _)| full(key) != entry.0));
        metadata.extend(keys.iter().map(|(key, value)| (full(key), value.clone())));
        let bytes = file_bytes(&metadata, &tensors(case), GgmlDType::F32);
        std::fs::write(&path, bytes).unwrap();
        Self { _folder: folder, path }
    }

    /// The values that the blocks of `dtype` stand for, as F32.
    pub(crate) fn dequantised(case: &Case, dtype: GgmlDType) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        let widened = |(name, shape, values): NamedTensor| {
            let stored = stored(&shape, values, dtype).dequantize(&Device::Cpu).unwrap();
            (name, shape, stored.flatten_all().unwrap().to_vec1().unwrap())
        };
        let tensors: Vec<NamedTensor> = tensors(case).into_iter().map(widened).collect();
        std::fs::write(&path, file_bytes(&metadata(case), &tensors, GgmlDType::F32)).unwrap();
        Self { _folder: folder, path }
    }

    /// With another way to cut texts, and a token that begins them.
    pub(crate) fn cutting(case: &Case, pre: &str) -> Self {
        let file = Self::of(case, GgmlDType::F32);
        let mut metadata = metadata(case);
        for (key, value) in &mut metadata {
            if key == "tokenizer.ggml.pre" {
                *value = Value::String(pre.to_owned());
            }
        }
        metadata.push(("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(256)));
        let bytes = file_bytes(&metadata, &tensors(case), GgmlDType::F32);
        std::fs::write(&file.path, bytes).unwrap();
        file
    }

    pub(crate) fn load(&self) -> LoadedModel {
        load(&self.path, &LoadOptions::default()).unwrap()
    }

    /// With a KV cache that rounds nothing.
    pub(crate) fn load_exact(&self) -> LoadedModel {
        let kv_precision = KvPrecision::F32;
        load(&self.path, &LoadOptions { kv_precision, ..LoadOptions::default() }).unwrap()
    }
}

fn metadata(case: &Case) -> Vec<(String, Value)> {
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap());
    let text = |value: &str| Value::String(value.to_owned());
    let family = case.family();
    let rotary = &case.config["rope_parameters"];
    let float = |value: &serde_json::Value| Value::F32(value.to_string().parse().unwrap());
    let of_family = [
        ("block_count", number(case.size("num_hidden_layers"))),
        ("context_length", number(case.size("max_position_embeddings"))),
        ("embedding_length", number(case.size("hidden_size"))),
        ("feed_forward_length", number(case.size("intermediate_size"))),
        ("attention.head_count", number(case.size("num_attention_heads"))),
        ("attention.head_count_kv", number(case.size("num_key_value_heads"))),
        ("attention.key_length", number(case.head_width())),
        ("attention.value_length", number(case.head_width())),
        ("attention.layer_norm_rms_epsilon", float(&case.config["rms_norm_eps"])),
        ("rope.freq_base", float(&rotary["rope_theta"])),
    ];
    let (tokens, types) = vocabulary();
    let general = [
        ("general.architecture", text(family)),
        ("general.name", text(&case.name)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("h e")])),
        ("tokenizer.ggml.eos_token_id", number(256)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}{{ eos_token }}")),
    ];
    let of_family = of_family.map(|(key, value)| (format!("{family}.{key}"), value));
    let general = general.map(|(key, value)| (key.to_owned(), value));
    general.into_iter().chain(of_family).collect()
}

/// As many tokens as the embedding has rows: the last ones are padding.
fn vocabulary() -> (Vec<Value>, Vec<Value>) {
    let added = ["<|endoftext|>", "<call>", "he"].map(str::to_owned);
    let padding = (TOKENS..VOCABULARY).map(|id| format!("[PAD{id}]"));
    let tokens = byte_texts().into_iter().chain(added).chain(padding).map(Value::String);
    let types = (0..VOCABULARY).map(|id| match id {
        256 => 3,
        257 => 4,
        TOKENS.. => 5,
        _ => 1,
    });
    (tokens.collect(), types.map(Value::I32).collect())
}

/// The case's tensors under GGUF's names, Llama's queries and keys permuted.
fn tensors(case: &Case) -> Vec<NamedTensor> {
    let is_llama = case.family() == "llama";
    let converted = |(name, shape, mut values): NamedTensor| {
        if is_llama && (name.contains("q_proj") || name.contains("k_proj")) {
            values = with_pairs_side_by_side(&values, shape[1], case.head_width());
        }
        (gguf_name(&name), shape, values)
    };
    let mut tensors: Vec<NamedTensor> = case.tensors().into_iter().map(converted).collect();
    if case.config["rope_parameters"]["rope_type"] == "llama3" {
        let divisors = llama3_divisors(case);
        tensors.push(("rope_freqs.weight".to_owned(), vec![divisors.len()], divisors));
    }
    tensors
}

fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    parts.iter().fold(name.to_owned(), |name, (published, ours)| name.replace(published, ours))
}

/// Row i and row i + half of each head become rows 2i and 2i+1.
fn with_pairs_side_by_side(values: &[f32], inputs: usize, head_width: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(inputs).collect();
    let of_head = |head: &[&[f32]]| -> Vec<f32> {
        let (first, second) = head.split_at(head_width / 2);
        first.iter().zip(second).flat_map(|(a, b)| [*a, *b].concat()).collect()
    };
    rows.chunks(head_width).flat_map(of_head).collect()
}

/// By wavelengths, as the converter computes them.
fn llama3_divisors(case: &Case) -> Vec<f32> {
    let key = |name: &str| case.config["rope_parameters"][name].as_f64().unwrap();
    let (factor, trained) = (key("factor"), key("original_max_position_embeddings"));
    let (low, high) = (key("low_freq_factor"), key("high_freq_factor"));
    let width = case.head_width();
    let divisor = |dimension: usize| {
        let exponent =
            f64::from(u32::try_from(dimension).unwrap()) / f64::from(u32::try_from(width).unwrap());
        let wavelength = std::f64::consts::TAU * key("rope_theta").powf(exponent);
        if wavelength < trained / high {
            return 1.0;
        }
        if wavelength > trained / low {
            return factor;
        }
        let smooth = (trained / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    #[expect(clippy::cast_possible_truncation, reason = "the file holds f32")]
    (0..width).step_by(2).map(|dimension| divisor(dimension) as f32).collect()
}

/// Vectors stay as they are.
fn stored(shape: &[usize], values: Vec<f32>, dtype: GgmlDType) -> QTensor {
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
    QTensor::quantize(&tensor, dtype).unwrap()
}

fn file_bytes(metadata: &[(String, Value)], tensors: &[NamedTensor], dtype: GgmlDType) -> Vec<u8> {
    let named =
        |(name, shape, values): &NamedTensor| (name.clone(), stored(shape, values.clone(), dtype));
    let stored: Vec<(String, QTensor)> = tensors.iter().map(named).collect();
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        stored.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}
