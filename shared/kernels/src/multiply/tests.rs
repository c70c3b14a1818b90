//! Products of every format: against f64, across instruction sets, threads and mixes of rows.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "made-up numbers")]

use proptest::prelude::*;

use super::*;
use crate::arena::Arena;
use crate::blocks::{WeightFormat, expand};
use crate::cpu::Cpu;
use crate::noise::{Noise, same_bits};

/// Where a block holds halves.
fn halves_of(format: WeightFormat) -> &'static [usize] {
    match format {
        WeightFormat::F32 | WeightFormat::Bf16 => &[],
        WeightFormat::F16 | WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 => &[0],
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => &[0, 2],
        WeightFormat::Q6K => &[208],
    }
}

fn blocks(format: WeightFormat, weights: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..weights / format.block_weights() {
        let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| noise.byte()).collect();
        for at in halves_of(format) {
            block[*at..at + 2].copy_from_slice(&noise.half());
        }
        match format {
            WeightFormat::F32 => block.copy_from_slice(&noise.value().to_le_bytes()),
            WeightFormat::Bf16 => block.copy_from_slice(&noise.value().to_le_bytes()[2..]),
            _ => {}
        }
        bytes.extend(block);
    }
    bytes
}

#[derive(Debug)]
struct Case {
    format: WeightFormat,
    rows: usize,
    outputs: usize,
    width: usize,
    inputs: Vec<f32>,
    weights: Vec<u8>,
}

impl Case {
    fn new(format: WeightFormat, [rows, outputs, blocks_wide]: [usize; 3], seed: u64) -> Self {
        let mut noise = Noise(seed);
        let width = blocks_wide * format.block_weights();
        let inputs = (0..rows * width).map(|_| noise.value()).collect();
        let weights = blocks(format, outputs * width, &mut noise);
        Self { format, rows, outputs, width, inputs, weights }
    }

    /// The product of some of the rows.
    fn run(&self, cpu: Cpu, threads: usize, rows: Range<usize>) -> Vec<f32> {
        let pool = Pool::new(cpu, threads);
        let values = &self.inputs[rows.start * self.width..rows.end * self.width];
        let mut codes = QuantisedRows::new();
        let matrix = self.packed(&pool);
        assert_eq!((matrix.outputs(), matrix.width()), (self.outputs, self.width));
        if matrix.takes_codes() {
            codes.fill(&pool, values, self.width);
        }
        let mut out = vec![f32::NAN; rows.len() * self.outputs];
        let products = &mut [Product { matrix: &matrix, out: &mut out }];
        multiply(&pool, Inputs { values, codes: &codes }, products);
        out
    }

    fn packed(&self, pool: &Pool) -> PackedMatrix {
        let Self { format, weights, width, .. } = self;
        PackedMatrix::pack(pool, &mut Arena::growing(), *format, weights, *width)
    }

    fn all(&self, cpu: Cpu) -> Vec<f32> {
        self.run(cpu, 1, 0..self.rows)
    }

    /// The product in f64, of what the codes stand for, and how large its terms may be.
    fn exact(&self, row: usize, output: usize) -> (f64, f64) {
        let pool = Pool::new(Cpu::PORTABLE, 1);
        let row = &self.inputs[row * self.width..(row + 1) * self.width];
        let mut values: Vec<f64> = row.iter().copied().map(f64::from).collect();
        if self.format.block_weights() > 1 {
            let mut codes = QuantisedRows::new();
            codes.fill(&pool, row, self.width);
            let value = |block: &RowBlock| {
                let scale = f64::from(block.scale);
                block.codes.map(|four| four.map(|code| f64::from(code) * scale))
            };
            values = codes.row(0).iter().flat_map(value).flatten().collect();
        }
        let row_bytes = self.weights.len() / self.outputs;
        let mut weights = vec![0.0; self.width];
        expand(self.format, &self.weights[output * row_bytes..][..row_bytes], &mut weights);
        let terms = values.iter().zip(&weights).map(|(a, b)| a * f64::from(*b));
        // Codes and offsets are summed apart: a weight near 0 may be the difference of two that are
        // as large as the largest.
        let largest =
            weights.iter().fold(0.0_f64, |most, weight| most.max(f64::from(weight.abs())));
        let size = values.iter().map(|value| value.abs() * largest).sum();
        (terms.sum(), size)
    }
}

fn format() -> impl Strategy<Value = WeightFormat> {
    prop::sample::select(WeightFormat::ALL.to_vec())
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (0_usize..18, 1_usize..20, 1_usize..4);
    (format(), sizes, plain_sizes(), any::<u64>()).prop_map(|(format, sizes, plain, seed)| {
        let (rows, outputs, blocks) = if format.block_weights() == 1 { plain } else { sizes };
        Case::new(format, [rows, outputs, blocks], seed)
    })
}

/// Rows, outputs and width of plain weights, whose blocks are one wide: odd widths and panels that
/// are not full, and now and then more panels than one group holds.
fn plain_sizes() -> impl Strategy<Value = (usize, usize, usize)> {
    (0_usize..18, 1_usize..200, 1_usize..80)
}

#[test]
fn panels_of_made_up_cases_fill_more_than_one_group() {
    let panels = 0..200_usize.div_ceil(PANEL);
    assert!(groups::<crate::panel::Singles>(panels.clone(), 79).count() > 1);
    assert!(groups::<crate::panel::HalfFloats>(panels, 79).count() > 1);
}

/// Blocks, too, in matrices of more panels than stay in the nearest cache.
#[test]
fn groups_of_panels_change_no_bit() {
    for format in WeightFormat::ALL {
        let blocks = 512 / format.block_weights();
        let case = Case::new(format, [9, 101, blocks], 11);
        let portable = case.all(Cpu::PORTABLE);
        for cpu in Cpu::others() {
            assert!(same_bits(&case.run(cpu, 2, 0..9), &portable), "{format:?} on {}", cpu.name());
        }
        for row in [0, 7, 8] {
            let alone = case.run(Cpu::best(), 1, row..row + 1);
            assert!(same_bits(&portable[row * 101..][..101], &alone), "{format:?}, row {row}");
        }
        for (row, output) in [(0, 0), (8, 100), (3, 64)] {
            let (exact, size) = case.exact(row, output);
            let ours = f64::from(portable[row * 101 + output]);
            assert!((ours - exact).abs() <= size * 1e-5, "{format:?}: {ours}, not {exact}");
        }
    }
}

proptest! {
    #[test]
    fn portable_products_are_close_to_exact(case in case()) {
        let out = case.all(Cpu::PORTABLE);
        for row in 0..case.rows {
            for output in 0..case.outputs {
                let (exact, size) = case.exact(row, output);
                let ours = f64::from(out[row * case.outputs + output]);
                let most = size * 64.0 * f64::from(f32::EPSILON) + 1e-30;
                prop_assert!((ours - exact).abs() <= most, "{:?}: {ours}, not {exact}", case.format);
            }
        }
    }

    #[test]
    fn instruction_sets_give_the_same_bits(case in case()) {
        let portable = case.all(Cpu::PORTABLE);
        for cpu in Cpu::others() {
            let format = case.format;
            prop_assert!(same_bits(&case.all(cpu), &portable), "{format:?} on {}", cpu.name());
        }
    }

    /// Neither the rows beside it nor threads change a bit of a row.
    #[test]
    fn a_row_has_the_bits_it_has_alone(case in case(), threads in 1_usize..4) {
        for cpu in Cpu::others().into_iter().chain([Cpu::PORTABLE]) {
            let together = case.run(cpu, threads, 0..case.rows);
            for row in 0..case.rows {
                let alone = case.run(cpu, 1, row..row + 1);
                prop_assert!(same_bits(&together[row * case.outputs..][..case.outputs], &alone));
            }
        }
    }
}

/// The greatest codes of both sides, where 16 bits would overflow first.
#[test]
fn extreme_codes_do_not_saturate() {
    for format in WeightFormat::ALL.into_iter().filter(|format| format.block_weights() > 1) {
        for (byte, sign) in [(0xFF, 1.0), (0xFF, -1.0), (0x80, 1.0), (0x80, -1.0), (0x7F, 1.0)] {
            let mut case = Case::new(format, [1, 8, 1], 0);
            case.inputs.fill(sign * 127.0);
            case.weights.fill(byte);
            for block in case.weights.chunks_mut(format.block_bytes()) {
                for at in halves_of(format) {
                    block[*at..at + 2].copy_from_slice(&0x3C00_u16.to_le_bytes());
                }
            }
            let (exact, size) = case.exact(0, 3);
            for cpu in Cpu::others().into_iter().chain([Cpu::PORTABLE]) {
                let ours = f64::from(case.all(cpu)[3]);
                assert!((ours - exact).abs() <= size * 1e-5, "{format:?}: {ours}, not {exact}");
            }
        }
    }
}

#[test]
fn a_row_is_read_back_as_the_format_defines_it() {
    for format in WeightFormat::ALL {
        let case = Case::new(format, [1, 11, 2], 3);
        let matrix = case.packed(&Pool::new(Cpu::best(), 1));
        let mut values = vec![0.0; 11 * case.width];
        expand(format, &case.weights, &mut values);
        let mut row = vec![f32::NAN; case.width];
        for (index, values) in values.chunks(case.width).enumerate() {
            matrix.row(index, &mut row);
            assert!(row == values, "{format:?}, row {index}");
        }
    }
}

#[test]
fn packed_weights_are_hardly_larger_than_the_file() {
    for format in WeightFormat::ALL {
        let case = Case::new(format, [1, 16, 2], 1);
        let matrix = case.packed(&Pool::new(Cpu::best(), 1));
        assert!(matrix.bytes() * 100 <= case.weights.len() * 103, "{format:?}");
    }
}

#[test]
fn the_size_of_a_packed_matrix_is_known_before_it_is_packed() {
    for format in WeightFormat::ALL {
        for outputs in [1, 8, 11] {
            let case = Case::new(format, [1, outputs, 2], 1);
            let matrix = case.packed(&Pool::new(Cpu::best(), 1));
            let known = PackedMatrix::bytes_of(format, outputs, case.width);
            assert_eq!(known, Some(matrix.bytes()), "{format:?} {outputs}");
        }
    }
    assert_eq!(PackedMatrix::bytes_of(WeightFormat::Q4_0, 8, 33), None);
    assert_eq!(PackedMatrix::bytes_of(WeightFormat::F32, usize::MAX, 1 << 8), None);
}

#[test]
fn several_matrices_share_a_call() {
    let first = Case::new(WeightFormat::Q4_0, [3, 9, 8], 5);
    let mut second = Case::new(WeightFormat::F16, [3, 5, 256], 6);
    second.inputs.clone_from(&first.inputs);
    let pool = Pool::new(Cpu::best(), 2);
    let pack = |case: &Case| {
        PackedMatrix::pack(&pool, &mut Arena::growing(), case.format, &case.weights, 256)
    };
    let (a, b) = (pack(&first), pack(&second));
    let mut codes = QuantisedRows::new();
    codes.fill(&pool, &first.inputs, 256);
    let (mut out_a, mut out_b) = (vec![0.0; 27], vec![0.0; 15]);
    let inputs = Inputs { values: &first.inputs, codes: &codes };
    let products =
        &mut [Product { matrix: &a, out: &mut out_a }, Product { matrix: &b, out: &mut out_b }];
    multiply(&pool, inputs, products);
    assert!(same_bits(&out_a, &first.all(Cpu::best())));
    assert!(same_bits(&out_b, &second.all(Cpu::best())));
}

#[test]
#[should_panic(expected = "another shape")]
fn refuses_an_output_of_another_shape() {
    let case = Case::new(WeightFormat::F32, [2, 3, 4], 1);
    let pool = Pool::new(Cpu::best(), 1);
    let matrix = PackedMatrix::pack(&pool, &mut Arena::growing(), case.format, &case.weights, 4);
    let inputs = Inputs { values: &case.inputs, codes: &QuantisedRows::new() };
    multiply(&pool, inputs, &mut [Product { matrix: &matrix, out: &mut [0.0; 5] }]);
}
