//! Any bytes as the files of a tokenizer: a verdict, never a panic; and what is a tokenizer encodes
//! and decodes anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| relay_model::fuzzing::tokenizer_metadata(bytes));
