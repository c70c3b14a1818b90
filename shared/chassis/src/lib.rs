//! What every daemon needs before it does anything: settings, TLS, health, telemetry, shutdown.
//!
//! Nothing here knows what the daemon is for: no relay, no model, no gRPC. A program calls, in
//! this order, [`settings::load`], [`telemetry::init_tracing`], [`tls::server_config`] or
//! [`tls::client_config`], [`listen::bind`], [`shutdown::Shutdown::on_signals`] and
//! [`probes::serve_probes`]; each fails with a sentence that says what is wrong and what to do,
//! so that a program may print the error as it is.
//!
//! | File | Owns |
//! |---|---|
//! | `settings.rs` | defaults < file < environment < flags, unknown keys refused |
//! | `tls.rs` | mutual TLS from PEM files |
//! | `tls_reload.rs` | the same, following the files |
//! | `tenant.rs` | the name a certificate gives its bearer |
//! | `pki.rs` | an authority in a folder, for small teams and for tests |
//! | `listen.rs` | binding a socket |
//! | `health.rs` | starting, ready, draining, failed |
//! | `shutdown.rs` | signals as a value |
//! | `telemetry.rs` | logs on standard error |
//! | `probes.rs` | metrics and health over HTTP |
//!
//! Unix only: signals and file modes are part of its promises.

pub mod health;
pub mod listen;
pub mod pki;
pub mod probes;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod tenant;
pub mod tls;
pub mod tls_reload;
