//! The exponential: our own, since the system's differs between machines, and vectorised.

use crate::simd::{LANES, Simd};

/// eˣ with a relative error below 1e-6: argument reduction to ±½ ln 2 and a polynomial. Below −87
/// it is 0, above 88 it stays at e⁸⁸.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::Floats) -> S::Floats {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LEAST: f32 = -87.0;
    const MOST: f32 = 88.0;
    const TAYLOR: [f32; 7] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let bounded = simd.min(simd.max(x, simd.splat(LEAST)), simd.splat(MOST));
    let power = simd.round(simd.mul(bounded, simd.splat(std::f32::consts::LOG2_E)));
    let rest = simd.mul_add(power, simd.splat(-LN_2_HIGH), bounded);
    let rest = simd.mul_add(power, simd.splat(-LN_2_LOW), rest);
    let mut sum = simd.splat(TAYLOR[0]);
    for factor in &TAYLOR[1..] {
        sum = simd.mul_add(sum, rest, simd.splat(*factor));
    }
    let mantissa = simd.mul_add(sum, rest, simd.splat(1.0));
    let value = simd.mul(mantissa, simd.power_of_two(power));
    simd.where_at_least(x, simd.splat(LEAST), value)
}

/// Replaces scores by e^(score − highest); gives the highest and the sum of the exponentials,
/// taken 8 by 8, then over lanes. A score of −∞ becomes 0.
#[inline(always)]
pub(crate) fn exponentiate<S: Simd>(simd: S, scores: &mut [[f32; LANES]]) -> (f32, f32) {
    let mut highest = simd.splat(f32::NEG_INFINITY);
    for scores in scores.iter() {
        highest = simd.max(highest, simd.load(scores));
    }
    let highest = simd.max_lane(highest);
    let mut total = simd.splat(0.0);
    for scores in scores {
        let powers = exp(simd, simd.sub(simd.load(scores), simd.splat(highest)));
        total = simd.add(total, powers);
        simd.store(powers, scores);
    }
    (highest, simd.sum_lanes(total))
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "lanes are few")]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, Kernel};
    use crate::noise::{numbers, same_bits};
    use proptest::prelude::*;

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(mut self, simd: S) -> [f32; LANES] {
            let powers = exp(simd, simd.load(&self.0));
            simd.store(powers, &mut self.0);
            self.0
        }
    }

    #[test]
    fn the_exponential_is_close_everywhere() {
        let mut x = -86.9_f32;
        while x < 87.9 {
            let xs: [f32; LANES] = std::array::from_fn(|lane| x + 0.003 * lane as f32);
            let ours = Cpu::PORTABLE.run(Exp(xs));
            for cpu in Cpu::others() {
                assert_eq!(cpu.run(Exp(xs)).map(f32::to_bits), ours.map(f32::to_bits));
            }
            for (ours, x) in ours.into_iter().zip(xs) {
                let exact = f64::from(x).exp();
                assert!((f64::from(ours) / exact - 1.0).abs() < 1e-6, "exp({x}) = {ours}");
            }
            x += 0.024;
        }
        let ends = [0.0, f32::NEG_INFINITY, -87.1, f32::INFINITY, 89.0, 1e-40, -0.0, -1e30];
        for cpu in Cpu::others().into_iter().chain([Cpu::PORTABLE]) {
            let [zero, low, below, high, above, tiny, negative, lowest] = cpu.run(Exp(ends));
            assert_eq!([zero, tiny, negative].map(f32::to_bits), [1.0_f32.to_bits(); 3]);
            assert_eq!([low, below, lowest].map(f32::to_bits), [0; 3]);
            assert!(high.is_finite() && above.to_bits() == high.to_bits());
        }
    }

    struct Exponentiate(Vec<[f32; LANES]>);

    impl Kernel for Exponentiate {
        type Output = (Vec<[f32; LANES]>, f32, f32);

        #[inline(always)]
        fn run<S: Simd>(mut self, simd: S) -> Self::Output {
            let (highest, total) = exponentiate(simd, &mut self.0);
            (self.0, highest, total)
        }
    }

    proptest! {
        #[test]
        fn any_number_has_its_power(numbers in numbers(LANES), by in 1_u8..40) {
            let xs: [f32; LANES] = std::array::from_fn(|lane| numbers[lane] * f32::from(by));
            let ours = Cpu::PORTABLE.run(Exp(xs));
            for cpu in Cpu::others() {
                prop_assert!(same_bits(&cpu.run(Exp(xs)), &ours), "{}", cpu.name());
            }
            for (ours, x) in ours.into_iter().zip(xs) {
                let exact = if x < -87.0 { 0.0 } else { f64::from(x.min(88.0)).exp() };
                prop_assert!((f64::from(ours) - exact).abs() <= 1e-6 * exact, "exp({x}) = {ours}");
            }
        }

        #[test]
        fn scores_have_their_powers_under_the_highest(scores in numbers(1..70)) {
            let mut padded = scores.clone();
            padded.resize(scores.len().next_multiple_of(LANES), f32::NEG_INFINITY);
            let (padded, _) = padded.as_chunks::<LANES>();
            let (ours, highest, total) = Cpu::PORTABLE.run(Exponentiate(padded.to_vec()));
            for cpu in Cpu::others() {
                let (theirs, their_highest, their_total) = cpu.run(Exponentiate(padded.to_vec()));
                prop_assert!(same_bits(theirs.as_flattened(), ours.as_flattened()));
                prop_assert!(same_bits(&[their_highest, their_total], &[highest, total]));
            }
            prop_assert!(scores.iter().all(|score| *score <= highest) && scores.contains(&highest));
            let mut exact_total = 0.0;
            for (ours, score) in ours.as_flattened().iter().zip(padded.as_flattened()) {
                let below = score - highest;
                let exact = if below < -87.0 { 0.0 } else { f64::from(below).exp() };
                prop_assert!((f64::from(*ours) - exact).abs() <= 1e-6 * exact, "{score}: {ours}");
                exact_total += exact;
            }
            prop_assert!((f64::from(total) - exact_total).abs() <= 2e-6 * exact_total);
        }
    }
}
