//! Weights as they lie in a file, in the blocks of a format: what is read before they are packed,
//! and where a matrix is never packed.

use std::ops::Range;

use crate::blocks::{WeightFormat, expand};

/// A matrix `[outputs, width]`, row-major; a row is a whole number of blocks.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// What the blocks are.
    pub format: WeightFormat,
    /// Blocks, `[outputs, width / format.block_weights()]`.
    pub bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// Number of weights.
    pub fn len(self) -> usize {
        self.bytes.len() / self.format.block_bytes() * self.format.block_weights()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The weights at `range`, which begins and ends at a row.
    ///
    /// # Panics
    /// If the range is not inside, or not at borders of blocks.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        let Self { format, bytes } = self;
        let size = format.block_weights();
        let whole = range.start.is_multiple_of(size) && range.end.is_multiple_of(size);
        assert!(whole, "inside of a block");
        let byte = |weight: usize| weight / size * format.block_bytes();
        Self { format, bytes: &bytes[byte(range.start)..byte(range.end)] }
    }

    /// The values of these weights, expanded into `scratch`.
    pub fn values(self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        scratch.resize(self.len(), 0.0);
        expand(self.format, self.bytes, scratch);
        scratch
    }
}
