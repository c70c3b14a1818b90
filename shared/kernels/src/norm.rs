//! Root-mean-square normalisation.

use crate::dispatch::for_each_instruction_set;
use crate::lanes::dot;

for_each_instruction_set! {
    /// `out[row, i] = inputs[row, i] / rms(inputs[row]) · weights[i]`, where `rms` is
    /// √(mean of squares + epsilon). `inputs` and `out` are `[rows, weights.len()]`.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn rms_norm(inputs: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32])
        = rms_norm_rows
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
fn rms_norm_rows(inputs: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    assert_eq!(inputs.len(), out.len(), "the output has another shape");
    let width = weights.len();
    for (input, out) in inputs.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = dot(input, input) / width as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, input), weight) in out.iter_mut().zip(input).zip(weights) {
            *out = input * scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_its_formula_for_each_row() {
        let inputs: Vec<f32> = (0_u8..40).map(|i| f32::from(i % 7) - 2.5).collect();
        let weights: Vec<f32> = (0_u8..20).map(|i| f32::from(i) / 10.0).collect();
        let mut out = vec![0.0; 40];
        rms_norm(&inputs, &weights, 1e-5, &mut out);
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
}
