//! A configuration from a GGUF file's metadata.
//!
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::cell::RefCell;
use std::collections::BTreeSet;

use relay_kernels::AttentionShape;

use super::{Family, ModelConfig, Rotary, RotaryLayout, RotaryScaling, UNUSABLE, limits, narrow};
use crate::error::ModelError;
use crate::gguf::{GgufFile, Value};
use crate::tensors::{TensorRole, TensorSource};

impl ModelConfig {
    /// Reads the keys of the file's architecture, and the size of the vocabulary off the embedding.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming the key or tensor that is missing, impossible or not supported.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let architecture = file.text("general.architecture").unwrap_or("(none)");
        let family = Family::named(architecture).ok_or_else(|| {
            file.bad(format!("the architecture {architecture} is not supported"), UNUSABLE)
        })?;
        let keys = Keys { file, architecture, asked: RefCell::default() };
        let width = keys.size("embedding_length", None, limits::WIDTH_MAX)?;
        let attention = keys.attention(width)?;
        let config = Self {
            family,
            vocabulary_tokens: embedding_rows(file)?,
            context_tokens: keys.size("context_length", None, limits::CONTEXT_TOKENS_MAX)?,
            layers: keys.size("block_count", None, limits::LAYERS_MAX)?,
            width,
            feed_forward_width: keys.size("feed_forward_length", None, limits::WIDTH_MAX)?,
            attention,
            rotary: keys.rotary(family, attention.head_width)?,
            epsilon: narrow(keys.float("attention.layer_norm_rms_epsilon", None)?),
            is_tied: !file.has(TensorRole::Output),
        };
        keys.refuse_variants(&config)?;
        keys.refuse_unknown()?;
        config.contradiction().map_or(Ok(config), |what| Err(file.bad(what, UNUSABLE)))
    }
}

fn embedding_rows(file: &GgufFile) -> Result<usize, ModelError> {
    let name = file.naming().name(TensorRole::Embedding);
    let rows = file.tensor(&name).map(|entry| entry.shape.first().copied().unwrap_or(0));
    let most = limits::VOCABULARY_TOKENS_MAX;
    match rows {
        Some(rows) if (1..=most).contains(&rows) => Ok(rows),
        Some(rows) => {
            Err(file.bad(format!("tensor {name} has {rows} rows, not 1 to {most}"), UNUSABLE))
        }
        None => Err(file.missing(TensorRole::Embedding)),
    }
}

/// Keys that change the positions which queries and keys are turned by.
const SCALING_KEYS: [&str; 4] =
    ["rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scale_linear"];
/// Keys that converters write and that change nothing, though their names sound otherwise: the
/// epsilon is of norms that these families do not have, and the rest describes what is refused
/// where it is used.
const IDLE_KEYS: [&str; 4] = [
    "attention.layer_norm_epsilon",
    "expert_used_count",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
];

/// What keys are named after that change a forward pass: docs/adr/0018.
const COMPUTED_WORDS: [&str; 10] = [
    "attention",
    "attn",
    "rope",
    "expert",
    "scale",
    "softcap",
    "clamp",
    "norm",
    "residual",
    "layer",
];

/// Metadata keys of one architecture, read with their meaning checked.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
    /// All that were asked for, whether the file has them or not.
    asked: RefCell<BTreeSet<&'static str>>,
}

impl Keys<'_> {
    fn attention(&self, width: usize) -> Result<AttentionShape, ModelError> {
        let heads = self.size("attention.head_count", None, limits::WIDTH_MAX)?;
        let kv_heads = self.size("attention.head_count_kv", Some(heads), heads)?;
        let head_width =
            self.size("attention.key_length", Some(width / heads), limits::WIDTH_MAX)?;
        let value_width =
            self.size("attention.value_length", Some(head_width), limits::WIDTH_MAX)?;
        if value_width != head_width {
            let what = format!("keys are {head_width} wide, but values {value_width}");
            return Err(self.file.bad(what, UNUSABLE));
        }
        // The same under another name.
        if self.size("attention.head_dim", Some(head_width), limits::WIDTH_MAX)? != head_width {
            let key = self.key("attention.head_dim");
            let what = format!("keys are {head_width} wide, but {key} says otherwise");
            return Err(self.file.bad(what, UNUSABLE));
        }
        Ok(AttentionShape { heads, kv_heads, head_width })
    }

    fn rotary(&self, family: Family, head_width: usize) -> Result<Rotary, ModelError> {
        let dimensions = self.size("rope.dimension_count", Some(head_width), head_width)?;
        if dimensions != head_width {
            let what = format!("{dimensions} rotary dimensions in heads of {head_width}");
            return Err(self.file.bad(what, UNUSABLE));
        }
        let pairs = head_width / 2;
        let is_llama = family == Family::Llama;
        let is_scaled = is_llama && self.file.has(TensorRole::RotaryDivisors);
        let divisors = || self.file.vector(TensorRole::RotaryDivisors, pairs);
        let frequency_divisors = if is_scaled { divisors()? } else { Vec::new() };
        let base = self.float("rope.freq_base", Some(10_000.0))?;
        Ok(Rotary {
            layout: if is_llama { RotaryLayout::Interleaved } else { RotaryLayout::Halves },
            pairs,
            base,
            scaling: RotaryScaling::of_divisors(&frequency_divisors, base),
            frequency_divisors,
        })
    }

    /// What would silently give wrong numbers is refused by name.
    fn refuse_variants(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let refuse = |what: String| Err(self.file.bad(what, UNUSABLE));
        self.refuse_scaling()?;
        let is = |part: &'static str, harmless: i128| match self.value(part) {
            None => true,
            Some(value) => matches!(value, Value::Integer(value) if *value == harmless),
        };
        if !is("expert_count", 0) {
            return refuse("mixtures of experts are not supported".to_owned());
        }
        if !is("attention.causal", 1) {
            return refuse("attention that looks ahead is not supported".to_owned());
        }
        let context = i128::try_from(config.context_tokens).unwrap_or(i128::MAX);
        match self.value("attention.sliding_window") {
            None => Ok(()),
            Some(Value::Integer(window)) if *window == 0 || *window >= context => Ok(()),
            Some(_) => refuse("sliding-window attention is not supported".to_owned()),
        }
    }

    /// Of keys that nobody asked for, those are refused that may change every answer by their names.
    fn refuse_unknown(&self) -> Result<(), ModelError> {
        let asked = self.asked.borrow();
        let full: Vec<String> = asked.iter().map(|part| self.key(part)).collect();
        self.file.refuse_misspelt_keys(full.iter().map(String::as_str))?;
        let prefix = self.key("");
        let is_unknown = |part: &str| {
            let computes = COMPUTED_WORDS.iter().any(|word| part.contains(word));
            computes && !asked.contains(part) && !IDLE_KEYS.contains(&part)
        };
        let unknown =
            self.file.keys().filter(|key| key.strip_prefix(&prefix).is_some_and(is_unknown));
        unknown.min().map_or(Ok(()), |key| {
            let what = format!("key {key} is not known here, and may change every answer");
            Err(self.file.bad(what, UNUSABLE))
        })
    }

    /// A file may scale its positions without naming a type: a factor alone means a linear scaling,
    /// and older files have a key of their own for it.
    fn refuse_scaling(&self) -> Result<(), ModelError> {
        let is_harmless = |part: &str, value: &Value| match value {
            // How much a linear scaling comes to is said by the factor alone.
            Value::Text(scaling) => {
                part == "rope.scaling.type" && matches!(scaling.as_str(), "none" | "linear")
            }
            Value::Float(factor) => matches!(*factor, 0.0 | 1.0) && part != "rope.scaling.type",
            Value::Integer(factor) => matches!(factor, 0 | 1) && part != "rope.scaling.type",
            _ => false,
        };
        for part in SCALING_KEYS {
            let found = self.value(part).filter(|value| !is_harmless(part, value));
            if let Some(value) = found {
                let key = self.key(part);
                let what =
                    format!("key {key} scales rotary positions ({value}), which is not supported");
                return Err(self.file.bad(what, UNUSABLE));
            }
        }
        Ok(())
    }

    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.architecture)
    }

    fn value(&self, part: &'static str) -> Option<&Value> {
        self.asked.borrow_mut().insert(part);
        self.file.value(&self.key(part))
    }

    fn size(
        &self,
        part: &'static str,
        default: Option<usize>,
        most: usize,
    ) -> Result<usize, ModelError> {
        let size = match (self.value(part), default) {
            (Some(Value::Integer(value)), _) => usize::try_from(*value).ok(),
            (None, default) => default,
            _ => None,
        };
        size.filter(|size| (1..=most).contains(size)).ok_or_else(|| {
            let found =
                if self.value(part).is_some() { "must be" } else { "is missing: it must be" };
            let what = format!("key {} {found} a number from 1 to {most}", self.key(part));
            self.file.bad(what, UNUSABLE)
        })
    }

    fn float(&self, part: &'static str, default: Option<f64>) -> Result<f64, ModelError> {
        let float = match (self.value(part), default) {
            (Some(Value::Float(value)), _) => Some(*value),
            (None, default) => default,
            _ => None,
        };
        float.filter(|value| value.is_finite() && *value > 0.0).ok_or_else(|| {
            self.file.bad(format!("key {} must be a positive number", self.key(part)), UNUSABLE)
        })
    }
}
