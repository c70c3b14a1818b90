//! Weights as they lie in memory: plain, or in the blocks of a format.
//!
//! Blocks are expanded just before they are used, a few rows at a time, so that reading weights
//! from memory costs what the format's blocks do.

use std::ops::Range;

use crate::blocks::{WeightFormat, expand};

/// A matrix `[outputs, width]`, row-major.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Plain values.
    Dense(&'a [f32]),
    /// Blocks of a format; a row is a whole number of blocks.
    Blocks {
        /// What they are.
        format: WeightFormat,
        /// Blocks, `[outputs, width / format.block_weights()]`.
        bytes: &'a [u8],
    },
}

impl<'a> Weights<'a> {
    /// Number of weights.
    pub fn len(self) -> usize {
        match self {
            Self::Dense(values) => values.len(),
            Self::Blocks { format, bytes } => {
                bytes.len() / format.block_bytes() * format.block_weights()
            }
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
            Self::Blocks { format, bytes } => {
                let size = format.block_weights();
                let whole = range.start.is_multiple_of(size) && range.end.is_multiple_of(size);
                assert!(whole, "inside of a block");
                let byte = |weight: usize| weight / size * format.block_bytes();
                Self::Blocks { format, bytes: &bytes[byte(range.start)..byte(range.end)] }
            }
        }
    }

    /// The values of these weights: as they are, or expanded into `scratch`.
    #[inline(always)]
    pub fn values(self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Dense(values) => values,
            Self::Blocks { format, bytes } => {
                scratch.resize(self.len(), 0.0);
                expand(format, bytes, scratch);
                scratch
            }
        }
    }
}
