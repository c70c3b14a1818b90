//! Codes of 4 bits: `Q4_0` and `Q4_1`.

use super::{
    Halves, Nibbles, OffsetPiece, PANEL, PanelBlock, add_scaled, add_with_offset, codes_of,
    half_bits_at, offset_values, put_nibbles, spread_nibbles, sum_codes,
};
use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::Simd;

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
            block.scales[output] = half_bits_at(source, 0);
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

    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let whole = sum_codes::<S, 4>(simd, codes, row);
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
    type Piece<S: Simd> = OffsetPiece<S>;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_bits_at(source, 0);
            block.offsets[output] = half_bits_at(source, 2);
            put_nibbles(&mut block.codes, output, &source[4..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        offset_values(self.piece(Portable, piece), output)
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        let codes = spread_nibbles(simd, &self.codes);
        (codes, simd.load_halves(&self.scales), simd.load_halves(&self.offsets))
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, piece: &Self::Piece<S>, row: &RowBlock, sum: S::Floats) -> S::Floats {
        add_with_offset(simd, sum_codes::<S, 4>(simd, &piece.0, row), piece, row, sum)
    }
}
