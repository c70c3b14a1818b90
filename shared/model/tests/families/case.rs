//! The cases of vectors.json, and the tensors that belong to each.

use relay_model::{KvCache, LanguageModel, Logits, LogitsWanted, Row};
use serde::Deserialize;
use serde_json::Value;

use crate::rule;

/// Tokens of the tiny tokenizer: 256 bytes, an end token, a user-defined one and the pair "he".
pub(crate) const TOKENS: usize = 259;
/// Rows of the embedding: some stand for no token, as in published Qwen models.
pub(crate) const VOCABULARY: usize = 264;

#[derive(Debug, Deserialize)]
pub(crate) struct Vectors {
    pub(crate) ids: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// config.json as transformers writes it.
    pub(crate) config: Value,
    /// At each of the positions.
    pub(crate) logits: Vec<Vec<f32>>,
}

/// Name, shape `[outputs, inputs]` or `[width]`, values.
pub(crate) type NamedTensor = (String, Vec<usize>, Vec<f32>);

pub(crate) fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

pub(crate) fn case(name: &str) -> Case {
    vectors().cases.into_iter().find(|case| case.name == name).unwrap()
}

impl Case {
    pub(crate) fn family(&self) -> &str {
        self.config["model_type"].as_str().unwrap()
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        usize::try_from(self.config[key].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn head_width(&self) -> usize {
        let share = || self.size("hidden_size") / self.size("num_attention_heads");
        self.config["head_dim"].as_u64().map_or_else(share, |width| usize::try_from(width).unwrap())
    }

    pub(crate) fn is_tied(&self) -> bool {
        self.config["tie_word_embeddings"].as_bool().unwrap()
    }

    /// All tensors under the names that transformers has for them.
    pub(crate) fn tensors(&self) -> Vec<NamedTensor> {
        let width = self.size("hidden_size");
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, width]),
            ("model.norm.weight".to_owned(), vec![width]),
        ];
        if !self.is_tied() {
            shapes.push(("lm_head.weight".to_owned(), vec![VOCABULARY, width]));
        }
        for layer in 0..self.size("num_hidden_layers") {
            let of_layer = self.layer_shapes(width).into_iter();
            shapes.extend(
                of_layer.map(|(part, shape)| (format!("model.layers.{layer}.{part}"), shape)),
            );
        }
        let filled = |(name, shape): (String, Vec<usize>)| {
            let values = rule::weights(&name, shape.iter().product());
            (name, shape, values)
        };
        shapes.into_iter().map(filled).collect()
    }

    fn layer_shapes(&self, width: usize) -> Vec<(&'static str, Vec<usize>)> {
        let (head, inner) = (self.head_width(), self.size("intermediate_size"));
        let query = self.size("num_attention_heads") * head;
        let kv = self.size("num_key_value_heads") * head;
        let mut shapes = vec![
            ("input_layernorm.weight", vec![width]),
            ("post_attention_layernorm.weight", vec![width]),
            ("self_attn.q_proj.weight", vec![query, width]),
            ("self_attn.k_proj.weight", vec![kv, width]),
            ("self_attn.v_proj.weight", vec![kv, width]),
            ("self_attn.o_proj.weight", vec![width, query]),
            ("mlp.gate_proj.weight", vec![inner, width]),
            ("mlp.up_proj.weight", vec![inner, width]),
            ("mlp.down_proj.weight", vec![width, inner]),
        ];
        match self.family() {
            "qwen2" => shapes.extend([
                ("self_attn.q_proj.bias", vec![query]),
                ("self_attn.k_proj.bias", vec![kv]),
                ("self_attn.v_proj.bias", vec![kv]),
            ]),
            "qwen3" => shapes.extend([
                ("self_attn.q_norm.weight", vec![head]),
                ("self_attn.k_norm.weight", vec![head]),
            ]),
            _ => {}
        }
        shapes
    }
}

pub(crate) fn run(
    model: &mut dyn LanguageModel,
    cache: &mut KvCache,
    tokens: &[u32],
    logits: LogitsWanted,
) -> Logits {
    model.forward(&mut [Row { tokens, cache, logits }]).unwrap().remove(0)
}

pub(crate) fn all_at_once(model: &mut dyn LanguageModel, tokens: &[u32]) -> Logits {
    let mut cache = model.new_cache();
    run(model, &mut cache, tokens, LogitsWanted::All)
}

/// The byte-level alphabet's text for each byte.
pub(crate) fn byte_texts() -> Vec<String> {
    let mut stand_in = 0x100;
    let text = |byte: u8| {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte).to_string();
        }
        stand_in += 1;
        char::from_u32(stand_in - 1).unwrap().to_string()
    };
    (0..=255_u8).map(text).collect()
}
