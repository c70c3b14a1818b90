//! The one order in which products are summed: 16 lanes, then a tree.

/// Lanes of every sum. Part of the meaning of a result: another number gives other bits.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// Sum of products of two slices of the same length.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len(), "lengths differ");
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        sums = add_products(sums, left, right);
    }
    if !left_rest.is_empty() {
        sums = add_products(sums, &filled_up(left_rest), &filled_up(right_rest));
    }
    tree_sum(sums)
}

/// By value, so that sums stay in registers.
#[inline(always)]
fn add_products(sums: Lanes, left: &Lanes, right: &Lanes) -> Lanes {
    let mut sums = sums;
    for lane in 0..LANES {
        sums[lane] += left[lane] * right[lane];
    }
    sums
}

/// The last, incomplete chunk, filled up with zeros.
#[inline(always)]
fn filled_up(rest: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

#[inline(always)]
fn tree_sum(lanes: Lanes) -> f32 {
    let mut sums = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, is_near};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn close_to_the_exact_sum(seed: u64, len in 0_usize..200) {
            let mut noise = Noise(seed);
            let (left, right): (Vec<f32>, Vec<f32>) =
                (0..len).map(|_| (noise.value(), noise.value())).unzip();
            let terms = left.iter().zip(&right).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let size = terms.clone().map(f64::abs).sum();
            prop_assert!(is_near(dot(&left, &right), terms.sum(), size));
        }
    }
}
