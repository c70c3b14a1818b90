//! A tiny Llama of seeded random weights, written as a model file and loaded as any other: the
//! forward pass against itself (cached, chunked, batched, cut, forked) and against a naive one in
//! f64, and files that are damaged in every way we could think of.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they skip")]

mod allocations;
mod bad_files;
mod bad_layout;
mod device;
mod forward;
mod random_mixes;
mod raw_gguf;
mod reference;
mod tiny_file;
