//! The gated activation between the two halves of a feed-forward layer.

use crate::cpu::Kernel;
use crate::disjoint::Disjoint;
use crate::exponential::exp;
use crate::pool::{Pool, Share};
use crate::simd::{LANES, Simd};

/// `gate[i] = silu(gate[i]) · up[i]`. Gates beyond −10³⁰, whose silu is 0, come out as
/// `gate[i] / e⁸⁸`: the exponential grows no further.
///
/// # Panics
/// If the lengths differ.
pub fn swiglu(pool: &Pool, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up have different lengths");
    let gate = Disjoint::new(gate);
    pool.run_kernel_over(up.len(), |share: Share| {
        let part = share.part(up.len(), LANES);
        // SAFETY: shares do not overlap.
        let gate = unsafe { gate.part(part.clone()) };
        SwiGlu { gate, up: &up[part] }
    });
}

struct SwiGlu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, last_gates) = self.gate.as_chunks_mut::<LANES>();
        let (ups, last_ups) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            activate(simd, gate, up);
        }
        let mut gate = [0.0; LANES];
        let mut up = [0.0; LANES];
        gate[..last_gates.len()].copy_from_slice(last_gates);
        up[..last_ups.len()].copy_from_slice(last_ups);
        activate(simd, &mut gate, &up);
        last_gates.copy_from_slice(&gate[..last_gates.len()]);
    }
}

#[inline(always)]
fn activate<S: Simd>(simd: S, gate: &mut [f32; LANES], up: &[f32; LANES]) {
    let value = simd.load(gate);
    let decay = exp(simd, simd.sub(simd.splat(0.0), value));
    let silu = simd.div(value, simd.add(simd.splat(1.0), decay));
    let activated = simd.mul(silu, simd.load(up));
    simd.store(activated, gate);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use crate::noise::{is_near, number, same_bits};
    use proptest::prelude::*;

    #[test]
    fn swiglu_is_its_formula_on_every_instruction_set_and_any_threads() {
        let gate: Vec<f32> = (0_u16..9001).map(|i| f32::from(i) / 100.0 - 40.0).collect();
        let up: Vec<f32> = (0_u16..9001).map(|i| f32::from(i % 91) / 30.0 - 1.5).collect();
        for len in [0, 1, 7, 8, 19, 9001] {
            let run = |cpu, threads| {
                let mut out = gate[..len].to_vec();
                swiglu(&Pool::new(cpu, threads), &mut out, &up[..len]);
                out
            };
            let portable = run(Cpu::PORTABLE, 1);
            for ((ours, gate), up) in portable.iter().zip(&gate).zip(&up) {
                let (gate, up) = (f64::from(*gate), f64::from(*up));
                let exact = gate / (1.0 + (-gate).exp()) * up;
                assert!((f64::from(*ours) - exact).abs() <= 1e-6 * exact.abs() + 1e-30);
            }
            for cpu in Cpu::others() {
                let ours = run(cpu, 3);
                assert!(same_bits(&ours, &portable));
            }
        }
    }

    proptest! {
        #[test]
        fn is_its_formula_for_any_numbers(pairs in prop::collection::vec((number(), number()), 0..70)) {
            let (gate, up): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let run = |cpu| {
                let mut out = gate.clone();
                swiglu(&Pool::new(cpu, 1), &mut out, &up);
                out
            };
            let portable = run(Cpu::PORTABLE);
            for cpu in Cpu::others() {
                prop_assert!(same_bits(&run(cpu), &portable), "{}", cpu.name());
            }
            for ((ours, gate), up) in portable.iter().zip(&gate).zip(&up) {
                let (gate, up) = (f64::from(*gate), f64::from(*up));
                // The exponential grows no further than this.
                let exact = gate / (1.0 + (-gate).min(88.0).exp()) * up;
                // What is tiny before it meets `up` is rounded as coarsely as denormals are.
                let size = exact.abs() + up.abs() * 1e-38;
                prop_assert!(is_near(*ours, exact, size), "{ours}, not {exact}");
            }
        }
    }
}
