//! Counts what a test's own thread has allocated, so that a test can bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting.
struct Counting;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; the counters allocate nothing.
#[expect(unsafe_code, reason = "an allocator cannot be had without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let held = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    });
    if let Ok(held) = held {
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held)));
    }
}

/// Forgets the highest mark so far; gives what is held now.
pub(crate) fn start() -> isize {
    let held = HELD_BYTES.get();
    PEAK_BYTES.set(held);
    held
}

/// The most that this thread has held beyond what it held at `start`.
pub(crate) fn peak_since(start: isize) -> usize {
    usize::try_from(PEAK_BYTES.get() - start).unwrap_or(0)
}

#[test]
fn what_is_held_at_once_is_counted() {
    let before = start();
    drop(std::hint::black_box(vec![1_u8; 3_000_000]));
    drop(std::hint::black_box(vec![1_u8; 1_000_000]));
    let peak = peak_since(before);
    assert!((3_000_000..3_500_000).contains(&peak), "{peak}");
}
