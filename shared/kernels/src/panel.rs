//! How weights lie once they are packed: panels of 8 outputs, block after block.
//!
//! A vector register holds four consecutive weights of each of the 8 outputs, so that one
//! broadcast of four activation codes meets all of them, and a sum never crosses lanes. Codes keep
//! the bits they have in the file. Knows how one block is packed and multiplied, not who does it.

mod eight_bit;
mod five_bit;
mod four_bit;
mod plain;
mod two_level;

pub(crate) use eight_bit::EightBit;
pub(crate) use five_bit::{FiveBit, FiveBitOffset};
pub(crate) use four_bit::{FourBit, FourBitOffset};
pub(crate) use plain::{Bfloats, HalfFloats, PlainWeights, Singles};
pub(crate) use two_level::{FiveBitTwoLevel, FourBitTwoLevel, SixBitTwoLevel};

use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::{LANES, Simd};

/// Outputs of a panel.
pub(crate) const PANEL: usize = LANES;

/// One value of a block for each output, as bytes hold it.
pub(crate) type Halves = [u16; PANEL];

/// The same block of 8 outputs, packed.
pub(crate) trait PanelBlock: Copy + Send + Sync {
    /// What the file holds.
    const FORMAT: WeightFormat;
    /// Pieces of 32 weights for each output.
    const PIECES: usize = Self::FORMAT.block_weights() / BLOCK;
    /// A piece in registers.
    type Piece<S: Simd>: Copy;

    /// Packs one block of each output, each of the format's bytes.
    fn pack(sources: [&[u8]; PANEL]) -> Self;

    /// A piece of one output, as the values that its codes stand for.
    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK];

    /// Brings a piece into registers.
    fn piece<S: Simd>(&self, simd: S, piece: usize) -> Self::Piece<S>;

    /// Adds the products of a piece with a block of a row to `sum`. The order of its operations is
    /// the order of every sum, so it decides bits.
    fn add<S: Simd>(simd: S, piece: &Self::Piece<S>, row: &RowBlock, sum: S::Floats) -> S::Floats;
}

/// Two nibbles a byte: byte `4 · output + i` of vector `group` holds the weights `4 · group + i`
/// of the output (low) and `16 + 4 · group + i` (high).
pub(crate) type Nibbles = [[u8; 32]; 4];

/// Nibbles of one output, in the order of a file that pairs weight i with weight i + 16.
#[inline(always)]
fn put_nibbles(to: &mut Nibbles, output: usize, bytes: &[u8]) {
    for (group, bytes) in bytes.as_chunks::<4>().0.iter().take(4).enumerate() {
        to[group][4 * output..4 * output + 4].copy_from_slice(bytes);
    }
}

/// As vectors of whole bytes, in the order of the weights.
#[inline(always)]
fn spread_nibbles<S: Simd>(simd: S, nibbles: &Nibbles) -> [S::Bytes; 8] {
    let mut spread = [simd.load_bytes(&nibbles[0]); 8];
    for group in 0..4 {
        let both = simd.load_bytes(&nibbles[group]);
        spread[group] = simd.bits_down::<0>(both, 0x0F);
        spread[group + 4] = simd.bits_down::<4>(both, 0x0F);
    }
    spread
}

/// `sum + whole · scale · row scale`: the one way in which blocks are summed.
#[inline(always)]
fn add_scaled<S: Simd>(
    simd: S,
    whole: S::Ints,
    scale: S::Floats,
    row: &RowBlock,
    sum: S::Floats,
) -> S::Floats {
    let scaled = simd.mul(simd.to_floats(whole), scale);
    simd.mul_add(scaled, simd.splat(row.scale), sum)
}

/// Σ codes · weights below 2 to the power of `BITS`.
#[inline(always)]
fn sum_codes<S: Simd, const BITS: u32>(simd: S, codes: &[S::Bytes; 8], row: &RowBlock) -> S::Ints {
    simd.sum_products::<BITS, 0, 8>(codes, &row.codes)
}

/// A piece of a format whose codes have a scale and an offset: `code · scale + offset`.
type OffsetPiece<S> = ([<S as Simd>::Bytes; 8], <S as Simd>::Floats, <S as Simd>::Floats);

/// The values of one output that such a piece stands for.
fn offset_values((codes, scales, offsets): OffsetPiece<Portable>, output: usize) -> [f32; BLOCK] {
    codes_of(&codes, output).map(|code| code * scales[output] + offsets[output])
}

/// Adds such a piece, of which `whole` is Σ codes · weights, and then what its offset adds.
#[inline(always)]
fn add_with_offset<S: Simd>(
    simd: S,
    whole: S::Ints,
    (_, scale, offset): &OffsetPiece<S>,
    row: &RowBlock,
    sum: S::Floats,
) -> S::Floats {
    let sum = add_scaled(simd, whole, *scale, row, sum);
    simd.mul_add(*offset, simd.splat(row.scaled_sum), sum)
}

/// The codes of one output, from vectors of whole bytes.
fn codes_of(vectors: &[[u8; 32]; 8], output: usize) -> [f32; BLOCK] {
    std::array::from_fn(|weight| f32::from(vectors[weight / 4][4 * output + weight % 4]))
}

#[inline(always)]
fn half_bits_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
