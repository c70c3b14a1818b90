//! Activations times weights: each weight is read once for all rows of a step.

use std::ops::Range;

use rayon::prelude::*;

use crate::dispatch::for_each_instruction_set;
use crate::lanes::dot_tile;
use crate::weights::Weights;

/// Outputs whose weights are worked on together.
const OUTPUT_TILE: usize = 4;

mod limits {
    /// Below this many products a second thread costs more than it saves.
    pub(super) const PRODUCTS_PER_TASK_MIN: usize = 1 << 16;
    /// Pieces of work per thread, so that a slow thread can be helped.
    pub(super) const TASKS_PER_THREAD: usize = 4;
    /// Floats of the rows that are worked on together: they share the nearest cache with a tile
    /// of weights.
    pub(super) const BLOCK_FLOATS: usize = 5120;
    /// Fewer rows than this are not worth expanding weights for.
    pub(super) const BLOCK_ROWS_MIN: usize = 4;
}

/// `out[row, o] = Σ inputs[row, i] · weights[o, i]`.
///
/// Shapes, all row-major: `inputs` `[rows, width]`, `weights` `[outputs, width]`, `out`
/// `[rows, outputs]`. The weights may come in several parts, one's outputs after the other's.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn matmul(inputs: &[f32], weights: &[Weights<'_>], width: usize, out: &mut [f32]) {
    assert!(width > 0, "rows have no width");
    let rows = inputs.len() / width;
    let outputs = weights.iter().map(|part| part.len() / width).sum::<usize>();
    assert_eq!(inputs.len(), rows * width, "inputs are not whole rows");
    let whole = weights.iter().all(|part| part.len().is_multiple_of(width));
    assert!(whole, "weights are not whole rows");
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
fn multiply_in_parallel(
    inputs: &[f32],
    weights: &[Weights<'_>],
    width: usize,
    by_output: &mut [f32],
) {
    let rows = inputs.len() / width;
    let outputs = by_output.len() / rows;
    let tasks = rayon::current_num_threads() * limits::TASKS_PER_THREAD;
    let smallest = limits::PRODUCTS_PER_TASK_MIN.div_ceil(rows * width);
    let outputs_per_task = outputs.div_ceil(tasks).max(smallest).next_multiple_of(OUTPUT_TILE);
    if outputs_per_task >= outputs {
        return multiply_parts(inputs, weights, 0, width, by_output);
    }
    let stretches = by_output.par_chunks_mut(outputs_per_task * rows).enumerate();
    stretches.for_each(|(index, out)| {
        multiply_parts(inputs, weights, index * outputs_per_task, width, out);
    });
}

/// The outputs from `first` on that `by_output` has room for, from whichever parts they are in.
fn multiply_parts(
    inputs: &[f32],
    weights: &[Weights<'_>],
    first: usize,
    width: usize,
    by_output: &mut [f32],
) {
    let rows = inputs.len() / width;
    let mut rest = by_output;
    let mut before = 0;
    for part in weights {
        let outputs = part.len() / width;
        let from = first.saturating_sub(before).min(outputs);
        let count = (outputs - from).min(rest.len() / rows);
        let (out, others) = rest.split_at_mut(count * rows);
        if count > 0 {
            multiply(inputs, part.part(from * width..(from + count) * width), width, out);
        }
        rest = others;
        before += outputs;
    }
}

for_each_instruction_set! {
    fn multiply(inputs: &[f32], weights: Weights<'_>, width: usize, by_output: &mut [f32])
        = multiply_tiles
}

/// Goes through the rows in blocks that stay in the nearest cache, and for each through the
/// outputs a tile at a time, what is left one at a time. A tile's weights are expanded once a
/// block.
#[inline(always)]
fn multiply_tiles(inputs: &[f32], weights: Weights<'_>, width: usize, by_output: &mut [f32]) {
    let all_rows = inputs.len() / width;
    let block_rows = (limits::BLOCK_FLOATS / width).max(limits::BLOCK_ROWS_MIN);
    let outputs = by_output.len() / all_rows;
    let whole = outputs / OUTPUT_TILE * OUTPUT_TILE;
    let mut scratch = Vec::new();
    for first_row in (0..all_rows).step_by(block_rows) {
        let rows = first_row..(first_row + block_rows).min(all_rows);
        for first in (0..whole).step_by(OUTPUT_TILE) {
            let part = weights.part(first * width..(first + OUTPUT_TILE) * width);
            let out = &mut by_output[first * all_rows..(first + OUTPUT_TILE) * all_rows];
            multiply_tile(inputs, rows.clone(), part.values(&mut scratch), width, out);
        }
        for output in whole..outputs {
            let part = weights.part(output * width..(output + 1) * width);
            let out = &mut by_output[output * all_rows..(output + 1) * all_rows];
            multiply_rows::<1, 1>(inputs, rows.clone(), part.values(&mut scratch), width, out);
        }
    }
}

/// A block of rows against one tile of outputs, in pieces whose sums fit into registers.
#[inline(always)]
fn multiply_tile(
    inputs: &[f32],
    rows: Range<usize>,
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    if rows.len() == 1 {
        return multiply_rows::<1, OUTPUT_TILE>(inputs, rows, weights, width, out);
    }
    let all_rows = inputs.len() / width;
    let pairs = weights.chunks_exact(2 * width).zip(out.chunks_exact_mut(2 * all_rows));
    for (weights, out) in pairs {
        multiply_rows::<2, 2>(inputs, rows.clone(), weights, width, out);
    }
}

/// A block of rows against `N` outputs, `M` rows at a time.
#[inline(always)]
fn multiply_rows<const M: usize, const N: usize>(
    inputs: &[f32],
    rows: Range<usize>,
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let all_rows = inputs.len() / width;
    let row = |index: usize| &inputs[index * width..(index + 1) * width];
    let weights: [&[f32]; N] = std::array::from_fn(|n| &weights[n * width..(n + 1) * width]);
    let mut at = rows.start;
    while at + M <= rows.end {
        let sums = dot_tile::<M, N>(std::array::from_fn(|m| row(at + m)), weights);
        for (m, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                out[n * all_rows + at + m] = *sum;
            }
        }
        at += M;
    }
    for at in at..rows.end {
        let [sums] = dot_tile::<1, N>([row(at)], weights);
        for (n, sum) in sums.iter().enumerate() {
            out[n * all_rows + at] = *sum;
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
    use crate::blocks::WeightFormat;
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
            matmul(&inputs, &[Weights::Dense(&weights)], width, &mut out);
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
        let (first, second) = weights.split_at(333 * width);
        let parts = [first, &[], second].map(Weights::Dense);
        matmul(&inputs, &parts, width, &mut out);
        for (index, value) in out.iter().enumerate() {
            let (row, output) = (index / outputs, index % outputs);
            let input = &inputs[row * width..(row + 1) * width];
            let alone = dot(input, &weights[output * width..(output + 1) * width]);
            assert_eq!(value.to_bits(), alone.to_bits());
        }
    }

    proptest! {
        /// Blocks give the bits of the values they stand for, in one part or several.
        #[test]
        fn blocks_are_the_values_they_stand_for(
            rows in 1_usize..5, outputs in 1_usize..11, more in 0_usize..7, blocks in 1_usize..4,
            format in prop::sample::select(WeightFormat::ALL.to_vec()), seed: u32,
        ) {
            let width = blocks * format.block_weights();
            let inputs = noise(rows * width, seed);
            let bytes = |outputs: usize, seed| {
                let len = format.bytes_of(outputs * width).unwrap_or(0);
                // Small numbers, so that no scale is infinite.
                noise(len, seed).iter().map(|x| x.to_bits().to_le_bytes()[2] & 0x3F).collect()
            };
            let (bytes, further): (Vec<u8>, Vec<u8>) = (bytes(outputs, !seed), bytes(more, seed));
            let weights = [&bytes, &further].map(|bytes| Weights::Blocks { format, bytes });
            let mut scratch = [Vec::new(), Vec::new()];
            let [first, second] = &mut scratch;
            let values = [weights[0].values(first), weights[1].values(second)].concat();
            let mut dense = vec![0.0; rows * (outputs + more)];
            let mut blocked = vec![f32::NAN; rows * (outputs + more)];
            matmul(&inputs, &[Weights::Dense(&values)], width, &mut dense);
            matmul(&inputs, &weights, width, &mut blocked);
            prop_assert!(dense.iter().zip(&blocked).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    #[should_panic(expected = "another shape")]
    fn refuses_shapes_that_do_not_fit() {
        matmul(&[1.0; 4], &[Weights::Dense(&[1.0; 4])], 2, &mut [0.0; 3]);
    }
}
