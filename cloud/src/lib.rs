//! The service: keeps a large model's caches and continues answers.
//!
//! The edge owns the transcript, the cloud owns a cache of it: whatever is lost here, the next
//! attempt brings again. One call passes these files in this order:
//!
//! | File | Owns |
//! |---|---|
//! | `listener.rs`, `peer.rs` | connections: TLS, handshakes, the tenant, the cut at the end |
//! | `tenant_places.rs` | how many of them one tenant has |
//! | `service.rs` | gRPC to domain and back |
//! | `engine.rs` and its folder | the one thread that owns model and sessions |
//! | `admission.rs` | who may come in |
//! | `store.rs`, `session.rs` | sessions of all tenants; one session's log and KV |
//! | `scheduler.rs` | who runs in the next step |
//! | `call.rs` | one admitted call and whom to tell |
//! | `server.rs` | [`serve`]: start, ready, drain, stop |
//! | `config.rs`, `error.rs`, `metrics.rs` | settings, faults, counters |
//!
//! It must not know of commands, policies or text: ids come in and ids go out.

pub mod admission;
pub mod call;
pub mod config;
pub mod engine;
pub mod error;
pub mod listener;
pub mod metrics;
pub mod peer;
pub mod scheduler;
pub mod server;
pub mod service;
pub mod session;
pub mod store;
pub mod tenant_places;

pub use config::{CloudSettings, SettingError};
pub use error::ServeError;
pub use server::serve;
