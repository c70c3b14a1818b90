//! Tiny models of every family, written in both file forms by a rule and loaded as any others: the
//! logits that transformers gives for them, the same logits however tokens come, and folders that
//! are damaged in every way we could think of.
//!
//! `make_vectors.py` makes `vectors.json`; nothing of it is needed to run these tests.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and their counts")]

#[path = "../tiny/allocations.rs"]
mod allocations;
mod bad_folders;
mod case;
mod chunks;
mod converters;
mod damage;
mod embedded;
mod folder;
mod gguf;
mod logits;
mod numbers;
mod quantised;
mod rule;
