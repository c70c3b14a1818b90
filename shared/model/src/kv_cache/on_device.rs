//! Pages of a cache that lies on a device: the same pages, as candle's tensors.
//!
//! A page is written in place, so it may have one owner only: one that a fork shares is copied
//! before it is written. Every operation can fail where the device's memory ends.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{KvShape, PAGE_TOKENS};
use crate::device::DevicePlace;

/// The pages of one sequence, in order.
#[derive(Debug, Clone)]
pub(crate) struct DevicePages {
    place: DevicePlace,
    shape: KvShape,
    pages: Vec<Arc<DevicePage>>,
}

/// All layers of [`PAGE_TOKENS`] tokens: `[layers · PAGE_TOKENS, keys then values of shape.width]`.
///
/// Not `Clone`: a tensor's clone would be the same memory.
#[derive(Debug)]
struct DevicePage {
    values: Tensor,
}

impl DevicePages {
    pub(super) fn new(shape: KvShape, place: DevicePlace) -> Self {
        Self { place, shape, pages: Vec::new() }
    }

    pub(super) fn place(&self) -> &DevicePlace {
        &self.place
    }

    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn bytes_per_token(&self) -> usize {
        self.shape.numbers_per_token() * self.place.dtype.size_in_bytes()
    }

    pub(super) fn truncate(&mut self, pages: usize) {
        self.pages.truncate(pages);
    }

    /// Makes every page from `first_page` to `pages` present and this sequence's own.
    pub(super) fn make_writable(&mut self, first_page: usize, pages: usize) -> Result<()> {
        for page in self.pages.iter_mut().skip(first_page) {
            if Arc::get_mut(page).is_none() {
                *page = Arc::new(DevicePage { values: page.values.copy()? });
            }
        }
        let rows = self.shape.layers * PAGE_TOKENS;
        while self.pages.len() < pages {
            let shape = (rows, 2 * self.shape.width);
            let values = Tensor::zeros(shape, self.place.dtype, &self.place.device)?;
            self.pages.push(Arc::new(DevicePage { values }));
        }
        Ok(())
    }

    /// Writes one layer's keys and values `[tokens, 2 · shape.width]` of the tokens from `position`.
    /// Their pages must be writable.
    pub(crate) fn write(&self, layer: usize, position: usize, keys_values: &Tensor) -> Result<()> {
        let tokens = keys_values.dim(0)?;
        let mut done = 0;
        while done < tokens {
            let at = position + done;
            let within = at % PAGE_TOKENS;
            let fitting = (tokens - done).min(PAGE_TOKENS - within);
            let page = &self.page(at / PAGE_TOKENS)?.values;
            let part = keys_values.narrow(0, done, fitting)?;
            page.slice_set(&part, 0, layer * PAGE_TOKENS + within)?;
            done += fitting;
        }
        Ok(())
    }

    /// One layer's keys and values of the first `tokens` tokens: `[tokens, 2 · shape.width]`.
    pub(crate) fn read(&self, layer: usize, tokens: usize) -> Result<Tensor> {
        let part = |page: usize| {
            let held = PAGE_TOKENS.min(tokens - page * PAGE_TOKENS);
            self.page(page)?.values.narrow(0, layer * PAGE_TOKENS, held)
        };
        let parts: Vec<Tensor> =
            (0..tokens.div_ceil(PAGE_TOKENS)).map(part).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0)
    }

    fn page(&self, index: usize) -> Result<&DevicePage> {
        let page = self.pages.get(index).map(AsRef::as_ref);
        page.ok_or_else(|| candle_core::Error::Msg(format!("page {index} was not appended")))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::kv_cache::KvCache;

    const SHAPE: KvShape = KvShape { layers: 2, width: 3 };

    fn empty() -> KvCache {
        KvCache::on_device(SHAPE, DevicePlace { device: Device::Cpu, dtype: DType::F32 })
    }

    fn push(cache: &mut KvCache, values: &[f32]) {
        let position = cache.len_tokens();
        cache.append_on_device(values.len()).unwrap();
        for layer in 0_u8..2 {
            let numbers = values.iter().flat_map(|value| [value + f32::from(layer) * 0.5; 6]);
            let shape = (values.len(), 6);
            let tensor = Tensor::from_vec(numbers.collect(), shape, &Device::Cpu).unwrap();
            cache.device_pages().unwrap().write(usize::from(layer), position, &tensor).unwrap();
        }
    }

    fn content(cache: &KvCache) -> Vec<f32> {
        if cache.is_empty() {
            return Vec::new();
        }
        let layers = [0, 1].map(|layer| {
            let pages = cache.device_pages().unwrap();
            let read: Vec<Vec<f32>> =
                pages.read(layer, cache.len_tokens()).unwrap().to_vec2().unwrap();
            assert!(read.iter().all(|numbers| numbers.len() == 6));
            read.into_iter().map(|numbers| numbers[5]).collect::<Vec<f32>>()
        });
        let of_second: Vec<f32> = layers[0].iter().map(|value| value + 0.5).collect();
        assert_eq!(layers[1], of_second);
        layers[0].clone()
    }

    fn numbers(len: u8) -> Vec<f32> {
        (0..len).map(f32::from).collect()
    }

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other() {
        for len in [0_u8, 1, 31, 32, 33, 64, 70] {
            let mut origin = empty();
            push(&mut origin, &numbers(len));
            let mut fork = origin.fork();
            push(&mut origin, &[1000.0]);
            push(&mut fork, &[2000.0, 2001.0]);
            assert_eq!(content(&origin), [numbers(len), vec![1000.0]].concat());
            assert_eq!(content(&fork), [numbers(len), vec![2000.0, 2001.0]].concat());
        }
    }

    #[test]
    fn a_cut_is_exact_and_gives_pages_back() {
        for (len, cut) in [(70_u8, 0), (70, 1), (70, 32), (70, 33), (70, 70), (70, 99), (0, 5)] {
            let mut cache = empty();
            push(&mut cache, &numbers(len));
            cache.truncate(cut);
            let expected: Vec<f32> = numbers(len).into_iter().take(cut).collect();
            assert_eq!(content(&cache), expected);
            let pages = expected.len().div_ceil(PAGE_TOKENS);
            assert_eq!(cache.bytes(), pages * PAGE_TOKENS * 2 * 3 * 2 * 4);
            push(&mut cache, &[7.0, 8.0]);
            assert_eq!(content(&cache), [expected, vec![7.0, 8.0]].concat());
        }
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_writes() {
        let mut origin = empty();
        push(&mut origin, &numbers(70));
        let mut fork = origin.fork();
        push(&mut fork, &[1.0]);
        let (origin, fork) = (origin.device_pages().unwrap(), fork.device_pages().unwrap());
        let shared = origin.pages.iter().zip(&fork.pages).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), 2);
    }
}
