//! The stdio code's unsafe: registering descriptors with the reactor, and the descriptors a logger finds at 3, 4 and 5.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// Registers an owned descriptor with the reactor. epoll(7) refuses regular files with EPERM; the descriptor is then
/// in the error.
pub fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, AsyncFdRegisterError<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same description until it is dropped, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
}

/// Waits once until `fd`, which must not be registered already, can be written to.
pub async fn writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the borrow keeps the descriptor open for longer than this AsyncFd lives: it ends with this function.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?;
    registered.writable().await?.retain_ready();
    Ok(())
}

/// The first descriptor that a command may be given by [`pass`]: none of them then is one of its targets.
pub const FIRST_PASSED: RawFd = 6;

/// Lets `command` find `fds` at 3, 4 and 5. Each must have been duplicated to [`FIRST_PASSED`] or above, and the
/// caller keeps 3, 4 and 5 occupied, as the pipe by which std reports a failed execve must not be one of them.
pub fn pass(command: &mut Command, fds: [OwnedFd; 3]) {
    let install = move || {
        for (target, fd) in (3..).zip(&fds) {
            let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
            // SAFETY: dup2 touches no memory; `raw` is open as the closure owns it, and differs from `target`, so
            // that the duplicate has no CLOEXEC.
            if unsafe { libc::dup2(raw, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and execve the closure makes only dup2 calls: no heap, no locks.
    unsafe { command.pre_exec(install) };
}

/// What `poll(2)` says of a descriptor at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// There is something to read.
    Data,
    /// There is nothing to read and nobody left who could write.
    HungUp,
    /// There is nothing to read yet.
    No,
}

/// Asks whether `fd` can be read from, without waiting.
pub fn readable(fd: BorrowedFd<'_>) -> Result<Readable, Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default()))?;
    let events = fds[0].revents();
    Ok(if events.contains(PollFlags::IN) {
        Readable::Data
    } else if events.intersects(PollFlags::HUP | PollFlags::ERR) {
        Readable::HungUp
    } else {
        Readable::No
    })
}
