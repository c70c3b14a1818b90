//! A model from a file: weights, tokenizer, chat template and identity together.

use std::path::Path;
use std::sync::Arc;

use crate::chat::ChatTemplate;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::language_model::LanguageModel;
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;

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
pub fn load(path: &Path, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    let file = GgufFile::open(path)?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let config = ModelConfig::from_gguf(&file, tokenizer.vocabulary_tokens())?;
    let model = Transformer::read(&file, config)?;
    let chat_template = read_chat_template(&file, &tokenizer)?;
    let identity = ModelIdentity { name: name_of(&file), hash: file.identity_hash() };
    let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
    let tokenizer = Arc::new(tokenizer.with_plain_texts(&plain_texts));
    Ok(LoadedModel { model: Box::new(model), tokenizer, chat_template, identity })
}

fn name_of(file: &GgufFile) -> String {
    let stem = || file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    file.text("general.name").map_or_else(stem, str::to_owned)
}

fn read_chat_template(
    file: &GgufFile,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, ModelError> {
    let (bos, eos) = (tokenizer.bos_text(), tokenizer.eos_text());
    let source = file.text("tokenizer.chat_template");
    source.map(|source| ChatTemplate::new(source, &bos, &eos)).transpose()
}
