//! A slice that the threads of a pool write to, each its own parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed out by promise instead of by borrow: outputs of several
/// threads interleave, which the borrow checker cannot follow.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    first: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which may go to another thread where `T` may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: shared use goes through `part`, whose contract forbids overlapping parts.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { first: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements at `range`.
    ///
    /// # Safety
    /// No part that is alive at the same time may overlap this one.
    ///
    /// # Panics
    /// If the range is not inside.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "outside of the slice");
        // SAFETY: the range is inside, the slice is borrowed mutably for `'a`, and the caller
        // promises that no other part overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }
}
