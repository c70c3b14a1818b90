//! Training and evaluation of relay policies: is it right?
//!
//! | File | Holds |
//! |---|---|
//! | `grader.rs`, `grader/` | whether an answer is right: the only judge, for rewards and evaluation |
//! | `grading.rs` | the grader over lines of JSON |
//! | `world.rs`, `world/` | the small world: true facts, and which model knows them |
//! | `problem.rs`, `wording.rs`, `split.rs` | word problems of that world: structure, words, splits |
//! | `chance.rs` | random choices that are the same on every machine |
//! | `dataset.rs` | problems from files: benchmark sets and generated ones |
//! | `data_command.rs` | `relay-train data` |
//! | `jsonl.rs` | lines of JSON, with faults that name the line |

pub mod chance;
pub mod data_command;
pub mod dataset;
pub mod grader;
pub mod grading;
pub mod jsonl;
pub mod problem;
pub mod split;
pub mod wording;
pub mod world;
