//! Sizes of a trainable model, and where each of its tensors lies in one flat row of numbers. Names
//! and keys are those of a Hugging Face folder of the Llama family. Knows no arithmetic.

use std::ops::Range;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod limits {
    /// What a model trained here may measure at most: a bound against slips of the keyboard.
    pub(super) const SIZE_MAX: usize = 1 << 16;
    /// The most layers.
    pub(super) const LAYERS_MAX: usize = 128;
}

/// A model of the Llama family whose embedding is its output layer, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Rows of the embedding.
    pub vocabulary_tokens: usize,
    /// The longest text that the model is meant for.
    pub context_tokens: usize,
    /// Attention and feed-forward blocks, one above the other.
    pub layers: usize,
    /// Numbers that stand for a token between the layers.
    pub width: usize,
    /// Queries of a token.
    pub heads: usize,
    /// Keys, and values, of a token: each serves `heads / kv_heads` queries.
    pub kv_heads: usize,
    /// Numbers of a query, a key or a value; even.
    pub head_width: usize,
    /// Numbers between the two halves of a feed-forward block.
    pub feed_forward_width: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f64,
    /// What keeps a norm from dividing by zero.
    pub norm_epsilon: f32,
}

/// One tensor: its published name, its shape, and its place among all numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// As in `model.safetensors`.
    pub name: String,
    /// `[outputs, inputs]`, or `[width]` of a norm.
    pub shape: Vec<usize>,
    /// Its numbers, row after row.
    pub range: Range<usize>,
}

impl TensorPlace {
    /// Whether weight decay pulls at it: norms are left alone.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }
}

/// Places of one layer's tensors. What is multiplied by the same inputs lies side by side.
#[derive(Clone, Debug)]
pub(super) struct LayerPlaces {
    pub(super) attention_norm: Range<usize>,
    /// Queries, keys and values: `[query_width + 2 * kv_width, width]`.
    pub(super) projections: Range<usize>,
    pub(super) attention_output: Range<usize>,
    pub(super) feed_forward_norm: Range<usize>,
    /// Gate and up: `[2 * feed_forward_width, width]`.
    pub(super) gate_and_up: Range<usize>,
    pub(super) down: Range<usize>,
}

impl Architecture {
    /// Refuses what does not fit together.
    pub fn check(&self) -> anyhow::Result<()> {
        let sizes = [self.vocabulary_tokens, self.context_tokens, self.width, self.heads];
        let sizes = sizes.into_iter().chain([self.head_width, self.feed_forward_width]);
        for size in sizes {
            ensure!(
                (1..=limits::SIZE_MAX).contains(&size),
                "a size of {size}: choose 1 to {}",
                limits::SIZE_MAX
            );
        }
        let layers = self.layers;
        ensure!((1..=limits::LAYERS_MAX).contains(&layers), "{layers} layers: choose 1 to 128");
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        ensure!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{heads} heads cannot share {kv_heads} KV heads: choose a divisor"
        );
        let width = self.head_width;
        ensure!(
            width.is_multiple_of(2),
            "heads of {width}: rotary positions turn pairs: even only"
        );
        Ok(())
    }

    /// Numbers of a token's queries.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Numbers of a token's keys, and of its values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Numbers of a token's queries, keys and values together.
    pub(super) fn projections_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }

    fn layer_tensors(&self) -> [(&'static str, Vec<usize>); 9] {
        let Self { width, feed_forward_width, .. } = *self;
        let (query, kv) = (self.query_width(), self.kv_width());
        [
            ("input_layernorm", vec![width]),
            ("self_attn.q_proj", vec![query, width]),
            ("self_attn.k_proj", vec![kv, width]),
            ("self_attn.v_proj", vec![kv, width]),
            ("self_attn.o_proj", vec![width, query]),
            ("post_attention_layernorm", vec![width]),
            ("mlp.gate_proj", vec![feed_forward_width, width]),
            ("mlp.up_proj", vec![feed_forward_width, width]),
            ("mlp.down_proj", vec![width, feed_forward_width]),
        ]
    }

    /// All tensors in the order in which their numbers lie.
    pub fn tensors(&self) -> Vec<TensorPlace> {
        let table = vec![self.vocabulary_tokens, self.width];
        let mut named = vec![("model.embed_tokens.weight".to_owned(), table)];
        for layer in 0..self.layers {
            let tensors = self.layer_tensors().into_iter();
            named.extend(
                tensors.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)),
            );
        }
        named.push(("model.norm.weight".to_owned(), vec![self.width]));
        let mut end = 0;
        let place = |(name, shape): (String, Vec<usize>)| {
            let start = end;
            end += shape.iter().product::<usize>();
            TensorPlace { name, shape, range: start..end }
        };
        named.into_iter().map(place).collect()
    }

    /// How many numbers all tensors have.
    pub fn parameters(&self) -> usize {
        self.tensors().last().map_or(0, |tensor| tensor.range.end)
    }

    pub(super) fn embedding(&self) -> Range<usize> {
        0..self.vocabulary_tokens * self.width
    }

    pub(super) fn output_norm(&self) -> Range<usize> {
        let end = self.parameters();
        end - self.width..end
    }

    pub(super) fn layer_places(&self) -> Vec<LayerPlaces> {
        let sizes = self.layer_tensors().map(|(_, shape)| shape.iter().product::<usize>());
        let mut end = self.embedding().end;
        let mut take = |size: usize| {
            let start = end;
            end += size;
            start..end
        };
        let [norm, query, key, value, output, second_norm, gate, up, down] = sizes;
        (0..self.layers)
            .map(|_| LayerPlaces {
                attention_norm: take(norm),
                projections: take(query + key + value),
                attention_output: take(output),
                feed_forward_norm: take(second_norm),
                gate_and_up: take(gate + up),
                down: take(down),
            })
            .collect()
    }

    /// What `config.json` of a Hugging Face folder says of it.
    pub fn to_config(&self, end_id: u64, pad_id: u64) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": null,
            "eos_token_id": end_id,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward_width,
            "max_position_embeddings": self.context_tokens,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": pad_id,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rotary_base,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
            "vocab_size": self.vocabulary_tokens,
        })
    }
}
