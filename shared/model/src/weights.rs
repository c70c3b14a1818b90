//! A model's matrices in a mapped file, in the format the file has them in.
//!
//! Nothing is copied until a matrix is packed for the kernels. Knows what a matrix is made of, not
//! what it is for.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use relay_kernels::{Arena, PackedMatrix, Pool, WeightFormat, Weights};

use crate::mapped_file::FileBytes;

mod limits {
    /// Zero bytes side by side that no trained weights have between them.
    pub(super) const HOLE_BYTES_MIN: usize = 64 << 10;
    /// So many of them lie in a row that has other bytes too: a weight may be zero by chance.
    pub(super) const HOLE_BYTES_IN_ROW_MIN: usize = 64;
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
        Weights { format: self.format, bytes: &self.bytes }
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

    /// A long run of zero bytes that begins or ends within a row of `row_weights`: a download that was
    /// cut short leaves whole pages of zeros, wherever rows begin. Rows of nothing but zeros are
    /// sound, however many: tokens that nobody trained, and outputs that fill a matrix up to a size
    /// that can be shared among machines.
    pub(crate) fn hole(&self, row_weights: usize) -> Option<Range<usize>> {
        let row_bytes = self.format.bytes_of(row_weights).filter(|bytes| *bytes > 0)?;
        let mut runs = zero_runs(&self.bytes, limits::HOLE_BYTES_MIN);
        runs.find(|run| {
            let before = run.start.next_multiple_of(row_bytes) - run.start;
            before.max(run.end % row_bytes) >= limits::HOLE_BYTES_IN_ROW_MIN
        })
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

/// Where at least `bytes_min` zero bytes lie side by side. Looks at two places in so many bytes only,
/// where there are none.
fn zero_runs(bytes: &[u8], bytes_min: usize) -> impl Iterator<Item = Range<usize>> {
    let is_set = |byte: &u8| *byte != 0;
    let mut seen = 0;
    let probes = (0..bytes.len()).step_by(bytes_min / 2);
    probes.filter_map(move |probe| {
        if probe < seen || is_set(&bytes[probe]) {
            return None;
        }
        let start = bytes[seen..probe].iter().rposition(is_set).map_or(seen, |at| seen + at + 1);
        seen = bytes[probe..].iter().position(is_set).map_or(bytes.len(), |at| probe + at);
        (seen - start >= bytes_min).then_some(start..seen)
    })
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

    /// Rows of 3,000 bytes.
    #[test]
    fn a_hole_is_told_from_rows_of_zeros() {
        let row_bytes = 3000;
        for (zeros, is_hole) in [
            (0..0, false),
            (9_100..74_635, false),
            (9_100..74_636, true),
            (9_000..174_000, false),
            (9_000..174_063, false),
            (9_000..174_064, true),
            (8_937..174_000, false),
            (8_936..174_000, true),
            (0..69_000, false),
            (0..70_000, true),
            (229_000..300_000, true),
            (231_000..300_000, false),
            (0..300_000, false),
        ] {
            let mut bytes = vec![1; 100 * row_bytes];
            bytes[zeros.clone()].fill(0);
            let matrix = matrix(WeightFormat::F32, bytes);
            let expected = is_hole.then_some(zeros.clone());
            assert_eq!(matrix.hole(row_bytes / 4), expected, "{zeros:?}");
        }
        let mut two = vec![1; 600_000];
        two[3_000..90_000].fill(0);
        two[300_100..400_100].fill(0);
        let two = matrix(WeightFormat::F32, two);
        assert_eq!(two.hole(row_bytes / 4), Some(300_100..400_100));
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
