//! Shares of counts.

/// A part of a whole; nothing of nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { as_float(part) / as_float(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^52")]
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}
