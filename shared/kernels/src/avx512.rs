//! x86-64 with AVX-512 VNNI: four products of codes and their sum are one instruction.
//!
//! Registers stay at 256 bits: the layout of packed weights is the same on every machine, and
//! processors that take a register of 512 bits in two halves lose nothing. What is gained is the
//! instruction, 32 registers instead of 16, and activations that are broadcast as they are read.

#[allow(clippy::wildcard_imports, reason = "names that begin with _mm")]
use std::arch::x86_64::*;

use crate::avx2::{Avx, CodeProducts};
use crate::cpu::Kernel;
use crate::simd::Simd;

/// AVX-512 with VNNI, beside what AVX2 machines have.
pub(crate) type Avx512 = Avx<Vnni>;

/// The way of AVX-512 VNNI, and proof that the machine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vnni(());

impl Avx512 {
    /// The proof, where it is true.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        if has { Self::detect_with(Vnni(())) } else { None }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn with_features<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the machine has the features, since `self` exists.
        unsafe { with_features(self, kernel) }
    }
}

/// An expression of intrinsics.
macro_rules! avx512 {
    ($expression:expr) => {
        // SAFETY: each function takes an `Avx512`, which exists only where the machine has the
        // extensions; none of them touches memory.
        unsafe { $expression }
    };
}

/// `sum` and the products of four unsigned bytes with four codes, in each lane. Nothing saturates
/// or overflows: |sum| ≤ 8 · 4 · 255 · 128 < 2³¹.
#[inline(always)]
fn add_products(_: Avx512, sum: __m256i, weights: __m256i, codes: [i8; 4]) -> __m256i {
    let codes = i32::from_ne_bytes(codes.map(i8::cast_unsigned));
    avx512!(_mm256_dpbusd_epi32(sum, weights, _mm256_set1_epi32(codes)))
}

impl CodeProducts for Vnni {
    const ROWS: usize = 8;

    #[inline(always)]
    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        simd: Avx512,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
    ) -> __m256i {
        let mut sum = simd.splat_int(0);
        for group in FIRST..FIRST + COUNT {
            sum = add_products(simd, sum, weights[group], codes[group]);
        }
        sum
    }

    /// Plus 128, so that they are unsigned.
    #[inline(always)]
    fn prepare_signed(_: Avx512, weights: __m256i) -> __m256i {
        avx512!(_mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN)))
    }

    /// Prepared weights are 128 too much, so that their sum is 128 · Σ codes too much.
    #[inline(always)]
    fn sum_signed_products(
        simd: Avx512,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        eightfold_sum: i32,
    ) -> __m256i {
        let sum = simd.sum_products::<8, 0, 8>(weights, codes);
        simd.sub_ints(sum, simd.shift_ints_left::<4>(simd.splat_int(eightfold_sum)))
    }

    #[inline(always)]
    fn sum_scaled_halves(
        simd: Avx512,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        scales: __m256i,
    ) -> __m256i {
        let first = simd.sum_products::<6, 0, 4>(weights, codes);
        let second = simd.sum_products::<6, 4, 4>(weights, codes);
        avx512!({
            let first_scale = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(scales));
            let second_scale = _mm256_srai_epi32::<16>(scales);
            let first = _mm256_mullo_epi32(first, first_scale);
            _mm256_add_epi32(first, _mm256_mullo_epi32(second, second_scale))
        })
    }
}
