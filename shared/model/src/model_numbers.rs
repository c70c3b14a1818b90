//! A model's numbers and sizes for whoever trains it, and what else belongs into a folder that others
//! are to read. Both file forms give the same: names, shapes and the order of a head's numbers are
//! those of a Hugging Face folder. Computes nothing.

use crate::config::{Family, ModelConfig, RotaryLayout, RotaryScaling};
use crate::error::ModelError;
use crate::folder_files::ModelSource;
use crate::load::{ModelFiles, OpenedModel};
use crate::tensors::{LayerPart, Naming, TensorRole};
use crate::tokenizer::tokenizer_files;

mod limits {
    /// Bytes of a file beside the weights: the largest, a tokenizer, has a third of it.
    pub(super) const FILE_BYTES_MAX: u64 = 1 << 27;
}

const UNUSABLE: &str = "bring the model's folder as Hugging Face publishes it";
/// Files that make a folder whole beside configuration and weights.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Sizes and kind of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSizes {
    /// Which forward pass it has.
    pub family: Family,
    /// Rows of the embedding.
    pub vocabulary_tokens: usize,
    /// The most tokens it attends to.
    pub context_tokens: usize,
    /// Layers.
    pub layers: usize,
    /// Numbers that stand for a token between the layers.
    pub width: usize,
    /// Queries of a token.
    pub heads: usize,
    /// Keys, and values, of a token.
    pub kv_heads: usize,
    /// Numbers of a query, a key or a value.
    pub head_width: usize,
    /// Numbers between the halves of a feed-forward block.
    pub feed_forward_width: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f64,
    /// How rotary frequencies were slowed down, if they were.
    pub rotary_scaling: Option<RotaryScaling>,
    /// What keeps a norm from dividing by zero.
    pub norm_epsilon: f32,
    /// The embedding is the output layer, too.
    pub is_tied: bool,
}

/// An opened model.
pub struct ModelNumbers {
    opened: OpenedModel,
    sizes: ModelSizes,
}

impl std::fmt::Debug for ModelNumbers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ModelNumbers").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl ModelNumbers {
    /// Opens a GGUF file or a folder; tensors are read when they are asked for.
    ///
    /// # Errors
    /// As [`crate::load`], and [`ModelError::BadFile`] if a folder could not say how the model's rotary
    /// positions are made.
    pub fn open(source: impl Into<ModelSource>) -> Result<Self, ModelError> {
        let opened = OpenedModel::open(source)?;
        let refused = |what| opened.files.tensors().bad(what, UNUSABLE);
        let sizes = sizes(&opened.config).map_err(refused)?;
        Ok(Self { opened, sizes })
    }

    /// What the model is made of.
    pub fn sizes(&self) -> &ModelSizes {
        &self.sizes
    }

    /// All values of the tensor of this name, row after row; blocks are expanded.
    ///
    /// # Errors
    /// [`ModelError`] if it is missing, of another shape, or holds what is not a finite number.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let source = self.opened.files.tensors();
        let role = Naming::HuggingFace.role(name);
        let role =
            role.ok_or_else(|| source.bad(format!("there is no tensor {name}"), UNUSABLE))?;
        let values = source.matrix(role, shape)?.values();
        let turns = matches!(role, TensorRole::OfLayer(_, LayerPart::Query | LayerPart::Key));
        Ok(if turns && self.opened.config.rotary.layout == RotaryLayout::Interleaved {
            in_halves(&values, self.sizes.head_width, self.sizes.width)
        } else {
            values
        })
    }

    /// Names and texts of the files that a folder needs beside `config.json` and the weights:
    /// tokenizer, chat template, end tokens.
    ///
    /// # Errors
    /// [`ModelError`] if one of them cannot be read.
    pub fn companions(&self) -> Result<Vec<(&'static str, String)>, ModelError> {
        let folder = match &self.opened.files {
            ModelFiles::Folder(folder) => folder.files(),
            ModelFiles::Gguf(file) => {
                let template = self.opened.chat_template.as_ref();
                let template = template.map(crate::chat::ChatTemplate::source);
                let files = tokenizer_files(file, template)?;
                return Ok(files.map(|(name, value)| (name, format!("{value:#}\n"))).into());
            }
        };
        let read = |name| {
            let text = folder.text(name, limits::FILE_BYTES_MAX, "text", UNUSABLE);
            text.map(|text| text.map(|text| (name, text))).transpose()
        };
        COMPANIONS.into_iter().filter_map(read).collect()
    }
}

fn sizes(config: &ModelConfig) -> Result<ModelSizes, String> {
    let rotary = &config.rotary;
    if rotary.scaling.is_none() && !rotary.frequency_divisors.is_empty() {
        return Err("its rotary scaling is none that is published".to_owned());
    }
    Ok(ModelSizes {
        family: config.family,
        vocabulary_tokens: config.vocabulary_tokens,
        context_tokens: config.context_tokens,
        layers: config.layers,
        width: config.width,
        heads: config.attention.heads,
        kv_heads: config.attention.kv_heads,
        head_width: config.attention.head_width,
        feed_forward_width: config.feed_forward_width,
        rotary_base: rotary.base,
        rotary_scaling: rotary.scaling,
        norm_epsilon: config.epsilon,
        is_tied: config.is_tied,
    })
}

/// Rows of heads whose pairs lie side by side, as rows whose pairs are half a head apart.
fn in_halves(values: &[f32], head_width: usize, row_width: usize) -> Vec<f32> {
    let pairs = head_width / 2;
    let heads = values.chunks_exact(head_width * row_width);
    let rows = heads.flat_map(|head| {
        let row = move |index: usize| &head[index * row_width..][..row_width];
        let order = (0..head_width).map(move |index| 2 * (index % pairs) + index / pairs);
        order.flat_map(move |index| row(index).iter().copied())
    });
    rows.collect()
}
