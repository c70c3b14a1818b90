//! What a model is made of: its family, its sizes and its rotary positions, checked once.
//!
//! Each file form has its own reader below this module; nobody else reads such keys.

mod gguf;
mod hugging_face;
mod rotary;

use relay_kernels::AttentionShape;
use serde::{Deserialize, Serialize};

use crate::kv_cache::KvShape;

pub(crate) use rotary::{Rotary, RotaryLayout, rotary_angles};
pub use rotary::{RotaryScaling, rotary_frequencies};

mod limits {
    /// Sizes beyond these are not from a model of these families.
    pub(super) const LAYERS_MAX: usize = 512;
    pub(super) const WIDTH_MAX: usize = 1 << 17;
    pub(super) const CONTEXT_TOKENS_MAX: usize = 1 << 24;
    pub(super) const VOCABULARY_TOKENS_MAX: usize = 1 << 24;
}

const UNUSABLE: &str = "use a plain model of the Llama, Qwen2 or Qwen3 family";

/// Architectures whose forward pass is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Touvron et al., 2023 (arXiv 2302.13971), Llama 3 included.
    #[default]
    Llama,
    /// As Llama, with biases on queries, keys and values (arXiv 2407.10671).
    Qwen2,
    /// As Llama, with norms on each head's queries and keys (arXiv 2505.09388).
    Qwen3,
}

impl Family {
    /// The name that both file forms give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// By the name that both file forms give it.
    fn named(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// The class that transformers has for it.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Sizes and kind of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelConfig {
    pub(crate) family: Family,
    /// Rows of the embedding; the tokenizer may have fewer tokens.
    pub(crate) vocabulary_tokens: usize,
    /// The most tokens the file says the model can attend to.
    pub(crate) context_tokens: usize,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) feed_forward_width: usize,
    pub(crate) attention: AttentionShape,
    pub(crate) rotary: Rotary,
    /// Of all norms.
    pub(crate) epsilon: f32,
    /// The embedding is the output layer too. A folder that says so and has another output layer
    /// all the same is untied.
    pub(crate) is_tied: bool,
}

impl ModelConfig {
    /// Width of a token's queries: not the model's width where the head size was chosen freely.
    pub(crate) fn query_width(&self) -> usize {
        self.attention.heads * self.attention.head_width
    }

    /// Width of a token's keys, and of its values.
    pub(crate) fn kv_width(&self) -> usize {
        self.attention.kv_heads * self.attention.head_width
    }

    pub(crate) fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, width: self.kv_width() }
    }

    pub(crate) fn has_qkv_bias(&self) -> bool {
        self.family == Family::Qwen2
    }

    pub(crate) fn has_qk_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// All of it, the same on every machine and in every version, for hashes.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let Self { attention, rotary, .. } = self;
        let layout = match rotary.layout {
            RotaryLayout::Interleaved => 0,
            RotaryLayout::Halves => 1,
        };
        let sizes = [
            self.vocabulary_tokens,
            self.context_tokens,
            self.layers,
            self.width,
            self.feed_forward_width,
            attention.heads,
            attention.kv_heads,
            attention.head_width,
            usize::from(self.is_tied),
            layout,
            rotary.pairs,
            rotary.frequency_divisors.len(),
        ];
        // No family's name begins like another's with a zero byte behind it.
        let mut bytes = [self.family.name().as_bytes(), &[0]].concat();
        bytes.extend(sizes.iter().flat_map(|size| (*size as u64).to_le_bytes()));
        bytes.extend(rotary.base.to_le_bytes());
        bytes.extend(self.epsilon.to_le_bytes());
        bytes.extend(rotary.frequency_divisors.iter().flat_map(|divisor| divisor.to_le_bytes()));
        bytes
    }

    /// What does not fit together, if anything: a rule for both file forms.
    fn contradiction(&self) -> Option<String> {
        let AttentionShape { heads, kv_heads, head_width } = self.attention;
        let Rotary { pairs, frequency_divisors, .. } = &self.rotary;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Some(format!("{heads} heads cannot share {kv_heads} KV heads"));
        }
        if *pairs == 0 || 2 * pairs != head_width {
            let rotary = 2 * pairs;
            return Some(format!("{rotary} rotary dimensions in heads of {head_width}"));
        }
        if !self.epsilon.is_finite() || self.epsilon <= 0.0 {
            return Some("the norms' epsilon is no positive 32-bit number".to_owned());
        }
        if !self.rotary.base.is_finite() || self.rotary.base < 1.0 {
            return Some(format!("a rotary base of {}", self.rotary.base));
        }
        let is_divisor = |divisor: &f32| divisor.is_finite() && *divisor > 0.0;
        if !frequency_divisors.iter().all(is_divisor) {
            return Some("rotary frequencies are divided by what is no positive number".to_owned());
        }
        None
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the kernels compute in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            vocabulary_tokens: 300,
            context_tokens: 256,
            layers: 2,
            width: 64,
            feed_forward_width: 96,
            attention: AttentionShape { heads: 4, kv_heads: 2, head_width: 16 },
            rotary: Rotary {
                layout: RotaryLayout::Halves,
                pairs: 8,
                base: 10_000.0,
                frequency_divisors: vec![1.0; 8],
                scaling: None,
            },
            epsilon: 1e-5,
            is_tied: false,
        }
    }

    #[test]
    fn whatever_changes_the_forward_pass_changes_the_encoding() {
        let changes: [fn(&mut ModelConfig); 15] = [
            |config| config.family = Family::Qwen2,
            |config| config.vocabulary_tokens += 1,
            |config| config.context_tokens += 1,
            |config| config.layers += 1,
            |config| config.width += 1,
            |config| config.feed_forward_width += 1,
            |config| config.attention.heads += 1,
            |config| config.attention.kv_heads += 1,
            |config| config.attention.head_width += 1,
            |config| config.rotary.layout = RotaryLayout::Interleaved,
            |config| config.rotary.pairs -= 1,
            |config| config.rotary.base += 1.0,
            |config| config.rotary.frequency_divisors[7] = 2.0,
            |config| config.epsilon = 1e-6,
            |config| config.is_tied = true,
        ];
        let mut seen = std::collections::HashSet::from([config().encoded()]);
        for (index, change) in changes.iter().enumerate() {
            let mut other = config();
            change(&mut other);
            assert!(seen.insert(other.encoded()), "change {index} is not seen");
        }
        let encoded = config().encoded();
        assert_eq!(encoded.len(), 6 + 12 * 8 + 8 + 4 + 8 * 4);
        assert_eq!(encoded[..15], *b"llama\0\x2C\x01\0\0\0\0\0\0\0");
    }
}
