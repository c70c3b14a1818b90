//! Writes a tiny model file: a byte-level tokenizer and seeded random weights.

use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use relay_model::{KvPrecision, LoadOptions, LoadedModel, load};

pub(crate) const VOCABULARY: usize = 259;
pub(crate) const LAYERS: usize = 3;
pub(crate) const WIDTH: usize = 64;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const HEAD_WIDTH: usize = 16;
pub(crate) const FEED_FORWARD: usize = 96;
pub(crate) const CONTEXT: usize = 300;
pub(crate) const ROTARY_BASE: f32 = 1000.0;
pub(crate) const EPSILON: f32 = 1e-5;

/// A folder with a model file in it; the folder goes when this is dropped.
pub(crate) struct TinyFile {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl TinyFile {
    pub(crate) fn with_bytes(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, bytes).unwrap();
        Self { _folder: folder, path }
    }
}

/// Numbers of a hidden state, a head, and a feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    hidden: usize,
    head: usize,
    feed_forward: usize,
}

/// As the constants say.
const NARROW: Widths = Widths { hidden: WIDTH, head: HEAD_WIDTH, feed_forward: FEED_FORWARD };
/// Rows hold whole blocks of every format.
pub(crate) const WIDE: Widths = Widths { hidden: 256, head: 64, feed_forward: 256 };

/// Named tensors, `[outputs, inputs]` or `[width]`.
pub(crate) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;
pub(crate) type Metadata = Vec<(String, Value)>;

pub(crate) fn tensors() -> Tensors {
    tensors_of(NARROW)
}

pub(crate) fn tensors_of(widths: Widths) -> Tensors {
    let Widths { hidden, head, feed_forward } = widths;
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[usize], scale: f32, centre: f32| {
        let seed = tensors.len() as u64 + 1;
        let values = noise(shape.iter().product(), seed);
        let values = values.into_iter().map(|value| value * scale + centre).collect();
        tensors.push((name.to_owned(), shape.to_vec(), values));
    };
    add("token_embd.weight", &[VOCABULARY, hidden], 1.0, 0.0);
    add("output_norm.weight", &[hidden], 0.3, 1.0);
    let (query, kv) = (HEADS * head, KV_HEADS * head);
    for layer in 0..LAYERS {
        let mut of_layer = |part: &str, shape: &[usize], scale, centre| {
            add(&format!("blk.{layer}.{part}.weight"), shape, scale, centre);
        };
        of_layer("attn_norm", &[hidden], 0.3, 1.0);
        of_layer("attn_q", &[query, hidden], 0.4, 0.0);
        of_layer("attn_k", &[kv, hidden], 0.4, 0.0);
        of_layer("attn_v", &[kv, hidden], 0.2, 0.0);
        of_layer("attn_output", &[hidden, query], 0.2, 0.0);
        of_layer("ffn_norm", &[hidden], 0.3, 1.0);
        of_layer("ffn_gate", &[feed_forward, hidden], 0.2, 0.0);
        of_layer("ffn_up", &[feed_forward, hidden], 0.2, 0.0);
        of_layer("ffn_down", &[hidden, feed_forward], 0.2, 0.0);
    }
    tensors
}

pub(crate) fn metadata() -> Metadata {
    metadata_of(NARROW)
}

pub(crate) fn metadata_of(widths: Widths) -> Metadata {
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap());
    let text = |value: &str| Value::String(value.to_owned());
    let (tokens, types) = byte_vocabulary();
    let entries = [
        ("general.architecture", text("llama")),
        ("general.name", text("tiny")),
        ("llama.block_count", number(LAYERS)),
        ("llama.context_length", number(CONTEXT)),
        ("llama.embedding_length", number(widths.hidden)),
        ("llama.feed_forward_length", number(widths.feed_forward)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(EPSILON)),
        ("llama.rope.freq_base", Value::F32(ROTARY_BASE)),
        ("llama.rope.dimension_count", number(widths.head)),
        ("llama.vocab_size", number(VOCABULARY)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("h e")])),
        ("tokenizer.ggml.eos_token_id", number(256)),
        ("tokenizer.chat_template", text("{{ messages[0].content }}")),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

/// 256 bytes in the byte-level alphabet, an end token, a user-defined token and the pair "he".
fn byte_vocabulary() -> (Vec<Value>, Vec<Value>) {
    let mut stand_in = 0x100;
    let mut tokens: Vec<String> = (0..=255_u8)
        .map(|byte| {
            if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
                return char::from(byte).to_string();
            }
            stand_in += 1;
            char::from_u32(stand_in - 1).unwrap().to_string()
        })
        .collect();
    tokens.extend(["<|endoftext|>", "<call>", "he"].map(str::to_owned));
    let types = (0..VOCABULARY).map(|id| match id {
        256 => 3,
        257 => 4,
        _ => 1,
    });
    (tokens.into_iter().map(Value::String).collect(), types.map(Value::I32).collect())
}

/// The file's bytes; matrices are stored as `dtype`.
pub(crate) fn file_bytes(metadata: &Metadata, tensors: &Tensors, dtype: GgmlDType) -> Vec<u8> {
    let quantised: Vec<(&str, QTensor)> = tensors
        .iter()
        .map(|(name, shape, values)| {
            let tensor = Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu).unwrap();
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
            (name.as_str(), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        quantised.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

pub(crate) fn load_tiny(dtype: GgmlDType) -> LoadedModel {
    let file = TinyFile::with_bytes(&file_bytes(&metadata(), &tensors(), dtype));
    load(&file.path, &LoadOptions::default()).unwrap()
}

/// With a KV cache that rounds nothing.
pub(crate) fn load_exact(dtype: GgmlDType) -> LoadedModel {
    let file = TinyFile::with_bytes(&file_bytes(&metadata(), &tensors(), dtype));
    let kv_precision = KvPrecision::F32;
    load(&file.path, &LoadOptions { kv_precision, ..LoadOptions::default() }).unwrap()
}

/// Evenly spread over (-1, 1) and the same on every machine.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bits = u16::try_from(state >> 48).unwrap();
        f32::from(bits) / 32_768.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
