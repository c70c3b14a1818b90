//! One product with its bias and its adapters, forth and back. Knows no model.

use super::adapters::AdapterPlaces;
use super::matrix::{Extent, add_rows, multiply, project, project_back, sum_rows, view, view_mut};
use super::places::LinearPlaces;
use super::weights::Weights;

/// What the way back of a product needs of its adapters: A·x of each, `[tokens, rank]`.
#[derive(Debug, Default)]
pub(super) struct LinearTape {
    inner: Vec<Vec<f32>>,
    slopes: Vec<f32>,
}

impl LinearPlaces {
    /// Outputs `[tokens, outputs]`, added to `out` where `kept` is 1.
    pub(super) fn forward(
        &self,
        weights: &Weights,
        inputs: &[f32],
        kept: f32,
        tape: &mut LinearTape,
        (tokens, out): (usize, &mut Vec<f32>),
    ) {
        let base = weights.base();
        project(inputs, &base[self.matrix.clone()], tokens, kept, out);
        if !self.bias.is_empty() {
            add_rows(out, &base[self.bias.clone()]);
        }
        tape.inner.resize_with(self.adapters.len(), Vec::new);
        for (adapter, inner) in self.adapters.iter().zip(&mut tape.inner) {
            project(inputs, &weights.values[adapter.inner.clone()], tokens, 0.0, inner);
            let (columns, rank) = (adapter.columns.len(), inner.len() / tokens);
            let outer = &weights.values[adapter.outer.clone()];
            let outer = view(outer, Extent::dense(columns, rank));
            let extent = adapter.extent(tokens, out.len());
            let out = view_mut(&mut out[adapter.columns.start..], extent);
            let inner = view(inner, Extent::dense(tokens, rank));
            multiply((inner, outer.t()), weights.adapter_scale(), 1.0, out);
        }
    }

    /// Slopes of the inputs (replaced), and of what learns (added to), from those of the outputs.
    pub(super) fn backward(
        &self,
        weights: &Weights,
        inputs: &[f32],
        tape: &mut LinearTape,
        (tokens, slopes): (usize, &[f32]),
        input_slopes: &mut Vec<f32>,
        gradient: &mut [f32],
    ) {
        let matrix = &weights.base()[self.matrix.clone()];
        let weight_slopes = weights.slopes_of(&self.matrix, gradient);
        project_back((inputs, matrix), slopes, tokens, input_slopes, weight_slopes);
        if let Some(bias_slopes) = weights.slopes_of(&self.bias, gradient) {
            sum_rows(slopes, bias_slopes);
        }
        let scale = weights.adapter_scale();
        for (adapter, inner) in self.adapters.iter().zip(&tape.inner) {
            let (columns, rank) = (adapter.columns.len(), inner.len() / tokens);
            let extent = adapter.extent(tokens, slopes.len());
            let slopes = view(&slopes[adapter.columns.start..], extent);
            let inner = view(inner, Extent::dense(tokens, rank));
            let outer_extent = Extent::dense(columns, rank);
            let outer_slopes = view_mut(&mut gradient[adapter.outer.clone()], outer_extent);
            multiply((slopes.t(), inner), scale, 1.0, outer_slopes);
            let outer = view(&weights.values[adapter.outer.clone()], outer_extent);
            tape.slopes.resize(tokens * rank, 0.0);
            let inner_extent = Extent::dense(tokens, rank);
            multiply((slopes, outer), scale, 0.0, view_mut(&mut tape.slopes, inner_extent));
            let inner_slopes = view(&tape.slopes, inner_extent);
            let width = inputs.len() / tokens;
            let matrix = Extent::dense(rank, width);
            let rows = view(inputs, Extent::dense(tokens, width));
            let matrix_slopes = view_mut(&mut gradient[adapter.inner.clone()], matrix);
            multiply((inner_slopes.t(), rows), 1.0, 1.0, matrix_slopes);
            let matrix = view(&weights.values[adapter.inner.clone()], matrix);
            let input_slopes = view_mut(input_slopes, Extent::dense(tokens, width));
            multiply((inner_slopes, matrix), 1.0, 1.0, input_slopes);
        }
    }
}

impl AdapterPlaces {
    /// Its columns in rows of outputs that have `numbers` in all.
    fn extent(&self, tokens: usize, numbers: usize) -> Extent {
        Extent { rows: tokens, columns: self.columns.len(), stride: numbers / tokens }
    }
}
