//! Floats of 16 bits, widened: exact, without a branch, so that it vectorises.

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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_bfloat_is_half_an_f32() {
        for value in [1.0_f32, -2.5, f32::INFINITY, 0.0] {
            let bits = u16::try_from(value.to_bits() >> 16).unwrap_or(0);
            assert_eq!(widen_bfloat(bits).to_bits(), value.to_bits());
        }
    }
}
