//! Codes of 8 bits: `Q8_0`.

use super::{Halves, PANEL, PanelBlock, add_scaled, half_bits_at};
use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::Simd;

/// `code · scale`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct EightBit {
    scales: Halves,
    /// Byte `4 · output + i` of vector `group` is the output's weight `4 · group + i`.
    codes: [[u8; 32]; 8],
}

impl PanelBlock for EightBit {
    const FORMAT: WeightFormat = WeightFormat::Q8_0;
    type Piece<S: Simd> = ([S::Bytes; 8], S::Floats);

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self { scales: [0; PANEL], codes: [[0; 32]; 8] };
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_bits_at(source, 0);
            for (codes, bytes) in block.codes.iter_mut().zip(source[2..].as_chunks::<4>().0) {
                codes[4 * output..4 * output + 4].copy_from_slice(bytes);
            }
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        let (codes, scales) = self.piece(Portable, piece);
        let code = |weight: usize| codes[weight / 4][4 * output + weight % 4].cast_signed();
        std::array::from_fn(|weight| f32::from(code(weight)) * scales[output])
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, _: usize) -> Self::Piece<S> {
        let mut codes = [simd.load_bytes(&self.codes[0]); 8];
        for (vector, bytes) in codes.iter_mut().zip(&self.codes) {
            *vector = simd.prepare_signed(simd.load_bytes(bytes));
        }
        (codes, simd.load_halves(&self.scales))
    }

    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let whole = simd.sum_signed_products(codes, &row.codes, row.eightfold_sum);
        add_scaled(simd, whole, *scale, row, sum)
    }
}
