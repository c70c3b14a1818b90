//! 256 codes under one scale, with smaller scales in between: `Q4_K`, `Q5_K` and `Q6_K`.

use super::five_bit::{FifthBits, put_fifth_bits, spread_five_bits};
use super::{
    Halves, Nibbles, OffsetPiece, PANEL, PanelBlock, add_scaled, add_with_offset, codes_of,
    half_bits_at, offset_values, spread_nibbles, sum_codes,
};
use crate::blocks::WeightFormat;
use crate::portable::Portable;
use crate::quantise::{BLOCK, RowBlock};
use crate::simd::Simd;

/// Pieces of 32 weights in a block.
const PIECES: usize = 8;

/// For each piece, scales and offsets of 6 bits under those of the block:
/// `code · (scale · small scale) − offset · small offset`.
#[derive(Debug, Clone, Copy, Default)]
struct TwoLevels {
    scales: Halves,
    offsets: Halves,
    small_scales: [[u8; PANEL]; PIECES],
    small_offsets: [[u8; PANEL]; PIECES],
}

impl TwoLevels {
    /// From a file's block: scale, scale of offsets, then 8 and 8 numbers of 6 bits in 12 bytes.
    fn put(&mut self, output: usize, block: &[u8]) {
        self.scales[output] = half_bits_at(block, 0);
        self.offsets[output] = half_bits_at(block, 2);
        let packed = &block[4..16];
        for piece in 0..4 {
            let (low, high) = (packed[piece], packed[piece + 4]);
            let upper = packed[piece + 8];
            self.small_scales[piece][output] = low & 63;
            self.small_offsets[piece][output] = high & 63;
            self.small_scales[piece + 4][output] = (upper & 0xF) | (low >> 6) << 4;
            self.small_offsets[piece + 4][output] = upper >> 4 | (high >> 6) << 4;
        }
    }

    /// Scale and offset of each code of a piece. The products are exact.
    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, piece: usize) -> (S::Floats, S::Floats) {
        let under = |whole: &Halves, small: [u8; PANEL]| {
            simd.mul(simd.load_halves(whole), simd.load_bytes_as_floats(small))
        };
        let offset = under(&self.offsets, self.small_offsets[piece]);
        let scale = under(&self.scales, self.small_scales[piece]);
        (scale, simd.sub(simd.splat(0.0), offset))
    }
}

/// Nibbles of a file that pairs weight i with weight i + 32, to pieces that pair i with i + 16.
fn put_paired_nibbles(to: &mut [Nibbles], output: usize, bytes: &[u8]) {
    for (pair, bytes) in to.chunks_exact_mut(2).zip(bytes.as_chunks::<32>().0) {
        for weight in 0..16 {
            let (first, second) = (bytes[weight], bytes[weight + 16]);
            let at = 4 * output + weight % 4;
            pair[0][weight / 4][at] = first & 0xF | second << 4;
            pair[1][weight / 4][at] = first >> 4 | second & 0xF0;
        }
    }
}

/// `Q4_K`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FourBitTwoLevel {
    scales: TwoLevels,
    codes: [Nibbles; PIECES],
}

impl PanelBlock for FourBitTwoLevel {
    const FORMAT: WeightFormat = WeightFormat::Q4K;
    type Piece<S: Simd> = OffsetPiece<S>;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales.put(output, source);
            put_paired_nibbles(&mut block.codes, output, &source[16..]);
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        offset_values(self.piece(Portable, piece), output)
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, piece: usize) -> Self::Piece<S> {
        let (scale, offset) = self.scales.piece(simd, piece);
        (spread_nibbles(simd, &self.codes[piece]), scale, offset)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, piece: &Self::Piece<S>, row: &RowBlock, sum: S::Floats) -> S::Floats {
        add_with_offset(simd, sum_codes::<S, 4>(simd, &piece.0, row), piece, row, sum)
    }
}

/// `Q5_K`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct FiveBitTwoLevel {
    scales: TwoLevels,
    fifth_bits: [FifthBits; PIECES],
    codes: [Nibbles; PIECES],
}

impl PanelBlock for FiveBitTwoLevel {
    const FORMAT: WeightFormat = WeightFormat::Q5K;
    type Piece<S: Simd> = OffsetPiece<S>;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales.put(output, source);
            put_paired_nibbles(&mut block.codes, output, &source[48..]);
            for (piece, fifth) in block.fifth_bits.iter_mut().enumerate() {
                let mut bits = 0;
                for (weight, byte) in source[16..48].iter().enumerate() {
                    bits |= u32::from(byte >> piece & 1) << weight;
                }
                put_fifth_bits(fifth, output, bits);
            }
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        offset_values(self.piece(Portable, piece), output)
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, piece: usize) -> Self::Piece<S> {
        let (scale, offset) = self.scales.piece(simd, piece);
        let codes = spread_five_bits(simd, &self.codes[piece], &self.fifth_bits[piece]);
        (codes, scale, offset)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, piece: &Self::Piece<S>, row: &RowBlock, sum: S::Floats) -> S::Floats {
        add_with_offset(simd, sum_codes::<S, 5>(simd, &piece.0, row), piece, row, sum)
    }
}

/// `Q6_K`: `(code − 32) · (scale · small scale)`, with a small scale for each 16 weights.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct SixBitTwoLevel {
    scales: Halves,
    /// For each piece and output, the small scales of its first 16 weights and its last.
    small_scales: [[[i8; 2]; PANEL]; PIECES],
    /// Bits 2 · (group mod 4) and the next of byte `4 · output + i` of vector `group / 4` are the
    /// upper bits of the output's weight `4 · group + i`.
    upper_bits: [[[u8; 32]; 2]; PIECES],
    codes: [Nibbles; PIECES],
}

impl SixBitTwoLevel {
    fn put_codes(&mut self, output: usize, piece: usize, codes: &[u8; BLOCK]) {
        let at = |weight: usize| 4 * output + weight % 4;
        for weight in 0..16 {
            let pair = codes[weight] & 0xF | codes[weight + 16] << 4;
            self.codes[piece][weight / 4][at(weight)] = pair;
        }
        for weight in 0..8 {
            let first = weight / 4 * 16 + weight % 4;
            let upper = |group: usize| (codes[first + 4 * group] >> 4) << (2 * group);
            self.upper_bits[piece][weight / 4][at(weight)] =
                upper(0) | upper(1) | upper(2) | upper(3);
        }
    }
}

/// The codes of a piece of a file's block, which holds 64 bytes of nibbles and 32 of upper bits for
/// each four pieces.
fn six_bit_codes(block: &[u8], piece: usize) -> [u8; BLOCK] {
    let (half, quarter) = (piece / 4, piece % 4);
    let nibbles = &block[64 * half + quarter % 2 * 32..][..BLOCK];
    let upper = &block[128 + 32 * half..][..BLOCK];
    std::array::from_fn(|at| {
        let nibble = nibbles[at] >> (quarter / 2 * 4) & 0xF;
        nibble | (upper[at] >> (2 * quarter) & 3) << 4
    })
}

impl PanelBlock for SixBitTwoLevel {
    const FORMAT: WeightFormat = WeightFormat::Q6K;
    type Piece<S: Simd> = ([S::Bytes; 8], S::Floats, S::Shorts);

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        let mut block = Self::default();
        for (output, source) in sources.iter().enumerate() {
            block.scales[output] = half_bits_at(source, 208);
            for (piece, pair) in source[192..208].as_chunks::<2>().0.iter().enumerate() {
                block.small_scales[piece][output] = pair.map(u8::cast_signed);
            }
            for piece in 0..PIECES {
                block.put_codes(output, piece, &six_bit_codes(source, piece));
            }
        }
        block
    }

    fn values(&self, piece: usize, output: usize) -> [f32; BLOCK] {
        let (codes, scales, small) = self.piece(Portable, piece);
        let codes = codes_of(&codes, output);
        let scale = |half: usize| scales[output] * f32::from(small[2 * output + half]);
        std::array::from_fn(|weight| (codes[weight] - 32.0) * scale(weight / 16))
    }

    #[inline(always)]
    fn piece<S: Simd>(&self, simd: S, piece: usize) -> Self::Piece<S> {
        let low = spread_nibbles(simd, &self.codes[piece]);
        let [first, second] = self.upper_bits[piece];
        let (first, second) = (simd.load_bytes(&first), simd.load_bytes(&second));
        let codes = [
            simd.or(low[0], simd.bits_up::<4>(first, 0x30)),
            simd.or(low[1], simd.bits_up::<2>(first, 0x30)),
            simd.or(low[2], simd.bits_down::<0>(first, 0x30)),
            simd.or(low[3], simd.bits_down::<2>(first, 0x30)),
            simd.or(low[4], simd.bits_up::<4>(second, 0x30)),
            simd.or(low[5], simd.bits_up::<2>(second, 0x30)),
            simd.or(low[6], simd.bits_down::<0>(second, 0x30)),
            simd.or(low[7], simd.bits_down::<2>(second, 0x30)),
        ];
        let small = simd.load_pairs(&self.small_scales[piece]);
        (codes, simd.load_halves(&self.scales), small)
    }

    /// With their small scales, all products of a piece fit into 32 bits.
    #[inline(always)]
    fn add<S: Simd>(
        simd: S,
        (codes, scale, small): &Self::Piece<S>,
        row: &RowBlock,
        sum: S::Floats,
    ) -> S::Floats {
        let whole = simd.sum_scaled_halves(codes, &row.codes, *small);
        let middle = simd.dot_pairs(*small, simd.splat_pair(row.half_sums));
        let whole = simd.sub_ints(whole, simd.shift_ints_left::<5>(middle));
        add_scaled(simd, whole, *scale, row, sum)
    }
}
