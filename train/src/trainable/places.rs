//! Where each part of a pass finds its numbers. Knows no arithmetic.

use std::ops::Range;

use super::adapters::{AdapterPlaces, LoraSettings, Target};
use super::architecture::{Architecture, TensorPlace};

/// One product's numbers: a matrix `[outputs, inputs]`, which may be several tensors with the same
/// inputs, a bias `[outputs]` that is empty where there is none, and adapters.
#[derive(Clone, Debug)]
pub(super) struct LinearPlaces {
    pub(super) matrix: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) adapters: Vec<AdapterPlaces>,
}

/// One layer's numbers.
#[derive(Clone, Debug)]
pub(super) struct LayerPlaces {
    pub(super) attention_norm: Range<usize>,
    /// Queries, keys and values: `[query_width + 2 * kv_width, width]`.
    pub(super) projections: LinearPlaces,
    /// Of each head's queries; empty where the family has none, as the next.
    pub(super) query_norm: Range<usize>,
    pub(super) key_norm: Range<usize>,
    pub(super) attention_output: LinearPlaces,
    pub(super) feed_forward_norm: Range<usize>,
    /// Gate and up: `[2 * feed_forward_width, width]`.
    pub(super) gate_and_up: LinearPlaces,
    pub(super) down: LinearPlaces,
}

/// A model's numbers.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) embedding: Range<usize>,
    pub(super) layers: Vec<LayerPlaces>,
    pub(super) output_norm: Range<usize>,
    /// The embedding's, where it serves both ways.
    pub(super) output: Range<usize>,
}

impl Places {
    pub(super) fn new(architecture: &Architecture, lora: Option<&LoraSettings>) -> Self {
        let tensors = architecture.tensors();
        let adapters = lora.map(|lora| lora.tensors(architecture)).unwrap_or_default();
        let found = |name: &str| of(&tensors, name);
        let layer =
            |index: usize| Layer { architecture, tensors: &tensors, adapters: &adapters, index };
        let embedding = found("model.embed_tokens.weight");
        let head = found("lm_head.weight");
        Self {
            layers: (0..architecture.layers).map(|index| layer(index).places()).collect(),
            output_norm: found("model.norm.weight"),
            output: if architecture.is_tied { embedding.clone() } else { head },
            embedding,
        }
    }
}

/// Empty if there is no such tensor.
fn of(tensors: &[TensorPlace], name: &str) -> Range<usize> {
    tensors.iter().find(|tensor| tensor.name == name).map_or(0..0, |tensor| tensor.range.clone())
}

struct Layer<'a> {
    architecture: &'a Architecture,
    tensors: &'a [TensorPlace],
    adapters: &'a [TensorPlace],
    index: usize,
}

impl Layer<'_> {
    fn places(&self) -> LayerPlaces {
        LayerPlaces {
            attention_norm: self.vector("input_layernorm"),
            projections: self.linear(&[Target::Query, Target::Key, Target::Value]),
            query_norm: self.vector("self_attn.q_norm"),
            key_norm: self.vector("self_attn.k_norm"),
            attention_output: self.linear(&[Target::Output]),
            feed_forward_norm: self.vector("post_attention_layernorm"),
            gate_and_up: self.linear(&[Target::Gate, Target::Up]),
            down: self.linear(&[Target::Down]),
        }
    }

    fn vector(&self, name: &str) -> Range<usize> {
        of(self.tensors, &format!("model.layers.{}.{name}.weight", self.index))
    }

    /// Parts whose tensors lie side by side.
    fn linear(&self, parts: &[Target]) -> LinearPlaces {
        let span = |kind: &str| {
            let mut ranges =
                parts.iter().map(|part| of(self.tensors, &part.name(self.index, kind)));
            let first = ranges.next().unwrap_or_default();
            first.start..ranges.next_back().map_or(first.end, |last| last.end)
        };
        let mut outputs = 0;
        let mut adapters = Vec::new();
        for part in parts {
            let [width, _] = part.shape(self.architecture);
            let [inner, outer] =
                part.adapter_names(self.index).map(|name| of(self.adapters, &name));
            if !inner.is_empty() {
                adapters.push(AdapterPlaces { columns: outputs..outputs + width, inner, outer });
            }
            outputs += width;
        }
        LinearPlaces { matrix: span("weight"), bias: span("bias"), adapters }
    }
}
