//! Rotary positions in the two layouts that model files have.

use crate::dispatch::for_each_instruction_set;

for_each_instruction_set! {
    /// Turns the pairs (2i, 2i+1) of each head by the angles of one position.
    ///
    /// `vectors` is `[heads, head_width]`; `angles` holds (cos, sin) of the first `angles.len()`
    /// pairs of a head, the others stay.
    ///
    /// # Panics
    /// If a head has fewer pairs than there are angles.
    pub fn rotate_interleaved(vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)])
        = turn_neighbours
}

for_each_instruction_set! {
    /// As [`rotate_interleaved`], for the pairs (i, i + `angles.len()`).
    ///
    /// # Panics
    /// If a head has fewer pairs than there are angles.
    pub fn rotate_halves(vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)])
        = turn_halves
}

#[inline(always)]
fn turn_neighbours(vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)]) {
    assert!(2 * angles.len() <= head_width, "more angles than pairs");
    for head in vectors.chunks_exact_mut(head_width) {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
            (pair[0], pair[1]) = turned(pair[0], pair[1], *cos, *sin);
        }
    }
}

#[inline(always)]
fn turn_halves(vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)]) {
    let pairs = angles.len();
    assert!(2 * pairs <= head_width, "more angles than pairs");
    for head in vectors.chunks_exact_mut(head_width) {
        let (first, second) = head.split_at_mut(pairs);
        for ((x, y), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
            (*x, *y) = turned(*x, *y, *cos, *sin);
        }
    }
}

#[inline(always)]
fn turned(x: f32, y: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x * cos - y * sin, x * sin + y * cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rotate = fn(&mut [f32], usize, &[(f32, f32)]);

    #[test]
    fn turns_each_pair_and_leaves_the_rest() {
        let table: [(Rotate, [f32; 12]); 2] = [
            (rotate_interleaved, [0.0, 1.0, 0.0, -2.0, 5.0, 6.0, -4.0, 3.0, -1.0, -1.0, 7.0, 8.0]),
            (rotate_halves, [0.0, 0.0, 1.0, -2.0, 5.0, 6.0, -1.0, -4.0, 3.0, -1.0, 7.0, 8.0]),
        ];
        for (rotate, expected) in table {
            let mut vectors = [1.0, 0.0, 0.0, 2.0, 5.0, 6.0, 3.0, 4.0, 1.0, 1.0, 7.0, 8.0];
            rotate(&mut vectors, 6, &[(0.0, 1.0), (-1.0, 0.0)]);
            for (value, expected) in vectors.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-6, "{vectors:?}");
            }
        }
    }
}
