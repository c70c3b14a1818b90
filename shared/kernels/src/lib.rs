//! Hot loops on a CPU: slices in, slices out.
//!
//! **One row, one result.** A row's bits depend neither on how many rows share the step, nor on
//! how the prefix was chunked, nor on threads: every reduction has one fixed order (16 lanes, then
//! one tree; attention in the order of keys). The same source is compiled for several instruction
//! sets and chosen at run time; none of them fuses a multiplication with an addition, so bits do
//! not depend on the processor either.
//!
//! Portable for now: weights in blocks are expanded to f32 before use, and everything is computed
//! in f32. Kernels that multiply codes directly come later.
//!
//! Shapes that do not fit are a caller's mistake and panic at once.

#![allow(clippy::inline_always, reason = "hot code takes its caller's instruction set")]

mod activation;
mod attention;
mod bias;
mod blocks;
mod dispatch;
mod half_float;
mod lanes;
mod matmul;
mod norm;
mod rope;
mod weights;

pub use activation::{softmax, swiglu};
pub use attention::{AttentionShape, KvPage, QueryRow, paged_attention};
pub use bias::add_bias;
pub use blocks::WeightFormat;
pub use lanes::dot;
pub use matmul::matmul;
pub use norm::rms_norm;
pub use rope::{rotate_halves, rotate_interleaved};
pub use weights::Weights;
