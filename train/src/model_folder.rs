//! A trained model as a Hugging Face folder: sizes, weights and tokenizer, as `relay-model`,
//! transformers and others read them; and back. Knows no training.

use std::path::Path;

use anyhow::Context;
use relay_model::ModelNumbers;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::checkpoint::{bytes, write_aside};
use crate::trainable::{Architecture, Weights};
use crate::vocabulary;

/// Writes all of a model into a folder, which is made if need be. `tokenizer` is its
/// tokenizer.json.
pub fn export(weights: &Weights, tokenizer: &Value, folder: &Path) -> anyhow::Result<()> {
    vocabulary::write_folder(tokenizer, folder)?;
    let [end, pad] = [vocabulary::TURN_END, vocabulary::END_OF_TEXT].map(|text| {
        vocabulary::added_token_id(tokenizer, text)
            .with_context(|| format!("the tokenizer has no {text}: learn it with this program"))
    });
    let (end, pad) = (end?, pad?);
    let config = weights.architecture().to_config(end, pad);
    let generation = json!({ "do_sample": false, "eos_token_id": end, "pad_token_id": pad });
    for (name, value) in [("config.json", config), ("generation_config.json", generation)] {
        let text = serde_json::to_string_pretty(&value).context("a configuration is no JSON")?;
        write_aside(&folder.join(name), (text + "\n").as_bytes())?;
    }
    write_tensors(weights, &folder.join("model.safetensors"))
}

/// Writes what learns under the names it is known by.
pub(crate) fn write_tensors(weights: &Weights, path: &Path) -> anyhow::Result<()> {
    let tensors = weights.tensors();
    let rows: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| bytes(&weights.values[tensor.range.clone()])).collect();
    let view = |shape: &[usize], row| TensorView::new(Dtype::F32, shape.to_vec(), row);
    let views = tensors.iter().zip(&rows).map(|(tensor, row)| view(&tensor.shape, row));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let names = tensors.iter().map(|tensor| tensor.name.as_str());
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let file = safetensors::serialize(names.zip(views), Some(metadata))?;
    write_aside(path, &file)
}

/// All of a model's numbers as f32: of a Hugging Face folder, or of a GGUF file.
pub fn read_weights(model: &ModelNumbers) -> anyhow::Result<Weights> {
    let architecture = Architecture::from(model.sizes());
    architecture.check()?;
    let mut values = Vec::with_capacity(architecture.parameters());
    for tensor in architecture.tensors() {
        values.extend(model.tensor(&tensor.name, &tensor.shape)?);
    }
    Weights::new(architecture, values).context("a tensor has another size than its shape")
}

/// Reads what [`export`] wrote: the weights, and tokenizer.json.
pub fn import(folder: &Path) -> anyhow::Result<(Weights, Value)> {
    let weights = read_weights(&ModelNumbers::open(folder)?)?;
    let path = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let tokenizer = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok((weights, tokenizer))
}

#[cfg(test)]
mod tests {
    use relay_model::{LoadOptions, LogitsWanted, Row, load};

    use super::*;
    use crate::trainable::{Pass, Sequence, test_architecture};

    #[test]
    fn the_engine_reads_what_was_trained() {
        let tokenizer = vocabulary::learn(300, 1).unwrap();
        let architecture = Architecture { vocabulary_tokens: 300, ..test_architecture() };
        let weights = Weights::draw(&architecture, 9).unwrap();
        let folder = tempfile::tempdir().unwrap();
        export(&weights, &tokenizer, folder.path()).unwrap();
        assert_eq!(import(folder.path()).unwrap(), (weights.clone(), tokenizer));

        let mut engine = load(folder.path(), &LoadOptions::default()).unwrap();
        let ids: Vec<u32> = (0..50).map(|index| (index * index + 3) % 300).collect();
        let sequence = Sequence { ids: ids.clone(), scored_from: 1 };
        let ours = Pass::new(&weights).forward(&weights, &sequence);
        let mut cache = engine.model.new_cache();
        let row = Row { tokens: &ids, cache: &mut cache, logits: LogitsWanted::All };
        let logits = engine.model.forward(&mut [row]).unwrap().remove(0);
        for (index, ours) in ours.into_iter().enumerate() {
            let row = logits.row(index);
            let total: f32 = row.iter().map(|logit| logit.exp()).sum();
            let theirs = row[ids[index + 1] as usize] - total.ln();
            assert!((ours - theirs).abs() < 4e-3, "{index}: {ours} {theirs}");
        }
        assert!(
            engine
                .tokenizer
                .ends_text(engine.tokenizer.added_token_id(vocabulary::TURN_END).unwrap())
        );
    }
}
