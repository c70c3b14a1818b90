//! The rules of a call, held against the engine itself: turn by turn, with a clock that only the
//! model moves and a model whose next token depends on every id before it.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test binary has no outside, and a helper's panic is a test's failure"
)]

mod bench;
mod bounds;
mod drafts;
mod faults;
mod rules;
