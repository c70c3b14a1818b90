//! Training and evaluation of relay policies: is it right?
//!
//! | File | Holds |
//! |---|---|
//! | `grader.rs`, `grader/` | whether an answer is right: the only judge, for rewards and evaluation |
//! | `grading.rs` | the grader over lines of JSON |
//! | `jsonl.rs` | lines of JSON, with faults that name the line |

pub mod grader;
pub mod grading;
pub mod jsonl;
