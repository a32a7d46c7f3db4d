//! An allocator that refuses to serve the child of clone3, for debug builds.
//!
//! A thread that held the heap's lock at the clone is not there in the child to let go of it, so the child may not
//! allocate. With this as the global allocator, every test that starts a container is a test of that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Says that this process is the child of clone3, from here to execve.
pub(crate) fn enter_child() {
    IN_CHILD.store(true, Ordering::Relaxed);
}

/// The system's allocator, aborting where it is called in the child.
pub struct Guard;

impl Guard {
    fn check() {
        if IN_CHILD.load(Ordering::Relaxed) {
            let message = b"berth: the child of clone3 used the heap\n";
            // SAFETY: writes bytes that outlive the call to a descriptor; abort does not return.
            unsafe {
                libc::write(2, message.as_ptr().cast(), message.len());
                libc::abort();
            }
        }
    }
}

// SAFETY: every call is handed on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check();
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::check();
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}
