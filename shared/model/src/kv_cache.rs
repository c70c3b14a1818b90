//! Keys and values of one sequence, as a value: append, truncate, fork.
//!
//! Pages of [`PAGE_TOKENS`] tokens lie behind [`Arc`] and are copied when a shared one is written,
//! so a fork is cheap and independent, and a cut is exact. No model in here, and no cache in a
//! layer: one set of weights serves any number of sequences. A cache lies where its model computes:
//! in memory, as IEEE 754 halves or as floats of 32 bits, or with the same rules on a device.

mod in_memory;
mod on_device;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::DevicePlace;
pub(crate) use in_memory::MemoryPages;
use on_device::DevicePages;

/// Tokens in a page.
pub const PAGE_TOKENS: usize = relay_kernels::PAGE_TOKENS;

/// What keys and values are kept as in memory. On a device they have the weights' precision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvPrecision {
    /// IEEE 754 halves: half the memory, and half of what attention reads.
    #[default]
    F16,
    /// As they were computed.
    F32,
}

impl fmt::Display for KvPrecision {
    /// As settings spell it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

impl KvPrecision {
    /// Bytes of one number.
    fn number_bytes(self) -> usize {
        match self {
            Self::F16 => size_of::<u16>(),
            Self::F32 => size_of::<f32>(),
        }
    }
}

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
    pub fn bytes_per_token(self, precision: KvPrecision) -> usize {
        self.numbers_per_token().saturating_mul(precision.number_bytes())
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
    Halves(MemoryPages<u16>),
    Singles(MemoryPages<f32>),
    OnDevice(DevicePages),
}

/// What a cache in memory lends to attention: all pages, of one kind.
pub(crate) enum PagesInMemory<'a> {
    Halves(&'a MemoryPages<u16>),
    Singles(&'a MemoryPages<f32>),
}

impl<'a> PagesInMemory<'a> {
    pub(crate) fn halves(self) -> Option<&'a MemoryPages<u16>> {
        match self {
            Self::Halves(pages) => Some(pages),
            Self::Singles(_) => None,
        }
    }

    pub(crate) fn singles(self) -> Option<&'a MemoryPages<f32>> {
        match self {
            Self::Halves(_) => None,
            Self::Singles(pages) => Some(pages),
        }
    }
}

impl KvCache {
    /// An empty cache in memory.
    pub fn new(shape: KvShape, precision: KvPrecision) -> Self {
        let pages = match precision {
            KvPrecision::F16 => Pages::Halves(MemoryPages::new(shape)),
            KvPrecision::F32 => Pages::Singles(MemoryPages::new(shape)),
        };
        Self { shape, pages, len_tokens: 0 }
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
            Pages::Halves(pages) => pages.truncate(count),
            Pages::Singles(pages) => pages.truncate(count),
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
        let in_memory = |precision| self.shape.bytes_per_token(precision);
        let (pages, bytes_per_token) = match &self.pages {
            Pages::Halves(pages) => (pages.count(), in_memory(KvPrecision::F16)),
            Pages::Singles(pages) => (pages.count(), in_memory(KvPrecision::F32)),
            Pages::OnDevice(pages) => (pages.count(), pages.bytes_per_token()),
        };
        pages * PAGE_TOKENS * bytes_per_token
    }

    /// Whether it is of this shape and precision and lies in memory.
    pub(crate) fn belongs_in_memory(&self, shape: KvShape, precision: KvPrecision) -> bool {
        let kept_as = match &self.pages {
            Pages::Halves(_) => Some(KvPrecision::F16),
            Pages::Singles(_) => Some(KvPrecision::F32),
            Pages::OnDevice(_) => None,
        };
        self.shape == shape && kept_as == Some(precision)
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
        assert!(self.device_pages().is_none(), "the cache lies on a device");
        let first_page = self.len_tokens / PAGE_TOKENS;
        let count = (self.len_tokens + tokens).div_ceil(PAGE_TOKENS);
        match &mut self.pages {
            Pages::Halves(pages) => pages.make_writable(first_page, count),
            Pages::Singles(pages) => pages.make_writable(first_page, count),
            Pages::OnDevice(_) => {}
        }
        self.len_tokens += tokens;
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
            Pages::Halves(_) | Pages::Singles(_) => None,
            Pages::OnDevice(pages) => Some(pages),
        }
    }

    /// Its pages, if they lie in memory.
    pub(crate) fn pages_in_memory(&self) -> Option<PagesInMemory<'_>> {
        match &self.pages {
            Pages::Halves(pages) => Some(PagesInMemory::Halves(pages)),
            Pages::Singles(pages) => Some(PagesInMemory::Singles(pages)),
            Pages::OnDevice(_) => None,
        }
    }

    /// Writes one layer's keys and values, each `[shape.width]`, of the token at `position`. Halves
    /// are the nearest ones, the greatest one for what lies beyond.
    ///
    /// # Panics
    /// If the position or layer is not held in memory, or a slice has another width.
    pub fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        assert!(self.device_pages().is_none(), "the cache lies on a device");
        assert!(position < self.len_tokens, "the position was not appended");
        match &mut self.pages {
            Pages::Halves(pages) => pages.write(layer, position, keys, values),
            Pages::Singles(pages) => pages.write(layer, position, keys, values),
            Pages::OnDevice(_) => {}
        }
    }

    /// One layer's keys and values of the token at `position`, as [`KvCache::write`] left them.
    ///
    /// # Panics
    /// If the position or layer is not held in memory.
    pub fn read(&self, layer: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(self.device_pages().is_none(), "the cache lies on a device");
        assert!(position < self.len_tokens, "the position is not held");
        match &self.pages {
            Pages::Halves(pages) => pages.read(layer, position),
            Pages::Singles(pages) => pages.read(layer, position),
            Pages::OnDevice(_) => (Vec::new(), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_kernels::{KvElement, KvPage};

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

    const BOTH: [KvPrecision; 2] = [KvPrecision::F16, KvPrecision::F32];

    fn filled(tokens: u8, precision: KvPrecision) -> KvCache {
        let mut cache = KvCache::new(SHAPE, precision);
        (0..tokens).for_each(|value| push(&mut cache, f32::from(value)));
        cache
    }

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other() {
        let lengths = [0_u8, 1, 31, 32, 33, 64, 70];
        for (precision, len) in BOTH.into_iter().flat_map(|kept| lengths.map(|len| (kept, len))) {
            let mut origin = filled(len, precision);
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
        let cuts = [(70_u8, 0), (70, 1), (70, 32), (70, 33), (70, 70), (70, 99), (0, 5)];
        let table = [(KvPrecision::F16, 2), (KvPrecision::F32, 4)];
        let table = table.into_iter().flat_map(|kept| cuts.map(|cut| (kept, cut)));
        for ((precision, number_bytes), (len, cut)) in table {
            let mut cache = filled(len, precision);
            let expected: Vec<f32> = content(&cache).into_iter().take(cut).collect();
            cache.truncate(cut);
            assert_eq!(content(&cache), expected);
            let pages = expected.len().div_ceil(PAGE_TOKENS);
            assert_eq!(cache.bytes(), pages * PAGE_TOKENS * 2 * 3 * 2 * number_bytes);
            push(&mut cache, 7.0);
            assert_eq!(content(&cache), [expected, vec![7.0]].concat());
        }
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_writes() {
        let origin = filled(70, KvPrecision::F16);
        let mut fork = origin.fork();
        push(&mut fork, 1.0);
        let (Pages::Halves(origin), Pages::Halves(fork)) = (origin.pages, fork.pages) else {
            unreachable!()
        };
        assert_eq!(origin.shared_with(&fork), 2);
    }

    #[test]
    fn what_is_written_is_read_in_the_cache_s_precision() {
        let table = [
            (KvPrecision::F16, [65_504.0, -65_504.0, 1.0]),
            (KvPrecision::F32, [1e9, -1e9, 1.0 + 1.0 / 4096.0]),
        ];
        for (precision, expected) in table {
            check_what_is_read(precision, expected);
        }
    }

    fn check_what_is_read(precision: KvPrecision, expected: [f32; 3]) {
        let shape = KvShape { layers: 2, width: 100 };
        let mut cache = KvCache::new(shape, precision);
        cache.append(40);
        let keys: Vec<f32> = (0..100_u8).map(|i| f32::from(i) / 64.0 - 0.5).collect();
        let mut values = keys.clone();
        values[..3].copy_from_slice(&[1e9, -1e9, 1.0 + 1.0 / 4096.0]);
        cache.write(1, 38, &keys, &values);
        let (read_keys, read_values) = cache.read(1, 38);
        assert_eq!(read_keys, keys);
        assert_eq!(read_values[..3], expected);
        assert_eq!(read_values[3..], values[3..]);
        assert_eq!(cache.read(0, 38).0, vec![0.0; 100]);
        match cache.pages_in_memory().unwrap() {
            PagesInMemory::Halves(pages) => check_layout(pages, &keys, &values),
            PagesInMemory::Singles(pages) => check_layout(pages, &keys, &values),
        }
    }

    /// Keys lie number by number, values token by token.
    fn check_layout<E: KvElement>(pages: &MemoryPages<E>, keys: &[f32], values: &[f32]) {
        let KvPage { keys: key_half, values: value_half } = pages.layer(1)[1];
        let same = |kept: E, written: f32| kept.widen().to_bits() == written.to_bits();
        assert!(same(key_half[5 * PAGE_TOKENS + 6], keys[5]));
        assert!(same(value_half[6 * 100 + 5], values[5]));
    }
}
