//! A model's matrices in a mapped file, in the format the file has them in.
//!
//! Nothing is copied until a matrix is packed for the kernels. Knows what a matrix is made of, not
//! what it is for.

use rayon::prelude::*;
use relay_kernels::{Arena, PackedMatrix, Pool, WeightFormat, Weights};

use crate::mapped_file::FileBytes;

mod limits {
    /// Blocks that one task checks.
    pub(super) const CHECKED_BLOCKS: usize = 1 << 14;
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    format: WeightFormat,
    bytes: FileBytes,
}

impl Matrix {
    /// The blocks in `bytes`.
    pub(crate) fn new(format: WeightFormat, bytes: FileBytes) -> Self {
        Self { format, bytes }
    }

    /// Of a stored tensor of shape `found`, if that is what the architecture demands.
    ///
    /// # Errors
    /// What is wrong with the tensor: another shape than `wanted`.
    pub(crate) fn of_shape(
        format: WeightFormat,
        bytes: FileBytes,
        found: &[usize],
        wanted: &[usize],
    ) -> Result<Self, String> {
        if found == wanted {
            Ok(Self::new(format, bytes))
        } else {
            Err(format!("is {found:?}, but should be {wanted:?}"))
        }
    }

    /// Repacked for the kernels, into `arena`; rows have `width` weights.
    pub(crate) fn pack(&self, pool: &Pool, arena: &mut Arena, width: usize) -> PackedMatrix {
        PackedMatrix::pack(pool, arena, self.format, &self.bytes, width)
    }

    fn view(&self) -> Weights<'_> {
        Weights::Blocks { format: self.format, bytes: &self.bytes }
    }

    /// All values, as f32.
    pub(crate) fn values(&self) -> Vec<f32> {
        // What lies in blocks is expanded into the vector that it is given.
        let mut values = Vec::new();
        self.view().values(&mut values);
        values
    }

    /// Writes the values of output `index` to `row`.
    ///
    /// # Panics
    /// If there is no such output.
    pub(crate) fn row(&self, index: usize, row: &mut [f32]) {
        let weights = self.view().part(index * row.len()..(index + 1) * row.len());
        row.copy_from_slice(weights.values(&mut Vec::new()));
    }

    /// How it is stored.
    pub(crate) fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Gives the memory of its file's pages back: what was packed is not read from there again.
    pub(crate) fn release(&self) {
        self.bytes.release();
    }

    /// Whether every weight is a finite number. Touches every page of the matrix, which brings it
    /// into memory before the first token needs it.
    pub(crate) fn is_finite(&self) -> bool {
        let chunks = self.bytes.par_chunks(limits::CHECKED_BLOCKS * self.format.block_bytes());
        chunks.all(|blocks| self.format.is_finite(blocks))
    }
}

#[cfg(test)]
mod tests {
    use relay_kernels::Cpu;

    use super::*;
    use crate::mapped_file::MappedFile;

    fn matrix(format: WeightFormat, bytes: Vec<u8>) -> Matrix {
        let len = bytes.len();
        Matrix::new(format, FileBytes::new(&MappedFile::made_up(bytes), 0..len).unwrap())
    }

    #[test]
    fn values_are_the_same_packed_or_not() {
        let halves = matrix(WeightFormat::F16, vec![0, 0x3C, 0, 0x40, 0, 0x38, 0, 0xC0]);
        assert_eq!(halves.values(), [1.0, 2.0, 0.5, -2.0]);
        assert_eq!(halves.bytes(), 8);
        let packed = halves.pack(&Pool::new(Cpu::best(), 1), &mut Arena::growing(), 2);
        let (mut row, mut packed_row) = ([9.0; 2], [9.0; 2]);
        halves.row(1, &mut row);
        packed.row(1, &mut packed_row);
        assert_eq!((row, packed_row), ([0.5, -2.0], [0.5, -2.0]));
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
