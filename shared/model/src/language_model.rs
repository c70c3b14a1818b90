//! The seam: a model as its callers see it. Knows nothing of files, architectures or kernels.

use crate::error::ModelError;
use crate::kv_cache::KvCache;

/// A decoder-only language model: ids in, logits out, state in the caller's hands.
///
/// An implementation states whether a row's bits depend on how many rows share the step or on how
/// the prefix was chunked. On our own kernels they do not: one row, one result. On candle's devices
/// they may.
pub trait LanguageModel: Send {
    /// The figures a caller plans with.
    fn shape(&self) -> ModelShape;

    /// An empty cache of this model's shape.
    fn new_cache(&self) -> KvCache;

    /// Runs one ragged batch: prefill, decode, draft check or any mix.
    ///
    /// Each row's tokens are appended to its cache. The answer holds one [`Logits`] a row, in the
    /// same order. On an error every cache is as long as it was before the call.
    ///
    /// # Errors
    /// [`ModelError::EmptyRow`], [`ModelError::TokenOutOfRange`], [`ModelError::ContextFull`],
    /// [`ModelError::ForeignCache`] for a row that cannot be run; [`ModelError::Fault`] if the
    /// computation fails.
    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError>;
}

/// The figures of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Width of a row of logits; every id is below it.
    pub vocabulary_tokens: usize,
    /// The most tokens a cache may hold.
    pub context_tokens: usize,
    /// Bytes of cache that one more token takes, pages apart.
    pub kv_bytes_per_token: usize,
    /// Bytes of weights in memory.
    pub weight_bytes: usize,
}

/// One sequence's share of a batch.
#[derive(Debug)]
pub struct Row<'a> {
    /// Ids to append; at least one.
    pub tokens: &'a [u32],
    /// What they attend to, and where their keys and values go.
    pub cache: &'a mut KvCache,
    /// Which of the appended positions need logits.
    pub logits: LogitsWanted,
}

/// Which positions of a row need logits: the output layer is a large share of a small model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: the row only fills its cache.
    None,
    /// The last one: prefill that is followed by decode, and decode.
    Last,
    /// All of them: draft checks, scoring.
    All,
}

impl LogitsWanted {
    /// How many rows of logits a row of `tokens` tokens gives.
    pub fn positions(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

/// Logits of one row's wanted positions: shape `[positions, vocabulary]`, row-major.
///
/// Row `i` of `All` is the distribution of the token after `tokens[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocabulary_tokens: usize,
}

impl Logits {
    /// Wraps `values` of shape `[positions, vocabulary_tokens]`; a ragged end is cut off.
    pub fn new(mut values: Vec<f32>, vocabulary_tokens: usize) -> Self {
        let width = vocabulary_tokens.max(1);
        values.truncate(values.len() / width * width);
        Self { values, vocabulary_tokens: width }
    }

    /// How many positions are here.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocabulary_tokens
    }

    /// Logits of wanted position `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Logits::rows`].
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocabulary_tokens..][..self.vocabulary_tokens]
    }

    /// Logits of the last wanted position, if any was wanted.
    pub fn last(&self) -> Option<&[f32]> {
        self.rows().checked_sub(1).map(|index| self.row(index))
    }
}

/// Refuses a batch that cannot be run, before anything is touched.
pub(crate) fn check_rows(
    rows: &[Row<'_>],
    shape: ModelShape,
    belongs: impl Fn(&KvCache) -> bool,
) -> Result<(), ModelError> {
    for (index, row) in rows.iter().enumerate() {
        check_row(index, row, shape)?;
        if !belongs(row.cache) {
            return Err(ModelError::ForeignCache { row: index });
        }
    }
    Ok(())
}

fn check_row(index: usize, row: &Row<'_>, shape: ModelShape) -> Result<(), ModelError> {
    let ModelShape { vocabulary_tokens, context_tokens, .. } = shape;
    if row.tokens.is_empty() {
        return Err(ModelError::EmptyRow { row: index });
    }
    let wanted_tokens = row.cache.len_tokens().saturating_add(row.tokens.len());
    if wanted_tokens > context_tokens {
        return Err(ModelError::ContextFull { row: index, wanted_tokens, context_tokens });
    }
    match row.tokens.iter().find(|&&id| id as usize >= vocabulary_tokens) {
        Some(&id) => Err(ModelError::TokenOutOfRange { row: index, id, vocabulary_tokens }),
        None => Ok(()),
    }
}
