//! The numbers of a trainable model: drawn for a seed, or taken from a folder. One flat row, so that
//! optimiser, clipping and checkpoints need not know what they mean.

use std::ops::Range;
use std::sync::Arc;

use anyhow::ensure;

use super::adapters::LoraSettings;
use super::architecture::{Architecture, TensorPlace};
use crate::chance::Chance;

/// A model's numbers. What learns is all of them, or adapters on frozen ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    architecture: Architecture,
    /// What learns, in the order of [`Weights::tensors`].
    pub values: Vec<f32>,
    frozen: Option<Frozen>,
}

/// A model that stays as it is, and which adapters it has.
#[derive(Clone, Debug, PartialEq)]
struct Frozen {
    base: Arc<Weights>,
    lora: LoraSettings,
}

impl Weights {
    /// Wraps numbers that there are; `None` if they are not as many as the sizes ask for.
    pub fn new(architecture: Architecture, values: Vec<f32>) -> Option<Self> {
        let fits = values.len() == architecture.parameters();
        fits.then_some(Self { architecture, values, frozen: None })
    }

    /// Adapters on a model, which is frozen: A even with a bound of 1/√inputs, as PEFT draws it, B
    /// nothing, so that the model is at first what it was.
    pub fn adapt(base: &Arc<Self>, lora: LoraSettings, seed: u64) -> anyhow::Result<Self> {
        lora.check()?;
        ensure!(base.frozen.is_none(), "adapters on adapters: merge the first ones");
        let tensors = lora.tensors(&base.architecture);
        let mut values = vec![0.0; tensors.last().map_or(0, |tensor| tensor.range.end)];
        // Every second tensor is a B.
        for (tensor, index) in tensors.iter().step_by(2).zip(0..) {
            let inputs = tensor.shape.last().copied().unwrap_or(1);
            draw(&mut values[tensor.range.clone()], 1.0 / float(inputs).sqrt(), seed, index);
        }
        let frozen = Some(Frozen { base: Arc::clone(base), lora });
        Ok(Self { architecture: base.architecture.clone(), values, frozen })
    }

    /// The same with other numbers that learn; `None` if they are not as many.
    pub fn with_values(&self, values: Vec<f32>) -> Option<Self> {
        let Self { architecture, frozen, .. } = self;
        let fits = values.len() == self.values.len();
        fits.then(|| Self { architecture: architecture.clone(), values, frozen: frozen.clone() })
    }

    /// All that learns: tensors of the model, or of its adapters.
    pub fn tensors(&self) -> Vec<TensorPlace> {
        match &self.frozen {
            Some(frozen) => frozen.lora.tensors(&self.architecture),
            None => self.architecture.tensors(),
        }
    }

    /// Which adapters there are, if any.
    pub fn lora(&self) -> Option<&LoraSettings> {
        self.frozen.as_ref().map(|frozen| &frozen.lora)
    }

    /// A plain model that computes the same: adapters become part of what they adapt.
    #[must_use]
    pub fn merged(&self) -> Self {
        match &self.frozen {
            Some(Frozen { base, lora }) => lora.merge(base, &self.values),
            None => self.clone(),
        }
    }

    /// The model's own numbers, in the order of [`Architecture::tensors`].
    pub(super) fn base(&self) -> &[f32] {
        self.frozen.as_ref().map_or(&self.values, |frozen| &frozen.base.values)
    }

    /// What B·A is multiplied by.
    pub(super) fn adapter_scale(&self) -> f32 {
        self.lora().map_or(0.0, LoraSettings::scale)
    }

    /// Slopes of the model's own numbers there; none where these are frozen or there are none.
    pub(super) fn slopes_of<'a>(
        &self,
        range: &Range<usize>,
        gradient: &'a mut [f32],
    ) -> Option<&'a mut [f32]> {
        let learns = self.frozen.is_none() && !range.is_empty();
        learns.then(|| &mut gradient[range.clone()])
    }

    /// Draws them: norms are 1, biases 0; matrices even, with a spread that keeps the size of what goes
    /// through, and less of it where a block adds to what the layers pass on.
    pub fn draw(architecture: &Architecture, seed: u64) -> anyhow::Result<Self> {
        architecture.check()?;
        let mut values = vec![1.0; architecture.parameters()];
        for tensor in architecture.tensors().iter().filter(|tensor| tensor.name.ends_with("bias")) {
            values[tensor.range.clone()].fill(0.0);
        }
        for (tensor, index) in architecture.tensors().iter().zip(0..) {
            if !tensor.is_matrix() {
                continue;
            }
            let adds =
                tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
            let blocks = if adds { 2 * architecture.layers } else { 1 };
            let inputs = tensor.shape.last().copied().unwrap_or(1);
            let bound = (3.0 / float(inputs * blocks)).sqrt();
            draw(&mut values[tensor.range.clone()], bound, seed, index);
        }
        Ok(Self { architecture: architecture.clone(), values, frozen: None })
    }

    /// Their sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }
}

/// Even numbers between −bound and bound.
fn draw(values: &mut [f32], bound: f32, seed: u64, index: u64) {
    let mut chance = Chance::new(seed, "weights", index);
    for value in values {
        *value = bound * (float(chance.below(1 << 24)) / float(1 << 23) - 1.0);
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
    use crate::trainable::test_architecture;

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
            ..test_architecture()
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
