//! The wire: relay.v1 and its conversion into domain types.
//!
//! The schema is `relay/v1/relay.proto`; [`v1`] is generated from it. Bytes become trusted values
//! in [`convert`] and nowhere else: a program never reads a field of a generated message. Knows no
//! model, no socket and no certificate.
//!
//! Rules of compatibility: within relay.v1 a field keeps number, name, type and meaning; a field
//! that goes leaves both reserved; a new one is optional and its absence means what it meant
//! before. A reader skips fields it does not know, and refuses enum values and variants it does
//! not know, since it could not act on them. Whatever makes tokens or hashes come out differently
//! raises [`relay::call::PROTOCOL_VERSION`]. `tests/compat.rs` fails on every change of the schema,
//! so that each is looked at.

pub mod convert;
pub mod size;

/// Generated from `relay/v1/relay.proto`: messages, `relay_client` and `relay_server`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("relay.v1");
}

/// The compiled schema, an encoded `google.protobuf.FileDescriptorSet`: for reflection and tests.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/relay.v1.descriptors"));
