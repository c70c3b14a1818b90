//! The pure domain of relay decoding: commands, transcript, policy and machine.
//!
//! No I/O, no clock, no model and no await. Three drivers share it: the edge, training and the
//! simulator. Read in this order: [`command`] (what the SLM writes), [`transcript`] (its three
//! views), [`policy`] and [`budget`] (when and how much), [`machine`] (who holds the baton).

pub mod account;
pub mod budget;
pub mod call;
pub mod command;
pub mod conversation;
pub mod effect;
pub mod event;
pub mod ids;
pub mod invariants;
pub mod machine;
mod pending;
pub mod policy;
pub mod prefix;
pub mod reader;
pub mod refusal;
pub mod transcript;
