//! A model from a file: weights, tokenizer, chat template and identity together.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use relay_kernels::{Cpu, Pool, physical_cores};

use crate::architecture::measure;
use crate::chat::ChatTemplate;
use crate::config::ModelConfig;
use crate::device::{DeviceChoice, DevicePlace, DevicePrecision, DeviceTransformer};
use crate::error::ModelError;
use crate::folder_files::{FolderFiles, ModelSource};
use crate::gguf::GgufFile;
use crate::hugging_face::ModelFolder;
use crate::kv_cache::KvPrecision;
use crate::language_model::LanguageModel;
use crate::model_card::{CardParts, ModelCard};
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
/// [`ModelError::Io`] if a file cannot be read; [`ModelError::BadFile`],
/// [`ModelError::Tokenizer`] or [`ModelError::Template`] if it is damaged, foreign or unsupported;
/// [`ModelError::Device`] if the device is not there or the weights do not fit on it;
/// [`ModelError::Cpu`] if the environment forces an instruction set that is not here.
pub fn load(
    source: impl Into<ModelSource>,
    options: &LoadOptions,
) -> Result<LoadedModel, ModelError> {
    let Opened { source, config, tokenizer, chat_template, name, .. } = open(&source.into())?;
    let identity = ModelIdentity::new(name, source.weights_hash(), &config.encoded(), options);
    let place = DevicePlace::open(options.device, options.device_precision)?;
    let model: Box<dyn LanguageModel> = match place {
        None => {
            let cpu = Cpu::from_environment().map_err(ModelError::Cpu)?;
            let pool = Pool::new(cpu, options.threads.unwrap_or_else(physical_cores));
            let read = measure(&*source, &config, None)?;
            let watch = LoadWatch::new(read.stored_bytes, options.progress);
            Box::new(Transformer::read(&*source, config, options.kv_precision, pool, watch)?)
        }
        Some(place) => Box::new(DeviceTransformer::read(&*source, config, place)?),
    };
    let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
    let tokenizer = Arc::new(tokenizer.with_plain_texts(&plain_texts)?);
    Ok(LoadedModel { model, tokenizer, chat_template, identity })
}

/// Says what a model is from its headers: the numbers in its weights are not read. The fingerprint
/// leaves out [`LoadOptions::plain_texts`].
///
/// # Errors
/// As [`load`], but for damage inside of the weights.
pub fn inspect(
    source: impl Into<ModelSource>,
    options: &LoadOptions,
) -> Result<ModelCard, ModelError> {
    let opened = open(&source.into())?;
    let weights = measure(&*opened.source, &opened.config, options.device_bytes())?;
    let plain_texts: Vec<&str> = options.plain_texts.iter().map(String::as_str).collect();
    let parts = CardParts {
        name: opened.name,
        form: opened.form,
        config: &opened.config,
        tokenizer: &opened.tokenizer,
        plain_texts: &plain_texts,
        chat_template: opened.chat_template.as_ref(),
        tensors: opened.source.views(),
        weights,
        weights_hash: opened.source.weights_hash(),
        kv_precision: options.kv_precision,
    };
    Ok(parts.into_card())
}

pub(crate) fn open(source: &ModelSource) -> Result<Opened, ModelError> {
    match source {
        ModelSource::Embedded(folder) => open_folder(FolderFiles::embedded(folder), "embedded"),
        ModelSource::Path(path) if path.is_dir() => {
            open_folder(FolderFiles::on_disk(path), "folder")
        }
        ModelSource::Path(path) => open_file(path),
    }
}

const OTHER_TOKENIZER: &str = "bring the tokenizer that belongs to these weights";

/// The tokens, where they are more than there are rows: embeddings often have more rows than there
/// are tokens, never fewer.
fn too_many_tokens(tokenizer: &Tokenizer, config: &ModelConfig) -> Option<usize> {
    let tokens = tokenizer.vocabulary_tokens();
    (tokens > config.vocabulary_tokens).then_some(tokens)
}

/// What both file forms bring, weights not read yet.
pub(crate) struct Opened {
    form: &'static str,
    pub(crate) source: Box<dyn TensorSource>,
    pub(crate) config: ModelConfig,
    tokenizer: Tokenizer,
    pub(crate) chat_template: Option<ChatTemplate>,
    name: String,
}

fn open_file(path: &Path) -> Result<Opened, ModelError> {
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
    Ok(Opened { form: "gguf", source: Box::new(file), config, tokenizer, chat_template, name })
}

fn open_folder(files: FolderFiles, form: &'static str) -> Result<Opened, ModelError> {
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
    Ok(Opened { form, source: Box::new(folder), config, tokenizer, chat_template, name })
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
