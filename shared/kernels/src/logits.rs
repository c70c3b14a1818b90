//! What a sampler asks of all logits: where the high ones are, and sums over their softmax.
//!
//! A logit that is not a number counts as −∞.

use crate::cpu::{Cpu, Kernel};
use crate::exponential::exp;
use crate::simd::{LANES, Simd};

/// Logits in a block: few enough to be looked through one by one.
pub const LOGIT_BLOCK: usize = 64;

/// The highest logit of each [`LOGIT_BLOCK`] of `logits`; the last block may be shorter.
pub fn block_maxima(cpu: Cpu, logits: &[f32]) -> Vec<f32> {
    let mut maxima = vec![f32::NEG_INFINITY; logits.len().div_ceil(LOGIT_BLOCK)];
    cpu.run(BlockMaxima { logits, maxima: &mut maxima });
    maxima
}

struct BlockMaxima<'a> {
    logits: &'a [f32],
    maxima: &'a mut [f32],
}

impl Kernel for BlockMaxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (block, maximum) in self.logits.chunks(LOGIT_BLOCK).zip(self.maxima) {
            let mut highest = simd.splat(f32::NEG_INFINITY);
            let (vectors, rest) = block.as_chunks();
            for vector in vectors {
                highest = simd.max(simd.load(vector), highest);
            }
            highest = simd.max(simd.load(&filled_up(rest)), highest);
            *maximum = simd.max_lane(highest);
        }
    }
}

/// Sums over the softmax of logits at a temperature, not divided by each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxSums {
    /// Σ e^a, where a is how far a logit lies above the highest, by the temperature.
    pub weights: f64,
    /// Σ a · e^a.
    pub weighted: f64,
}

/// [`SoftmaxSums`] of `logits`, whose highest is `highest`. Weights have a relative error below
/// 1e-6; those below e⁻⁸⁷ are 0.
pub fn softmax_sums(cpu: Cpu, logits: &[f32], highest: f32, temperature: f32) -> SoftmaxSums {
    cpu.run(Softmax { logits, highest, temperature })
}

struct Softmax<'a> {
    logits: &'a [f32],
    highest: f32,
    temperature: f32,
}

impl Kernel for Softmax<'_> {
    type Output = SoftmaxSums;

    /// Blocks in f32, lane by lane, then one after another in f64.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> SoftmaxSums {
        let mut sums = SoftmaxSums { weights: 0.0, weighted: 0.0 };
        for block in self.logits.chunks(LOGIT_BLOCK) {
            let mut block_sums = [simd.splat(0.0); 2];
            let (vectors, rest) = block.as_chunks();
            for vector in vectors {
                block_sums = self.add(simd, vector, block_sums);
            }
            let [weights, weighted] = self.add(simd, &filled_up(rest), block_sums);
            sums.weights += f64::from(simd.sum_lanes(weights));
            sums.weighted += f64::from(simd.sum_lanes(weighted));
        }
        sums
    }
}

impl Softmax<'_> {
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        simd: S,
        logits: &[f32; LANES],
        [weights, weighted]: [S::Floats; 2],
    ) -> [S::Floats; 2] {
        let above = simd.sub(simd.load(logits), simd.splat(self.highest));
        // Where it is not a number, or −∞, the bound: its weight is 0.
        let above = simd.div(above, simd.splat(self.temperature));
        let above = simd.max(above, simd.splat(f32::MIN));
        let weight = exp(simd, above);
        [simd.add(weights, weight), simd.mul_add(above, weight, weighted)]
    }
}

/// A last vector, filled up with what counts nothing.
#[inline(always)]
fn filled_up(rest: &[f32]) -> [f32; LANES] {
    let mut vector = [f32::NEG_INFINITY; LANES];
    vector[..rest.len()].copy_from_slice(rest);
    vector
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            8 => -30.0_f32..30.0,
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::NAN),
            1 => Just(-1e30_f32),
        ];
        prop::collection::vec(logit, 0..300)
    }

    fn highest(logits: &[f32]) -> f32 {
        logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    proptest! {
        #[test]
        fn maxima_are_those_of_blocks(logits in logits()) {
            let exact: Vec<f32> = logits.chunks(LOGIT_BLOCK).map(highest).collect();
            for cpu in Cpu::others().into_iter().chain([Cpu::PORTABLE]) {
                prop_assert_eq!(&block_maxima(cpu, &logits), &exact);
            }
        }

        #[test]
        fn sums_are_their_formulas(logits in logits(), temperature in 0.2_f32..3.0) {
            let top = highest(&logits);
            prop_assume!(top > -100.0);
            let ours = softmax_sums(Cpu::PORTABLE, &logits, top, temperature);
            let (mut weights, mut weighted) = (0.0, 0.0);
            for logit in logits.iter().filter(|logit| logit.is_finite()) {
                let above = (f64::from(*logit) - f64::from(top)) / f64::from(temperature);
                weights += above.exp();
                weighted += above * above.exp();
            }
            prop_assert!((ours.weights - weights).abs() < 1e-5 * weights);
            prop_assert!((ours.weighted - weighted).abs() < 1e-5 * weights);
            for cpu in Cpu::others() {
                prop_assert_eq!(softmax_sums(cpu, &logits, top, temperature), ours);
            }
        }
    }

    #[test]
    fn nothing_has_sums_of_nothing() {
        for logits in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 70]] {
            let sums = softmax_sums(Cpu::best(), logits, f32::NEG_INFINITY, 1.0);
            assert!(sums.weights.abs() < 1e-30 && sums.weighted.abs() < 1e-30, "{sums:?}");
        }
    }
}
