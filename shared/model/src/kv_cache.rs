//! Keys and values of one sequence, as a value: append, truncate, fork.
//!
//! Pages of [`PAGE_TOKENS`] tokens lie behind [`Arc`] and are copied when a shared one is written,
//! so a fork is cheap and independent, and a cut is exact. No model in here, and no cache in a
//! layer: one set of weights serves any number of sequences. A cache lies where its model computes:
//! in memory, as IEEE 754 halves, or with the same rules on a device.

mod on_device;

use std::sync::Arc;

use relay_kernels::{KvPage, narrow_halves, widen_halves};

use crate::device::DevicePlace;
use on_device::DevicePages;

/// Tokens in a page.
pub const PAGE_TOKENS: usize = relay_kernels::PAGE_TOKENS;

/// Keys that are narrowed together before they are strewn over a page.
const KEYS_TOGETHER: usize = 64;

/// What one token leaves in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers that hold keys and values.
    pub layers: usize,
    /// Width of one layer's keys, and of its values: KV heads times head size.
    pub width: usize,
}

impl KvShape {
    /// Bytes that one token takes in memory.
    pub fn bytes_per_token(self) -> usize {
        self.numbers_per_token().saturating_mul(size_of::<u16>())
    }

    /// Numbers that one token leaves, wherever they lie.
    pub(crate) fn numbers_per_token(self) -> usize {
        self.layers.saturating_mul(self.width).saturating_mul(2)
    }
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    pages: Pages,
    len_tokens: usize,
}

#[derive(Debug, Clone)]
enum Pages {
    InMemory(Vec<Arc<Page>>),
    OnDevice(DevicePages),
}

/// All layers of [`PAGE_TOKENS`] tokens: for each, keys `[width, PAGE_TOKENS]`, then values
/// `[PAGE_TOKENS, width]`.
#[derive(Debug, Clone)]
struct Page {
    halves: Vec<u16>,
}

impl KvCache {
    /// An empty cache in memory.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, pages: Pages::InMemory(Vec::new()), len_tokens: 0 }
    }

    /// An empty cache on a device.
    pub(crate) fn on_device(shape: KvShape, place: DevicePlace) -> Self {
        let pages = Pages::OnDevice(DevicePages::new(shape, place));
        Self { shape, pages, len_tokens: 0 }
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
        let count = self.len_tokens.div_ceil(PAGE_TOKENS);
        match &mut self.pages {
            Pages::InMemory(pages) => pages.truncate(count),
            Pages::OnDevice(pages) => pages.truncate(count),
        }
    }

    /// A second cache with the same content. Pages are shared until one of the two writes.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { shape: self.shape, pages: self.pages.clone(), len_tokens: self.len_tokens }
    }

    /// Bytes of the pages it holds. A page shared by a fork counts in both.
    pub fn bytes(&self) -> usize {
        let (pages, bytes_per_token) = match &self.pages {
            Pages::InMemory(pages) => (pages.len(), self.shape.bytes_per_token()),
            Pages::OnDevice(pages) => (pages.count(), pages.bytes_per_token()),
        };
        pages * PAGE_TOKENS * bytes_per_token
    }

    /// Whether it is of this shape and lies in memory.
    pub(crate) fn belongs_in_memory(&self, shape: KvShape) -> bool {
        self.shape == shape && matches!(self.pages, Pages::InMemory(_))
    }

    /// Whether it is of this shape and lies there.
    pub(crate) fn belongs_on_device(&self, shape: KvShape, place: &DevicePlace) -> bool {
        let is_there = |pages: &DevicePages| pages.place().is_same(place);
        self.shape == shape && self.device_pages().is_some_and(is_there)
    }

    /// Makes room for `tokens` more tokens and counts them as held; their content is written next
    /// with [`KvCache::write`], layer by layer.
    ///
    /// # Panics
    /// If the cache lies on a device: only its model fills it.
    pub fn append(&mut self, tokens: usize) {
        assert!(matches!(self.pages, Pages::InMemory(_)), "the cache lies on a device");
        let first_page = self.len_tokens / PAGE_TOKENS;
        self.len_tokens += tokens;
        let (shape, count) = (self.shape, self.len_tokens.div_ceil(PAGE_TOKENS));
        if let Pages::InMemory(pages) = &mut self.pages {
            pages.resize_with(count, || Arc::new(Page::zeroed(shape)));
            for page in pages.iter_mut().skip(first_page) {
                Arc::make_mut(page);
            }
        }
    }

    /// As [`KvCache::append`], for a cache on a device; the content is written with
    /// [`DevicePages::write`]. On an error the cache holds what it held.
    pub(crate) fn append_on_device(&mut self, tokens: usize) -> candle_core::Result<()> {
        let len_tokens = self.len_tokens + tokens;
        if let Pages::OnDevice(pages) = &mut self.pages {
            let (first_page, held) = (self.len_tokens / PAGE_TOKENS, pages.count());
            let made = pages.make_writable(first_page, len_tokens.div_ceil(PAGE_TOKENS));
            made.inspect_err(|_| pages.truncate(held))?;
            self.len_tokens = len_tokens;
        }
        Ok(())
    }

    /// Its pages, if they lie on a device.
    pub(crate) fn device_pages(&self) -> Option<&DevicePages> {
        match &self.pages {
            Pages::InMemory(_) => None,
            Pages::OnDevice(pages) => Some(pages),
        }
    }

    /// Writes one layer's keys and values, each `[shape.width]`, of the token at `position`: the
    /// nearest halves, the greatest one for what lies beyond.
    ///
    /// # Panics
    /// If the position or layer is not held in memory, or a slice has another width.
    pub fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        assert!(position < self.len_tokens, "the position was not appended");
        let width = self.shape.width;
        assert!(keys.len() == width && values.len() == width, "a slice has another width");
        let shape = self.shape;
        let page = Arc::make_mut(&mut self.pages_in_memory_mut()[position / PAGE_TOKENS]);
        let (key_half, value_half) = page.layer_mut(shape, layer);
        let within = position % PAGE_TOKENS;
        narrow_halves(values, &mut value_half[within * width..(within + 1) * width]);
        let mut narrow = [0; KEYS_TOGETHER];
        let columns = key_half.chunks_mut(KEYS_TOGETHER * PAGE_TOKENS);
        for (keys, columns) in keys.chunks(KEYS_TOGETHER).zip(columns) {
            narrow_halves(keys, &mut narrow[..keys.len()]);
            for (key, column) in narrow.iter().zip(columns.chunks_exact_mut(PAGE_TOKENS)) {
                column[within] = *key;
            }
        }
    }

    /// One layer's keys and values of the token at `position`, as [`KvCache::write`] left them.
    ///
    /// # Panics
    /// If the position or layer is not held.
    pub fn read(&self, layer: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(position < self.len_tokens, "the position is not held");
        let width = self.shape.width;
        let page = &self.pages_in_memory()[position / PAGE_TOKENS];
        let KvPage { keys, values } = page.layer(self.shape, layer);
        let within = position % PAGE_TOKENS;
        let keys: Vec<u16> = keys.iter().skip(within).step_by(PAGE_TOKENS).copied().collect();
        (widen_halves(&keys), widen_halves(&values[within * width..(within + 1) * width]))
    }

    /// One layer's keys and values page by page; what lies behind the last held token is
    /// unspecified. A cache on a device shows none.
    pub fn pages(&self, layer: usize) -> impl Iterator<Item = KvPage<'_>> {
        self.pages_in_memory().iter().map(move |page| page.layer(self.shape, layer))
    }

    fn pages_in_memory(&self) -> &[Arc<Page>] {
        match &self.pages {
            Pages::InMemory(pages) => pages,
            Pages::OnDevice(_) => &[],
        }
    }

    fn pages_in_memory_mut(&mut self) -> &mut [Arc<Page>] {
        match &mut self.pages {
            Pages::InMemory(pages) => pages,
            Pages::OnDevice(_) => &mut [],
        }
    }
}

impl Page {
    fn zeroed(shape: KvShape) -> Self {
        Self { halves: vec![0; shape.layers * 2 * PAGE_TOKENS * shape.width] }
    }

    fn layer(&self, shape: KvShape, layer: usize) -> KvPage<'_> {
        let half = PAGE_TOKENS * shape.width;
        let (keys, values) = self.halves[layer * 2 * half..(layer + 1) * 2 * half].split_at(half);
        KvPage { keys, values }
    }

    fn layer_mut(&mut self, shape: KvShape, layer: usize) -> (&mut [u16], &mut [u16]) {
        let half = PAGE_TOKENS * shape.width;
        self.halves[layer * 2 * half..(layer + 1) * 2 * half].split_at_mut(half)
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
        (0..cache.len_tokens()).map(|position| cache.read(1, position).0[0]).collect()
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
            assert_eq!(cache.bytes(), pages * PAGE_TOKENS * 2 * 3 * 2 * 2);
            push(&mut cache, 7.0);
            assert_eq!(content(&cache), [expected, vec![7.0]].concat());
        }
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_writes() {
        let origin = filled(70);
        let mut fork = origin.fork();
        push(&mut fork, 1.0);
        let (origin, fork) = (origin.pages_in_memory(), fork.pages_in_memory());
        let shared = origin.iter().zip(fork).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), 2);
    }

    #[test]
    fn what_is_written_is_read_as_halves() {
        let shape = KvShape { layers: 2, width: 100 };
        let mut cache = KvCache::new(shape);
        cache.append(40);
        let keys: Vec<f32> = (0..100_u8).map(|i| f32::from(i) / 64.0 - 0.5).collect();
        let mut values = keys.clone();
        values[..3].copy_from_slice(&[1e9, -1e9, 1.0 + 1.0 / 4096.0]);
        cache.write(1, 38, &keys, &values);
        let (read_keys, read_values) = cache.read(1, 38);
        assert_eq!(read_keys, keys);
        assert_eq!(read_values[..3], [65_504.0, -65_504.0, 1.0]);
        assert_eq!(read_values[3..], values[3..]);
        let page = cache.pages(1).nth(1).unwrap();
        assert_eq!(widen_halves(&page.keys[5 * PAGE_TOKENS + 6..][..1]), keys[5..6]);
        assert_eq!(widen_halves(&page.values[6 * 100 + 5..][..1]), values[5..6]);
        assert_eq!(cache.read(0, 38).0, vec![0.0; 100]);
    }
}
