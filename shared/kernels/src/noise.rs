//! Numbers for tests: made up, with the extremes among them, and how near a result must come.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "made-up numbers")]

use proptest::prelude::*;

/// A stream of numbers from a seed.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 29
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.bits() & 0xFF) as u8
    }

    /// Now and then 0, huge or tiny; else within ±2.
    pub(crate) fn value(&mut self) -> f32 {
        let fraction = (self.bits() % 65_536) as f32 / 16_384.0 - 2.0;
        match self.bits() % 64 {
            0 => 0.0,
            1 => fraction * 1e6,
            2 => fraction * 1e-40,
            _ => fraction,
        }
    }

    /// A finite half, subnormal ones among them.
    pub(crate) fn half(&mut self) -> [u8; 2] {
        let bits = (self.bits() & 0xFFFF) as u16;
        let small = bits & 0x8000 | ((bits & 0x7FFF) % 0x4000);
        small.to_le_bytes()
    }
}

/// Any finite number: denormals, zeros of both signs and the greatest are frequent.
pub(crate) fn number() -> impl Strategy<Value = f32> {
    const EXTREMES: [f32; 8] =
        [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE / 8.0, 1e-45, -1e-45];
    prop_oneof![
        6 => -4.0_f32..4.0,
        1 => any::<f32>().prop_filter("finite", |value| value.is_finite()),
        1 => prop::sample::select(EXTREMES.to_vec()),
    ]
}

/// So many of them.
pub(crate) fn numbers(
    count: impl Into<prop::collection::SizeRange>,
) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(number(), count)
}

pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Whether a result whose terms are as large as `size` is as near as rounding lets it be. Terms that
/// no f32 holds may become anything.
pub(crate) fn is_near(ours: f32, exact: f64, size: f64) -> bool {
    let is_held = size < f64::from(f32::MAX) / 2.0;
    !is_held || (f64::from(ours) - exact).abs() <= size * 2e-6 + 1e-40
}
