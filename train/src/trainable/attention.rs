//! Causal attention of one sequence with rotary positions, forth and back. Probabilities are kept
//! for the way back; scores are taken in blocks of rows, so that half of the square is never
//! computed. Knows no other part of a layer.

use super::architecture::Architecture;
use super::matrix::{Extent, multiply, view, view_mut};
use super::pointwise::{dot, softmax};

mod limits {
    /// Queries whose scores are computed together.
    pub(super) const BLOCK_TOKENS: usize = 32;
}

/// Where one head's queries, keys and values begin in a token's projections, and their strides.
struct Head {
    tokens: usize,
    width: usize,
    stride: usize,
    query: usize,
    key: usize,
    value: usize,
    /// Width of a token's attended values, all heads together.
    out_stride: usize,
    /// Where the head begins in them.
    out: usize,
    scale: f32,
}

/// Rows `first..end` against the keys `0..end`.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    end: usize,
}

impl Head {
    #[expect(clippy::cast_precision_loss, reason = "heads are narrow")]
    fn new(architecture: &Architecture, tokens: usize, index: usize) -> Self {
        let Architecture { heads, kv_heads, head_width: width, .. } = *architecture;
        let kv_index = index * kv_heads / heads;
        let (query_width, kv_width) = (architecture.query_width(), architecture.kv_width());
        Self {
            tokens,
            width,
            stride: architecture.projections_width(),
            query: index * width,
            key: query_width + kv_index * width,
            value: query_width + kv_width + kv_index * width,
            out_stride: query_width,
            out: index * width,
            scale: 1.0 / (width as f32).sqrt(),
        }
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let tokens = self.tokens;
        (0..tokens)
            .step_by(limits::BLOCK_TOKENS)
            .map(move |first| Block { first, end: (first + limits::BLOCK_TOKENS).min(tokens) })
    }

    fn rows(&self, rows: usize) -> Extent {
        Extent { rows, columns: self.width, stride: self.stride }
    }

    fn out_rows(&self, rows: usize) -> Extent {
        Extent { rows, columns: self.width, stride: self.out_stride }
    }

    /// A block's scores in the square of all of them.
    fn scores(&self, block: Block) -> Extent {
        Extent { rows: block.end - block.first, columns: block.end, stride: self.tokens }
    }

    fn attend(&self, projections: &[f32], square: &mut [f32], out: &mut [f32]) {
        for block in self.blocks() {
            let Block { first, end } = block;
            let extent = self.scores(block);
            let queries =
                view(&projections[first * self.stride + self.query..], self.rows(end - first));
            let keys = view(&projections[self.key..], self.rows(end));
            let values = view(&projections[self.value..], self.rows(end));
            let scores = &mut square[first * self.tokens..];
            multiply((queries, keys.t()), self.scale, 0.0, view_mut(scores, extent));
            for (row, scores) in (first..end).zip(scores.chunks_mut(self.tokens)) {
                softmax(&mut scores[..=row]);
                scores[row + 1..end].fill(0.0);
            }
            let out = &mut out[first * self.out_stride + self.out..];
            let out = view_mut(out, self.out_rows(end - first));
            multiply((view(scores, extent), values), 1.0, 0.0, out);
        }
    }

    fn attend_back(
        &self,
        (projections, square): (&[f32], &[f32]),
        slopes: &[f32],
        scratch: &mut [f32],
        projection_slopes: &mut [f32],
    ) {
        for block in self.blocks() {
            let Block { first, end } = block;
            let (rows, extent) = (end - first, self.scores(block));
            let slopes = &slopes[first * self.out_stride + self.out..];
            let slopes = view(slopes, self.out_rows(rows));
            let values = view(&projections[self.value..], self.rows(end));
            multiply((slopes, values.t()), 1.0, 0.0, view_mut(scratch, extent));
            let probabilities = &square[first * self.tokens..];
            for (scores, probabilities) in
                scratch.chunks_mut(self.tokens).zip(probabilities.chunks(self.tokens)).take(rows)
            {
                let (scores, probabilities) = (&mut scores[..end], &probabilities[..end]);
                let mean = dot(scores, probabilities);
                for (score, probability) in scores.iter_mut().zip(probabilities) {
                    *score = probability * (*score - mean);
                }
            }
            let probabilities = view(probabilities, extent);
            let value_slopes = view_mut(&mut projection_slopes[self.value..], self.rows(end));
            multiply((probabilities.t(), slopes), 1.0, 1.0, value_slopes);
            let scores = view(scratch, extent);
            let query_at = first * self.stride + self.query;
            let queries = view(&projections[query_at..], self.rows(rows));
            let keys = view(&projections[self.key..], self.rows(end));
            let key_slopes = view_mut(&mut projection_slopes[self.key..], self.rows(end));
            multiply((scores.t(), queries), self.scale, 1.0, key_slopes);
            let query_slopes = view_mut(&mut projection_slopes[query_at..], self.rows(rows));
            multiply((scores, keys), self.scale, 0.0, query_slopes);
        }
    }
}

/// Attended values `[tokens, query_width]` of turned projections `[tokens, projections_width]`;
/// `squares` gets the probabilities of each head.
pub(super) fn attend(
    architecture: &Architecture,
    projections: &[f32],
    squares: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    let tokens = projections.len() / architecture.projections_width();
    squares.resize(architecture.heads * tokens * tokens, 0.0);
    out.resize(tokens * architecture.query_width(), 0.0);
    for (index, square) in squares.chunks_exact_mut(tokens * tokens).enumerate() {
        Head::new(architecture, tokens, index).attend(projections, square, out);
    }
}

/// The way back of [`attend`]: slopes of the turned projections, from those of its result.
pub(super) fn attend_back(
    architecture: &Architecture,
    (projections, squares): (&[f32], &[f32]),
    slopes: &[f32],
    scratch: &mut Vec<f32>,
    projection_slopes: &mut Vec<f32>,
) {
    let tokens = projections.len() / architecture.projections_width();
    scratch.resize(limits::BLOCK_TOKENS * tokens, 0.0);
    projection_slopes.clear();
    projection_slopes.resize(projections.len(), 0.0);
    for (index, square) in squares.chunks_exact(tokens * tokens).enumerate() {
        Head::new(architecture, tokens, index).attend_back(
            (projections, square),
            slopes,
            scratch,
            projection_slopes,
        );
    }
}
