//! Floats of 16 bits: widened exactly, narrowed to the nearest; without branches, so that both
//! vectorise.

use crate::dispatch::for_each_instruction_set;

/// The greatest finite half.
const GREATEST: f32 = 65_504.0;

for_each_instruction_set! {
    /// The nearest IEEE 754 halves, ties to even; the greatest finite one for what lies beyond.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn narrow_halves(values: &[f32], out: &mut [u16]) = narrow_all
}

#[inline(always)]
fn narrow_all(values: &[f32], out: &mut [u16]) {
    assert_eq!(values.len(), out.len(), "the output has another length");
    for (out, value) in out.iter_mut().zip(values) {
        *out = narrow_half(value.clamp(-GREATEST, GREATEST));
    }
}

/// The value of an IEEE 754 half-precision float.
#[inline(always)]
pub(crate) fn widen_half(bits: u16) -> f32 {
    /// The smallest bits of a number that is not subnormal, and of infinity.
    const NORMAL: u32 = 0x0400;
    const INFINITE: u32 = 0x7C00;
    /// The difference of the two formats' exponent biases, in place; twice for infinity.
    const REBIAS: u32 = (127 - 15) << 23;
    /// The smallest number that is not subnormal.
    const SMALLEST: u32 = REBIAS + (1 << 23);
    let magnitude = u32::from(bits) & 0x7FFF;
    let sign = (u32::from(bits) & 0x8000) << 16;
    let normal = (magnitude << 13) + REBIAS;
    let tiny = f32::from_bits((magnitude << 13) + SMALLEST) - f32::from_bits(SMALLEST);
    let finite = if magnitude < NORMAL { tiny.to_bits() } else { normal };
    let widened = if magnitude < INFINITE { finite } else { normal + REBIAS };
    f32::from_bits(widened | sign)
}

/// The value of a bfloat16: the upper half of an f32.
#[inline(always)]
pub(crate) fn widen_bfloat(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest IEEE 754 half-precision float, ties to even; beyond the greatest, infinity.
#[inline(always)]
pub(crate) fn narrow_half(value: f32) -> u16 {
    /// The bits of the least magnitude that becomes infinity, and of the least normal half.
    const OVERFLOW: u32 = 0x477F_F000;
    const NORMAL: u32 = 0x3880_0000;
    const REBIAS: u32 = (127 - 15) << 23;
    /// Adding it leaves a subnormal half, rounded, in the low bits.
    const ROUNDER: f32 = 0.5;
    let magnitude = value.to_bits() & 0x7FFF_FFFF;
    let sign = value.to_bits() >> 16 & 0x8000;
    let half = if magnitude > 0x7F80_0000 {
        0x7E00
    } else if magnitude >= OVERFLOW {
        0x7C00
    } else if magnitude < NORMAL {
        (f32::from_bits(magnitude) + ROUNDER).to_bits() - ROUNDER.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        (magnitude - REBIAS + 0xFFF + odd) >> 13
    };
    #[expect(clippy::cast_possible_truncation, reason = "a half has 16 bits")]
    let bits = (half | sign) as u16;
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::numbers;
    use proptest::prelude::*;

    /// The definition, with powers in f64.
    fn half_by_definition(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 0x1F), f64::from(bits & 0x3FF));
        let magnitude = match exponent {
            0 => fraction * 2_f64.powi(-24),
            31 if fraction > 0.0 => f64::NAN,
            31 => f64::INFINITY,
            _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
        };
        if bits & 0x8000 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_half_is_what_the_standard_says() {
        for bits in 0..=u16::MAX {
            let (ours, exact) = (f64::from(widen_half(bits)), half_by_definition(bits));
            assert_eq!(ours.is_nan(), exact.is_nan(), "{bits:#x}");
            assert!(exact.is_nan() || ours.to_bits() == exact.to_bits(), "{bits:#x}: {ours}");
        }
    }

    proptest! {
        #[test]
        fn narrowing_many_is_narrowing_each(values in numbers(0..70)) {
            let mut ours = vec![0; values.len()];
            narrow_halves(&values, &mut ours);
            let each = values.iter().map(|value| narrow_half(value.clamp(-GREATEST, GREATEST)));
            prop_assert_eq!(ours, each.collect::<Vec<_>>());
        }
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "halves are exact as f32")]
    fn narrowing_gives_the_nearest_half() {
        for bits in 0..0x7C00_u16 {
            let (here, above) = (widen_half(bits), half_by_definition(bits + 1));
            assert_eq!(narrow_half(here), bits);
            assert_eq!(narrow_half(-here), bits | 0x8000);
            let above = if above.is_infinite() { 65_536.0 } else { above };
            let middle = f32::midpoint(here, above as f32);
            let even = bits + bits % 2;
            assert_eq!(narrow_half(middle), even, "{middle}");
            assert_eq!(narrow_half(middle.next_down()), bits);
            assert_eq!(narrow_half(middle.next_up()), bits + 1);
        }
        let mut bounded = [0; 3];
        narrow_halves(&[1e9, -1e9, 1.0], &mut bounded);
        assert_eq!(bounded, [0x7BFF, 0xFBFF, 0x3C00]);
        assert_eq!(narrow_half(f32::INFINITY), 0x7C00);
        assert_eq!(narrow_half(f32::MIN), 0xFC00);
        assert_eq!(narrow_half(f32::MIN_POSITIVE), 0);
        assert!(widen_half(narrow_half(f32::NAN)).is_nan());
    }

    #[test]
    fn a_bfloat_is_half_an_f32() {
        for value in [1.0_f32, -2.5, f32::INFINITY, 0.0] {
            let bits = u16::try_from(value.to_bits() >> 16).unwrap_or(0);
            assert_eq!(widen_bfloat(bits).to_bits(), value.to_bits());
        }
    }
}
