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
    assert!(
        left.iter().chain(&right).all(|slice| slice.len() == len),
        "lengths differ"
    );
    let whole = len / LANES;
    let left_chunks = left.map(|slice| &slice.as_chunks::<LANES>().0[..whole]);
    let right_chunks = right.map(|slice| &slice.as_chunks::<LANES>().0[..whole]);
    let mut sums = [[[0.0; LANES]; N]; M];
    for chunk in 0..whole {
        for m in 0..M {
            for n in 0..N {
                add_products(
                    &mut sums[m][n],
                    &left_chunks[m][chunk],
                    &right_chunks[n][chunk],
                );
            }
        }
    }
    if whole * LANES < len {
        add_rest(
            &mut sums,
            left.map(|s| &s[whole * LANES..]),
            right.map(|s| &s[whole * LANES..]),
        );
    }
    sums.map(|row| row.map(tree_sum))
}

#[inline(always)]
fn add_products(sums: &mut Lanes, left: &Lanes, right: &Lanes) {
    for lane in 0..LANES {
        sums[lane] += left[lane] * right[lane];
    }
}

/// The last, incomplete chunk: element `i` of it goes to lane `i`.
fn add_rest<const M: usize, const N: usize>(
    sums: &mut [[Lanes; N]; M],
    left: [&[f32]; M],
    right: [&[f32]; N],
) {
    for (sums, left) in sums.iter_mut().zip(left) {
        for (sums, right) in sums.iter_mut().zip(right) {
            for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
                *sum += left * right;
            }
        }
    }
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
