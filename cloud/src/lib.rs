//! The service: keeps a large model's caches and continues answers.
