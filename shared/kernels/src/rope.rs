//! Rotary positions in the two layouts that model files have.

use crate::cpu::{Cpu, Kernel};
use crate::simd::Simd;

/// Turns the pairs (2i, 2i+1) of each head by the angles of one position.
///
/// `vectors` is `[heads, head_width]`; `angles` holds (cos, sin) of the first `angles.len()`
/// pairs of a head, the others stay.
///
/// # Panics
/// If the last head is incomplete, or a head has fewer pairs than there are angles.
pub fn rotate_interleaved(cpu: Cpu, vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)]) {
    check(vectors, head_width, angles);
    cpu.run(TurnNeighbours { vectors, head_width, angles });
}

/// As [`rotate_interleaved`], for the pairs (i, i + `angles.len()`).
///
/// # Panics
/// If the last head is incomplete, or a head has fewer pairs than there are angles.
pub fn rotate_halves(cpu: Cpu, vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)]) {
    check(vectors, head_width, angles);
    cpu.run(TurnHalves { vectors, head_width, angles });
}

fn check(vectors: &[f32], head_width: usize, angles: &[(f32, f32)]) {
    assert!(head_width > 0, "heads have no width");
    assert!(vectors.len().is_multiple_of(head_width), "the last head is incomplete");
    assert!(2 * angles.len() <= head_width, "more angles than pairs");
}

struct TurnNeighbours<'a> {
    vectors: &'a mut [f32],
    head_width: usize,
    angles: &'a [(f32, f32)],
}

impl Kernel for TurnNeighbours<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for head in self.vectors.chunks_exact_mut(self.head_width) {
            for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(self.angles) {
                (pair[0], pair[1]) = turned(pair[0], pair[1], *cos, *sin);
            }
        }
    }
}

struct TurnHalves<'a> {
    vectors: &'a mut [f32],
    head_width: usize,
    angles: &'a [(f32, f32)],
}

impl Kernel for TurnHalves<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for head in self.vectors.chunks_exact_mut(self.head_width) {
            let (first, second) = head.split_at_mut(self.angles.len());
            for ((x, y), (cos, sin)) in first.iter_mut().zip(second).zip(self.angles) {
                (*x, *y) = turned(*x, *y, *cos, *sin);
            }
        }
    }
}

/// Two products and one sum, each rounded.
#[inline(always)]
fn turned(x: f32, y: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x * cos - y * sin, x * sin + y * cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{is_near, numbers, same_bits};
    use proptest::prelude::*;

    type Rotate = fn(Cpu, &mut [f32], usize, &[(f32, f32)]);

    #[test]
    fn turns_each_pair_and_leaves_the_rest() {
        let table: [(Rotate, [f32; 12]); 2] = [
            (rotate_interleaved, [0.0, 1.0, 0.0, -2.0, 5.0, 6.0, -4.0, 3.0, -1.0, -1.0, 7.0, 8.0]),
            (rotate_halves, [0.0, 0.0, 1.0, -2.0, 5.0, 6.0, -1.0, -4.0, 3.0, -1.0, 7.0, 8.0]),
        ];
        for (rotate, expected) in table {
            let mut vectors = [1.0, 0.0, 0.0, 2.0, 5.0, 6.0, 3.0, 4.0, 1.0, 1.0, 7.0, 8.0];
            rotate(Cpu::best(), &mut vectors, 6, &[(0.0, 1.0), (-1.0, 0.0)]);
            for (value, expected) in vectors.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-6, "{vectors:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn is_its_formula_for_any_numbers(
            turns in prop::collection::vec(-7.0_f32..7.0, 0..40), rest in 0_usize..4,
            heads in 0_usize..4, pool in numbers(252),
        ) {
            let angles: Vec<(f32, f32)> = turns.iter().map(|turn| (turn.cos(), turn.sin())).collect();
            let (pairs, head_width) = (angles.len(), 2 * angles.len() + rest);
            prop_assume!(head_width > 0);
            let vectors = &pool[..heads * head_width];
            for is_interleaved in [true, false] {
                let rotate: Rotate = if is_interleaved { rotate_interleaved } else { rotate_halves };
                let turned = |cpu| {
                    let mut vectors = vectors.to_vec();
                    rotate(cpu, &mut vectors, head_width, &angles);
                    vectors
                };
                let portable = turned(Cpu::PORTABLE);
                for cpu in Cpu::others() {
                    prop_assert!(same_bits(&turned(cpu), &portable), "{}", cpu.name());
                }
                let heads = vectors.chunks(head_width).zip(portable.chunks(head_width));
                for (before, after) in heads {
                    prop_assert!(same_bits(&before[2 * pairs..], &after[2 * pairs..]));
                    for (pair, (cos, sin)) in angles.iter().enumerate() {
                        let (a, b) =
                            if is_interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
                        let [x, y, cos, sin] = [before[a], before[b], *cos, *sin].map(f64::from);
                        let size = x.abs() + y.abs();
                        prop_assert!(is_near(after[a], x * cos - y * sin, size));
                        prop_assert!(is_near(after[b], x * sin + y * cos, size));
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the last head is incomplete")]
    fn a_ragged_end_is_refused() {
        rotate_halves(Cpu::best(), &mut [1.0; 9], 6, &[(0.0, 1.0)]);
    }
}
