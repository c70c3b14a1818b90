//! The forward pass of Llama, Qwen2 and Qwen3 on a device: weights, layer, model.
//!
//! The same pass as the one on our own kernels, with the same configuration, as candle's operations
//! on tensors. Weights are expanded to the device's precision when they are read. A row's bits may
//! depend on the rows beside it and on how its prefix was chunked: a device's library chooses the
//! order of its sums by the shapes it is given.

use candle_core::{D, DType, Tensor};

use super::attention;
use super::reader::DeviceReader;
use super::rotary::{Angles, turn};
use super::{DevicePlace, first_line};
use crate::architecture;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::kv_cache::{KvCache, KvShape};
use crate::language_model::{LanguageModel, Logits, ModelShape, Row, check_rows};
use crate::slab::{self, Stretch, cut_into_slabs};
use crate::tensors::TensorSource;

mod limits {
    /// Tokens that go through the layers together.
    pub(super) const SLAB_TOKENS: usize = 256;
    /// Scores that a slab's attention holds at once, tokens × heads × positions: 256 MiB each time
    /// they are written. One token's are as many as it takes.
    pub(super) const SLAB_SCORES: usize = 1 << 26;
}

/// Matrices `[outputs, inputs]` in the device's precision, vectors in f32.
type Linear = architecture::Linear<Tensor, Tensor>;
type HeadProjection = architecture::HeadProjection<Tensor, Tensor>;
type Layer = architecture::Layer<Tensor, Tensor>;
type ModelWeights = architecture::ModelWeights<Tensor, Tensor, Tensor>;

impl Linear {
    /// Outputs `[tokens, outputs]` in f32, of inputs `[tokens, inputs]` of any precision.
    fn apply(&self, inputs: &Tensor) -> candle_core::Result<Tensor> {
        let outputs = multiply(inputs, &self.weights)?;
        match &self.bias {
            Some(bias) => outputs.broadcast_add(bias),
            None => Ok(outputs),
        }
    }
}

fn multiply(inputs: &Tensor, weights: &Tensor) -> candle_core::Result<Tensor> {
    inputs.to_dtype(weights.dtype())?.matmul(&weights.t()?)?.to_dtype(DType::F32)
}

/// A model on a device, ready to run.
#[derive(Debug)]
pub(crate) struct DeviceTransformer {
    config: ModelConfig,
    place: DevicePlace,
    /// Radians from one position to the next, of each rotary pair.
    frequencies: Vec<f64>,
    weights: ModelWeights,
    weight_bytes: usize,
}

/// What all layers need to know of a slab.
struct Step<'a> {
    slab: &'a [Stretch],
    angles: Angles,
    /// One for each stretch.
    masks: Vec<Option<Tensor>>,
}

impl DeviceTransformer {
    /// Brings all weights to the device.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming a tensor that is missing, of another shape or not known;
    /// [`ModelError::Device`] where the device's memory ends.
    pub(crate) fn read(
        source: &dyn TensorSource,
        config: ModelConfig,
        place: DevicePlace,
    ) -> Result<Self, ModelError> {
        let mut reader = DeviceReader::new(source, &place);
        let weights = ModelWeights::read(&mut reader, &config)?;
        let (weight_bytes, frequencies) = (reader.bytes(), config.rotary.frequencies());
        Ok(Self { config, place, frequencies, weights, weight_bytes })
    }

    fn kv_shape(&self) -> KvShape {
        self.config.kv_shape()
    }

    fn run(&self, rows: &mut [Row<'_>]) -> candle_core::Result<Vec<Logits>> {
        let slabs = cut_into_slabs(rows, slab_tokens(rows, self.config.attention.heads));
        for row in rows.iter_mut() {
            row.cache.append_on_device(row.tokens.len())?;
        }
        let mut values = vec![Vec::new(); rows.len()];
        for slab in &slabs {
            let hidden = self.run_slab(slab, rows)?;
            let wanted = slab::wanted(slab, rows);
            let tokens = wanted.iter().map(|wanted| wanted.token);
            let logits = self.project(&hidden, tokens)?;
            for (wanted, logits) in wanted.iter().zip(logits) {
                values[wanted.row].extend(logits);
            }
        }
        let vocabulary_tokens = self.config.vocabulary_tokens;
        Ok(values.into_iter().map(|values| Logits::new(values, vocabulary_tokens)).collect())
    }

    /// Hidden states `[tokens, width]` of a slab, its keys and values written to the caches.
    fn run_slab(&self, slab: &[Stretch], rows: &[Row<'_>]) -> candle_core::Result<Tensor> {
        let device = &self.place.device;
        let angles = Angles::new(slab, &self.frequencies, device)?;
        let masks = slab.iter().map(|stretch| attention::mask(stretch, device));
        let step = Step { slab, angles, masks: masks.collect::<candle_core::Result<_>>()? };
        let ids: Vec<u32> = slab::ids(slab, rows).collect();
        let ids = Tensor::new(ids, device)?;
        let ModelWeights { embedding, output, .. } = &self.weights;
        let embedding = embedding.as_ref().unwrap_or(output);
        let mut hidden = embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            hidden = (&hidden + self.attend(layer, index, &step, rows, &hidden)?)?;
            hidden = (&hidden + self.feed_forward(layer, &hidden)?)?;
        }
        Ok(hidden)
    }

    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        step: &Step<'_>,
        rows: &[Row<'_>],
        hidden: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let (shape, dtype) = (self.config.attention, self.place.dtype);
        let normed = self.normed(hidden, &layer.attention_norm)?.to_dtype(dtype)?;
        let queries = self.project_heads(&layer.query, &normed, step)?;
        let scale = f64::from(u32::try_from(shape.head_width).unwrap_or(u32::MAX)).sqrt().recip();
        let queries = queries.affine(scale, 0.0)?.to_dtype(dtype)?;
        let keys = self.project_heads(&layer.key, &normed, step)?.flatten_from(1)?;
        let keys_values = Tensor::cat(&[keys, layer.value.apply(&normed)?], 1)?.to_dtype(dtype)?;
        let mut attended = Vec::new();
        let mut from = 0;
        for (stretch, mask) in step.slab.iter().zip(&step.masks) {
            let (tokens, seen) = (stretch.tokens.len(), stretch.positions().end);
            let pages = rows[stretch.row].cache.device_pages();
            let pages = pages.ok_or_else(|| candle_core::Error::Msg("a foreign cache".into()))?;
            pages.write(index, stretch.first_position, &keys_values.narrow(0, from, tokens)?)?;
            let queries = queries.narrow(0, from, tokens)?;
            let seen = pages.read(index, seen)?;
            attended.push(attention::attend(shape, &queries, &seen, mask.as_ref())?);
            from += tokens;
        }
        layer.attention_output.apply(&Tensor::cat(&attended, 0)?)
    }

    /// Queries or keys `[tokens, heads, head_width]` in f32, normed where the family does so, then
    /// turned to their positions.
    fn project_heads(
        &self,
        projection: &HeadProjection,
        normed: &Tensor,
        step: &Step<'_>,
    ) -> candle_core::Result<Tensor> {
        let heads = projection.linear.apply(normed)?;
        let head_width = self.config.attention.head_width;
        let (tokens, width) = heads.dims2()?;
        let mut heads = heads.reshape((tokens, width / head_width, head_width))?;
        if let Some(norm) = &projection.norm {
            heads = self.normed(&heads, norm)?;
        }
        turn(&heads, &self.config.rotary, &step.angles)
    }

    fn feed_forward(&self, layer: &Layer, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.normed(hidden, &layer.feed_forward_norm)?.to_dtype(self.place.dtype)?;
        let activated = (layer.gate.apply(&normed)?.silu()? * layer.up.apply(&normed)?)?;
        layer.down.apply(&activated)
    }

    /// Root-mean-square norm over the last dimension, in f32 (Zhang and Sennrich, 2019, arXiv
    /// 1910.07467).
    fn normed(&self, states: &Tensor, weights: &Tensor) -> candle_core::Result<Tensor> {
        let squares = states.sqr()?.mean_keepdim(D::Minus1)?;
        let root = (squares + f64::from(self.config.epsilon))?.sqrt()?;
        states.broadcast_div(&root)?.broadcast_mul(weights)
    }

    /// Logits of a slab's tokens with these indices.
    fn project(
        &self,
        hidden: &Tensor,
        tokens: impl Iterator<Item = usize>,
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let tokens: Vec<u32> = tokens.filter_map(|token| u32::try_from(token).ok()).collect();
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = Tensor::new(tokens, &self.place.device)?;
        let ModelWeights { output_norm, output, .. } = &self.weights;
        let normed = self.normed(&hidden.index_select(&tokens, 0)?, output_norm)?;
        multiply(&normed, output)?.to_vec2()
    }
}

/// Fewer tokens go through together where they look back far.
fn slab_tokens(rows: &[Row<'_>], heads: usize) -> usize {
    let positions = rows.iter().map(|row| row.cache.len_tokens() + row.tokens.len()).max();
    let scores_of_token = heads.saturating_mul(positions.unwrap_or(0)).max(1);
    (limits::SLAB_SCORES / scores_of_token).clamp(1, limits::SLAB_TOKENS)
}

impl LanguageModel for DeviceTransformer {
    fn shape(&self) -> ModelShape {
        ModelShape {
            vocabulary_tokens: self.config.vocabulary_tokens,
            context_tokens: self.config.context_tokens,
            kv_bytes_per_token: self.kv_shape().numbers_per_token()
                * self.place.dtype.size_in_bytes(),
            weight_bytes: self.weight_bytes,
        }
    }

    fn new_cache(&self) -> KvCache {
        KvCache::on_device(self.kv_shape(), self.place.clone())
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let belongs = |cache: &KvCache| cache.belongs_on_device(self.kv_shape(), &self.place);
        check_rows(rows, self.shape(), belongs)?;
        let lengths: Vec<usize> = rows.iter().map(|row| row.cache.len_tokens()).collect();
        self.run(rows).map_err(|error| {
            for (row, len_tokens) in rows.iter_mut().zip(lengths) {
                row.cache.truncate(len_tokens);
            }
            ModelError::Fault { what: first_line(&error) }
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use relay_kernels::AttentionShape;

    use super::*;
    use crate::config::{Family, Rotary, RotaryLayout};
    use crate::kv_cache::KvPrecision;
    use crate::language_model::LogitsWanted;

    const CONFIG: ModelConfig = ModelConfig {
        family: Family::Llama,
        vocabulary_tokens: 3,
        context_tokens: 100,
        layers: 1,
        width: 4,
        feed_forward_width: 6,
        attention: AttentionShape { heads: 2, kv_heads: 1, head_width: 2 },
        rotary: Rotary {
            layout: RotaryLayout::Halves,
            pairs: 1,
            base: 10.0,
            frequency_divisors: Vec::new(),
            scaling: None,
        },
        epsilon: 1e-5,
        is_tied: true,
    };

    fn ones(shape: &[usize]) -> Tensor {
        Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
    }

    fn linear(outputs: usize, inputs: usize) -> Linear {
        Linear { weights: ones(&[outputs, inputs]), bias: None }
    }

    fn model_of_ones() -> DeviceTransformer {
        let layer = Layer {
            attention_norm: ones(&[4]),
            query: HeadProjection { linear: linear(4, 4), norm: None },
            key: HeadProjection { linear: linear(2, 4), norm: None },
            value: linear(2, 4),
            attention_output: linear(4, 4),
            feed_forward_norm: ones(&[4]),
            gate: linear(6, 4),
            up: linear(6, 4),
            down: linear(4, 6),
        };
        DeviceTransformer {
            config: CONFIG,
            place: DevicePlace { device: Device::Cpu, dtype: DType::F32 },
            frequencies: CONFIG.rotary.frequencies(),
            weights: ModelWeights {
                embedding: None,
                layers: vec![layer],
                output_norm: ones(&[4]),
                output: ones(&[3, 4]),
            },
            weight_bytes: 0,
        }
    }

    #[test]
    fn fewer_tokens_go_together_where_they_look_back_far() {
        let shape = KvShape { layers: 0, width: 0 };
        for (held, heads, expected) in
            [(0, 32, 256), (8_190, 32, 256), (16_382, 32, 128), (1 << 20, 1 << 17, 1)]
        {
            let mut cache = KvCache::new(shape, KvPrecision::F16);
            cache.append(held);
            let row = Row { tokens: &[7, 7], cache: &mut cache, logits: LogitsWanted::Last };
            assert_eq!(slab_tokens(&[row], heads), expected, "{held} tokens, {heads} heads");
        }
        assert_eq!(slab_tokens(&[], 32), 256);
    }

    #[test]
    fn a_fault_leaves_the_caches_as_they_were() {
        let mut model = model_of_ones();
        let mut caches = [model.new_cache(), model.new_cache()];
        let run = |model: &mut DeviceTransformer, caches: &mut [KvCache]| {
            let row = |cache| Row { tokens: &[1; 40], cache, logits: LogitsWanted::Last };
            model.forward(&mut caches.iter_mut().map(row).collect::<Vec<_>>())
        };
        let first = run(&mut model, &mut caches).unwrap();
        let good = std::mem::replace(&mut model.weights.layers[0].down, linear(4, 5));
        let before = caches.each_ref().map(|cache| (cache.len_tokens(), cache.bytes()));
        let fault = run(&mut model, &mut caches).unwrap_err();
        assert!(matches!(&fault, ModelError::Fault { what } if what.contains("matmul")), "{fault}");
        assert_eq!(caches.each_ref().map(|cache| (cache.len_tokens(), cache.bytes())), before);
        model.weights.layers[0].down = good;
        caches[0].truncate(0);
        caches[1].truncate(0);
        assert_eq!(run(&mut model, &mut caches).unwrap(), first);
    }
}
