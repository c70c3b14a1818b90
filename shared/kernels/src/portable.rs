//! Vector operations in plain Rust: what every other instruction set is tested against.

use crate::half_float::{widen_bfloat, widen_half};
use crate::shorts;
use crate::simd::{LANES, Simd};

/// Needs nothing of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

type Floats = [f32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Floats {
    let mut out = [0.0; LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

#[inline(always)]
fn fold(a: Floats, f: impl Fn(f32, f32) -> f32) -> f32 {
    let [l0, l1, l2, l3, l4, l5, l6, l7] = a;
    f(f(f(l0, l4), f(l2, l6)), f(f(l1, l5), f(l3, l7)))
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[expect(clippy::cast_possible_truncation, reason = "values fit by contract")]
#[expect(clippy::cast_precision_loss, reason = "the nearest float is what is asked for")]
impl Simd for Portable {
    const ROWS: usize = 1;
    type Floats = Floats;
    type Ints = [i32; LANES];
    type Shorts = [i16; 16];
    type Bytes = [u8; 32];

    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Floats) -> Floats {
        *from
    }

    #[inline(always)]
    fn store(self, value: Floats, to: &mut Floats) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        each(|i| greater(a[i], b[i]))
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn abs(self, a: Floats) -> Floats {
        each(|i| a[i].abs())
    }

    #[inline(always)]
    fn where_at_least(self, x: Floats, bound: Floats, a: Floats) -> Floats {
        each(|i| if x[i] >= bound[i] { a[i] } else { 0.0 })
    }

    #[inline(always)]
    fn power_of_two(self, exponent: Floats) -> Floats {
        each(|i| f32::from_bits((exponent[i] as i32 + 127).cast_unsigned() << 23))
    }

    #[inline(always)]
    fn round(self, a: Floats) -> Floats {
        each(|i| a[i].round_ties_even())
    }

    #[inline(always)]
    fn load_halves(self, from: &[u16; LANES]) -> Floats {
        each(|i| widen_half(from[i]))
    }

    #[inline(always)]
    fn load_bfloats(self, from: &[u16; LANES]) -> Floats {
        each(|i| widen_bfloat(from[i]))
    }

    #[inline(always)]
    fn load_bytes_as_floats(self, from: [u8; LANES]) -> Floats {
        each(|i| f32::from(from[i]))
    }

    #[inline(always)]
    fn sum_lanes(self, a: Floats) -> f32 {
        fold(a, |a, b| a + b)
    }

    #[inline(always)]
    fn max_lane(self, a: Floats) -> f32 {
        fold(a, greater)
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn sub_ints(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn add_ints(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn shift_ints_left<const N: i32>(self, a: [i32; LANES]) -> [i32; LANES] {
        a.map(|a| a << N)
    }

    #[inline(always)]
    fn to_floats(self, a: [i32; LANES]) -> Floats {
        each(|i| a[i] as f32)
    }

    #[inline(always)]
    fn store_codes(self, values: [Floats; 4], to: &mut [[i8; 4]; 8]) {
        for (i, to) in to.as_flattened_mut().iter_mut().enumerate() {
            *to = values[i / LANES][i % LANES] as i8;
        }
    }

    #[inline(always)]
    fn splat_pair(self, pair: [i16; 2]) -> [i16; 16] {
        std::array::from_fn(|i| pair[i % 2])
    }

    #[inline(always)]
    fn add_shorts(self, a: [i16; 16], b: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn load_pairs(self, from: &[[i8; 2]; LANES]) -> [i16; 16] {
        std::array::from_fn(|i| i16::from(from[i / 2][i % 2]))
    }

    #[inline(always)]
    fn first_of_pairs(self, pairs: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|i| pairs[i / 2 * 2])
    }

    #[inline(always)]
    fn second_of_pairs(self, pairs: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|i| pairs[i / 2 * 2 + 1])
    }

    #[inline(always)]
    fn dot_pairs(self, a: [i16; 16], b: [i16; 16]) -> [i32; LANES] {
        let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
        std::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 32]) -> [u8; 32] {
        *from
    }

    #[inline(always)]
    fn or(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn bits_down<const N: i32>(self, a: [u8; 32], mask: u8) -> [u8; 32] {
        a.map(|a| (a >> N) & mask)
    }

    #[inline(always)]
    fn bits_up<const N: i32>(self, a: [u8; 32], mask: u8) -> [u8; 32] {
        a.map(|a| (a << N) & mask)
    }

    #[inline(always)]
    fn products(self, weights: [u8; 32], codes: [i8; 4]) -> [i16; 16] {
        let product = |i: usize| i16::from(weights[i]) * i16::from(codes[i % 4]);
        std::array::from_fn(|i| product(2 * i) + product(2 * i + 1))
    }

    #[inline(always)]
    fn signed_products(self, weights: [u8; 32], codes: [i8; 4]) -> [i16; 16] {
        let product = |i: usize| i16::from(weights[i].cast_signed()) * i16::from(codes[i % 4]);
        std::array::from_fn(|i| product(2 * i) + product(2 * i + 1))
    }

    #[inline(always)]
    fn sum_products<const BITS: u32, const FIRST: usize, const COUNT: usize>(
        self,
        weights: &[[u8; 32]; 8],
        codes: &[[i8; 4]; 8],
    ) -> [i32; LANES] {
        shorts::sum_products::<Self, BITS, FIRST, COUNT>(self, weights, codes)
    }

    #[inline(always)]
    fn prepare_signed(self, weights: [u8; 32]) -> [u8; 32] {
        weights
    }

    #[inline(always)]
    fn sum_signed_products(
        self,
        weights: &[[u8; 32]; 8],
        codes: &[[i8; 4]; 8],
        _: i32,
    ) -> [i32; LANES] {
        shorts::sum_signed_products(self, weights, codes)
    }

    #[inline(always)]
    fn sum_scaled_halves(
        self,
        weights: &[[u8; 32]; 8],
        codes: &[[i8; 4]; 8],
        scales: [i16; 16],
    ) -> [i32; LANES] {
        shorts::sum_scaled_halves(self, weights, codes, scales)
    }
}
