//! The trainable model: log-probabilities of a sequence's tokens, and the slopes of any function of
//! them, by a backward pass written out by hand. One sequence at a time, no padding: what one
//! needs stays in cache, and buffers are used again. Knows no batch, no optimiser and no file.
//!
//! Families are those of `relay-model`: Llama (Touvron et al., 2023, arXiv 2302.13971), Qwen2 with
//! biases on queries, keys and values (arXiv 2407.10671), Qwen3 with norms on each head's queries
//! and keys (arXiv 2505.09388). What learns is all of a model, or adapters of low rank on a frozen
//! one (Hu et al., 2021, arXiv 2106.09685).
//!
//! | File | Holds |
//! |---|---|
//! | `trainable/architecture.rs` | sizes, and all tensors by name |
//! | `trainable/places.rs` | where each layer's tensors lie among all numbers |
//! | `trainable/adapters.rs` | adapters: settings, tensors, and what they come to when merged |
//! | `trainable/weights.rs` | the numbers that learn, and those that do not |
//! | `trainable/sequence.rs` | ids to learn from |
//! | `trainable/pass.rs` | forward and backward, layer by layer |
//! | `trainable/linear.rs` | one product with bias and adapters, forth and back |
//! | `trainable/attention.rs`, `trainable/head_norm.rs` | the parts between products |
//! | `trainable/matrix.rs`, `trainable/pointwise.rs` | arithmetic on rows |

mod adapters;
mod architecture;
mod attention;
mod head_norm;
mod linear;
mod matrix;
mod pass;
mod places;
mod pointwise;
mod sequence;
#[cfg(test)]
pub(crate) mod tests;
mod weights;

pub use adapters::{LoraSettings, Target};
pub use architecture::{Architecture, TensorPlace};
pub use pass::Pass;
pub use sequence::Sequence;
pub use weights::Weights;

#[cfg(test)]
pub(crate) use tests::test_architecture;
