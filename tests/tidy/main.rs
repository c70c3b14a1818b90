//! House rules as ordinary tests: what a reviewer would otherwise have to remember.
//! Each rule is a function from text to findings, held once against the tree and once against a
//! bad sample, so that no rule can fall silent. Knows files and manifests, no code of ours.
//!
//! | File | Rules |
//! |---|---|
//! | `arrows.rs` | which crate may depend on which |
//! | `sources.rs` | how a Rust file opens, is named, and what it may not hold |
//! | `documents.rs` | decision records, links, paths and hosts that belong to one machine |
//! | `packages.rs` | licences and bans of everything in the lock file |
//! | `tree.rs`, `rust_text.rs` | which files there are; a Rust file without comments or tests |

#![allow(clippy::expect_used, clippy::panic, reason = "a rule that cannot be read has failed")]

mod arrows;
mod documents;
mod packages;
mod rust_text;
mod sources;
mod tree;

/// Fails with one line a finding.
#[track_caller]
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
