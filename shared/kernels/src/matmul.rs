//! Activations times weights: each weight is read once for all rows of a step.

use rayon::prelude::*;

use crate::dispatch::for_each_instruction_set;
use crate::lanes::dot_tile;

mod limits {
    /// Below this many products a second thread costs more than it saves.
    pub(super) const PRODUCTS_PER_TASK_MIN: usize = 1 << 16;
    /// Pieces of work per thread, so that a slow thread can be helped.
    pub(super) const TASKS_PER_THREAD: usize = 4;
}

/// `out[row, o] = Σ inputs[row, i] · weights[o, i]`.
///
/// Shapes, all row-major: `inputs` `[rows, width]`, `weights` `[outputs, width]`, `out`
/// `[rows, outputs]`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn matmul(inputs: &[f32], weights: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0, "rows have no width");
    let (rows, outputs) = (inputs.len() / width, weights.len() / width);
    assert_eq!(inputs.len(), rows * width, "inputs are not whole rows");
    assert_eq!(weights.len(), outputs * width, "weights are not whole rows");
    assert_eq!(out.len(), rows * outputs, "the output has another shape");
    if rows == 1 {
        multiply_in_parallel(inputs, weights, width, out);
    } else if rows > 0 {
        let mut by_output = vec![0.0; out.len()];
        multiply_in_parallel(inputs, weights, width, &mut by_output);
        transpose(&by_output, rows, out);
    }
}

/// As [`matmul`], with `by_output` `[outputs, rows]`, so that a task writes one stretch of it.
fn multiply_in_parallel(inputs: &[f32], weights: &[f32], width: usize, by_output: &mut [f32]) {
    let (rows, outputs) = (inputs.len() / width, weights.len() / width);
    let tasks = rayon::current_num_threads() * limits::TASKS_PER_THREAD;
    let smallest = limits::PRODUCTS_PER_TASK_MIN.div_ceil(rows * width);
    let outputs_per_task = outputs.div_ceil(tasks).max(smallest).next_multiple_of(4);
    if outputs_per_task >= outputs {
        return multiply(inputs, weights, width, by_output);
    }
    let weight_parts = weights.par_chunks(outputs_per_task * width);
    let out_parts = by_output.par_chunks_mut(outputs_per_task * rows);
    weight_parts
        .zip(out_parts)
        .for_each(|(weights, out)| multiply(inputs, weights, width, out));
}

for_each_instruction_set! {
    fn multiply(inputs: &[f32], weights: &[f32], width: usize, by_output: &mut [f32])
        = multiply_tiles
}

#[inline(always)]
fn multiply_tiles(inputs: &[f32], weights: &[f32], width: usize, by_output: &mut [f32]) {
    let rows = inputs.len() / width;
    if rows == 1 {
        return multiply_outputs::<1, 4>(inputs, weights, width, by_output);
    }
    multiply_outputs::<2, 2>(inputs, weights, width, by_output);
}

/// Goes through the outputs `N` at a time, what is left one at a time.
#[inline(always)]
fn multiply_outputs<const M: usize, const N: usize>(
    inputs: &[f32],
    weights: &[f32],
    width: usize,
    by_output: &mut [f32],
) {
    let rows = inputs.len() / width;
    let whole = weights.len() / (width * N) * N;
    let (whole_weights, other_weights) = weights.split_at(whole * width);
    let (whole_out, other_out) = by_output.split_at_mut(whole * rows);
    let tiles = whole_weights
        .chunks_exact(N * width)
        .zip(whole_out.chunks_exact_mut(N * rows));
    for (weights, out) in tiles {
        multiply_rows::<M, N>(inputs, weights, width, out);
    }
    for (weights, out) in other_weights
        .chunks_exact(width)
        .zip(other_out.chunks_exact_mut(rows))
    {
        multiply_rows::<M, 1>(inputs, weights, width, out);
    }
}

/// All rows against `N` outputs, `M` rows at a time.
#[inline(always)]
fn multiply_rows<const M: usize, const N: usize>(
    inputs: &[f32],
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let rows = inputs.len() / width;
    let row = |index: usize| &inputs[index * width..(index + 1) * width];
    let weights: [&[f32]; N] = std::array::from_fn(|n| &weights[n * width..(n + 1) * width]);
    let mut at = 0;
    while at + M <= rows {
        let sums = dot_tile::<M, N>(std::array::from_fn(|m| row(at + m)), weights);
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                out[n * rows + at + m] = *sum;
            }
        }
        at += M;
    }
    for at in at..rows {
        let [sums] = dot_tile::<1, N>([row(at)], weights);
        for (n, sum) in sums.iter().enumerate() {
            out[n * rows + at] = *sum;
        }
    }
}

/// `[outputs, rows]` to `[rows, outputs]`, in blocks that stay in cache.
fn transpose(by_output: &[f32], rows: usize, out: &mut [f32]) {
    const BLOCK: usize = 16;
    let outputs = by_output.len() / rows;
    for first in (0..outputs).step_by(BLOCK) {
        for row in 0..rows {
            for output in first..(first + BLOCK).min(outputs) {
                out[row * outputs + output] = by_output[output * rows + row];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::dot;
    use proptest::prelude::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 32_768.0 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    proptest! {
        /// Each result has the bits of one portable dot product, whatever shares the call.
        #[test]
        fn every_row_has_the_bits_it_has_alone(
            rows in 0_usize..6, outputs in 0_usize..11, width in 1_usize..70, seed: u32,
        ) {
            let (inputs, weights) = (noise(rows * width, seed), noise(outputs * width, !seed));
            let mut out = vec![f32::NAN; rows * outputs];
            matmul(&inputs, &weights, width, &mut out);
            for row in 0..rows {
                for output in 0..outputs {
                    let input = &inputs[row * width..(row + 1) * width];
                    let alone = dot(input, &weights[output * width..(output + 1) * width]);
                    prop_assert_eq!(out[row * outputs + output].to_bits(), alone.to_bits());
                }
            }
        }
    }

    #[test]
    fn large_enough_to_be_shared_by_threads() {
        let (rows, outputs, width) = (3, 1000, 200);
        let (inputs, weights) = (noise(rows * width, 1), noise(outputs * width, 2));
        let mut out = vec![f32::NAN; rows * outputs];
        matmul(&inputs, &weights, width, &mut out);
        for (index, value) in out.iter().enumerate() {
            let (row, output) = (index / outputs, index % outputs);
            let input = &inputs[row * width..(row + 1) * width];
            let alone = dot(input, &weights[output * width..(output + 1) * width]);
            assert_eq!(value.to_bits(), alone.to_bits());
        }
    }

    #[test]
    #[should_panic(expected = "another shape")]
    fn refuses_shapes_that_do_not_fit() {
        matmul(&[1.0; 4], &[1.0; 4], 2, &mut [0.0; 3]);
    }
}
