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
//! | `vocabulary.rs` | the tokenizer of the tiny pair |
//! | `reward.rs`, `advantage.rs` | what a group of answers earns, and how much better each is |
//! | `objective.rs` | what a token adds to GRPO's loss, and its derivative |
//! | `rollout.rs`, `rollout/` | many answers at once: relay machines over both models |
//! | `jsonl.rs` | lines of JSON, with faults that name the line |

pub mod advantage;
pub mod chance;
pub mod data_command;
pub mod dataset;
pub mod grader;
pub mod grading;
pub mod jsonl;
pub mod objective;
pub mod problem;
pub mod reward;
pub mod rollout;
pub mod split;
pub mod vocabulary;
pub mod wording;
pub mod world;
