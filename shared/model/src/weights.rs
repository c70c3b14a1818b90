//! A model's matrices: views of a mapped file, in the format the file has them in.
//!
//! Nothing is converted and nothing copied: the kernels expand a few rows at a time. Knows what a
//! matrix is made of, not what it is for.

use rayon::prelude::*;
use relay_kernels::{WeightFormat, Weights};

use crate::mapped_file::FileBytes;

mod limits {
    /// Blocks that one task checks.
    pub(super) const CHECKED_BLOCKS: usize = 1 << 14;
}

/// A matrix `[outputs, inputs]`, in one part or several whose outputs follow one another.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    format: WeightFormat,
    bytes: FileBytes,
}

impl Matrix {
    /// The blocks in `bytes`.
    pub(crate) fn new(format: WeightFormat, bytes: FileBytes) -> Self {
        Self { parts: vec![Part { format, bytes }] }
    }

    /// One matrix with the outputs of both, this one's first. Formats may differ.
    pub(crate) fn followed_by(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// What the kernels multiply with.
    pub(crate) fn view(&self) -> Vec<Weights<'_>> {
        self.parts.iter().map(Part::view).collect()
    }

    /// All values, as f32.
    pub(crate) fn values(&self) -> Vec<f32> {
        let mut scratch = Vec::new();
        let mut values = Vec::new();
        for part in &self.parts {
            values.extend_from_slice(part.view().values(&mut scratch));
        }
        values
    }

    /// Appends the values of output `row` of a matrix in one part with `width` inputs.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn append_row(&self, row: usize, width: usize, values: &mut Vec<f32>) {
        let weights = self.parts[0].view().part(row * width..(row + 1) * width);
        values.extend_from_slice(weights.values(&mut Vec::new()));
    }

    /// Bytes as held: the file's own.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Whether every weight is a finite number. Touches every page of the matrix, which brings it
    /// into memory before the first token needs it.
    pub(crate) fn is_finite(&self) -> bool {
        self.parts.iter().all(|part| {
            let chunks = part.bytes.par_chunks(limits::CHECKED_BLOCKS * part.format.block_bytes());
            chunks.all(|blocks| part.format.is_finite(blocks))
        })
    }
}

impl Part {
    fn view(&self) -> Weights<'_> {
        Weights::Blocks { format: self.format, bytes: &self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped_file::MappedFile;

    fn matrix(format: WeightFormat, bytes: Vec<u8>) -> Matrix {
        let len = bytes.len();
        Matrix::new(format, FileBytes::new(&MappedFile::made_up(bytes), 0..len).unwrap())
    }

    #[test]
    fn parts_follow_one_another() {
        let halves = matrix(WeightFormat::F16, vec![0, 0x3C, 0, 0x40, 0, 0x3C, 0, 0x40]);
        let singles = matrix(WeightFormat::F32, [5.0_f32, 6.0].map(f32::to_le_bytes).concat());
        let both = halves.clone().followed_by(singles);
        assert_eq!(both.values(), [1.0, 2.0, 1.0, 2.0, 5.0, 6.0]);
        assert_eq!((both.bytes(), both.view().len()), (16, 2));
        let mut row = vec![9.0];
        halves.append_row(1, 2, &mut row);
        assert_eq!(row, [9.0, 1.0, 2.0]);
    }

    #[test]
    fn an_infinity_anywhere_is_seen() {
        let mut bytes = vec![0; 4 * (limits::CHECKED_BLOCKS + 3)];
        assert!(matrix(WeightFormat::F32, bytes.clone()).is_finite());
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(!matrix(WeightFormat::F32, bytes).is_finite());
    }
}
