//! Codes of 5 bits, the fifth apart: `Q5_0` and `Q5_1`.

use super::{
    Halves, Nibbles, OffsetPiece, PANEL, PanelBlock, add_scaled, add_with_offset, codes_of,
    half_bits_at, offset_values, put_nibbles, spread_nibbles, sum_codes,
};
use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::Simd;

/// Bit `group` of byte `4 · output + i` is the fifth bit of the output's weight `4 · group + i`.
pub(crate) type FifthBits = [u8; 32];

/// Bit i of `bits` is the fifth bit of the output's weight i.
pub(super) fn put_fifth_bits(to: &mut FifthBits, output: usize, bits: u32) {
    for weight in 0..32 {
        let bit = u8::from(bits >> weight & 1 == 1);
        to[4 * output + weight % 4] |= bit << (weight / 4);
    }
}

/// Nibbles and fifth bits as vectors of whole bytes, in the order of the weights.
#[inline(always)]
pub(super) fn spread_five_bits<S: Simd>(
    simd: S,
    nibbles: &Nibbles,
    fifth: &FifthBits,
) -> [S::Bytes; 8] {
    let low = spread_nibbles(simd, nibbles);
    let bits = simd.load_bytes(fifth);
    [
        simd.or(low[0], simd.bits_up::<4>(bits, 0x10)),
        simd.or(low[1], simd.bits_up::<3>(bits, 0x10)),
        simd.or(low[2], simd.bits_up::<2>(bits, 0x10)),
        simd.or(low[3], simd.bits_up::<1>(bits, 0x10)),
        simd.or(low[4], simd.bits_down::<0>(bits, 0x10)),
        simd.or(low[5], simd.bits_down::<1>(bits, 0x10)),
        simd.or(low[6], simd.bits_down::<2>(bits, 0x10)),
        simd.or(low[7], simd.bits_down::<3>(bits, 0x10)),
    ]
}

fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `(code − 16) · scale`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FiveBit {
    scales: Halves,
    fifth_bits: FifthBits,
    codes: Nibbles,
}

impl PanelBlock for FiveBit {
    const FORMAT: WeightFormat = WeightFormat::Q5_0;
    type Piece<S: Simd> = ([S::Bytes; 8], S::Floats);

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_bits_at(source, 0);
            put_fifth_bits(&mut block.fifth_bits, output, word_at(source, 2));
            put_nibbles(&mut block.codes, output, &source[6..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        let (codes, scales) = self.piece(Portable, piece);
        codes_of(&codes, output).map(|code| (code - 16.0) * scales[output])
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        let codes = spread_five_bits(simd, &self.codes, &self.fifth_bits);
        (codes, simd.load_halves(&self.scales))
    }

    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let eightfold = simd.splat_int(row.eightfold_sum);
        let whole = sum_codes::<S, 5>(simd, codes, row);
        let whole = simd.sub_ints(simd.sub_ints(whole, eightfold), eightfold);
        add_scaled(simd, whole, *scale, row, sum)
    }
}

/// `code · scale + offset`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FiveBitOffset {
    scales: Halves,
    offsets: Halves,
    fifth_bits: FifthBits,
    codes: Nibbles,
}

impl PanelBlock for FiveBitOffset {
    const FORMAT: WeightFormat = WeightFormat::Q5_1;
    type Piece<S: Simd> = OffsetPiece<S>;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_bits_at(source, 0);
            block.offsets[output] = half_bits_at(source, 2);
            put_fifth_bits(&mut block.fifth_bits, output, word_at(source, 4));
            put_nibbles(&mut block.codes, output, &source[8..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        offset_values(self.piece(Portable, piece), output)
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        let codes = spread_five_bits(simd, &self.codes, &self.fifth_bits);
        (codes, simd.load_halves(&self.scales), simd.load_halves(&self.offsets))
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, piece: &Self::Piece<S>, row: &RowBlock, sum: S::Floats) -> S::Floats {
        add_with_offset(simd, sum_codes::<S, 5>(simd, &piece.0, row), piece, row, sum)
    }
}
