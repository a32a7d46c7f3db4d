//! What the C library has and rustix has not. The only `unsafe` of the shim stands here and in `stdio/sys.rs`.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a duplicate of a descriptor with the event loop, for reading.
pub fn watch(fd: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    // SAFETY: an OwnedFd is open and stays the same description until it is dropped, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Makes all threads share one heap: glibc gives each thread one of its own, whose pages stay when the thread goes.
pub fn keep_one_heap() {
    // SAFETY: changes two parameters of malloc; it runs before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the heap's free pages back to the kernel. Takes some ten microseconds on a heap as small as ours.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes the heap's own lock and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes back what a parent ignored for us: a containerd under nohup ignores SIGHUP, and every container would too.
pub fn ignore_no_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // Rust ignores SIGPIPE for itself; the child of clone3 takes that back.
        if signal == libc::SIGPIPE {
            continue;
        }
        // SAFETY: zeroed memory is a valid sigaction; the first call only asks, the second installs no handler.
        unsafe {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
            if libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
            {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}
