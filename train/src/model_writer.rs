//! How a run's model is written: all of it, or adapters with what they adapt.

use std::path::Path;

use anyhow::Context;
use relay_model::ModelNumbers;
use serde_json::{Map, Value};

use crate::checkpoint::write_aside;
use crate::trainable::Weights;
use crate::{adapter_folder, model_folder};

/// The folder of a run's model within the run's own.
pub const MODEL: &str = "model";
/// Keys of `config.json` that name tokens.
const TOKEN_ROLES: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// What a run's weights need beside them.
#[derive(Clone, Debug)]
pub enum ModelWriter {
    /// A model of the tiny pair's kind: its tokenizer.json.
    Whole(Value),
    /// Adapters on a published model.
    Adapters(Base),
}

/// The published model below adapters.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// How it is named where its adapters are kept.
    pub name: String,
    /// Files that a folder needs beside configuration and weights.
    pub companions: Vec<(&'static str, String)>,
    /// What its `config.json` says of the tokens that begin, end and pad texts.
    pub token_roles: Map<String, Value>,
}

impl Base {
    /// Of an opened model.
    pub fn of(model: &ModelNumbers, path: &Path) -> anyhow::Result<Self> {
        let is_folder = path.is_dir();
        let name = if is_folder { path.file_name() } else { path.file_stem() };
        let name = name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let companions = model.companions()?;
        let mut token_roles = Map::new();
        for (_, text) in companions.iter().filter(|(name, _)| *name == "generation_config.json") {
            token_roles.extend(roles_in(text)?);
        }
        if is_folder {
            let config = path.join("config.json");
            let text = std::fs::read_to_string(&config);
            token_roles.extend(roles_in(&text.with_context(|| config.display().to_string())?)?);
        }
        Ok(Self { name, companions, token_roles })
    }

    /// Writes the model with its adapters merged, as a Hugging Face folder, which is made if need
    /// be.
    pub fn write_merged(&self, weights: &Weights, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        for (name, text) in &self.companions {
            write_aside(&folder.join(name), text.as_bytes())?;
        }
        let mut config = weights.architecture().to_bare_config();
        for (key, id) in &self.token_roles {
            config[key] = id.clone();
        }
        write_aside(&folder.join("config.json"), format!("{config:#}\n").as_bytes())?;
        model_folder::write_tensors(&weights.merged(), &folder.join("model.safetensors"))
    }
}

/// What a configuration says of tokens.
fn roles_in(config: &str) -> anyhow::Result<Map<String, Value>> {
    let mut config: Map<String, Value> = serde_json::from_str(config).context("no JSON object")?;
    config.retain(|key, _| TOKEN_ROLES.contains(&key.as_str()));
    Ok(config)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model_folder::{export, read_weights};
    use crate::trainable::{Architecture, LoraSettings, Target, test_architecture};
    use crate::vocabulary;

    /// A name with a point in it is a folder's whole name; end tokens that stand in `config.json`
    /// alone are not lost.
    #[test]
    fn what_is_merged_reads_as_the_folder_that_it_was_made_of() {
        let parent = tempfile::tempdir().unwrap();
        let [folder, merged] = ["Small-2.5-B", "merged"].map(|name| parent.path().join(name));
        let architecture = Architecture { vocabulary_tokens: 300, ..test_architecture() };
        let weights = Weights::draw(&architecture, 4).unwrap();
        export(&weights, &vocabulary::learn(300, 1).unwrap(), &folder).unwrap();
        std::fs::remove_file(folder.join("generation_config.json")).unwrap();
        let config = |folder: &Path| -> Value {
            let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let model = ModelNumbers::open(&folder).unwrap();
        let base = Base::of(&model, &folder).unwrap();
        assert_eq!(base.name, "Small-2.5-B");
        let lora = LoraSettings { rank: 1, alpha: 1.0, targets: vec![Target::Up] };
        let mut weights = Weights::adapt(&Arc::new(weights), lora, 1).unwrap();
        weights.values.fill(0.5);
        base.write_merged(&weights, &merged).unwrap();
        assert_eq!(config(&merged), config(&folder));
        let model = ModelNumbers::open(&merged).unwrap();
        assert_eq!(read_weights(&model).unwrap(), weights.merged());
    }
}
