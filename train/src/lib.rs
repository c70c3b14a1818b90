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
//! | `teacher_flags.rs` | which large model: a folder here, or a running cloud |
//! | `trainable.rs`, `trainable/` | a model that can learn: forward and backward by hand |
//! | `learner.rs`, `optimiser.rs` | slopes of a batch on several threads, AdamW |
//! | `checkpoint.rs`, `model_folder.rs` | a run's state, and a model as others read it |
//! | `adapter_folder.rs`, `model_writer.rs` | adapters as others read them, and merged |
//! | `merge_command.rs` | `relay-train merge` |
//! | `training_run.rs`, `corpus.rs`, `curve.rs` | a stage's loop, what it learns from, its picture |
//! | `run_folder.rs` | what a run began with: settings, models, problems |
//! | `supervised.rs` | steps of pretraining and warm-up |
//! | `pretrain.rs`, `warmup.rs`, `warmup/` | `relay-train pretrain`, `relay-train warmup` |
//! | `grpo.rs`, `grpo/` | `relay-train grpo`: when to call, from rewards |
//! | `answers.rs` | what a model answers, and how often it is right |
//! | `prompt.rs` | from a question to the ids both models begin with |
//! | `untouched.rs` | the embedded small model before it saw a command |
//! | `evaluation.rs`, `evaluation/` | how good a pair is with a policy, beside its baselines |
//! | `eval_command.rs` | `relay-train eval` and `report` |
//! | `filter_command.rs` | `relay-train filter` |
//! | `reproduce.rs`, `reproduce/` | `relay-train reproduce`: the tiny pair from nothing, as a matrix |
//! | `command_line.rs` | the program's commands |
//! | `jsonl.rs` | lines of JSON, with faults that name the line |

pub mod adapter_folder;
pub mod advantage;
pub mod answers;
pub mod chance;
pub mod checkpoint;
pub mod command_line;
pub mod corpus;
pub mod curve;
pub mod data_command;
pub mod dataset;
pub mod eval_command;
pub mod evaluation;
pub mod filter_command;
pub mod grader;
pub mod grading;
pub mod grpo;
pub mod jsonl;
pub mod learner;
pub mod merge_command;
pub mod model_folder;
pub mod model_writer;
pub mod objective;
pub mod optimiser;
pub mod pretrain;
pub mod problem;
pub mod prompt;
pub mod reproduce;
pub mod reward;
pub mod rollout;
pub mod run_folder;
pub mod split;
pub mod supervised;
pub mod teacher_flags;
pub mod trainable;
pub mod training_run;
pub mod untouched;
pub mod vocabulary;
pub mod warmup;
pub mod wording;
pub mod world;
