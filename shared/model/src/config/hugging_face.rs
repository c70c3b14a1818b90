//! A configuration from a Hugging Face folder's config.json.
//!
//! Keys: the configuration classes of the transformers library, versions 4 and 5.

use relay_kernels::AttentionShape;
use serde_json::Value;

use super::{Family, ModelConfig, Rotary, RotaryLayout, RotaryScaling, UNUSABLE, limits, narrow};
use crate::error::ModelError;
use crate::json_file::JsonFile;

/// Keys that ask for another forward pass if they are true.
const VARIANTS: [&str; 2] = ["attention_bias", "mlp_bias"];
/// Keys of mixtures of experts.
const EXPERTS: [&str; 2] = ["num_experts", "num_local_experts"];
/// Keys that may be left out; [`VARIANTS`] and [`EXPERTS`] may too.
const OPTIONAL: [&str; 14] = [
    "architectures",
    "head_dim",
    "hidden_act",
    "layer_types",
    "num_key_value_heads",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
];
/// The same of the object that has all of rotary positions; those of a scaling are asked for.
const OPTIONAL_OF_ROTARY: [&str; 4] = ["rope_theta", "rope_type", "type", "partial_rotary_factor"];
/// The window of a file that switches one on and does not say which: Qwen2's and Qwen3's alike.
const WINDOW_TOKENS: usize = 4096;

impl ModelConfig {
    /// Reads the keys of the file's model type.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming the key that is missing, impossible or not supported.
    pub(crate) fn from_hugging_face(file: &JsonFile) -> Result<Self, ModelError> {
        file.refuse_misspelt_keys(OPTIONAL.into_iter().chain(VARIANTS).chain(EXPERTS))?;
        let family = family(file)?;
        refuse_variants(file)?;
        let keys = Keys { file };
        let width = keys.size("hidden_size", None, limits::WIDTH_MAX)?;
        let attention = keys.attention(family, width)?;
        let context = keys.size("max_position_embeddings", None, limits::CONTEXT_TOKENS_MAX)?;
        refuse_sliding_window(file, context)?;
        let config = Self {
            family,
            vocabulary_tokens: keys.size("vocab_size", None, limits::VOCABULARY_TOKENS_MAX)?,
            context_tokens: context,
            layers: keys.size("num_hidden_layers", None, limits::LAYERS_MAX)?,
            width,
            feed_forward_width: keys.size("intermediate_size", None, limits::WIDTH_MAX)?,
            attention,
            rotary: rotary(file, attention.head_width)?,
            epsilon: narrow(keys.float("rms_norm_eps", Some(1e-6))?),
            is_tied: keys.truth("tie_word_embeddings", false)?,
        };
        config.contradiction().map_or(Ok(config), |what| Err(file.bad(what, UNUSABLE)))
    }
}

fn family(file: &JsonFile) -> Result<Family, ModelError> {
    let model_type = file.text("model_type").unwrap_or("(none)");
    let family = Family::named(model_type).ok_or_else(|| {
        file.bad(format!("the model type {model_type} is not supported"), UNUSABLE)
    })?;
    let class = family.class();
    match file.value("architectures") {
        None => Ok(family),
        Some(Value::Array(names)) if names.iter().any(|name| name.as_str() == Some(class)) => {
            Ok(family)
        }
        Some(names) => {
            Err(file.bad(format!("the architecture {names} is not supported"), UNUSABLE))
        }
    }
}

/// What would silently give wrong numbers is refused by name.
fn refuse_variants(file: &JsonFile) -> Result<(), ModelError> {
    let refuse = |what: String| Err(file.bad(what, UNUSABLE));
    if let Some(quantisation) = file.value("quantization_config") {
        let method = quantisation.get("quant_method").and_then(Value::as_str);
        let what = format!("weights quantised by {} are not supported", method.unwrap_or("(none)"));
        return Err(file.bad(what, "bring the unquantised folder, or a quantised GGUF file"));
    }
    if EXPERTS.iter().any(|key| file.value(key).is_some_and(|count| count.as_u64() != Some(0))) {
        return refuse("mixtures of experts are not supported".to_owned());
    }
    match file.value("hidden_act") {
        Some(activation) if activation.as_str() != Some("silu") => {
            return refuse(format!("the activation {activation} is not supported"));
        }
        _ => {}
    }
    let is_asked = |key: &&str| file.value(key).is_some_and(|value| value.as_bool() != Some(false));
    VARIANTS
        .into_iter()
        .find(is_asked)
        .map_or(Ok(()), |key| refuse(format!("what key {key} asks for is not supported")))
}

/// A window counts if it is switched on and narrower than the context.
fn refuse_sliding_window(file: &JsonFile, context_tokens: usize) -> Result<(), ModelError> {
    let refuse = || Err(file.bad("sliding-window attention is not supported", UNUSABLE));
    let is_full = |kind: &Value| kind.as_str() == Some("full_attention");
    match file.value("layer_types") {
        Some(Value::Array(kinds)) if kinds.iter().all(is_full) => return Ok(()),
        Some(_) => return refuse(),
        None => {}
    }
    let keys = Keys { file };
    // No window is another thing than none named.
    let default = if file.has("sliding_window") { usize::MAX } else { WINDOW_TOKENS };
    let is_on = keys.truth("use_sliding_window", false)?;
    if is_on && keys.size("sliding_window", Some(default), usize::MAX)? < context_tokens {
        return refuse();
    }
    Ok(())
}

/// Version 5 puts everything of rotary positions under one key, version 4 beside others.
fn rotary(file: &JsonFile, head_width: usize) -> Result<Rotary, ModelError> {
    let parameters = match (file.part("rope_parameters")?, file.part("rope_scaling")?) {
        (Some(_), Some(_)) => {
            let what =
                "rope_parameters and rope_scaling are both given, and may contradict each other";
            return Err(file.bad(what, UNUSABLE));
        }
        (parameters, scaling) => parameters.or(scaling),
    };
    parameters.as_ref().map_or(Ok(()), |part| part.refuse_misspelt_keys(OPTIONAL_OF_ROTARY))?;
    let parts: Vec<&JsonFile> = parameters.iter().chain([file]).collect();
    let holder = parts.iter().find(|part| part.value("rope_theta").is_some());
    let base = Keys { file: holder.copied().unwrap_or(file) };
    for part in parts {
        let share = Keys { file: part }.float("partial_rotary_factor", Some(1.0))?;
        if share < 1.0 {
            let what = format!("only {share} of each head has rotary positions");
            return Err(file.bad(what, UNUSABLE));
        }
    }
    let rotary = Rotary {
        layout: RotaryLayout::Halves,
        pairs: head_width / 2,
        base: base.float("rope_theta", Some(10_000.0))?,
        frequency_divisors: Vec::new(),
        scaling: None,
    };
    match &parameters {
        None => Ok(rotary),
        Some(parameters) => scaled(rotary, parameters),
    }
}

fn scaled(rotary: Rotary, parameters: &JsonFile) -> Result<Rotary, ModelError> {
    if parameters.entries().any(|(_, value)| value.is_object()) {
        let what = "rotary positions that differ from layer to layer are not supported";
        return Err(parameters.bad(what, UNUSABLE));
    }
    let kind = ["rope_type", "type"].into_iter().find_map(|key| parameters.value(key));
    match kind.map_or(Some("default"), Value::as_str) {
        Some("default") => Ok(rotary),
        Some("linear") if matches!(Keys { file: parameters }.float("factor", None)?, 1.0) => {
            Ok(rotary)
        }
        Some("llama3") => {
            let scaling = read_scaling(parameters)?;
            let frequency_divisors = scaling.divisors(rotary.base, rotary.pairs);
            Ok(Rotary { frequency_divisors, scaling: Some(scaling), ..rotary })
        }
        kind => {
            let kind = kind.unwrap_or("(not a text)");
            let what = format!("the rotary scaling {kind} is not supported");
            Err(parameters.bad(what, UNUSABLE))
        }
    }
}

fn read_scaling(parameters: &JsonFile) -> Result<RotaryScaling, ModelError> {
    let keys = Keys { file: parameters };
    let key = "original_max_position_embeddings";
    let scaling = RotaryScaling {
        factor: keys.float("factor", None)?,
        low_turns: keys.float("low_freq_factor", None)?,
        high_turns: keys.float("high_freq_factor", None)?,
        trained_tokens: keys.size(key, None, limits::CONTEXT_TOKENS_MAX)?,
    };
    if scaling.low_turns < scaling.high_turns {
        Ok(scaling)
    } else {
        Err(parameters.bad("low_freq_factor must be below high_freq_factor", UNUSABLE))
    }
}

/// Keys of an object, read with their meaning checked.
struct Keys<'a> {
    file: &'a JsonFile,
}

impl Keys<'_> {
    fn attention(&self, family: Family, width: usize) -> Result<AttentionShape, ModelError> {
        let heads = self.size("num_attention_heads", None, limits::WIDTH_MAX)?;
        // Where the library's own default is a number and not a rule, the file has to say it.
        let all_heads = (family == Family::Llama).then_some(heads);
        let kv_heads = self.size("num_key_value_heads", all_heads, limits::WIDTH_MAX)?;
        let share = (family != Family::Qwen3).then_some(width / heads);
        let head_width = self.size("head_dim", share, limits::WIDTH_MAX)?;
        if head_width % 2 == 1 {
            let what = format!("heads of {head_width} numbers are not pairs");
            return Err(self.file.bad(what, UNUSABLE));
        }
        Ok(AttentionShape { heads, kv_heads, head_width })
    }

    fn size(&self, key: &str, default: Option<usize>, most: usize) -> Result<usize, ModelError> {
        let size = match self.file.value(key) {
            Some(value) => value.as_u64().and_then(|value| usize::try_from(value).ok()),
            None => default,
        };
        size.filter(|size| (1..=most).contains(size)).ok_or_else(|| {
            self.file.bad(format!("key {key} must be a number from 1 to {most}"), UNUSABLE)
        })
    }

    fn float(&self, key: &str, default: Option<f64>) -> Result<f64, ModelError> {
        let float = self.file.value(key).map_or(default, Value::as_f64);
        float
            .filter(|value| value.is_finite() && *value > 0.0)
            .ok_or_else(|| self.file.bad(format!("key {key} must be a positive number"), UNUSABLE))
    }

    fn truth(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let truth = self.file.value(key).map_or(Some(default), Value::as_bool);
        truth.ok_or_else(|| self.file.bad(format!("key {key} must be true or false"), UNUSABLE))
    }
}
