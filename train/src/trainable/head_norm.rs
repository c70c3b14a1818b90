//! Norms of each head's queries or keys (Qwen3), forth and back. Knows no other part of a layer.

use std::ops::Range;

use super::pointwise::{norm, norm_back};

/// What the way back needs of one kind of heads.
#[derive(Debug, Default)]
pub(super) struct HeadTape {
    raw: Vec<f32>,
    scales: Vec<f32>,
    /// Normed heads, later their slopes.
    outer: Vec<f32>,
    raw_slopes: Vec<f32>,
}

/// The numbers of every row that one kind of heads has.
#[derive(Clone)]
pub(super) struct HeadColumns {
    pub(super) columns: Range<usize>,
    pub(super) row_width: usize,
}

impl HeadColumns {
    /// Norms heads as wide as `weights` where they lie.
    pub(super) fn norm(
        &self,
        weights: &[f32],
        epsilon: f32,
        tape: &mut HeadTape,
        rows: &mut [f32],
    ) {
        self.gather(rows, &mut tape.raw);
        norm(&tape.raw, weights, epsilon, &mut tape.scales, &mut tape.outer);
        self.scatter(&tape.outer, rows);
    }

    /// The way back of [`HeadColumns::norm`]: `rows` are slopes, replaced.
    pub(super) fn norm_back(
        &self,
        weights: &[f32],
        tape: &mut HeadTape,
        rows: &mut [f32],
        weight_slopes: Option<&mut [f32]>,
    ) {
        self.gather(rows, &mut tape.outer);
        tape.raw_slopes.clear();
        tape.raw_slopes.resize(tape.raw.len(), 0.0);
        let HeadTape { raw, scales, outer, raw_slopes } = tape;
        norm_back((raw, weights, scales), outer, raw_slopes, weight_slopes);
        self.scatter(raw_slopes, rows);
    }

    fn gather(&self, rows: &[f32], heads: &mut Vec<f32>) {
        heads.clear();
        for row in rows.chunks_exact(self.row_width) {
            heads.extend_from_slice(&row[self.columns.clone()]);
        }
    }

    fn scatter(&self, heads: &[f32], rows: &mut [f32]) {
        let heads = heads.chunks_exact(self.columns.len());
        for (row, heads) in rows.chunks_exact_mut(self.row_width).zip(heads) {
            row[self.columns.clone()].copy_from_slice(heads);
        }
    }
}
