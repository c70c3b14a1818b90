//! Sizes of a trainable model, and where each of its tensors lies in one flat row of numbers. Names
//! and keys are those of a Hugging Face folder. Knows no arithmetic.

use std::ops::Range;

use anyhow::ensure;
use relay_model::{Family, ModelSizes, RotaryScaling};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod limits {
    /// What a model trained here may measure at most: a bound against slips of the keyboard.
    pub(super) const SIZE_MAX: usize = 1 << 18;
    /// The most layers.
    pub(super) const LAYERS_MAX: usize = 128;
}

/// A model of one of the families of `relay-model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Which of them.
    #[serde(default)]
    pub family: Family,
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
    /// How rotary frequencies are slowed down, if they are.
    #[serde(default)]
    pub rotary_scaling: Option<RotaryScaling>,
    /// What keeps a norm from dividing by zero.
    pub norm_epsilon: f32,
    /// The embedding is the output layer, too.
    #[serde(default = "tied")]
    pub is_tied: bool,
}

fn tied() -> bool {
    true
}

impl From<&ModelSizes> for Architecture {
    fn from(sizes: &ModelSizes) -> Self {
        Self {
            family: sizes.family,
            vocabulary_tokens: sizes.vocabulary_tokens,
            context_tokens: sizes.context_tokens,
            layers: sizes.layers,
            width: sizes.width,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_width: sizes.head_width,
            feed_forward_width: sizes.feed_forward_width,
            rotary_base: sizes.rotary_base,
            rotary_scaling: sizes.rotary_scaling,
            norm_epsilon: sizes.norm_epsilon,
            is_tied: sizes.is_tied,
        }
    }
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

    /// A layer's tensors. What is multiplied by the same inputs lies side by side, and so do their
    /// biases.
    fn layer_tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        let Self { width, feed_forward_width, head_width, .. } = *self;
        let (query, kv) = (self.query_width(), self.kv_width());
        let own = match self.family {
            Family::Llama => vec![],
            Family::Qwen2 => vec![
                ("self_attn.q_proj.bias", vec![query]),
                ("self_attn.k_proj.bias", vec![kv]),
                ("self_attn.v_proj.bias", vec![kv]),
            ],
            Family::Qwen3 => vec![
                ("self_attn.q_norm.weight", vec![head_width]),
                ("self_attn.k_norm.weight", vec![head_width]),
            ],
        };
        let before = vec![
            ("input_layernorm.weight", vec![width]),
            ("self_attn.q_proj.weight", vec![query, width]),
            ("self_attn.k_proj.weight", vec![kv, width]),
            ("self_attn.v_proj.weight", vec![kv, width]),
        ];
        let after = vec![
            ("self_attn.o_proj.weight", vec![width, query]),
            ("post_attention_layernorm.weight", vec![width]),
            ("mlp.gate_proj.weight", vec![feed_forward_width, width]),
            ("mlp.up_proj.weight", vec![feed_forward_width, width]),
            ("mlp.down_proj.weight", vec![width, feed_forward_width]),
        ];
        [before, own, after].concat()
    }

    /// All tensors in the order in which their numbers lie.
    pub fn tensors(&self) -> Vec<TensorPlace> {
        let table = vec![self.vocabulary_tokens, self.width];
        let mut named = vec![("model.embed_tokens.weight".to_owned(), table.clone())];
        for layer in 0..self.layers {
            let tensors = self.layer_tensors().into_iter();
            named.extend(
                tensors.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)),
            );
        }
        named.push(("model.norm.weight".to_owned(), vec![self.width]));
        if !self.is_tied {
            named.push(("lm_head.weight".to_owned(), table));
        }
        in_a_row(named)
    }

    /// How many numbers all tensors have.
    pub fn parameters(&self) -> usize {
        self.tensors().last().map_or(0, |tensor| tensor.range.end)
    }

    /// What `config.json` of a Hugging Face folder says of it.
    pub fn to_config(&self, end_id: u64, pad_id: u64) -> Value {
        let mut config = self.to_bare_config();
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = end_id.into();
        config["pad_token_id"] = pad_id.into();
        config
    }

    /// The same without the roles of tokens.
    pub fn to_bare_config(&self) -> Value {
        let mut config = json!({
            "architectures": [self.family.class()],
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward_width,
            "max_position_embeddings": self.context_tokens,
            "model_type": self.family.name(),
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rotary_base,
            "tie_word_embeddings": self.is_tied,
            "torch_dtype": "float32",
            "vocab_size": self.vocabulary_tokens,
        });
        // Qwen2 has its biases without being asked.
        if self.family != Family::Qwen2 {
            config["attention_bias"] = false.into();
        }
        if self.family == Family::Llama {
            config["mlp_bias"] = false.into();
        }
        if let Some(scaling) = &self.rotary_scaling {
            config["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_turns,
                "high_freq_factor": scaling.high_turns,
                "original_max_position_embeddings": scaling.trained_tokens,
            });
        }
        config
    }
}

/// Tensors one behind the other.
pub(super) fn in_a_row(named: Vec<(String, Vec<usize>)>) -> Vec<TensorPlace> {
    let mut end = 0;
    let place = |(name, shape): (String, Vec<usize>)| {
        let start = end;
        end += shape.iter().product::<usize>();
        TensorPlace { name, shape, range: start..end }
    };
    named.into_iter().map(place).collect()
}
