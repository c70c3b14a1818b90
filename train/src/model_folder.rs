//! A trained model as a Hugging Face folder: sizes, weights and tokenizer, as `relay-model`,
//! transformers and others read them; and back. Knows no training.

use std::path::Path;

use anyhow::{Context, bail};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::checkpoint::{bytes, numbers, write_aside};
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
    let tensors = weights.architecture().tensors();
    let rows: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| bytes(&weights.values[tensor.range.clone()])).collect();
    let view = |shape: &[usize], row| TensorView::new(Dtype::F32, shape.to_vec(), row);
    let views = tensors.iter().zip(&rows).map(|(tensor, row)| view(&tensor.shape, row));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let names = tensors.iter().map(|tensor| tensor.name.as_str());
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let file = safetensors::serialize(names.zip(views), Some(metadata))?;
    write_aside(&folder.join("model.safetensors"), &file)
}

/// Reads what [`export`] wrote: the weights, and tokenizer.json.
pub fn import(folder: &Path) -> anyhow::Result<(Weights, Value)> {
    let shown = folder.display();
    let fault = |name: &str| format!("{shown}/{name}: is this what `pretrain` wrote?");
    let json = |name: &'static str| -> anyhow::Result<Value> {
        let text = std::fs::read_to_string(folder.join(name)).with_context(|| fault(name))?;
        serde_json::from_str(&text).with_context(|| fault(name))
    };
    let architecture = architecture(&json("config.json")?).with_context(|| fault("config.json"))?;
    let name = "model.safetensors";
    let file = std::fs::read(folder.join(name)).with_context(|| fault(name))?;
    let file = SafeTensors::deserialize(&file).with_context(|| fault(name))?;
    let mut values = Vec::new();
    for tensor in architecture.tensors() {
        let view = file.tensor(&tensor.name).with_context(|| fault(name))?;
        if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
            bail!("{shown}/{name}: {} is not F32 {:?}", tensor.name, tensor.shape);
        }
        values.extend(numbers(view.data()));
    }
    let weights = Weights::new(architecture, values).with_context(|| fault(name))?;
    Ok((weights, json("tokenizer.json")?))
}

fn architecture(config: &Value) -> anyhow::Result<Architecture> {
    if config["model_type"] != "llama" || config["tie_word_embeddings"] != true {
        bail!("only models of type llama whose embedding is the output layer can be trained");
    }
    let size = |key: &str| {
        let size = config[key].as_u64().and_then(|size| usize::try_from(size).ok());
        size.with_context(|| format!("`{key}` is missing, or no size"))
    };
    let float = |key: &str| config[key].as_f64().with_context(|| format!("`{key}` is no number"));
    #[expect(clippy::cast_possible_truncation, reason = "it was f32 when it was written")]
    let norm_epsilon = float("rms_norm_eps")? as f32;
    let architecture = Architecture {
        vocabulary_tokens: size("vocab_size")?,
        context_tokens: size("max_position_embeddings")?,
        layers: size("num_hidden_layers")?,
        width: size("hidden_size")?,
        heads: size("num_attention_heads")?,
        kv_heads: size("num_key_value_heads")?,
        head_width: size("head_dim")?,
        feed_forward_width: size("intermediate_size")?,
        rotary_base: float("rope_theta")?,
        norm_epsilon,
    };
    architecture.check()?;
    Ok(architecture)
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
        let ours = Pass::new(&architecture).forward(&weights, &sequence);
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
