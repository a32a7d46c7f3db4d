//! The calls of the trials that rustix has not, or has as unsafe.
#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;

/// A mount namespace of our own. Called before there are threads.
pub fn unshare_mounts() {
    // SAFETY: descriptors and memory are not touched, and no other thread exists yet.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
}

/// While it lives, this process ignores SIGHUP, as one that nohup(1) started.
pub struct IgnoredHangup(libc::sighandler_t);

impl IgnoredHangup {
    pub fn new() -> Self {
        // SAFETY: SIG_IGN needs no handler.
        Self(unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) })
    }
}

impl Drop for IgnoredHangup {
    fn drop(&mut self) {
        // SAFETY: what signal(2) answered is what it takes.
        unsafe { libc::signal(libc::SIGHUP, self.0) };
    }
}
