//! Rotary positions in the interleaved layout of GGUF Llama files.

/// Turns pairs (2i, 2i+1) of each head by the angles of one position.
///
/// `vectors` is `[heads, head_width]`; `angles` holds (cos, sin) of the first `angles.len()` pairs
/// of a head, the others stay.
///
/// # Panics
/// If a head has fewer pairs than there are angles.
pub fn rotate_interleaved(vectors: &mut [f32], head_width: usize, angles: &[(f32, f32)]) {
    assert!(2 * angles.len() <= head_width, "more angles than pairs");
    for head in vectors.chunks_exact_mut(head_width) {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
            let (x, y) = (pair[0], pair[1]);
            pair[0] = x * cos - y * sin;
            pair[1] = x * sin + y * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_each_pair_and_leaves_the_rest() {
        let mut vectors = [1.0, 0.0, 0.0, 2.0, 5.0, 6.0, 3.0, 4.0, 1.0, 1.0, 7.0, 8.0];
        rotate_interleaved(&mut vectors, 6, &[(0.0, 1.0), (-1.0, 0.0)]);
        let expected = [0.0, 1.0, 0.0, -2.0, 5.0, 6.0, -4.0, 3.0, -1.0, -1.0, 7.0, 8.0];
        for (value, expected) in vectors.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{vectors:?}");
        }
    }
}
