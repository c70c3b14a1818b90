//! What keys and values are kept as: IEEE 754 halves, or floats of 32 bits.

#![allow(private_bounds, private_interfaces, reason = "vectors are known in this crate only")]

use crate::half_float::{narrow_halves, widen_half};
use crate::simd::{LANES, Simd};

/// A number of a page of keys and values: `u16` for the bits of an IEEE 754 half, or `f32`.
pub trait KvElement: in_vectors::InVectors {
    /// The nearest numbers of this kind; the greatest finite one for what lies beyond.
    ///
    /// # Panics
    /// If the lengths differ.
    fn narrow(values: &[f32], out: &mut [Self]);

    /// The value.
    fn widen(self) -> f32;
}

mod in_vectors {
    use super::{LANES, Simd};

    /// The part of the trait that speaks of vectors; it keeps other crates from having kinds.
    pub trait InVectors: Copy + Default + Send + Sync + 'static {
        /// Vectors of the values.
        fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Floats;
    }
}

impl in_vectors::InVectors for u16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Floats {
        simd.load_halves(from)
    }
}

impl KvElement for u16 {
    fn narrow(values: &[f32], out: &mut [Self]) {
        narrow_halves(values, out);
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        widen_half(self)
    }
}

impl in_vectors::InVectors for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Floats {
        simd.load(from)
    }
}

impl KvElement for f32 {
    fn narrow(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}
