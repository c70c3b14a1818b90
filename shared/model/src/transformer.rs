//! The Llama family from GGUF, top to bottom: configuration, weights, layer, model.
//!
//! The forward pass is slices through `relay_kernels`, computed in f32. Queries and keys of GGUF Llama files are permuted for interleaved rotary
//! positions, so they are turned that way here. One row, one result: a row's bits depend neither
//! on the rows beside it nor on how its prefix was chunked.
//!
//! Source of the architecture: Touvron et al., 2023 (arXiv 2302.13971), and the names that GGUF
//! gives its tensors.

use std::ops::Range;

use relay_kernels::{
    AttentionShape, KvPage, QueryRow, matmul, paged_attention, rms_norm, rotate_interleaved, swiglu,
};

use crate::error::ModelError;
use crate::gguf::{GgufFile, Value};
use crate::kv_cache::{KvCache, KvShape};
use crate::language_model::{LanguageModel, Logits, ModelShape, Row, check_rows};
use crate::weights::Matrix;

mod limits {
    /// Tokens that go through the layers together: what keeps activations in cache.
    pub(super) const SLAB_TOKENS: usize = 128;
    /// Sizes beyond these are not from a model of this family.
    pub(super) const LAYERS_MAX: usize = 512;
    pub(super) const WIDTH_MAX: usize = 1 << 17;
    pub(super) const CONTEXT_TOKENS_MAX: usize = 1 << 24;
}

const UNUSABLE: &str = "use a model of the Llama family as GGUF";

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Config {
    vocabulary_tokens: usize,
    context_tokens: usize,
    layers: usize,
    width: usize,
    feed_forward_width: usize,
    attention: AttentionShape,
    rotary_pairs: usize,
    rotary_base: f64,
    epsilon: f32,
}

impl Config {
    fn read(file: &GgufFile, vocabulary_tokens: usize) -> Result<Self, ModelError> {
        let architecture = file.text("general.architecture").unwrap_or("(none)");
        if architecture != "llama" {
            let what = format!("the architecture {architecture} is not supported");
            return Err(file.bad(what, UNUSABLE));
        }
        let keys = Keys { file };
        let heads = keys.size("llama.attention.head_count", None, limits::WIDTH_MAX)?;
        let width = keys.size("llama.embedding_length", None, limits::WIDTH_MAX)?;
        let head_width = width / heads;
        let head_width = keys.size("llama.attention.key_length", Some(head_width), width)?;
        let rotary = keys.size("llama.rope.dimension_count", Some(head_width), head_width)?;
        let config = Self {
            vocabulary_tokens,
            context_tokens: keys.size("llama.context_length", None, limits::CONTEXT_TOKENS_MAX)?,
            layers: keys.size("llama.block_count", None, limits::LAYERS_MAX)?,
            width,
            feed_forward_width: keys.size("llama.feed_forward_length", None, limits::WIDTH_MAX)?,
            attention: AttentionShape {
                heads,
                kv_heads: keys.size("llama.attention.head_count_kv", Some(heads), heads)?,
                head_width,
            },
            rotary_pairs: rotary / 2,
            rotary_base: keys.float("llama.rope.freq_base", Some(10_000.0))?,
            epsilon: narrow(keys.float("llama.attention.layer_norm_rms_epsilon", None)?),
        };
        keys.refuse_variants(&config, rotary)?;
        Ok(config)
    }

    fn query_width(&self) -> usize {
        self.attention.heads * self.attention.head_width
    }

    fn kv_width(&self) -> usize {
        self.attention.kv_heads * self.attention.head_width
    }

    fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, width: self.kv_width() }
    }
}

/// Metadata keys, read with their meaning checked.
struct Keys<'a> {
    file: &'a GgufFile,
}

impl Keys<'_> {
    fn size(&self, key: &str, default: Option<usize>, most: usize) -> Result<usize, ModelError> {
        let size = match (self.file.value(key), default) {
            (Some(Value::Integer(value)), _) => usize::try_from(*value).ok(),
            (None, default) => default,
            _ => None,
        };
        size.filter(|size| (1..=most).contains(size)).ok_or_else(|| {
            let what = format!("key {key} must be a number from 1 to {most}");
            self.file.bad(what, UNUSABLE)
        })
    }

    fn float(&self, key: &str, default: Option<f64>) -> Result<f64, ModelError> {
        let float = match (self.file.value(key), default) {
            (Some(Value::Float(value)), _) => Some(*value),
            (None, default) => default,
            _ => None,
        };
        float
            .filter(|value| value.is_finite() && *value > 0.0)
            .ok_or_else(|| self.file.bad(format!("key {key} must be a positive number"), UNUSABLE))
    }

    /// What would silently give wrong numbers is refused by name.
    fn refuse_variants(&self, config: &Config, rotary: usize) -> Result<(), ModelError> {
        let AttentionShape { heads, kv_heads, head_width } = config.attention;
        let refuse = |what: String| Err(self.file.bad(what, UNUSABLE));
        if !heads.is_multiple_of(kv_heads) || rotary % 2 == 1 {
            return refuse(format!(
                "{heads} heads, {kv_heads} KV heads and {rotary} rotary dimensions"
            ));
        }
        if self.size("llama.attention.value_length", Some(head_width), usize::MAX)? != head_width {
            return refuse("values as wide as keys are needed".to_owned());
        }
        if let Some(scaling) = self.file.text("llama.rope.scaling.type").filter(|s| *s != "none") {
            return refuse(format!("the rotary scaling {scaling} is not supported"));
        }
        match self.file.value("llama.expert_count") {
            None | Some(Value::Integer(0)) => Ok(()),
            Some(_) => refuse("mixtures of experts are not supported".to_owned()),
        }
    }
}

/// One layer's weights. Matrices are `[outputs, inputs]`; those with the same inputs are one.
#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query_key_value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Vec<f32>,
    gate_and_up: Matrix,
    down: Matrix,
}

impl Layer {
    fn read(file: &mut GgufFile, config: &Config, index: usize) -> Result<Self, ModelError> {
        let Config { width, feed_forward_width, .. } = *config;
        let (query, kv) = (config.query_width(), config.kv_width());
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let mut vector = |part: &str| file.read_vector(&name(part), [width]);
        let (attention_norm, feed_forward_norm) = (vector("attn_norm")?, vector("ffn_norm")?);
        let mut matrix =
            |part: &str, outputs, inputs| file.read_matrix(&name(part), [outputs, inputs]);
        let query_key_value = matrix("attn_q", query, width)?
            .followed_by(matrix("attn_k", kv, width)?)
            .followed_by(matrix("attn_v", kv, width)?);
        let gate_and_up = matrix("ffn_gate", feed_forward_width, width)?.followed_by(matrix(
            "ffn_up",
            feed_forward_width,
            width,
        )?);
        Ok(Self {
            attention_norm,
            query_key_value,
            attention_output: matrix("attn_output", width, query)?,
            feed_forward_norm,
            gate_and_up,
            down: matrix("ffn_down", width, feed_forward_width)?,
        })
    }

    fn bytes(&self) -> usize {
        let Self { query_key_value, attention_output, gate_and_up, down, .. } = self;
        let matrices = [query_key_value, attention_output, gate_and_up, down];
        let norms = size_of_val(&*self.attention_norm) + size_of_val(&*self.feed_forward_norm);
        matrices.map(Matrix::bytes).iter().sum::<usize>() + norms
    }
}

/// A Llama model, ready to run.
#[derive(Debug)]
pub(crate) struct Transformer {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None` where the embedding serves both ways.
    output: Option<Matrix>,
}

/// A stretch of one row's tokens inside a slab.
#[derive(Debug, Clone)]
struct Stretch {
    row: usize,
    /// Which of the row's new tokens.
    tokens: Range<usize>,
    /// Position of the first of them in its cache.
    first_position: usize,
}

impl Transformer {
    /// Reads all weights. `vocabulary_tokens` is what the tokenizer has.
    pub(crate) fn read(file: &mut GgufFile, vocabulary_tokens: usize) -> Result<Self, ModelError> {
        let config = Config::read(file, vocabulary_tokens)?;
        refuse_unknown_tensors(file, config.layers)?;
        let table = [vocabulary_tokens, config.width];
        let embedding = file.read_matrix("token_embd.weight", table)?;
        let has_output = file.tensor("output.weight").is_some();
        let output = has_output.then(|| file.read_matrix("output.weight", table)).transpose()?;
        let output_norm = file.read_vector("output_norm.weight", [config.width])?;
        let layers = (0..config.layers).map(|index| Layer::read(file, &config, index));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self { config, embedding, layers, output_norm, output })
    }

    fn weight_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(Layer::bytes).sum();
        let output = self.output.as_ref().map_or(0, Matrix::bytes);
        self.embedding.bytes() + layers + size_of_val(&*self.output_norm) + output
    }

    /// Hidden states `[tokens, width]` of a slab, its keys and values written to the caches.
    fn run_slab(&self, slab: &[Stretch], rows: &mut [Row<'_>]) -> Vec<f32> {
        let mut hidden = self.embed(slab, rows);
        let angles = self.angles(slab);
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(layer, index, slab, rows, &angles, &mut hidden);
            self.feed_forward(layer, &mut hidden);
        }
        hidden
    }

    fn embed(&self, slab: &[Stretch], rows: &[Row<'_>]) -> Vec<f32> {
        let width = self.config.width;
        let ids = slab.iter().flat_map(|stretch| &rows[stretch.row].tokens[stretch.tokens.clone()]);
        let mut hidden = Vec::new();
        let mut scratch = Vec::new();
        for id in ids.map(|&id| id as usize) {
            let row = self.embedding.view().part(id * width..(id + 1) * width);
            hidden.extend_from_slice(row.values(&mut scratch));
        }
        hidden
    }

    /// Cosine and sine of each token's pairs: `[tokens, rotary_pairs]`.
    fn angles(&self, slab: &[Stretch]) -> Vec<(f32, f32)> {
        let Config { rotary_pairs, rotary_base, .. } = self.config;
        let frequency = |pair: usize| rotary_base.powf(-(float(pair) / float(rotary_pairs)));
        let frequencies: Vec<f64> = (0..rotary_pairs).map(frequency).collect();
        let positions = slab.iter().flat_map(Stretch::positions);
        let angles = positions.flat_map(|at| frequencies.iter().map(move |f| float(at) * f));
        angles.map(|angle| (narrow(angle.cos()), narrow(angle.sin()))).collect()
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
        let width = self.config.width;
        let normed = self.normed(hidden, &layer.attention_norm);
        let outputs = self.config.query_width() + 2 * self.config.kv_width();
        let mut projected = zeros(hidden.len() / width * outputs);
        matmul(&normed, layer.query_key_value.view(), width, &mut projected);
        let queries = self.store(&projected, index, slab, rows, angles);
        let mut attended = zeros(queries.len());
        self.look_back(index, slab, rows, &queries, &mut attended);
        let mut update = zeros(hidden.len());
        matmul(&attended, layer.attention_output.view(), self.config.query_width(), &mut update);
        add(hidden, &update);
    }

    /// Turns queries and keys, puts keys and values into the caches and gives the queries.
    fn store(
        &self,
        projected: &[f32],
        layer: usize,
        slab: &[Stretch],
        rows: &mut [Row<'_>],
        angles: &[(f32, f32)],
    ) -> Vec<f32> {
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        let head_width = self.config.attention.head_width;
        let mut queries = Vec::with_capacity(projected.len() / (query + 2 * kv) * query);
        let mut tokens = projected.chunks_exact(query + 2 * kv);
        let mut angles = angles.chunks(self.config.rotary_pairs);
        for stretch in slab {
            let positions = stretch.positions();
            for ((position, token), angles) in positions.zip(&mut tokens).zip(&mut angles) {
                let mut turned = token[..query + kv].to_vec();
                rotate_interleaved(&mut turned, head_width, angles);
                queries.extend_from_slice(&turned[..query]);
                let cache = &mut *rows[stretch.row].cache;
                cache.write(layer, position, &turned[query..], &token[query + kv..]);
            }
        }
        queries
    }

    fn look_back(
        &self,
        layer: usize,
        slab: &[Stretch],
        rows: &[Row<'_>],
        queries: &[f32],
        out: &mut [f32],
    ) {
        let pages: Vec<Vec<KvPage<'_>>> = slab
            .iter()
            .map(|stretch| {
                let pages = rows[stretch.row].cache.pages(layer);
                pages.map(|(keys, values)| KvPage { keys, values }).collect()
            })
            .collect();
        let of_stretch = |(stretch, pages): (&Stretch, _)| {
            let pages: &[KvPage<'_>] = pages;
            stretch.positions().map(move |at| QueryRow { pages, visible_tokens: at + 1 })
        };
        let query_rows: Vec<QueryRow<'_>> =
            slab.iter().zip(pages.iter().map(Vec::as_slice)).flat_map(of_stretch).collect();
        paged_attention(self.config.attention, queries, &query_rows, out);
    }

    fn feed_forward(&self, layer: &Layer, hidden: &mut [f32]) {
        let Config { width, feed_forward_width, .. } = self.config;
        let tokens = hidden.len() / width;
        let normed = self.normed(hidden, &layer.feed_forward_norm);
        let mut gate_and_up = zeros(tokens * 2 * feed_forward_width);
        matmul(&normed, layer.gate_and_up.view(), width, &mut gate_and_up);
        let mut activated = zeros(tokens * feed_forward_width);
        swiglu(&gate_and_up, feed_forward_width, &mut activated);
        let mut update = zeros(hidden.len());
        matmul(&activated, layer.down.view(), feed_forward_width, &mut update);
        add(hidden, &update);
    }

    fn normed(&self, hidden: &[f32], weights: &[f32]) -> Vec<f32> {
        let mut normed = zeros(hidden.len());
        rms_norm(hidden, weights, self.config.epsilon, &mut normed);
        normed
    }

    /// Logits of hidden states `[positions, width]`.
    fn project(&self, hidden: &[f32]) -> Vec<f32> {
        let normed = self.normed(hidden, &self.output_norm);
        let weights = self.output.as_ref().unwrap_or(&self.embedding);
        let mut logits = zeros(hidden.len() / self.config.width * self.config.vocabulary_tokens);
        matmul(&normed, weights.view(), self.config.width, &mut logits);
        logits
    }
}

impl LanguageModel for Transformer {
    fn shape(&self) -> ModelShape {
        ModelShape {
            vocabulary_tokens: self.config.vocabulary_tokens,
            context_tokens: self.config.context_tokens,
            kv_bytes_per_token: self.config.kv_shape().bytes_per_token(),
            weight_bytes: self.weight_bytes(),
        }
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.config.kv_shape())
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let kv_shape = self.config.kv_shape();
        check_rows(rows, self.shape(), |cache| cache.shape() == kv_shape)?;
        let slabs = cut_into_slabs(rows);
        // Nothing below can fail, so that a cache is never left half filled.
        for row in rows.iter_mut() {
            row.cache.append(row.tokens.len());
        }
        let mut values = vec![Vec::new(); rows.len()];
        for slab in &slabs {
            let hidden = self.run_slab(slab, rows);
            let (owners, wanted) = self.wanted(slab, rows, &hidden);
            let logits = self.project(&wanted);
            for (row, logits) in owners.iter().zip(logits.chunks(self.config.vocabulary_tokens)) {
                values[*row].extend_from_slice(logits);
            }
        }
        let vocabulary_tokens = self.config.vocabulary_tokens;
        Ok(values.into_iter().map(|values| Logits::new(values, vocabulary_tokens)).collect())
    }
}

impl Transformer {
    /// The hidden states of a slab whose logits are wanted, and the row of each.
    fn wanted(&self, slab: &[Stretch], rows: &[Row<'_>], hidden: &[f32]) -> (Vec<usize>, Vec<f32>) {
        let mut owners = Vec::new();
        let mut wanted = Vec::new();
        let mut states = hidden.chunks_exact(self.config.width);
        for stretch in slab {
            let row = &rows[stretch.row];
            let first = row.tokens.len() - row.logits.positions(row.tokens.len());
            for (token, state) in stretch.tokens.clone().zip(&mut states) {
                if token >= first {
                    owners.push(stretch.row);
                    wanted.extend_from_slice(state);
                }
            }
        }
        (owners, wanted)
    }
}

impl Stretch {
    fn positions(&self) -> Range<usize> {
        self.first_position..self.first_position + self.tokens.len()
    }
}

/// Cuts the rows' tokens, in order, into slabs. A row's later tokens come in later slabs, so its
/// earlier keys are always there first.
fn cut_into_slabs(rows: &[Row<'_>]) -> Vec<Vec<Stretch>> {
    let mut slabs = Vec::new();
    let mut slab = Vec::new();
    let mut room = limits::SLAB_TOKENS;
    for (index, row) in rows.iter().enumerate() {
        let mut from = 0;
        while from < row.tokens.len() {
            let to = row.tokens.len().min(from + room);
            let first_position = row.cache.len_tokens() + from;
            slab.push(Stretch { row: index, tokens: from..to, first_position });
            room -= to - from;
            from = to;
            if room == 0 {
                slabs.push(std::mem::take(&mut slab));
                room = limits::SLAB_TOKENS;
            }
        }
    }
    slabs.push(slab);
    slabs.retain(|slab| !slab.is_empty());
    slabs
}

/// A tensor we would leave out is part of an architecture we do not know: refuse it by name.
fn refuse_unknown_tensors(file: &GgufFile, layers: usize) -> Result<(), ModelError> {
    const OF_MODEL: [&str; 3] = ["token_embd.weight", "output_norm.weight", "output.weight"];
    const OF_LAYER: [&str; 9] = [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    let is_known = |name: &str| {
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.strip_suffix(".weight"));
        let known = in_layer.and_then(|rest| rest.split_once('.')).is_some_and(|(index, part)| {
            index.parse().is_ok_and(|index: usize| index < layers) && OF_LAYER.contains(&part)
        });
        known || OF_MODEL.contains(&name)
    };
    match file.tensor_names().filter(|name| !is_known(name)).min() {
        Some(name) => Err(file.bad(format!("tensor {name} is not known here"), UNUSABLE)),
        None => Ok(()),
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

#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^52")]
fn float(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "the kernels compute in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}
