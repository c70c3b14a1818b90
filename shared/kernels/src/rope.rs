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

    #[test]
    fn instruction_sets_give_the_same_bits() {
        let wave = |step: f32| (0_u8..96).map(move |i| (f32::from(i) * step).sin());
        let angles: Vec<(f32, f32)> = wave(0.7).zip(wave(0.3)).take(15).collect();
        for rotate in [rotate_interleaved as Rotate, rotate_halves] {
            let turned = |cpu| {
                let mut vectors: Vec<f32> = wave(0.11).collect();
                rotate(cpu, &mut vectors, 32, &angles);
                vectors.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            for cpu in Cpu::others() {
                assert_eq!(turned(cpu), turned(Cpu::PORTABLE));
            }
        }
    }

    #[test]
    #[should_panic(expected = "the last head is incomplete")]
    fn a_ragged_end_is_refused() {
        rotate_halves(Cpu::best(), &mut [1.0; 9], 6, &[(0.0, 1.0)]);
    }
}
