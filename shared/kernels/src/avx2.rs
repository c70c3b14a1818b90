//! Vector operations of x86-64 in registers of 256 bits: AVX2, FMA and F16C.
//!
//! All of them are instructions of these three extensions without further preconditions, or loads
//! and stores through references. A value of [`Avx`] exists only where the machine has the
//! extensions; that is the whole safety argument. Wider extensions share them all but for the
//! products of codes.

#[allow(clippy::wildcard_imports, reason = "sixty names that begin with _mm")]
use std::arch::x86_64::*;

use crate::cpu::Kernel;
use crate::shorts;
use crate::simd::{LANES, Simd};

/// Registers of 256 bits. `P` says how codes are multiplied, and proves what that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx<P>(P);

/// AVX2, FMA and F16C alone.
pub(crate) type Avx2 = Avx<InShorts>;

/// How codes of 8 bits are multiplied and summed: the methods of [`Simd`] of the same names.
pub(crate) trait CodeProducts: Copy + Send + Sync {
    /// Rows whose sums fit into registers together with a piece of weights.
    const ROWS: usize;

    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        simd: Avx<Self>,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
    ) -> __m256i;

    fn prepare_signed(simd: Avx<Self>, weights: __m256i) -> __m256i;

    fn sum_signed_products(
        simd: Avx<Self>,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        eightfold_sum: i32,
    ) -> __m256i;

    fn sum_scaled_halves(
        simd: Avx<Self>,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        scales: __m256i,
    ) -> __m256i;
}

/// The way of AVX2, and proof that the machine has it, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InShorts(());

impl<P: CodeProducts> Avx<P> {
    /// With a proof of what `P` takes; gives nothing where the rest is not there.
    pub(crate) fn detect_with(products: P) -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(products))
    }
}

impl Avx2 {
    /// The proof, where it is true.
    pub(crate) fn detect() -> Option<Self> {
        Self::detect_with(InShorts(()))
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_features<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the machine has the features, since `self` exists.
        unsafe { with_features(self, kernel) }
    }
}

impl CodeProducts for InShorts {
    const ROWS: usize = 4;

    #[inline(always)]
    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        simd: Avx2,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
    ) -> __m256i {
        shorts::sum_products::<Avx2, BITS, FIRST, COUNT>(simd, weights, codes)
    }

    #[inline(always)]
    fn prepare_signed(_: Avx2, weights: __m256i) -> __m256i {
        weights
    }

    #[inline(always)]
    fn sum_signed_products(
        simd: Avx2,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        _: i32,
    ) -> __m256i {
        shorts::sum_signed_products(simd, weights, codes)
    }

    #[inline(always)]
    fn sum_scaled_halves(
        simd: Avx2,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        scales: __m256i,
    ) -> __m256i {
        shorts::sum_scaled_halves(simd, weights, codes, scales)
    }
}

/// An expression of intrinsics.
macro_rules! avx2 {
    ($expression:expr) => {
        // SAFETY: each method takes an `Avx`, which exists only where the machine has the
        // extensions; pointers come from references to as many bytes as are loaded or stored, and
        // the unaligned forms are used.
        unsafe { $expression }
    };
}

/// Both halves folded by `$f`, then quarters, then the last two.
macro_rules! fold_lanes {
    ($a:expr, $f128:ident, $f1:ident) => {
        avx2!({
            let a = $a;
            let fours = $f128(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let twos = $f128(fours, _mm_movehl_ps(fours, fours));
            _mm_cvtss_f32($f1(twos, _mm_shuffle_ps::<1>(twos, twos)))
        })
    };
}

impl<P: CodeProducts> Simd for Avx<P> {
    const ROWS: usize = P::ROWS;
    type Floats = __m256;
    type Ints = __m256i;
    type Shorts = __m256i;
    type Bytes = __m256i;

    #[inline(always)]
    fn prefetch<T>(self, value: &T) {
        avx2!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        avx2!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m256 {
        avx2!(_mm256_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; LANES]) {
        avx2!(_mm256_storeu_ps(to.as_mut_ptr(), value));
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        avx2!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn where_at_least(self, x: __m256, bound: __m256, a: __m256) -> __m256 {
        avx2!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x, bound), a))
    }

    #[inline(always)]
    fn power_of_two(self, exponent: __m256) -> __m256 {
        avx2!({
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        avx2!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn load_halves(self, from: &[u16; LANES]) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_bfloats(self, from: &[u16; LANES]) -> __m256 {
        avx2!({
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn load_bytes_as_floats(self, from: [u8; LANES]) -> __m256 {
        avx2!({
            let bytes = _mm_loadl_epi64(from.as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        })
    }

    #[inline(always)]
    fn sum_lanes(self, a: __m256) -> f32 {
        fold_lanes!(a, _mm_add_ps, _mm_add_ss)
    }

    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        fold_lanes!(a, _mm_max_ps, _mm_max_ss)
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> __m256i {
        avx2!(_mm256_set1_epi32(value))
    }

    #[inline(always)]
    fn sub_ints(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn add_ints(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn shift_ints_left<const N: i32>(self, a: __m256i) -> __m256i {
        avx2!(_mm256_slli_epi32::<N>(a))
    }

    #[inline(always)]
    fn to_floats(self, a: __m256i) -> __m256 {
        avx2!(_mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn store_codes(self, values: [__m256; 4], to: &mut [[i8; 4]; 8]) {
        avx2!({
            let [a, b, c, d] = values;
            let (a, b) = (_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            let (c, d) = (_mm256_cvtps_epi32(c), _mm256_cvtps_epi32(d));
            // Packing works within halves: the permutation puts the groups of four in order.
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let ordered = _mm256_permutevar8x32_epi32(bytes, order);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        });
    }

    #[inline(always)]
    fn splat_pair(self, pair: [i16; 2]) -> __m256i {
        let [low, high] = pair.map(i16::to_ne_bytes);
        avx2!(_mm256_set1_epi32(i32::from_ne_bytes([low[0], low[1], high[0], high[1]])))
    }

    #[inline(always)]
    fn add_shorts(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_add_epi16(a, b))
    }

    #[inline(always)]
    fn load_pairs(self, from: &[[i8; 2]; LANES]) -> __m256i {
        avx2!(_mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn first_of_pairs(self, pairs: __m256i) -> __m256i {
        avx2!(_mm256_shufflehi_epi16::<0xA0>(_mm256_shufflelo_epi16::<0xA0>(pairs)))
    }

    #[inline(always)]
    fn second_of_pairs(self, pairs: __m256i) -> __m256i {
        avx2!(_mm256_shufflehi_epi16::<0xF5>(_mm256_shufflelo_epi16::<0xF5>(pairs)))
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_madd_epi16(a, b))
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 32]) -> __m256i {
        avx2!(_mm256_loadu_si256(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn bits_down<const N: i32>(self, a: __m256i, mask: u8) -> __m256i {
        let mask = mask.cast_signed();
        avx2!(_mm256_and_si256(_mm256_srli_epi16::<N>(a), _mm256_set1_epi8(mask)))
    }

    #[inline(always)]
    fn bits_up<const N: i32>(self, a: __m256i, mask: u8) -> __m256i {
        let mask = mask.cast_signed();
        avx2!(_mm256_and_si256(_mm256_slli_epi16::<N>(a), _mm256_set1_epi8(mask)))
    }

    #[inline(always)]
    fn products(self, weights: __m256i, codes: [i8; 4]) -> __m256i {
        let codes = i32::from_ne_bytes(codes.map(i8::cast_unsigned));
        avx2!(_mm256_maddubs_epi16(weights, _mm256_set1_epi32(codes)))
    }

    #[inline(always)]
    fn signed_products(self, weights: __m256i, codes: [i8; 4]) -> __m256i {
        let codes = i32::from_ne_bytes(codes.map(i8::cast_unsigned));
        // |weight| times the code with the weight's sign: at most 2 · 128 · 127, which fits.
        avx2!({
            let signed = _mm256_sign_epi8(_mm256_set1_epi32(codes), weights);
            _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed)
        })
    }

    #[inline(always)]
    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        self,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
    ) -> __m256i {
        P::sum_products::<BITS, FIRST, COUNT>(self, weights, codes)
    }

    #[inline(always)]
    fn prepare_signed(self, weights: __m256i) -> __m256i {
        P::prepare_signed(self, weights)
    }

    #[inline(always)]
    fn sum_signed_products(
        self,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        eightfold_sum: i32,
    ) -> __m256i {
        P::sum_signed_products(self, weights, codes, eightfold_sum)
    }

    #[inline(always)]
    fn sum_scaled_halves(
        self,
        weights: &[__m256i; 8],
        codes: &[[i8; 4]; 8],
        scales: __m256i,
    ) -> __m256i {
        P::sum_scaled_halves(self, weights, codes, scales)
    }
}
