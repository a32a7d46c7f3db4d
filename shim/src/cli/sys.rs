//! System calls that rustix lacks.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// Blocks every signal that can be handed on, and gives what they are read from: a signalfd(2). What is ignored stays so,
/// and stopping is the terminal's business. Whom we make unblocks them: a container's process, an exec, a hook.
pub fn signals() -> Result<OwnedFd, Errno> {
    const LEFT: [libc::c_int; 9] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    let ignored = runtime_core::host::ignored_signals();
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: zeroed memory is the empty set; it outlives the calls. A number that is libc's own is refused.
    let fd = unsafe {
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| !LEFT.contains(signal) && ignored >> (signal - 1) & 1 == 0)
        {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    // SAFETY: the kernel has made the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal, if there is one.
pub fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(signals, &mut info);
    // Its first field is the number.
    let number = info.first_chunk().map(|number| u32::from_ne_bytes(*number));
    number.filter(|_| read.is_ok_and(|read| read == info.len())).and_then(|number| i32::try_from(number).ok())
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
