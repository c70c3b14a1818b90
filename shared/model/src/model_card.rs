//! What a model is, told by its files without reading its weights: for people who choose one, and
//! for programs that show it. Computes nothing.

use serde::Serialize;

use crate::architecture::WeightSizes;
use crate::chat::ChatTemplate;
use crate::checksum::hexadecimal;
use crate::config::ModelConfig;
use crate::error::printable;
use crate::kv_cache::KvPrecision;
use crate::tensors::TensorView;
use crate::tokenizer::Tokenizer;

mod limits {
    /// End tokens that a card names: a file may mark as many as it has.
    pub(super) const END_TOKENS_MAX: usize = 64;
}

/// What is known of a model before its weights are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelCard {
    /// The name in the file, else the file's or the folder's own.
    pub name: String,
    /// What its files are.
    pub form: ModelForm,
    /// The architecture's family, as files name it.
    pub family: &'static str,
    /// Numbers in all tensors that the model computes with.
    pub parameters: u64,
    /// Layers.
    pub layers: usize,
    /// Width of a token between layers.
    pub width: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Heads that have keys and values of their own.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// The most tokens the model attends to.
    pub context_tokens: usize,
    /// Tensors by how they are stored, most bytes first.
    pub tensors: Vec<TensorShare>,
    /// Bytes of all tensors in the file.
    pub stored_bytes: u64,
    /// Bytes of the weights in memory once they are loaded: repacked for the kernels, or in a
    /// device's precision.
    pub resident_bytes: u64,
    /// What keys and values are kept as.
    pub kv_precision: KvPrecision,
    /// Bytes of keys and values that one token takes.
    pub kv_bytes_per_token: u64,
    /// Its vocabulary.
    pub vocabulary: VocabularyCard,
    /// Its chat template, if there is one.
    pub chat_template: Option<TemplateCard>,
    /// 8 bytes over names, types, shapes and a fixed sample of the tensors' bytes, in hexadecimal. A
    /// model's identity covers more: see [`ModelIdentity`](crate::ModelIdentity).
    pub weights_hash: String,
}

/// What a model's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelForm {
    /// One GGUF file.
    Gguf,
    /// A folder as Hugging Face publishes them.
    Folder,
    /// Such a folder inside of the program.
    Embedded,
}

/// Tensors that are stored alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorShare {
    /// How: `F32`, `Q4_K`, ...
    pub format: &'static str,
    /// How many.
    pub tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

/// A vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VocabularyCard {
    /// One more than the highest id.
    pub tokens: usize,
    /// The 16 bytes that two sides compare, in hexadecimal.
    pub fingerprint: String,
    /// How text is cut before the merges.
    pub pre_tokenizer: &'static str,
    /// Tokens that end a text or a turn.
    pub end_tokens: Vec<EndToken>,
}

/// A token that ends a text or a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// What a chat template can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateCard {
    /// Why it cannot be compiled, if so: every chat would fail.
    pub fault: Option<String>,
    /// Thinking can be switched.
    pub thinking: bool,
    /// Tools can be described.
    pub tools: bool,
}

impl ModelCard {
    /// Bytes of keys and values for so many tokens.
    pub fn kv_bytes(&self, tokens: usize) -> u64 {
        self.kv_bytes_per_token.saturating_mul(tokens as u64)
    }
}

/// What a card is made of.
pub(crate) struct CardParts<'a> {
    pub(crate) name: String,
    pub(crate) form: ModelForm,
    pub(crate) config: &'a ModelConfig,
    pub(crate) tokenizer: &'a Tokenizer,
    /// Added tokens that the fingerprint leaves out.
    pub(crate) plain_texts: &'a [&'a str],
    pub(crate) chat_template: Option<&'a ChatTemplate>,
    pub(crate) tensors: Vec<TensorView<'a>>,
    pub(crate) weights: WeightSizes,
    pub(crate) weights_hash: [u8; 8],
    pub(crate) kv_precision: KvPrecision,
}

impl CardParts<'_> {
    pub(crate) fn into_card(self) -> ModelCard {
        let config = self.config;
        let shares = shares_of(&self.tensors);
        ModelCard {
            form: self.form,
            family: config.family.name(),
            parameters: self.weights.parameters,
            layers: config.layers,
            width: config.width,
            heads: config.attention.heads,
            kv_heads: config.attention.kv_heads,
            head_width: config.attention.head_width,
            context_tokens: config.context_tokens,
            stored_bytes: shares.iter().map(|share| share.bytes).sum(),
            resident_bytes: self.weights.resident_bytes,
            tensors: shares,
            kv_precision: self.kv_precision,
            kv_bytes_per_token: config.kv_shape().bytes_per_token(self.kv_precision) as u64,
            vocabulary: self.vocabulary(),
            chat_template: self.chat_template.map(|template| TemplateCard {
                fault: template.fault().map(printable),
                thinking: template.reads_thinking(),
                tools: template.reads_tools(),
            }),
            weights_hash: hexadecimal(self.weights_hash),
            name: printable(&self.name),
        }
    }

    fn vocabulary(&self) -> VocabularyCard {
        let tokenizer = self.tokenizer;
        let ids = 0..u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
        let text_of = |id| printable(&String::from_utf8_lossy(tokenizer.token_bytes(id)));
        let end_tokens = ids.filter(|id| tokenizer.ends_text(*id)).take(limits::END_TOKENS_MAX);
        VocabularyCard {
            tokens: tokenizer.vocabulary_tokens(),
            fingerprint: hexadecimal(tokenizer.fingerprint(self.plain_texts)),
            pre_tokenizer: tokenizer.pre_tokenizer(),
            end_tokens: end_tokens.map(|id| EndToken { id, text: text_of(id) }).collect(),
        }
    }
}

fn shares_of(tensors: &[TensorView<'_>]) -> Vec<TensorShare> {
    let mut shares: Vec<TensorShare> = Vec::new();
    for tensor in tensors {
        let format = tensor.format.name();
        let bytes = tensor.bytes.len() as u64;
        match shares.iter_mut().find(|share| share.format == format) {
            Some(share) => {
                share.tensors += 1;
                share.bytes += bytes;
            }
            None => shares.push(TensorShare { format, tensors: 1, bytes }),
        }
    }
    shares.sort_by_key(|share| (std::cmp::Reverse(share.bytes), share.format));
    shares
}
