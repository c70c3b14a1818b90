//! The harness of the end-to-end tests: edges and clouds with scripted models, real sockets, real
//! TLS, real processes, and networks that misbehave on purpose. For tests only.
//!
//! | File | What |
//! |---|---|
//! | `scripts.rs` | rules that scripted models follow |
//! | `tiny.rs` | tiny models with random weights, and what they saw |
//! | `cloud.rs` | a cloud in this process, with a scripted model |
//! | `process.rs` | a program as a process of its own, to be stopped and killed |
//! | `edge.rs` | an edge with a scripted model, and one answer of it |
//! | `faults.rs` | a proxy that delays, swallows, cuts and counts |
//! | `dealer.rs` | a proxy that deals each call to the next cloud |

#![allow(missing_docs, clippy::missing_panics_doc)]

pub mod cloud;
pub mod dealer;
pub mod edge;
pub mod faults;
pub mod process;
pub mod scripts;
pub mod tiny;
