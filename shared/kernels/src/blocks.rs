//! The formats that weights are stored in: sizes of their blocks, and the value of each code.
//!
//! A block is expanded to exactly the f32 values that its format defines, multiplication by
//! multiplication: another order of them would give other bits. Knows nothing of files.
//!
//! Source: the block structures of GGUF (`ggml-common.h` in <https://github.com/ggml-org/ggml>).

use crate::dispatch::for_each_instruction_set;
use crate::half_float::{widen_bfloat, widen_half};

/// Weights in a block of the formats with two levels of scales.
const LARGE: usize = 256;
/// Weights in a block of the formats with one scale.
const SMALL: usize = 32;
/// Small blocks that are expanded together.
const GROUP: usize = 16;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 codes of 4 bits, less 8, to a scale.
    Q4_0,
    /// 32 codes of 4 bits to a scale and an offset.
    Q4_1,
    /// 32 codes of 5 bits, less 16, to a scale.
    Q5_0,
    /// 32 codes of 5 bits to a scale and an offset.
    Q5_1,
    /// 32 codes of 8 bits to a scale.
    Q8_0,
    /// 256 codes of 4 bits: 8 scales and offsets of 6 bits under one of 16.
    Q4K,
    /// 256 codes of 5 bits: 8 scales and offsets of 6 bits under one of 16.
    Q5K,
    /// 256 codes of 6 bits, less 32: 16 scales of 8 bits under one of 16.
    Q6K,
}

impl WeightFormat {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Its name, weights in a block, and bytes of it.
    const fn layout(self) -> (&'static str, usize, usize) {
        match self {
            Self::F32 => ("F32", 1, 4),
            Self::F16 => ("F16", 1, 2),
            Self::Bf16 => ("BF16", 1, 2),
            Self::Q4_0 => ("Q4_0", SMALL, 18),
            Self::Q4_1 => ("Q4_1", SMALL, 20),
            Self::Q5_0 => ("Q5_0", SMALL, 22),
            Self::Q5_1 => ("Q5_1", SMALL, 24),
            Self::Q8_0 => ("Q8_0", SMALL, 34),
            Self::Q4K => ("Q4_K", LARGE, 144),
            Self::Q5K => ("Q5_K", LARGE, 176),
            Self::Q6K => ("Q6_K", LARGE, 210),
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// Weights in a block.
    pub const fn block_weights(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Bytes of `weights` weights; `None` if those are no whole number of blocks, or too many.
    pub const fn bytes_of(self, weights: usize) -> Option<usize> {
        if weights.is_multiple_of(self.block_weights()) {
            (weights / self.block_weights()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Whether all weights are finite numbers: of blocks, whether their scales are.
    pub fn is_finite(self, bytes: &[u8]) -> bool {
        let mut finite = true;
        look_for_infinities(self, bytes, &mut finite);
        finite
    }
}

/// Expands block after block. A macro, since a function handed to another one is called through a
/// shim that is compiled without the caller's instruction set.
macro_rules! each {
    ($bytes:ident, $out:ident, $expand:ident) => {{
        let (blocks, _) = $bytes.as_chunks();
        let (outs, _) = $out.as_chunks_mut();
        for (block, out) in blocks.iter().zip(outs) {
            $expand(block, out);
        }
    }};
}

/// Expands small blocks a group at a time, in three loops: codes out of their packing, scales to
/// f32, then codes to values. In one loop they do not vectorise.
macro_rules! each_group {
    ($bytes:ident, $out:ident, $unpack:ident, $scale:ident) => {{
        let (blocks, _) = $bytes.as_chunks();
        let (outs, _) = $out.as_chunks_mut();
        let mut codes = [[0; SMALL]; GROUP];
        let (mut scale_bits, mut offset_bits) = ([0; GROUP], [0; GROUP]);
        let (mut scales, mut offsets) = ([0.0; GROUP], [0.0; GROUP]);
        for (blocks, outs) in blocks.chunks(GROUP).zip(outs.chunks_mut(GROUP)) {
            for (index, (block, codes)) in blocks.iter().zip(&mut codes).enumerate() {
                (scale_bits[index], offset_bits[index]) = $unpack(block, codes);
            }
            for index in 0..GROUP {
                scales[index] = widen_half(scale_bits[index]);
                offsets[index] = widen_half(offset_bits[index]);
            }
            for (index, (codes, out)) in codes.iter().zip(outs).enumerate() {
                $scale(codes, (scales[index], offsets[index]), out);
            }
        }
    }};
}

for_each_instruction_set! {
    /// Writes the values of the blocks in `bytes` to `out`, which has room for exactly those.
    ///
    /// Kept apart from the loops that use it: inside of them it does not vectorise.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub(crate) fn expand(format: WeightFormat, bytes: &[u8], out: &mut [f32]) = expand_blocks
}

#[inline(always)]
fn expand_blocks(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(format.bytes_of(out.len()), Some(bytes.len()), "blocks do not fit the output");
    match format {
        WeightFormat::F32 => each!(bytes, out, single),
        WeightFormat::F16 => each!(bytes, out, half),
        WeightFormat::Bf16 => each!(bytes, out, bfloat),
        WeightFormat::Q4_0 => each_group!(bytes, out, q4_0, scale_codes),
        WeightFormat::Q4_1 => each_group!(bytes, out, q4_1, scale_and_raise),
        WeightFormat::Q5_0 => each_group!(bytes, out, q5_0, scale_codes),
        WeightFormat::Q5_1 => each_group!(bytes, out, q5_1, scale_and_raise),
        WeightFormat::Q8_0 => each_group!(bytes, out, q8_0, scale_codes),
        WeightFormat::Q4K => each!(bytes, out, q4_k),
        WeightFormat::Q5K => each!(bytes, out, q5_k),
        WeightFormat::Q6K => each!(bytes, out, q6_k),
    }
}

#[inline(always)]
fn single(block: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*block);
}

#[inline(always)]
fn half(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = widen_half(u16::from_le_bytes(*block));
}

#[inline(always)]
fn bfloat(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = widen_bfloat(u16::from_le_bytes(*block));
}

/// Scale, then nibbles.
#[inline(always)]
fn q4_0(block: &[u8; 18], codes: &mut [i8; SMALL]) -> (u16, u16) {
    lower_by(nibbles(part(block, 2)), 8, codes);
    (bits_at(block, 0), 0)
}

/// Scale, offset, then nibbles.
#[inline(always)]
fn q4_1(block: &[u8; 20], codes: &mut [i8; SMALL]) -> (u16, u16) {
    lower_by(nibbles(part(block, 4)), 0, codes);
    (bits_at(block, 0), bits_at(block, 2))
}

/// Scale, the fifth bits, then nibbles.
#[inline(always)]
fn q5_0(block: &[u8; 22], codes: &mut [i8; SMALL]) -> (u16, u16) {
    five_bits(part(block, 6), *part(block, 2), 16, codes);
    (bits_at(block, 0), 0)
}

/// Scale, offset, the fifth bits, then nibbles.
#[inline(always)]
fn q5_1(block: &[u8; 24], codes: &mut [i8; SMALL]) -> (u16, u16) {
    five_bits(part(block, 8), *part(block, 4), 0, codes);
    (bits_at(block, 0), bits_at(block, 2))
}

/// Scale, then bytes.
#[inline(always)]
fn q8_0(block: &[u8; 34], codes: &mut [i8; SMALL]) -> (u16, u16) {
    lower_by(*part(block, 2), 0, codes);
    (bits_at(block, 0), 0)
}

#[inline(always)]
fn lower_by(wide: [u8; SMALL], zero: i8, codes: &mut [i8; SMALL]) {
    for (code, wide) in codes.iter_mut().zip(wide) {
        *code = wide.cast_signed() - zero;
    }
}

/// Values of a block, step by step over the whole of it: the form that becomes vector
/// instructions.
#[inline(always)]
fn scale_codes(codes: &[i8; SMALL], (scale, _): (f32, f32), out: &mut [f32; SMALL]) {
    let mut values = [0.0; SMALL];
    for index in 0..SMALL {
        values[index] = f32::from(codes[index]);
    }
    for value in &mut values {
        *value *= scale;
    }
    *out = values;
}

#[inline(always)]
fn scale_and_raise(codes: &[i8; SMALL], (scale, offset): (f32, f32), out: &mut [f32; SMALL]) {
    let mut values = [0.0; SMALL];
    for index in 0..SMALL {
        values[index] = f32::from(codes[index]);
    }
    for value in &mut values {
        *value *= scale;
    }
    for value in &mut values {
        *value += offset;
    }
    *out = values;
}

/// Scale, scale of offsets, packed scales and offsets, then nibbles: 32 low ones, the same bytes'
/// high ones, and so on.
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; LARGE]) {
    let scales = packed_scales(half_at(block, 0), half_at(block, 2), part(block, 4));
    let (codes, _) = part::<_, 128>(block, 16).as_chunks::<SMALL>();
    let (out, _) = out.as_chunks_mut::<{ 2 * SMALL }>();
    for ((codes, out), scales) in codes.iter().zip(out).zip(scales.as_chunks::<2>().0) {
        let (low, high) = halves_mut(out);
        for index in 0..SMALL {
            low[index] = f32::from(codes[index] & 0xF);
            high[index] = f32::from(codes[index] >> 4);
        }
        scale_and_lower(low, scales[0]);
        scale_and_lower(high, scales[1]);
    }
}

/// As [`q4_k`], with the fifth bits before the nibbles: bit `n` of each byte for the `n`th 32.
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; LARGE]) {
    let scales = packed_scales(half_at(block, 0), half_at(block, 2), part(block, 4));
    let mut fifth_bits: [u8; SMALL] = *part(block, 16);
    let (codes, _) = part::<_, 128>(block, 48).as_chunks::<SMALL>();
    let (out, _) = out.as_chunks_mut::<{ 2 * SMALL }>();
    for ((codes, out), scales) in codes.iter().zip(out).zip(scales.as_chunks::<2>().0) {
        let (low, high) = halves_mut(out);
        for index in 0..SMALL {
            let bits = fifth_bits[index];
            low[index] = f32::from(codes[index] & 0xF | (bits & 1) << 4);
            high[index] = f32::from(codes[index] >> 4 | (bits & 2) << 3);
            fifth_bits[index] = bits >> 2;
        }
        scale_and_lower(low, scales[0]);
        scale_and_lower(high, scales[1]);
    }
}

/// Nibbles, pairs of upper bits, scales, and their scale. Each half of a block holds 128 weights:
/// 64 bytes of nibbles, low ones first, and 32 bytes of upper bits, two bits for each 32 weights.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; LARGE]) {
    let scale = half_at(block, 208);
    let nibbles = part::<_, 128>(block, 0).as_chunks::<64>().0;
    let upper = part::<_, 64>(block, 128).as_chunks::<SMALL>().0;
    let scales = part::<_, 16>(block, 192).as_chunks::<8>().0;
    let (out, _) = out.as_chunks_mut::<128>();
    for (((nibbles, upper), scales), out) in nibbles.iter().zip(upper).zip(scales).zip(out) {
        for quarter in 0..4 {
            let codes = &nibbles[quarter % 2 * SMALL..][..SMALL];
            let out = &mut out[quarter * SMALL..][..SMALL];
            for index in 0..SMALL {
                let code = codes[index] >> (quarter / 2 * 4) & 0xF;
                let code = code | (upper[index] >> (2 * quarter) & 3) << 4;
                out[index] = f32::from(code.cast_signed() - 32);
            }
            for (half, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = scale * f32::from(scales[2 * quarter + half].cast_signed());
                for value in out {
                    *value *= scale;
                }
            }
        }
    }
}

/// `N` bytes from `at` on, as an array.
#[inline(always)]
fn part<const WHOLE: usize, const N: usize>(block: &[u8; WHOLE], at: usize) -> &[u8; N] {
    &block[at..].as_chunks::<N>().0[0]
}

#[inline(always)]
fn half_at<const WHOLE: usize>(block: &[u8; WHOLE], at: usize) -> f32 {
    widen_half(bits_at(block, at))
}

#[inline(always)]
fn bits_at<const WHOLE: usize>(block: &[u8; WHOLE], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn halves_mut(values: &mut [f32; 2 * SMALL]) -> (&mut [f32], &mut [f32]) {
    values.split_at_mut(SMALL)
}

/// 16 bytes hold 32 codes: all low halves first, then all high ones.
#[inline(always)]
fn nibbles(bytes: &[u8; 16]) -> [u8; SMALL] {
    let mut codes = [0; SMALL];
    for index in 0..16 {
        codes[index] = bytes[index] & 0xF;
        codes[index + 16] = bytes[index] >> 4;
    }
    codes
}

/// Codes of nibbles and their fifth bits, bit `n` for code `n`, less `zero`. Eight codes at a time,
/// in one word: none of the sums carries from one byte into the next.
#[inline(always)]
fn five_bits(low_bits: &[u8; 16], fifth_bits: [u8; 4], zero: u64, codes: &mut [i8; SMALL]) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    /// Bit `n` of byte `n`.
    const DIAGONAL: u64 = 0x8040_2010_0804_0201;
    let (first, second) = (part(low_bits, 0), part(low_bits, 8));
    let (first, second) = (u64::from_le_bytes(*first), u64::from_le_bytes(*second));
    let words = [first, second, first >> 4, second >> 4];
    let (eights, _) = codes.as_chunks_mut::<8>();
    for ((codes, word), bits) in eights.iter_mut().zip(words).zip(fifth_bits) {
        let own = (u64::from(bits) * ONES) & DIAGONAL;
        // A byte that is not zero reaches its highest bit.
        let fifth = ((own + 0x7F * ONES) & (0x80 * ONES)) >> 3;
        let code = (word & (0xF * ONES)) | fifth;
        let lowered = ((code | (0x80 * ONES)) - zero * ONES) ^ (0x80 * ONES);
        *codes = lowered.to_le_bytes().map(u8::cast_signed);
    }
}

#[inline(always)]
fn scale_and_lower(values: &mut [f32], (scale, offset): (f32, f32)) {
    for value in values.iter_mut() {
        *value *= scale;
    }
    for value in values {
        *value -= offset;
    }
}

/// Eight scales and eight offsets of 6 bits each in 12 bytes: of the first four the lower 6 bits
/// of bytes 0 to 3 and 4 to 7; of the others the nibbles of bytes 8 to 11 and the upper 2 bits of
/// the bytes before.
#[inline(always)]
fn packed_scales(scale: f32, offset: f32, packed: &[u8; 12]) -> [(f32, f32); 8] {
    let mut scales = [(0.0, 0.0); 8];
    for index in 0..4 {
        let (first, second, third) = (packed[index], packed[index + 4], packed[index + 8]);
        let wide =
            |code: u8, offset_code: u8| (scale * f32::from(code), offset * f32::from(offset_code));
        scales[index] = wide(first & 0x3F, second & 0x3F);
        scales[index + 4] = wide(third & 0xF | first >> 6 << 4, third >> 4 | second >> 6 << 4);
    }
    scales
}

for_each_instruction_set! {
    fn look_for_infinities(format: WeightFormat, bytes: &[u8], finite: &mut bool) = all_finite
}

#[inline(always)]
fn all_finite(format: WeightFormat, bytes: &[u8], finite: &mut bool) {
    *finite = match format {
        WeightFormat::F32 => halves_below(bytes, [2], 4, 0x7F80),
        WeightFormat::F16 => halves_below(bytes, [0], 2, 0x7C00),
        WeightFormat::Bf16 => halves_below(bytes, [0], 2, 0x7F80),
        WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 => {
            halves_below(bytes, [0], format.block_bytes(), 0x7C00)
        }
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => {
            halves_below(bytes, [0, 2], format.block_bytes(), 0x7C00)
        }
        WeightFormat::Q6K => halves_below(bytes, [208], format.block_bytes(), 0x7C00),
    };
}

/// Whether in each block the 16 bits at each of `places` are, sign apart, below `infinity`.
#[inline(always)]
fn halves_below<const N: usize>(
    bytes: &[u8],
    places: [usize; N],
    block_bytes: usize,
    infinity: u16,
) -> bool {
    let is_below = |block: &[u8], at: usize| {
        u16::from_le_bytes([block[at], block[at + 1]]) & 0x7FFF < infinity
    };
    let mut blocks = bytes.chunks_exact(block_bytes);
    blocks.all(|block| places.iter().all(|&at| is_below(block, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(format: WeightFormat, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / format.block_bytes() * format.block_weights()];
        expand(format, bytes, &mut out);
        out
    }

    #[test]
    fn sizes_fit_each_other() {
        for format in WeightFormat::ALL {
            let (weights, bytes) = (format.block_weights(), format.block_bytes());
            assert_eq!(format.bytes_of(3 * weights), Some(3 * bytes), "{}", format.name());
            assert_eq!(values(format, &vec![0; 2 * bytes]).len(), 2 * weights);
        }
        assert_eq!(WeightFormat::Q8_0.bytes_of(33), None);
        assert_eq!(WeightFormat::F32.bytes_of(usize::MAX), None);
    }

    /// A code of each place, by hand; the committed vectors of the model crate hold the rest.
    #[test]
    fn codes_lie_where_the_formats_say() {
        let one = 0x3C00_u16.to_le_bytes();
        let mut block = [0; 20];
        block[..2].copy_from_slice(&one);
        block[2..4].copy_from_slice(&one);
        block[4] = 0x21;
        let of_q4_1 = values(WeightFormat::Q4_1, &block);
        assert_eq!((of_q4_1[0], of_q4_1[16], of_q4_1[1]), (2.0, 3.0, 1.0));
        let mut block = [0; 210];
        block[208..].copy_from_slice(&one);
        block[192..208].fill(1);
        (block[0], block[128], block[33]) = (0xF0, 0b1101, 0x0A);
        let of_q6_k = values(WeightFormat::Q6K, &block);
        assert_eq!((of_q6_k[0], of_q6_k[32], of_q6_k[64]), (-16.0, 16.0, -17.0));
        assert_eq!(of_q6_k[33..34], [-22.0]);
    }

    #[test]
    fn scales_that_are_not_numbers_are_seen() {
        for format in WeightFormat::ALL {
            let places: &[usize] = match format {
                WeightFormat::F32 => &[2],
                WeightFormat::Q6K => &[208],
                WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => {
                    &[0, 2]
                }
                _ => &[0],
            };
            let whole = vec![0; 3 * format.block_bytes()];
            assert!(format.is_finite(&whole));
            for place in places {
                let mut broken = whole.clone();
                broken[format.block_bytes() + place + 1] = 0xFF;
                broken[format.block_bytes() + place] = 0x80;
                assert!(!format.is_finite(&broken), "{} at {place}", format.name());
            }
        }
    }
}
