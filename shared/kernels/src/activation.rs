//! Exponentials and what is made of them.
//!
//! The exponential is our own: the system's differs between machines, and this one vectorises.

use crate::dispatch::for_each_instruction_set;

/// eˣ with a relative error below 1e-6: argument reduction to ±½ ln 2 and a polynomial. Below −87
/// it is 0, above 88 it stays at e⁸⁸.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it leaves the nearest whole number in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const TAYLOR: [f32; 7] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    let rest = bounded - power * LN_2_HIGH - power * LN_2_LOW;
    let mut sum = TAYLOR[0];
    for factor in &TAYLOR[1..] {
        sum = sum * rest + factor;
    }
    let mantissa = sum * rest + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { mantissa * f32::from_bits(exponent) }
}

for_each_instruction_set! {
    /// `out[i] = silu(gate[i]) · up[i]`, row by row: `gate_and_up` is `[rows, gate then up, width]`,
    /// `out` `[rows, width]`.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn swiglu(gate_and_up: &[f32], width: usize, out: &mut [f32]) = swiglu_rows
}

#[inline(always)]
fn swiglu_rows(gate_and_up: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(gate_and_up.len(), 2 * out.len(), "gate and up do not fit the output");
    for (pair, out) in gate_and_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = pair.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

for_each_instruction_set! {
    /// Turns scores into probabilities, in place; summed in the order of the slice.
    pub fn softmax(scores: &mut [f32]) = softmax_in_order
}

#[inline(always)]
fn softmax_in_order(scores: &mut [f32]) {
    let total = exponentiate(scores);
    for score in scores {
        *score /= total;
    }
}

/// Replaces scores by e^(score − highest) and gives their sum, taken in order.
#[inline(always)]
pub(crate) fn exponentiate(scores: &mut [f32]) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    scores.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_everywhere() {
        let mut x = -86.9_f32;
        while x < 87.9 {
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 1e-6, "exp({x}) = {ours}, not {exact}");
            x += 0.003;
        }
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exp(f32::NEG_INFINITY).abs() < f32::MIN_POSITIVE);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn swiglu_is_its_formula() {
        let gate_and_up = [-2.0, 0.0, 3.0, 1.0, 5.0, -1.0, 0.5, -20.0, 2.0, 2.0, 2.0, 2.0];
        let mut out = [0.0; 6];
        swiglu(&gate_and_up, 3, &mut out);
        for (index, out) in out.iter().enumerate() {
            let at = index / 3 * 6 + index % 3;
            let (gate, up) = (f64::from(gate_and_up[at]), f64::from(gate_and_up[at + 3]));
            let exact = gate / (1.0 + (-gate).exp()) * up;
            assert!((f64::from(*out) - exact).abs() < 1e-5);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_stands_large_scores() {
        for scores in [vec![0.0; 7], vec![1e30, -1e30, 1e30], vec![-1000.0, -1001.0], vec![3.0]] {
            let mut probabilities = scores.clone();
            softmax(&mut probabilities);
            assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{scores:?}");
        }
        softmax(&mut []);
    }
}
