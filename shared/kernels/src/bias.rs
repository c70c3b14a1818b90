//! What a projection adds to its outputs.

use crate::cpu::{Cpu, Kernel};
use crate::simd::Simd;

/// `rows[row, i] += bias[i]`; `rows` is `[rows, bias.len()]`.
///
/// # Panics
/// If there is no bias, or the rows have another width.
pub fn add_bias(cpu: Cpu, rows: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty(), "there is no bias");
    assert!(rows.len().is_multiple_of(bias.len()), "rows have another width than the bias");
    cpu.run(AddBias { rows, bias });
}

struct AddBias<'a> {
    rows: &'a mut [f32],
    bias: &'a [f32],
}

impl Kernel for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for row in self.rows.chunks_exact_mut(self.bias.len()) {
            for (value, bias) in row.iter_mut().zip(self.bias) {
                *value += bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_gets_the_bias() {
        let mut rows = vec![1.0, 2.0, 3.0, 4.0];
        add_bias(Cpu::best(), &mut rows, &[10.0, -1.0]);
        assert_eq!(rows, vec![11.0, 1.0, 13.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "another width")]
    fn rows_of_another_width_are_refused() {
        add_bias(Cpu::best(), &mut [1.0; 3], &[1.0; 2]);
    }
}
