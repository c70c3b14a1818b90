//! A model's weights: which there are, for what and of which shape. Every forward pass has them from
//! here, as the matrices and vectors that it computes with.

use relay_kernels::PackedMatrix;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::tensors::{LayerPart, TensorRole, TensorSource, refuse_unknown_tensors};
use crate::weights::Matrix;

/// Brings tensors to where they are computed with.
pub(crate) trait TensorReader {
    /// A matrix whose rows are looked up.
    type Table;
    /// A matrix to multiply with.
    type Matrix;
    /// A vector.
    type Vector;

    /// Where the tensors come from.
    fn source(&self) -> &dyn TensorSource;

    /// A table of the shape `[rows, width]`, with the same errors as [`TensorReader::matrix`].
    fn table(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Self::Table, ModelError>;

    /// A matrix of the shape `[outputs, inputs]`.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor that is missing, of another shape or cannot be brought there.
    fn matrix(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Self::Matrix, ModelError>;

    /// A vector, with the same errors.
    fn vector(&mut self, role: TensorRole, len: usize) -> Result<Self::Vector, ModelError>;
}

/// A matrix `[outputs, inputs]` and what is added to its outputs.
#[derive(Debug)]
pub(crate) struct Linear<M, V> {
    pub(crate) weights: M,
    pub(crate) bias: Option<V>,
}

/// Queries or keys: a projection, and the norm of each head where the family has one.
#[derive(Debug)]
pub(crate) struct HeadProjection<M, V> {
    pub(crate) linear: Linear<M, V>,
    /// `[head_width]`.
    pub(crate) norm: Option<V>,
}

/// One layer's weights.
#[derive(Debug)]
pub(crate) struct Layer<M, V> {
    pub(crate) attention_norm: V,
    pub(crate) query: HeadProjection<M, V>,
    pub(crate) key: HeadProjection<M, V>,
    pub(crate) value: Linear<M, V>,
    pub(crate) attention_output: Linear<M, V>,
    pub(crate) feed_forward_norm: V,
    pub(crate) gate: Linear<M, V>,
    pub(crate) up: Linear<M, V>,
    pub(crate) down: Linear<M, V>,
}

/// A model's weights.
#[derive(Debug)]
pub(crate) struct ModelWeights<T, M, V> {
    /// `[vocabulary_tokens, width]`; `None` where the output layer serves both ways.
    pub(crate) embedding: Option<T>,
    pub(crate) layers: Vec<Layer<M, V>>,
    pub(crate) output_norm: V,
    /// `[vocabulary_tokens, width]`.
    pub(crate) output: M,
}

impl<T, M, V> ModelWeights<T, M, V> {
    /// Reads all of them.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming a tensor that is not known, and the errors of `reader`.
    pub(crate) fn read<R>(reader: &mut R, config: &ModelConfig) -> Result<Self, ModelError>
    where
        R: TensorReader<Table = T, Matrix = M, Vector = V>,
    {
        refuse_unknown_tensors(reader.source(), config)?;
        let shape = [config.vocabulary_tokens, config.width];
        let (embedding, output) = if config.is_tied {
            (None, reader.matrix(TensorRole::Embedding, shape)?)
        } else {
            let embedding = reader.table(TensorRole::Embedding, shape)?;
            (Some(embedding), reader.matrix(TensorRole::Output, shape)?)
        };
        let output_norm = reader.vector(TensorRole::OutputNorm, config.width)?;
        let layer = |index| LayerReader { reader: &mut *reader, config, index }.read();
        let layers = (0..config.layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Self { embedding, layers, output_norm, output })
    }
}

/// What a model's weights come to, each tensor counted once, however often the file repeats it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WeightSizes {
    /// Numbers in all of them.
    pub(crate) parameters: u64,
    /// Bytes of the tensors that are read.
    pub(crate) stored_bytes: usize,
    /// Bytes in memory once they are loaded.
    pub(crate) resident_bytes: u64,
}

/// Adds up a model's weights; `device_bytes` are those of a number on a device, `None` stands for our
/// own kernels. The numbers themselves are not looked at.
///
/// # Errors
/// [`ModelError::BadFile`] naming a tensor that is missing, one too many or of another shape.
pub(crate) fn measure(
    source: &dyn TensorSource,
    config: &ModelConfig,
    device_bytes: Option<usize>,
) -> Result<WeightSizes, ModelError> {
    let mut reader = HeaderReader { source, device_bytes, sizes: WeightSizes::default() };
    ModelWeights::read(&mut reader, config)?;
    Ok(reader.sizes)
}

struct HeaderReader<'a> {
    source: &'a dyn TensorSource,
    device_bytes: Option<usize>,
    sizes: WeightSizes,
}

impl HeaderReader<'_> {
    /// Counts so many stored numbers, which take `bytes` bytes where our own kernels compute.
    fn count(&mut self, numbers: usize, stored: &Matrix, bytes: usize) {
        let bytes = self.device_bytes.map_or(bytes, |of_number| numbers.saturating_mul(of_number));
        self.sizes.parameters += numbers as u64;
        self.sizes.stored_bytes += stored.bytes();
        self.sizes.resident_bytes += bytes as u64;
    }
}

impl TensorReader for HeaderReader<'_> {
    type Table = ();
    type Matrix = ();
    type Vector = ();

    fn source(&self) -> &dyn TensorSource {
        self.source
    }

    fn table(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<(), ModelError> {
        let table = self.source.stored(role, &shape)?;
        self.count(shape[0] * shape[1], &table, table.bytes());
        Ok(())
    }

    fn matrix(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<(), ModelError> {
        let matrix = self.source.stored(role, &shape)?;
        let packed = PackedMatrix::bytes_of(matrix.format(), shape[0], shape[1]);
        self.count(shape[0] * shape[1], &matrix, packed.unwrap_or(usize::MAX));
        Ok(())
    }

    fn vector(&mut self, role: TensorRole, len: usize) -> Result<(), ModelError> {
        let vector = self.source.stored(role, &[len])?;
        self.sizes.parameters += len as u64;
        self.sizes.stored_bytes += vector.bytes();
        self.sizes.resident_bytes += (len * size_of::<f32>()) as u64;
        Ok(())
    }
}

struct LayerReader<'a, R> {
    reader: &'a mut R,
    config: &'a ModelConfig,
    index: usize,
}

impl<R: TensorReader> LayerReader<'_, R> {
    fn read(&mut self) -> Result<Layer<R::Matrix, R::Vector>, ModelError> {
        use LayerPart as Part;
        let ModelConfig { width, feed_forward_width, .. } = *self.config;
        let (query, kv) = (self.config.query_width(), self.config.kv_width());
        Ok(Layer {
            attention_norm: self.vector(Part::AttentionNorm, width)?,
            query: HeadProjection {
                linear: self.biased(Part::Query, Part::QueryBias, [query, width])?,
                norm: self.head_norm(Part::QueryNorm)?,
            },
            key: HeadProjection {
                linear: self.biased(Part::Key, Part::KeyBias, [kv, width])?,
                norm: self.head_norm(Part::KeyNorm)?,
            },
            value: self.biased(Part::Value, Part::ValueBias, [kv, width])?,
            attention_output: self.linear(Part::AttentionOutput, [width, query])?,
            feed_forward_norm: self.vector(Part::FeedForwardNorm, width)?,
            gate: self.linear(Part::Gate, [feed_forward_width, width])?,
            up: self.linear(Part::Up, [feed_forward_width, width])?,
            down: self.linear(Part::Down, [width, feed_forward_width])?,
        })
    }

    fn biased(
        &mut self,
        weights: LayerPart,
        bias: LayerPart,
        shape: [usize; 2],
    ) -> Result<Linear<R::Matrix, R::Vector>, ModelError> {
        let linear = self.linear(weights, shape)?;
        let has_bias = self.config.has_qkv_bias();
        let bias = has_bias.then(|| self.vector(bias, shape[0])).transpose()?;
        Ok(Linear { bias, ..linear })
    }

    fn linear(
        &mut self,
        weights: LayerPart,
        shape: [usize; 2],
    ) -> Result<Linear<R::Matrix, R::Vector>, ModelError> {
        let weights = self.reader.matrix(TensorRole::OfLayer(self.index, weights), shape)?;
        Ok(Linear { weights, bias: None })
    }

    fn head_norm(&mut self, norm: LayerPart) -> Result<Option<R::Vector>, ModelError> {
        let head_width = self.config.attention.head_width;
        self.config.has_qk_norm().then(|| self.vector(norm, head_width)).transpose()
    }

    fn vector(&mut self, part: LayerPart, len: usize) -> Result<R::Vector, ModelError> {
        self.reader.vector(TensorRole::OfLayer(self.index, part), len)
    }
}
