//! Activations as codes of 8 bits, 32 to a scale, so that they can be multiplied by codes of
//! weights as integers.
//!
//! A row's codes depend on that row alone.

use crate::cpu::Kernel;
use crate::disjoint::Disjoint;
use crate::pool::{Pool, Share};
use crate::simd::{LANES, Simd};

/// Codes that share a scale.
pub(crate) const BLOCK: usize = 32;

mod limits {
    /// Blocks whose greatest value is smaller hold only zeros: their scale's inverse would not be
    /// a number.
    pub(super) const GREATEST_MIN: f32 = 1e-30;
}

/// A block of a row: `value = code · scale`, and the sums that formats with offsets need.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct RowBlock {
    /// From −127 to 127, in fours: what meets four weights of each output.
    pub(crate) codes: [[i8; 4]; BLOCK / 4],
    /// Not a number where a value was none, or infinite: neither may be lost in a product.
    pub(crate) scale: f32,
    /// Σ codes · scale.
    pub(crate) scaled_sum: f32,
    /// 8 · Σ codes.
    pub(crate) eightfold_sum: i32,
    /// Σ of the first 16 codes and of the last.
    pub(crate) half_sums: [i16; 2],
}

/// Rows of activations in blocks of 8-bit codes.
#[derive(Debug, Default)]
pub struct QuantisedRows {
    blocks: Vec<RowBlock>,
    blocks_per_row: usize,
}

impl QuantisedRows {
    /// Room for rows to come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `values` `[rows, width]` in place of what was here.
    ///
    /// # Panics
    /// If the width is not a multiple of 32 above 0, or the last row is incomplete.
    pub fn fill(&mut self, pool: &Pool, values: &[f32], width: usize) {
        assert!(width > 0 && width.is_multiple_of(BLOCK), "rows are no whole number of blocks");
        assert!(values.len().is_multiple_of(width), "the last row is incomplete");
        let (values, _) = values.as_chunks::<BLOCK>();
        self.blocks_per_row = width / BLOCK;
        self.blocks.resize(values.len(), RowBlock::default());
        let blocks = Disjoint::new(&mut self.blocks);
        pool.run_kernel_over(values.len() * BLOCK, |share: Share| {
            let part = share.part(values.len(), 1);
            // SAFETY: shares do not overlap.
            let blocks = unsafe { blocks.part(part.clone()) };
            Quantise { values: &values[part], blocks }
        });
    }

    pub(crate) fn rows(&self) -> usize {
        self.blocks.len() / self.blocks_per_row.max(1)
    }

    pub(crate) fn width(&self) -> usize {
        self.blocks_per_row * BLOCK
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[RowBlock] {
        &self.blocks[row * self.blocks_per_row..][..self.blocks_per_row]
    }
}

struct Quantise<'a> {
    values: &'a [[f32; BLOCK]],
    blocks: &'a mut [RowBlock],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (values, block) in self.values.iter().zip(self.blocks) {
            quantise_block(simd, values, block);
        }
    }
}

/// The scale is the greatest magnitude over 127; codes are rounded to the nearest, ties to even.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "sums of 32 codes are small whole numbers")]
fn quantise_block<S: Simd>(simd: S, values: &[f32; BLOCK], block: &mut RowBlock) {
    let mut quarters = [simd.splat(0.0); 4];
    for (quarter, values) in quarters.iter_mut().zip(values.as_chunks::<LANES>().0) {
        *quarter = simd.load(values);
    }
    let [a, b, c, d] = quarters;
    let first = simd.max(simd.abs(a), simd.abs(b));
    let greatest = simd.max_lane(simd.max(first, simd.max(simd.abs(c), simd.abs(d))));
    let is_zero = greatest < limits::GREATEST_MIN;
    let inverse = simd.splat(if is_zero { 0.0 } else { 127.0 / greatest });
    let (low, high) = (simd.splat(-127.0), simd.splat(127.0));
    // A loop, not a map: closures do not take the instruction set of the function around them.
    for quarter in &mut quarters {
        // In this order what is not a number stays so.
        let bounded = simd.min(high, simd.max(low, simd.mul(*quarter, inverse)));
        *quarter = simd.round(bounded);
    }
    let [a, b, c, d] = quarters;
    let first = simd.sum_lanes(simd.add(a, b));
    let second = simd.sum_lanes(simd.add(c, d));
    if (first + second).is_nan() {
        *block = RowBlock { scale: f32::NAN, scaled_sum: f32::NAN, ..RowBlock::default() };
        return;
    }
    simd.store_codes(quarters, &mut block.codes);
    block.scale = if is_zero { 0.0 } else { greatest / 127.0 };
    block.scaled_sum = (first + second) * block.scale;
    block.eightfold_sum = (first + second) as i32 * 8;
    block.half_sums = [first as i16, second as i16];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use proptest::prelude::*;

    fn quantised(cpu: Cpu, values: &[f32; BLOCK]) -> RowBlock {
        let mut block = [RowBlock::default()];
        cpu.run(Quantise { values: &[*values], blocks: &mut block });
        block[0]
    }

    fn bits(block: &RowBlock) -> ([[i8; 4]; 8], [u32; 2], i32, [i16; 2]) {
        let floats = [block.scale, block.scaled_sum].map(f32::to_bits);
        (block.codes, floats, block.eightfold_sum, block.half_sums)
    }

    /// Any number but what is none.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            -2.0_f32..2.0,
            any::<f32>().prop_filter("finite", |value| value.is_finite()),
            Just(0.0),
            Just(f32::MAX),
            Just(-f32::MAX),
            Just(f32::MIN_POSITIVE / 8.0),
        ]
    }

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_codes(values in prop::array::uniform32(value())) {
            let portable = quantised(Cpu::PORTABLE, &values);
            for cpu in Cpu::others() {
                prop_assert_eq!(bits(&quantised(cpu, &values)), bits(&portable));
            }
        }

        #[test]
        fn codes_stand_for_their_values(values in prop::array::uniform32(value())) {
            let block = quantised(Cpu::best(), &values);
            let step = f64::from(block.scale);
            let codes = block.codes.as_flattened();
            for (code, value) in codes.iter().zip(values) {
                let off = (f64::from(*code) * step - f64::from(value)).abs();
                prop_assert!(off <= step * 0.501 + 1e-30, "{value} became {code} · {step}");
            }
            let sums = codes.chunks(16).map(|half| half.iter().map(|c| i16::from(*c)).sum());
            prop_assert_eq!(sums.collect::<Vec<i16>>(), block.half_sums);
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            prop_assert_eq!(block.eightfold_sum, 8 * sum);
        }
    }

    #[test]
    fn what_is_no_number_is_not_lost_beside_numbers() {
        for (bad, place) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .flat_map(|bad| (0..BLOCK).map(move |place| (bad, place)))
        {
            for others in [0.0, 1.0, -1e-40, f32::MAX] {
                let mut values = [others; BLOCK];
                values[place] = bad;
                let portable = quantised(Cpu::PORTABLE, &values);
                assert!(portable.scale.is_nan() && portable.scaled_sum.is_nan());
                for cpu in Cpu::others() {
                    assert_eq!(bits(&quantised(cpu, &values)), bits(&portable));
                }
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let values: Vec<f32> = (0_u16..20_000).map(|i| f32::from(i % 97) - 40.0).collect();
        let values = &values[..19_968];
        let (mut one, mut three) = (QuantisedRows::new(), QuantisedRows::new());
        one.fill(&Pool::new(Cpu::best(), 1), values, 64);
        three.fill(&Pool::new(Cpu::best(), 3), values, 64);
        assert_eq!((three.rows(), three.width()), (312, 64));
        for row in 0..312 {
            let pairs = one.row(row).iter().zip(three.row(row));
            assert!(pairs.into_iter().all(|(a, b)| bits(a) == bits(b)));
        }
    }
}
