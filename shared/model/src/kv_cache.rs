//! Keys and values of one sequence, as a value: append, truncate, fork.
//!
//! Pages of [`PAGE_TOKENS`] tokens lie behind [`Arc`] and are copied when a shared one is written,
//! so a fork is cheap and independent, and a cut is exact. No model in here, and no cache in a
//! layer: one set of weights serves any number of sequences.

use std::sync::Arc;

/// Tokens in a page.
pub const PAGE_TOKENS: usize = 32;

/// What one token leaves in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers that hold keys and values.
    pub layers: usize,
    /// Width of one layer's keys, and of its values: KV heads times head size.
    pub width: usize,
}

impl KvShape {
    /// Bytes that one token takes.
    pub fn bytes_per_token(self) -> usize {
        self.layers.saturating_mul(self.width).saturating_mul(2 * size_of::<f32>())
    }
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    pages: Vec<Arc<Page>>,
    len_tokens: usize,
}

/// All layers of [`PAGE_TOKENS`] tokens: `[layers, keys then values, PAGE_TOKENS, width]`.
#[derive(Debug, Clone)]
struct Page {
    values: Vec<f32>,
}

impl KvCache {
    /// An empty cache.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, pages: Vec::new(), len_tokens: 0 }
    }

    /// What a token of this cache holds.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Tokens held.
    pub fn len_tokens(&self) -> usize {
        self.len_tokens
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len_tokens == 0
    }

    /// Forgets all but the first `len_tokens` tokens; a longer length changes nothing.
    pub fn truncate(&mut self, len_tokens: usize) {
        self.len_tokens = self.len_tokens.min(len_tokens);
        self.pages.truncate(self.len_tokens.div_ceil(PAGE_TOKENS));
    }

    /// A second cache with the same content. Pages are shared until one of the two writes.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { shape: self.shape, pages: self.pages.clone(), len_tokens: self.len_tokens }
    }

    /// Bytes of the pages it holds. A page shared by a fork counts in both.
    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE_TOKENS * self.shape.bytes_per_token()
    }

    /// Makes room for `tokens` more tokens and counts them as held; their content is written next
    /// with [`KvCache::write`], layer by layer.
    pub fn append(&mut self, tokens: usize) {
        let first_page = self.len_tokens / PAGE_TOKENS;
        self.len_tokens += tokens;
        self.pages.resize_with(self.len_tokens.div_ceil(PAGE_TOKENS), || {
            Arc::new(Page::zeroed(self.shape))
        });
        for page in self.pages.iter_mut().skip(first_page) {
            Arc::make_mut(page);
        }
    }

    /// Writes one layer's keys and values, each `[shape.width]`, of the token at `position`.
    ///
    /// # Panics
    /// If the position or layer is not held, or a slice has another width.
    pub fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        assert!(position < self.len_tokens, "the position was not appended");
        let width = self.shape.width;
        let page = Arc::make_mut(&mut self.pages[position / PAGE_TOKENS]);
        let (key_half, value_half) = page.layer_mut(self.shape, layer);
        let within = (position % PAGE_TOKENS) * width;
        key_half[within..within + width].copy_from_slice(keys);
        value_half[within..within + width].copy_from_slice(values);
    }

    /// One layer's keys and values page by page, each `[PAGE_TOKENS, shape.width]`; what lies
    /// behind the last held token is unspecified.
    pub fn pages(&self, layer: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.pages.iter().map(move |page| page.layer(self.shape, layer))
    }
}

impl Page {
    fn zeroed(shape: KvShape) -> Self {
        Self { values: vec![0.0; shape.layers * 2 * PAGE_TOKENS * shape.width] }
    }

    fn layer(&self, shape: KvShape, layer: usize) -> (&[f32], &[f32]) {
        let half = PAGE_TOKENS * shape.width;
        self.values[layer * 2 * half..(layer + 1) * 2 * half].split_at(half)
    }

    fn layer_mut(&mut self, shape: KvShape, layer: usize) -> (&mut [f32], &mut [f32]) {
        let half = PAGE_TOKENS * shape.width;
        self.values[layer * 2 * half..(layer + 1) * 2 * half].split_at_mut(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, width: 3 };

    fn push(cache: &mut KvCache, value: f32) {
        cache.append(1);
        for layer in 0..SHAPE.layers {
            let keys = [value; 3];
            cache.write(layer, cache.len_tokens() - 1, &keys, &keys.map(|key| -key));
        }
    }

    fn content(cache: &KvCache) -> Vec<f32> {
        let keys = cache.pages(1).flat_map(|(keys, _)| keys.chunks(3).map(|key| key[0]));
        keys.take(cache.len_tokens()).collect()
    }

    fn filled(tokens: u8) -> KvCache {
        let mut cache = KvCache::new(SHAPE);
        (0..tokens).for_each(|value| push(&mut cache, f32::from(value)));
        cache
    }

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other() {
        for len in [0_u8, 1, 31, 32, 33, 64, 70] {
            let mut origin = filled(len);
            let mut fork = origin.fork();
            let before = content(&origin);
            push(&mut origin, 1000.0);
            push(&mut fork, 2000.0);
            assert_eq!(content(&origin), [before.clone(), vec![1000.0]].concat());
            assert_eq!(content(&fork), [before, vec![2000.0]].concat());
        }
    }

    #[test]
    fn a_cut_is_exact_and_gives_pages_back() {
        for (len, cut) in [(70_u8, 0), (70, 1), (70, 32), (70, 33), (70, 70), (70, 99), (0, 5)] {
            let mut cache = filled(len);
            let expected: Vec<f32> = content(&cache).into_iter().take(cut).collect();
            cache.truncate(cut);
            assert_eq!(content(&cache), expected);
            let pages = expected.len().div_ceil(PAGE_TOKENS);
            assert_eq!(cache.bytes(), pages * PAGE_TOKENS * 2 * 3 * 2 * 4);
            push(&mut cache, 7.0);
            assert_eq!(content(&cache), [expected, vec![7.0]].concat());
        }
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_writes() {
        let origin = filled(70);
        let mut fork = origin.fork();
        push(&mut fork, 1.0);
        let shared = origin.pages.iter().zip(&fork.pages).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), 2);
    }
}
