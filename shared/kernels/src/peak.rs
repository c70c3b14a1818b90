//! How many products a pool's threads can do a second while nothing comes from memory: what
//! multiplications are measured by.

use std::hint::black_box;
use std::time::Instant;

use crate::cpu::Kernel;
use crate::pool::Pool;
use crate::simd::{LANES, Simd};

mod limits {
    use std::time::Duration;

    /// Rounds of a run: some milliseconds.
    pub(super) const ROUNDS: usize = 200_000;
    /// How long runs go on, the fastest of which counts: threads that were just begun share a core
    /// for a while.
    pub(super) const LEAST: Duration = Duration::from_millis(200);
    /// Sums at a time: enough to hide how long one takes.
    pub(super) const FLOAT_SUMS: usize = 10;
}

/// Products a second, on all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Of 4-bit weights with 8-bit codes, summed.
    pub codes: f64,
    /// Of floats, summed.
    pub floats: f64,
}

/// Measures both. Takes about half a second.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn arithmetic_peaks(pool: &Pool) -> Peaks {
    let per_second = |products: usize, run: &dyn Fn()| {
        let (mut fastest, begin) = (f64::INFINITY, Instant::now());
        while begin.elapsed() < limits::LEAST {
            let start = Instant::now();
            run();
            fastest = start.elapsed().as_secs_f64().min(fastest);
        }
        (products * limits::ROUNDS * pool.threads()) as f64 / fastest
    };
    let floats = limits::FLOAT_SUMS * LANES;
    Peaks {
        codes: per_second(8 * 32, &|| pool.run_kernel(|_| CodeProducts)),
        floats: per_second(floats, &|| pool.run_kernel(|_| FloatProducts)),
    }
}

struct CodeProducts;

impl Kernel for CodeProducts {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weights = [simd.load_bytes(&black_box([7; 32])); 8];
        let codes = [[3_i8; 4]; 8];
        let mut sum = simd.splat_int(0);
        for _ in 0..limits::ROUNDS {
            let products = simd.sum_products::<4, 0, 8>(&weights, black_box(&codes));
            sum = simd.add_ints(sum, products);
        }
        let mut out = [0.0; LANES];
        simd.store(simd.to_floats(sum), &mut out);
        black_box(out);
    }
}

struct FloatProducts;

impl Kernel for FloatProducts {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(black_box(0.5));
        let mut sums = [simd.splat(1.0); limits::FLOAT_SUMS];
        for _ in 0..limits::ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, factor, factor);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            simd.store(sum, &mut out);
            black_box(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn there_are_some() {
        let peaks = arithmetic_peaks(&Pool::new(Cpu::best(), 1));
        assert!(peaks.codes > 1e6 && peaks.floats > 1e6, "{peaks:?}");
    }
}
