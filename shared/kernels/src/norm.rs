//! Root-mean-square normalisation.

use crate::cpu::{Cpu, Kernel};
use crate::lanes::dot;
use crate::simd::Simd;

/// `out[row, i] = inputs[row, i] / rms(inputs[row]) · weights[i]`, where `rms` is
/// √(mean of squares + epsilon). `inputs` and `out` are `[rows, weights.len()]`.
///
/// # Panics
/// If there are no weights, or the lengths do not fit each other.
pub fn rms_norm(cpu: Cpu, inputs: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    assert_eq!(inputs.len(), out.len(), "the output has another shape");
    assert!(!weights.is_empty(), "rows have no width");
    assert!(inputs.len().is_multiple_of(weights.len()), "the last row is incomplete");
    cpu.run(RmsNorm { inputs, weights, epsilon, out });
}

struct RmsNorm<'a> {
    inputs: &'a [f32],
    weights: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    /// Plain Rust, whose operations no compiler fuses: the same bits on every instruction set.
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    fn run<S: Simd>(self, _: S) {
        let width = self.weights.len();
        let outs = self.out.chunks_exact_mut(width);
        for (input, out) in self.inputs.chunks_exact(width).zip(outs) {
            let mean = dot(input, input) / width as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for ((out, input), weight) in out.iter_mut().zip(input).zip(self.weights) {
                *out = input * scale * weight;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "rows are short")]
mod tests {
    use super::*;
    use crate::noise::{is_near, numbers, same_bits};
    use proptest::prelude::*;

    #[test]
    fn is_its_formula_for_each_row() {
        let inputs: Vec<f32> = (0_u8..40).map(|i| f32::from(i % 7) - 2.5).collect();
        let weights: Vec<f32> = (0_u8..20).map(|i| f32::from(i) / 10.0).collect();
        let mut out = vec![0.0; 40];
        rms_norm(Cpu::PORTABLE, &inputs, &weights, 1e-5, &mut out);
        for cpu in Cpu::others() {
            let mut ours = vec![0.0; 40];
            rms_norm(cpu, &inputs, &weights, 1e-5, &mut ours);
            assert!(same_bits(&ours, &out));
        }
        for row in 0..2 {
            let input = &inputs[row * 20..(row + 1) * 20];
            let squares: f64 = input.iter().map(|x| f64::from(*x).powi(2)).sum();
            let rms = (squares / 20.0 + 1e-5).sqrt();
            for i in 0..20 {
                let exact = f64::from(input[i]) / rms * f64::from(weights[i]);
                assert!((f64::from(out[row * 20 + i]) - exact).abs() < 1e-5);
            }
        }
    }

    proptest! {
        #[test]
        fn is_its_formula_for_any_numbers(
            weights in numbers(1..70), rows in 0_usize..4, pool in numbers(210),
        ) {
            let width = weights.len();
            let inputs = &pool[..rows * width];
            let run = |cpu| {
                let mut out = vec![f32::NAN; inputs.len()];
                rms_norm(cpu, inputs, &weights, 1e-5, &mut out);
                out
            };
            let portable = run(Cpu::PORTABLE);
            for cpu in Cpu::others() {
                prop_assert!(same_bits(&run(cpu), &portable), "{}", cpu.name());
            }
            for (input, out) in inputs.chunks(width).zip(portable.chunks(width)) {
                let squares: f64 = input.iter().map(|x| f64::from(*x).powi(2)).sum();
                let rms = (squares / width as f64 + 1e-5).sqrt();
                for ((ours, x), weight) in out.iter().zip(input).zip(&weights) {
                    let exact = f64::from(*x) / rms * f64::from(*weight);
                    // What is tiny before the weight is rounded as coarsely as denormals are.
                    let size = exact.abs() + f64::from(weight.abs()) * 1e-38;
                    let is_held = squares < f64::from(f32::MAX) / 2.0;
                    prop_assert!(!is_held || is_near(*ours, exact, size), "{ours}, not {exact}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the last row is incomplete")]
    fn a_ragged_end_is_refused() {
        rms_norm(Cpu::best(), &[1.0; 5], &[1.0; 2], 1e-5, &mut [0.0; 5]);
    }
}
