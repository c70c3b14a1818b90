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
    use crate::noise::{is_near, numbers, same_bits};
    use proptest::prelude::*;

    #[test]
    fn every_row_gets_the_bias() {
        let mut rows = vec![1.0, 2.0, 3.0, 4.0];
        add_bias(Cpu::best(), &mut rows, &[10.0, -1.0]);
        assert_eq!(rows, vec![11.0, 1.0, 13.0, 3.0]);
    }

    proptest! {
        #[test]
        fn is_its_formula_for_any_numbers(
            bias in numbers(1..70), rows in 0_usize..4, pool in numbers(210),
        ) {
            let before = &pool[..rows * bias.len()];
            let run = |cpu| {
                let mut rows = before.to_vec();
                add_bias(cpu, &mut rows, &bias);
                rows
            };
            let portable = run(Cpu::PORTABLE);
            for cpu in Cpu::others() {
                prop_assert!(same_bits(&run(cpu), &portable), "{}", cpu.name());
            }
            for ((ours, value), bias) in portable.iter().zip(before).zip(bias.iter().cycle()) {
                let (value, bias) = (f64::from(*value), f64::from(*bias));
                prop_assert!(is_near(*ours, value + bias, (value + bias).abs()));
            }
        }
    }

    #[test]
    #[should_panic(expected = "another width")]
    fn rows_of_another_width_are_refused() {
        add_bias(Cpu::best(), &mut [1.0; 3], &[1.0; 2]);
    }
}
