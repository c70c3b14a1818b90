//! Hot loops on a CPU: slices in, slices out.
//!
//! **One row, one result.** A row's bits depend neither on how many rows share the step, nor on
//! how the prefix was chunked, nor on threads: every reduction has one fixed order. Kernels are
//! written once, in vector operations that give the same bits on every instruction set, so bits
//! do not depend on the processor either.
//!
//! Weights are repacked once ([`PackedMatrix`]) and keep the bits they have in the file.
//! Activations meet codes of weights as codes of 8 bits ([`QuantisedRows`]), and plain weights as
//! they are. Attention reads keys and values of 16 or 32 bits.
//!
//! | You want to | Look in |
//! |---|---|
//! | find an instruction set, or add one | `cpu`, `simd`, `portable`, `avx2`, `avx512` |
//! | run on threads | `pool`, `disjoint`; on how many, `cores` |
//! | keep weights, or keys and values | `arena` |
//! | multiply | `packed`, `panel`, `quantise`, `multiply`, `shorts`; in which order `lanes` |
//! | do what lies between products | `norm`, `bias`, `rope`, `activation`, `exponential` |
//! | attend | `attention`, `kv_element` |
//! | look through all logits | `logits` |
//! | know what a format's bytes mean | `blocks`, `weights`, `half_float` |
//! | know what a machine can do at most | `bandwidth`, `peak` |
//! | draw numbers for a test | `noise` |
//!
//! **Unsafe code** is of four kinds: vector instructions, behind a value that proves the machine
//! has them (`avx2`, `avx512`), or the same behind a question to it (`dispatch`); outputs that threads
//! share by promise (`disjoint`); a closure lent to the threads of a pool (`pool`); and memory in large
//! pages (`arena`).
//!
//! Shapes that do not fit are a caller's mistake and panic at once.

#![allow(unsafe_code, reason = "vector instructions, outputs that threads share, large pages")]
#![allow(clippy::needless_range_loop, reason = "arrays of registers are counted through")]
#![allow(clippy::inline_always, reason = "hot code takes its caller's instruction set")]

mod activation;
mod arena;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bandwidth;
mod bias;
mod blocks;
mod cores;
mod cpu;
mod disjoint;
mod dispatch;
mod exponential;
mod half_float;
mod kv_element;
mod lanes;
mod logits;
mod multiply;
#[cfg(test)]
mod noise;
mod norm;
mod packed;
mod panel;
mod peak;
mod pool;
mod portable;
mod quantise;
mod rope;
mod shorts;
mod simd;
mod weights;

pub use activation::swiglu;
pub use arena::{Arena, ArenaSlice};
pub use attention::{AttentionShape, KvPage, PAGE_TOKENS, QueryStretch, paged_attention};
pub use bandwidth::read_bandwidth;
pub use bias::add_bias;
pub use blocks::WeightFormat;
pub use cores::physical_cores;
pub use cpu::{CPU_HELP, Cpu, CpuError};
pub use kv_element::KvElement;
pub use lanes::dot;
pub use logits::{LOGIT_BLOCK, SoftmaxSums, block_maxima, softmax_sums};
pub use multiply::{Inputs, Product, multiply};
pub use norm::rms_norm;
pub use packed::PackedMatrix;
pub use peak::{Peaks, arithmetic_peaks};
pub use pool::{Pool, Share};
pub use quantise::QuantisedRows;
pub use rope::{rotate_halves, rotate_interleaved};
pub use weights::Weights;
