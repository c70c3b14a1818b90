//! Activations times packed weights: each weight is read from memory once for all rows of a step.
//!
//! One order for every sum: along the row, block after block, in the way the block's format says.
//! Rows share registers and threads share panels, never a sum.

use std::ops::Range;

use crate::cpu::Kernel;
use crate::disjoint::Disjoint;
use crate::packed::{PackedMatrix, Panels};
use crate::panel::{PANEL, PanelBlock, PlainWeights};
use crate::pool::Pool;
use crate::quantise::{QuantisedRows, RowBlock};
use crate::simd::Simd;

mod limits {
    /// Bytes of weights that share the nearest cache with a few rows.
    pub(super) const GROUP_BYTES: usize = 20 * 1024;
}

/// Rows of activations, in the forms that matrices take.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[rows, width]`; read where weights are plain numbers.
    pub values: &'a [f32],
    /// The same as codes; read where weights are codes, and may be empty otherwise.
    pub codes: &'a QuantisedRows,
}

/// A matrix and where its product goes: `[rows, outputs]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// `[outputs, width]`.
    pub matrix: &'a PackedMatrix,
    /// `out[row, o] = Σ inputs[row, i] · matrix[o, i]`.
    pub out: &'a mut [f32],
}

/// Multiplies the same rows with several matrices, on all threads of `pool`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn multiply(pool: &Pool, inputs: Inputs<'_>, products: &mut [Product<'_>]) {
    let parts: Vec<Part<'_>> = products
        .iter_mut()
        .map(|product| Part::new(inputs, product.matrix, &mut *product.out))
        .collect();
    pool.run_kernel(|share| MultiplyShare {
        parts: &parts,
        panels: parts.iter().map(|part| share.part(part.matrix.panel_count(), 1)).collect(),
    });
}

/// One product as threads see it.
struct Part<'a> {
    inputs: Inputs<'a>,
    matrix: &'a PackedMatrix,
    rows: usize,
    out: Disjoint<'a, f32>,
}

impl<'a> Part<'a> {
    fn new(inputs: Inputs<'a>, matrix: &'a PackedMatrix, out: &'a mut [f32]) -> Self {
        let width = matrix.width();
        let rows = if matrix.takes_codes() {
            let fits = inputs.codes.width() == width || inputs.codes.rows() == 0;
            assert!(fits, "inputs have another width than the weights");
            inputs.codes.rows()
        } else {
            assert!(inputs.values.len().is_multiple_of(width), "inputs are not whole rows");
            inputs.values.len() / width
        };
        assert_eq!(out.len(), rows * matrix.outputs(), "the output has another shape");
        Self { inputs, matrix, rows, out: Disjoint::new(out) }
    }
}

struct MultiplyShare<'a> {
    parts: &'a [Part<'a>],
    panels: Vec<Range<usize>>,
}

impl Kernel for MultiplyShare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (part, panels) in self.parts.iter().zip(self.panels) {
            match part.matrix.panels() {
                Panels::Singles(items) => part.plain_panels(simd, items, panels),
                Panels::HalfFloats(items) => part.plain_panels(simd, items, panels),
                Panels::Bfloats(items) => part.plain_panels(simd, items, panels),
                Panels::FourBit(items) => part.block_panels(simd, items, panels),
                Panels::FourBitOffset(items) => part.block_panels(simd, items, panels),
                Panels::FiveBit(items) => part.block_panels(simd, items, panels),
                Panels::FiveBitOffset(items) => part.block_panels(simd, items, panels),
                Panels::EightBit(items) => part.block_panels(simd, items, panels),
                Panels::FourBitTwoLevel(items) => part.block_panels(simd, items, panels),
                Panels::FiveBitTwoLevel(items) => part.block_panels(simd, items, panels),
                Panels::SixBitTwoLevel(items) => part.block_panels(simd, items, panels),
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn block_panels<S: Simd, B: PanelBlock>(&self, simd: S, items: &[B], panels: Range<usize>) {
        for group in groups::<B>(panels, items.len() / self.matrix.panel_count().max(1)) {
            let mut row = 0;
            self.block_rows::<S, B, 8>(simd, items, group.clone(), &mut row);
            self.block_rows::<S, B, 4>(simd, items, group.clone(), &mut row);
            self.block_rows::<S, B, 2>(simd, items, group.clone(), &mut row);
            self.block_rows::<S, B, 1>(simd, items, group, &mut row);
        }
    }

    /// Takes rows from `row` on, `R` at a time, as long as there are so many.
    #[inline(always)]
    fn block_rows<S: Simd, B: PanelBlock, const R: usize>(
        &self,
        simd: S,
        items: &[B],
        panels: Range<usize>,
        row: &mut usize,
    ) {
        let blocks = items.len() / self.matrix.panel_count().max(1);
        while R <= S::ROWS && *row + R <= self.rows {
            for panel in panels.clone() {
                let weights = &items[panel * blocks..][..blocks];
                let sums = block_sums::<S, B, R>(simd, weights, self.codes(*row));
                self.store(simd, panel, *row, sums);
            }
            *row += R;
        }
    }

    #[inline(always)]
    fn plain_panels<S: Simd, W: PlainWeights>(&self, simd: S, items: &[W], panels: Range<usize>) {
        for group in groups::<W>(panels, self.matrix.width()) {
            let mut row = 0;
            self.plain_rows::<S, W, 8>(simd, items, group.clone(), &mut row);
            self.plain_rows::<S, W, 4>(simd, items, group.clone(), &mut row);
            self.plain_rows::<S, W, 1>(simd, items, group, &mut row);
        }
    }

    /// As [`Self::block_rows`].
    #[inline(always)]
    fn plain_rows<S: Simd, W: PlainWeights, const R: usize>(
        &self,
        simd: S,
        items: &[W],
        panels: Range<usize>,
        row: &mut usize,
    ) {
        let width = self.matrix.width();
        while R <= S::ROWS && *row + R <= self.rows {
            for panel in panels.clone() {
                let weights = &items[panel * width..][..width];
                let sums = plain_sums::<S, W, R>(simd, weights, self.values(*row));
                self.store(simd, panel, *row, sums);
            }
            *row += R;
        }
    }

    #[inline(always)]
    fn codes<const R: usize>(&self, row: usize) -> [&[RowBlock]; R] {
        std::array::from_fn(|r| self.inputs.codes.row(row + r))
    }

    #[inline(always)]
    fn values<const R: usize>(&self, row: usize) -> [&[f32]; R] {
        let width = self.matrix.width();
        std::array::from_fn(|r| &self.inputs.values[(row + r) * width..][..width])
    }

    /// Puts the sums of one panel in their places.
    #[inline(always)]
    fn store<S: Simd, const R: usize>(
        &self,
        simd: S,
        panel: usize,
        row: usize,
        sums: [S::Floats; R],
    ) {
        let outputs = self.matrix.outputs();
        let first = panel * PANEL;
        let count = PANEL.min(outputs - first);
        for (r, sums) in sums.into_iter().enumerate() {
            let at = (row + r) * outputs + first;
            // SAFETY: threads have different panels, so no two write the same outputs.
            let out = unsafe { self.out.part(at..at + count) };
            if let Some(out) = out.first_chunk_mut() {
                simd.store(sums, out);
            } else {
                let mut all = [0.0; PANEL];
                simd.store(sums, &mut all);
                out.copy_from_slice(&all[..count]);
            }
        }
    }
}

/// Panels, of `items` each, in groups that stay in the nearest cache while rows go by.
#[inline(always)]
fn groups<T>(panels: Range<usize>, items: usize) -> impl Iterator<Item = Range<usize>> {
    let size = (limits::GROUP_BYTES / (items * size_of::<T>()).max(1)).max(1);
    let end = panels.end;
    panels.step_by(size).map(move |first| first..(first + size).min(end))
}

/// Sums of `R` rows with the 8 outputs of a panel.
#[inline(always)]
fn block_sums<S: Simd, B: PanelBlock, const R: usize>(
    simd: S,
    panel: &[B],
    rows: [&[RowBlock]; R],
) -> [S::Floats; R] {
    let mut sums = [simd.splat(0.0); R];
    let rows = rows.map(|row| &row[..panel.len() * B::PIECES]);
    for (index, block) in panel.iter().enumerate() {
        for piece in 0..B::PIECES {
            let at = index * B::PIECES + piece;
            let in_registers = block.piece(simd, piece);
            for r in 0..R {
                sums[r] = B::add(simd, &in_registers, &rows[r][at], sums[r]);
            }
        }
    }
    sums
}

/// Sums of `R` rows with the 8 outputs of a panel: even weights and odd ones apart, so that one
/// sum does not wait for the other, then both.
#[inline(always)]
fn plain_sums<S: Simd, W: PlainWeights, const R: usize>(
    simd: S,
    panel: &[W],
    rows: [&[f32]; R],
) -> [S::Floats; R] {
    let (mut even, mut odd) = ([simd.splat(0.0); R], [simd.splat(0.0); R]);
    let rows = rows.map(|row| &row[..panel.len()]);
    let (pairs, last) = panel.as_chunks::<2>();
    for (index, [first, second]) in pairs.iter().enumerate() {
        let (first, second) = (first.load(simd), second.load(simd));
        for r in 0..R {
            let inputs = &rows[r][2 * index..2 * index + 2];
            even[r] = simd.mul_add(first, simd.splat(inputs[0]), even[r]);
            odd[r] = simd.mul_add(second, simd.splat(inputs[1]), odd[r]);
        }
    }
    for weights in last {
        for r in 0..R {
            let input = simd.splat(rows[r][panel.len() - 1]);
            even[r] = simd.mul_add(weights.load(simd), input, even[r]);
        }
    }
    let mut totals = [simd.splat(0.0); R];
    for r in 0..R {
        totals[r] = simd.add(even[r], odd[r]);
    }
    totals
}

#[cfg(test)]
mod tests;
