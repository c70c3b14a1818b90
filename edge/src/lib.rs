//! The device: a small model that calls a large one for a few words.
//!
//! | You want to | Look in |
//! |---|---|
//! | answer, or follow an answer from question to end | `session` |
//! | change what is asked of the small model | `decoder` |
//! | change how a prompt becomes ids | `prompt`, `vocabulary` |
//! | send a call, or map what comes back | `uplink` |
//! | connect, describe, reconnect | `endpoint` |
//! | choose an endpoint, leave one alone | `routing`, `breaker` |
//! | add a setting | `config` |
//! | add a figure | `report`, `metrics` |
//! | word why there is no answer | `error` |
//!
//! What to do next is nowhere in here: `relay::machine` decides, and this crate performs. It knows
//! nothing of the cloud's insides.

pub mod breaker;
pub mod config;
pub mod decoder;
mod endpoint;
pub mod error;
pub mod metrics;
mod prompt;
pub mod report;
pub mod routing;
pub mod session;
pub mod uplink;
pub mod vocabulary;

pub use config::EdgeSettings;
pub use error::EdgeError;
pub use report::Report;
pub use session::{Question, Session};
