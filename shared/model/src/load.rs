//! A model from a file: weights, tokenizer, chat template and identity together.

use std::path::Path;
use std::sync::Arc;

use crate::chat::ChatTemplate;
use crate::error::ModelError;
use crate::language_model::LanguageModel;
use crate::tokenizer::Tokenizer;

/// What a caller may decide about a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Added tokens with these texts stay plain text in prompts and contents: a program's own
    /// commands.
    pub plain_texts: Vec<String>,
}

/// Everything a file brings.
pub struct LoadedModel {
    /// The weights, ready to run.
    pub model: Box<dyn LanguageModel>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if the file has one.
    pub chat_template: Option<ChatTemplate>,
    /// What tells it from others.
    pub identity: ModelIdentity,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LoadedModel")
            .field("shape", &self.model.shape())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What tells a model from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The name in the file, else the file's own.
    pub name: String,
    /// 8 bytes of a hash over tensor names, types, shapes and a fixed sample of their bytes.
    pub hash: [u8; 8],
}

/// Loads a model from a GGUF file.
///
/// # Errors
/// [`ModelError::Io`] if the file cannot be read; [`ModelError::BadFile`],
/// [`ModelError::Tokenizer`] or [`ModelError::Template`] if it is damaged, foreign or unsupported.
pub fn load(path: &Path, _options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    Err(ModelError::bad_file(
        path,
        "reading model files is not built yet",
        "use a scripted model",
    ))
}
