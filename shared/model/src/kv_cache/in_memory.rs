//! Pages of a cache in memory, of halves or of 32 bits.
//!
//! A page that a fork shares is copied before it is written.

use std::sync::Arc;

use relay_kernels::{Arena, ArenaSlice, KvElement, KvPage};

use super::{KvShape, PAGE_TOKENS};

/// Keys that are narrowed together before they are strewn over a page.
const KEYS_TOGETHER: usize = 64;

/// The pages of one sequence, in order.
#[derive(Debug)]
pub(crate) struct MemoryPages<E> {
    shape: KvShape,
    pages: Vec<Arc<Page<E>>>,
    /// Where new pages come from.
    arena: Arena,
}

impl<E> Clone for MemoryPages<E> {
    /// Shares the pages, not where new ones come from: one sequence must not keep the other's
    /// memory.
    fn clone(&self) -> Self {
        Self { shape: self.shape, pages: self.pages.clone(), arena: Arena::growing() }
    }
}

/// All layers of [`PAGE_TOKENS`] tokens: for each, keys `[width, PAGE_TOKENS]`, then values
/// `[PAGE_TOKENS, width]`.
#[derive(Debug)]
struct Page<E> {
    numbers: ArenaSlice<E>,
}

impl<E: Copy> Clone for Page<E> {
    fn clone(&self) -> Self {
        Self { numbers: self.numbers.clone() }
    }
}

impl<E: KvElement> MemoryPages<E> {
    pub(super) fn new(shape: KvShape) -> Self {
        Self { shape, pages: Vec::new(), arena: Arena::growing() }
    }

    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    /// The memory of pages that are cut off goes back to the system, unless a fork has them too.
    pub(super) fn truncate(&mut self, pages: usize) {
        if pages < self.pages.len() {
            self.pages.truncate(pages);
            self.arena.trim(pages * size_of::<E>() * page_numbers(self.shape));
        }
    }

    /// Makes every page from `first_page` to `pages` present and this sequence's own.
    pub(super) fn make_writable(&mut self, first_page: usize, pages: usize) {
        let (shape, arena) = (self.shape, &mut self.arena);
        self.pages.resize_with(pages, || Arc::new(Page::zeroed(arena, shape)));
        for page in self.pages.iter_mut().skip(first_page) {
            Arc::make_mut(page);
        }
    }

    /// Writes one layer's keys and values, each `[shape.width]`, of the token at `position`.
    ///
    /// # Panics
    /// If the position or layer is not held, or a slice has another width.
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let width = self.shape.width;
        assert!(keys.len() == width && values.len() == width, "a slice has another width");
        let page = Arc::make_mut(&mut self.pages[position / PAGE_TOKENS]);
        let (key_half, value_half) = page.layer_mut(self.shape, layer);
        let within = position % PAGE_TOKENS;
        E::narrow(values, &mut value_half[within * width..(within + 1) * width]);
        let mut narrow = [E::default(); KEYS_TOGETHER];
        let columns = key_half.chunks_mut(KEYS_TOGETHER * PAGE_TOKENS);
        for (keys, columns) in keys.chunks(KEYS_TOGETHER).zip(columns) {
            E::narrow(keys, &mut narrow[..keys.len()]);
            for (key, column) in narrow.iter().zip(columns.chunks_exact_mut(PAGE_TOKENS)) {
                column[within] = *key;
            }
        }
    }

    /// One layer's keys and values of the token at `position`.
    ///
    /// # Panics
    /// If the position or layer is not held.
    pub(super) fn read(&self, layer: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let width = self.shape.width;
        let page = &self.pages[position / PAGE_TOKENS];
        let KvPage { keys, values } = page.layer(self.shape, layer);
        let within = position % PAGE_TOKENS;
        let keys = keys.iter().skip(within).step_by(PAGE_TOKENS);
        let values = &values[within * width..(within + 1) * width];
        (keys.map(|key| key.widen()).collect(), values.iter().map(|value| value.widen()).collect())
    }

    /// One layer's keys and values page by page; what lies behind the last held token is
    /// unspecified.
    pub(crate) fn layer(&self, layer: usize) -> Vec<KvPage<'_, E>> {
        self.pages.iter().map(|page| page.layer(self.shape, layer)).collect()
    }

    /// How many of the first pages the two have in common.
    #[cfg(test)]
    pub(super) fn shared_with(&self, other: &Self) -> usize {
        self.pages.iter().zip(&other.pages).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }
}

/// Of one page, all layers' keys and values.
fn page_numbers(shape: KvShape) -> usize {
    shape.layers * 2 * PAGE_TOKENS * shape.width
}

impl<E: KvElement> Page<E> {
    fn zeroed(arena: &mut Arena, shape: KvShape) -> Self {
        Self { numbers: arena.filled(page_numbers(shape), E::default()) }
    }

    fn layer(&self, shape: KvShape, layer: usize) -> KvPage<'_, E> {
        let half = PAGE_TOKENS * shape.width;
        let (keys, values) = self.numbers[layer * 2 * half..(layer + 1) * 2 * half].split_at(half);
        KvPage { keys, values }
    }

    fn layer_mut(&mut self, shape: KvShape, layer: usize) -> (&mut [E], &mut [E]) {
        let half = PAGE_TOKENS * shape.width;
        self.numbers[layer * 2 * half..(layer + 1) * 2 * half].split_at_mut(half)
    }
}
