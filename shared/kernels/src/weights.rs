//! Weights as they lie in memory: plain, or in blocks of small codes that share a scale.
//!
//! A block is expanded to exactly the f32 values that its file format defines, just before it is
//! used, so that reading weights from memory costs a third of what plain ones would.

use std::ops::Range;

use crate::dispatch::for_each_instruction_set;

/// Codes that share one scale.
pub const BLOCK_CODES: usize = 32;

/// What turns the codes of one block into weights: `code · scale + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockScale {
    /// Factor of each code.
    pub scale: f32,
    /// Added to each product.
    pub offset: f32,
}

/// A matrix `[outputs, width]`, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Plain values.
    Dense(&'a [f32]),
    /// One scale for each [`BLOCK_CODES`] codes; a row is a whole number of blocks.
    Blocks {
        /// Codes, `[outputs, width]`.
        codes: &'a [i8],
        /// Scales, `[outputs, width / BLOCK_CODES]`.
        scales: &'a [BlockScale],
    },
}

impl<'a> Weights<'a> {
    /// Number of weights.
    pub fn len(self) -> usize {
        match self {
            Self::Dense(values) => values.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The weights at `range`, which begins and ends at a row.
    ///
    /// # Panics
    /// If the range is not inside, or not at borders of blocks.
    #[inline(always)]
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Dense(values) => Self::Dense(&values[range]),
            Self::Blocks { codes, scales } => {
                let whole = range.start.is_multiple_of(BLOCK_CODES);
                assert!(whole && range.end.is_multiple_of(BLOCK_CODES), "inside of a block");
                let blocks = range.start / BLOCK_CODES..range.end / BLOCK_CODES;
                Self::Blocks { codes: &codes[range], scales: &scales[blocks] }
            }
        }
    }

    /// The values of these weights: as they are, or expanded into `scratch`.
    #[inline(always)]
    pub fn values(self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Dense(values) => values,
            Self::Blocks { codes, scales } => {
                scratch.resize(codes.len(), 0.0);
                expand(codes, scales, scratch);
                scratch
            }
        }
    }
}

for_each_instruction_set! {
    /// Kept apart from the loops that use it: inside of them it does not vectorise.
    fn expand(codes: &[i8], scales: &[BlockScale], out: &mut [f32]) = expand_blocks
}

#[inline(always)]
fn expand_blocks(codes: &[i8], scales: &[BlockScale], out: &mut [f32]) {
    let (codes, _) = codes.as_chunks::<BLOCK_CODES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_CODES>();
    for ((codes, block), out) in codes.iter().zip(scales).zip(out) {
        expand_block(codes, *block, out);
    }
}

/// Step by step over the whole block, the form that becomes vector instructions.
#[inline(always)]
fn expand_block(codes: &[i8; BLOCK_CODES], block: BlockScale, out: &mut [f32; BLOCK_CODES]) {
    let mut values = [0.0; BLOCK_CODES];
    for index in 0..BLOCK_CODES {
        values[index] = f32::from(codes[index]);
    }
    for value in &mut values {
        *value *= block.scale;
    }
    for value in &mut values {
        *value += block.offset;
    }
    *out = values;
}
