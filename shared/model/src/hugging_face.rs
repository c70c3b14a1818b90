//! A folder as Hugging Face publishes models: config.json, and one safetensors file or several
//! with an index.
//!
//! Finds files and tensors; what configuration and tensors mean is for others to know.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Component, Path};

use crate::error::ModelError;
use crate::error::advice::INCOMPLETE;
use crate::folder_files::FolderFiles;
use crate::json_file::JsonFile;
use crate::regular_file::if_there;
use crate::safetensors::{SafetensorsFile, StoredTensor};

mod limits {
    /// Files that a model's tensors may be spread over.
    pub(super) const SHARDS_MAX: usize = 1 << 12;
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const CONVERT: &str = "bring the model's safetensors files, or a GGUF file";

/// An opened folder.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    files: FolderFiles,
    config: JsonFile,
    shards: Vec<SafetensorsFile>,
    /// Which shard holds a tensor.
    shard_of: HashMap<String, usize>,
}

impl ModelFolder {
    /// Reads everything but the tensors' own bytes.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::BadFile`] naming the file that is missing, damaged or
    /// not supported.
    pub(crate) fn open(files: FolderFiles) -> Result<Self, ModelError> {
        let config = files.json(CONFIG)?.ok_or_else(|| {
            let advice = "give a GGUF file, or the folder of a model with its config.json";
            ModelError::bad_file(files.path(), "there is no config.json in this folder", advice)
        })?;
        let shards = open_shards(&files)?;
        let mut shard_of = HashMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for (name, _) in shard.tensors() {
                if shard_of.insert(name.to_owned(), index).is_some() {
                    return Err(
                        shard.bad(format!("tensor {name} is in another file too"), INCOMPLETE)
                    );
                }
            }
        }
        Ok(Self { files, config, shards, shard_of })
    }

    pub(crate) fn files(&self) -> &FolderFiles {
        &self.files
    }

    /// config.json.
    pub(crate) fn config(&self) -> &JsonFile {
        &self.config
    }

    /// All tensors by name, in no particular order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.shards.iter().flat_map(SafetensorsFile::tensors)
    }

    /// The tensor of this name and the file that holds it.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&SafetensorsFile, &StoredTensor)> {
        let shard = &self.shards[*self.shard_of.get(name)?];
        Some((shard, shard.tensor(name)?))
    }
}

/// The one file if it is there, else those that the index names.
fn open_shards(folder: &FolderFiles) -> Result<Vec<SafetensorsFile>, ModelError> {
    if let Some(single) = if_there(SafetensorsFile::open(folder, WEIGHTS))? {
        return Ok(vec![single]);
    }
    let Some(index) = folder.json(INDEX)? else {
        let what = format!("there is neither {WEIGHTS} nor {INDEX} in this folder");
        return Err(ModelError::bad_file(folder.path(), what, CONVERT));
    };
    let Some(map) = index.part("weight_map")? else {
        return Err(index.bad("key weight_map is missing", INCOMPLETE));
    };
    let names = shard_names(&map)?;
    let mut shards = HashMap::new();
    for name in names {
        let shard = if_there(SafetensorsFile::open(folder, name))?.ok_or_else(|| {
            let what = format!("{name} is missing, which holds a part of the weights");
            index.bad(what, INCOMPLETE)
        })?;
        shards.insert(name, shard);
    }
    for (tensor, name) in map.entries() {
        let shard = name.as_str().and_then(|name| shards.get(name));
        if let Some(shard) = shard.filter(|shard| shard.tensor(tensor).is_none()) {
            return Err(shard.bad(format!("tensor {tensor} is missing"), INCOMPLETE));
        }
    }
    Ok(shards.into_values().collect())
}

/// The files an index names: all of them in its own folder.
fn shard_names(map: &JsonFile) -> Result<BTreeSet<&str>, ModelError> {
    let mut names = BTreeSet::new();
    for (tensor, name) in map.entries() {
        let Some(plain) = name.as_str().filter(|name| is_plain_name(name)) else {
            let what = format!("tensor {tensor} is said to be in {name}, outside the folder");
            return Err(map.bad(what, INCOMPLETE));
        };
        names.insert(plain);
    }
    if names.is_empty() || names.len() > limits::SHARDS_MAX {
        let most = limits::SHARDS_MAX;
        let what = format!("the weights are in {} files, where {most} is the most", names.len());
        return Err(map.bad(what, INCOMPLETE));
    }
    Ok(names)
}

/// A file name and not a path: whoever wrote the index does not choose what we open elsewhere.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_name = matches!(parts.next(), Some(Component::Normal(part)) if part == OsStr::new(name));
    is_name && parts.next().is_none()
}
