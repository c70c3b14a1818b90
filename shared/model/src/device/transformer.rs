//! The forward pass of Llama, Qwen2 and Qwen3 on a device: weights, layer, model.
//!
//! The same pass as the one on our own kernels, with the same configuration, as candle's operations
//! on tensors. Weights are expanded to the device's precision when they are read. A row's bits may
//! depend on the rows beside it and on how its prefix was chunked: a device's library chooses the
//! order of its sums by the shapes it is given.

use candle_core::{D, DType, Device, Tensor};

use super::attention;
use super::rotary::{Angles, turn};
use super::{DevicePlace, first_line};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::kv_cache::{KvCache, KvShape};
use crate::language_model::{LanguageModel, Logits, ModelShape, Row, check_rows};
use crate::slab::{self, Stretch, cut_into_slabs};
use crate::tensors::{LayerPart, TensorRole, TensorSource, refuse_unknown_tensors};

mod limits {
    /// Tokens that go through the layers together: bounds the scores, which are tokens × heads ×
    /// positions.
    pub(super) const SLAB_TOKENS: usize = 256;
}

const TOO_LARGE: &str = "free the device's memory, choose a smaller model, or set device = \"cpu\"";

/// A matrix `[outputs, inputs]` in the device's precision, and what is added to its outputs.
#[derive(Debug)]
struct Linear {
    weights: Tensor,
    bias: Option<Tensor>,
}

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

/// Queries or keys: a projection, and the norm of each head where the family has one.
#[derive(Debug)]
struct HeadProjection {
    linear: Linear,
    /// `[head_width]`.
    norm: Option<Tensor>,
}

/// One layer's weights.
#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query: HeadProjection,
    key: HeadProjection,
    value: Linear,
    attention_output: Linear,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A model on a device, ready to run.
#[derive(Debug)]
pub(crate) struct DeviceTransformer {
    config: ModelConfig,
    place: DevicePlace,
    /// Radians from one position to the next, of each rotary pair.
    frequencies: Vec<f64>,
    embedding: Tensor,
    layers: Vec<Layer>,
    output_norm: Tensor,
    /// `None` where the embedding serves both ways.
    output: Option<Tensor>,
    weight_bytes: usize,
}

/// Brings tensors to the device and counts their bytes.
struct Reader<'a> {
    source: &'a dyn TensorSource,
    config: &'a ModelConfig,
    place: &'a DevicePlace,
    bytes: usize,
}

impl Reader<'_> {
    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        use LayerPart as Part;
        let ModelConfig { width, feed_forward_width, .. } = *self.config;
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        let role = |part| TensorRole::OfLayer(index, part);
        Ok(Layer {
            attention_norm: self.vector(role(Part::AttentionNorm), width)?,
            query: HeadProjection {
                linear: self.biased(role(Part::Query), role(Part::QueryBias), [query, width])?,
                norm: self.head_norm(role(Part::QueryNorm))?,
            },
            key: HeadProjection {
                linear: self.biased(role(Part::Key), role(Part::KeyBias), [kv, width])?,
                norm: self.head_norm(role(Part::KeyNorm))?,
            },
            value: self.biased(role(Part::Value), role(Part::ValueBias), [kv, width])?,
            attention_output: self.linear(role(Part::AttentionOutput), [width, query])?,
            feed_forward_norm: self.vector(role(Part::FeedForwardNorm), width)?,
            gate: self.linear(role(Part::Gate), [feed_forward_width, width])?,
            up: self.linear(role(Part::Up), [feed_forward_width, width])?,
            down: self.linear(role(Part::Down), [width, feed_forward_width])?,
        })
    }

    fn biased(
        &mut self,
        weights: TensorRole,
        bias: TensorRole,
        shape: [usize; 2],
    ) -> Result<Linear, ModelError> {
        let weights = self.matrix(weights, shape)?;
        let has_bias = self.config.has_qkv_bias();
        let bias = has_bias.then(|| self.vector(bias, shape[0])).transpose()?;
        Ok(Linear { weights, bias })
    }

    fn linear(&mut self, weights: TensorRole, shape: [usize; 2]) -> Result<Linear, ModelError> {
        Ok(Linear { weights: self.matrix(weights, shape)?, bias: None })
    }

    fn head_norm(&mut self, role: TensorRole) -> Result<Option<Tensor>, ModelError> {
        let head_width = self.config.attention.head_width;
        self.config.has_qk_norm().then(|| self.vector(role, head_width)).transpose()
    }

    fn matrix(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Tensor, ModelError> {
        let values = self.source.matrix(role, shape)?.values();
        self.bring(values, &shape, self.place.dtype)
    }

    /// Vectors stay in f32: they are few, and what they meet is f32.
    fn vector(&mut self, role: TensorRole, len: usize) -> Result<Tensor, ModelError> {
        let values = self.source.vector(role, len)?;
        self.bring(values, &[len], DType::F32)
    }

    fn bring(
        &mut self,
        values: Vec<f32>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, ModelError> {
        self.bytes += values.len() * dtype.size_in_bytes();
        let here = Tensor::from_vec(values, shape, &Device::Cpu);
        let there = here
            .and_then(|tensor| tensor.to_dtype(dtype))
            .and_then(|tensor| tensor.to_device(&self.place.device));
        there.map_err(|error| ModelError::Device {
            device: format!("{:?}", self.place.device.location()),
            what: format!("the weights do not fit: {}", first_line(&error)),
            advice: TOO_LARGE,
        })
    }
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
        refuse_unknown_tensors(source, &config)?;
        let mut reader = Reader { source, config: &config, place: &place, bytes: 0 };
        let table = [config.vocabulary_tokens, config.width];
        let embedding = reader.matrix(TensorRole::Embedding, table)?;
        let output = (!config.is_tied).then(|| reader.matrix(TensorRole::Output, table));
        let output = output.transpose()?;
        let output_norm = reader.vector(TensorRole::OutputNorm, config.width)?;
        let layers = (0..config.layers).map(|index| reader.layer(index));
        let layers = layers.collect::<Result<_, _>>()?;
        let (weight_bytes, frequencies) = (reader.bytes, config.rotary.frequencies());
        Ok(Self {
            config,
            place,
            frequencies,
            embedding,
            layers,
            output_norm,
            output,
            weight_bytes,
        })
    }

    fn kv_shape(&self) -> KvShape {
        self.config.kv_shape()
    }

    fn run(&self, rows: &mut [Row<'_>]) -> candle_core::Result<Vec<Logits>> {
        let slabs = cut_into_slabs(rows, limits::SLAB_TOKENS);
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
        let mut hidden = self.embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        for (index, layer) in self.layers.iter().enumerate() {
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
        let normed = self.normed(&hidden.index_select(&tokens, 0)?, &self.output_norm)?;
        multiply(&normed, self.output.as_ref().unwrap_or(&self.embedding))?.to_vec2()
    }
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
    use relay_kernels::AttentionShape;

    use super::*;
    use crate::config::{Family, Rotary, RotaryLayout};
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
            embedding: ones(&[3, 4]),
            layers: vec![layer],
            output_norm: ones(&[4]),
            output: None,
            weight_bytes: 0,
        }
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
        let good = std::mem::replace(&mut model.layers[0].down, linear(4, 5));
        let before = caches.each_ref().map(|cache| (cache.len_tokens(), cache.bytes()));
        let fault = run(&mut model, &mut caches).unwrap_err();
        assert!(matches!(&fault, ModelError::Fault { what } if what.contains("matmul")), "{fault}");
        assert_eq!(caches.each_ref().map(|cache| (cache.len_tokens(), cache.bytes())), before);
        model.layers[0].down = good;
        caches[0].truncate(0);
        caches[1].truncate(0);
        assert_eq!(run(&mut model, &mut caches).unwrap(), first);
    }
}
