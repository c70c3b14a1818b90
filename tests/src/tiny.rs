//! Tiny models with seeded random weights, as a Hugging Face folder: our own kernels and a real
//! tokenizer, for tests in which scripted models would hide a difference. Some of their tokens
//! spell a whole call command, so that models that learned nothing call now and then.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use relay_model::scripted::{mix, unit};
use relay_model::{
    KvCache, LanguageModel, LoadOptions, LoadedModel, Logits, ModelError, ModelShape, Row, load,
};
use serde_json::{Value, json};

/// 256 bytes, an end of text, and commands.
const VOCABULARY: usize = 297;
const END_OF_TEXT: usize = 256;
const WIDTH: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FEED_FORWARD: usize = 96;
const CONTEXT_TOKENS: usize = 512;

/// What a model was given, as far as its newest forward goes.
pub type Seen = Arc<Mutex<Vec<u32>>>;

/// A model whose weights follow from the seed, and the ids it sees.
pub fn model(seed: u64) -> anyhow::Result<(LoadedModel, Seen)> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    write("config.json", config().to_string().as_bytes())?;
    write("tokenizer.json", tokenizer().to_string().as_bytes())?;
    let options = json!({ "eos_token": "<|endoftext|>" });
    write("tokenizer_config.json", options.to_string().as_bytes())?;
    write("model.safetensors", &safetensors(seed))?;
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let mut loaded = load(folder.path(), &options).context("the tiny folder cannot be loaded")?;
    let watched = Seen::default();
    loaded.model = Box::new(Watched { model: loaded.model, seen: Arc::clone(&watched) });
    Ok((loaded, watched))
}

/// The ids that a model saw.
pub fn ids(seen: &Seen) -> Vec<u32> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A model that notes what it is given. One sequence at a time.
struct Watched {
    model: Box<dyn LanguageModel>,
    seen: Seen,
}

impl LanguageModel for Watched {
    fn shape(&self) -> ModelShape {
        self.model.shape()
    }

    fn new_cache(&self) -> KvCache {
        self.model.new_cache()
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows.iter() {
            seen.truncate(row.cache.len_tokens());
            seen.extend(row.tokens);
        }
        self.model.forward(rows)
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT_TOKENS, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "tie_word_embeddings": false,
    })
}

fn tokenizer() -> Value {
    let commands = (END_OF_TEXT + 1..VOCABULARY).zip(1..);
    let commands = commands.map(|(id, tokens)| (relay::command::write_command(tokens), id));
    let vocabulary: serde_json::Map<String, Value> =
        byte_texts().into_iter().zip(0..).chain(commands).map(|(t, id)| (t, json!(id))).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": END_OF_TEXT, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The characters that stand for bytes in byte-level vocabularies.
fn byte_texts() -> Vec<String> {
    let mut stand_ins = (0x100..).filter_map(char::from_u32);
    let text = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => stand_ins.next().unwrap_or('?'),
    };
    (0..=255).map(text).map(String::from).collect()
}

/// The header's length, the header, and the tensors one after the other.
fn safetensors(seed: u64) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut content: Vec<u8> = Vec::new();
    for (index, (name, shape, scale, centre)) in tensors().into_iter().enumerate() {
        let start = content.len();
        let count: usize = shape.iter().product();
        let stream = mix(seed ^ mix(index as u64));
        for at in 0..count as u64 {
            let value = unit(mix(stream ^ mix(at))) * 2.0 - 1.0;
            content.extend((value * scale + centre).to_le_bytes());
        }
        let offsets = [start, content.len()];
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &content].concat()
}

/// Names, shapes, scales and centres.
fn tensors() -> Vec<(String, Vec<usize>, f32, f32)> {
    let kv = KV_HEADS * WIDTH / HEADS;
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH], 1.0, 0.0),
        ("model.norm.weight".to_owned(), vec![WIDTH], 0.3, 1.0),
        ("lm_head.weight".to_owned(), vec![VOCABULARY, WIDTH], 0.5, 0.0),
    ];
    for layer in 0..LAYERS {
        for (part, shape, scale, centre) in [
            ("input_layernorm", vec![WIDTH], 0.3, 1.0),
            ("self_attn.q_proj", vec![WIDTH, WIDTH], 0.4, 0.0),
            ("self_attn.k_proj", vec![kv, WIDTH], 0.4, 0.0),
            ("self_attn.v_proj", vec![kv, WIDTH], 0.2, 0.0),
            ("self_attn.o_proj", vec![WIDTH, WIDTH], 0.2, 0.0),
            ("post_attention_layernorm", vec![WIDTH], 0.3, 1.0),
            ("mlp.gate_proj", vec![FEED_FORWARD, WIDTH], 0.2, 0.0),
            ("mlp.up_proj", vec![FEED_FORWARD, WIDTH], 0.2, 0.0),
            ("mlp.down_proj", vec![WIDTH, FEED_FORWARD], 0.2, 0.0),
        ] {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), shape, scale, centre));
        }
    }
    tensors
}
