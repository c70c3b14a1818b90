//! Adapters of low rank on a frozen model's matrices (`LoRA`: Hu et al., 2021, arXiv 2106.09685):
//! y = W·x + alpha/rank · B·(A·x). Names and shapes are those of the PEFT library. Knows no file.

use std::ops::Range;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, TensorPlace, in_a_row};
use super::matrix::{Extent, multiply, view, view_mut};
use super::weights::Weights;

mod limits {
    /// The highest rank: beyond it an adapter is as large as what it adapts.
    pub(super) const RANK_MAX: usize = 256;
}

/// A matrix that may have an adapter, by the name that published models have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Of queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Of keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Of values.
    #[serde(rename = "v_proj")]
    Value,
    /// Of what was attended to.
    #[serde(rename = "o_proj")]
    Output,
    /// Of the feed-forward block's gate.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Of what the gate lets through.
    #[serde(rename = "up_proj")]
    Up,
    /// Of the feed-forward block's result.
    #[serde(rename = "down_proj")]
    Down,
}

impl Target {
    /// All of them, in the order in which a layer uses them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    fn module(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The tensor's name in a layer; `kind` is `weight` or `bias`.
    pub(super) fn name(self, layer: usize, kind: &str) -> String {
        format!("model.layers.{layer}.{}.{kind}", self.module())
    }

    /// Names of A and B.
    pub(super) fn adapter_names(self, layer: usize) -> [String; 2] {
        let of = |side: &str| self.name(layer, &format!("lora_{side}.weight"));
        ["A", "B"].map(|side| format!("base_model.model.{}", of(side)))
    }

    /// `[outputs, inputs]`.
    pub(super) fn shape(self, architecture: &Architecture) -> [usize; 2] {
        let Architecture { width, feed_forward_width, .. } = *architecture;
        let (query, kv) = (architecture.query_width(), architecture.kv_width());
        match self {
            Self::Query => [query, width],
            Self::Key | Self::Value => [kv, width],
            Self::Output => [width, query],
            Self::Gate | Self::Up => [feed_forward_width, width],
            Self::Down => [width, feed_forward_width],
        }
    }
}

/// Which adapters there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSettings {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// What B·A is multiplied by, times the rank.
    pub alpha: f32,
    /// The matrices that have one, in every layer.
    pub targets: Vec<Target>,
}

/// Where an adapter's numbers lie, and which of a product's outputs it adds to.
#[derive(Clone, Debug)]
pub(super) struct AdapterPlaces {
    pub(super) columns: Range<usize>,
    /// A: `[rank, inputs]`.
    pub(super) inner: Range<usize>,
    /// B: `[columns, rank]`.
    pub(super) outer: Range<usize>,
}

impl LoraSettings {
    /// Refuses what adapts nothing.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { rank, alpha, targets } = self;
        let rank_max = limits::RANK_MAX;
        ensure!((1..=rank_max).contains(rank), "rank {rank}: choose 1 to {rank_max}");
        ensure!(alpha.is_finite() && *alpha > 0.0, "alpha must be above 0");
        ensure!(!targets.is_empty(), "targets: name at least one of q_proj to down_proj");
        let twice = targets.iter().enumerate().find(|(at, target)| targets[..*at].contains(target));
        ensure!(twice.is_none(), "targets: one is named twice");
        Ok(())
    }

    /// What B·A is multiplied by.
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    pub(super) fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// All adapters' tensors in the order in which their numbers lie.
    pub fn tensors(&self, architecture: &Architecture) -> Vec<TensorPlace> {
        let mut named = Vec::new();
        for layer in 0..architecture.layers {
            for target in Target::ALL.into_iter().filter(|target| self.targets.contains(target)) {
                let [outputs, inputs] = target.shape(architecture);
                let shapes = [vec![self.rank, inputs], vec![outputs, self.rank]];
                named.extend(target.adapter_names(layer).into_iter().zip(shapes));
            }
        }
        in_a_row(named)
    }

    /// The frozen numbers with `values` of adapters added: a plain model again.
    pub(super) fn merge(&self, base: &Weights, values: &[f32]) -> Weights {
        let architecture = base.architecture();
        let mut merged = base.clone();
        let (tensors, adapters) = (architecture.tensors(), self.tensors(architecture));
        for pair in adapters.chunks_exact(2) {
            let [inner, outer] = [&pair[0], &pair[1]];
            let name = inner.name.trim_start_matches("base_model.model.");
            let name = name.trim_end_matches("lora_A.weight");
            let matrix = tensors.iter().find(|tensor| tensor.name == format!("{name}weight"));
            let Some(matrix) = matrix else { continue };
            let (outputs, inputs) = (matrix.shape[0], matrix.shape[1]);
            let outer = view(&values[outer.range.clone()], Extent::dense(outputs, self.rank));
            let inner = view(&values[inner.range.clone()], Extent::dense(self.rank, inputs));
            let out = &mut merged.values[matrix.range.clone()];
            let out = view_mut(out, Extent::dense(outputs, inputs));
            multiply((outer, inner), self.scale(), 1.0, out);
        }
        merged
    }
}
