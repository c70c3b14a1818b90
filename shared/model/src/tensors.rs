//! What a model's tensors are for, what each file form calls them, and where they are read from.
//!
//! The transformer asks for roles; names stand in one table here. Knows no file format.
//!
//! Names: GGUF's from its specification, the other ones from the published checkpoints.

mod gguf;
mod hugging_face;

use relay_kernels::WeightFormat;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::error::advice::{DAMAGED, LACKING};
use crate::gguf::type_code;
use crate::weights::Matrix;

mod limits {
    /// Bytes of each tensor's beginning, middle and end that identify a model.
    pub(super) const SAMPLE_BYTES: usize = 64;
}

const UNKNOWN: &str = "use a plain model of the Llama, Qwen2 or Qwen3 family";
const OTHER_COUNT: &str = "configuration and weights are not of one model, bring both again";

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorRole {
    /// `[vocabulary_tokens, width]`.
    Embedding,
    /// `[width]`.
    OutputNorm,
    /// `[vocabulary_tokens, width]`, where the embedding does not serve both ways.
    Output,
    /// `[rotary pairs]`: what each pair's frequency is divided by.
    RotaryDivisors,
    /// One of layer `.0`.
    OfLayer(usize, LayerPart),
}

/// What a tensor of a layer is for. Matrices are `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerPart {
    AttentionNorm,
    Query,
    QueryBias,
    /// Of each head: `[head_width]`.
    QueryNorm,
    Key,
    KeyBias,
    KeyNorm,
    Value,
    ValueBias,
    AttentionOutput,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

impl TensorRole {
    /// Whether a sound model may have nothing but zeros here: biases, and what a block that was put in
    /// between adds to the hidden state until it has learned.
    fn may_be_zero(self) -> bool {
        use LayerPart::{AttentionOutput, Down, KeyBias, QueryBias, ValueBias};
        let Self::OfLayer(_, part) = self else {
            // Divisors are looked at where frequencies are made.
            return self == Self::RotaryDivisors;
        };
        matches!(part, QueryBias | KeyBias | ValueBias | AttentionOutput | Down)
    }
}

/// Which names a file form uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    Gguf,
    HuggingFace,
}

/// Tensors outside of the layers: role, GGUF name, Hugging Face name (empty: has none).
const OF_MODEL: [(TensorRole, &str, &str); 4] = [
    (TensorRole::Embedding, "token_embd.weight", "model.embed_tokens.weight"),
    (TensorRole::OutputNorm, "output_norm.weight", "model.norm.weight"),
    (TensorRole::Output, "output.weight", "lm_head.weight"),
    (TensorRole::RotaryDivisors, "rope_freqs.weight", ""),
];

/// Tensors of a layer: part, GGUF name after `blk.N.`, Hugging Face name after `model.layers.N.`.
const OF_LAYER: [(LayerPart, &str, &str); 14] = [
    (LayerPart::AttentionNorm, "attn_norm.weight", "input_layernorm.weight"),
    (LayerPart::Query, "attn_q.weight", "self_attn.q_proj.weight"),
    (LayerPart::QueryBias, "attn_q.bias", "self_attn.q_proj.bias"),
    (LayerPart::QueryNorm, "attn_q_norm.weight", "self_attn.q_norm.weight"),
    (LayerPart::Key, "attn_k.weight", "self_attn.k_proj.weight"),
    (LayerPart::KeyBias, "attn_k.bias", "self_attn.k_proj.bias"),
    (LayerPart::KeyNorm, "attn_k_norm.weight", "self_attn.k_norm.weight"),
    (LayerPart::Value, "attn_v.weight", "self_attn.v_proj.weight"),
    (LayerPart::ValueBias, "attn_v.bias", "self_attn.v_proj.bias"),
    (LayerPart::AttentionOutput, "attn_output.weight", "self_attn.o_proj.weight"),
    (LayerPart::FeedForwardNorm, "ffn_norm.weight", "post_attention_layernorm.weight"),
    (LayerPart::Gate, "ffn_gate.weight", "mlp.gate_proj.weight"),
    (LayerPart::Up, "ffn_up.weight", "mlp.up_proj.weight"),
    (LayerPart::Down, "ffn_down.weight", "mlp.down_proj.weight"),
];

impl Naming {
    /// The name of the tensor with this role.
    pub(crate) fn name(self, role: TensorRole) -> String {
        if let TensorRole::OfLayer(layer, part) = role {
            let row = OF_LAYER.iter().find(|row| row.0 == part);
            let name = row.map_or("", |row| self.pick(row.1, row.2));
            return format!("{}{layer}.{name}", self.layer_prefix());
        }
        let row = OF_MODEL.iter().find(|row| row.0 == role);
        row.map_or("", |row| self.pick(row.1, row.2)).to_owned()
    }

    /// The role of the tensor with this name, if it has one.
    pub(crate) fn role(self, name: &str) -> Option<TensorRole> {
        let Some(in_layer) = name.strip_prefix(self.layer_prefix()) else {
            let row = OF_MODEL.iter().find(|row| self.pick(row.1, row.2) == name);
            return row.filter(|_| !name.is_empty()).map(|row| row.0);
        };
        let (index, part) = in_layer.split_once('.')?;
        let row = OF_LAYER.iter().find(|row| self.pick(row.1, row.2) == part)?;
        let role = TensorRole::OfLayer(index.parse().ok()?, row.0);
        // "00" is not how anybody writes 0.
        (self.name(role) == name).then_some(role)
    }

    fn pick(self, gguf: &'static str, hugging_face: &'static str) -> &'static str {
        match self {
            Self::Gguf => gguf,
            Self::HuggingFace => hugging_face,
        }
    }

    fn layer_prefix(self) -> &'static str {
        self.pick("blk.", "model.layers.")
    }

    /// The key that counts layers.
    fn layers_key(self) -> &'static str {
        self.pick("block_count", "num_hidden_layers")
    }

    /// Tensors that repeat what the configuration says.
    fn is_redundant(self, name: &str) -> bool {
        self == Self::HuggingFace && name.ends_with("rotary_emb.inv_freq")
    }
}

/// Where a model's tensors come from: one file or many, whatever their form.
pub(crate) trait TensorSource {
    /// What tensors are called here.
    fn naming(&self) -> Naming;

    /// The names of all tensors, in no particular order.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Whether there is a tensor with this role.
    fn has(&self, role: TensorRole) -> bool;

    /// The tensor of this name, of the shape that the architecture demands, left where it lies, if it
    /// is there.
    ///
    /// # Errors
    /// [`ModelError`] if it is of another shape.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, ModelError>;

    /// The same by its role.
    ///
    /// # Errors
    /// [`ModelError`] if it is missing or of another shape.
    fn stored(&self, role: TensorRole, shape: &[usize]) -> Result<Matrix, ModelError> {
        let found = self.find(&self.naming().name(role), shape)?;
        found.ok_or_else(|| self.missing(role))
    }

    /// The same, its numbers looked through.
    ///
    /// # Errors
    /// As [`TensorSource::stored`], and if it holds what is not a finite number, or zeros where no
    /// model has them.
    fn matrix(&self, role: TensorRole, shape: &[usize]) -> Result<Matrix, ModelError> {
        self.looked_through(role, shape, &Matrix::is_finite)
    }

    /// The same by who looks through its numbers.
    ///
    /// # Errors
    /// As [`TensorSource::matrix`].
    fn looked_through(
        &self,
        role: TensorRole,
        shape: &[usize],
        is_finite: &dyn Fn(&Matrix) -> bool,
    ) -> Result<Matrix, ModelError> {
        let matrix = self.stored(role, shape)?;
        let what = if !is_finite(&matrix) {
            "values that are not numbers".to_owned()
        } else if !role.may_be_zero() && matrix.is_blank() {
            "nothing but zero bytes, as a download leaves it that was cut short".to_owned()
        } else if let [_, inputs] = *shape
            && let Some(hole) = matrix.hole(inputs)
        {
            let bytes = hole.len();
            format!("{bytes} zero bytes side by side, as a download leaves them that was cut short")
        } else {
            return Ok(matrix);
        };
        let name = self.naming().name(role);
        Err(self.bad_tensor(role, format!("tensor {name} holds {what}")))
    }

    /// A vector as values, with the same errors.
    fn vector(&self, role: TensorRole, len: usize) -> Result<Vec<f32>, ModelError> {
        let vector = self.matrix(role, &[len])?;
        let values = vector.values();
        vector.release();
        Ok(values)
    }

    /// All tensors as they are stored, in no particular order.
    fn views(&self) -> Vec<TensorView<'_>>;

    /// What tells these tensors from others, see [`weights_hash`].
    fn weights_hash(&self) -> [u8; 8] {
        weights_hash(self.views())
    }

    /// An error that names the model's file or folder.
    fn bad(&self, what: String, advice: &'static str) -> ModelError;

    /// The same for a tensor that is not there.
    fn missing(&self, role: TensorRole) -> ModelError {
        self.bad(format!("tensor {} is missing", self.naming().name(role)), LACKING)
    }

    /// The same for a damaged tensor: names the file that holds it.
    fn bad_tensor(&self, _role: TensorRole, what: String) -> ModelError {
        self.bad(what, DAMAGED)
    }
}

/// A tensor as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorView<'a> {
    pub(crate) name: &'a str,
    pub(crate) format: WeightFormat,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// 8 bytes of BLAKE3 over names, types, shapes and a fixed sample of the bytes of all tensors, by
/// name. The same weights in another form are not the same: they may round differently.
fn weights_hash(mut tensors: Vec<TensorView<'_>>) -> [u8; 8] {
    tensors.sort_unstable_by_key(|tensor| tensor.name);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"relay.v1.weights");
    for TensorView { name, format, shape, bytes } in tensors {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&type_code(format).to_le_bytes());
        hasher.update(&(shape.len() as u64).to_le_bytes());
        for len in shape {
            hasher.update(&(*len as u64).to_le_bytes());
        }
        let sample = limits::SAMPLE_BYTES.min(bytes.len());
        for start in [0, (bytes.len() - sample) / 2, bytes.len() - sample] {
            hasher.update(&bytes[start..start + sample]);
        }
    }
    let mut hash = [0; 8];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    hash
}

/// A tensor we would leave out is part of an architecture we do not know: refuse it by name.
pub(crate) fn refuse_unknown_tensors(
    source: &dyn TensorSource,
    config: &ModelConfig,
) -> Result<(), ModelError> {
    let naming = source.naming();
    let is_known = |name: &str| {
        naming.is_redundant(name) || naming.role(name).is_some_and(|role| is_used(role, config))
    };
    let Some(name) = source.names().filter(|name| !is_known(name)).min() else {
        return Ok(());
    };
    match naming.role(name) {
        Some(TensorRole::OfLayer(index, _)) if index >= config.layers => {
            let (key, layers) = (naming.layers_key(), config.layers);
            let what = format!("tensor {name} is there, but key {key} counts {layers} layers only");
            Err(source.bad(what, OTHER_COUNT))
        }
        _ => Err(source.bad(format!("tensor {name} is not known here"), UNKNOWN)),
    }
}

fn is_used(role: TensorRole, config: &ModelConfig) -> bool {
    match role {
        // A file that ties its embeddings may repeat them as the output.
        TensorRole::Embedding | TensorRole::OutputNorm | TensorRole::Output => true,
        TensorRole::RotaryDivisors => !config.rotary.frequency_divisors.is_empty(),
        TensorRole::OfLayer(layer, part) => {
            layer < config.layers
                && match part {
                    LayerPart::QueryBias | LayerPart::KeyBias | LayerPart::ValueBias => {
                        config.has_qkv_bias()
                    }
                    LayerPart::QueryNorm | LayerPart::KeyNorm => config.has_qk_norm(),
                    _ => true,
                }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_role() {
        let of_layer = OF_LAYER.map(|row| TensorRole::OfLayer(17, row.0));
        let roles: Vec<TensorRole> = OF_MODEL.iter().map(|row| row.0).chain(of_layer).collect();
        for naming in [Naming::Gguf, Naming::HuggingFace] {
            for &role in &roles {
                let name = naming.name(role);
                let expected = (!name.is_empty()).then_some(role);
                assert_eq!(naming.role(&name), expected, "{name}");
            }
        }
        assert_eq!(Naming::Gguf.name(roles[4]), "blk.17.attn_norm.weight");
        assert_eq!(Naming::HuggingFace.name(roles[4]), "model.layers.17.input_layernorm.weight");
    }

    #[test]
    fn other_names_have_no_role() {
        for name in ["", "blk.", "blk.0.", "blk.x.attn_q.weight", "blk.00.attn_q.weight", "x"] {
            assert_eq!(Naming::Gguf.role(name), None, "{name}");
        }
        for name in ["", "model.layers.0.self_attn.o_proj.bias", "token_embd.weight"] {
            assert_eq!(Naming::HuggingFace.role(name), None, "{name}");
        }
    }
}
