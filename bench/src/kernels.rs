//! Every kernel on its own: bytes or products a second, as a fraction of what this machine's memory
//! or registers allow, measured in the same run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use relay_kernels::{
    AttentionShape, Cpu, Inputs, KvPage, PAGE_TOKENS, PackedMatrix, Pool, Product, QuantisedRows,
    QueryStretch, WeightFormat, arithmetic_peaks, block_maxima, multiply, paged_attention,
    read_bandwidth, rms_norm, rotate_halves, softmax_sums, swiglu,
};
use serde::Serialize;

use crate::figures::{float, median};
use crate::print;

mod limits {
    use std::time::Duration;

    /// How long each kernel is repeated at least.
    pub(super) const LEAST: Duration = Duration::from_millis(150);
    /// Runs, of which the median counts: at least.
    pub(super) const RUNS_MIN: usize = 5;
    /// Bytes of a matrix that no cache holds.
    pub(super) const LARGE_BYTES: usize = 96 << 20;
}

/// Rows of a matrix's products in prefill.
const ROWS: usize = 128;
/// Width and outputs of a matrix that a cache holds.
const SMALL: [usize; 2] = [768, 1536];
/// Tokens that attention looks back on.
const CONTEXT: usize = 4096;
const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_width: 64 };

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Threads; as many as there are cores unless given.
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cpu: &'static str,
    threads: usize,
    bandwidth_gbps: f64,
    /// Billions of products a second, from registers.
    code_peak_gps: f64,
    float_peak_gps: f64,
    kernels: Vec<Figure>,
}

/// One kernel.
#[derive(Debug, Serialize)]
struct Figure {
    kernel: String,
    /// Billions a second.
    rate: f64,
    of: Limit,
    fraction: f64,
}

/// What bounds a kernel.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Limit {
    /// Bytes read from memory.
    Memory,
    /// Products of codes.
    Codes,
    /// Products of floats.
    Floats,
}

/// Measures and prints.
pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let threads = options.threads.unwrap_or_else(relay_kernels::physical_cores);
    let pool = Pool::new(Cpu::from_environment()?, threads);
    let report = Bench::new(&pool).run();
    let text = if options.json { serde_json::to_string_pretty(&report)? } else { table(&report) };
    print(&text);
    Ok(())
}

struct Bench<'a> {
    pool: &'a Pool,
    /// Bytes, products of codes and of floats a second.
    limits: [f64; 3],
    kernels: Vec<Figure>,
}

impl<'a> Bench<'a> {
    fn new(pool: &'a Pool) -> Self {
        let peaks = arithmetic_peaks(pool);
        let limits = [read_bandwidth(pool), peaks.codes, peaks.floats];
        Self { pool, limits, kernels: Vec::new() }
    }

    fn run(mut self) -> Report {
        for format in WeightFormat::ALL {
            self.one_row(format);
            self.many_rows(format);
        }
        self.attention();
        self.vectors();
        self.logits();
        let [bandwidth, codes, floats] = self.limits.map(|limit| limit / 1e9);
        Report {
            cpu: self.pool.cpu().name(),
            threads: self.pool.threads(),
            bandwidth_gbps: bandwidth,
            code_peak_gps: codes,
            float_peak_gps: floats,
            kernels: self.kernels,
        }
    }

    /// `count` bytes or products are what one call of `kernel` needs.
    fn time(&mut self, name: &str, count: usize, of: Limit, mut kernel: impl FnMut()) {
        let seconds = median_seconds(&mut kernel);
        let rate = float(count) / seconds;
        let fraction = rate / self.limits[of as usize];
        self.kernels.push(Figure { kernel: name.to_owned(), rate: rate / 1e9, of, fraction });
    }

    /// Decode: weights come from memory.
    fn one_row(&mut self, format: WeightFormat) {
        let width = SMALL[0];
        let row_bytes = format.bytes_of(width).unwrap_or(1);
        let matrix = self.matrix(format, width, limits::LARGE_BYTES / row_bytes);
        self.product(&format!("{} × 1 row", format.name()), &matrix, 1, Limit::Memory);
    }

    /// Prefill: a cache holds what is multiplied.
    fn many_rows(&mut self, format: WeightFormat) {
        let [width, outputs] = SMALL;
        let matrix = self.matrix(format, width, outputs);
        let of = if matrix.takes_codes() { Limit::Codes } else { Limit::Floats };
        self.product(&format!("{} × {ROWS} rows", format.name()), &matrix, ROWS, of);
    }

    fn matrix(&self, format: WeightFormat, width: usize, outputs: usize) -> PackedMatrix {
        let bytes = vec![0; format.bytes_of(width).unwrap_or(0) * outputs];
        PackedMatrix::pack(self.pool, format, &bytes, width)
    }

    fn product(&mut self, name: &str, matrix: &PackedMatrix, rows: usize, of: Limit) {
        let pool = self.pool;
        let values = wave(rows * matrix.width());
        let mut codes = QuantisedRows::new();
        if matrix.takes_codes() {
            codes.fill(pool, &values, matrix.width());
        }
        let mut out = vec![0.0; rows * matrix.outputs()];
        let count = match of {
            Limit::Memory => matrix.bytes(),
            _ => rows * matrix.width() * matrix.outputs(),
        };
        let inputs = Inputs { values: &values, codes: &codes };
        self.time(name, count, of, || {
            multiply(pool, inputs, &mut [Product { matrix, out: &mut out }]);
        });
    }

    fn attention(&mut self) {
        let pool = self.pool;
        let page_len = SHAPE.kv_heads * SHAPE.head_width * PAGE_TOKENS;
        let pages: Vec<[Vec<u16>; 2]> = (0..CONTEXT / PAGE_TOKENS)
            .map(|_| [vec![0x3000; page_len], vec![0; page_len]])
            .collect();
        let pages: Vec<KvPage<'_, u16>> =
            pages.iter().map(|[keys, values]| KvPage { keys, values }).collect();
        for (name, tokens) in
            [("attention, decode at 4096", 1), ("attention, last 128 of 4096", 128)]
        {
            let queries = wave(tokens * SHAPE.heads * SHAPE.head_width);
            let mut out = vec![0.0; queries.len()];
            let stretch =
                QueryStretch { pages: &pages, first_visible: CONTEXT + 1 - tokens, tokens };
            let products = 2 * tokens * CONTEXT * SHAPE.heads * SHAPE.head_width;
            self.time(name, products, Limit::Floats, || {
                paged_attention(pool, SHAPE, &queries, &[stretch], &mut out);
            });
        }
    }

    /// Kernels that read and write vectors; bytes they read.
    fn vectors(&mut self) {
        let (pool, width) = (self.pool, SMALL[0]);
        let inputs = wave(ROWS * width);
        let (weights, mut out) = (wave(width), wave(ROWS * width));
        let bytes = size_of_val(&*inputs);
        self.time("norm, 1 thread", bytes, Limit::Memory, || {
            rms_norm(pool.cpu(), &inputs, &weights, 1e-5, &mut out);
        });
        self.time("SwiGLU", 2 * bytes, Limit::Memory, || swiglu(pool, &mut out, &inputs));
        let angles = vec![(0.8, 0.6); SHAPE.head_width / 2];
        self.time("rotary positions, 1 thread", bytes, Limit::Memory, || {
            rotate_halves(pool.cpu(), &mut out, SHAPE.head_width, &angles);
        });
        let mut codes = QuantisedRows::new();
        self.time("rows to codes", bytes, Limit::Memory, || codes.fill(pool, &inputs, width));
    }

    fn logits(&mut self) {
        let (cpu, logits) = (self.pool.cpu(), wave(49_152));
        let bytes = size_of_val(&*logits);
        self.time("softmax of logits, 1 thread", bytes, Limit::Memory, || {
            softmax_sums(cpu, &logits, 1.0, 0.7);
        });
        self.time("best logits, 1 thread", bytes, Limit::Memory, || {
            block_maxima(cpu, &logits);
        });
    }
}

fn median_seconds(kernel: &mut dyn FnMut()) -> f64 {
    kernel();
    let (mut runs, start) = (Vec::new(), Instant::now());
    while runs.len() < limits::RUNS_MIN || start.elapsed() < limits::LEAST {
        let start = Instant::now();
        kernel();
        runs.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
    }
    median(runs.into_iter())
}

fn wave(len: usize) -> Vec<f32> {
    let values = [0.3, -0.7, 0.1, 0.9, -0.2, 0.5, -0.4];
    values.into_iter().cycle().take(len).collect()
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{}, {} threads: {:.1} GB/s from memory; {:.0} and {:.0} billion products a second of codes \
         and floats",
        report.cpu,
        report.threads,
        report.bandwidth_gbps,
        report.code_peak_gps,
        report.float_peak_gps
    );
    for Figure { kernel, rate, of, fraction } in &report.kernels {
        let unit = if matches!(of, Limit::Memory) { "GB/s" } else { "G products/s" };
        let _ = write!(text, "\n{kernel:28} {rate:8.1} {unit:12} {fraction:.2} of {of:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_by_its_limit() {
        let pool = Pool::new(Cpu::best(), 1);
        let mut bench = Bench { pool: &pool, limits: [1e9, 2e9, 4e9], kernels: Vec::new() };
        let wait = || std::thread::sleep(Duration::from_millis(40));
        bench.time("a", 4_000_000, Limit::Codes, wait);
        let figure = &bench.kernels[0];
        assert!((0.01..=0.1).contains(&figure.rate), "{figure:?}");
        assert!((figure.fraction - figure.rate / 2.0).abs() < 1e-9);
        let report = Report {
            cpu: "portable",
            threads: 1,
            bandwidth_gbps: 1.0,
            code_peak_gps: 2.0,
            float_peak_gps: 4.0,
            kernels: bench.kernels,
        };
        assert!(table(&report).contains("of Codes"));
    }
}
