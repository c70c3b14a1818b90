//! What every daemon needs before it does anything: settings, TLS, health, telemetry, shutdown.
