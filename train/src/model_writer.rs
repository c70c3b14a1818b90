//! How a run's model is written: all of it, or adapters with what they adapt.

use std::path::Path;

use anyhow::Context;
use relay_model::ModelNumbers;
use serde_json::Value;

use crate::checkpoint::write_aside;
use crate::trainable::Weights;
use crate::{adapter_folder, model_folder};

/// The folder of a run's model within the run's own.
pub const MODEL: &str = "model";

/// What a run's weights need beside them.
#[derive(Clone, Debug)]
pub enum ModelWriter {
    /// A model of the tiny pair's kind: its tokenizer.json.
    Whole(Value),
    /// Adapters on a published model.
    Adapters(Base),
}

/// The published model below adapters.
#[derive(Clone, Debug)]
pub struct Base {
    /// How it is named where its adapters are kept.
    pub name: String,
    /// Files that a folder needs beside configuration and weights.
    pub companions: Vec<(&'static str, String)>,
}

impl Base {
    /// Of an opened model.
    pub fn of(model: &ModelNumbers, path: &Path) -> anyhow::Result<Self> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, companions: model.companions()? })
    }

    /// Writes the model with its adapters merged, as a Hugging Face folder, which is made if need
    /// be.
    pub fn write_merged(&self, weights: &Weights, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        for (name, text) in &self.companions {
            write_aside(&folder.join(name), text.as_bytes())?;
        }
        let config = weights.architecture().to_bare_config();
        write_aside(&folder.join("config.json"), format!("{config:#}\n").as_bytes())?;
        model_folder::write_tensors(&weights.merged(), &folder.join("model.safetensors"))
    }
}

impl ModelWriter {
    /// What is written at every checkpoint into a run's folder: `model/`, or `adapter/`.
    pub fn keep(&self, weights: &Weights, out: &Path) -> anyhow::Result<()> {
        match self {
            Self::Whole(_) => self.write_whole(weights, &out.join(MODEL)),
            Self::Adapters(base) => {
                adapter_folder::export(weights, &base.name, &out.join("adapter"))
            }
        }
    }

    /// What is written in the end, so that there is a `model/` whatever learned.
    pub fn finish(&self, weights: &Weights, out: &Path) -> anyhow::Result<()> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Adapters(_) => self.write_whole(weights, &out.join(MODEL)),
        }
    }

    /// A folder that can be loaded.
    pub fn write_whole(&self, weights: &Weights, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::Whole(tokenizer) => model_folder::export(weights, tokenizer, folder),
            Self::Adapters(base) => base.write_merged(weights, folder),
        }
    }
}
