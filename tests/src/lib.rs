//! Does it hold together: end-to-end tests and house rules.
