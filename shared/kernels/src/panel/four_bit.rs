//! Codes of 4 bits: `Q4_0` and `Q4_1`.

use super::{
    Halves, Nibbles, PANEL, PanelBlock, add_offset, add_scaled, codes_of, half_at, put_nibbles,
    short_sum, spread_nibbles,
};
use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::{Simd, widen};

/// `(code − 8) · scale`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FourBit {
    scales: Halves,
    codes: Nibbles,
}

impl PanelBlock for FourBit {
    const FORMAT: WeightFormat = WeightFormat::Q4_0;
    type Piece<S: Simd> = ([S::Bytes; 8], S::Floats);

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_at(source, 0);
            put_nibbles(&mut block.codes, output, &source[2..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        let (codes, scales) = self.piece(Portable, piece);
        codes_of(&codes, output).map(|code| (code - 8.0) * scales[output])
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        (spread_nibbles(simd, &self.codes), simd.load_halves(&self.scales))
    }

    /// Eight products of at most 2 · 127 · 15 fit into 16 bits.
    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let whole = widen(simd, short_sum::<S, 0, 8>(simd, codes, row));
        let whole = simd.sub_ints(whole, simd.splat_int(row.eightfold_sum));
        add_scaled(simd, whole, *scale, row, sum)
    }
}

/// `code · scale + offset`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FourBitOffset {
    scales: Halves,
    offsets: Halves,
    codes: Nibbles,
}

impl PanelBlock for FourBitOffset {
    const FORMAT: WeightFormat = WeightFormat::Q4_1;
    type Piece<S: Simd> = ([S::Bytes; 8], S::Floats, S::Floats);

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_at(source, 0);
            block.offsets[output] = half_at(source, 2);
            put_nibbles(&mut block.codes, output, &source[4..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        let (codes, scales, offsets) = self.piece(Portable, piece);
        codes_of(&codes, output).map(|code| code * scales[output] + offsets[output])
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        let codes = spread_nibbles(simd, &self.codes);
        (codes, simd.load_halves(&self.scales), simd.load_halves(&self.offsets))
    }

    /// Eight products of at most 2 · 127 · 15 fit into 16 bits.
    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale, offset): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let whole = widen(simd, short_sum::<S, 0, 8>(simd, codes, row));
        add_offset(simd, *offset, row, add_scaled(simd, whole, *scale, row, sum))
    }
}
