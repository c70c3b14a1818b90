//! Tokenizers as files bring them: small ones of each family, trained here, in both file forms,
//! against the `tokenizers` crate; bad files; and real ones where a path is given.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../tiny/allocations.rs"]
mod allocations;
mod bad_files;
mod both_forms;
mod family;
mod real;
mod texts;
