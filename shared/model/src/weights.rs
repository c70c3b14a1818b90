//! A model's matrices in a mapped file, in the format the file has them in.
//!
//! Nothing is copied until a matrix is packed for the kernels. Knows what a matrix is made of, not
//! what it is for.

use std::sync::atomic::{AtomicBool, Ordering};

use relay_kernels::{Arena, PackedMatrix, Pool, WeightFormat, Weights};

use crate::mapped_file::FileBytes;

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
        self.format.is_finite(&self.bytes)
    }

    /// Whether no byte of it is set.
    pub(crate) fn is_blank(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether every weight is a finite number, looked up by all threads of `pool`.
    pub(crate) fn is_finite_by(&self, pool: &Pool) -> bool {
        let block_bytes = self.format.block_bytes();
        let blocks = self.bytes.len() / block_bytes;
        let is_finite = AtomicBool::new(true);
        pool.run(&|share| {
            let part = share.part(blocks, 1);
            let bytes = &self.bytes[part.start * block_bytes..part.end * block_bytes];
            if !self.format.is_finite(bytes) {
                is_finite.store(false, Ordering::Relaxed);
            }
        });
        is_finite.into_inner()
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
        let pool = Pool::new(Cpu::best(), 3);
        let sound = matrix(WeightFormat::F32, vec![0; 4 * 1001]);
        assert!(sound.is_finite() && sound.is_finite_by(&pool));
        for place in [0, 333, 334, 667, 1000] {
            let mut bytes = vec![0; 4 * 1001];
            bytes[4 * place..4 * place + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            let broken = matrix(WeightFormat::F32, bytes);
            assert!(!broken.is_finite() && !broken.is_finite_by(&pool), "{place}");
        }
    }
}
