//! Plain numbers: F32, F16 and bfloat16, which multiply activations as they are.

use super::PANEL;
use crate::portable::Portable;
use crate::simd::Simd;

/// The same weight of 8 outputs.
pub(crate) trait PlainWeights: Copy + Send + Sync {
    /// Bytes of a weight in a file.
    const BYTES: usize;

    /// From the bytes of each output's weight.
    fn pack(sources: [&[u8]; PANEL]) -> Self;

    /// The weight of one output.
    fn value(&self, output: usize) -> f32 {
        self.load(Portable)[output]
    }

    /// As floats, exactly.
    fn load<S: Simd>(&self, simd: S) -> S::Floats;
}

/// Single precision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Singles([f32; PANEL]);

/// IEEE 754 half precision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HalfFloats([u16; PANEL]);

/// `bfloat16`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bfloats([u16; PANEL]);

fn pairs(sources: [&[u8]; PANEL]) -> [u16; PANEL] {
    sources.map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

impl PlainWeights for Singles {
    const BYTES: usize = 4;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        Self(sources.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::Floats {
        simd.load(&self.0)
    }
}

impl PlainWeights for HalfFloats {
    const BYTES: usize = 2;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        Self(pairs(sources))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::Floats {
        simd.load_halves(&self.0)
    }
}

impl PlainWeights for Bfloats {
    const BYTES: usize = 2;

    fn pack(sources: [&[u8]; PANEL]) -> Self {
        Self(pairs(sources))
    }

    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::Floats {
        simd.load_bfloats(&self.0)
    }
}
