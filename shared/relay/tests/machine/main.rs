//! The machine against its rules: views, policies, refusals, and random sequences of events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::float_cmp)]

mod failures;
mod policies;
mod properties;
mod views;
mod world;
