//! Adapters as a folder of their own, as the PEFT library has it: `adapter_config.json` and
//! `adapter_model.safetensors`; and back. Knows no training.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::{numbers, write_aside};
use crate::model_folder::write_tensors;
use crate::trainable::{LoraSettings, Target, Weights};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Settings of PEFT that may be anything: they decided how training went, or the tensors' names show
/// what they did.
const HARMLESS: [&str; 14] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
];
/// How B·A may have begun: all other ways change the model below, too.
const PLAIN_BEGINNINGS: [&str; 3] = ["eva", "gaussian", "orthogonal"];

/// What of `adapter_config.json` decides what comes out.
#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    target_modules: Vec<Target>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Writes the adapters of `weights` into a folder, which is made if need be. `base` names the model
/// they belong to.
pub fn export(weights: &Weights, base: &str, folder: &Path) -> anyhow::Result<()> {
    let lora = weights.lora().context("the model has no adapters")?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": lora.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
        "inference_mode": true,
    });
    write_aside(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?;
    write_tensors(weights, &folder.join(TENSORS))
}

/// Reads adapters of the model `base`.
pub fn import(base: &Arc<Weights>, folder: &Path) -> anyhow::Result<Weights> {
    read(base, folder).with_context(|| {
        format!("{}: no adapters for this model: give the folder of its run", folder.display())
    })
}

fn read(base: &Arc<Weights>, folder: &Path) -> anyhow::Result<Weights> {
    let text = std::fs::read_to_string(folder.join(CONFIG)).context(CONFIG)?;
    let config: AdapterConfig = serde_json::from_str(&text).context(CONFIG)?;
    ensure!(config.peft_type == "LORA", "{} is not supported, only LORA is", config.peft_type);
    let other = config.others.iter().find(|(key, value)| !is_plain(key, value));
    if let Some((key, value)) = other {
        bail!("{key} = {value} is not supported: merge it with the program that made it");
    }
    let AdapterConfig { r: rank, lora_alpha: alpha, target_modules: targets, .. } = config;
    let fresh = Weights::adapt(base, LoraSettings { rank, alpha, targets }, 0)?;
    let file = std::fs::read(folder.join(TENSORS)).context(TENSORS)?;
    let file = SafeTensors::deserialize(&file).context(TENSORS)?;
    let mut values = Vec::new();
    for tensor in fresh.tensors() {
        let view = file.tensor(&tensor.name).context(TENSORS)?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            bail!("{TENSORS}: {} is not F32 {:?}", tensor.name, tensor.shape);
        }
        values.extend(numbers(view.data()));
    }
    ensure!(file.len() == fresh.tensors().len(), "{TENSORS}: there are tensors of other adapters");
    fresh.with_values(values).context("the adapters have other sizes")
}

/// Whether a setting leaves it at y = W·x + alpha/rank · B·(A·x).
fn is_plain(key: &str, value: &Value) -> bool {
    let is_unset = match value {
        Value::Null => true,
        Value::Bool(is_on) => !is_on,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    };
    let is_usual = match key {
        "bias" => value == "none",
        "init_lora_weights" => {
            value.is_boolean() || PLAIN_BEGINNINGS.iter().any(|name| value == name)
        }
        key => HARMLESS.contains(&key),
    };
    is_unset || is_usual
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::test_architecture;

    fn base() -> Arc<Weights> {
        Arc::new(Weights::draw(&test_architecture(), 4).unwrap())
    }

    fn adapted() -> Weights {
        let lora = LoraSettings { rank: 2, alpha: 3.0, targets: vec![Target::Query, Target::Down] };
        let mut weights = Weights::adapt(&base(), lora, 8).unwrap();
        weights.values.iter_mut().for_each(|value| *value += 0.25);
        weights
    }

    #[test]
    fn adapters_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        export(&adapted(), "a/model", folder.path()).unwrap();
        assert_eq!(import(&base(), folder.path()).unwrap(), adapted());
        let file = std::fs::read(folder.path().join(TENSORS)).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
        assert_eq!(file.tensor(name).unwrap().shape(), [8, 2]);
        let config = std::fs::read_to_string(folder.path().join(CONFIG)).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
    }

    /// The settings that PEFT 0.21 writes beside ours.
    const OF_PEFT: &str = r#""r": 2, "peft_version": "0.21.2", "alpha_pattern": {},
        "alora_invocation_tokens": null, "exclude_modules": null, "init_lora_weights": true,
        "layers_to_transform": null, "loftq_config": {}, "lora_bias": false,
        "megatron_core": "megatron.core", "qalora_group_size": 16, "rank_pattern": {}"#;

    #[test]
    fn what_peft_writes_is_read() {
        let folder = tempfile::tempdir().unwrap();
        export(&adapted(), "a/model", folder.path()).unwrap();
        let path = folder.path().join(CONFIG);
        let ours = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, ours.replace("\"r\": 2", OF_PEFT)).unwrap();
        assert_eq!(import(&base(), folder.path()).unwrap(), adapted());
    }

    #[test]
    fn foreign_adapters_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = || format!("{:#}", import(&base(), folder.path()).unwrap_err());
        assert!(refusal().contains("give the folder of its run"), "{}", refusal());
        export(&adapted(), "a/model", folder.path()).unwrap();
        let path = folder.path().join(CONFIG);
        let whole = std::fs::read_to_string(&path).unwrap();
        for (from, to, named) in [
            ("\"LORA\"", "\"IA3\"", "IA3 is not supported"),
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora = true is not supported"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
            ("\"r\": 2", "\"r\": 2, \"alpha_pattern\": {\"q_proj\": 4}", "alpha_pattern"),
            ("\"r\": 2", "\"r\": 2, \"init_lora_weights\": \"pissa\"", "init_lora_weights"),
            ("\"r\": 2", "\"r\": 3", "is not F32 [3, 8]"),
            ("\"down_proj\"", "\"up_proj\"", "up_proj"),
        ] {
            assert!(whole.contains(from));
            std::fs::write(&path, whole.replace(from, to)).unwrap();
            assert!(refusal().contains(named), "{}", refusal());
        }
    }
}
