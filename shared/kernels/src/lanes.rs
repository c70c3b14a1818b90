//! The one order in which products are summed: 16 lanes, then a tree.

/// Lanes of every sum. Part of the meaning of a result: another number gives other bits.
pub(crate) const LANES: usize = 16;

pub(crate) type Lanes = [f32; LANES];

/// Sum of products of two slices of the same length.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    let [[sum]] = dot_tile([left], [right]);
    sum
}

/// Sums of products of each of `M` slices with each of `N`; every pair's sum has the bits it
/// would have alone.
#[inline(always)]
pub(crate) fn dot_tile<const M: usize, const N: usize>(
    left: [&[f32]; M],
    right: [&[f32]; N],
) -> [[f32; N]; M] {
    let len = right[0].len();
    assert!(left.iter().chain(&right).all(|slice| slice.len() == len), "lengths differ");
    let whole = len / LANES;
    let left_chunks = left.map(|slice| &slice.as_chunks::<LANES>().0[..whole]);
    let right_chunks = right.map(|slice| &slice.as_chunks::<LANES>().0[..whole]);
    let mut sums = [[[0.0; LANES]; N]; M];
    for chunk in 0..whole {
        for m in 0..M {
            for n in 0..N {
                let (left, right) = (&left_chunks[m][chunk], &right_chunks[n][chunk]);
                sums[m][n] = add_products(sums[m][n], left, right);
            }
        }
    }
    if whole * LANES < len {
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = add_products(sums[m][n], &rest(left[m]), &rest(right[n]));
            }
        }
    }
    let mut totals = [[0.0; N]; M];
    for m in 0..M {
        for n in 0..N {
            totals[m][n] = tree_sum(sums[m][n]);
        }
    }
    totals
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
fn rest(slice: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    for (lane, value) in lanes.iter_mut().zip(slice.as_chunks::<LANES>().1) {
        *lane = *value;
    }
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn close_to_the_exact_sum(pairs in prop::collection::vec((-2.0_f32..2.0, -2.0_f32..2.0), 0..200)) {
            let (left, right): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let exact: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&left, &right)) - exact).abs() < 1e-4);
        }
    }
}
