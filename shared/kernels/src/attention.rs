//! Causal attention over paged keys and values of 16 or 32 bits, for ragged rows.
//!
//! A query's sums are taken in pieces of [`CHUNK_TOKENS`] tokens, each in order, and the pieces
//! merged in order. That order is given by the query's position alone: neither the queries beside
//! it, nor the way its prefix was written, nor threads change a bit.
//!
//! Source: Milakov and Gimelshein, 2018 (arXiv 1805.02867), for merging softmax pieces.

use crate::cpu::Kernel;
use crate::disjoint::Disjoint;
use crate::exponential::exponentiate;
use crate::kv_element::KvElement;
use crate::pool::{Pool, Share};
use crate::simd::{LANES, Simd};

/// Tokens in a page.
pub const PAGE_TOKENS: usize = 32;
/// Pages whose softmax is taken together.
const CHUNK_PAGES: usize = 4;
/// Tokens whose softmax is taken together.
const CHUNK_TOKENS: usize = CHUNK_PAGES * PAGE_TOKENS;
/// Bytes that memory gives together.
const LINE_BYTES: usize = 64;

mod limits {
    /// Query vectors that go through a chunk together, so that its keys are still near.
    pub(super) const TILE_QUERIES: usize = 32;
}

/// Sizes of one attention layer. `kv_heads` divides `heads`: consecutive query heads share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_width: usize,
}

impl AttentionShape {
    /// Query heads that share a key and value head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn kv_width(self) -> usize {
        self.kv_heads * self.head_width
    }
}

/// Keys and values of a page of tokens. What lies behind a row's last token is never used.
#[derive(Debug, Clone, Copy)]
pub struct KvPage<'a, E> {
    /// Keys, `[kv_heads · head_width, PAGE_TOKENS]`: a number of all tokens is one stretch.
    pub keys: &'a [E],
    /// Values, `[PAGE_TOKENS, kv_heads · head_width]`.
    pub values: &'a [E],
}

/// Consecutive queries of one sequence: the first sees `first_visible` tokens of the pages, itself
/// included, each following one sees one more.
#[derive(Debug, Clone, Copy)]
pub struct QueryStretch<'a, E> {
    /// The sequence's pages, in order.
    pub pages: &'a [KvPage<'a, E>],
    /// Tokens that the first query sees, at least 1.
    pub first_visible: usize,
    /// How many queries there are.
    pub tokens: usize,
}

/// Attention of each query over its sequence: `queries` and `out` are `[tokens of all stretches,
/// heads · head_width]`. Scores are scaled by 1/√`head_width`.
///
/// # Panics
/// If the lengths do not fit each other, or a sequence has fewer keys than a query may see.
pub fn paged_attention<E: KvElement>(
    pool: &Pool,
    shape: AttentionShape,
    queries: &[f32],
    stretches: &[QueryStretch<'_, E>],
    out: &mut [f32],
) {
    assert!(shape.heads.is_multiple_of(shape.kv_heads), "heads do not share KV heads evenly");
    let query_width = shape.heads * shape.head_width;
    let tokens: usize = stretches.iter().map(|stretch| stretch.tokens).sum();
    assert_eq!(queries.len(), tokens * query_width, "queries do not fit the stretches");
    assert_eq!(queries.len(), out.len(), "the output has another shape");
    for stretch in stretches {
        let visible = stretch.first_visible + stretch.tokens - 1;
        let held = stretch.pages.len() * PAGE_TOKENS;
        assert!(stretch.first_visible > 0 && visible <= held, "a query sees keys that are not");
    }
    let attention = Attention { shape, queries, stretches };
    if stretches.iter().all(|stretch| stretch.tokens == 1) {
        attention.decode(pool, out);
    } else {
        attention.prefill(pool, out);
    }
}

#[derive(Clone, Copy)]
struct Attention<'a, E> {
    shape: AttentionShape,
    queries: &'a [f32],
    stretches: &'a [QueryStretch<'a, E>],
}

/// Queries of one stretch and one key head that go through its chunks together.
#[derive(Clone, Copy)]
struct Tile<'a, E> {
    stretch: &'a QueryStretch<'a, E>,
    kv_head: usize,
    /// The first query's token, in its stretch and among all.
    first_token: usize,
    first_row: usize,
    tokens: usize,
}

impl<E> Tile<'_, E> {
    /// Tokens that query `index` sees. Queries go token by token, the heads of one together.
    fn visible(&self, shape: AttentionShape, index: usize) -> usize {
        self.stretch.first_visible + self.first_token + index / shape.group()
    }

    fn queries(&self, shape: AttentionShape) -> usize {
        self.tokens * shape.group()
    }

    /// Where query `index` lies among all queries, and its sum in the output.
    fn place(&self, shape: AttentionShape, index: usize) -> usize {
        let (token, head) = (index / shape.group(), index % shape.group());
        let head = self.kv_head * shape.group() + head;
        ((self.first_row + token) * shape.heads + head) * shape.head_width
    }
}

impl<'a, E: KvElement> Attention<'a, E> {
    fn tiles(&self) -> Vec<Tile<'a, E>> {
        let tile_tokens = (limits::TILE_QUERIES / self.shape.group()).max(1);
        let mut tiles = Vec::new();
        let mut first_row = 0;
        for stretch in self.stretches {
            for kv_head in 0..self.shape.kv_heads {
                for first_token in (0..stretch.tokens).step_by(tile_tokens) {
                    let tokens = tile_tokens.min(stretch.tokens - first_token);
                    let first_row = first_row + first_token;
                    tiles.push(Tile { stretch, kv_head, first_token, first_row, tokens });
                }
            }
            first_row += stretch.tokens;
        }
        tiles
    }

    /// Each thread takes whole tiles, about as many products as the others.
    fn prefill(self, pool: &Pool, out: &mut [f32]) {
        let tiles = self.tiles();
        let cost = |tile: &Tile<'_, E>| {
            let visible = tile.stretch.first_visible + tile.first_token + tile.tokens;
            tile.tokens * visible.next_multiple_of(PAGE_TOKENS)
        };
        let costs: Vec<usize> = tiles.iter().map(cost).collect();
        let out = Disjoint::new(out);
        pool.run_kernel(|share: Share| {
            let tiles = &tiles[share.part_by_cost(&costs)];
            AttendTiles { attention: self, tiles, out }
        });
    }

    /// Threads share the chunks of all sequences; what they find is merged at the end.
    fn decode(self, pool: &Pool, out: &mut [f32]) {
        let shape = self.shape;
        let tiles = self.tiles();
        let items = items(&tiles, shape);
        let piece_floats = shape.group() * (shape.head_width + 2);
        let mut pieces = vec![0.0; items.len() * piece_floats];
        let products = items.len() * CHUNK_TOKENS * shape.head_width * shape.group();
        let room = Disjoint::new(&mut pieces);
        pool.run_kernel_over(products, |share: Share| {
            let part = share.part(items.len(), 1);
            let first = part.start;
            let (tiles, items) = (&tiles, &items[part]);
            AttendChunks { attention: self, tiles, items, first, pieces: room }
        });
        pool.cpu().run(MergePieces { shape, tiles: &tiles, items: &items, pieces: &pieces, out });
    }
}

struct AttendTiles<'a, E> {
    attention: Attention<'a, E>,
    tiles: &'a [Tile<'a, E>],
    out: Disjoint<'a, f32>,
}

impl<E: KvElement> Kernel for AttendTiles<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.attention.shape;
        let mut scratch = Scratch::default();
        for tile in self.tiles {
            let queries = tile.queries(shape);
            scratch.load(simd, &self.attention, tile);
            let mut states = vec![State::START; queries];
            let mut sums = vec![0.0; queries * shape.head_width];
            let most = tile.visible(shape, queries - 1);
            for chunk in 0..most.div_ceil(CHUNK_TOKENS) {
                let pieces = scratch.attend_chunk(simd, shape, tile, chunk, None);
                let sums = sums.chunks_exact_mut(shape.head_width);
                let found = pieces.iter().zip(scratch.sums.chunks_exact(shape.head_width));
                for ((state, sums), (piece, found)) in states.iter_mut().zip(sums).zip(found) {
                    state.merge(simd, sums, *piece, found);
                }
            }
            for (index, state) in states.iter().enumerate() {
                let at = tile.place(shape, index);
                // SAFETY: tiles have different queries, and each query one place.
                let out = unsafe { self.out.part(at..at + shape.head_width) };
                state.finish(&sums[index * shape.head_width..][..shape.head_width], out);
            }
        }
    }
}

/// A chunk of a tile's keys and values.
#[derive(Debug, Clone, Copy)]
struct Item {
    tile: usize,
    chunk: usize,
}

/// All chunks, the heads of one together, as they lie in memory.
fn items<E>(tiles: &[Tile<'_, E>], shape: AttentionShape) -> Vec<Item> {
    let mut items = Vec::new();
    for (stretch, heads) in tiles.chunks(shape.kv_heads).enumerate() {
        let visible = heads.first().map_or(0, |tile| tile.stretch.first_visible);
        for chunk in 0..visible.div_ceil(CHUNK_TOKENS) {
            let first = stretch * shape.kv_heads;
            items.extend((first..first + heads.len()).map(|tile| Item { tile, chunk }));
        }
    }
    items
}

/// Items from the `first` of all on; the piece of each goes to its place.
struct AttendChunks<'a, E> {
    attention: Attention<'a, E>,
    tiles: &'a [Tile<'a, E>],
    items: &'a [Item],
    first: usize,
    pieces: Disjoint<'a, f32>,
}

impl<E: KvElement> Kernel for AttendChunks<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.attention.shape;
        let piece_floats = shape.group() * (shape.head_width + 2);
        let mut scratch = Scratch::default();
        for (index, Item { tile, chunk }) in self.items.iter().enumerate() {
            let tile = &self.tiles[*tile];
            scratch.load(simd, &self.attention, tile);
            let next = self.items.get(index + 1);
            let next = next.map(|next| Ahead::new(&self.tiles[next.tile], next.chunk));
            let found = scratch.attend_chunk(simd, shape, tile, *chunk, next);
            let at = (self.first + index) * piece_floats;
            // SAFETY: items have different places.
            let piece = unsafe { self.pieces.part(at..at + piece_floats) };
            let heads = piece.chunks_exact_mut(shape.head_width + 2);
            let sums = scratch.sums.chunks_exact(shape.head_width);
            for ((head, state), sums) in heads.zip(found).zip(sums) {
                head[..shape.head_width].copy_from_slice(sums);
                head[shape.head_width..].copy_from_slice(&[state.highest, state.total]);
            }
        }
    }
}

/// Merges the pieces of each tile in the order of their chunks.
struct MergePieces<'a, E> {
    shape: AttentionShape,
    tiles: &'a [Tile<'a, E>],
    items: &'a [Item],
    pieces: &'a [f32],
    out: &'a mut [f32],
}

impl<E: KvElement> Kernel for MergePieces<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (group, width) = (self.shape.group(), self.shape.head_width);
        let mut sums = vec![0.0; self.tiles.len() * group * width];
        let mut states = vec![State::START; self.tiles.len() * group];
        let pieces = self.pieces.chunks_exact(group * (width + 2));
        for (Item { tile, .. }, piece) in self.items.iter().zip(pieces) {
            let first = tile * group;
            let sums = sums[first * width..].chunks_exact_mut(width);
            for ((state, sums), piece) in
                states[first..].iter_mut().zip(sums).zip(piece.chunks_exact(width + 2))
            {
                let found = State { highest: piece[width], total: piece[width + 1] };
                state.merge(simd, sums, found, &piece[..width]);
            }
        }
        for (index, (state, sums)) in states.iter().zip(sums.chunks_exact(width)).enumerate() {
            let at = self.tiles[index / group].place(self.shape, index % group);
            state.finish(sums, &mut self.out[at..at + width]);
        }
    }
}

/// A softmax on its way: the highest score, and the sum of the others' powers under it.
#[derive(Debug, Clone, Copy)]
struct State {
    highest: f32,
    total: f32,
}

impl State {
    const START: Self = Self { highest: f32::NEG_INFINITY, total: 0.0 };

    /// Takes in the piece of the next chunk; one that saw nothing changes nothing.
    #[inline(always)]
    fn merge<S: Simd>(&mut self, simd: S, sums: &mut [f32], piece: Self, found: &[f32]) {
        if piece.highest == f32::NEG_INFINITY {
            return;
        }
        let highest = self.highest.max(piece.highest);
        let mut factors = [self.highest - highest, piece.highest - highest];
        exponentiate_as_they_are(simd, &mut factors);
        let [before, after] = factors;
        *self = Self { highest, total: self.total * before + piece.total * after };
        for (sum, found) in sums.iter_mut().zip(found) {
            *sum = *sum * before + found * after;
        }
    }

    #[inline(always)]
    fn finish(self, sums: &[f32], out: &mut [f32]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum / self.total;
        }
    }
}

#[inline(always)]
fn exponentiate_as_they_are<S: Simd>(simd: S, values: &mut [f32; 2]) {
    let mut all = [0.0; LANES];
    all[..2].copy_from_slice(values);
    let powers = crate::exponential::exp(simd, simd.load(&all));
    simd.store(powers, &mut all);
    values.copy_from_slice(&all[..2]);
}

/// What one thread works with.
#[derive(Default)]
struct Scratch {
    /// Scaled queries, `[queries, head_width]`.
    queries: Vec<f32>,
    /// Scores, then their powers, `[queries, CHUNK_TOKENS]`.
    scores: Vec<f32>,
    /// Sums of values, `[queries, head_width]`.
    sums: Vec<f32>,
}

impl Scratch {
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    fn load<S: Simd, E>(&mut self, _: S, attention: &Attention<'_, E>, tile: &Tile<'_, E>) {
        let shape = attention.shape;
        let scale = 1.0 / (shape.head_width as f32).sqrt();
        self.queries.clear();
        for index in 0..tile.queries(shape) {
            let at = tile.place(shape, index);
            let query = &attention.queries[at..at + shape.head_width];
            self.queries.extend(query.iter().map(|value| value * scale));
        }
        self.scores.resize(tile.queries(shape) * CHUNK_TOKENS, 0.0);
        self.sums.resize(tile.queries(shape) * shape.head_width, 0.0);
    }

    /// The pieces of all queries over one chunk; their sums lie in `sums`.
    #[inline(always)]
    fn attend_chunk<S: Simd, E: KvElement>(
        &mut self,
        simd: S,
        shape: AttentionShape,
        tile: &Tile<'_, E>,
        chunk: usize,
        mut next: Option<Ahead<'_, E>>,
    ) -> Vec<State> {
        let width = shape.head_width;
        let first = chunk * CHUNK_TOKENS;
        let queries = tile.queries(shape);
        let seen = |index| tile.visible(shape, index).saturating_sub(first).min(CHUNK_TOKENS);
        let pages = &tile.stretch.pages[chunk * CHUNK_PAGES..];
        let pages = &pages[..seen(queries - 1).div_ceil(PAGE_TOKENS)];
        let mut states = vec![State::START; queries];
        // Each query has four sums in registers.
        let most = (S::ROWS / 2).clamp(1, 4);
        let mut index = 0;
        while index < queries {
            // Queries that see different numbers of tokens would not be summed alike together.
            let alike = |other: &usize| seen(*other) == seen(index);
            let others = index + 1..queries.min(index + most);
            let count = 1 + others.take_while(alike).count();
            let range = index..index + count;
            let piece = Piece {
                shape,
                kv_head: tile.kv_head,
                pages,
                next: next.take(),
                seen: seen(index),
                queries: &self.queries[range.start * width..range.end * width],
                scores: &mut self.scores[range.start * CHUNK_TOKENS..range.end * CHUNK_TOKENS],
                sums: &mut self.sums[range.start * width..range.end * width],
            };
            if seen(index) > 0 {
                match count {
                    4 => piece.attend::<S, 4>(simd, &mut states[range]),
                    3 => piece.attend::<S, 3>(simd, &mut states[range]),
                    2 => piece.attend::<S, 2>(simd, &mut states[range]),
                    _ => piece.attend::<S, 1>(simd, &mut states[range]),
                }
            }
            index += count;
        }
        states
    }
}

/// A few queries that see the same tokens of a chunk.
struct Piece<'a, E> {
    shape: AttentionShape,
    kv_head: usize,
    pages: &'a [KvPage<'a, E>],
    next: Option<Ahead<'a, E>>,
    seen: usize,
    queries: &'a [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<E: KvElement> Piece<'_, E> {
    #[inline(always)]
    fn attend<S: Simd, const Q: usize>(mut self, simd: S, states: &mut [State]) {
        self.score::<S, Q>(simd);
        for (q, state) in states.iter_mut().enumerate() {
            let scores = &mut self.scores[q * CHUNK_TOKENS..][..self.seen.next_multiple_of(LANES)];
            scores[self.seen..].fill(f32::NEG_INFINITY);
            let (highest, total) = exponentiate(simd, scores.as_chunks_mut().0);
            *state = State { highest, total };
        }
        let width = self.shape.head_width;
        let mut at = 0;
        while at + 4 * LANES <= width {
            self.sum::<S, Q, 4>(simd, at);
            at += 4 * LANES;
        }
        while at + LANES <= width {
            self.sum::<S, Q, 1>(simd, at);
            at += LANES;
        }
        for at in at..width {
            self.sum_one::<Q>(at);
        }
    }

    /// Scores of whole pages; those behind the last token seen mean nothing.
    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&mut self, simd: S) {
        const VECTORS: usize = PAGE_TOKENS / LANES;
        let width = self.shape.head_width;
        let head = self.kv_head * width * PAGE_TOKENS..(self.kv_head + 1) * width * PAGE_TOKENS;
        let queries: [&[f32]; Q] = std::array::from_fn(|q| &self.queries[q * width..][..width]);
        for (index, page) in self.pages.iter().take(self.seen.div_ceil(PAGE_TOKENS)).enumerate() {
            let mut sums = [[simd.splat(0.0); VECTORS]; Q];
            let next = self.next.and_then(|next| next.keys(self.shape, index));
            accumulate(simd, queries, &page.keys[head.clone()], next, PAGE_TOKENS, &mut sums);
            for (q, sums) in sums.into_iter().enumerate() {
                let scores = &mut self.scores[q * CHUNK_TOKENS + index * PAGE_TOKENS..];
                store_all(simd, sums, scores);
            }
        }
    }

    /// Sums of `8 · N` numbers of the values, from `at` on, weighted by `scores`.
    #[inline(always)]
    fn sum<S: Simd, const Q: usize, const N: usize>(&mut self, simd: S, at: usize) {
        let (width, kv_width) = (self.shape.head_width, self.shape.kv_width());
        let mut sums = [[simd.splat(0.0); N]; Q];
        for (index, page) in self.pages.iter().enumerate() {
            let tokens = index * PAGE_TOKENS..self.seen.min((index + 1) * PAGE_TOKENS);
            if tokens.is_empty() {
                break;
            }
            let weights: [&[f32]; Q] =
                std::array::from_fn(|q| &self.scores[q * CHUNK_TOKENS..][tokens.clone()]);
            let values = &page.values[self.kv_head * width + at..];
            let next = self.next.and_then(|next| next.values(self.shape, index));
            let next = next.map(|values| &values[at..]);
            accumulate(simd, weights, values, next, kv_width, &mut sums);
        }
        for (q, sums) in sums.into_iter().enumerate() {
            store_all(simd, sums, &mut self.sums[q * width + at..]);
        }
    }

    /// As [`Piece::sum`], for a single number: the end of a head that fills no vector.
    #[inline(always)]
    fn sum_one<const Q: usize>(&mut self, at: usize) {
        let (width, kv_width) = (self.shape.head_width, self.shape.kv_width());
        for q in 0..Q {
            let mut sum = 0.0_f32;
            for token in 0..self.seen {
                let within = token % PAGE_TOKENS * kv_width + self.kv_head * width + at;
                let value = self.pages[token / PAGE_TOKENS].values[within].widen();
                sum = self.scores[q * CHUNK_TOKENS + token].mul_add(value, sum);
            }
            self.sums[q * width + at] = sum;
        }
    }
}

/// What is read after a piece, and is asked for meanwhile: it lies in stretches too short for a
/// processor to foresee the next one.
#[derive(Debug)]
struct Ahead<'a, E> {
    kv_head: usize,
    pages: &'a [KvPage<'a, E>],
}

impl<E> Clone for Ahead<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Ahead<'_, E> {}

impl<'a, E> Ahead<'a, E> {
    fn new(tile: &Tile<'a, E>, chunk: usize) -> Self {
        Self { kv_head: tile.kv_head, pages: &tile.stretch.pages[chunk * CHUNK_PAGES..] }
    }

    /// The head's keys in a page.
    #[inline(always)]
    fn keys(self, shape: AttentionShape, page: usize) -> Option<&'a [E]> {
        let first = self.kv_head * shape.head_width * PAGE_TOKENS;
        self.pages.get(page).map(|page| &page.keys[first..])
    }

    /// From the head's first value in a page on.
    #[inline(always)]
    fn values(self, shape: AttentionShape, page: usize) -> Option<&'a [E]> {
        self.pages.get(page).map(|page| &page.values[self.kv_head * shape.head_width..])
    }
}

/// `sums[q] += Σₖ factors[q][k] · rows[k · stride ..]`, in the order of k. Asks for the same rows of
/// `next`.
#[inline(always)]
fn accumulate<S: Simd, E: KvElement, const Q: usize, const N: usize>(
    simd: S,
    factors: [&[f32]; Q],
    rows: &[E],
    next: Option<&[E]>,
    stride: usize,
    sums: &mut [[S::Floats; N]; Q],
) {
    let count = factors[0].len();
    let factors = factors.map(|factors| &factors[..count]);
    for k in 0..count {
        if let Some(next) = next {
            for at in (0..N * LANES).step_by(LINE_BYTES / size_of::<E>()) {
                if let Some(number) = next.get(k * stride + at) {
                    simd.prefetch(number);
                }
            }
        }
        let row = rows[k * stride..k * stride + N * LANES].as_chunks::<LANES>().0;
        let mut vectors = [simd.splat(0.0); N];
        for n in 0..N {
            vectors[n] = E::load(simd, &row[n]);
        }
        for q in 0..Q {
            let factor = simd.splat(factors[q][k]);
            for n in 0..N {
                sums[q][n] = simd.mul_add(factor, vectors[n], sums[q][n]);
            }
        }
    }
}

#[inline(always)]
fn store_all<S: Simd, const N: usize>(simd: S, values: [S::Floats; N], to: &mut [f32]) {
    for (value, to) in values.into_iter().zip(to.as_chunks_mut::<LANES>().0) {
        simd.store(value, to);
    }
}

#[cfg(test)]
mod tests;
