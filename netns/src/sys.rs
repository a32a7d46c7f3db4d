//! The system calls that rustix has not, or has as unsafe.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `NS_GET_NSTYPE` of linux/nsfs.h, `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Moves the calling thread into a new network namespace.
pub(crate) fn unshare_network() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWNET unshares neither descriptors nor memory, which is all that `unshare_unsafe` asks about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// The `CLONE_NEW*` constant of an open namespace.
pub(crate) fn namespace_type(namespace: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours; the descriptor is borrowed, thus open.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(kind)
}

/// Has a program die with the thread that starts it, and waits for it: whoever cleans up after us must not find it at
/// work. PR_SET_PDEATHSIG of prctl(2)
pub(crate) fn die_with_thread(command: &mut Command) {
    let die = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
    // SAFETY: between fork and execve the closure makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(die) };
}

/// Turns an option of SOL_NETLINK on.
pub(crate) fn enable_netlink_option(socket: &OwnedFd, option: i32) -> Result<(), Errno> {
    let one: i32 = 1;
    // SAFETY: the kernel reads four bytes of `one`, which outlives the call; the descriptor is borrowed, thus open.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, std::ptr::from_ref(&one).cast(), 4) };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Which of two a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    Parent,
    Child,
}

/// Copies this process, which has no thread but the calling one.
pub(crate) fn fork() -> Result<Forked, Errno> {
    // SAFETY: fork(2) takes no argument. With one thread, no lock of the copy's is held by a thread that it has not.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}
