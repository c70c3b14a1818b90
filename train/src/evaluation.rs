//! How good a pair of models is with a policy: greedy answers to problems of the test split, judged
//! by the one grader. Trains nothing.
//!
//! | File | Holds |
//! |---|---|
//! | `evaluation/contender.rs` | what is compared: policies by name |
//! | `evaluation/finished.rs` | one judged answer, and the file they are kept in |
//! | `evaluation/harness.rs` | answers every problem under every policy; goes on after a kill |
//! | `evaluation/interval.rs` | bootstrap intervals |
//! | `evaluation/figures.rs` | from judged answers to figures |
//! | `evaluation/table.rs` | figures as Markdown and as a plot |

pub mod contender;
pub mod figures;
pub mod finished;
pub mod harness;
pub mod interval;
pub mod table;
