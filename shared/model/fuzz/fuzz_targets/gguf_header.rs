//! Any bytes as a GGUF file: a verdict, never a panic, and no memory the bytes do not warrant.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay_model::fuzzing::gguf_header(bytes));
