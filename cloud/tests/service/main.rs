//! The service over real connections on loopback: gRPC, TLS, tenants, health and drain.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test binary has no outside, and a helper's panic is a test's failure"
)]

mod bounds;
mod connections;
mod drain;
mod grpc;
mod harness;
