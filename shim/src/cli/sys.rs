//! System calls that rustix lacks.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::thread::UnshareFlags;

/// Where [`note`] writes.
static NOTED: AtomicI32 = AtomicI32::new(-1);

/// Has every signal that can be handed on noted, and gives the pipe to read them from. Nothing is blocked: a hook would
/// inherit that, where a handler ends with execve. What is ignored stays so, and stopping is the terminal's business.
pub fn signals() -> Result<OwnedFd, Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    NOTED.store(write.into_raw_fd(), Ordering::Relaxed);
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
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !LEFT.contains(signal)) {
        // SAFETY: zeroed memory is a valid sigaction; the handler is safe to be called at any time. A signal that cannot be
        // caught is refused.
        unsafe {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction != libc::SIG_IGN {
                action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
    Ok(read)
}

/// Async-signal-safe: one write(2), and errno as it was. signal-safety(7)
extern "C" fn note(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: errno is thread-local; the byte outlives the call; a pipe that is full loses what has been noted often.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(NOTED.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// The next signal, if there is one.
pub fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut byte = [0];
    let read = rustix::io::read(signals, &mut byte);
    read.is_ok_and(|read| read == 1).then(|| byte[0].into())
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
