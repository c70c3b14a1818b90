//! Memory for numbers that every step reads from end to end.
//!
//! Slices lie side by side in regions of many megabytes, for which the system is asked for large
//! pages: with small ones a processor spends a third of a decode step on finding out where they
//! are. A slice that is dropped leaves its place to the next one of its length.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

mod limits {
    /// Bytes of a region that grows no further.
    pub(super) const REGION_BYTES: usize = 64 << 20;
    /// Below this a region has ordinary pages: large ones would waste more than they hold.
    pub(super) const LARGE_PAGES_MIN_BYTES: usize = 4 << 20;
    /// A multiple of the pages that the system gives memory in, on every machine.
    pub(super) const SYSTEM_PAGE_BYTES: usize = 64 << 10;
}

/// What slices are aligned to: a cache line.
const ALIGNMENT: usize = 64;

/// Where slices come from.
#[derive(Debug)]
pub struct Arena {
    region: Option<Arc<Region>>,
    /// Bytes of the next region, if a slice does not need more.
    next_bytes: usize,
}

impl Arena {
    /// For what is held for long: large regions from the start. Memory that no slice has touched is
    /// not taken from the system.
    pub fn large() -> Self {
        Self { region: None, next_bytes: limits::REGION_BYTES }
    }

    /// For what grows: the first region is as large as the first slice, each next one twice as large
    /// as the one before.
    pub fn growing() -> Self {
        Self { region: None, next_bytes: 0 }
    }

    /// A slice of `len` times `value`.
    pub fn filled<T: Copy>(&mut self, len: usize, value: T) -> ArenaSlice<T> {
        let mut slice = self.take(len);
        slice.fill(MaybeUninit::new(value));
        // SAFETY: every number was just written.
        unsafe { slice.assume_init() }
    }

    /// A slice of the same numbers.
    fn copied<T: Copy>(&mut self, numbers: &[T]) -> ArenaSlice<T> {
        let mut slice = self.take(numbers.len());
        slice.write_copy_of_slice(numbers);
        // SAFETY: every number was just written.
        unsafe { slice.assume_init() }
    }

    /// A slice of `len` numbers that are not written yet.
    pub(crate) fn take<T: Copy>(&mut self, len: usize) -> ArenaSlice<MaybeUninit<T>> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let bytes = size_of::<T>()
            .checked_mul(len)
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(ALIGNMENT));
        let bytes = bytes.unwrap_or(usize::MAX);
        let held = self.region.as_ref().and_then(|region| Some((region, region.take(bytes)?)));
        let (region, at) = match held {
            Some((region, at)) => (Arc::clone(region), at),
            None => (self.add_region(bytes), 0),
        };
        // SAFETY: the place lies inside of the region.
        let first = unsafe { region.first.add(at) }.cast();
        ArenaSlice { first, len, at, bytes, region }
    }

    /// Lets go of the region that slices are taken from if it holds none. The next one is as large as
    /// what is `held` elsewhere, so that a growing sequence doubles.
    pub fn trim(&mut self, held_bytes: usize) {
        if self.region.as_ref().is_some_and(|region| Arc::strong_count(region) == 1) {
            self.region = None;
            self.next_bytes = held_bytes.min(limits::REGION_BYTES);
        }
    }

    /// A new region, `bytes` of which are taken.
    fn add_region(&mut self, bytes: usize) -> Arc<Region> {
        let region = Arc::new(Region::new(bytes.max(self.next_bytes), bytes));
        self.next_bytes = (2 * region.bytes).min(limits::REGION_BYTES);
        self.region = Some(Arc::clone(&region));
        region
    }
}

#[derive(Debug)]
struct Region {
    first: NonNull<u8>,
    bytes: usize,
    memory: Memory,
    places: Mutex<Places>,
}

#[derive(Debug)]
enum Memory {
    Small(Layout),
    /// Gives its pages back at its end, and those of places that are free.
    Large(MmapMut),
}

#[derive(Debug)]
struct Places {
    /// Behind it nothing was ever taken.
    end: usize,
    /// Offsets and lengths that were given back.
    free: Vec<(usize, usize)>,
}

// SAFETY: a region only says where memory lies; what happens there goes through slices, which do
// not overlap.
unsafe impl Send for Region {}
// SAFETY: as above; the list of places has its own lock.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize, taken: usize) -> Self {
        let (first, memory) = Self::small_or_large(bytes);
        Self { first, bytes, memory, places: Mutex::new(Places { end: taken, free: Vec::new() }) }
    }

    fn small_or_large(bytes: usize) -> (NonNull<u8>, Memory) {
        if bytes >= limits::LARGE_PAGES_MIN_BYTES
            && let Ok(mut map) = MmapMut::map_anon(bytes)
        {
            // Systems without large pages go on with small ones.
            #[cfg(target_os = "linux")]
            drop(map.advise(memmap2::Advice::HugePage));
            if let Some(first) = NonNull::new(map.as_mut_ptr()) {
                return (first, Memory::Large(map));
            }
        }
        let layout = Layout::from_size_align(bytes, ALIGNMENT).unwrap_or(Layout::new::<u8>());
        assert!(layout.size() == bytes, "more than memory can hold");
        // SAFETY: a slice has at least one line, so the layout is not empty.
        let first = NonNull::new(unsafe { alloc(layout) });
        (first.unwrap_or_else(|| handle_alloc_error(layout)), Memory::Small(layout))
    }

    fn take(&self, bytes: usize) -> Option<usize> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = places.free.iter().position(|(_, len)| *len == bytes) {
            return Some(places.free.swap_remove(found).0);
        }
        let at = places.end;
        let end = at.checked_add(bytes).filter(|end| *end <= self.bytes)?;
        places.end = end;
        Some(at)
    }

    /// What is free takes no memory of the system, but for its first and last page.
    fn give_back(&self, at: usize, bytes: usize) {
        #[cfg(target_os = "linux")]
        if let Memory::Large(map) = &self.memory {
            let start = at.next_multiple_of(limits::SYSTEM_PAGE_BYTES);
            let end = (at + bytes) / limits::SYSTEM_PAGE_BYTES * limits::SYSTEM_PAGE_BYTES;
            if start < end {
                // SAFETY: nobody reads the place before it is written again: it was its slice's own,
                // which is being dropped. Where the system refuses, the memory stays.
                drop(unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                });
            }
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.free.push((at, bytes));
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Memory::Small(layout) = self.memory {
            // SAFETY: allocated with this layout, and no slice is left.
            unsafe { dealloc(self.first.as_ptr(), layout) };
        }
    }
}

/// Numbers in an arena. It keeps the region alive, not the arena.
#[derive(Debug)]
pub struct ArenaSlice<T> {
    first: NonNull<T>,
    len: usize,
    at: usize,
    bytes: usize,
    region: Arc<Region>,
}

// SAFETY: it owns its numbers, as a box does.
unsafe impl<T: Send> Send for ArenaSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for ArenaSlice<T> {}

impl<T: Copy> ArenaSlice<MaybeUninit<T>> {
    /// # Safety
    /// Every number was written.
    pub(crate) unsafe fn assume_init(self) -> ArenaSlice<T> {
        let slice = std::mem::ManuallyDrop::new(self);
        let (first, len, at, bytes) = (slice.first.cast(), slice.len, slice.at, slice.bytes);
        // SAFETY: `slice` is not dropped, so this is a move.
        let region = unsafe { std::ptr::read(&raw const slice.region) };
        ArenaSlice { first, len, at, bytes, region }
    }
}

impl<T: Copy> Clone for ArenaSlice<T> {
    /// In a region of its own: it does not keep the other's memory.
    fn clone(&self) -> Self {
        Arena::growing().copied(self)
    }
}

impl<T> Deref for ArenaSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the place is this slice's own until it is dropped, and its numbers are written
        // unless their type says otherwise.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for ArenaSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for ArenaSlice<T> {
    fn drop(&mut self) {
        self.region.give_back(self.at, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_do_not_overlap_and_outlive_their_arena() {
        for mut arena in [Arena::large(), Arena::growing()] {
            let lengths = (0..40_u32).map(|index| (index, 1 + index as usize * 37_111 % 400_000));
            let slices: Vec<(u32, ArenaSlice<u32>)> =
                lengths.map(|(index, len)| (index, arena.filled(len, index))).collect();
            drop(arena);
            for (index, slice) in &slices {
                assert!(slice.iter().all(|value| value == index));
                assert!(slice.as_ptr().addr().is_multiple_of(ALIGNMENT));
            }
        }
    }

    #[test]
    fn a_place_that_is_given_back_is_taken_again() {
        let mut arena = Arena::growing();
        let held = arena.filled(1 << 20, 1_u8);
        let places: Vec<usize> =
            (0..1000).map(|_| arena.filled(1 << 20, 2_u8).as_ptr().addr()).collect();
        assert!(places.iter().all(|place| *place == places[0]));
        assert!(held.iter().all(|value| *value == 1));
    }

    #[test]
    fn regions_double_up_to_their_limit() {
        let mut arena = Arena::growing();
        let mut regions = Vec::new();
        let slices: Vec<ArenaSlice<u8>> = (0..300)
            .map(|_| {
                let slice = arena.filled(1 << 20, 0);
                regions.push(slice.region.bytes);
                slice
            })
            .collect();
        regions.dedup();
        let doubled: Vec<usize> = (0..7).map(|power| 1 << (20 + power)).collect();
        assert_eq!(regions[..7], doubled);
        assert!(regions[7..].iter().all(|bytes| *bytes == limits::REGION_BYTES));
        drop(slices);
    }

    #[test]
    fn a_region_goes_with_its_last_slice_once_it_is_trimmed() {
        let mut arena = Arena::growing();
        let (held, dropped) = (arena.filled(1 << 20, 1_u8), arena.filled(1 << 20, 2_u8));
        let region = Arc::downgrade(&dropped.region);
        arena.trim(0);
        assert!(region.upgrade().is_some(), "a slice is left");
        drop(dropped);
        assert!(region.upgrade().is_some());
        arena.trim(1 << 20);
        assert!(region.upgrade().is_none());
        assert_eq!(arena.filled(1, 0_u8).region.bytes, 1 << 20);
        assert_eq!(held.last(), Some(&1));
    }

    /// Mebibytes of the region that are in memory, as the system lists its pages.
    #[cfg(target_os = "linux")]
    fn resident_mib(region: &Region) -> usize {
        use std::os::unix::fs::FileExt;

        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let line = maps.lines().find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
        let kib: usize = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        let page_bytes = kib << 10;
        let (first, pages) = (region.first.addr().get() / page_bytes, region.bytes / page_bytes);
        let mut entries = vec![0; 8 * pages];
        let list = std::fs::File::open("/proc/self/pagemap").unwrap();
        list.read_exact_at(&mut entries, 8 * u64::try_from(first).unwrap()).unwrap();
        // The highest bit of a page's eight bytes says that it is there.
        let there = entries.as_chunks::<8>().0.iter().filter(|entry| entry[7] & 0x80 != 0);
        (there.count() * page_bytes) >> 20
    }

    /// Of this region alone: other tests run meanwhile.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_free_takes_no_memory_of_the_system() {
        let mut arena = Arena::large();
        let held = arena.filled(1 << 20, 1_u8);
        let slices: Vec<ArenaSlice<u8>> = (0..60).map(|_| arena.filled(1 << 20, 2)).collect();
        assert!(Arc::ptr_eq(&held.region, &slices[59].region));
        let full_mib = resident_mib(&held.region);
        drop(slices);
        let left_mib = resident_mib(&held.region);
        assert!(left_mib + 40 < full_mib, "{full_mib} MiB before, {left_mib} behind");
        assert!(held.iter().all(|value| *value == 1));
        assert!(arena.filled(1 << 20, 3_u8).iter().all(|value| *value == 3));
    }

    #[test]
    fn a_copy_has_memory_of_its_own() {
        let origin = Arena::growing().filled(9, 5_u16);
        let mut copy = origin.clone();
        copy[0] = 6;
        assert_eq!((origin[0], &copy[..2]), (5, &[6, 5][..]));
        assert!(!Arc::ptr_eq(&origin.region, &copy.region));
    }

    #[test]
    fn nothing_and_more_than_a_region_can_be_had() {
        let mut arena = Arena::large();
        assert!(arena.filled(0, 0_u8).is_empty());
        let large = arena.filled(limits::REGION_BYTES + 1, 7_u8);
        assert_eq!(large.last(), Some(&7));
    }
}
