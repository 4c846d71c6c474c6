//! Counts the allocations of each thread, so that "allocates nothing" can be tested on the very library that runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a count: an addition to a word of the thread's own, which nothing waits for.
struct Counting;

fn add() {
    // A thread that is ending has no counter any more; what it allocates then is not counted.
    let _ = COUNT.try_with(|count| count.set(count.get().wrapping_add(1)));
}

// SAFETY: every method hands its arguments to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of the calling thread since it began.
pub fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

#[cfg(feature = "python")]
pub fn register(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    use pyo3::prelude::*;

    #[pyfunction(name = "allocations")]
    fn count() -> u64 {
        allocations()
    }
    module.add_function(wrap_pyfunction!(count, module)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_allocation_is_counted_and_nothing_else() {
        let before = super::allocations();
        let word = std::hint::black_box(7);
        assert_eq!(super::allocations(), before + word - 7);
        let boxed = std::hint::black_box(Box::new(1_u8));
        assert_eq!(super::allocations(), before + 1);
        drop(boxed);
        assert_eq!(super::allocations(), before + 1);
    }
}
