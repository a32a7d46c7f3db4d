//! The calls of the trials that rustix has not, or has as unsafe.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

/// A mount namespace of our own. Called before there are threads.
pub fn unshare_mounts() {
    // SAFETY: descriptors and memory are not touched, and no other thread exists yet.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
}

/// A network namespace of this thread's own.
pub fn unshare_network() {
    // SAFETY: descriptors and memory are not touched.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
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

/// Takes one notification of a seccomp listener and answers it with an error. seccomp_unotify(2)
pub fn refuse_notified_call(listener: BorrowedFd<'_>, errno: i32) {
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    #[repr(C)]
    struct Answer {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    // `struct seccomp_notif`: the id is its first word.
    let mut notification = [0_u64; 10];
    // SAFETY: the kernel writes the 80 bytes that the request's number says.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, notification.as_mut_ptr()) };
    let answer = Answer { id: notification[0], value: 0, error: -errno, flags: 0 };
    if received == 0 {
        // SAFETY: the kernel reads the 24 bytes that the request's number says. A caller that is gone needs no answer.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer) };
    }
}
