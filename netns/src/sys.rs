//! The system calls that rustix has not, or has as unsafe.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
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
