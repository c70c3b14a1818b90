//! Edge and cloud together: real sockets, real TLS, real processes, scripted models.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bytes;
mod disturbed;
mod embedded;
mod mismatches;
mod parity;
mod promises;
mod smoke;
mod taught;
mod turns;
