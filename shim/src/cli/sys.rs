//! System calls that rustix lacks.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// Blocks every signal and gives a descriptor to read them from. signalfd(2)
pub fn signals() -> Result<OwnedFd, Errno> {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is zeroed memory of the right type, which is a valid sigset_t, and outlives the calls; signalfd makes
    // a new descriptor, which nobody else owns.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
        match libc::signalfd(-1, all.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(errno()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// The next signal, if there is one.
pub fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes to `info`, and zeroed memory is a valid signalfd_siginfo.
    unsafe {
        let read = libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast(), size);
        (usize::try_from(read) == Ok(size)).then(|| info.assume_init().ssi_signo.cast_signed())
    }
}

/// A descriptor that our parent left open for us: what we have opened ourselves closes on exec.
pub fn inherited(number: i32) -> Option<BorrowedFd<'static>> {
    // SAFETY: F_GETFD takes no argument; a number that is no descriptor is refused, by -1, which has every flag.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } & libc::FD_CLOEXEC == 0;
    // SAFETY: it is open, and nobody in this process closes what it did not open.
    open.then(|| unsafe { BorrowedFd::borrow_raw(number) })
}

/// unshare(2) of namespaces.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: descriptors, which are what somebody could rely upon, stay shared with nobody but us.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

fn errno() -> Errno {
    // SAFETY: __errno_location returns the address of a thread-local int that lives as long as the thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
