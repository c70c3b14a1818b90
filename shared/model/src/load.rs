//! A model from a file: weights, tokenizer, chat template and identity together.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use relay_kernels::{Cpu, Pool, physical_cores};

use crate::architecture::{WeightSizes, measure};
use crate::chat::ChatTemplate;
use crate::config::ModelConfig;
use crate::device::{DeviceChoice, DevicePlace, DevicePrecision, DeviceTransformer};
use crate::error::ModelError;
use crate::folder_files::{FolderFiles, ModelSource};
use crate::gguf::GgufFile;
use crate::hugging_face::ModelFolder;
use crate::kv_cache::KvPrecision;
use crate::language_model::LanguageModel;
use crate::model_card::{CardParts, ModelCard, ModelForm};
use crate::tensors::{TensorRole, TensorSource};
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;

mod limits {
    use std::time::Duration;

    /// Time between two reports of a load's progress.
    pub(super) const TOLD_EVERY: Duration = Duration::from_secs(1);
}

/// What a caller may decide about a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Added tokens with these texts stay plain text in prompts and contents: a program's own
    /// commands.
    pub plain_texts: Vec<String>,
    /// What the model computes on.
    pub device: DeviceChoice,
    /// What its numbers are on a device; our own kernels keep the file's.
    pub device_precision: DevicePrecision,
    /// What keys and values are kept as where our own kernels compute.
    pub kv_precision: KvPrecision,
    /// Threads that compute, one a core at best; as many as there are cores where not given.
    pub threads: Option<usize>,
    /// Told about every second how far a load has come that takes longer. Where our own kernels
    /// compute.
    pub progress: Option<fn(LoadProgress)>,
}

/// How much of a model is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of the file's tensors that are packed, or left where they lie.
    pub bytes: usize,
    /// Bytes of all of them.
    pub all_bytes: usize,
}

/// Tells how far a load has come, from time to time.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    tell: Option<fn(LoadProgress)>,
    told: Instant,
    progress: LoadProgress,
}

impl LoadWatch {
    fn new(all_bytes: usize, tell: Option<fn(LoadProgress)>) -> Self {
        Self { tell, told: Instant::now(), progress: LoadProgress { bytes: 0, all_bytes } }
    }

    /// `bytes` more of the file are done with.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.progress.bytes += bytes;
        if let Some(tell) = self.tell
            && self.told.elapsed() >= limits::TOLD_EVERY
        {
            self.told = Instant::now();
            tell(self.progress);
        }
    }

    /// Everything was brought.
    pub(crate) fn finish(&self) {
        let LoadProgress { bytes, all_bytes } = self.progress;
        debug_assert_eq!(bytes, all_bytes, "a tensor was not counted, or twice");
    }
}

impl LoadOptions {
    /// Bytes of a weight on the device; `None` where our own kernels compute.
    fn device_bytes(&self) -> Option<usize> {
        (self.device != DeviceChoice::Cpu).then(|| self.device_precision.number_bytes())
    }
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
    /// The name in the file, else the file's or the folder's own.
    pub name: String,
    /// 8 bytes of a hash over [`ModelCard::weights_hash`], the configuration, what computes and what
    /// numbers are kept as: all by which the same tokens may go on otherwise.
    pub hash: [u8; 8],
}

impl ModelIdentity {
    /// `config` as it is encoded.
    fn new(name: String, weights: [u8; 8], config: &[u8], options: &LoadOptions) -> Self {
        let numbers = match options.device {
            DeviceChoice::Cpu => options.kv_precision.to_string(),
            _ => options.device_precision.to_string(),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.v1.identity");
        hasher.update(&weights);
        for part in [config, options.device.kind().as_bytes(), numbers.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self { name, hash }
    }
}

/// Loads a model from a GGUF file, from a folder as Hugging Face publishes them, or from inside of
/// the program.
///
/// # Errors
/// Those of [`OpenedModel::open`] and [`OpenedModel::load`].
pub fn load(
    source: impl Into<ModelSource>,
    options: &LoadOptions,
) -> Result<LoadedModel, ModelError> {
    OpenedModel::open(source)?.load(options)
}

/// Says what a model is from its headers: the numbers in its weights are not read. The fingerprint
/// leaves out [`LoadOptions::plain_texts`].
///
/// # Errors
/// Those of [`OpenedModel::open`].
pub fn inspect(
    source: impl Into<ModelSource>,
    options: &LoadOptions,
) -> Result<ModelCard, ModelError> {
    OpenedModel::open(source)?.card(options)
}

/// A model whose headers, tokenizer and chat template are read and found to fit together, and whose
/// weights are not read yet.
pub struct OpenedModel {
    pub(crate) files: ModelFiles,
    pub(crate) config: ModelConfig,
    tokenizer: Tokenizer,
    pub(crate) chat_template: Option<ChatTemplate>,
    name: String,
    sizes: WeightSizes,
}

impl std::fmt::Debug for OpenedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenedModel").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a model lies in, opened.
pub(crate) enum ModelFiles {
    Gguf(GgufFile),
    Folder(ModelFolder),
}

impl ModelFiles {
    pub(crate) fn tensors(&self) -> &dyn TensorSource {
        match self {
            Self::Gguf(file) => file,
            Self::Folder(folder) => folder,
        }
    }

    fn form(&self) -> ModelForm {
        match self {
            Self::Gguf(_) => ModelForm::Gguf,
            Self::Folder(folder) if folder.files().is_embedded() => ModelForm::Embedded,
            Self::Folder(_) => ModelForm::Folder,
        }
    }
}

impl OpenedModel {
    /// Reads all but the weights.
    ///
    /// # Errors
    /// [`ModelError::Io`] if a file cannot be read; [`ModelError::BadFile`] or
    /// [`ModelError::Tokenizer`] if it is damaged, foreign or unsupported, or lacks a tensor.
    pub fn open(source: impl Into<ModelSource>) -> Result<Self, ModelError> {
        match source.into() {
            ModelSource::Embedded(folder) => open_folder(FolderFiles::embedded(folder)),
            ModelSource::Path(path) if path.is_dir() => open_folder(FolderFiles::on_disk(&path)),
            ModelSource::Path(path) => open_file(&path),
        }
    }

    /// What the headers say.
    ///
    /// # Errors
    /// None that [`OpenedModel::open`] does not find.
    pub fn card(&self, options: &LoadOptions) -> Result<ModelCard, ModelError> {
        let tensors = self.files.tensors();
        let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
        let parts = CardParts {
            name: self.name.clone(),
            form: self.files.form(),
            config: &self.config,
            tokenizer: &self.tokenizer,
            plain_texts: &plain_texts,
            chat_template: self.chat_template.as_ref(),
            tensors: tensors.views(),
            weights: measure(tensors, &self.config, options.device_bytes())?,
            weights_hash: tensors.weights_hash(),
            kv_precision: options.kv_precision,
        };
        Ok(parts.into_card())
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::BadFile`] if they are damaged; [`ModelError::Device`] if the
    /// device is not there or they do not fit on it; [`ModelError::Cpu`] if the environment forces an
    /// instruction set that is not here.
    pub fn load(self, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
        let Self { files, config, tokenizer, chat_template, name, sizes } = self;
        let source = files.tensors();
        let identity = ModelIdentity::new(name, source.weights_hash(), &config.encoded(), options);
        let place = DevicePlace::open(options.device, options.device_precision)?;
        let model: Box<dyn LanguageModel> = match place {
            None => {
                let cpu = Cpu::from_environment().map_err(ModelError::Cpu)?;
                let pool = Pool::new(cpu, options.threads.unwrap_or_else(physical_cores));
                let watch = LoadWatch::new(sizes.stored_bytes, options.progress);
                Box::new(Transformer::read(source, config, options.kv_precision, pool, watch)?)
            }
            Some(place) => Box::new(DeviceTransformer::read(source, config, place)?),
        };
        let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
        let tokenizer = Arc::new(tokenizer.with_plain_texts(&plain_texts)?);
        Ok(LoadedModel { model, tokenizer, chat_template, identity })
    }
}

const OTHER_TOKENIZER: &str = "bring the tokenizer that belongs to these weights";

/// The tokens, where they are more than there are rows: embeddings often have more rows than there
/// are tokens, never fewer.
fn too_many_tokens(tokenizer: &Tokenizer, config: &ModelConfig) -> Option<usize> {
    let tokens = tokenizer.vocabulary_tokens();
    (tokens > config.vocabulary_tokens).then_some(tokens)
}

fn open_file(path: &Path) -> Result<OpenedModel, ModelError> {
    if is_part_of_a_folder(path) {
        let what = "this is one file of a model that is a folder";
        return Err(ModelError::bad_file(path, what, "give the path of the folder"));
    }
    let file = GgufFile::open(path)?;
    let config = ModelConfig::from_gguf(&file)?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    if let Some(tokens) = too_many_tokens(&tokenizer, &config) {
        let (name, rows) = (file.naming().name(TensorRole::Embedding), config.vocabulary_tokens);
        let what = format!("the tokenizer has {tokens} tokens, but tensor {name} {rows} rows");
        return Err(file.bad(what, OTHER_TOKENIZER));
    }
    let chat_template = ChatTemplate::from_gguf(&file, &tokenizer)?;
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = file.text("general.name").map_or_else(stem, str::to_owned);
    let sizes = measure(&file, &config, None)?;
    let files = ModelFiles::Gguf(file);
    Ok(OpenedModel { files, config, tokenizer, chat_template, name, sizes })
}

fn open_folder(files: FolderFiles) -> Result<OpenedModel, ModelError> {
    let folder = ModelFolder::open(files)?;
    let mut config = ModelConfig::from_hugging_face(folder.config())?;
    config.is_tied &= !folder.has_own_output();
    let tokenizer = Tokenizer::from_folder(folder.files())?;
    if let Some(tokens) = too_many_tokens(&tokenizer, &config) {
        let rows = config.vocabulary_tokens;
        let what = format!("key vocab_size is {rows}, but the tokenizer has {tokens} tokens");
        return Err(folder.config().bad(what, OTHER_TOKENIZER));
    }
    let chat_template = ChatTemplate::from_folder(folder.files(), &tokenizer)?;
    let name = folder.files().name();
    let sizes = measure(&folder, &config, None)?;
    let files = ModelFiles::Folder(folder);
    Ok(OpenedModel { files, config, tokenizer, chat_template, name, sizes })
}

fn is_part_of_a_folder(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    path.is_file() && ["json", "safetensors"].iter().any(|part| extension == *part)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    static TOLD: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn progress_is_told_from_time_to_time_and_counts_every_byte() {
        let tell = |progress: LoadProgress| {
            assert_eq!(progress.all_bytes, 90);
            TOLD.fetch_add(progress.bytes, Ordering::SeqCst);
        };
        let progress = LoadProgress { bytes: 0, all_bytes: 90 };
        let mut watch = LoadWatch { tell: Some(tell), told: Instant::now(), progress };
        watch.advance(30);
        assert_eq!(TOLD.load(Ordering::SeqCst), 0);
        watch.told = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        watch.advance(10);
        watch.advance(50);
        assert_eq!(TOLD.load(Ordering::SeqCst), 40);
        assert_eq!(watch.progress.bytes, 90);
    }
}
