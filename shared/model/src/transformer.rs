//! The forward pass of Llama, Qwen2 and Qwen3, top to bottom: weights, layer, model.
//!
//! One pass, configured: families differ in biases on queries, keys and values, in norms on each
//! head's queries and keys, and in which numbers of a head turn together. Slices go through
//! `relay_kernels` on the engine's own threads. One row, one result: a row's bits depend neither on
//! the rows beside it nor on how its prefix was chunked. Knows no file form.

use relay_kernels::{
    Arena, Inputs, KvElement, KvPage, PackedMatrix, Pool, Product, QuantisedRows, QueryStretch,
    add_bias, multiply, paged_attention, rms_norm, rotate_halves, rotate_interleaved, swiglu,
};

use crate::architecture::{self, TensorReader};
use crate::config::{ModelConfig, RotaryLayout, rotary_angles};
use crate::error::ModelError;
use crate::kv_cache::{KvCache, KvPrecision, MemoryPages, PagesInMemory};
use crate::language_model::{LanguageModel, Logits, ModelShape, Row, check_rows};
use crate::load::LoadWatch;
use crate::slab::{self, Stretch, cut_into_slabs};
use crate::tensors::{TensorRole, TensorSource};
use crate::weights::Matrix;

mod limits {
    /// Tokens that go through the layers together: what keeps activations in cache.
    pub(super) const SLAB_TOKENS: usize = 128;
}

type Linear = architecture::Linear<PackedMatrix, Vec<f32>>;
type Layer = architecture::Layer<PackedMatrix, Vec<f32>>;
type ModelWeights = architecture::ModelWeights<Matrix, PackedMatrix, Vec<f32>>;

/// Outputs `[tokens, outputs]` of the same inputs `[tokens, inputs]` through each of `linears`.
fn apply<const N: usize>(pool: &Pool, inputs: &[f32], linears: [&Linear; N]) -> [Vec<f32>; N] {
    let mut outs = products(pool, inputs, linears.map(|linear| &linear.weights));
    for (out, linear) in outs.iter_mut().zip(linears) {
        if let Some(bias) = &linear.bias {
            add_bias(pool.cpu(), out, bias);
        }
    }
    outs
}

fn products<const N: usize>(
    pool: &Pool,
    values: &[f32],
    matrices: [&PackedMatrix; N],
) -> [Vec<f32>; N] {
    let width = matrices[0].width();
    let mut codes = QuantisedRows::new();
    if matrices.iter().any(|matrix| matrix.takes_codes()) {
        codes.fill(pool, values, width);
    }
    let mut outs = matrices.map(|matrix| zeros(values.len() / width * matrix.outputs()));
    let pairs = matrices.iter().zip(&mut outs);
    let mut products: Vec<Product<'_>> =
        pairs.map(|(matrix, out)| Product { matrix, out }).collect();
    multiply(pool, Inputs { values, codes: &codes }, &mut products);
    outs
}

/// Packs matrices for the kernels, and counts the bytes of all that is brought. A table stays in the
/// mapped file.
struct Packer<'a> {
    source: &'a dyn TensorSource,
    pool: &'a Pool,
    arena: Arena,
    watch: LoadWatch,
    bytes: usize,
}

impl Packer<'_> {
    fn looked_through(&self, role: TensorRole, shape: &[usize]) -> Result<Matrix, ModelError> {
        self.source.looked_through(role, shape, &|matrix| matrix.is_finite_by(self.pool))
    }
}

impl TensorReader for Packer<'_> {
    type Table = Matrix;
    type Matrix = PackedMatrix;
    type Vector = Vec<f32>;

    fn source(&self) -> &dyn TensorSource {
        self.source
    }

    fn table(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        let table = self.looked_through(role, &shape)?;
        table.release();
        self.bytes += table.bytes();
        self.watch.advance(table.bytes());
        Ok(table)
    }

    fn matrix(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<PackedMatrix, ModelError> {
        let stored = self.looked_through(role, &shape)?;
        let packed = stored.pack(self.pool, &mut self.arena, shape[1]);
        stored.release();
        self.bytes += packed.bytes();
        self.watch.advance(stored.bytes());
        Ok(packed)
    }

    fn vector(&mut self, role: TensorRole, len: usize) -> Result<Vec<f32>, ModelError> {
        let stored = self.looked_through(role, &[len])?;
        let vector = stored.values();
        stored.release();
        self.bytes += size_of_val(vector.as_slice());
        self.watch.advance(stored.bytes());
        Ok(vector)
    }
}

/// A model, ready to run.
#[derive(Debug)]
pub(crate) struct Transformer {
    config: ModelConfig,
    kv_precision: KvPrecision,
    /// Radians from one position to the next, of each rotary pair.
    frequencies: Vec<f64>,
    weights: ModelWeights,
    weight_bytes: usize,
    pool: Pool,
}

impl Transformer {
    /// Reads all weights.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming a tensor that is missing, of another shape or not known.
    pub(crate) fn read(
        source: &dyn TensorSource,
        config: ModelConfig,
        kv_precision: KvPrecision,
        pool: Pool,
        watch: LoadWatch,
    ) -> Result<Self, ModelError> {
        let mut packer = Packer { source, pool: &pool, arena: Arena::large(), watch, bytes: 0 };
        let weights = ModelWeights::read(&mut packer, &config)?;
        packer.watch.finish();
        let weight_bytes = packer.bytes;
        let frequencies = config.rotary.frequencies();
        Ok(Self { config, kv_precision, frequencies, weights, weight_bytes, pool })
    }

    /// Hidden states `[tokens, width]` of a slab, its keys and values written to the caches.
    fn run_slab(&self, slab: &[Stretch], rows: &mut [Row<'_>]) -> Vec<f32> {
        let mut hidden = self.embed(slab, rows);
        let angles = rotary_angles(slab::positions(slab), &self.frequencies);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attend(layer, index, slab, rows, &angles, &mut hidden);
            self.feed_forward(layer, &mut hidden);
        }
        hidden
    }

    fn embed(&self, slab: &[Stretch], rows: &[Row<'_>]) -> Vec<f32> {
        let ids: Vec<usize> = slab::ids(slab, rows).map(|id| id as usize).collect();
        let mut hidden = zeros(ids.len() * self.config.width);
        for (id, hidden) in ids.into_iter().zip(hidden.chunks_exact_mut(self.config.width)) {
            match &self.weights.embedding {
                Some(embedding) => embedding.row(id, hidden),
                None => self.weights.output.row(id, hidden),
            }
        }
        hidden
    }

    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        slab: &[Stretch],
        rows: &mut [Row<'_>],
        angles: &[(f32, f32)],
        hidden: &mut [f32],
    ) {
        let normed = self.normed(hidden, &layer.attention_norm);
        let linears = [&layer.query.linear, &layer.key.linear, &layer.value];
        let [queries, keys, values] = apply(&self.pool, &normed, linears);
        let queries = self.turned(queries, layer.query.norm.as_deref(), angles);
        let keys = self.turned(keys, layer.key.norm.as_deref(), angles);
        self.store(index, slab, rows, &keys, &values);
        let mut attended = zeros(queries.len());
        self.look_back(index, slab, rows, &queries, &mut attended);
        let [update] = apply(&self.pool, &attended, [&layer.attention_output]);
        add(hidden, &update);
    }

    /// Queries or keys `[tokens, heads, head_width]`, normed where the family does so, then turned
    /// to their positions.
    fn turned(&self, mut heads: Vec<f32>, norm: Option<&[f32]>, angles: &[(f32, f32)]) -> Vec<f32> {
        if let Some(norm) = norm {
            heads = self.normed(&heads, norm);
        }
        let head_width = self.config.attention.head_width;
        let pairs = self.config.rotary.pairs;
        let token_width = heads.len() / (angles.len() / pairs);
        let cpu = self.pool.cpu();
        self.pool.share_rows(&mut heads, token_width, &|first, heads| {
            let tokens =
                heads.chunks_exact_mut(token_width).zip(angles[first * pairs..].chunks(pairs));
            for (token, angles) in tokens {
                match self.config.rotary.layout {
                    RotaryLayout::Interleaved => rotate_interleaved(cpu, token, head_width, angles),
                    RotaryLayout::Halves => rotate_halves(cpu, token, head_width, angles),
                }
            }
        });
        heads
    }

    /// Puts keys and values, each `[tokens, kv_width]`, into the caches.
    fn store(
        &self,
        layer: usize,
        slab: &[Stretch],
        rows: &mut [Row<'_>],
        keys: &[f32],
        values: &[f32],
    ) {
        let kv_width = self.config.kv_width();
        let mut tokens = keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width));
        for stretch in slab {
            for (position, (keys, values)) in stretch.positions().zip(&mut tokens) {
                rows[stretch.row].cache.write(layer, position, keys, values);
            }
        }
    }

    fn look_back(
        &self,
        layer: usize,
        slab: &[Stretch],
        rows: &[Row<'_>],
        queries: &[f32],
        out: &mut [f32],
    ) {
        let caches = slab.iter().filter_map(|stretch| rows[stretch.row].cache.pages_in_memory());
        match self.kv_precision {
            KvPrecision::F16 => {
                let pages = caches.filter_map(PagesInMemory::halves);
                self.look_back_in(layer, slab, pages, queries, out);
            }
            KvPrecision::F32 => {
                let pages = caches.filter_map(PagesInMemory::singles);
                self.look_back_in(layer, slab, pages, queries, out);
            }
        }
    }

    /// With the cache of each stretch; all are of this model's precision.
    fn look_back_in<'a, E: KvElement>(
        &self,
        layer: usize,
        slab: &[Stretch],
        caches: impl Iterator<Item = &'a MemoryPages<E>>,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let pages: Vec<Vec<KvPage<'_, E>>> = caches.map(|cache| cache.layer(layer)).collect();
        let of_stretch = |(stretch, pages): (&Stretch, _)| QueryStretch {
            pages,
            first_visible: stretch.first_position + 1,
            tokens: stretch.tokens.len(),
        };
        let stretches: Vec<QueryStretch<'_, E>> =
            slab.iter().zip(pages.iter().map(Vec::as_slice)).map(of_stretch).collect();
        paged_attention(&self.pool, self.config.attention, queries, &stretches, out);
    }

    fn feed_forward(&self, layer: &Layer, hidden: &mut [f32]) {
        let normed = self.normed(hidden, &layer.feed_forward_norm);
        let [mut gate, up] = apply(&self.pool, &normed, [&layer.gate, &layer.up]);
        swiglu(&self.pool, &mut gate, &up);
        let [update] = apply(&self.pool, &gate, [&layer.down]);
        add(hidden, &update);
    }

    fn normed(&self, hidden: &[f32], weights: &[f32]) -> Vec<f32> {
        let width = weights.len();
        let mut normed = zeros(hidden.len());
        self.pool.share_rows(&mut normed, width, &|first, normed| {
            let hidden = &hidden[first * width..][..normed.len()];
            rms_norm(self.pool.cpu(), hidden, weights, self.config.epsilon, normed);
        });
        normed
    }

    /// Logits of hidden states `[positions, width]`.
    fn project(&self, hidden: &[f32]) -> Vec<f32> {
        let normed = self.normed(hidden, &self.weights.output_norm);
        let [logits] = products(&self.pool, &normed, [&self.weights.output]);
        logits
    }
}

impl LanguageModel for Transformer {
    fn shape(&self) -> ModelShape {
        ModelShape {
            vocabulary_tokens: self.config.vocabulary_tokens,
            context_tokens: self.config.context_tokens,
            kv_bytes_per_token: self.config.kv_shape().bytes_per_token(self.kv_precision),
            weight_bytes: self.weight_bytes,
        }
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.config.kv_shape(), self.kv_precision)
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let kv_shape = self.config.kv_shape();
        let belongs = |cache: &KvCache| cache.belongs_in_memory(kv_shape, self.kv_precision);
        check_rows(rows, self.shape(), belongs)?;
        let slabs = cut_into_slabs(rows, limits::SLAB_TOKENS);
        // Nothing below can fail, so that a cache is never left half filled.
        for row in rows.iter_mut() {
            row.cache.append(row.tokens.len());
        }
        let mut values = vec![Vec::new(); rows.len()];
        for slab in &slabs {
            let hidden = self.run_slab(slab, rows);
            let width = self.config.width;
            let wanted = slab::wanted(slab, rows);
            let states = wanted.iter().map(|wanted| &hidden[wanted.token * width..][..width]);
            let logits = self.project(&states.collect::<Vec<_>>().concat());
            for (wanted, logits) in wanted.iter().zip(logits.chunks(self.config.vocabulary_tokens))
            {
                values[wanted.row].extend_from_slice(logits);
            }
        }
        let vocabulary_tokens = self.config.vocabulary_tokens;
        Ok(values.into_iter().map(|values| Logits::new(values, vocabulary_tokens)).collect())
    }
}

fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

fn add(hidden: &mut [f32], update: &[f32]) {
    for (hidden, update) in hidden.iter_mut().zip(update) {
        *hidden += update;
    }
}
