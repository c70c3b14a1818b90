//! How good a pair of models is with a policy: greedy answers to problems of the test split, judged
//! by the one grader. Trains nothing.
//!
//! | File | Holds |
//! |---|---|
//! | `evaluation/item.rs` | what is asked: the small world's problems, or a set's |
//! | `evaluation/contender.rs` | what is compared: policies by name |
//! | `evaluation/calibration.rs` | at which entropy a rival calls as often as relay |
//! | `evaluation/finished.rs` | one judged answer, and the file they are kept in |
//! | `evaluation/harness.rs` | answers every problem under every policy; goes on after a kill |
//! | `evaluation/traffic.rs` | bytes and tokens that an answer's calls would have sent |
//! | `evaluation/cascade.rs` | the cascade on sureness, computed |
//! | `evaluation/interval.rs`, `evaluation/resample.rs` | bootstrap intervals, and of which figures |
//! | `evaluation/figures.rs` | from judged answers to figures |
//! | `evaluation/share.rs` | shares of counts |
//! | `evaluation/paper.rs` | what the paper measured |
//! | `evaluation/table.rs` | figures as Markdown |
//! | `evaluation/plot.rs`, `evaluation/raster.rs` | accuracy against call ratio, as SVG and PNG |

pub mod calibration;
pub mod cascade;
pub mod contender;
pub mod figures;
pub mod finished;
pub mod harness;
pub mod interval;
pub mod item;
pub mod paper;
pub mod plot;
pub mod raster;
mod resample;
mod share;
pub mod table;
pub mod traffic;
