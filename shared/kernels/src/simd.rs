//! The vector operations that kernels are written in, with the exact meaning of each.
//!
//! Every instruction set gives the same bits for each operation, so a kernel written in them gives
//! the same bits on every processor. What an operation leaves open, kernels must not rely on.

/// Floats in a vector, and outputs in a panel of packed weights.
pub(crate) const LANES: usize = 8;

/// An instruction set at hand: having a value of the type proves that the machine has it.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Rows whose sums fit into registers together with a piece of weights.
    const ROWS: usize;
    /// 8 floats.
    type Floats: Copy;
    /// 8 integers of 32 bits.
    type Ints: Copy;
    /// 16 integers of 16 bits.
    type Shorts: Copy;
    /// 32 integers of 8 bits.
    type Bytes: Copy;

    /// Asks for the cache line of a value that is read before long. Changes no result.
    fn prefetch<T>(self, value: &T);

    /// The same value in each lane.
    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, from: &[f32; LANES]) -> Self::Floats;
    fn store(self, value: Self::Floats, to: &mut [f32; LANES]);
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b + c, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The greater one; `b` where one of them is not a number.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The lesser one; `b` where one of them is not a number.
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn abs(self, a: Self::Floats) -> Self::Floats;
    /// `a` where `x` is at least `bound`, else 0.
    fn where_at_least(self, x: Self::Floats, bound: Self::Floats, a: Self::Floats) -> Self::Floats;
    /// 2 to the power of `exponent`, a whole number from −126 to 127.
    fn power_of_two(self, exponent: Self::Floats) -> Self::Floats;
    /// The nearest whole number, ties to even, of values within ±2²².
    fn round(self, a: Self::Floats) -> Self::Floats;
    /// Halves (IEEE 754 binary16) to floats, exactly.
    fn load_halves(self, from: &[u16; LANES]) -> Self::Floats;
    /// `bfloat16` to floats, exactly.
    fn load_bfloats(self, from: &[u16; LANES]) -> Self::Floats;
    /// Unsigned bytes to floats.
    fn load_bytes_as_floats(self, from: [u8; LANES]) -> Self::Floats;
    /// ((0+4) + (2+6)) + ((1+5) + (3+7)), by lanes.
    fn sum_lanes(self, a: Self::Floats) -> f32;
    /// The greatest lane, folded as [`Simd::sum_lanes`] does.
    fn max_lane(self, a: Self::Floats) -> f32;

    fn splat_int(self, value: i32) -> Self::Ints;
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a · 2ᴺ.
    fn shift_ints_left<const N: i32>(self, a: Self::Ints) -> Self::Ints;
    /// The nearest floats.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// Whole numbers from −127 to 127 as signed bytes, four vectors in order.
    fn store_codes(self, values: [Self::Floats; 4], to: &mut [[i8; 4]; 8]);

    /// The same pair in each 32 bits.
    fn splat_pair(self, pair: [i16; 2]) -> Self::Shorts;
    fn add_shorts(self, a: Self::Shorts, b: Self::Shorts) -> Self::Shorts;
    /// Pairs of signed bytes to pairs of shorts: lane o gets `from[o][0], from[o][1]`.
    fn load_pairs(self, from: &[[i8; 2]; LANES]) -> Self::Shorts;
    /// Both halves of each pair become its first.
    fn first_of_pairs(self, pairs: Self::Shorts) -> Self::Shorts;
    /// Both halves of each pair become its second.
    fn second_of_pairs(self, pairs: Self::Shorts) -> Self::Shorts;
    /// Products summed by neighbours: `a[2i] · b[2i] + a[2i + 1] · b[2i + 1]`.
    fn dot_pairs(self, a: Self::Shorts, b: Self::Shorts) -> Self::Ints;

    fn load_bytes(self, from: &[u8; 32]) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each byte's bits moved down by `N`, then only those of `mask` kept, which must not name
    /// bits that come from a neighbour.
    fn bits_down<const N: i32>(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// As [`Simd::bits_down`], upwards.
    fn bits_up<const N: i32>(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Unsigned bytes times the four signed ones again and again, summed by neighbours:
    /// `weights[2i] · codes[2i mod 4] + weights[2i + 1] · codes[(2i + 1) mod 4]`, which must fit.
    fn products(self, weights: Self::Bytes, codes: [i8; 4]) -> Self::Shorts;
    /// As [`Simd::products`], with signed weights; no code is −128.
    fn signed_products(self, weights: Self::Bytes, codes: [i8; 4]) -> Self::Shorts;

    /// Σ weights · codes of the vectors `FIRST..FIRST + COUNT` for each output: lane o sums bytes
    /// `4 · o..4 · o + 4`. Weights are unsigned and below 2 to the power of `BITS`, at most 6 for who
    /// does not know the instruction set.
    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        self,
        weights: &[Self::Bytes; 8],
        codes: &[[i8; 4]; 8],
    ) -> Self::Ints;
    /// Signed weights as [`Simd::sum_signed_products`] takes them.
    fn prepare_signed(self, weights: Self::Bytes) -> Self::Bytes;
    /// As [`Simd::sum_products`] of all vectors, with signed weights that were prepared; no code is
    /// −128, and `eightfold_sum` is 8 · Σ codes.
    fn sum_signed_products(
        self,
        weights: &[Self::Bytes; 8],
        codes: &[[i8; 4]; 8],
        eightfold_sum: i32,
    ) -> Self::Ints;
    /// Σ weights · codes of the first four vectors times the first of each pair of `scales`, and
    /// of the last four times the second. Weights are unsigned and below 64, scales within ±128.
    fn sum_scaled_halves(
        self,
        weights: &[Self::Bytes; 8],
        codes: &[[i8; 4]; 8],
        scales: Self::Shorts,
    ) -> Self::Ints;
}
