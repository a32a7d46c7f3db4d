//! The gate of a container that is created by one process and started by another: a listening socket in the directory of
//! its state.
//!
//! ```text
//! create: bind, listen ──clone──▶ child: … ready, accept ◀──connect, go── start
//!                                        execve ─────────── end of file ─▶
//! ```
//! Whoever comes through speaks the words of [`crate::channel`] in the creator's place. Only the owner of the directory
//! gets to the socket, and the child lets in only who has the same user as who made it. A visitor that leaves without
//! opening changes nothing: that is how a look from outside tells a container that waits from one that runs.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::channel::{Channel, receive_go, report_ready};
use crate::sys;

/// Those who look at the same time. Past this many, who looks next is told that somebody listens.
const BACKLOG: i32 = 16;

/// Binds and listens at an absolute path.
pub(crate) fn listen(path: &CStr) -> Result<OwnedFd, Errno> {
    let (_directory, address) = address(Path::new(OsStr::from_bytes(path.to_bytes())))?;
    let socket = socket(SocketFlags::CLOEXEC)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Goes to the gate; `None` if nobody waits there (any more).
pub(crate) fn visit(path: &Path) -> Result<Option<Channel>, Errno> {
    let (_directory, address) = address(path)?;
    let socket = socket(SocketFlags::CLOEXEC)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(Some(Channel::new(socket))),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether somebody waits at the gate.
pub(crate) fn is_manned(path: &Path) -> bool {
    let Ok((_directory, address)) = address(path) else { return false };
    let Ok(socket) = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return false };
    // A full queue has somebody who does not get to it: a container that was paused before it was started.
    matches!(rustix::net::connect(&socket, &address), Ok(()) | Err(Errno::AGAIN))
}

/// Child: ready; waits until somebody opens. With whom there is a channel of its own, and that is not under the number of
/// the creator's: a program's limit of open files holds already, and may be below it.
pub(crate) fn wait(listener: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    report_ready(channel)?;
    // As of listen(2), in the terms of the user namespace that we are in: so is the visitor's.
    let owner = sys::peer_user(listener)?;
    loop {
        let visitor = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            visitor => visitor?,
        };
        if sys::peer_user(visitor.as_fd())? != owner {
            continue;
        }
        if receive_go(visitor.as_fd())? {
            return Ok(visitor);
        }
    }
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// By a descriptor of the directory, which the address needs: a path of any length would not fit into one. unix(7)
fn address(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))?;
    Ok((directory, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_manned_as_long_as_somebody_listens() {
        // Longer than an address.
        let directory = std::env::temp_dir().join(format!("berth-gate-{}-{}", std::process::id(), "x".repeat(120)));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("gate");
        let c_path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        assert!(!is_manned(&path) && visit(&path).unwrap().is_none());
        let listener = listen(&c_path).unwrap();
        assert!(is_manned(&path) && visit(&path).unwrap().is_some());
        drop(listener);
        assert!(!is_manned(&path) && visit(&path).unwrap().is_none());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
