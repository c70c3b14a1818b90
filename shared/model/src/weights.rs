//! A model's matrices in memory: formats of 32 codes to a scale stay as codes, others become f32.
//!
//! Knows the layout of blocks, not what the matrices are for.

use half::f16;
use relay_kernels::{BLOCK_CODES, BlockScale, Weights};

/// A matrix `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    Dense(Vec<f32>),
    Blocks { codes: Vec<i8>, scales: Vec<BlockScale> },
}

/// A format whose blocks are `code · scale + offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockFormat {
    /// Scale, then 32 codes of 4 bits, less 8.
    Q4_0,
    /// Scale, offset, then 32 codes of 4 bits.
    Q4_1,
    /// Scale, then 32 codes of 8 bits.
    Q8_0,
}

impl BlockFormat {
    /// Bytes of a block.
    fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }
}

impl Matrix {
    /// Takes blocks apart. A last, incomplete block is left out.
    pub(crate) fn from_blocks(format: BlockFormat, raw: &[u8]) -> Self {
        let blocks = raw.chunks_exact(format.bytes());
        let mut codes = Vec::with_capacity(blocks.len() * BLOCK_CODES);
        let mut scales = Vec::with_capacity(blocks.len());
        for block in blocks {
            let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let offset = if format == BlockFormat::Q4_1 { half(2) } else { 0.0 };
            scales.push(BlockScale { scale: half(0), offset });
            match format {
                BlockFormat::Q4_0 => push_nibbles(&block[2..], 8, &mut codes),
                BlockFormat::Q4_1 => push_nibbles(&block[4..], 0, &mut codes),
                BlockFormat::Q8_0 => codes.extend(block[2..].iter().map(|code| code.cast_signed())),
            }
        }
        Self::Blocks { codes, scales }
    }

    /// One matrix with the outputs of both, this one's first.
    pub(crate) fn followed_by(self, other: Self) -> Self {
        match (self, other) {
            (Self::Blocks { codes, scales }, Self::Blocks { codes: more, scales: further }) => {
                Self::Blocks { codes: [codes, more].concat(), scales: [scales, further].concat() }
            }
            (first, second) => {
                let values = |matrix: Self| matrix.view().values(&mut Vec::new()).to_vec();
                Self::Dense([values(first), values(second)].concat())
            }
        }
    }

    pub(crate) fn view(&self) -> Weights<'_> {
        match self {
            Self::Dense(values) => Weights::Dense(values),
            Self::Blocks { codes, scales } => Weights::Blocks { codes, scales },
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(values) => size_of_val(values.as_slice()),
            Self::Blocks { codes, scales } => codes.len() + size_of_val(scales.as_slice()),
        }
    }

    /// Whether every weight is a finite number.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Self::Dense(values) => values.iter().all(|value| value.is_finite()),
            Self::Blocks { scales, .. } => {
                scales.iter().all(|block| block.scale.is_finite() && block.offset.is_finite())
            }
        }
    }
}

/// 16 bytes hold 32 codes: all low halves first, then all high ones.
fn push_nibbles(bytes: &[u8], zero: i8, codes: &mut Vec<i8>) {
    codes.extend(bytes.iter().map(|byte| (byte & 0xF).cast_signed() - zero));
    codes.extend(bytes.iter().map(|byte| (byte >> 4).cast_signed() - zero));
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    /// Another implementation of the formats, given the same bytes, gives the same values.
    #[test]
    fn blocks_are_what_the_formats_say() {
        let values: Vec<f32> = (0..32_u8 * 6).map(|i| f32::from(i % 37) * 0.13 - 1.9).collect();
        let tensor = Tensor::from_vec(values, (2, 96), &Device::Cpu).unwrap();
        let formats = [
            (BlockFormat::Q4_0, GgmlDType::Q4_0),
            (BlockFormat::Q4_1, GgmlDType::Q4_1),
            (BlockFormat::Q8_0, GgmlDType::Q8_0),
        ];
        for (format, dtype) in formats {
            let quantised = QTensor::quantize(&tensor, dtype).unwrap();
            let expected = quantised.dequantize(&Device::Cpu).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let matrix = Matrix::from_blocks(format, &quantised.data().unwrap());
            assert_eq!(matrix.view().values(&mut Vec::new()), expected, "{format:?}");
            assert!(matrix.is_finite());
            assert!(matrix.bytes() < expected.len() * 2);
        }
    }

    #[test]
    fn joining_keeps_blocks_and_falls_back_to_values() {
        let raw: Vec<u8> = (0..68).collect();
        let blocks = Matrix::from_blocks(BlockFormat::Q8_0, &raw[..34]);
        let both = blocks.clone().followed_by(Matrix::from_blocks(BlockFormat::Q8_0, &raw[34..]));
        let whole = Matrix::from_blocks(BlockFormat::Q8_0, &raw);
        assert_eq!(both.view().values(&mut Vec::new()), whole.view().values(&mut Vec::new()));
        assert!(matches!(both, Matrix::Blocks { .. }));
        let mixed = blocks.clone().followed_by(Matrix::Dense(vec![7.0; 32]));
        let values = [blocks.view().values(&mut Vec::new()), &[7.0; 32]].concat();
        assert_eq!(mixed.view().values(&mut Vec::new()), values);
    }
}
