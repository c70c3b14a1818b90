//! Products of matrices that lie in slices, row after row. Knows no model.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

/// Where a matrix lies in a slice: its shape, and how far apart its rows begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
}

impl Extent {
    /// Rows without a gap between them.
    pub(super) fn dense(rows: usize, columns: usize) -> Self {
        Self { rows, columns, stride: columns }
    }
}

/// A matrix that begins at the slice's first number.
#[expect(clippy::expect_used, reason = "a slice too short is a slip of the caller, as an index is")]
pub(super) fn view(values: &[f32], extent: Extent) -> ArrayView2<'_, f32> {
    let shape = (extent.rows, extent.columns).strides((extent.stride, 1));
    ArrayView2::from_shape(shape, values).expect("the slice holds the matrix")
}

/// The same, to be written.
#[expect(clippy::expect_used, reason = "a slice too short is a slip of the caller, as an index is")]
pub(super) fn view_mut(values: &mut [f32], extent: Extent) -> ArrayViewMut2<'_, f32> {
    let shape = (extent.rows, extent.columns).strides((extent.stride, 1));
    ArrayViewMut2::from_shape(shape, values).expect("the slice holds the matrix")
}

/// `out = scale · a · b`, or `out += …` where `kept` is 1.
pub(super) fn multiply(
    (a, b): (ArrayView2<'_, f32>, ArrayView2<'_, f32>),
    scale: f32,
    kept: f32,
    mut out: ArrayViewMut2<'_, f32>,
) {
    general_mat_mul(scale, &a, &b, kept, &mut out);
}

/// A layer's outputs `[tokens, outputs] = inputs · weightsᵀ`, added to `out` where `kept` is 1.
pub(super) fn project(
    inputs: &[f32],
    weights: &[f32],
    tokens: usize,
    kept: f32,
    out: &mut Vec<f32>,
) {
    let (width, outputs) = (inputs.len() / tokens, weights.len() * tokens / inputs.len());
    out.resize(tokens * outputs, 0.0);
    let inputs = view(inputs, Extent::dense(tokens, width));
    let weights = view(weights, Extent::dense(outputs, width));
    multiply((inputs, weights.t()), 1.0, kept, view_mut(out, Extent::dense(tokens, outputs)));
}

/// The way back of [`project`]: the inputs' slopes (replaced) and, unless these are frozen, the
/// weights' (added to), from those of the outputs.
pub(super) fn project_back(
    (inputs, weights): (&[f32], &[f32]),
    slopes: &[f32],
    tokens: usize,
    input_slopes: &mut Vec<f32>,
    weight_slopes: Option<&mut [f32]>,
) {
    let (width, outputs) = (inputs.len() / tokens, slopes.len() / tokens);
    let slopes = view(slopes, Extent::dense(tokens, outputs));
    let matrix = Extent::dense(outputs, width);
    if let Some(weight_slopes) = weight_slopes {
        let inputs = view(inputs, Extent::dense(tokens, width));
        multiply((slopes.t(), inputs), 1.0, 1.0, view_mut(weight_slopes, matrix));
    }
    input_slopes.resize(tokens * width, 0.0);
    let input_slopes = view_mut(input_slopes, Extent::dense(tokens, width));
    multiply((slopes, view(weights, matrix)), 1.0, 0.0, input_slopes);
}

/// Adds a vector to every row.
pub(super) fn add_rows(rows: &mut [f32], vector: &[f32]) {
    for row in rows.chunks_exact_mut(vector.len()) {
        row.iter_mut().zip(vector).for_each(|(number, added)| *number += added);
    }
}

/// The way back of [`add_rows`]: the vector's slopes are added to.
pub(super) fn sum_rows(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
    }
}
