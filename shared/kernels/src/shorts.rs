//! Sums of products of codes on instruction sets that multiply bytes into 16 bits: as many
//! products as fit are summed there, and only then widened. Integers, so the order is free.

use crate::simd::Simd;

/// The greatest magnitude of an activation's code.
const CODE_MAX: usize = 127;

/// As [`Simd::sum_products`].
#[inline(always)]
pub(crate) fn sum_products<S: Simd, const BITS: u32, const FIRST: usize, const COUNT: usize>(
    simd: S,
    weights: &[S::Bytes; 8],
    codes: &[[i8; 4]; 8],
) -> S::Ints {
    let run = const {
        assert!(products_that_fit(BITS) > 0, "not even one product fits");
        products_that_fit(BITS)
    };
    let mut sum = simd.splat_int(0);
    let mut group = FIRST;
    while group < FIRST + COUNT {
        let mut shorts = simd.products(weights[group], codes[group]);
        for next in group + 1..(group + run).min(FIRST + COUNT) {
            shorts = simd.add_shorts(shorts, simd.products(weights[next], codes[next]));
        }
        sum = simd.add_ints(sum, widen(simd, shorts));
        group += run;
    }
    sum
}

/// Pairs of products with weights of `bits` bits whose sum fits into 16.
const fn products_that_fit(bits: u32) -> usize {
    let pair = 2 * CODE_MAX * ((1 << bits) - 1);
    i16::MAX.unsigned_abs() as usize / pair
}

/// As [`Simd::sum_signed_products`]. A single product may fill 16 bits, so that each is widened.
#[inline(always)]
pub(crate) fn sum_signed_products<S: Simd>(
    simd: S,
    weights: &[S::Bytes; 8],
    codes: &[[i8; 4]; 8],
) -> S::Ints {
    let mut sum = widen(simd, simd.signed_products(weights[0], codes[0]));
    for group in 1..8 {
        let products = simd.signed_products(weights[group], codes[group]);
        sum = simd.add_ints(sum, widen(simd, products));
    }
    sum
}

/// As [`Simd::sum_scaled_halves`]: widening multiplies, so that it can scale as well.
#[inline(always)]
pub(crate) fn sum_scaled_halves<S: Simd>(
    simd: S,
    weights: &[S::Bytes; 8],
    codes: &[[i8; 4]; 8],
    scales: S::Shorts,
) -> S::Ints {
    let (first, second) = (simd.first_of_pairs(scales), simd.second_of_pairs(scales));
    let mut sum = simd.splat_int(0);
    for (group, scale) in [(0, first), (2, first), (4, second), (6, second)] {
        let one = simd.products(weights[group], codes[group]);
        let other = simd.products(weights[group + 1], codes[group + 1]);
        sum = simd.add_ints(sum, simd.dot_pairs(simd.add_shorts(one, other), scale));
    }
    sum
}

/// Σ of pairs of shorts, as integers.
#[inline(always)]
fn widen<S: Simd>(simd: S, a: S::Shorts) -> S::Ints {
    simd.dot_pairs(a, simd.splat_pair([1, 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_products_are_summed_as_fit() {
        for (bits, count) in [(4, 8), (5, 4), (6, 2)] {
            let greatest = 2 * CODE_MAX * ((1 << bits) - 1);
            assert_eq!(products_that_fit(bits), count);
            assert!(greatest * count <= 0x7FFF);
        }
    }
}
