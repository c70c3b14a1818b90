//! The kernels that are measured: what each is given, and what bounds it. `relay-bench kernels` and
//! the benches of `cargo bench` time the same ones.

use relay_kernels::{
    Arena, ArenaSlice, AttentionShape, Inputs, KvPage, PAGE_TOKENS, PackedMatrix, Pool, Product,
    QuantisedRows, QueryStretch, WeightFormat, arithmetic_peaks, block_maxima, multiply,
    paged_attention, read_bandwidth, rms_norm, rotate_halves, softmax_sums, swiglu,
};
use serde::Serialize;

mod limits {
    /// Bytes of a matrix that no cache holds.
    pub(super) const LARGE_BYTES: usize = 96 << 20;
}

/// Rows of a matrix's products in prefill.
const ROWS: usize = 128;
/// Width and outputs of a matrix that a cache holds.
const SMALL: [usize; 2] = [768, 1536];
/// Tokens that attention looks back on.
const CONTEXT: usize = 4096;
/// Layers whose keys and values are more than a cache holds.
const LAYERS: usize = 30;
const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_width: 64 };

/// What bounds a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// Bytes read from memory.
    Memory,
    /// Products of codes.
    Codes,
    /// Products of floats.
    Floats,
}

/// Bytes, and products of codes and of floats, that a pool's threads can do a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: f64,
    pub(crate) codes: f64,
    pub(crate) floats: f64,
}

impl Limits {
    /// Measures them.
    pub(crate) fn measure(pool: &Pool) -> Self {
        let peaks = arithmetic_peaks(pool);
        Self { bytes: read_bandwidth(pool), codes: peaks.codes, floats: peaks.floats }
    }

    pub(crate) fn of(self, limit: Limit) -> f64 {
        match limit {
            Limit::Memory => self.bytes,
            Limit::Codes => self.codes,
            Limit::Floats => self.floats,
        }
    }
}

/// One kernel. A call of it needs `count` of what its limit counts; without one, it reads as many
/// bytes, which a cache holds: no limit that is measured bounds it.
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) count: usize,
    pub(crate) of: Option<Limit>,
    pub(crate) kernel: &'a mut dyn FnMut(),
}

/// Shows every case to `see`.
pub(crate) fn show_all(pool: &Pool, see: &mut dyn FnMut(Case<'_>)) {
    let mut cases = Cases { pool, see };
    for format in WeightFormat::ALL {
        cases.one_row(format);
        cases.many_rows(format);
    }
    cases.attention();
    cases.vectors();
    cases.logits();
}

struct Cases<'a> {
    pool: &'a Pool,
    see: &'a mut dyn FnMut(Case<'_>),
}

impl Cases<'_> {
    fn time(&mut self, name: &str, count: usize, of: Limit, mut kernel: impl FnMut()) {
        (self.see)(Case { name, count, of: Some(of), kernel: &mut kernel });
    }

    /// Of a kernel that nothing measured bounds.
    fn time_in_cache(&mut self, name: &str, bytes: usize, mut kernel: impl FnMut()) {
        (self.see)(Case { name, count: bytes, of: None, kernel: &mut kernel });
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
        PackedMatrix::pack(self.pool, &mut Arena::large(), format, &bytes, width)
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

    /// Decode goes through as many layers as a model has, so that no cache holds their keys and
    /// values; the last queries of a prefill stay in one.
    fn attention(&mut self) {
        let pool = self.pool;
        let layer_len = 2 * SHAPE.kv_heads * SHAPE.head_width * PAGE_TOKENS;
        let mut arena = Arena::growing();
        let pages: Vec<ArenaSlice<u16>> =
            (0..CONTEXT / PAGE_TOKENS).map(|_| arena.filled(LAYERS * layer_len, 0x3000)).collect();
        let of_layer = |layer: usize| -> Vec<KvPage<'_, u16>> {
            let numbers = pages.iter().map(|page| &page[layer * layer_len..][..layer_len]);
            let halves = numbers.map(|numbers| numbers.split_at(layer_len / 2));
            halves.map(|(keys, values)| KvPage { keys, values }).collect()
        };
        let layers: Vec<Vec<KvPage<'_, u16>>> = (0..LAYERS).map(of_layer).collect();
        let width = SHAPE.heads * SHAPE.head_width;
        let (query, mut out) = (wave(width), vec![0.0; width]);
        let kv_bytes = LAYERS * CONTEXT / PAGE_TOKENS * layer_len * size_of::<u16>();
        self.time(
            &format!("attention, {LAYERS} × 1 of {CONTEXT}"),
            kv_bytes,
            Limit::Memory,
            || {
                for pages in &layers {
                    let stretch = QueryStretch { pages, first_visible: CONTEXT, tokens: 1 };
                    paged_attention(pool, SHAPE, &query, &[stretch], &mut out);
                }
            },
        );
        let tokens = 128;
        let queries = wave(tokens * width);
        let mut out = vec![0.0; queries.len()];
        let first_visible = CONTEXT + 1 - tokens;
        let stretch = QueryStretch { pages: &layers[0], first_visible, tokens };
        let products = 2 * tokens * CONTEXT * width;
        self.time(&format!("attention, {tokens} of {CONTEXT}"), products, Limit::Floats, || {
            paged_attention(pool, SHAPE, &queries, &[stretch], &mut out);
        });
    }

    /// Kernels that read and write vectors that a cache holds; bytes they read.
    fn vectors(&mut self) {
        let (pool, width) = (self.pool, SMALL[0]);
        let inputs = wave(ROWS * width);
        let (weights, mut out) = (wave(width), wave(ROWS * width));
        let bytes = size_of_val(&*inputs);
        self.time_in_cache("norm, 1 thread", bytes, || {
            rms_norm(pool.cpu(), &inputs, &weights, 1e-5, &mut out);
        });
        self.time_in_cache("SwiGLU", 2 * bytes, || swiglu(pool, &mut out, &inputs));
        let angles = vec![(0.8, 0.6); SHAPE.head_width / 2];
        self.time_in_cache("rotary positions, 1 thread", bytes, || {
            rotate_halves(pool.cpu(), &mut out, SHAPE.head_width, &angles);
        });
        let mut codes = QuantisedRows::new();
        self.time_in_cache("rows to codes", bytes, || codes.fill(pool, &inputs, width));
    }

    fn logits(&mut self) {
        let (cpu, logits) = (self.pool.cpu(), wave(49_152));
        let bytes = size_of_val(&*logits);
        self.time_in_cache("softmax of logits, 1 thread", bytes, || {
            softmax_sums(cpu, &logits, 1.0, 0.7);
        });
        self.time_in_cache("best logits, 1 thread", bytes, || {
            block_maxima(cpu, &logits);
        });
    }
}

fn wave(len: usize) -> Vec<f32> {
    let values = [0.3, -0.7, 0.1, 0.9, -0.2, 0.5, -0.4];
    values.into_iter().cycle().take(len).collect()
}
