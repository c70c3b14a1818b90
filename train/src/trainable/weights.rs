//! The numbers of a trainable model: drawn for a seed, or taken from a folder. One flat row, so that
//! optimiser, clipping and checkpoints need not know what they mean.

use super::architecture::Architecture;
use crate::chance::Chance;

/// A model's numbers, in the order of [`Architecture::tensors`].
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    architecture: Architecture,
    /// All of them.
    pub values: Vec<f32>,
}

impl Weights {
    /// Wraps numbers that there are; `None` if they are not as many as the sizes ask for.
    pub fn new(architecture: Architecture, values: Vec<f32>) -> Option<Self> {
        (values.len() == architecture.parameters()).then_some(Self { architecture, values })
    }

    /// Draws them: norms are 1; matrices even, with a spread that keeps the size of what goes
    /// through, and less of it where a block adds to what the layers pass on.
    pub fn draw(architecture: &Architecture, seed: u64) -> anyhow::Result<Self> {
        architecture.check()?;
        let mut values = vec![1.0; architecture.parameters()];
        for (tensor, index) in architecture.tensors().iter().zip(0..) {
            if !tensor.is_matrix() {
                continue;
            }
            let adds =
                tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
            let blocks = if adds { 2 * architecture.layers } else { 1 };
            let inputs = tensor.shape.last().copied().unwrap_or(1);
            let bound = (3.0 / float(inputs * blocks)).sqrt();
            let mut chance = Chance::new(seed, "weights", index);
            for value in &mut values[tensor.range.clone()] {
                *value = bound * (float(chance.below(1 << 24)) / float(1 << 23) - 1.0);
            }
        }
        Ok(Self { architecture: architecture.clone(), values })
    }

    /// Their sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }
}

/// Exact up to 2^24.
#[expect(clippy::cast_precision_loss, reason = "sizes and draws are at most 2^24")]
fn float(value: usize) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_fixed_and_of_the_right_size() {
        let architecture = Architecture {
            vocabulary_tokens: 64,
            context_tokens: 64,
            layers: 1,
            width: 16,
            heads: 2,
            kv_heads: 1,
            head_width: 8,
            feed_forward_width: 32,
            rotary_base: 1e4,
            norm_epsilon: 1e-5,
        };
        let weights = Weights::draw(&architecture, 1).unwrap();
        assert_eq!(weights, Weights::draw(&architecture, 1).unwrap());
        assert_ne!(weights, Weights::draw(&architecture, 2).unwrap());
        for tensor in architecture.tensors() {
            let values = &weights.values[tensor.range.clone()];
            let square =
                values.iter().map(|value| value * value).sum::<f32>() / float(values.len());
            let expected = match tensor.name.rsplit('.').nth(1).unwrap() {
                "o_proj" => 1.0 / 32.0,
                "down_proj" => 1.0 / 64.0,
                _ if tensor.is_matrix() => 1.0 / 16.0,
                _ => 1.0,
            };
            assert!((square / expected - 1.0).abs() < 0.2, "{}: {square}", tensor.name);
        }
        assert!(Weights::new(architecture.clone(), vec![0.0; 3]).is_none());
        assert!(Weights::draw(&Architecture { kv_heads: 3, ..architecture }, 1).is_err());
    }
}
