//! Language models: tokens in, logits out.
//!
//! The seam is [`LanguageModel::forward`]: one ragged batch of rows, each with the ids to append,
//! the cache they are appended to, and which positions need logits. Prefill, decode, draft
//! checking and any mix of them are that one call. Ids, cache handles and logits cross the seam,
//! tensors never do, so that another implementation can take over without touching a caller.
//!
//! | You want to | Look in |
//! |---|---|
//! | run a model | `language_model`, `kv_cache` |
//! | bring one from a file | `load`, `config`, `tensors`, `architecture` |
//! | follow the forward pass | `transformer`, `slab`; on a device `device` |
//! | say what a model is before it is loaded | `model_card`; whether it is the one meant `checksum` |
//! | train it, or write it as a folder | `model_numbers` |
//! | find a folder's files, or those of the tiny pair | `folder_files`, `embedded` |
//! | read a file form | `gguf`, `hugging_face`, `safetensors`, `json_file`, `regular_file` |
//! | keep its weights | `mapped_file`, `weights` |
//! | turn text into ids and back | `tokenizer`, `detokenizer`, `chat` |
//! | choose the next token | `sampler`, `noise`, `banned_text` |
//! | word what went wrong | `error`, `misspelt` |
//! | test without weights | `scripted` (feature `scripted`) |
//! | let a fuzzer in | `fuzzing` (feature `fuzzing`), `fuzz/` beside `src/` |
//!
//! This crate knows nothing of a network, of an edge or of a cloud.

mod architecture;
mod banned_text;
mod chat;
mod checksum;
mod config;
mod detokenizer;
mod device;
mod embedded;
mod error;
mod folder_files;
mod gguf;
mod hugging_face;
mod json_file;
mod kv_cache;
mod language_model;
mod load;
mod mapped_file;
mod misspelt;
mod model_card;
mod model_numbers;
mod noise;
mod regular_file;
mod safetensors;
mod sampler;
mod slab;
mod tensors;
mod tokenizer;
mod transformer;
mod weights;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(any(test, feature = "scripted"))]
pub mod scripted;

pub use banned_text::{BannedText, TokenMask};
pub use chat::{ChatOptions, ChatTemplate, ChatText, Json, Message, RenderedChat};
pub use checksum::{FileChecksum, checksums};
pub use config::{Family, RotaryScaling, rotary_frequencies};
pub use detokenizer::Detokenizer;
pub use device::{DeviceChoice, DeviceFault, DevicePrecision, NoSuchDevice};
pub use embedded::{EMBEDDED, TINY_LLM, TINY_SLM};
pub use error::ModelError;
pub use folder_files::{EmbeddedFolder, ModelSource};
pub use kv_cache::{KvCache, KvPrecision, KvShape, PAGE_TOKENS};
pub use language_model::{LanguageModel, Logits, LogitsWanted, ModelShape, Row};
pub use load::{LoadOptions, LoadProgress, LoadedModel, ModelIdentity, OpenedModel, inspect, load};
pub use model_card::{EndToken, ModelCard, ModelForm, TemplateCard, TensorShare, VocabularyCard};
pub use model_numbers::{ModelNumbers, ModelSizes};
pub use noise::{NoiseKey, Role};
pub use relay_kernels::{CPU_HELP, physical_cores};
pub use sampler::{Sampled, Sampling, entropy_nats, sample, top_log_probabilities};
pub use tokenizer::{AddedTokens, TokenKind, Tokenizer};
